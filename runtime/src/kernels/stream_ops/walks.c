// SPDX-License-Identifier: MIT
// stream_ops: the walks over a frame, for every instruction set; see stream_ops.h.

#include "../lanes.h"
#include "../part.h"
#include "../weight_conv/weight_conv.h"
#include "stream_ops.h"

// ---- Sums and means -----------------------------------------------------------------------------

void bst_stream_add(int part, int n_parts, size_t n_items, const int32_t* y, const int32_t* x0,
                    const int32_t* x1, int32_t* x2) {
  const size_t end = bst_part_begin(part + 1, n_parts, n_items);
  for (size_t i = bst_part_begin(part, n_parts, n_items); i < end; ++i) {
    x2[i] = bst_add32(y[i], bst_average32(x0[i], x1[i]));
  }
}

void bst_stream_mean(int part, int n_parts, int n_steps, size_t n_cells, int channels,
                     const int32_t* x, int32_t* mean) {
  const size_t c = (size_t)channels, n_items = (size_t)n_steps * c;
  const size_t end = bst_part_begin(part + 1, n_parts, n_items);
  const int64_t below = 2 * (int64_t)n_cells;
  for (size_t i = bst_part_begin(part, n_parts, n_items); i < end; ++i) {
    const int32_t* from = x + i / c * n_cells * c + i % c;
    int64_t above = (int64_t)n_cells;
    for (size_t cell = 0; cell < n_cells; ++cell, from += c) above += 2 * (int64_t)*from;
    const int64_t quotient = above / below;
    mean[i] = (int32_t)(quotient - (above % below < 0));  // a floor, whatever the sign
  }
}

// ---- Neurons of several levels ------------------------------------------------------------------

/// Add 64 bits to 64 numbers whose bit p lies in `planes[p * n_words]`.
static void bst_add_mask(uint64_t mask, int n_planes, size_t n_words, uint64_t* planes) {
  for (int p = 0; p < n_planes; ++p, planes += n_words) {
    const uint64_t before = *planes;
    *planes = before ^ mask;
    mask &= before;
  }
}

/// Word w of all cells: up to 64 channels. n - count is the count of the thresholds that are not
/// reached, so a channel that falls has its bits inverted.
static void bst_levels_column(size_t first, size_t end, size_t n, size_t stride, int n_levels,
                              size_t theta_row, size_t theta_step, size_t n_words,
                              const int32_t* theta, const uint8_t* falling,
                              const bst_stream_inner* inner, const int32_t* x, uint64_t* out) {
  const int n_planes = bst_bit_length((size_t)n_levels);
  const uint64_t used = n < 64 ? (UINT64_C(1) << n) - 1 : UINT64_MAX;
  int32_t rows[BST_MAX_NEURON_LEVELS][BST_DOT_LANES], tail[BST_DOT_LANES] = {0};
  uint64_t inverted = 0;
  memset(rows, 0, sizeof rows);
  for (size_t i = 0; i < n; ++i) {
    if (falling != NULL && falling[i] != 0) inverted |= UINT64_C(1) << i;
    for (size_t k = 0; k < (size_t)n_levels; ++k)
      rows[k][i] = theta[k * theta_row + i * theta_step];
  }
  x += first * stride;
  out += first * n_words * (size_t)n_planes;
  for (size_t cell = first; cell < end; ++cell, x += stride, out += n_words * (size_t)n_planes) {
    const int32_t* const from = n < BST_DOT_LANES ? memcpy(tail, x, n * sizeof *x) : x;
    for (int p = 0; p < n_planes; ++p) out[(size_t)p * n_words] = 0;
    for (int k = 0; k < n_levels; ++k) {
      bst_add_mask((inner->at_least(from, rows[k]) ^ inverted) & used, n_planes, n_words, out);
    }
  }
}

