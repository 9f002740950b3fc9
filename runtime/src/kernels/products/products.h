// SPDX-License-Identifier: MIT
// products: attention without a binariser. m = q (k^T v) per head, an integer of at most N d, then
// a stream neuron (numerics.md 5) on x = m << shift.
//
// Shapes, one frame: q, k, v, out [T, N, channels] packed 64 per word. Head h owns channels
// h*d .. h*d + d - 1, d = channels / heads. Limits: N <= 1024, d <= 1024; x is taken modulo 2^32.
// `part` of `n_parts`: see part.h. Parts share the tokens of q; each makes k^T v for itself.

#ifndef BST_KERNELS_PRODUCTS_H_
#define BST_KERNELS_PRODUCTS_H_

#include <stddef.h>
#include <stdint.h>

size_t bst_products_scratch_bytes(int n_steps, int n_tokens, int channels, int heads);

typedef void bst_products_kernel(int part, int n_parts, int n_steps, int n_tokens, int channels,
                                 int heads, int shift, int flags, int theta, int v_reset, int r,
                                 const uint64_t* q, const uint64_t* k, const uint64_t* v,
                                 uint64_t* out, void* scratch);

bst_products_kernel bst_products__scalar, bst_products__avx2, bst_products__avx512,
    bst_products__neon;

#endif  // BST_KERNELS_PRODUCTS_H_
