// SPDX-License-Identifier: MIT
// add_attention: ternary values and addition-only attention (A2OS2A).
//
//   ternary_neuron  u = x + ((v r + 2^29) >> 30), or v + (((x - v) r + 2^29) >> 30) with decay
//                   +1 where u >= theta, -1 where -u >= theta, else 0;  v = 0 after +-1, else u
//   add_neuron      K = max(y, 0), rounded to ((K + (2^s >> 1)) >> s) << s
//                   z = q (K^T w) per head, w in {-1, 0, 1}: sums of K alone, int64
//                   h = (v + z) >> 1 with decay, (v >> 1) + z without; spike where h >= theta,
//                   v = 0 after a spike, else h; v starts at 0
//
// Shapes, one frame: y, x int32 [T, n_cells, channels]; q and spikes packed [T, n_cells, n_words];
// w packed [T, n_cells, 2 n_words]: the bits of +1, then those of -1. Channel c = head * d + j.
// At most 1024 cells and 1024 channels per head: |z| < 2^51. theta >= 1 in ternary_neuron.
// `part` of `n_parts`: see part.h.

#ifndef BST_KERNELS_ADD_ATTENTION_H_
#define BST_KERNELS_ADD_ATTENTION_H_

#include <stddef.h>
#include <stdint.h>

typedef void bst_ternary_neuron_kernel(int part, int n_parts, int n_steps, size_t n_cells,
                                       int channels, int decay, int theta, int r, const int32_t* x,
                                       uint64_t* signs);

size_t bst_add_neuron_scratch_bytes(size_t n_cells, int channels, int heads);

typedef void bst_add_neuron_kernel(int part, int n_parts, int n_steps, size_t n_cells, int channels,
                                   int heads, int k_shift, int decay, int theta, const uint64_t* q,
                                   const int32_t* y, const uint64_t* w, uint64_t* spikes,
                                   void* scratch);

bst_ternary_neuron_kernel bst_ternary_neuron__scalar, bst_ternary_neuron__avx2,
    bst_ternary_neuron__avx512, bst_ternary_neuron__neon;
bst_add_neuron_kernel bst_add_neuron__scalar, bst_add_neuron__avx2, bst_add_neuron__avx512,
    bst_add_neuron__neon;

#endif  // BST_KERNELS_ADD_ATTENTION_H_
