// SPDX-License-Identifier: MIT
// mean_neuron on blocks of 64 channels, in plain loops over lanes that a compiler turns into the
// vectors of the instruction set it is inlined for. The parts share the blocks.

#ifndef BST_KERNELS_MEAN_NEURON_LOOPS_H_
#define BST_KERNELS_MEAN_NEURON_LOOPS_H_

#include "../lanes.h"
#include "../part.h"
#include "../stream_neuron/neuron.h"
#include "mean_neuron.h"

/// S / n to the nearest integer, halves upwards: a floor, whatever the sign.
static inline int32_t bst_mean_of(int64_t sum, int64_t n) {
  const int64_t above = 2 * sum + n, below = 2 * n, quotient = above / below;
  return (int32_t)(quotient - (above % below < 0));
}

/// Sums over the cells of one step of up to 64 channels.
BST_INLINE void bst_mean_sum(size_t n_cells, size_t stride, size_t n_lanes, const int32_t* y,
                             const int32_t* x0, const int32_t* x1, int64_t* sum) {
  for (int i = 0; i < BST_LANES; ++i) sum[i] = 0;
  for (size_t cell = 0; cell < n_cells; ++cell, y += stride, x0 += stride, x1 += stride) {
    if (n_lanes == BST_LANES) {
      for (int i = 0; i < BST_LANES; ++i) {
        sum[i] += bst_add32(y[i], bst_average32(x0[i], x1[i]));
      }
    } else {
      for (size_t i = 0; i < n_lanes; ++i) {
        sum[i] += bst_add32(y[i], bst_average32(x0[i], x1[i]));
      }
    }
  }
}

BST_INLINE void bst_mean_neuron_run(int part, int n_parts, int n_steps, size_t n_cells,
                                    int channels, int flags, int theta, int v_reset, int r,
                                    const int32_t* y, const int32_t* x0, const int32_t* x1,
                                    uint64_t* spikes) {
  const bst_neuron p = {flags, theta, v_reset, r};
  const size_t c = (size_t)channels, n_words = (c + 63) / 64, step = n_cells * c;
  const size_t end = bst_part_begin(part + 1, n_parts, n_words);
  for (size_t w = bst_part_begin(part, n_parts, n_words); w < end; ++w) {
    const size_t left = c - 64 * w, n_lanes = left < 64 ? left : 64;
    const uint64_t mask = n_lanes < 64 ? (UINT64_C(1) << n_lanes) - 1 : UINT64_MAX;
    int64_t sum[BST_LANES];
    int32_t v[BST_LANES], mean[BST_LANES];
    uint8_t spike[BST_LANES];
    bst_neuron_start(&p, v);
    for (size_t t = 0; t < (size_t)n_steps; ++t) {
      const size_t at = t * step + 64 * w;
      bst_mean_sum(n_cells, c, n_lanes, y + at, x0 + at, x1 + at, sum);
      for (int i = 0; i < BST_LANES; ++i) mean[i] = bst_mean_of(sum[i], (int64_t)n_cells);
      bst_neuron_step(&p, mean, v, spike);
      spikes[t * n_words + w] = bst_pack_lanes(spike) & mask;
    }
  }
}

/// The kernel of one instruction set.
#define BST_DEFINE_MEAN_NEURON(name)                                                               \
  void name(int part, int n_parts, int n_steps, size_t n_cells, int channels, int flags,           \
            int theta, int v_reset, int r, const int32_t* y, const int32_t* x0, const int32_t* x1, \
            uint64_t* spikes) {                                                                    \
    bst_mean_neuron_run(part, n_parts, n_steps, n_cells, channels, flags, theta, v_reset, r, y,    \
                        x0, x1, spikes);                                                           \
  }

#endif  // BST_KERNELS_MEAN_NEURON_LOOPS_H_
