// SPDX-License-Identifier: MIT
// levels: small whole numbers per channel as planes of bits, the integer residual of Spikformer.
// Plane p of a cell holds bit p; a plane is the channels of the cell packed 64 per word. One plane
// is spikes. These kernels are words of 64 channels on every instruction set.
// `part` of `n_parts`: see part.h.

#ifndef BST_KERNELS_LEVELS_H_
#define BST_KERNELS_LEVELS_H_

#include <stddef.h>
#include <stdint.h>

enum { BST_MAX_LEVEL_PLANES = 8 };

/// out = a + b, cut to its planes.
/// @param n_cells steps times tokens, @param n_words words of a plane
void bst_level_add(int part, int n_parts, size_t n_cells, int n_words, int a_planes, int b_planes,
                   int out_planes, const uint64_t* a, const uint64_t* b, uint64_t* out);

size_t bst_level_readout_scratch_bytes(int channels);

/// raw = V f + C with f = ((sum of the level over all cells) 2^frac_bits) >> q (numerics.md 9).
/// All of it is done by part 0. Sums are taken modulo 2^64.
/// @param v [n_classes, channels], @param c [n_classes]
void bst_level_readout(int part, int n_parts, size_t n_cells, int n_planes, int channels,
                       int n_classes, int frac_bits, int q, const uint64_t* levels,
                       const int32_t* v, const int64_t* c, int64_t* raw, void* scratch);

#endif  // BST_KERNELS_LEVELS_H_
