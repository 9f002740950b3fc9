// SPDX-License-Identifier: MIT
// OR over a window, one word of 64 channels at a time.

#include <string.h>

#include "../part.h"
#include "or_pool.h"

static void bst_or_cell(size_t n_words, const uint64_t* cell, uint64_t* out) {
  for (size_t w = 0; w < n_words; ++w) out[w] |= cell[w];
}

void bst_or_pool__scalar(int part, int n_parts, int n_steps, int height, int width, int n_words,
                         int kernel, int stride, int pad, const uint64_t* spikes, uint64_t* all) {
  const int out_h = (height + 2 * pad - kernel) / stride + 1;
  const int out_w = (width + 2 * pad - kernel) / stride + 1;
  const size_t words = (size_t)n_words;
  const int first = (int)bst_part_begin(part, n_parts, (size_t)out_h);
  const int end = (int)bst_part_begin(part + 1, n_parts, (size_t)out_h);
  for (int t = 0; t < n_steps; ++t, spikes += (size_t)height * (size_t)width * words) {
    uint64_t* out = all + (size_t)(t * out_h + first) * (size_t)out_w * words;
    for (int y = first; y < end; ++y) {
      for (int x = 0; x < out_w; ++x, out += words) {
        memset(out, 0, words * sizeof *out);
        for (int in_y = y * stride - pad; in_y < y * stride - pad + kernel; ++in_y) {
          if (in_y < 0 || in_y >= height) continue;
          for (int in_x = x * stride - pad; in_x < x * stride - pad + kernel; ++in_x) {
            if (in_x < 0 || in_x >= width) continue;
            const size_t cell = (size_t)in_y * (size_t)width + (size_t)in_x;
            bst_or_cell(words, spikes + cell * words, out);
          }
        }
      }
    }
  }
}