void bst_stream_levels(int part, int n_parts, size_t n_cells, int channels, int n_levels,
                       int theta_width, const bst_stream_inner* inner, const int32_t* theta,
                       const uint8_t* falling, const int32_t* x, uint64_t* levels) {
  const size_t c = (size_t)channels, n_words = (c + 63) / 64, step = theta_width == 1 ? 0 : 1;
  const size_t first = bst_part_begin(part, n_parts, n_cells);
  const size_t end = bst_part_begin(part + 1, n_parts, n_cells);
  for (size_t w = 0; w < n_words; ++w) {
    const size_t at = 64 * w, left = c - at;
    bst_levels_column(first, end, left < 64 ? left : 64, c, n_levels, (size_t)theta_width, step,
                      n_words, theta + at * step, falling == NULL ? NULL : falling + at, inner,
                      x + at, levels + w);
  }
}

/// Levels of `d` channels from `first` on of one cell, as numbers. Bits of other channels count for
/// nothing, also those behind the last channel of a plane.
static void bst_unpack_head(const uint64_t* planes, int n_planes, size_t n_words, size_t first,
                            size_t d, int32_t* x) {
  memset(x, 0, d * sizeof *x);
  for (int p = 0; p < n_planes; ++p, planes += n_words) {
    for (size_t at = 0; at < d; at += 64) {
      uint64_t bits = 0;
      bst_slice_bits(planes, first + at, d - at < 64 ? d - at : 64, &bits);
      for (; bits != 0; bits &= bits - 1) x[at + bst_low_bit(bits)] += 1 << p;
    }
  }
}

// ---- Depthwise convolution ----------------------------------------------------------------------

size_t bst_depthwise_rows_bytes(int n_taps, int channels) {
  return (size_t)n_taps * (size_t)channels * sizeof(int32_t);
}

void bst_depthwise_prepare(int bits, int n_taps, int channels, const uint8_t* planes,
                           int32_t* rows) {
  const size_t row_bytes = ((size_t)channels + 7) / 8, plane = (size_t)n_taps * row_bytes;
  for (size_t tap = 0; tap < (size_t)n_taps; ++tap) {
    for (size_t c = 0; c < (size_t)channels; ++c) {
      const uint8_t* const at = planes + tap * row_bytes + c / 8;
      int32_t w = 0;
      for (int p = 0; p < bits; ++p) {
        w |= (int32_t)(at[(size_t)p * plane] >> c % 8 & 1) << p;
      }
      *rows++ = bits == 1 ? 2 * w - 1 : w - ((w >> (bits - 1)) << bits);
    }
  }
}

/// Pointers to the taps of a window and to their weights, in front of the unpacked rows.
static size_t bst_depthwise_pointers(const bst_depthwise* s) {
  return 2 * (size_t)(s->kh * s->kw) * sizeof(const int32_t*);
}

uint64_t bst_depthwise_scratch_bytes(const bst_depthwise* s) {
  const uint64_t row = (uint64_t)s->width * (uint64_t)s->channels * sizeof(int32_t);
  return bst_depthwise_pointers(s) + (s->n_planes == 0 ? 0 : (uint64_t)s->kh * row);
}

/// n Ai + ((n Af + 2^14) >> 15) in 32 bits, exact modulo 2^32 for every n: n = 2^15 high + low.
static inline int32_t bst_scale_any32(int32_t n, int32_t ai, int32_t af) {
  const int32_t high = n >> 15, low = n & 0x7FFF;
  const int32_t rounded = (low * af + (1 << 14)) >> 15;
  return bst_add32(bst_add32(bst_mul32(n, ai), bst_mul32(high, af)), rounded);
}

/// Rows of the input that a row of outputs reads: row y of the ring is row y of the frame modulo
/// kh.
typedef struct bst_depthwise_rows {
  const int32_t* base;
  size_t ring, row;  // rows of the ring (the whole height for a stream), items of a row
} bst_depthwise_rows;

