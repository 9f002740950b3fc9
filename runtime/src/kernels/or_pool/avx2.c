// SPDX-License-Identifier: MIT
// or_pool with AVX2: simd.h in the words of ../avx2.h.

#include "../avx2.h"

#include "or_pool.h"

#ifdef BST_HAVE_AVX2

BST_VECTOR_BEGIN

#include "simd.h"

void bst_or_pool__avx2(int part, int n_parts, int n_steps, int height, int width, int n_words,
                       int kernel, int stride, int pad, const uint64_t* spikes, uint64_t* out) {
  bst_or_pool_vector(part, n_parts, n_steps, height, width, n_words, kernel, stride, pad, spikes,
                     out);
}

BST_VECTOR_END

#endif  // BST_HAVE_AVX2
