// SPDX-License-Identifier: MIT
// Rival with NEON on arm64: dense popcounts of bytes (vcnt), eight outputs by four steps at a time.

#ifndef BST_TESTS_BENCH_RIVAL_NEON_H_
#define BST_TESTS_BENCH_RIVAL_NEON_H_

#include "rival_words.h"

#if defined(__aarch64__)

#include <arm_neon.h>

/// One bit per lane of a mask.
static inline uint32_t rival_bits8(uint16x8_t mask) {
  static const uint16_t weights[8] = {1, 2, 4, 8, 16, 32, 64, 128};
  return vaddvq_u16(vandq_u16(mask, vld1q_u16(weights)));
}

static inline uint32_t rival_bits4(uint32x4_t mask) {
  static const uint32_t weights[4] = {1, 2, 4, 8};
  return vaddvq_u32(vandq_u32(mask, vld1q_u32(weights)));
}

#define FIRE_NAME rival_fire16_neon
#define FIRE_TARGET
#define FIRE_ITEM int16_t
#define FIRE_V int16x8_t
#define FIRE_LANES 8
#define FIRE_M uint16x8_t
#define FIRE_LOAD(p) vld1q_s16(p)
#define FIRE_LOAD_N(p) vld1q_s16(p)
#define FIRE_ZERO vdupq_n_s16(0)
#define FIRE_ADD(a, b) vaddq_s16((a), (b))
#define FIRE_UP(a, n) vshlq_s16((a), vdupq_n_s16((int16_t)(n)))
#define FIRE_GE(a, b) vcgeq_s16((a), (b))
#define FIRE_PICK(m, yes, no) vbslq_s16((m), (yes), (no))
#define FIRE_CLEAR(m, a) vbicq_s16((a), vreinterpretq_s16_u16(m))
#define FIRE_BITS(m) rival_bits8(m)
#include "rival_fire.h"

#define FIRE_NAME rival_fire32_neon
#define FIRE_TARGET
#define FIRE_ITEM int32_t
#define FIRE_V int32x4_t
#define FIRE_LANES 4
#define FIRE_M uint32x4_t
#define FIRE_LOAD(p) vld1q_s32(p)
#define FIRE_LOAD_N(p) vmovl_s16(vld1_s16(p))
#define FIRE_ZERO vdupq_n_s32(0)
#define FIRE_ADD(a, b) vaddq_s32((a), (b))
#define FIRE_UP(a, n) vshlq_s32((a), vdupq_n_s32(n))
#define FIRE_GE(a, b) vcgeq_s32((a), (b))
#define FIRE_PICK(m, yes, no) vbslq_s32((m), (yes), (no))
#define FIRE_CLEAR(m, a) vbicq_s32((a), vreinterpretq_s32_u32(m))
#define FIRE_BITS(m) rival_bits4(m)
#include "rival_fire.h"

/// Groups of 8 outputs: [n_out / 8][row_words][8].
static inline void rival_neon_prepare(const layer* l, rival_state* state) {
  rival_prepare_words(l, 8, false, state);
}

static inline uint8x16_t rival_load_words(const uint64_t* words) {
  return vreinterpretq_u8_u64(vld1q_u64(words));
}

/// Population counts of 8 words of weights AND the row of each step.
static inline void rival_neon_group(const uint64_t* weights, size_t n_words, const uint64_t* row,
                                    size_t step_words, uint16x8_t* sums) {
  enum { CHUNK = 7 };  // four bytes of up to 8 per word are added before they widen
  for (int t = 0; t < LAYER_STEPS; ++t) sums[t] = vdupq_n_u16(0);
  for (size_t k = 0; k < n_words;) {
    const size_t end = k + CHUNK < n_words ? k + CHUNK : n_words;
    uint8x16_t bytes[LAYER_STEPS][4];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) bytes[i / 4][i % 4] = vdupq_n_u8(0);
    for (; k < end; ++k) {
      uint8x16_t w[4];
#pragma GCC unroll 4
      for (size_t q = 0; q < 4; ++q) w[q] = rival_load_words(weights + 8 * k + 2 * q);
#pragma GCC unroll 4
      for (size_t t = 0; t < LAYER_STEPS; ++t) {
        const uint8x16_t x = vreinterpretq_u8_u64(vld1q_dup_u64(row + t * step_words + k));
#pragma GCC unroll 4
        for (size_t q = 0; q < 4; ++q) {
          bytes[t][q] = vaddq_u8(bytes[t][q], vcntq_u8(vandq_u8(w[q], x)));
        }
      }
    }
#pragma GCC unroll 4
    for (int t = 0; t < LAYER_STEPS; ++t) {
      const uint8x16_t low = vpaddq_u8(bytes[t][0], bytes[t][1]);
      const uint8x16_t high = vpaddq_u8(bytes[t][2], bytes[t][3]);
      sums[t] = vpadalq_u8(sums[t], vpaddq_u8(low, high));
    }
  }
}

BENCH_NOINLINE static void rival_neon_run(const layer* l, const rival_state* state, uint64_t* out) {
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
      for (size_t g = 0; g < 8; ++g) {
        uint16x8_t sums[LAYER_STEPS];
        rival_neon_group(weights + g * 8 * n_words, n_words, row, rows.step_words, sums);
        for (int t = 0; t < LAYER_STEPS; ++t) {
          const int16x8_t twice = vreinterpretq_s16_u16(vshlq_n_u16(sums[t], 1));
          vst1q_s16(n[t] + 8 * g, vsubq_s16(twice, vdupq_n_s16(active[t])));
        }
      }
      if (wide) {
        rival_fire32_neon(n[0], l->theta32 + theta, word, out_step);
      } else {
        rival_fire16_neon(n[0], l->theta16 + theta, word, out_step);
      }
    }
  }
}

#endif  // __aarch64__
#endif  // BST_TESTS_BENCH_RIVAL_NEON_H_
