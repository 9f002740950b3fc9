// SPDX-License-Identifier: MIT
// What the versions of spike_conv share: sizes, thresholds, the lists of all steps.

#ifndef BST_KERNELS_SPIKE_CONV_GEOMETRY_H_
#define BST_KERNELS_SPIKE_CONV_GEOMETRY_H_

#include "../lanes.h"
#include "../part.h"

typedef struct bst_conv_geometry {
  int n_steps, height, width, n_in, n_out, kh, kw, stride, pad, out_h, out_w;
  size_t in_words, out_words, list_capacity;
} bst_conv_geometry;

static inline size_t bst_conv_words(int channels) { return ((size_t)channels + 63) / 64; }

static inline size_t bst_conv_fan_in(int kh, int kw, int n_in) {
  return (size_t)kh * (size_t)kw * (size_t)n_in;
}

static inline bst_conv_geometry bst_conv_geometry_of(int n_steps, int height, int width, int n_in,
                                                     int n_out, int kh, int kw, int stride,
                                                     int pad) {
  const bst_conv_geometry g = {
      .n_steps = n_steps,
      .height = height,
      .width = width,
      .n_in = n_in,
      .n_out = n_out,
      .kh = kh,
      .kw = kw,
      .stride = stride,
      .pad = pad,
      .out_h = (height + 2 * pad - kh) / stride + 1,
      .out_w = (width + 2 * pad - kw) / stride + 1,
      .in_words = bst_conv_words(n_in),
      .out_words = bst_conv_words(n_out),
      .list_capacity = bst_list_capacity(bst_conv_fan_in(kh, kw, n_in)),
  };
  return g;
}

/// First row of outputs that belongs to `part`.
static inline int bst_conv_first_row(const bst_conv_geometry* g, int part, int n_parts) {
  return (int)bst_part_begin(part, n_parts, (size_t)g->out_h);
}

/// 8x8 bits: bit r of byte k of the result is bit k of byte r.
static inline uint64_t bst_transpose_8x8(uint64_t m) {
  uint64_t x = (m ^ (m >> 7)) & UINT64_C(0x00AA00AA00AA00AA);
  m ^= x ^ (x << 7);
  x = (m ^ (m >> 14)) & UINT64_C(0x0000CCCC0000CCCC);
  m ^= x ^ (x << 14);
  x = (m ^ (m >> 28)) & UINT64_C(0x00000000F0F0F0F0);
  return m ^ x ^ (x << 28);
}

/// Weights of `n_out` outputs from the file's order to rows: bit o of row (tap, i), a row of
/// `row_words` words, is bit i of (o, tap). Eight outputs by eight inputs at a time.
/// @param bits [n_out, n_taps] rows of ceil(n_in / 8) bytes
/// @param rows zero where no output lies
/// @param kw, columns, shift tap (ky, kx) goes to row (ky * columns + kx + shift, i)
static inline void bst_conv_fill_rows(size_t n_out, size_t n_taps, size_t n_in, const uint8_t* bits,
                                      size_t kw, size_t columns, size_t shift, size_t row_words,
                                      uint64_t* rows) {
  const size_t in_bytes = (n_in + 7) / 8, out_bytes = n_taps * in_bytes;
  for (size_t o = 0; o < n_out; o += 8, bits += 8 * out_bytes) {
    const size_t n_here = n_out - o < 8 ? n_out - o : 8;
    for (size_t byte = 0; byte < out_bytes; ++byte) {
      const size_t first = byte % in_bytes * 8, left = n_in - first;
      uint64_t m = 0;
      for (size_t r = 0; r < n_here; ++r) m |= (uint64_t)bits[r * out_bytes + byte] << (8 * r);
      m = bst_transpose_8x8(m);
      const size_t tap = byte / in_bytes, place = tap / kw * columns + tap % kw + shift;
      uint64_t* row = rows + (place * n_in + first) * row_words + o / 64;
      for (size_t k = 0; k < (left < 8 ? left : 8); ++k, m >>= 8, row += row_words) {
        *row |= (m & 0xFF) << (o % 64);
      }
    }
  }
}

/// ceil((u 2^t + w 2^s) / 2^18): below 2^23 for t, s <= 8.
static inline int32_t bst_conv_threshold(int32_t u, int32_t w, int t, int s) {
  const int64_t sum = u * (INT64_C(1) << t) + w * (INT64_C(1) << s);
  return (int32_t)((sum + (1 << 18) - 1) >> 18);
}

/// The lists of all steps of one output pixel, before and after padding.
typedef struct bst_conv_events {
  const uint32_t* list[16];
  size_t n_events[16], n_padded[16];
} bst_conv_events;

#endif  // BST_KERNELS_SPIKE_CONV_GEOMETRY_H_