/// Unpack the rows of step `t` that window row `oy` needs and that are not there yet.
static int bst_depthwise_fill(const bst_depthwise* s, const uint64_t* levels, size_t t, int oy,
                              int done, int32_t* ring) {
  const size_t c = (size_t)s->channels, words = (c + 63) / 64 * (size_t)s->n_planes;
  const int first = oy * s->stride - s->pad;
  int last = first + s->kh;
  if (last > s->height) last = s->height;
  for (int y = done > first ? done : first; y < last; ++y) {
    if (y < 0) continue;
    const uint64_t* from = levels + (t * (size_t)s->height + (size_t)y) * (size_t)s->width * words;
    int32_t* to = ring + (size_t)(y % s->kh) * (size_t)s->width * c;
    for (int x = 0; x < s->width; ++x, from += words, to += c) {
      bst_unpack_head(from, s->n_planes, (c + 63) / 64, 0, c, to);
    }
  }
  return last;
}

static void bst_depthwise_cell(const bst_depthwise* s, const bst_stream_inner* inner,
                               const bst_depthwise_rows* x, int oy, int ox, const int32_t* weights,
                               const int32_t* ai, const int16_t* af, const int32_t* b,
                               const int32_t** taps, int32_t* out) {
  const size_t c = (size_t)s->channels;
  const int32_t** const w = taps + s->kh * s->kw;
  size_t n = 0;
  for (int ky = 0; ky < s->kh; ++ky) {
    const int y = oy * s->stride - s->pad + ky;
    if (y < 0 || y >= s->height) continue;
    for (int kx = 0; kx < s->kw; ++kx) {
      const int at = ox * s->stride - s->pad + kx;
      if (at < 0 || at >= s->width) continue;
      taps[n] = x->base + ((size_t)y % x->ring) * x->row + (size_t)at * c;
      w[n++] = weights + (size_t)(ky * s->kw + kx) * c;
    }
  }
  for (size_t at = 0; at < c; at += BST_DOT_LANES) {
    const size_t left = c - at, here = left < BST_DOT_LANES ? left : BST_DOT_LANES;
    int32_t sum[BST_DOT_LANES];
    inner->multiply_add(n, taps, w, 0, at, here, sum);
    for (size_t i = 0; i < here; ++i) {
      out[at + i] = bst_add32(bst_scale_any32(sum[i], ai[at + i], af[at + i]), b[at + i]);
    }
  }
}

void bst_depthwise_affine(int part, int n_parts, const bst_depthwise* s,
                          const bst_stream_inner* inner, const void* x, const int32_t* rows,
                          const int32_t* ai, const int16_t* af, const int32_t* b, int32_t* out,
                          void* scratch) {
  const size_t c = (size_t)s->channels, out_h = (size_t)s->out_h;
  const size_t n_rows = (size_t)s->n_steps * out_h,
               frame = (size_t)s->height * (size_t)s->width * c;
  const size_t end = bst_part_begin(part + 1, n_parts, n_rows);
  const int32_t** const taps = scratch;
  int32_t* const ring = (int32_t*)((uint8_t*)scratch + bst_depthwise_pointers(s));
  size_t step = (size_t)s->n_steps;
  int done = 0;
  for (size_t r = bst_part_begin(part, n_parts, n_rows); r < end; ++r) {
    const size_t t = r / out_h;
    const int oy = (int)(r % out_h);
    bst_depthwise_rows held = {NULL, (size_t)s->height, (size_t)s->width * c};
    if (s->n_planes == 0) {
      held.base = (const int32_t*)x + t * frame;
    } else {
      if (t != step) done = 0;
      step = t;
      done = bst_depthwise_fill(s, x, t, oy, done, ring);
      held.base = ring;
      held.ring = (size_t)s->kh;
    }
    int32_t* to = out + r * (size_t)s->out_w * c;
    for (int ox = 0; ox < s->out_w; ++ox, to += c) {
      bst_depthwise_cell(s, inner, &held, oy, ox, rows, ai, af, b, taps, to);
    }
  }
}

// ---- 1x1 convolution of a stream ----------------------------------------------------------------

static size_t bst_stream_lanes(int n_out) { return ((size_t)n_out + 63) / 64 * 64; }

/// Pairs of inputs: they are multiplied two at a time, a last odd row is zeros.
static size_t bst_stream_pairs(int n_in) { return ((size_t)n_in + 1) / 2; }

