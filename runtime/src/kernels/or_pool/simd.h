// SPDX-License-Identifier: MIT
// OR over a window, one vector of words of channels at a time. A body: included by the file of one
// instruction set after its vocabulary, between BST_VECTOR_BEGIN and BST_VECTOR_END.

#ifndef BST_KERNELS_OR_POOL_SIMD_H_
#define BST_KERNELS_OR_POOL_SIMD_H_

#include "../integers.h"
#include "../part.h"
#include "or_pool.h"

enum { BST_POOL_VEC_WORDS = BST_VEC_BYTES / 8 };

/// One cell: the OR of the n_rows * n_cols cells from `window` on, rows `row_words` apart.
BST_INLINE void bst_pool_cell(int n_rows, int n_cols, size_t n_words, size_t row_words,
                              const uint64_t* window, uint64_t* out) {
  for (size_t w = 0; w < n_words; w += BST_POOL_VEC_WORDS) {
    const size_t left = n_words - w;
    const size_t n = left < BST_POOL_VEC_WORDS ? left : BST_POOL_VEC_WORDS;
    bst_vec any = bst_vec_zero();
    for (int y = 0; y < n_rows; ++y) {
      for (int x = 0; x < n_cols; ++x) {
        const uint64_t* const from = window + (size_t)y * row_words + (size_t)x * n_words + w;
        any = bst_vec_or(any, bst_vec_load_some64(from, n));
      }
    }
    bst_vec_store_some64(out + w, any, n);
  }
}

/// The part of a window of `kernel` from `start` on that lies in 0 .. size - 1.
static inline int bst_pool_clip(int kernel, int size, int start, int* first) {
  const int end = start + kernel < size ? start + kernel : size;
  *first = start < 0 ? 0 : start;
  return end - *first;
}

static inline void bst_or_pool_vector(int part, int n_parts, int n_steps, int height, int width,
                                      int n_words, int kernel, int stride, int pad,
                                      const uint64_t* spikes, uint64_t* out) {
  const int out_h = (height + 2 * pad - kernel) / stride + 1;
  const int out_w = (width + 2 * pad - kernel) / stride + 1;
  const size_t words = (size_t)n_words, row_words = (size_t)width * words;
  const int first = (int)bst_part_begin(part, n_parts, (size_t)out_h);
  const int end = (int)bst_part_begin(part + 1, n_parts, (size_t)out_h);
  for (int t = 0; t < n_steps; ++t, spikes += (size_t)height * row_words) {
    uint64_t* to = out + (size_t)(t * out_h + first) * (size_t)out_w * words;
    for (int y = first; y < end; ++y) {
      int in_y, in_x;
      const int n_rows = bst_pool_clip(kernel, height, y * stride - pad, &in_y);
      for (int x = 0; x < out_w; ++x, to += words) {
        const int n_cols = bst_pool_clip(kernel, width, x * stride - pad, &in_x);
        const uint64_t* const window = spikes + (size_t)in_y * row_words + (size_t)in_x * words;
        if (n_rows == 2 && n_cols == 2) {
          bst_pool_cell(2, 2, words, row_words, window, to);
        } else if (n_rows == 3 && n_cols == 3) {
          bst_pool_cell(3, 3, words, row_words, window, to);
        } else {
          bst_pool_cell(n_rows, n_cols, words, row_words, window, to);
        }
      }
    }
  }
}

#endif  // BST_KERNELS_OR_POOL_SIMD_H_
