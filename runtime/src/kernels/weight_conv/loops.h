// SPDX-License-Identifier: MIT
// weight_conv of one instruction set. A body: included by its file, which has defined before it
//
//   BST_WC_WORDS                         words of 64 outputs that are summed in one pass
//   bst_wc_sum8(rows, stride, list, n, run, n_words, total)
//   bst_wc_sum16(rows, stride, list, n, n_words, total)
//                                        total[64 n_words] += rows of the list, int8 or int16;
//                                        sums of `run` int8 rows are int8
//
// on vectors (bst_vec, simd.h) or on plain arrays.
//
// Per output pixel the rows that meet a set bit are listed once, for each step and plane; per block
// of outputs the listed rows are added. Planes are taken from the highest down, the sum is doubled
// between them: n = sum of 2^p (sum of the rows of plane p).
//
// int8 rows go through int16 lanes: 255 rows of -128..127 stay within +-32640, so these lanes are
// emptied into int32 every BST_WC_RUN rows.

#ifndef BST_KERNELS_WEIGHT_CONV_LOOPS_H_
#define BST_KERNELS_WEIGHT_CONV_LOOPS_H_

#include "../spike_conv/geometry.h"
#include "weight_conv.h"

/// What the loops need to know: the geometry of one plane, and the planes of a cell.
typedef struct bst_wc {
  bst_conv_geometry g;
  size_t n_planes, cell_words, frame_words, n_lanes, list_items;
  bool wide;   ///< int16 rows
  size_t run;  ///< see bst_wc_sum8
  const void* rows;
} bst_wc;

static inline bst_wc bst_wc_of(int n_steps, int height, int width, int n_planes, int n_in,
                               int n_out, int kh, int kw, int stride, int pad, int bits,
                               const void* rows) {
  bst_wc c = {.g = bst_conv_geometry_of(n_steps, height, width, n_in, n_out, kh, kw, stride, pad),
              .n_planes = (size_t)n_planes,
              .wide = bits > 8,
              .run = bits > 8 ? 1 : (size_t)(127 >> (bits - 1)),
              .rows = rows};
  c.cell_words = c.n_planes * c.g.in_words;
  c.frame_words = (size_t)height * (size_t)width * c.cell_words;
  c.n_lanes = c.g.out_words * 64;
  c.list_items = bst_conv_fan_in(kh, kw, n_in);
  return c;
}

/// List the weight rows that meet a bit of one plane at output pixel (y, x); `frame` is one step.
/// @return their number
static inline size_t bst_wc_list(const bst_wc* c, const uint64_t* frame, size_t plane, int y, int x,
                                 uint32_t* list) {
  const bst_conv_geometry* const g = &c->g;
  size_t n = 0;
  for (int ky = 0; ky < g->kh; ++ky) {
    const int in_y = y * g->stride - g->pad + ky;
    if (in_y < 0 || in_y >= g->height) continue;
    for (int kx = 0; kx < g->kw; ++kx) {
      const int in_x = x * g->stride - g->pad + kx;
      if (in_x < 0 || in_x >= g->width) continue;
      const size_t cell = (size_t)in_y * (size_t)g->width + (size_t)in_x;
      const uint64_t* const words = frame + cell * c->cell_words + plane * g->in_words;
      const uint32_t first = (uint32_t)((ky * g->kw + kx) * g->n_in);
      n = bst_list_bits(words, g->in_words, first, list, n);
    }
  }
  return n;
}

/// Sums of outputs 64 word .. for the lists of one step, int32 [64 n_words].
/// @param list lists of all planes, `list_items` apart, @param n their lengths
BST_INLINE void bst_wc_sum(const bst_wc* c, size_t word, int n_words, const uint32_t* list,
                           const size_t* n, int32_t* total) {
  const size_t n_lanes = 64 * (size_t)n_words;
  memset(total, 0, n_lanes * sizeof *total);
  for (size_t plane = c->n_planes; plane-- > 0;) {
    const uint32_t* const rows = list + plane * c->list_items;
    if (plane + 1 < c->n_planes) {
      for (size_t i = 0; i < n_lanes; ++i) total[i] = bst_add32(total[i], total[i]);
    }
    if (c->wide) {
      bst_wc_sum16((const int16_t*)c->rows + 64 * word, c->n_lanes, rows, n[plane], n_words, total);
    } else {
      bst_wc_sum8((const int8_t*)c->rows + 64 * word, c->n_lanes, rows, n[plane], c->run, n_words,
                  total);
    }
  }
}