uint64_t bst_stream_conv_rows_bytes(int n_out, int n_in) {
  return (uint64_t)bst_stream_lanes(n_out) * 2 * bst_stream_pairs(n_in);
}

size_t bst_stream_conv_bias_bytes(int n_out) { return bst_stream_lanes(n_out) * sizeof(int64_t); }

void bst_stream_conv_prepare(int bits, int n_out, int n_in, const uint8_t* planes, int8_t* rows,
                             int64_t* bias) {
  const size_t lanes = bst_stream_lanes(n_out), n_rows = (size_t)n_in;
  bst_weight_conv_prepare_rows(bits, n_out, 1, n_in, planes, rows);
  memset(rows + n_rows * lanes, 0, n_in % 2 == 0 ? 0 : lanes);
  memset(bias, 0, lanes * sizeof *bias);
  for (size_t i = 0; i < n_rows * lanes; ++i) bias[i % lanes] += rows[i] * 32768;
}

size_t bst_stream_conv_scratch_bytes(int n_in) {
  return bst_stream_pairs(n_in) * 2 * BST_DOT_TOKENS * sizeof(uint32_t);
}

/// Halves of the inputs of four tokens: x = 2^16 high + low + 2^15 with int16 high and low. Word
/// [p][k] holds two inputs of the high half of token k, word [p][4 + k] of the low half. Where
/// there are fewer tokens the first stands for the others.
static void bst_stream_split(size_t n_tokens, size_t n_in, const int32_t* x, uint32_t* halves) {
  for (size_t k = 0; k < BST_DOT_TOKENS; ++k) {
    const int32_t* const from = x + (k < n_tokens ? k : 0) * n_in;
    uint32_t* to = halves + k;
    for (size_t i = 0; i < n_in; i += 2, to += 2 * BST_DOT_TOKENS) {
      const uint32_t a = (uint32_t)from[i], b = i + 1 < n_in ? (uint32_t)from[i + 1] : 0;
      to[0] = a >> 16 | (b & 0xFFFF0000);
      to[BST_DOT_TOKENS] = ((a & 0xFFFF) | b << 16) ^ 0x80008000;
    }
  }
}

/// n of four tokens and 64 outputs.
static void bst_stream_sums(size_t n_pairs, int bits, size_t lanes, const bst_stream_inner* inner,
                            const int8_t* rows, const int64_t* bias, const uint32_t* halves,
                            int64_t n[BST_DOT_TOKENS][BST_DOT_LANES]) {
  // 2 |x| |w| per pair, |x| <= 2^15 and |w| <= 2^(bits-1): so many pairs stay inside int32.
  const size_t most = ((size_t)1 << (16 - (bits < 2 ? 2 : bits))) - 1;
  int32_t sum[2 * BST_DOT_TOKENS][BST_DOT_LANES];
  for (size_t p = 0; p < n_pairs; p += most) {
    const size_t here = n_pairs - p < most ? n_pairs - p : most;
    inner->dot(here, lanes, rows + 2 * p * lanes, halves + p * 2 * BST_DOT_TOKENS, sum);
    for (size_t k = 0; k < BST_DOT_TOKENS; ++k) {
      const int64_t* const before = p == 0 ? bias : n[k];
      for (size_t i = 0; i < BST_DOT_LANES; ++i) {
        n[k][i] = before[i] + (int64_t)sum[k][i] * 65536 + sum[BST_DOT_TOKENS + k][i];
      }
    }
  }
}

