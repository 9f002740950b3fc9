// SPDX-License-Identifier: MIT
// spike_conv on vectors. A body: included by avx2.c and neon.c after their vocabulary. Accumulator
// and neuron are those of scalar.c, lists and counters those of ../vector.h.
//
// Rows of weights lie in blocks of 8 words (512 outputs), block after block, each with its own row
// of zeros: u64 [blocks][kh * kw * n_in + 1][words of the block]. The last block is narrower, a
// whole number of vectors, zero beyond n_out: no vector reads outside.
//
// Lists. A window larger than one pixel sees every pixel kh * kw times, so image rows are listed
// once, kh of them at a time, and the list of an output pixel is put together from one slice per
// image row: entry + constant, because the columns of a window are neighbours in the weights too.
//
// Neuron. All steps of a vector of lanes at a time: `quiet[t]` masks the lanes that did not fire at
// step t, so the threshold of step t is row (t, s) of the last s that is not quiet, found by t - 1
// selections, and the potential is kept where t - 1 was quiet. The doubled count and its offset are
// scaled apart and wrap; their difference, the charge, does not: |I_t| <= (2^T - 1) fan-in, below
// 2^24. Where that bound is below 2^15 - 1 lanes are int16 and thresholds are cut to +-(2^15 - 1),
// which no |I_t| reaches; else lanes are int32.

#ifndef BST_KERNELS_SPIKE_CONV_SIMD_H_
#define BST_KERNELS_SPIKE_CONV_SIMD_H_

#include "../vector.h"
#include "geometry.h"
#include "scale.h"
#include "spike_conv.h"

// ---- Layouts ------------------------------------------------------------------------------------

/// Words of one row of the block that begins at word `first`.
static inline size_t bst_conv_block_words(size_t out_words, size_t first) {
  const size_t left = out_words - first;
  if (left >= BST_SUM_WORDS) return BST_SUM_WORDS;
  return (left + BST_VEC_WORDS - 1) / BST_VEC_WORDS * BST_VEC_WORDS;
}

/// Output words in whole vectors.
static inline size_t bst_conv_padded_words(int n_out) {
  return (bst_conv_words(n_out) + BST_VEC_WORDS - 1) / BST_VEC_WORDS * BST_VEC_WORDS;
}

static inline size_t bst_conv_block_rows_bytes(int n_out, int kh, int kw, int n_in) {
  const size_t n_rows = bst_conv_fan_in(kh, kw, n_in) + 1;
  return n_rows * bst_conv_padded_words(n_out) * sizeof(uint64_t);
}

static inline void bst_conv_prepare_block_rows(int n_out, int kh, int kw, int n_in,
                                               const uint8_t* bits, uint64_t* rows) {
  const size_t n_taps = (size_t)kh * (size_t)kw, in_bytes = ((size_t)n_in + 7) / 8;
  const size_t out_words = bst_conv_words(n_out), n_rows = bst_conv_fan_in(kh, kw, n_in) + 1;
  memset(rows, 0, bst_conv_block_rows_bytes(n_out, kh, kw, n_in));
  for (size_t first = 0; first < out_words; first += BST_SUM_WORDS) {
    const size_t left = (size_t)n_out - 64 * first;
    bst_conv_fill_rows(left < 64 * BST_SUM_WORDS ? left : 64 * BST_SUM_WORDS, n_taps, (size_t)n_in,
                       bits + 64 * first * n_taps * in_bytes,
                       bst_conv_block_words(out_words, first), rows + n_rows * first);
  }
}

/// Whether the neurons of a layer need int32; see the file head.
static inline bool bst_conv_is_wide(int n_steps, size_t fan_in) {
  return fan_in * ((UINT32_C(1) << n_steps) - 1) >= INT16_MAX;
}

static inline size_t bst_conv_vector_theta_bytes(int n_steps, int n_out, int fan_in) {
  (void)fan_in;
  const size_t n_rows = (size_t)n_steps * ((size_t)n_steps + 1) / 2;
  return n_rows * bst_conv_padded_words(n_out) * 64 * sizeof(int32_t);
}

