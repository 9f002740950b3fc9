// SPDX-License-Identifier: MIT
// Rivals with AVX-512: dense popcounts (VPOPCNTQ), 16 outputs by 4 steps at a time, and int8
// multiplication (VNNI), 64 outputs by 4 steps at a time, weights -1 and 1, spikes bytes 0 and 1.

#ifndef BST_TESTS_BENCH_RIVAL_AVX512_H_
#define BST_TESTS_BENCH_RIVAL_AVX512_H_

#include "rival_words.h"

#if defined(__x86_64__)

#define FIRE_NAME rival_fire16_avx512
#define FIRE_TARGET AVX512_TARGET
#define FIRE_ITEM int16_t
#define FIRE_V __m512i
#define FIRE_LANES 32
#define FIRE_M __mmask32
#define FIRE_LOAD(p) _mm512_loadu_si512(p)
#define FIRE_LOAD_N(p) _mm512_loadu_si512(p)
#define FIRE_ZERO _mm512_setzero_si512()
#define FIRE_ADD(a, b) _mm512_add_epi16((a), (b))
#define FIRE_UP(a, n) _mm512_slli_epi16((a), (n))
#define FIRE_GE(a, b) _mm512_cmpge_epi16_mask((a), (b))
#define FIRE_PICK(m, yes, no) _mm512_mask_mov_epi16((no), (m), (yes))
#define FIRE_CLEAR(m, a) _mm512_maskz_mov_epi16((__mmask32) ~(m), (a))
#define FIRE_BITS(m) (uint32_t)(m)
#include "rival_fire.h"

#define FIRE_NAME rival_fire32_avx512
#define FIRE_TARGET AVX512_TARGET
#define FIRE_ITEM int32_t
#define FIRE_V __m512i
#define FIRE_LANES 16
#define FIRE_M __mmask16
#define FIRE_LOAD(p) _mm512_loadu_si512(p)
#define FIRE_LOAD_N(p) _mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i*)(const void*)(p)))
#define FIRE_ZERO _mm512_setzero_si512()
#define FIRE_ADD(a, b) _mm512_add_epi32((a), (b))
#define FIRE_UP(a, n) _mm512_slli_epi32((a), (unsigned)(n))
#define FIRE_GE(a, b) _mm512_cmpge_epi32_mask((a), (b))
#define FIRE_PICK(m, yes, no) _mm512_mask_mov_epi32((no), (m), (yes))
#define FIRE_CLEAR(m, a) _mm512_maskz_mov_epi32((__mmask16) ~(m), (a))
#define FIRE_BITS(m) (uint32_t)(m)
#include "rival_fire.h"

/// The neuron on 64 outputs. @param n [T][64]
AVX512_TARGET static inline void rival_fire_avx512(const layer* l, size_t block, const int16_t* n,
                                                   uint64_t* out) {
  const size_t theta = block * 64 * LAYER_THETA_ROWS, out_step = l->n_pixels * l->out_words;
  if (layer_is_wide(l)) {
    rival_fire32_avx512(n, l->theta32 + theta, out, out_step);
  } else {
    rival_fire16_avx512(n, l->theta16 + theta, out, out_step);
  }
}

static inline void rival_avx512_prepare(const layer* l, rival_state* state) {
  rival_prepare_words(l, 8, true, state);
}

/// Population counts of 2 x 8 words of weights AND the row of each step.
/// @param weights two groups of [n_words][8], @param sums out: [2][T] 8 x u64
AVX512_TARGET static inline void rival_avx512_groups(const uint64_t* weights, size_t n_words,
                                                     const uint64_t* row, size_t step_words,
                                                     __m512i (*sums)[LAYER_STEPS]) {
  const uint64_t* const more = weights + 8 * n_words;
  __m512i a[LAYER_STEPS], b[LAYER_STEPS];
#pragma GCC unroll 4
  for (int t = 0; t < LAYER_STEPS; ++t) a[t] = b[t] = _mm512_setzero_si512();
  for (size_t k = 0; k < n_words; ++k) {
    const __m512i w = _mm512_loadu_si512(weights + 8 * k), v = _mm512_loadu_si512(more + 8 * k);
#pragma GCC unroll 4
    for (size_t t = 0; t < LAYER_STEPS; ++t) {
      const __m512i x = _mm512_set1_epi64((long long)row[t * step_words + k]);
      a[t] = _mm512_add_epi64(a[t], _mm512_popcnt_epi64(_mm512_and_si512(w, x)));
      b[t] = _mm512_add_epi64(b[t], _mm512_popcnt_epi64(_mm512_and_si512(v, x)));
    }
  }
#pragma GCC unroll 4
  for (int t = 0; t < LAYER_STEPS; ++t) {
    sums[0][t] = a[t];
    sums[1][t] = b[t];
  }
}

