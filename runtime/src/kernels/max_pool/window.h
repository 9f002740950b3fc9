// SPDX-License-Identifier: MIT
// The walk over windows that the versions of max_pool share.

#ifndef BST_KERNELS_MAX_POOL_WINDOW_H_
#define BST_KERNELS_MAX_POOL_WINDOW_H_

#include "../integers.h"
#include "../part.h"
#include "max_pool.h"

/// A window clipped to the stream: its first cell in x, and its sides.
typedef struct bst_max_window {
  const int32_t* x;
  size_t row_items, channels;
  int n_rows, n_cols;
} bst_max_window;

typedef void bst_max_cell(const bst_max_window* window, int32_t* out);

/// The part of a window of `kernel` from `start` on that lies in 0 .. size - 1.
static inline int bst_max_clip(int kernel, int size, int start, int* first) {
  const int end = start + kernel < size ? start + kernel : size;
  *first = start < 0 ? 0 : start;
  return end - *first;
}

/// `cell` for every output cell; the parts share the output rows.
BST_INLINE void bst_max_pool_walk(int part, int n_parts, int n_steps, int height, int width,
                                  int channels, int kernel, int stride, int pad, const int32_t* x,
                                  int32_t* out, bst_max_cell* cell) {
  const int out_h = (height + 2 * pad - kernel) / stride + 1;
  const int out_w = (width + 2 * pad - kernel) / stride + 1;
  const size_t c = (size_t)channels;
  const int first = (int)bst_part_begin(part, n_parts, (size_t)out_h);
  const int end = (int)bst_part_begin(part + 1, n_parts, (size_t)out_h);
  bst_max_window window = {NULL, (size_t)width * c, c, 0, 0};
  for (int t = 0; t < n_steps; ++t, x += (size_t)height * window.row_items) {
    int32_t* to = out + (size_t)(t * out_h + first) * (size_t)out_w * c;
    for (int y = first; y < end; ++y) {
      int in_y, in_x;
      window.n_rows = bst_max_clip(kernel, height, y * stride - pad, &in_y);
      for (int col = 0; col < out_w; ++col, to += c) {
        window.n_cols = bst_max_clip(kernel, width, col * stride - pad, &in_x);
        window.x = x + (size_t)in_y * window.row_items + (size_t)in_x * c;
        cell(&window, to);
      }
    }
  }
}

#endif  // BST_KERNELS_MAX_POOL_WINDOW_H_