/// Words that are summed in one pass, of those that are left.
static inline int bst_wc_words(size_t left) {
  if (left >= BST_WC_WORDS) return BST_WC_WORDS;
  return BST_WC_WORDS > 2 && left >= 2 ? 2 : 1;
}

/// bst_wc_sum for what bst_wc_words gives, each a constant.
BST_NOINLINE void bst_wc_sum_words(const bst_wc* c, size_t word, int n_words, const uint32_t* list,
                                   const size_t* n, int32_t* total) {
  if (n_words == BST_WC_WORDS) {
    bst_wc_sum(c, word, BST_WC_WORDS, list, n, total);
  } else if (n_words == 2 && BST_WC_WORDS > 2) {
    bst_wc_sum(c, word, 2, list, n, total);
  } else {
    bst_wc_sum(c, word, 1, list, n, total);
  }
}

/// One step t (1-based) of 64 neurons (numerics.md 4).
/// @param theta     row (t, 0) of these lanes; row (t, s) lies `row_lanes * s` further
/// @param potential I_t-1 in, I_t out, @param last step of the last spike, updated
BST_INLINE uint64_t bst_wc_fire(int t, const int32_t* theta, size_t row_lanes, const int32_t* n,
                                int32_t* potential, int32_t* last) {
  int32_t threshold[64];
  uint8_t spike[64];
  memcpy(threshold, theta, sizeof threshold);
  for (int s = 1; s < t; ++s) {
    const int32_t* const row = theta + row_lanes * (size_t)s;
    for (int i = 0; i < 64; ++i) {
      threshold[i] = bst_select32(-(last[i] == s), row[i], threshold[i]);
    }
  }
  const int32_t just_before = t - 1;  // t = 1: the potential is 0 either way
  for (int i = 0; i < 64; ++i) {
    const int32_t kept = potential[i] & -(last[i] != just_before);
    const int32_t charged = bst_add32(kept, (int32_t)((uint32_t)n[i] << (t - 1)));
    const int32_t fired = -(charged >= threshold[i]);
    potential[i] = charged;
    last[i] = bst_select32(fired, t, last[i]);
    spike[i] = (uint8_t)(fired & 1);
  }
  return bst_pack_lanes(spike);
}

static inline void bst_wc_neuron_block(const bst_wc* c, size_t word, int n_words,
                                       const uint32_t* list, const size_t* n, const int32_t* theta,
                                       size_t out_frame, uint64_t* cell) {
  int32_t potential[64 * BST_WC_WORDS], last[64 * BST_WC_WORDS], total[64 * BST_WC_WORDS];
  memset(potential, 0, 64 * (size_t)n_words * sizeof *potential);
  memset(last, 0, 64 * (size_t)n_words * sizeof *last);
  const int32_t* row = theta + 64 * word;
  for (int t = 1; t <= c->g.n_steps; row += c->n_lanes * (size_t)t, ++t) {
    const size_t first = (size_t)(t - 1) * c->n_planes;
    bst_wc_sum_words(c, word, n_words, list + first * c->list_items, n + first, total);
    for (int j = 0; j < n_words; ++j) {
      cell[(size_t)(t - 1) * out_frame + word + (size_t)j] = bst_wc_fire(
          t, row + 64 * j, c->n_lanes, total + 64 * j, potential + 64 * j, last + 64 * j);
    }
  }
}

BST_INLINE void bst_wc_neuron_run(int part, int n_parts, const bst_wc* c, const uint64_t* spikes,
                                  const int32_t* theta, uint64_t* out, uint32_t* lists) {
  const bst_conv_geometry* const g = &c->g;
  const size_t out_frame = (size_t)g->out_h * (size_t)g->out_w * g->out_words;
  const uint64_t tail = g->n_out % 64 == 0 ? UINT64_MAX : (UINT64_C(1) << (g->n_out % 64)) - 1;
  const int end = bst_conv_first_row(g, part + 1, n_parts);
  size_t n[8 * 8];  // T <= 8 steps of up to 8 planes
  for (int y = bst_conv_first_row(g, part, n_parts); y < end; ++y) {
    for (int x = 0; x < g->out_w; ++x) {
      uint64_t* const cell = out + ((size_t)y * (size_t)g->out_w + (size_t)x) * g->out_words;
      for (size_t i = 0; i < (size_t)g->n_steps * c->n_planes; ++i) {
        const uint64_t* const frame = spikes + i / c->n_planes * c->frame_words;
        n[i] = bst_wc_list(c, frame, i % c->n_planes, y, x, lists + i * c->list_items);
      }
      for (size_t w = 0, n_here; w < g->out_words; w += n_here) {
        n_here = (size_t)bst_wc_words(g->out_words - w);
        bst_wc_neuron_block(c, w, (int)n_here, lists, n, theta, out_frame, cell);
      }
      for (int t = 0; t < g->n_steps; ++t) cell[(size_t)t * out_frame + g->out_words - 1] &= tail;
    }
  }
}