/// Thresholds [T(T+1)/2][64 words in whole vectors] as int32 or int16, lanes in the order of
/// ../vector.h; never reached where there is no output.
static inline void bst_conv_prepare_vector_theta(int n_steps, int n_out, int kh, int kw, int n_in,
                                                 const uint8_t* bits, const int32_t* theta_u,
                                                 const int32_t* theta_w, int n_explicit,
                                                 const int32_t* index,
                                                 const int32_t* explicit_theta, void* theta) {
  (void)bits;
  const bool wide = bst_conv_is_wide(n_steps, bst_conv_fan_in(kh, kw, n_in));
  const size_t n_lanes = bst_conv_padded_words(n_out) * 64;
  const size_t n_rows = (size_t)n_steps * ((size_t)n_steps + 1) / 2;
  int32_t* const table32 = theta;
  int16_t* const table16 = theta;
  for (size_t i = 0; i < n_rows * n_lanes; ++i) {
    if (wide) {
      table32[i] = INT32_MAX;
    } else {
      table16[i] = INT16_MAX;
    }
  }
  int e = 0;
  for (int o = 0; o < n_out; ++o) {
    const size_t lane = (size_t)o % BST_VEC_BITS;
    size_t at = (size_t)o - lane + bst_vec_place(lane);
    const bool is_explicit = e < n_explicit && index[e] == o;
    for (int t = 1; t <= n_steps; ++t) {
      for (int s = 0; s < t; ++s, at += n_lanes) {
        const int32_t value =
            is_explicit ? *explicit_theta++ : bst_conv_threshold(theta_u[o], theta_w[o], t, s);
        if (wide) {
          table32[at] = value;
        } else {
          table16[at] = (int16_t)(value > INT16_MAX    ? INT16_MAX
                                  : value < -INT16_MAX ? -INT16_MAX
                                                       : value);
        }
      }
    }
    e += is_explicit;
  }
}

// ---- Lists --------------------------------------------------------------------------------------

/// Lists of the image rows that the windows of one row of outputs see; image row y is in slot
/// y % kh. Where the window is one pixel, none are kept.
typedef struct bst_conv_rows {
  uint32_t *entries, *starts;  // [T][kh][row_entries], [T][kh][width + 1]
  size_t row_entries;
  int n_listed;  // image rows 0 .. n_listed - 1 have been listed
} bst_conv_rows;

static inline uint64_t bst_conv_row_entries(int width, int n_in) {
  return (uint64_t)width * (uint64_t)n_in + BST_SUM_GROUP;
}

/// Bytes of the lists of pixels and rows; below 2^50 for any sizes that the caller lets through.
static inline uint64_t bst_conv_vector_scratch_bytes(int n_steps, int width, int kh, int kw,
                                                     int n_in) {
  uint64_t entries = bst_list_capacity(bst_conv_fan_in(kh, kw, n_in));
  if (kh * kw > 1) {
    entries += (uint64_t)kh * (bst_conv_row_entries(width, n_in) + (uint64_t)width + 1);
  }
  return (uint64_t)n_steps * entries * sizeof(uint32_t);
}

static inline bst_conv_rows bst_conv_rows_of(const bst_conv_geometry* g, uint32_t* scratch) {
  const size_t n_rows = (size_t)g->n_steps * (size_t)g->kh;
  bst_conv_rows rows = {.row_entries = (size_t)bst_conv_row_entries(g->width, g->n_in)};
  rows.entries = scratch + (size_t)g->n_steps * g->list_capacity;
  rows.starts = rows.entries + n_rows * rows.row_entries;
  return rows;
}

