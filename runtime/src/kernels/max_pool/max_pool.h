// SPDX-License-Identifier: MIT
// max_pool: maximum over a window of a stream; positions outside do not count.
//
// Shapes, one frame: x int32 [T, height, width, channels] -> out [T, out_h, out_w, channels],
// out_h = (height + 2 pad - kernel) / stride + 1, out_w alike. pad < kernel, so no window is empty.
// `part` of `n_parts`: see part.h.

#ifndef BST_KERNELS_MAX_POOL_H_
#define BST_KERNELS_MAX_POOL_H_

#include <stddef.h>
#include <stdint.h>

typedef void bst_max_pool_kernel(int part, int n_parts, int n_steps, int height, int width,
                                 int channels, int kernel, int stride, int pad, const int32_t* x,
                                 int32_t* out);

bst_max_pool_kernel bst_max_pool__scalar, bst_max_pool__avx2, bst_max_pool__avx512,
    bst_max_pool__neon;

#endif  // BST_KERNELS_MAX_POOL_H_
