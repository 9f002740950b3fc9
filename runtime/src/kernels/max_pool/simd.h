// SPDX-License-Identifier: MIT
// max_pool, one vector of int32 channels at a time. A body: included by the file of one instruction
// set after its vocabulary, between BST_VECTOR_BEGIN and BST_VECTOR_END.

#ifndef BST_KERNELS_MAX_POOL_SIMD_H_
#define BST_KERNELS_MAX_POOL_SIMD_H_

#include "window.h"

enum { BST_MAX_VEC_LANES = BST_VEC_BYTES / 4 };

static inline void bst_max_cell_vector(const bst_max_window* window, int32_t* out) {
  for (size_t c = 0; c < window->channels; c += BST_MAX_VEC_LANES) {
    const size_t left = window->channels - c;
    const size_t n = left < BST_MAX_VEC_LANES ? left : BST_MAX_VEC_LANES;
    bst_vec most = bst_vec_load_some32(window->x + c, n);
    for (int y = 0; y < window->n_rows; ++y) {
      for (int x = 0; x < window->n_cols; ++x) {
        const size_t at = (size_t)y * window->row_items + (size_t)x * window->channels + c;
        const bst_vec found = bst_vec_load_some32(window->x + at, n);
        most = bst_vec_choose32(bst_vec_below32(most, found), found, most);
      }
    }
    bst_vec_store_some32(out + c, most, n);
  }
}

static inline void bst_max_pool_vector(int part, int n_parts, int n_steps, int height, int width,
                                       int channels, int kernel, int stride, int pad,
                                       const int32_t* x, int32_t* out) {
  bst_max_pool_walk(part, n_parts, n_steps, height, width, channels, kernel, stride, pad, x, out,
                    bst_max_cell_vector);
}

#endif  // BST_KERNELS_MAX_POOL_SIMD_H_
