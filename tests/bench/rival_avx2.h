// SPDX-License-Identifier: MIT
// Rival with AVX2: dense popcounts by a table of nibbles (vpshufb), four steps at a time, counted
// in bytes and summed by vpsadbw; four sums are put beside each other as 16-bit fields.

#ifndef BST_TESTS_BENCH_RIVAL_AVX2_H_
#define BST_TESTS_BENCH_RIVAL_AVX2_H_

#include "rival_words.h"

#if defined(__x86_64__)

AVX2_TARGET static inline __m256i rival_load256(const void* p) {
  return _mm256_loadu_si256((const __m256i*)p);
}

/// One bit per int16 lane of a mask.
AVX2_TARGET static inline uint32_t rival_bits16(__m256i mask) {
  const __m128i low = _mm256_castsi256_si128(mask), high = _mm256_extracti128_si256(mask, 1);
  return (uint32_t)_mm_movemask_epi8(_mm_packs_epi16(low, high));
}

#define FIRE_NAME rival_fire16_avx2
#define FIRE_TARGET AVX2_TARGET
#define FIRE_ITEM int16_t
#define FIRE_V __m256i
#define FIRE_LANES 16
#define FIRE_M __m256i
#define FIRE_LOAD(p) rival_load256(p)
#define FIRE_LOAD_N(p) rival_load256(p)
#define FIRE_ZERO _mm256_setzero_si256()
#define FIRE_ADD(a, b) _mm256_add_epi16((a), (b))
#define FIRE_UP(a, n) _mm256_slli_epi16((a), (n))
#define FIRE_GE(a, b) _mm256_xor_si256(_mm256_cmpgt_epi16((b), (a)), _mm256_set1_epi8(-1))
#define FIRE_PICK(m, yes, no) _mm256_blendv_epi8((no), (yes), (m))
#define FIRE_CLEAR(m, a) _mm256_andnot_si256((m), (a))
#define FIRE_BITS(m) rival_bits16(m)
#include "rival_fire.h"

#define FIRE_NAME rival_fire32_avx2
#define FIRE_TARGET AVX2_TARGET
#define FIRE_ITEM int32_t
#define FIRE_V __m256i
#define FIRE_LANES 8
#define FIRE_M __m256i
#define FIRE_LOAD(p) rival_load256(p)
#define FIRE_LOAD_N(p) _mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i*)(const void*)(p)))
#define FIRE_ZERO _mm256_setzero_si256()
#define FIRE_ADD(a, b) _mm256_add_epi32((a), (b))
#define FIRE_UP(a, n) _mm256_slli_epi32((a), (n))
#define FIRE_GE(a, b) _mm256_xor_si256(_mm256_cmpgt_epi32((b), (a)), _mm256_set1_epi8(-1))
#define FIRE_PICK(m, yes, no) _mm256_blendv_epi8((no), (yes), (m))
#define FIRE_CLEAR(m, a) _mm256_andnot_si256((m), (a))
#define FIRE_BITS(m) (uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(m))
#include "rival_fire.h"

static inline void rival_avx2_prepare(const layer* l, rival_state* state) {
  rival_prepare_words(l, 4, true, state);
}

/// Population counts of 4 words of weights AND the row of each step.
/// @param weights [n_words][4], @param sums out: [T] 4 x u64
AVX2_TARGET static inline void rival_avx2_group(const uint64_t* weights, size_t n_words,
                                                const uint64_t* row, size_t step_words,
                                                __m256i* sums) {
  enum { CHUNK = 31 };  // bytes count up to 8 per word
  const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,  //
                                         0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
  const __m256i nibble = _mm256_set1_epi8(15), zero = _mm256_setzero_si256();
  for (int t = 0; t < LAYER_STEPS; ++t) sums[t] = zero;
  for (size_t k = 0; k < n_words;) {
    const size_t end = k + CHUNK < n_words ? k + CHUNK : n_words;
    __m256i bytes[LAYER_STEPS] = {zero, zero, zero, zero};
    for (; k < end; ++k) {
      const __m256i w = rival_load256(weights + 4 * k);
#pragma GCC unroll 4
      for (size_t t = 0; t < LAYER_STEPS; ++t) {
        const __m256i both =
            _mm256_and_si256(w, _mm256_set1_epi64x((long long)row[t * step_words + k]));
        const __m256i low = _mm256_and_si256(both, nibble);
        const __m256i high = _mm256_and_si256(_mm256_srli_epi16(both, 4), nibble);
        const __m256i count =
            _mm256_add_epi8(_mm256_shuffle_epi8(table, low), _mm256_shuffle_epi8(table, high));
        bytes[t] = _mm256_add_epi8(bytes[t], count);
      }
    }
    for (int t = 0; t < LAYER_STEPS; ++t) {
      sums[t] = _mm256_add_epi64(sums[t], _mm256_sad_epu8(bytes[t], zero));
    }
  }
}

AVX2_TARGET BENCH_NOINLINE static void rival_avx2_run(const layer* l, const rival_state* state,
                                                      uint64_t* out) {
  const rival_rows rows = rival_gather(l, state);
  const size_t n_words = l->row_words, out_step = l->n_pixels * l->out_words;
  const bool wide = layer_is_wide(l);
  rival_count_active(l, &rows, state->n_active);
  for (size_t block = 0; block < l->out_words; ++block) {
    const uint64_t* const weights = (const uint64_t*)state->weights + block * 64 * n_words;
    const size_t theta = block * 64 * LAYER_THETA_ROWS;
    for (size_t p = 0; p < l->n_pixels; ++p) {
      const uint64_t* const row = rows.first + p * rows.pixel_words;
      const int16_t* const active = state->n_active + p * LAYER_STEPS;
      uint64_t* const word = out + p * l->out_words + block;
      int16_t n[LAYER_STEPS][64];
      for (size_t g = 0; g < 16; g += 4) {
        __m256i sums[4][LAYER_STEPS];
        for (size_t i = 0; i < 4; ++i) {
          rival_avx2_group(weights + (g + i) * n_words * 4, n_words, row, rows.step_words, sums[i]);
        }
        for (int t = 0; t < LAYER_STEPS; ++t) {
          const __m256i low = _mm256_or_si256(sums[0][t], _mm256_slli_epi64(sums[1][t], 16));
          const __m256i high =
              _mm256_or_si256(_mm256_slli_epi64(sums[2][t], 32), _mm256_slli_epi64(sums[3][t], 48));
          const __m256i count = _mm256_or_si256(low, high);
          const __m256i twice = _mm256_add_epi16(count, count);
          _mm256_storeu_si256((__m256i*)(void*)(n[t] + 4 * g),
                              _mm256_sub_epi16(twice, _mm256_set1_epi16(active[t])));
        }
      }
      if (wide) {
        rival_fire32_avx2(n[0], l->theta32 + theta, word, out_step);
      } else {
        rival_fire16_avx2(n[0], l->theta16 + theta, word, out_step);
      }
    }
  }
}

#endif  // __x86_64__
#endif  // BST_TESTS_BENCH_RIVAL_AVX2_H_