/// List the image rows up to `end` (excluded) that have not been listed.
static inline void bst_conv_list_rows(const bst_conv_geometry* g, const uint64_t* spikes, int end,
                                      bst_conv_rows* rows) {
  const size_t row_words = (size_t)g->width * g->in_words;
  for (; rows->n_listed < end; ++rows->n_listed) {
    for (int t = 0; t < g->n_steps; ++t) {
      const size_t slot = (size_t)(t * g->kh + rows->n_listed % g->kh);
      uint32_t* const list = rows->entries + slot * rows->row_entries;
      uint32_t* const starts = rows->starts + slot * ((size_t)g->width + 1);
      const uint64_t* pixel = spikes + (size_t)(t * g->height + rows->n_listed) * row_words;
      size_t n = 0;
      for (int x = 0; x < g->width; ++x, pixel += g->in_words) {
        starts[x] = (uint32_t)n;
        n = bst_vec_list_bits(pixel, g->in_words, (uint32_t)(x * g->n_in) * BST_VEC_ENTRY, list, n);
      }
      starts[g->width] = (uint32_t)n;
    }
  }
}

/// The events of output pixel (y, x) at step t, put together from the lists of rows.
static inline size_t bst_conv_join_rows(const bst_conv_geometry* g, const bst_conv_rows* rows,
                                        int t, int y, int x, uint32_t* list) {
  const int first_y = y * g->stride - g->pad, first_x = x * g->stride - g->pad;
  const int from = first_x < 0 ? 0 : first_x;
  const int to = first_x + g->kw < g->width ? first_x + g->kw : g->width;
  size_t n = 0;
  for (int ky = 0; ky < g->kh; ++ky) {
    const int in_y = first_y + ky;
    if (in_y < 0 || in_y >= g->height || from >= to) continue;
    const size_t slot = (size_t)(t * g->kh + in_y % g->kh);
    const uint32_t* const starts = rows->starts + slot * ((size_t)g->width + 1);
    const uint32_t shift = (uint32_t)((ky * g->kw - first_x) * g->n_in) * BST_VEC_ENTRY;
    n = bst_vec_list_copy(rows->entries + slot * rows->row_entries + starts[from],
                          starts[to] - starts[from], shift, list, n);
  }
  return n;
}

/// The padded lists of all steps of output pixel (y, x).
static inline void bst_conv_list_pixel(const bst_conv_geometry* g, const uint64_t* spikes,
                                       const bst_conv_rows* rows, int y, int x, uint32_t* scratch,
                                       bst_conv_events* events) {
  const size_t fan_in = bst_conv_fan_in(g->kh, g->kw, g->n_in);
  const int in_y = y * g->stride - g->pad, in_x = x * g->stride - g->pad;
  const bool inside = in_y >= 0 && in_y < g->height && in_x >= 0 && in_x < g->width;
  for (int t = 0; t < g->n_steps; ++t) {
    uint32_t* const list = scratch + (size_t)t * g->list_capacity;
    size_t n = 0;
    if (g->kh * g->kw > 1) {
      n = bst_conv_join_rows(g, rows, t, y, x, list);
    } else if (inside) {
      const size_t cell = (size_t)(t * g->height + in_y) * (size_t)g->width + (size_t)in_x;
      n = bst_vec_list_bits(spikes + cell * g->in_words, g->in_words, 0, list, 0);
    }
    events->list[t] = list;
    events->n_events[t] = n;
    events->n_padded[t] = bst_pad_list((uint32_t)fan_in * BST_VEC_ENTRY, list, n);
  }
}

/// First image row that output row y needs.
static inline int bst_conv_first_listed(const bst_conv_geometry* g, int y) {
  const int first = y * g->stride - g->pad;
  return first < 0 ? 0 : first;
}

/// List the image rows that output row y needs; nothing where the window is one pixel.
static inline void bst_conv_list_for(const bst_conv_geometry* g, const uint64_t* spikes, int y,
                                     bst_conv_rows* rows) {
  const int end = y * g->stride - g->pad + g->kh;
  if (g->kh * g->kw > 1) bst_conv_list_rows(g, spikes, end < g->height ? end : g->height, rows);
}