void bst_stream_conv(int part, int n_parts, size_t n_cells, int bits, int n_in, int n_out,
                     const bst_stream_inner* inner, const int32_t* x, const int8_t* rows,
                     const int64_t* bias, const int32_t* gain, const uint8_t* shift,
                     const int32_t* offset, int32_t* out, uint32_t* halves) {
  const size_t lanes = bst_stream_lanes(n_out), i_in = (size_t)n_in, i_out = (size_t)n_out;
  const size_t n_pairs = bst_stream_pairs(n_in), end = bst_part_begin(part + 1, n_parts, n_cells);
  int64_t n[BST_DOT_TOKENS][BST_DOT_LANES];
  size_t cell = bst_part_begin(part, n_parts, n_cells), here;
  for (; cell < end; cell += here) {
    here = end - cell < BST_DOT_TOKENS ? end - cell : BST_DOT_TOKENS;
    bst_stream_split(here, i_in, x + cell * i_in, halves);
    for (size_t at = 0; at < i_out; at += BST_DOT_LANES) {
      const size_t left = i_out - at, exist = left < BST_DOT_LANES ? left : BST_DOT_LANES;
      bst_stream_sums(n_pairs, bits, lanes, inner, rows + at, bias + at, halves, n);
      for (size_t k = 0; k < here; ++k) {
        int32_t* const to = out + (cell + k) * i_out + at;
        for (size_t o = 0; o < exist; ++o) {
          const uint8_t s = shift[at + o];
          const int64_t half = (INT64_C(1) << s) >> 1;  // 0 where nothing is shifted
          const int64_t y = bst_add64(bst_mul64(n[k][o], gain[at + o]), half) >> s;
          to[o] = bst_add32(bst_wrap32(y), offset[at + o]);
        }
      }
    }
  }
}

// ---- Products of levels -------------------------------------------------------------------------

size_t bst_level_products_scratch_bytes(int n_tokens, int channels, int heads) {
  const size_t n = (size_t)n_tokens, d = (size_t)channels / (size_t)heads, longer = n > d ? n : d;
  return 2 * longer * sizeof(const int32_t*) + (2 * n * d + d + d * d) * sizeof(int32_t);
}

/// One row of a product: the rows of `of` whose factor is not 0, times it.
static void bst_weighted_rows(const bst_stream_inner* inner, size_t n, size_t d, size_t of_stride,
                              size_t by_stride, const int32_t* of, const int32_t* by,
                              const int32_t** rows, int32_t* out) {
  const int32_t** const factors = rows + n;
  size_t used = 0;
  for (size_t i = 0; i < n; ++i) {
    if (by[i * by_stride] == 0) continue;
    rows[used] = of + i * of_stride;
    factors[used++] = by + i * by_stride;
  }
  for (size_t at = 0; at < d; at += BST_DOT_LANES) {
    const size_t left = d - at, here = left < BST_DOT_LANES ? left : BST_DOT_LANES;
    inner->multiply_add(used, rows, factors, 1, at, here, out + at);
  }
}

void bst_level_products(int part, int n_parts, int n_steps, int n_tokens, int channels,
                        int n_planes, int heads, const bst_stream_inner* inner, const uint64_t* q,
                        const uint64_t* k, const uint64_t* v, int32_t* m, void* scratch) {
  const size_t n = (size_t)n_tokens, c = (size_t)channels, n_heads = (size_t)heads;
  const size_t d = c / n_heads, n_words = (c + 63) / 64, words = n_words * (size_t)n_planes;
  const size_t n_items = (size_t)n_steps * n_heads, longer = n > d ? n : d;
  const size_t end = bst_part_begin(part + 1, n_parts, n_items);
  const int32_t** const rows = scratch;
  int32_t *const keys = (int32_t*)(rows + 2 * longer), *const values = keys + n * d;
  int32_t *const query = values + n * d, *const pairs = query + d;
  for (size_t item = bst_part_begin(part, n_parts, n_items); item < end; ++item) {
    const size_t cells = item / n_heads * n, first = item % n_heads * d;
    for (size_t j = 0; j < n; ++j) {
      const size_t at = (cells + j) * words;
      bst_unpack_head(k + at, n_planes, n_words, first, d, keys + j * d);
      bst_unpack_head(v + at, n_planes, n_words, first, d, values + j * d);
    }
    for (size_t i = 0; i < d; ++i) {
      bst_weighted_rows(inner, n, d, d, d, values, keys + i, rows, pairs + i * d);
    }
    for (size_t j = 0; j < n; ++j) {
      bst_unpack_head(q + (cells + j) * words, n_planes, n_words, first, d, query);
      bst_weighted_rows(inner, d, d, d, 1, pairs, query, rows, m + (cells + j) * c + first);
    }
  }
}