static inline void bst_wc_affine_block(const bst_wc* c, size_t word, int n_words,
                                       const uint32_t* list, const size_t* n, const int32_t* ai,
                                       const int16_t* af, const int32_t* b, int32_t* out) {
  int32_t total[64 * BST_WC_WORDS];
  bst_wc_sum_words(c, word, n_words, list, n, total);
  const size_t first = 64 * word, left = (size_t)c->g.n_out - first;
  const size_t n_lanes = left < 64 * (size_t)n_words ? left : 64 * (size_t)n_words;
  for (size_t i = 0; i < n_lanes; ++i) {
    const int64_t small = (int64_t)total[i] * af[first + i] + (1 << 14);
    // The low 32 bits of the floor shift are those of the logical one.
    const int32_t shifted = (int32_t)(uint32_t)((uint64_t)small >> 15);
    const int32_t scaled = bst_add32(bst_mul32(total[i], ai[first + i]), shifted);
    out[first + i] = bst_add32(scaled, b[first + i]);
  }
}

BST_INLINE void bst_wc_affine_run(int part, int n_parts, const bst_wc* c, const uint64_t* spikes,
                                  const int32_t* ai, const int16_t* af, const int32_t* b,
                                  int32_t* all, uint32_t* lists) {
  const bst_conv_geometry* const g = &c->g;
  const int first_y = bst_conv_first_row(g, part, n_parts);
  const int end = bst_conv_first_row(g, part + 1, n_parts);
  size_t n[8];
  for (int t = 0; t < g->n_steps; ++t, spikes += c->frame_words) {
    int32_t* out = all + (size_t)(t * g->out_h + first_y) * (size_t)g->out_w * (size_t)g->n_out;
    for (int y = first_y; y < end; ++y) {
      for (int x = 0; x < g->out_w; ++x, out += g->n_out) {
        for (size_t p = 0; p < c->n_planes; ++p) {
          n[p] = bst_wc_list(c, spikes, p, y, x, lists + p * c->list_items);
        }
        for (size_t w = 0, n_here; w < g->out_words; w += n_here) {
          n_here = (size_t)bst_wc_words(g->out_words - w);
          bst_wc_affine_block(c, w, (int)n_here, lists, n, ai, af, b, out);
        }
      }
    }
  }
}

// The kernels of one instruction set.

#define BST_DEFINE_WEIGHT_CONV_NEURON(name)                                                        \
  void name(int part, int n_parts, int n_steps, int height, int width, int n_planes, int n_in,     \
            int n_out, int kh, int kw, int stride, int pad, int bits, const uint64_t* spikes,      \
            const void* rows, const int32_t* theta, uint64_t* out, void* scratch) {                \
    const bst_wc c =                                                                               \
        bst_wc_of(n_steps, height, width, n_planes, n_in, n_out, kh, kw, stride, pad, bits, rows); \
    bst_wc_neuron_run(part, n_parts, &c, spikes, theta, out, scratch);                             \
  }

#define BST_DEFINE_WEIGHT_CONV_AFFINE(name)                                                        \
  void name(int part, int n_parts, int n_steps, int height, int width, int n_planes, int n_in,     \
            int n_out, int kh, int kw, int stride, int pad, int bits, const uint64_t* spikes,      \
            const void* rows, const int32_t* ai, const int16_t* af, const int32_t* b,              \
            int32_t* out, void* scratch) {                                                         \
    const bst_wc c =                                                                               \
        bst_wc_of(n_steps, height, width, n_planes, n_in, n_out, kh, kw, stride, pad, bits, rows); \
    bst_wc_affine_run(part, n_parts, &c, spikes, ai, af, b, out, scratch);                         \
  }

#endif  // BST_KERNELS_WEIGHT_CONV_LOOPS_H_