// ---- Sums ---------------------------------------------------------------------------------------

enum { BST_CONV_COLUMNS = 2, BST_CONV_PIECE_WORDS = BST_CONV_COLUMNS * BST_VEC_WORDS };

/// A piece of a block of rows: up to two vectors of words.
typedef struct bst_conv_piece {
  const uint64_t* rows;  // its first word of row 0
  size_t row_words, first_word, n_words;
  int n_columns;
} bst_conv_piece;

/// The piece that begins at word `first` of the outputs.
static inline bst_conv_piece bst_conv_piece_at(const bst_conv_geometry* g, const uint64_t* rows,
                                               size_t first) {
  const size_t n_rows = bst_conv_fan_in(g->kh, g->kw, g->n_in) + 1;
  const size_t block = first / BST_SUM_WORDS * BST_SUM_WORDS, left = g->out_words - first;
  const bst_conv_piece piece = {
      .rows = rows + n_rows * block + (first - block),
      .row_words = bst_conv_block_words(g->out_words, block),
      .first_word = first,
      .n_words = left < BST_CONV_PIECE_WORDS ? left : BST_CONV_PIECE_WORDS,
      .n_columns = left > BST_VEC_WORDS ? 2 : 1,
  };
  return piece;
}

/// Sum the rows of one step. Row widths are constants where they can be: they become part of the
/// address.
static inline void bst_conv_sum(const bst_conv_piece* piece, const bst_conv_events* events, int t,
                                int n_planes, bst_vec planes[][BST_VEC_MAX_PLANES]) {
  const uint32_t* const list = events->list[t];
  const size_t n = events->n_padded[t], n_row_words = piece->row_words;
  if (piece->n_columns == 1) {
    const size_t only = BST_VEC_WORDS == 4 ? 4 : n_row_words;
    bst_vec_sum_rows(piece->rows, only, 1, list, n, n_planes, planes);
  } else if (n_row_words == BST_SUM_WORDS) {
    bst_vec_sum_rows(piece->rows, BST_SUM_WORDS, 2, list, n, n_planes, planes);
  } else {
    bst_vec_sum_rows(piece->rows, n_row_words, 2, list, n, n_planes, planes);
  }
}

// ---- Neuron -------------------------------------------------------------------------------------

/// All steps of the neurons of one vector of lanes; see the file head.
/// @param theta     thresholds of the first lane, rows `theta_row` bytes apart
/// @param counts    [n_steps] vectors of lanes
/// @param n_events  [n_steps]
/// @param n_words   words of outputs, 1 .. BST_VEC_WORDS
/// @param out       words of step 1, steps `out_step` apart
static inline void bst_conv_fire(bool wide, int n_steps, const uint8_t* theta, size_t theta_row,
                                 const uint8_t* counts, const size_t* n_events, size_t n_words,
                                 uint64_t* out, size_t out_step) {
  const size_t item = wide ? 4 : 2, n_parts = (size_t)bst_vec_n_parts(wide);
  const size_t n_used = (n_words * n_parts + BST_VEC_WORDS - 1) / BST_VEC_WORDS;
  bst_vec offset[8], spikes[8], quiet[8][BST_VEC_MAX_PARTS];
  for (int t = 0; t < n_steps; ++t) {
    offset[t] = bst_vec_set(wide, (int32_t)(n_events[t] << t));
    spikes[t] = bst_vec_zero();
    for (size_t j = 0; j < n_parts; ++j) quiet[t][j] = bst_vec_set(wide, -1);
  }
  for (size_t k = 0; k < 8; ++k) {
    for (size_t j = 0; j < n_used; ++j) {
      const size_t place = k * BST_VEC_BYTES * item + j * BST_VEC_BYTES;
      const uint8_t *row = theta + place, *count = counts + place;
      bst_vec potential = bst_vec_zero();
      for (int t = 0; t < n_steps; ++t, count += BST_VEC_BITS * item) {
        bst_vec threshold = bst_vec_load(row);
        row += theta_row;
        for (int s = 0; s < t; ++s, row += theta_row) {
          threshold = bst_vec_select(quiet[s][j], threshold, bst_vec_load(row));
        }
        const bst_vec doubled = bst_vec_up(wide, bst_vec_load(count), t + 1);
        const bst_vec added = bst_vec_sub(wide, doubled, offset[t]);
        const bst_vec charged = bst_vec_add(wide, potential, added);
        quiet[t][j] = bst_vec_greater(wide, threshold, charged);
        potential = bst_vec_and(quiet[t][j], charged);
      }
    }
    const bst_vec bit = bst_vec_set8(1U << k);
    for (int t = 0; t < n_steps; ++t) {
      const bst_vec fired = bst_vec_clear(bit, bst_vec_narrow_masks(wide, quiet[t]));
      spikes[t] = bst_vec_or(spikes[t], fired);
    }
  }
  for (int t = 0; t < n_steps; ++t, out += out_step) {
    uint64_t words[BST_VEC_WORDS];
    bst_vec_store(words, spikes[t]);
    memcpy(out, words, n_words * sizeof *words);
  }
}

