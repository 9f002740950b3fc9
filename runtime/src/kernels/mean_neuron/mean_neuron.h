// SPDX-License-Identifier: MIT
// mean_neuron: the stream neuron (numerics.md 5) on the mean over tokens of each step of the
// reversible residual.
//
//   x = y + ((x0 + x1) >> 1)      S = sum over cells of x      m = floor((2 S + N) / (2 N))
//
// Shapes, one frame: streams int32 [T, n_cells, channels] -> spikes [T, n_words]; N = n_cells, at
// most 2^24, so |2 S + N| < 2^57 and m is an int32. x0 may be x1. `flags`, `theta`, `v_reset`, `r`
// are a bst_neuron (../stream_neuron/neuron.h). `part` of `n_parts`: see part.h.

#ifndef BST_KERNELS_MEAN_NEURON_H_
#define BST_KERNELS_MEAN_NEURON_H_

#include <stddef.h>
#include <stdint.h>

typedef void bst_mean_neuron_kernel(int part, int n_parts, int n_steps, size_t n_cells,
                                    int channels, int flags, int theta, int v_reset, int r,
                                    const int32_t* y, const int32_t* x0, const int32_t* x1,
                                    uint64_t* spikes);

bst_mean_neuron_kernel bst_mean_neuron__scalar, bst_mean_neuron__avx2, bst_mean_neuron__avx512,
    bst_mean_neuron__neon;

#endif  // BST_KERNELS_MEAN_NEURON_H_
