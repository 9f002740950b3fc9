// SPDX-License-Identifier: MIT
// A layer to be timed: a binary convolution of spikes (1x1: a linear layer) and its neuron, four
// steps, with random spikes, weights and thresholds. Every contender gets the spikes as they lie
// between layers, packed [T, h, w, words], and has to leave the packed spikes of its neuron.

#ifndef BST_TESTS_BENCH_LAYER_H_
#define BST_TESTS_BENCH_LAYER_H_

#include "bench.h"

enum {
  LAYER_STEPS = 4,
  LAYER_THETA_ROWS = LAYER_STEPS * (LAYER_STEPS + 1) / 2,
};

typedef struct layer {
  int height, width, n_in, n_out, kernel, pad;  // stride 1, same size out
  double rate;
  int fan_in;
  size_t n_pixels, in_words, out_words;
  uint64_t n_events;  // spikes x taps that see them: rows that an event-driven kernel adds
  uint64_t* spikes;   // [T][n_pixels][in_words]
  uint8_t* bits;      // [n_out][taps][ceil(n_in / 8)], 1 = +1, as in the file
  int32_t *u, *w;     // [n_out]: Theta[t, s] = ceil((u 2^t + w 2^s) / 2^18)
  uint64_t* out;      // [T][n_pixels][out_words]
  // The same for the rivals, laid out for 64 outputs at a time:
  size_t row_words;  // ceil(fan_in / 64)
  uint64_t* sign;    // [n_out][row_words], bit (tap * n_in + i)
  int16_t* theta16;  // [n_out / 64][T(T+1)/2][64], cut to int16
  int32_t* theta32;  // the same, whole
} layer;

/// Whether potentials need int32: |I_t| <= (2^T - 1) fan_in.
static inline bool layer_is_wide(const layer* l) {
  return l->fan_in * ((1 << LAYER_STEPS) - 1) >= INT16_MAX;
}

static inline size_t layer_n_taps(const layer* l) { return (size_t)(l->kernel * l->kernel); }

static inline size_t layer_out_count(const layer* l) {
  return (size_t)LAYER_STEPS * l->n_pixels * l->out_words;
}

static inline void layer_fill_spikes(layer* l, uint64_t* state) {
  const size_t n_cells = (size_t)LAYER_STEPS * l->n_pixels;
  for (size_t cell = 0; cell < n_cells; ++cell) {
    const int y = (int)(cell % l->n_pixels) / l->width, x = (int)(cell % l->n_pixels) % l->width;
    int seen = 0;  // windows that hold this pixel
    for (int dy = -l->pad; dy <= l->pad; ++dy) {
      for (int dx = -l->pad; dx <= l->pad; ++dx) {
        seen += y + dy >= 0 && y + dy < l->height && x + dx >= 0 && x + dx < l->width;
      }
    }
    for (int i = 0; i < l->n_in; ++i) {
      if (bench_uniform(state) >= l->rate) continue;
      l->spikes[cell * l->in_words + (size_t)i / 64] |= UINT64_C(1) << (i % 64);
      l->n_events += (uint64_t)seen;
    }
  }
}

static inline void layer_fill_weights(layer* l, uint64_t* state) {
  const size_t n_taps = layer_n_taps(l), in_bytes = ((size_t)l->n_in + 7) / 8;
  for (size_t o = 0; o < (size_t)l->n_out; ++o) {
    for (size_t k = 0; k < (size_t)l->fan_in; ++k) {
      const size_t tap = k / (size_t)l->n_in, i = k % (size_t)l->n_in;
      if ((bench_random(state) >> 40 & 1) == 0) continue;
      l->bits[(o * n_taps + tap) * in_bytes + i / 8] |= (uint8_t)(1U << (i % 8));
      l->sign[o * l->row_words + k / 64] |= UINT64_C(1) << (k % 64);
    }
  }
}

/// Thresholds near one standard deviation of n, so that a fair share of the neurons fires.
static inline void layer_fill_theta(layer* l, uint64_t* state) {
  const double variance = l->rate * (double)l->fan_in;
  int32_t sigma = 1;
  while ((double)sigma * (double)sigma < variance) ++sigma;
  for (int o = 0; o < l->n_out; ++o) {
    const double unit = (double)sigma * 0x1p18;
    l->u[o] = (int32_t)((0.4 + 0.4 * bench_uniform(state)) * unit);
    l->w[o] = (int32_t)((bench_uniform(state) - 0.5) * 0.5 * unit);
    size_t at = (size_t)(o / 64) * LAYER_THETA_ROWS * 64 + (size_t)(o % 64);
    for (int t = 1; t <= LAYER_STEPS; ++t) {
      for (int s = 0; s < t; ++s, at += 64) {
        const int64_t sum = l->u[o] * (INT64_C(1) << t) + l->w[o] * (INT64_C(1) << s);
        const int64_t theta = (sum + (1 << 18) - 1) >> 18;
        l->theta32[at] = (int32_t)theta;
        l->theta16[at] = (int16_t)(theta > INT16_MAX    ? INT16_MAX
                                   : theta < -INT16_MAX ? -INT16_MAX
                                                        : theta);
      }
    }
  }
}

/// @param side  height and width of the image
static inline layer layer_make(int height, int width, int n_in, int n_out, int kernel, double rate,
                               uint64_t seed) {
  layer l = {.height = height, .width = width, .n_in = n_in, .n_out = n_out, .kernel = kernel};
  uint64_t state = UINT64_C(0x9E3779B97F4A7C15) ^ (seed << 20);
  l.pad = kernel / 2;
  l.rate = rate;
  l.fan_in = kernel * kernel * n_in;
  l.n_pixels = (size_t)height * (size_t)width;
  l.in_words = ((size_t)n_in + 63) / 64;
  l.out_words = ((size_t)n_out + 63) / 64;
  l.row_words = ((size_t)l.fan_in + 63) / 64;
  const size_t n_lanes = l.out_words * 64;
  l.spikes = bench_allocate(LAYER_STEPS * l.n_pixels * l.in_words * 8);
  l.bits = bench_allocate((size_t)n_out * layer_n_taps(&l) * (((size_t)n_in + 7) / 8));
  l.u = bench_allocate((size_t)n_out * sizeof *l.u);
  l.w = bench_allocate((size_t)n_out * sizeof *l.w);
  l.out = bench_allocate(layer_out_count(&l) * 8);
  l.sign = bench_allocate(n_lanes * l.row_words * 8);
  l.theta16 = bench_allocate(n_lanes * LAYER_THETA_ROWS * sizeof *l.theta16);
  l.theta32 = bench_allocate(n_lanes * LAYER_THETA_ROWS * sizeof *l.theta32);
  for (size_t i = 0; i < n_lanes * LAYER_THETA_ROWS; ++i) {  // lanes without an output never fire
    l.theta16[i] = INT16_MAX;
    l.theta32[i] = INT32_MAX;
  }
  layer_fill_spikes(&l, &state);
  layer_fill_weights(&l, &state);
  layer_fill_theta(&l, &state);
  return l;
}

static inline void layer_free(layer* l) {
  void* const all[] = {l->spikes, l->bits, l->u, l->w, l->out, l->sign, l->theta16, l->theta32};
  for (size_t i = 0; i < sizeof all / sizeof *all; ++i) free(all[i]);
}

#endif  // BST_TESTS_BENCH_LAYER_H_