/// All steps of one output pixel and one piece of outputs.
/// @param out word 0 of the pixel
static inline void bst_conv_neuron_piece(bool wide, int n_steps, const bst_conv_geometry* g,
                                         const bst_conv_events* events, const bst_conv_piece* piece,
                                         const uint8_t* theta, uint64_t* out) {
  const size_t item = wide ? 4 : 2;
  const size_t out_step = (size_t)g->out_h * (size_t)g->out_w * g->out_words;
  const size_t theta_row = bst_conv_padded_words(g->n_out) * 64 * item;
  bst_vec planes[BST_CONV_COLUMNS][BST_VEC_MAX_PLANES];
  bst_vec counts[BST_CONV_COLUMNS][8][32];  // BST_VEC_BITS int32; int16 use half
  uint8_t* const bytes[BST_CONV_COLUMNS] = {(uint8_t*)counts[0], (uint8_t*)counts[1]};
  for (int t = 0; t < n_steps; ++t) {
    const int n_planes = bst_bit_length(events->n_events[t]);
    bst_conv_sum(piece, events, t, n_planes, planes);
    for (int c = 0; c < piece->n_columns; ++c) {
      bst_vec_unpack(wide, false, planes[c], n_planes, bytes[c] + (size_t)t * BST_VEC_BITS * item);
    }
  }
  for (int c = 0; c < piece->n_columns; ++c) {
    const size_t done = (size_t)c * BST_VEC_WORDS, first = piece->first_word + done;
    const size_t left = piece->n_words - done;
    bst_conv_fire(wide, n_steps, theta + first * 64 * item, theta_row, bytes[c], events->n_events,
                  left < BST_VEC_WORDS ? left : BST_VEC_WORDS, out + first, out_step);
  }
}

static inline void bst_conv_neuron_vector(int part, int n_parts, int n_steps, int height, int width,
                                          int n_in, int n_out, int kh, int kw, int stride, int pad, int periodic,
                                          const uint64_t* spikes, const uint64_t* rows,
                                          const void* theta, uint64_t* out, void* scratch) {
  (void)periodic;
  const bst_conv_geometry g =
      bst_conv_geometry_of(n_steps, height, width, n_in, n_out, kh, kw, stride, pad);
  const bool wide = bst_conv_is_wide(n_steps, bst_conv_fan_in(kh, kw, n_in));
  bst_conv_rows lists = bst_conv_rows_of(&g, scratch);
  bst_conv_events events;
  const int first_y = bst_conv_first_row(&g, part, n_parts);
  const int end_y = bst_conv_first_row(&g, part + 1, n_parts);
  lists.n_listed = bst_conv_first_listed(&g, first_y);
  out += (size_t)first_y * (size_t)g.out_w * g.out_words;
  for (int y = first_y; y < end_y; ++y) {
    bst_conv_list_for(&g, spikes, y, &lists);
    for (int x = 0; x < g.out_w; ++x, out += g.out_words) {
      bst_conv_list_pixel(&g, spikes, &lists, y, x, scratch, &events);
      for (size_t first = 0; first < g.out_words; first += BST_CONV_PIECE_WORDS) {
        const bst_conv_piece piece = bst_conv_piece_at(&g, rows, first);
        if (wide) {
          bst_conv_neuron_piece(true, n_steps, &g, &events, &piece, theta, out);
        } else if (n_steps == 4) {  // the usual T: unrolled
          bst_conv_neuron_piece(false, 4, &g, &events, &piece, theta, out);
        } else {
          bst_conv_neuron_piece(false, n_steps, &g, &events, &piece, theta, out);
        }
      }
    }
  }
}

