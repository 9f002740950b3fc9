// SPDX-License-Identifier: MIT
// gate: attention of bits alone (Spike-driven Transformer v1), and spikes that gate spikes.
//
//   key_value_any   g[t, c] = OR over cells of k[t, cell, c] & v[t, cell, c]
//   gate            out[t, cell, c] = a & g, or a & ~g where `invert` is 1
//
// Shapes, one frame: spikes packed 64 channels per word, [T, n_cells, n_words]; g of key_value_any
// [T, n_words]; g of gate [T, n_gates, n_words], n_gates = n_cells, or 1: one for all cells.
// Padding bits of a are 0, so those of out are. `part` of `n_parts`: see part.h.

#ifndef BST_KERNELS_GATE_H_
#define BST_KERNELS_GATE_H_

#include <stddef.h>
#include <stdint.h>

typedef void bst_key_value_any_kernel(int part, int n_parts, int n_steps, size_t n_cells,
                                      int n_words, const uint64_t* k, const uint64_t* v,
                                      uint64_t* any);
typedef void bst_gate_kernel(int part, int n_parts, int n_steps, size_t n_cells, size_t n_gates,
                             int n_words, int invert, const uint64_t* a, const uint64_t* gates,
                             uint64_t* out);

bst_key_value_any_kernel bst_key_value_any__scalar, bst_key_value_any__avx2,
    bst_key_value_any__avx512, bst_key_value_any__neon;
bst_gate_kernel bst_gate__scalar, bst_gate__avx2, bst_gate__avx512, bst_gate__neon;

#endif  // BST_KERNELS_GATE_H_
