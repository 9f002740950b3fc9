// SPDX-License-Identifier: MIT
// max_pool with AVX-512: simd.h in the words of ../avx512.h.

#include "../avx512.h"

#include "max_pool.h"

#ifdef BST_HAVE_AVX512

#include "window.h"

BST_VECTOR_BEGIN

#include "simd.h"

void bst_max_pool__avx512(int part, int n_parts, int n_steps, int height, int width, int channels,
                          int kernel, int stride, int pad, const int32_t* x, int32_t* out) {
  bst_max_pool_vector(part, n_parts, n_steps, height, width, channels, kernel, stride, pad, x, out);
}

BST_VECTOR_END

#endif  // BST_HAVE_AVX512
