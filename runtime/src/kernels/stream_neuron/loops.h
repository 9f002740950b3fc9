// SPDX-License-Identifier: MIT
// Stream neuron on blocks of 64 channels of one cell, T innermost so that v stays in registers or
// L1; in plain loops over lanes that a compiler turns into the vectors of the instruction set it is
// inlined for.

#ifndef BST_KERNELS_STREAM_NEURON_LOOPS_H_
#define BST_KERNELS_STREAM_NEURON_LOOPS_H_

#include "../lanes.h"
#include "../part.h"
#include "neuron.h"
#include "stream_neuron.h"

/// The steps of up to 64 channels; lanes beyond `n_lanes` read 0 and their spikes are dropped.
BST_INLINE void bst_stream_neuron_block(int n_steps, size_t n_lanes, size_t step_stride,
                                        size_t step_words, const bst_neuron* p, const int32_t* x,
                                        uint64_t* spikes) {
  int32_t v[BST_LANES], padded[BST_LANES] = {0};
  uint8_t spike[BST_LANES];
  bst_neuron_start(p, v);
  for (int t = 0; t < n_steps; ++t, x += step_stride, spikes += step_words) {
    if (n_lanes == BST_LANES) {
      bst_neuron_step(p, x, v, spike);
      *spikes = bst_pack_lanes(spike);
    } else {
      memcpy(padded, x, n_lanes * sizeof *x);
      bst_neuron_step(p, padded, v, spike);
      *spikes = bst_pack_lanes(spike) & ((UINT64_C(1) << n_lanes) - 1);
    }
  }
}

BST_INLINE void bst_stream_neuron_run(int part, int n_parts, int n_steps, size_t n_cells,
                                      int channels, int flags, int theta, int v_reset, int r,
                                      const int32_t* x, uint64_t* spikes) {
  const bst_neuron p = {flags, theta, v_reset, r};
  const size_t c = (size_t)channels, n_words = (c + 63) / 64;
  const size_t end = bst_part_begin(part + 1, n_parts, n_cells);
  for (size_t cell = bst_part_begin(part, n_parts, n_cells); cell < end; ++cell) {
    for (size_t w = 0; w < n_words; ++w) {
      const size_t left = c - 64 * w;
      bst_stream_neuron_block(n_steps, left < 64 ? left : 64, n_cells * c, n_cells * n_words, &p,
                              x + cell * c + 64 * w, spikes + cell * n_words + w);
    }
  }
}

BST_INLINE void bst_residual_neuron_run(int part, int n_parts, int n_steps, size_t n_cells,
                                        int channels, int flags, int theta, int v_reset, int r,
                                        const int32_t* y, const int32_t* x0, const int32_t* x1,
                                        int32_t* x2, uint64_t* spikes) {
  const size_t step = n_cells * (size_t)channels;
  const size_t first = bst_part_begin(part, n_parts, n_cells) * (size_t)channels;
  const size_t end = bst_part_begin(part + 1, n_parts, n_cells) * (size_t)channels;
  for (size_t t = 0; t < (size_t)n_steps; ++t) {
    for (size_t i = t * step + first; i < t * step + end; ++i) {
      x2[i] = bst_add32(y[i], bst_average32(x0[i], x1[i]));
    }
  }
  bst_stream_neuron_run(part, n_parts, n_steps, n_cells, channels, flags, theta, v_reset, r, x2,
                        spikes);
}

/// The kernels of one instruction set.
#define BST_DEFINE_STREAM_NEURON(name)                                                            \
  void name(int part, int n_parts, int n_steps, size_t n_cells, int channels, int flags,          \
            int theta, int v_reset, int r, const int32_t* x, uint64_t* spikes) {                  \
    bst_stream_neuron_run(part, n_parts, n_steps, n_cells, channels, flags, theta, v_reset, r, x, \
                          spikes);                                                                \
  }

#define BST_DEFINE_RESIDUAL_NEURON(name)                                                           \
  void name(int part, int n_parts, int n_steps, size_t n_cells, int channels, int flags,           \
            int theta, int v_reset, int r, const int32_t* y, const int32_t* x0, const int32_t* x1, \
            int32_t* x2, uint64_t* spikes) {                                                       \
    bst_residual_neuron_run(part, n_parts, n_steps, n_cells, channels, flags, theta, v_reset, r,   \
                            y, x0, x1, x2, spikes);                                                \
  }

#endif  // BST_KERNELS_STREAM_NEURON_LOOPS_H_
