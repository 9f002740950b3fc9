// SPDX-License-Identifier: MIT
// or_pool: max-pooling of spikes is OR. The window's outside counts as 0 (numerics.md 8).
//
// Shapes, one frame: spikes [T, height, width, 64 n_words] -> out [T, out_h, out_w, 64 n_words],
// out_h = (height + 2 pad - kernel) / stride + 1, out_w alike.
// `part` of `n_parts`: see part.h.

#ifndef BST_KERNELS_OR_POOL_H_
#define BST_KERNELS_OR_POOL_H_

#include <stddef.h>
#include <stdint.h>

typedef void bst_or_pool_kernel(int part, int n_parts, int n_steps, int height, int width,
                                int n_words, int kernel, int stride, int pad,
                                const uint64_t* spikes, uint64_t* out);

bst_or_pool_kernel bst_or_pool__scalar, bst_or_pool__avx2, bst_or_pool__avx512, bst_or_pool__neon;

#endif  // BST_KERNELS_OR_POOL_H_
