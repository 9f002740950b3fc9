// SPDX-License-Identifier: MIT
// stem_stream in plain loops over 64 outputs at a time: the sums of ../stem_neuron/loops.h, stored.

#ifndef BST_KERNELS_STEM_STREAM_LOOPS_H_
#define BST_KERNELS_STEM_STREAM_LOOPS_H_

#include <string.h>

#include "../stem_neuron/loops.h"
#include "stem_stream.h"

/// x of a block at every step; that of step t goes to stream[t * out_step].
BST_INLINE void bst_stem_stream_block(const bst_stem_geometry* g, const bst_stem_block* b,
                                      const uint8_t* image, size_t out_step, int32_t* stream) {
  const size_t frame_bytes = (size_t)g->height * (size_t)g->width * (size_t)g->n_in;
  int32_t input[BST_LANES] = {0};
  for (int t = 0; t < g->n_steps; ++t) {
    if (t < g->n_frames) bst_stem_input(g, b, image + (size_t)t * frame_bytes, input);
    memcpy(stream + (size_t)t * out_step, input, b->n_lanes * sizeof *input);
  }
}

BST_INLINE void bst_stem_stream_run(int part, int n_parts, int n_steps, int n_frames, int height,
                                    int width, int n_in, int n_out, int kh, int kw, int stride,
                                    int pad, const uint8_t* image, const void* prepared,
                                    const int64_t* bias, const uint8_t* shift,
                                    const uint8_t* row_class, const uint8_t* col_class,
                                    int n_col_classes, int32_t* stream) {
  const bst_stem_geometry g = {n_steps, n_frames, height, width, n_in,
                               kh,      kw,       stride, pad,   bst_stem_lanes(n_out)};
  const int out_h = (height + 2 * pad - kh) / stride + 1;
  const int out_w = (width + 2 * pad - kw) / stride + 1;
  const size_t outputs = (size_t)n_out, out_step = (size_t)out_h * (size_t)out_w * outputs;
  const int first_y = (int)bst_part_begin(part, n_parts, (size_t)out_h);
  const int end_y = (int)bst_part_begin(part + 1, n_parts, (size_t)out_h);
  stream += (size_t)first_y * (size_t)out_w * outputs;
  for (int y = first_y; y < end_y; ++y) {
    for (int x = 0; x < out_w; ++x, stream += outputs) {
      const size_t border = (size_t)(row_class[y] * n_col_classes + col_class[x]);
      for (size_t done = 0; done < outputs; done += BST_LANES) {
        const size_t left = outputs - done;
        const bst_stem_block b = {y,
                                  x,
                                  left < BST_LANES ? left : BST_LANES,
                                  (const int32_t*)prepared + done,
                                  bias + border * outputs + done,
                                  shift + done};
        bst_stem_stream_block(&g, &b, image, out_step, stream + done);
      }
    }
  }
}

#define BST_DEFINE_STEM_STREAM(name)                                                           \
  void name(int part, int n_parts, int n_steps, int n_frames, int height, int width, int n_in, \
            int n_out, int kh, int kw, int stride, int pad, const uint8_t* image,              \
            const void* prepared, const int64_t* bias, const uint8_t* shift,                   \
            const uint8_t* row_class, const uint8_t* col_class, int n_col_classes,             \
            int32_t* stream) {                                                                 \
    bst_stem_stream_run(part, n_parts, n_steps, n_frames, height, width, n_in, n_out, kh, kw,  \
                        stride, pad, image, prepared, bias, shift, row_class, col_class,       \
                        n_col_classes, stream);                                                \
  }

#endif  // BST_KERNELS_STEM_STREAM_LOOPS_H_
