// SPDX-License-Identifier: MIT
// Stem convolution, 64 outputs at a time. |p W| < 2^31 and at most 2^24 taps: int64 never
// overflows, nor with the bias (< 2^60) and the rounding term.

#include "../lanes.h"
#include "../stream_neuron/neuron.h"
#include "stem_neuron.h"

typedef struct bst_stem_geometry {
  int height, width, n_in, kh, kw, stride, pad;
  size_t n_lanes;
} bst_stem_geometry;

static size_t bst_stem_lanes(int n_out) { return ((size_t)n_out + 63) / 64 * 64; }

size_t bst_stem_neuron_weight_bytes(int n_out, int kh, int kw, int n_in) {
  return (size_t)kh * (size_t)kw * (size_t)n_in * bst_stem_lanes(n_out) * sizeof(int32_t);
}

void bst_stem_neuron_prepare_weight(int n_out, int kh, int kw, int n_in, const int32_t* file_weight,
                                    int32_t* weight) {
  const size_t fan_in = (size_t)kh * (size_t)kw * (size_t)n_in, n_lanes = bst_stem_lanes(n_out);
  memset(weight, 0, bst_stem_neuron_weight_bytes(n_out, kh, kw, n_in));
  for (size_t o = 0; o < (size_t)n_out; ++o) {
    for (size_t i = 0; i < fan_in; ++i) weight[i * n_lanes + o] = *file_weight++;
  }
}

static void bst_stem_add_pixel(size_t n_in, size_t n_lanes, const uint8_t* pixel,
                               const int32_t* weight, int64_t* sum) {
  for (size_t i = 0; i < n_in; ++i, weight += n_lanes) {
    const int64_t p = pixel[i];
    for (int l = 0; l < BST_LANES; ++l) sum[l] += p * weight[l];
  }
}

/// n of 64 outputs at output pixel (y, x).
static void bst_stem_sum(const bst_stem_geometry* g, const uint8_t* image, const int32_t* weight,
                         int y, int x, int64_t* sum) {
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

void bst_stem_neuron__scalar(int n_steps, int height, int width, int n_in, int n_out, int kh,
                             int kw, int stride, int pad, int flags, int theta, int v_reset, int r,
                             const uint8_t* image, const int32_t* weight, const int64_t* bias,
                             const uint8_t* shift, const uint8_t* row_class,
                             const uint8_t* col_class, int n_col_classes, uint64_t* spikes) {
  const bst_stem_geometry g = {height, width, n_in, kh, kw, stride, pad, bst_stem_lanes(n_out)};
  const bst_neuron p = {flags, theta, v_reset, r};
  const int out_h = (height + 2 * pad - kh) / stride + 1;
  const int out_w = (width + 2 * pad - kw) / stride + 1;
  const size_t n_words = g.n_lanes / 64, frame = (size_t)out_h * (size_t)out_w * n_words;
  for (int y = 0; y < out_h; ++y) {
    for (int x = 0; x < out_w; ++x) {
      const int border = row_class[y] * n_col_classes + col_class[x];
      const int64_t* const cell_bias = bias + (size_t)border * (size_t)n_out;
      for (size_t w = 0; w < n_words; ++w, ++spikes) {
        const size_t left = (size_t)n_out - 64 * w, n_lanes = left < 64 ? left : 64;
        int64_t sum[BST_LANES];
        int32_t input[BST_LANES] = {0}, v[BST_LANES];
        uint8_t spike[BST_LANES];
        bst_stem_sum(&g, image, weight + 64 * w, y, x, sum);
        for (size_t l = 0; l < n_lanes; ++l) {
          const int e = shift[64 * w + l];
          const int64_t half = (INT64_C(1) << e) >> 1;  // 0 where e = 0
          input[l] = bst_wrap32((sum[l] + cell_bias[64 * w + l] + half) >> e);
        }
        bst_neuron_start(&p, v);
        for (int t = 0; t < n_steps; ++t) {
          bst_neuron_step(&p, input, v, spike);
          const uint64_t mask = n_lanes < 64 ? (UINT64_C(1) << n_lanes) - 1 : UINT64_MAX;
          spikes[(size_t)t * frame] = bst_pack_lanes(spike) & mask;
        }
      }
    }
  }
}
