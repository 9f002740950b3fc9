// SPDX-License-Identifier: MIT
// Rival for every machine: AND and population count of 64-bit words, four steps by four outputs.

#ifndef BST_TESTS_BENCH_RIVAL_WORDS_H_
#define BST_TESTS_BENCH_RIVAL_WORDS_H_

#include "rivals.h"

/// S of every row.
WORDS_TARGET static inline void rival_count_active(const layer* l, const rival_rows* rows,
                                                   int16_t* n_active) {
  for (size_t p = 0; p < l->n_pixels; ++p) {
    for (size_t t = 0; t < LAYER_STEPS; ++t) {
      const uint64_t* const row = rows->first + p * rows->pixel_words + t * rows->step_words;
      int n = 0;
      for (size_t k = 0; k < l->row_words; ++k) n += __builtin_popcountll(row[k]);
      n_active[p * LAYER_STEPS + t] = (int16_t)n;
    }
  }
}

/// 64 bytes 0 and 1 to a word.
static inline uint64_t rival_pack_bytes(const uint8_t* bytes) {
  uint64_t word = 0;
  for (int i = 0; i < 8; ++i) {
    uint64_t eight;
    memcpy(&eight, bytes + 8 * i, 8);
    word |= (eight * UINT64_C(0x0102040810204080)) >> 56 << (8 * i);
  }
  return word;
}

/// The neuron with masks and without branches: what a compiler vectorises for any machine.
/// @param n [T][64], @param theta [T(T+1)/2][64]
static inline void rival_fire_words(const int16_t* n, const int32_t* theta, uint64_t* out,
                                    size_t out_step) {
  int32_t potential[64] = {0}, fired[LAYER_STEPS][64];
  for (int t = 0; t < LAYER_STEPS; ++t, n += 64, out += out_step) {
    int32_t threshold[64];
    uint8_t spike[64];
    memcpy(threshold, theta, sizeof threshold);
    for (int s = 0; s < t; ++s) {
      const int32_t* const row = theta + 64 * (s + 1);
      for (int i = 0; i < 64; ++i) threshold[i] ^= (threshold[i] ^ row[i]) & fired[s][i];
    }
    if (t > 0) {
      for (int i = 0; i < 64; ++i) potential[i] &= ~fired[t - 1][i];
    }
    for (int i = 0; i < 64; ++i) {
      potential[i] += n[i] * (1 << t);
      fired[t][i] = -(potential[i] >= threshold[i]);
      spike[i] = (uint8_t)(fired[t][i] & 1);
    }
    *out = rival_pack_bytes(spike);
    theta += 64 * (t + 1);
  }
}

static inline void rival_words_prepare(const layer* l, rival_state* state) {
  rival_prepare_words(l, 4, false, state);
}

WORDS_TARGET BENCH_NOINLINE static void rival_words_run(const layer* l, const rival_state* state,
                                                        uint64_t* out) {
  const rival_rows rows = rival_gather(l, state);
  const size_t n_words = l->row_words, out_step = l->n_pixels * l->out_words;
  rival_count_active(l, &rows, state->n_active);
  for (size_t block = 0; block < l->out_words; ++block) {
    const uint64_t* const weights = (const uint64_t*)state->weights + block * 64 * n_words;
    for (size_t p = 0; p < l->n_pixels; ++p) {
      const int16_t* const active = state->n_active + p * LAYER_STEPS;
      int16_t n[LAYER_STEPS][64];
      for (size_t g = 0; g < 16; ++g) {
        for (size_t t = 0; t < LAYER_STEPS; t += 2) {
          const uint64_t* a = rows.first + p * rows.pixel_words + t * rows.step_words;
          const uint64_t *b = a + rows.step_words, *w = weights + g * n_words * 4;
          int32_t sum[2][4] = {{0}};
          for (size_t k = 0; k < n_words; ++k, w += 4) {
            for (int q = 0; q < 4; ++q) {
              sum[0][q] += __builtin_popcountll(w[q] & a[k]);
              sum[1][q] += __builtin_popcountll(w[q] & b[k]);
            }
          }
          for (size_t q = 0; q < 4; ++q) {
            n[t][4 * g + q] = (int16_t)(2 * sum[0][q] - active[t]);
            n[t + 1][4 * g + q] = (int16_t)(2 * sum[1][q] - active[t + 1]);
          }
        }
      }
      rival_fire_words(n[0], l->theta32 + block * 64 * LAYER_THETA_ROWS,
                       out + p * l->out_words + block, out_step);
    }
  }
}

#endif  // BST_TESTS_BENCH_RIVAL_WORDS_H_
