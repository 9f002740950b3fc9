// SPDX-License-Identifier: MIT
// Rival for every machine: AND and population count of 64-bit words, four steps by four outputs.

#ifndef BST_TESTS_BENCH_RIVAL_WORDS_H_
#define BST_TESTS_BENCH_RIVAL_WORDS_H_

#include "rivals.h"

#if defined(__x86_64__)
#define RIVAL_WORDS_TARGET __attribute__((target("popcnt")))
#else
#define RIVAL_WORDS_TARGET
#endif

static inline bool rival_always(void) { return true; }

#if defined(__x86_64__)
static inline bool rival_has_popcnt(void) { return __builtin_cpu_supports("popcnt") != 0; }
#else
static inline bool rival_has_popcnt(void) { return true; }
#endif

/// S of every row.
RIVAL_WORDS_TARGET static inline void rival_count_active(const layer* l, const rival_rows* rows,
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

/// The neuron, plainly. @param n [T][64], @param theta [T(T+1)/2][64]
static inline void rival_fire_words(const int16_t* n, const int32_t* theta, uint64_t* out,
                                    size_t out_step) {
  int32_t potential[64] = {0}, last[64] = {0};
  for (int t = 1; t <= LAYER_STEPS; ++t, n += 64, out += out_step) {
    uint64_t word = 0;
    int32_t threshold[64];
    memcpy(threshold, theta, sizeof threshold);
    for (int s = 1; s < t; ++s) {
      for (int i = 0; i < 64; ++i) threshold[i] = last[i] == s ? theta[64 * s + i] : threshold[i];
    }
    for (int i = 0; i < 64; ++i) {
      const int32_t kept = t > 1 && last[i] == t - 1 ? 0 : potential[i];
      potential[i] = kept + n[i] * (1 << (t - 1));
      const bool fired = potential[i] >= threshold[i];
      last[i] = fired ? t : last[i];
      word |= (uint64_t)fired << i;
    }
    *out = word;
    theta += 64 * t;
  }
}

static inline void rival_words_prepare(const layer* l, rival_state* state) {
  rival_prepare_words(l, 4, false, state);
}

RIVAL_WORDS_TARGET BENCH_NOINLINE static void rival_words_run(const layer* l,
                                                              const rival_state* state,
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