AVX512_TARGET BENCH_NOINLINE static void rival_avx512_run(const layer* l, const rival_state* state,
                                                          uint64_t* out) {
  const rival_rows rows = rival_gather(l, state);
  const size_t n_words = l->row_words;
  rival_count_active(l, &rows, state->n_active);
  for (size_t block = 0; block < l->out_words; ++block) {
    const uint64_t* const weights = (const uint64_t*)state->weights + block * 64 * n_words;
    for (size_t p = 0; p < l->n_pixels; ++p) {
      const uint64_t* const row = rows.first + p * rows.pixel_words;
      const int16_t* const active = state->n_active + p * LAYER_STEPS;
      int16_t n[LAYER_STEPS][64];
      for (size_t g = 0; g < 8; g += 4) {
        __m512i sums[4][LAYER_STEPS];
        const uint64_t* const w = weights + g * 8 * n_words;
        rival_avx512_groups(w, n_words, row, rows.step_words, sums);
        rival_avx512_groups(w + 16 * n_words, n_words, row, rows.step_words, sums + 2);
#pragma GCC unroll 4
        for (int t = 0; t < LAYER_STEPS; ++t) {
          const __m512i low = _mm512_or_si512(sums[0][t], _mm512_slli_epi64(sums[1][t], 16));
          const __m512i high =
              _mm512_or_si512(_mm512_slli_epi64(sums[2][t], 32), _mm512_slli_epi64(sums[3][t], 48));
          const __m512i count = _mm512_or_si512(low, high);
          const __m512i twice = _mm512_add_epi16(count, count);
          _mm512_storeu_si512(n[t] + 8 * g, _mm512_sub_epi16(twice, _mm512_set1_epi16(active[t])));
        }
      }
      rival_fire_avx512(l, block, n[0], out + p * l->out_words + block);
    }
  }
}

/// Channel of column j (0..15) of vector v (0..3) of 64 outputs: two vectors of int32 that are
/// packed to int16 are then in natural order.
static inline size_t rival_int8_channel(size_t v, size_t j) {
  return v / 2 * 32 + j / 4 * 8 + v % 2 * 4 + j % 4;
}

/// Weights int8 [n_out / 64][row_words * 16][4 vectors][16 columns][4 inputs], 0 beyond fan_in.
static inline void rival_vnni_prepare(const layer* l, rival_state* state) {
  const size_t n_in = l->row_words * 64;
  rival_prepare_rows(l, state);
  int8_t* to = bench_allocate(l->out_words * 64 * n_in);
  state->weights = to;
  state->bytes = bench_allocate(l->n_pixels * LAYER_STEPS * n_in);
  for (size_t block = 0; block < l->out_words; ++block) {
    for (size_t k = 0; k < n_in; k += 4) {
      for (size_t column = 0; column < 64; ++column) {
        const size_t o = 64 * block + rival_int8_channel(column / 16, column % 16);
        for (size_t i = k; i < k + 4; ++i) {
          const bool plus = (l->sign[o * l->row_words + i / 64] >> (i % 64) & 1) != 0;
          *to++ = i < (size_t)l->fan_in ? (plus ? 1 : -1) : 0;
        }
      }
    }
  }
}

/// Rows of bits to rows of bytes 0 and 1: [n_pixels][T][row_words * 64].
AVX512_TARGET static inline void rival_unpack_bytes(const layer* l, const rival_rows* rows,
                                                    uint8_t* bytes) {
  for (size_t p = 0; p < l->n_pixels; ++p) {
    for (size_t t = 0; t < LAYER_STEPS; ++t) {
      const uint64_t* const row = rows->first + p * rows->pixel_words + t * rows->step_words;
      for (size_t k = 0; k < l->row_words; ++k, bytes += 64) {
        _mm512_storeu_si512(bytes, _mm512_maskz_set1_epi8((__mmask64)row[k], 1));
      }
    }
  }
}

/// 64 sums of int32, columns of rival_int8_channel, to int16 in natural order.
AVX512_TARGET static inline void rival_pack_sums(const __m512i* sums, int16_t* n) {
  _mm512_storeu_si512(n, _mm512_packs_epi32(sums[0], sums[1]));
  _mm512_storeu_si512(n + 32, _mm512_packs_epi32(sums[2], sums[3]));
}

AVX512_TARGET BENCH_NOINLINE static void rival_vnni_run(const layer* l, const rival_state* state,
                                                        uint64_t* out) {
  const rival_rows rows = rival_gather(l, state);
  const size_t n_in = l->row_words * 64;
  rival_unpack_bytes(l, &rows, state->bytes);
  for (size_t block = 0; block < l->out_words; ++block) {
    const int8_t* const weights = (const int8_t*)state->weights + block * 64 * n_in;
    for (size_t p = 0; p < l->n_pixels; ++p) {
      const uint8_t* const bytes = state->bytes + p * LAYER_STEPS * n_in;
      const int8_t* w = weights;
      int16_t n[LAYER_STEPS][64];
      __m512i sums[LAYER_STEPS][4];
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) sums[i / 4][i % 4] = _mm512_setzero_si512();
      for (size_t k = 0; k < n_in; k += 4, w += 256) {
        const __m512i w0 = _mm512_loadu_si512(w), w1 = _mm512_loadu_si512(w + 64);
        const __m512i w2 = _mm512_loadu_si512(w + 128), w3 = _mm512_loadu_si512(w + 192);
#pragma GCC unroll 4
        for (size_t t = 0; t < LAYER_STEPS; ++t) {
          int32_t four;
          memcpy(&four, bytes + t * n_in + k, 4);
          const __m512i x = _mm512_set1_epi32(four);
          sums[t][0] = _mm512_dpbusd_epi32(sums[t][0], x, w0);
          sums[t][1] = _mm512_dpbusd_epi32(sums[t][1], x, w1);
          sums[t][2] = _mm512_dpbusd_epi32(sums[t][2], x, w2);
          sums[t][3] = _mm512_dpbusd_epi32(sums[t][3], x, w3);
        }
      }
#pragma GCC unroll 4
      for (int t = 0; t < LAYER_STEPS; ++t) rival_pack_sums(sums[t], n[t]);
      rival_fire_avx512(l, block, n[0], out + p * l->out_words + block);
    }
  }
}

#endif  // __x86_64__
#endif  // BST_TESTS_BENCH_RIVAL_AVX512_H_