// ---- Affine -------------------------------------------------------------------------------------

/// Rows first_y .. end_y - 1 of one step; `out` [out_h, out_w, n_out].
static inline void bst_conv_affine_step(const bst_conv_geometry* g, int first_y, int end_y,
                                        const uint64_t* spikes, const uint64_t* rows,
                                        const int32_t* ai, const int16_t* af, const int32_t* b,
                                        int32_t* out, void* scratch) {
  bst_vec planes[BST_CONV_COLUMNS][BST_VEC_MAX_PLANES];
  int32_t count[BST_VEC_BITS];
  bst_conv_rows lists = bst_conv_rows_of(g, scratch);
  bst_conv_events events;
  lists.n_listed = bst_conv_first_listed(g, first_y);
  out += (size_t)first_y * (size_t)g->out_w * (size_t)g->n_out;
  for (int y = first_y; y < end_y; ++y) {
    bst_conv_list_for(g, spikes, y, &lists);
    for (int x = 0; x < g->out_w; ++x, out += g->n_out) {
      bst_conv_list_pixel(g, spikes, &lists, y, x, scratch, &events);
      const int n_planes = bst_bit_length(events.n_events[0]);
      for (size_t first = 0; first < g->out_words; first += BST_CONV_PIECE_WORDS) {
        const bst_conv_piece piece = bst_conv_piece_at(g, rows, first);
        bst_conv_sum(&piece, &events, 0, n_planes, planes);
        for (int c = 0; c < piece.n_columns; ++c) {
          const size_t lane = 64 * first + (size_t)c * BST_VEC_BITS;
          const size_t left = (size_t)g->n_out - lane;
          bst_vec_unpack(true, true, planes[c], n_planes, count);
          bst_bits_scale(count, (int32_t)events.n_events[0],
                         left < BST_VEC_BITS ? left : BST_VEC_BITS, ai + lane, af + lane, b + lane,
                         out + lane);
        }
      }
    }
  }
}

static inline void bst_conv_affine_vector(int part, int n_parts, int n_steps, int height, int width,
                                          int n_in, int n_out, int kh, int kw, int stride, int pad,
                                          const uint64_t* spikes, const uint64_t* rows,
                                          const int32_t* ai, const int16_t* af, const int32_t* b,
                                          int32_t* out, void* scratch) {
  const bst_conv_geometry step =
      bst_conv_geometry_of(1, height, width, n_in, n_out, kh, kw, stride, pad);
  const size_t in_frame = (size_t)height * (size_t)width * step.in_words;
  const size_t out_frame = (size_t)step.out_h * (size_t)step.out_w * (size_t)n_out;
  const int first_y = bst_conv_first_row(&step, part, n_parts);
  const int end_y = bst_conv_first_row(&step, part + 1, n_parts);
  for (int t = 0; t < n_steps; ++t, spikes += in_frame, out += out_frame) {
    bst_conv_affine_step(&step, first_y, end_y, spikes, rows, ai, af, b, out, scratch);
  }
}

#endif  // BST_KERNELS_SPIKE_CONV_SIMD_H_
