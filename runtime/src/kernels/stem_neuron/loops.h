// SPDX-License-Identifier: MIT
// Stem convolution, 64 outputs at a time, in plain loops over lanes and with 64-bit products: for
// any number of taps. |p W| < 2^31 and at most 2^24 taps: int64 never overflows, nor with the bias
// (< 2^60) and the rounding term.
//
// With `first`, one comparison per step gives the 64 outputs that have fired by then; those that
// have for the first time are ORed into every multiple of the step.

#ifndef BST_KERNELS_STEM_NEURON_LOOPS_H_
#define BST_KERNELS_STEM_NEURON_LOOPS_H_

#include <string.h>

#include "../lanes.h"
#include "../part.h"
#include "../stream_neuron/neuron.h"
#include "stem_neuron.h"

typedef struct bst_stem_geometry {
  int n_steps, n_frames, height, width, n_in, kh, kw, stride, pad;
  size_t n_lanes;
} bst_stem_geometry;

static inline size_t bst_stem_lanes(int n_out) { return ((size_t)n_out + 63) / 64 * 64; }

BST_INLINE void bst_stem_add_pixel(size_t n_in, size_t n_lanes, const uint8_t* pixel,
                                   const int32_t* weight, int64_t* sum) {
  for (size_t i = 0; i < n_in; ++i, weight += n_lanes) {
    const int64_t p = pixel[i];
    for (int l = 0; l < BST_LANES; ++l) sum[l] += p * weight[l];
  }
}

/// n of 64 outputs at output pixel (y, x).
BST_INLINE void bst_stem_sum(const bst_stem_geometry* g, const uint8_t* image,
                             const int32_t* weight, int y, int x, int64_t* sum) {
  const size_t n_in = (size_t)g->n_in;
  for (int l = 0; l < BST_LANES; ++l) sum[l] = 0;
  for (int ky = 0; ky < g->kh; ++ky) {
    const int in_y = y * g->stride - g->pad + ky;
    if (in_y < 0 || in_y >= g->height) continue;
    for (int kx = 0; kx < g->kw; ++kx) {
      const int in_x = x * g->stride - g->pad + kx;
      if (in_x < 0 || in_x >= g->width) continue;
      const size_t cell = (size_t)in_y * (size_t)g->width + (size_t)in_x;
      const size_t tap = (size_t)(ky * g->kw + kx);
      bst_stem_add_pixel(n_in, g->n_lanes, image + cell * n_in, weight + tap * n_in * g->n_lanes,
                         sum);
    }
  }
}

/// 64 outputs of one output pixel; `n_lanes` of them exist.
typedef struct bst_stem_block {
  int y, x;
  size_t n_lanes;
  const int32_t* weight;
  const int64_t* bias;
  const uint8_t* shift;
} bst_stem_block;

BST_INLINE uint64_t bst_stem_mask(const bst_stem_block* b) {
  return b->n_lanes < 64 ? (UINT64_C(1) << b->n_lanes) - 1 : UINT64_MAX;
}

/// x of a block for one frame; lanes beyond `n_lanes` stay as they are.
BST_NOINLINE void bst_stem_input(const bst_stem_geometry* g, const bst_stem_block* b,
                                 const uint8_t* image, int32_t* input) {
  int64_t sum[BST_LANES];
  bst_stem_sum(g, image, b->weight, b->y, b->x, sum);
  for (size_t l = 0; l < b->n_lanes; ++l) {
    const int e = b->shift[l];
    const int64_t half = (INT64_C(1) << e) >> 1;  // 0 where e = 0
    input[l] = bst_wrap32((sum[l] + b->bias[l] + half) >> e);
  }
}

/// Stream neurons of a block; word of step t (from 0) at spikes[t * out_step].
BST_INLINE void bst_stem_fire(const bst_stem_geometry* g, const bst_stem_block* b,
                              const bst_neuron* p, const uint8_t* image, size_t out_step,
                              uint64_t* spikes) {
  const size_t frame_bytes = (size_t)g->height * (size_t)g->width * (size_t)g->n_in;
  int32_t input[BST_LANES] = {0}, v[BST_LANES];
  uint8_t spike[BST_LANES];
  bst_neuron_start(p, v);
  for (int t = 0; t < g->n_steps; ++t) {
    if (t < g->n_frames) bst_stem_input(g, b, image + (size_t)t * frame_bytes, input);
    bst_neuron_step(p, input, v, spike);
    spikes[(size_t)t * out_step] = bst_pack_lanes(spike) & bst_stem_mask(b);
  }
}

/// Lanes with x >= threshold.
BST_INLINE uint64_t bst_stem_reached(const int32_t* x, int32_t threshold) {
  uint8_t reached[BST_LANES];
  for (int l = 0; l < BST_LANES; ++l) reached[l] = x[l] >= threshold;
  return bst_pack_lanes(reached);
}

