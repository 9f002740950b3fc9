// SPDX-License-Identifier: MIT
// Read-outs: a residual stream to raw logits (numerics.md 9).
//
// readout: both streams and the last hidden spikes
//
//   S0[d] = sum x2, S1[d] = sum ((x1 + x2) >> 1) + Y[d]      over T * n_cells
//   Y[d]  = c*Ai + ((c*Af + 2^14) >> 15) + T n_cells B,  c = sum of w[d, e] * (spikes of channel e)
//   raw[k] = sum_d V0[k, d] (S0[d] >> q) + sum_d V1[k, d] (S1[d] >> q) + C[k]
//
// residual_readout: the stream of a residual, which is not stored
//
//   S[d] = sum (y + ((x0 + x1) >> 1)),  raw[k] = sum_d V[k, d] (S[d] >> q) + C[k]
//
// Shapes, one frame: y, x0, x1, x2 int32 [T, n_cells, n_dim]; hidden [T, n_cells, n_hidden] packed.
// Limits: T * n_cells <= 2^28, T * n_cells * n_hidden <= 2^31. raw is computed modulo 2^64.
// `part` of `n_parts`: see part.h.

#ifndef BST_KERNELS_READOUT_H_
#define BST_KERNELS_READOUT_H_

#include <stddef.h>
#include <stdint.h>

/// Of every version, aligned to 8 bytes at least; below 2^22.
size_t bst_readout_scratch_bytes(int n_dim, int n_hidden);

/// @param weight bits [n_dim] rows of ceil(n_hidden / 8) bytes, 1 = +1, padding bits 0
/// @param x2, x1 may be the same stream: S1 is then sum x2 + Y[d]
/// @param v0     int32 [n_classes, n_dim]; NULL = without the sum over S0
/// @param v1     int32 [n_classes, n_dim], @param c int64 [n_classes]
typedef void bst_readout_kernel(int part, int n_parts, int n_steps, size_t n_cells, int n_dim,
                                int n_hidden, int n_classes, int q, const int32_t* x2,
                                const int32_t* x1, const uint64_t* hidden, const uint8_t* weight,
                                const int32_t* ai, const int16_t* af, const int32_t* b,
                                const int32_t* v0, const int32_t* v1, const int64_t* c,
                                int64_t* raw, void* scratch);

size_t bst_residual_readout_scratch_bytes(int n_dim);

/// @param v int32 [n_classes, n_dim], @param c int64 [n_classes]
typedef void bst_residual_readout_kernel(int part, int n_parts, int n_steps, size_t n_cells,
                                         int n_dim, int n_classes, int q, const int32_t* y,
                                         const int32_t* x0, const int32_t* x1, const int32_t* v,
                                         const int64_t* c, int64_t* raw, void* scratch);

bst_readout_kernel bst_readout__scalar, bst_readout__avx2, bst_readout__avx512, bst_readout__neon;
bst_residual_readout_kernel bst_residual_readout__scalar, bst_residual_readout__avx2,
    bst_residual_readout__avx512, bst_residual_readout__neon;

#endif  // BST_KERNELS_READOUT_H_
