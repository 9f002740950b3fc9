// SPDX-License-Identifier: MIT
// max_pool, one value at a time.

#include "window.h"

static void bst_max_cell_plain(const bst_max_window* window, int32_t* out) {
  for (size_t c = 0; c < window->channels; ++c) {
    int32_t most = window->x[c];
    for (int y = 0; y < window->n_rows; ++y) {
      for (int x = 0; x < window->n_cols; ++x) {
        const int32_t found =
            window->x[(size_t)y * window->row_items + (size_t)x * window->channels + c];
        most = found > most ? found : most;
      }
    }
    out[c] = most;
  }
}

void bst_max_pool__scalar(int part, int n_parts, int n_steps, int height, int width, int channels,
                          int kernel, int stride, int pad, const int32_t* x, int32_t* out) {
  bst_max_pool_walk(part, n_parts, n_steps, height, width, channels, kernel, stride, pad, x, out,
                    bst_max_cell_plain);
}