/// The same spikes from the table of first steps.
BST_INLINE void bst_stem_look_up(const bst_stem_geometry* g, const bst_stem_block* b,
                                 const int32_t* first, const uint8_t* image, size_t out_step,
                                 uint64_t* spikes) {
  int32_t input[BST_LANES] = {0};
  uint64_t before = 0;
  bst_stem_input(g, b, image, input);
  for (int t = 0; t < g->n_steps; ++t) spikes[(size_t)t * out_step] = 0;
  for (int p = 1; p <= g->n_steps; ++p) {
    const uint64_t fired = bst_stem_reached(input, first[p - 1]) & bst_stem_mask(b);
    for (int t = p; t <= g->n_steps; t += p) spikes[(size_t)(t - 1) * out_step] |= fired & ~before;
    before = fired;
  }
}

/// x of a block at every step; that of step t goes to stream[t * out_step].
BST_INLINE void bst_stem_store(const bst_stem_geometry* g, const bst_stem_block* b,
                               const uint8_t* image, size_t out_step, int32_t* stream) {
  const size_t frame_bytes = (size_t)g->height * (size_t)g->width * (size_t)g->n_in;
  int32_t input[BST_LANES] = {0};
  for (int t = 0; t < g->n_steps; ++t) {
    if (t < g->n_frames) bst_stem_input(g, b, image + (size_t)t * frame_bytes, input);
    memcpy(stream + (size_t)t * out_step, input, b->n_lanes * sizeof *input);
  }
}

BST_INLINE void bst_stem_neuron_run(int part, int n_parts, int n_steps, int n_frames, int height,
                                    int width, int n_in, int n_out, int kh, int kw, int stride,
                                    int pad, int flags, int theta, int v_reset, int r,
                                    const uint8_t* image, const int32_t* weight,
                                    const int64_t* bias, const uint8_t* shift,
                                    const uint8_t* row_class, const uint8_t* col_class,
                                    int n_col_classes, const int32_t* first, uint64_t* spikes,
                                    int32_t* stream) {
  const bst_stem_geometry g = {n_steps, n_frames, height, width, n_in,
                               kh,      kw,       stride, pad,   bst_stem_lanes(n_out)};
  const bst_neuron p = {flags, theta, v_reset, r};
  const int out_h = (height + 2 * pad - kh) / stride + 1;
  const int out_w = (width + 2 * pad - kw) / stride + 1;
  const size_t n_words = g.n_lanes / 64, cells = (size_t)out_h * (size_t)out_w;
  const int first_y = (int)bst_part_begin(part, n_parts, (size_t)out_h);
  const int end_y = (int)bst_part_begin(part + 1, n_parts, (size_t)out_h);
  for (int y = first_y; y < end_y; ++y) {
    for (int x = 0; x < out_w; ++x) {
      const size_t cell = (size_t)y * (size_t)out_w + (size_t)x;
      const size_t border = (size_t)(row_class[y] * n_col_classes + col_class[x]);
      bst_stem_block b = {y, x, 0, weight, bias + border * (size_t)n_out, shift};
      for (size_t done = 0; done < (size_t)n_out; done += BST_LANES) {
        const size_t word = cell * n_words + done / BST_LANES;
        b.n_lanes = (size_t)n_out - done < BST_LANES ? (size_t)n_out - done : BST_LANES;
        if (stream != NULL) {
          bst_stem_store(&g, &b, image, cells * (size_t)n_out,
                         stream + cell * (size_t)n_out + done);
        } else if (first != NULL) {
          bst_stem_look_up(&g, &b, first, image, cells * n_words, spikes + word);
        } else {
          bst_stem_fire(&g, &b, &p, image, cells * n_words, spikes + word);
        }
        b.weight += BST_LANES;
        b.bias += BST_LANES;
        b.shift += BST_LANES;
      }
    }
  }
}

/// Prepared constants of this version: weights int32 [kh * kw * n_in][64 ceil(n_out / 64)], zero
/// beyond n_out.
static inline uint64_t bst_stem_plain_bytes(int n_out, int kh, int kw, int n_in) {
  return (uint64_t)kh * (uint64_t)kw * (uint64_t)n_in * bst_stem_lanes(n_out) * sizeof(int32_t);
}

static inline void bst_stem_prepare_plain(int n_out, int kh, int kw, int n_in,
                                          const int32_t* weight, int32_t* rows) {
  const size_t fan_in = (size_t)kh * (size_t)kw * (size_t)n_in, n_lanes = bst_stem_lanes(n_out);
  memset(rows, 0, (size_t)bst_stem_plain_bytes(n_out, kh, kw, n_in));
  for (size_t o = 0; o < (size_t)n_out; ++o) {
    for (size_t i = 0; i < fan_in; ++i) rows[i * n_lanes + o] = *weight++;
  }
}

#endif  // BST_KERNELS_STEM_NEURON_LOOPS_H_
