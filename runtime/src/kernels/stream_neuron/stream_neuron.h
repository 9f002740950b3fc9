// SPDX-License-Identifier: MIT
// stream_neuron: the stream neuron (numerics.md 5), alone or after the reversible residual (8).
//
// Shapes, one frame: streams int32 [T, n_cells, channels], spikes packed 64 channels per word.
// `flags`, `theta`, `v_reset`, `r` are a bst_neuron (neuron.h).
// `part` of `n_parts`: see part.h.

#ifndef BST_KERNELS_STREAM_NEURON_H_
#define BST_KERNELS_STREAM_NEURON_H_

#include <stddef.h>
#include <stdint.h>

typedef void bst_stream_neuron_kernel(int part, int n_parts, int n_steps, size_t n_cells,
                                      int channels, int flags, int theta, int v_reset, int r,
                                      const int32_t* x, uint64_t* spikes);

/// x2 = y + ((x0 + x1) >> 1), and the spikes of the neuron on x2. x1 may be x0; x2 is no input.
typedef void bst_residual_neuron_kernel(int part, int n_parts, int n_steps, size_t n_cells,
                                        int channels, int flags, int theta, int v_reset, int r,
                                        const int32_t* y, const int32_t* x0, const int32_t* x1,
                                        int32_t* x2, uint64_t* spikes);

bst_stream_neuron_kernel bst_stream_neuron__scalar, bst_stream_neuron__avx2,
    bst_stream_neuron__avx512, bst_stream_neuron__neon;
bst_residual_neuron_kernel bst_residual_neuron__scalar, bst_residual_neuron__avx2,
    bst_residual_neuron__avx512, bst_residual_neuron__neon;

#endif  // BST_KERNELS_STREAM_NEURON_H_
