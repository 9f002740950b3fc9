// SPDX-License-Identifier: MIT
// spike_conv, event-driven and bit-sliced from the packed spikes of the input to those of the
// output. A body: included by the file of one instruction set after its vocabulary,
//   bst_bits              a vector of BST_BITS_WORDS words, one lane a bit; operators & | ^ ~
//   bst_bits_add, bst_bits_select, bst_bits_less   full adder, choice, borrow, lane by lane
//   bst_sum_pieces        functions of sum.h per width of rows, narrowest first
//   bst_bits_list, bst_bits_copy                   making lists
//
// Weights lie in blocks of BST_BITS_WORDS words of outputs; the last block is as narrow as a piece
// allows. Per block: one row of bits per input of the window, a row of zeros that pads lists, and
// the planes of `total`, the number of +1 weights of each output.
//
// Lists. Outputs are taken in tiles of neighbouring pixels. A tile's lists of active inputs are
// made once, for all steps and all blocks; then each block runs over the tile while its rows are in
// cache. Where a window is larger than a pixel, image rows are listed once and a window's list is
// put together from one slice per image row. Where more than half of a whole window is active, its
// silent inputs are listed instead: with P_z of them under a +1 weight, P = total - P_z.
//
// Narrow outputs. Several pixels share a vector, so that no lane idles in the neuron. Where their
// windows overlap they are one strip, listed and added up once: a row of weights then holds, for
// each pixel of the strip, the weights of the tap under which it sees that input, or zeros. Else
// the counters of the pixels are added up one after the other and meet in the vector.
//
// Periodic trains. Behind the encoder of a still image an input fires at p, 2p, 3p, .. or never
// (../stem_neuron). Step t then counts the inputs of the periods that divide t: each active input
// is added once, to the counters of its period, and counters are added up per step.
//
// Neuron (numerics.md 4), exact on planes. With S active inputs n = 2P - S. Counters begin at
// -ceil(S/2), so that they end as P' = P - ceil(S/2) and n = 2P' + (S odd): its planes are the
// parity of S below those of P'. I_t = (spiked at t-1 ? 0 : I_t-1) + 2^(t-1) n_t is an addition of
// planes shifted by t - 1; it fires iff I_t >= Theta[t, s], whose planes are selected by the spikes
// since, s the last of them, and subtracted for the borrow alone. |P'| < 2^(k-1) for k planes with
// S < 2^k, hence |I_t| <= (2^t - 1)(2^k - 1): k + 1 planes at t = 1, k + t + 1 later. Theta needs
// no more planes than hold every reachable I_t of its channels, and neither does I_t.

#ifndef BST_KERNELS_SPIKE_CONV_SLICED_H_
#define BST_KERNELS_SPIKE_CONV_SLICED_H_

#include <stdbool.h>

#include "geometry.h"
#include "spike_conv.h"

enum {
  BST_TILE_PLACES = 32,
  BST_TILE_ENTRIES = 8192,  // of lists, beyond those of one pixel
  BST_LIST_SLACK = 64,      // entries that may be written beyond the end of a list
  BST_CONV_MAX_T = 16,
  BST_MAX_KERNEL_ROWS = 15,
  BST_CONV_NEURON_T = 8,
  BST_BITS_BYTES = BST_BITS_WORDS * 8,
};

// ---- Layouts ------------------------------------------------------------------------------------

/// Words of one row of the block that begins at word `first`.
static inline size_t bst_block_words(size_t out_words, size_t first) {
  const size_t left = out_words - first;
  size_t words = BST_BITS_WORDS;
  while (words / 2 >= left && words / 2 >= BST_NARROWEST_WORDS) words /= 2;
  return words;
}

/// Output words in whole rows of blocks.
static inline size_t bst_blocks_words(int n_out) {
  const size_t words = bst_conv_words(n_out), last = (words - 1) / BST_BITS_WORDS * BST_BITS_WORDS;
  return last + bst_block_words(words, last);
}

/// Rows of a block: weights, zeros, planes of `total`.
static inline size_t bst_block_rows(size_t fan_in) { return fan_in + 1 + BST_MAX_SLICED_PLANES; }

static inline bool bst_fits_lists(size_t fan_in) { return fan_in < BST_MAX_ENTRY_ROWS; }

/// Neighbouring outputs of a row of pixels that share a vector, and what they see together.
typedef struct bst_strip {
  int n_pixels;  // 1: no strips
  int columns;   // of the image
  size_t fan_in;
} bst_strip;

static inline bst_strip bst_strip_of(int n_out, int kh, int kw, int n_in, int stride) {
  const int n = (int)(BST_BITS_WORDS / bst_block_words(bst_conv_words(n_out), 0));
  const int columns = kw + (n - 1) * stride;
  const bst_strip one = {1, kw, bst_conv_fan_in(kh, kw, n_in)};
  const bst_strip all = {n, columns, bst_conv_fan_in(kh, columns, n_in)};
  return n > 1 && kw > stride && bst_fits_lists(all.fan_in) ? all : one;
}

static inline size_t bst_sliced_rows_bytes(int n_out, int kh, int kw, int n_in, int stride) {
  const bst_strip strip = bst_strip_of(n_out, kh, kw, n_in, stride);
  const size_t words = strip.n_pixels > 1 ? BST_BITS_WORDS : bst_blocks_words(n_out);
  return bst_block_rows(strip.fan_in) * words * sizeof(uint64_t);
}

static inline uint32_t bst_ones(const uint8_t* bytes, size_t n) {
  uint32_t ones = 0;
  for (size_t i = 0; i < n; ++i) {
    for (unsigned b = bytes[i]; b != 0; b &= b - 1) ++ones;
  }
  return ones;
}

/// Outputs `n_here` of one pixel of a block: weights and planes of `total`, from the first of its
/// words in the rows on.
/// @param at place of the pixel in the strip
static inline void bst_fill_block(const bst_strip* strip, size_t n_here, int kh, int kw, int n_in,
                                  int stride, int at, const uint8_t* bits, size_t row_words,
                                  uint64_t* rows) {
  const size_t n_taps = (size_t)kh * (size_t)kw, out_bytes = n_taps * (((size_t)n_in + 7) / 8);
  uint64_t* const total = rows + (strip->fan_in + 1) * row_words;
  bst_conv_fill_rows(n_here, n_taps, (size_t)n_in, bits, (size_t)kw, (size_t)strip->columns,
                     (size_t)(at * stride), row_words, rows);
  for (size_t o = 0; o < n_here; ++o, bits += out_bytes) {
    const uint64_t ones = bst_ones(bits, out_bytes);
    for (int p = 0; p < BST_MAX_SLICED_PLANES; ++p) {
      total[(size_t)p * row_words + o / 64] |= (ones >> p & 1) << (o % 64);
    }
  }
}

static inline void bst_sliced_prepare_rows(int n_out, int kh, int kw, int n_in, int stride,
                                           const uint8_t* bits, uint64_t* rows) {
  const bst_strip strip = bst_strip_of(n_out, kh, kw, n_in, stride);
  const size_t words = bst_conv_words(n_out), narrow = bst_block_words(words, 0);
  const size_t out_bytes = (size_t)kh * (size_t)kw * (((size_t)n_in + 7) / 8);
  memset(rows, 0, bst_sliced_rows_bytes(n_out, kh, kw, n_in, stride));
  for (int at = 0; at < strip.n_pixels && strip.n_pixels > 1; ++at) {
    bst_fill_block(&strip, (size_t)n_out, kh, kw, n_in, stride, at, bits, BST_BITS_WORDS,
                   rows + (size_t)at * narrow);
  }
  if (strip.n_pixels > 1) return;
  for (size_t first = 0; first < words; first += BST_BITS_WORDS) {
    const size_t left = (size_t)n_out - 64 * first, row = bst_block_words(words, first);
    const size_t n_here = left < 64 * row ? left : 64 * row;
    bst_fill_block(&strip, n_here, kh, kw, n_in, stride, 0, bits, row, rows);
    bits += n_here * out_bytes;
    rows += bst_block_rows(strip.fan_in) * row;
  }
}

/// Head of the prepared thresholds; planes follow at BST_THETA_HEAD_BYTES.
typedef struct bst_theta_head {
  int32_t widths[BST_CONV_NEURON_T];  // planes of Theta[t, .] with its sign
  uint64_t block_planes;              // planes of one block
} bst_theta_head;

enum { BST_THETA_HEAD_BYTES = 64 };
_Static_assert(sizeof(bst_theta_head) <= BST_THETA_HEAD_BYTES, "head of the thresholds");

static inline size_t bst_n_blocks(int n_out) {
  return (bst_conv_words(n_out) + BST_BITS_WORDS - 1) / BST_BITS_WORDS;
}

/// Planes of a signed number in -most - 1 .. most + 1.
static inline int bst_signed_planes(uint64_t most) { return bst_bit_length((size_t)most + 1) + 1; }

static inline size_t bst_sliced_theta_bytes(int n_steps, int n_out, int fan_in) {
  size_t planes = 0;
  for (int t = 1; t <= n_steps; ++t) {
    planes += (size_t)t * (size_t)bst_signed_planes((uint64_t)fan_in * ((1U << t) - 1));
  }
  return BST_THETA_HEAD_BYTES + bst_n_blocks(n_out) * planes * BST_BITS_BYTES;
}

/// Theta of one output as bits of the planes of its block, in every copy of its lane. Planes are
/// [t][plane][s].
static inline void bst_sliced_put_theta(const bst_theta_head* head, int n_steps, size_t row_words,
                                        size_t lane, const int32_t* theta, uint64_t* planes) {
  for (int t = 1; t <= n_steps; ++t, theta += t - 1) {
    const int width = head->widths[t - 1];
    const int32_t top = (int32_t)((UINT32_C(1) << (width - 1)) - 1);
    for (int s = 0; s < t; ++s) {
      const int32_t cut = theta[s] > top ? top : theta[s] < -top - 1 ? -top - 1 : theta[s];
      for (int p = 0; p < width; ++p) {
        const uint64_t bit = (uint64_t)((uint32_t)cut >> p & 1) << (lane % 64);
        uint64_t* const words = planes + (size_t)(p * t + s) * BST_BITS_WORDS + lane / 64;
        for (size_t k = 0; k < BST_BITS_WORDS; k += row_words) words[k] |= bit;
      }
    }
    planes += (size_t)(width * t) * BST_BITS_WORDS;
  }
}

static inline void bst_sliced_prepare_theta(int n_steps, int n_out, int kh, int kw, int n_in,
                                            const uint8_t* bits, const int32_t* theta_u,
                                            const int32_t* theta_w, int n_explicit,
                                            const int32_t* index, const int32_t* explicit_theta,
                                            void* memory) {
  const size_t out_bytes = (size_t)kh * (size_t)kw * (((size_t)n_in + 7) / 8);
  const uint32_t fan_in = (uint32_t)bst_conv_fan_in(kh, kw, n_in);
  uint32_t most = 0;  // the largest |n| of any channel: that many weights of one sign
  for (size_t o = 0; o < (size_t)n_out; ++o) {
    const uint32_t ones = bst_ones(bits + o * out_bytes, out_bytes);
    const uint32_t larger = ones > fan_in - ones ? ones : fan_in - ones;
    most = larger > most ? larger : most;
  }
  bst_theta_head head = {{0}, 0};
  for (int t = 1; t <= n_steps; ++t) {
    head.widths[t - 1] = bst_signed_planes((uint64_t)most * ((1U << t) - 1));
    head.block_planes += (uint64_t)(t * head.widths[t - 1]);
  }
  memset(memory, 0, bst_sliced_theta_bytes(n_steps, n_out, (int)fan_in));
  memcpy(memory, &head, sizeof head);
  uint64_t* const planes = (uint64_t*)memory + BST_THETA_HEAD_BYTES / 8;
  const size_t words = bst_conv_words(n_out);
  int e = 0;
  for (int o = 0; o < n_out; ++o) {
    int32_t theta[BST_CONV_NEURON_T * (BST_CONV_NEURON_T + 1) / 2], n = 0;
    const bool is_explicit = e < n_explicit && index[e] == o;
    for (int t = 1; t <= n_steps; ++t) {
      for (int s = 0; s < t; ++s, ++n) {
        theta[n] =
            is_explicit ? *explicit_theta++ : bst_conv_threshold(theta_u[o], theta_w[o], t, s);
      }
    }
    e += is_explicit;
    const size_t block = (size_t)o / 64 / BST_BITS_WORDS, first = block * BST_BITS_WORDS;
    bst_sliced_put_theta(&head, n_steps, bst_block_words(words, first), (size_t)o - 64 * first,
                         theta, planes + block * (size_t)head.block_planes * BST_BITS_WORDS);
  }
}

// ---- Lists of image rows ------------------------------------------------------------------------

/// Lists of the image rows that the windows of one row of outputs see; image row y is in slot
/// y % kh. Where the window is one pixel, none are kept.
typedef struct bst_row_lists {
  bst_entry* entries;  // [T][kh][row_entries]
  uint32_t* starts;    // [T][kh][width + 1]
  size_t row_entries;
  int n_listed;          // image rows below this have been listed
  int first_ky, end_ky;  // rows of the window that lie inside the image, and their slots
  int slot[BST_MAX_KERNEL_ROWS];
} bst_row_lists;

static inline uint64_t bst_row_entries(int width, int n_in) {
  return (uint64_t)width * (uint64_t)n_in + BST_LIST_SLACK;
}

/// Entries of one pixel's lists of all steps.
static inline uint64_t bst_pixel_entries(int n_steps, uint64_t fan_in) {
  return (uint64_t)n_steps * (fan_in + BST_LIST_SLACK);
}

static inline uint64_t bst_tile_entries(int n_steps, uint64_t fan_in) {
  const uint64_t pixel = bst_pixel_entries(n_steps, fan_in);
  const uint64_t others = (BST_TILE_PLACES - 1) * pixel;
  return pixel + (others < BST_TILE_ENTRIES ? others : BST_TILE_ENTRIES);
}

/// Bytes of starts, lists of a tile, lists of rows; below 2^50 for any sizes that the caller lets
/// through.
static inline uint64_t bst_sliced_scratch_bytes(int n_steps, int width, int n_out, int kh, int kw,
                                                int n_in, int stride) {
  uint64_t entries = bst_tile_entries(n_steps, bst_strip_of(n_out, kh, kw, n_in, stride).fan_in);
  if (kh * kw > 1) {
    entries += (uint64_t)n_steps * (uint64_t)kh *
               (bst_row_entries(width, n_in) + 2 * ((uint64_t)width + 1));
  }
  return entries * sizeof(bst_entry);
}

/// Spikes of a pixel at step t (from 0). With `periodic`, the inputs of period t + 1: those that
/// fire at it and at none of its divisors.
static inline void bst_pixel_words(const bst_conv_geometry* g, bool periodic,
                                   const uint64_t* spikes, size_t frame_words, int t, size_t n,
                                   uint64_t* words) {
  const uint64_t* const here = spikes + (size_t)t * frame_words;
  (void)g;
  for (size_t w = 0; w < n; ++w) words[w] = here[w];
  if (!periodic) return;
  for (int d = 1; d <= (t + 1) / 2; ++d) {
    if ((t + 1) % d != 0) continue;
    const uint64_t* const before = spikes + (size_t)(d - 1) * frame_words;
    for (size_t w = 0; w < n; ++w) words[w] &= ~before[w];
  }
}

/// Append the spikes of one pixel, entries from `first` on.
static inline size_t bst_list_pixel(const bst_conv_geometry* g, bool periodic,
                                    const uint64_t* pixel, size_t frame_words, int t,
                                    bst_entry first, bst_entry* list, size_t n) {
  if (!periodic) {
    return bst_bits_list(pixel + (size_t)t * frame_words, g->in_words, first, list, n);
  }
  enum { PIECE = 16 };
  uint64_t words[PIECE];
  for (size_t w = 0; w < g->in_words; w += PIECE) {
    const size_t left = g->in_words - w, n_here = left < PIECE ? left : PIECE;
    bst_pixel_words(g, true, pixel + w, frame_words, t, n_here, words);
    n = bst_bits_list(words, n_here, (bst_entry)(first + 64 * w * BST_ENTRY), list, n);
  }
  return n;
}

/// List the image rows up to `end` (excluded) that have not been listed.
static inline void bst_list_rows(const bst_conv_geometry* g, bool periodic, const uint64_t* spikes,
                                 int end, bst_row_lists* rows) {
  const size_t row_words = (size_t)g->width * g->in_words;
  const size_t frame_words = (size_t)g->height * row_words;
  for (; rows->n_listed < end; ++rows->n_listed) {
    for (int t = 0; t < g->n_steps; ++t) {
      const size_t slot = (size_t)(t * g->kh + rows->n_listed % g->kh);
      bst_entry* const list = rows->entries + slot * rows->row_entries;
      uint32_t* const starts = rows->starts + slot * ((size_t)g->width + 1);
      const uint64_t* pixel = spikes + (size_t)rows->n_listed * row_words;
      size_t n = 0;
      for (int x = 0; x < g->width; ++x, pixel += g->in_words) {
        starts[x] = (uint32_t)n;
        n = bst_list_pixel(g, periodic, pixel, frame_words, t, (bst_entry)(x * g->n_in * BST_ENTRY),
                           list, n);
      }
      starts[g->width] = (uint32_t)n;
    }
  }
}

/// Image columns first .. end - 1 from column `from` on, as many as `columns`, that exist.
typedef struct bst_columns {
  int first, end;
} bst_columns;

static inline bst_columns bst_columns_of(const bst_conv_geometry* g, int from, int columns) {
  const int end = from + columns < g->width ? from + columns : g->width;
  const bst_columns found = {from < 0 ? 0 : from, end};
  return found;
}

/// The events of a row of outputs at step t in `columns` image columns from `from` on, put together
/// from the lists of rows.
static inline size_t bst_join_rows(const bst_conv_geometry* g, const bst_row_lists* rows, int t,
                                   int from, int columns, bst_entry* list) {
  const bst_columns c = bst_columns_of(g, from, columns);
  size_t n = 0;
  if (c.first >= c.end) return 0;
  for (int ky = rows->first_ky; ky < rows->end_ky; ++ky) {
    const size_t slot = (size_t)(t * g->kh + rows->slot[ky]);
    const uint32_t* const starts = rows->starts + slot * ((size_t)g->width + 1);
    const bst_entry shift = (bst_entry)((ky * columns - from) * g->n_in * BST_ENTRY);
    n = bst_bits_copy(rows->entries + slot * rows->row_entries + starts[c.first],
                      starts[c.end] - starts[c.first], shift, list, n);
  }
  return n;
}

/// Their number.
static inline uint32_t bst_count_rows(const bst_conv_geometry* g, const bst_row_lists* rows, int t,
                                      int from, int columns) {
  const bst_columns c = bst_columns_of(g, from, columns);
  uint32_t n = 0;
  if (c.first >= c.end) return 0;
  for (int ky = rows->first_ky; ky < rows->end_ky; ++ky) {
    const size_t slot = (size_t)(t * g->kh + rows->slot[ky]);
    const uint32_t* const starts = rows->starts + slot * ((size_t)g->width + 1);
    n += starts[c.end] - starts[c.first];
  }
  return n;
}

// ---- Tiles --------------------------------------------------------------------------------------

/// Lists of the places of a tile, a pixel or strip of pixels each: those of place i and step t at
/// i * n_steps + t.
typedef struct bst_tile {
  int n_places;
  const bst_entry* list[BST_TILE_PLACES * BST_CONV_MAX_T];
  uint32_t n_padded[BST_TILE_PLACES * BST_CONV_MAX_T];
  bool is_inverted[BST_TILE_PLACES * BST_CONV_MAX_T];  // the silent inputs are listed
  /// S of pixel k of a strip at (i * n_steps + t) * strip + k.
  uint32_t n_active[BST_TILE_PLACES * BST_CONV_MAX_T * BST_BITS_WORDS];
} bst_tile;

/// What a call works on.
typedef struct bst_conv_work {
  bst_conv_geometry g;
  bst_strip strip;
  bool pointwise;  // a window of one pixel that never leaves the image: cells in a row
  bool periodic;
  const uint64_t *spikes, *rows;
  bst_entry* lists;  // of a tile
  size_t n_list_entries;
  bst_row_lists row_lists;
} bst_conv_work;

static inline bst_conv_work bst_conv_work_of(bst_conv_geometry g, bool periodic,
                                             const uint64_t* spikes, const uint64_t* rows,
                                             void* scratch) {
  bst_conv_work w = {.g = g, .periodic = periodic, .spikes = spikes, .rows = rows};
  w.pointwise = g.kh * g.kw == 1 && g.stride == 1 && g.pad == 0;
  w.strip = bst_strip_of(g.n_out, g.kh, g.kw, g.n_in, g.stride);
  const size_t n_rows = (size_t)g.n_steps * (size_t)g.kh;
  w.n_list_entries = (size_t)bst_tile_entries(g.n_steps, w.strip.fan_in);
  w.row_lists.row_entries = (size_t)bst_row_entries(g.width, g.n_in);
  w.row_lists.starts = scratch;
  w.lists = (bst_entry*)scratch;
  if (g.kh * g.kw > 1) w.lists += 2 * n_rows * ((size_t)g.width + 1);
  w.row_lists.entries = w.lists + w.n_list_entries;
  return w;
}

/// The windows of a place lie inside the image.
static inline bool bst_is_whole(const bst_conv_work* w, int y, int x) {
  const bst_conv_geometry* const g = &w->g;
  const int in_y = y * g->stride - g->pad, in_x = x * g->stride - g->pad;
  return in_y >= 0 && in_x >= 0 && in_y + g->kh <= g->height && in_x + w->strip.columns <= g->width;
}

/// The silent inputs of whole windows.
static inline size_t bst_list_silent(const bst_conv_work* w, int t, int y, int x, bst_entry* list) {
  const bst_conv_geometry* const g = &w->g;
  const size_t frame_words = (size_t)g->height * (size_t)g->width * g->in_words;
  const int columns = w->strip.columns;
  size_t n = 0;
  for (int ky = 0; ky < g->kh; ++ky) {
    for (int kx = 0; kx < columns; ++kx) {
      const size_t cell = (size_t)(y * g->stride - g->pad + ky) * (size_t)g->width +
                          (size_t)(x * g->stride - g->pad + kx);
      const size_t first = (size_t)((ky * columns + kx) * g->n_in);
      for (size_t i = 0; i < g->in_words; ++i) {
        const size_t left = (size_t)g->n_in - 64 * i;
        const uint64_t lanes = left < 64 ? (UINT64_C(1) << left) - 1 : UINT64_MAX;
        const uint64_t silent =
            ~w->spikes[(size_t)t * frame_words + cell * g->in_words + i] & lanes;
        n = bst_bits_list(&silent, 1, (bst_entry)((first + 64 * i) * BST_ENTRY), list, n);
      }
    }
  }
  return n;
}

/// The list of the place at (y, x) and step t, at the end of `list`.
static inline size_t bst_list_window(const bst_conv_work* w, int t, int y, int x, bst_entry* list) {
  const bst_conv_geometry* const g = &w->g;
  const size_t frame_words = (size_t)g->height * (size_t)g->width * g->in_words;
  const int in_y = y * g->stride - g->pad, in_x = x * g->stride - g->pad;
  if (g->kh * g->kw > 1) return bst_join_rows(g, &w->row_lists, t, in_x, w->strip.columns, list);
  if (in_y < 0 || in_y >= g->height || in_x < 0 || in_x >= g->width) return 0;
  const size_t cell = (size_t)in_y * (size_t)g->width + (size_t)in_x;
  return bst_list_pixel(g, w->periodic, w->spikes + cell * g->in_words, frame_words, t, 0, list, 0);
}

/// S of the pixels of a place whose list has `n` entries.
static inline void bst_count_pixels(const bst_conv_work* w, int t, int x, size_t n,
                                    uint32_t* n_active) {
  const bst_conv_geometry* const g = &w->g;
  n_active[0] = (uint32_t)n;
  for (int k = 0; k < w->strip.n_pixels && w->strip.n_pixels > 1; ++k) {
    n_active[k] = bst_count_rows(g, &w->row_lists, t, (x + k) * g->stride - g->pad, g->kw);
  }
}

/// Make the lists of the places from x on of output row y, as many as have room; at least one.
static inline void bst_make_tile(const bst_conv_work* w, int y, int x, int end, bst_tile* tile) {
  const size_t fan_in = w->strip.fan_in, most = (size_t)bst_pixel_entries(w->g.n_steps, fan_in);
  const bst_entry zero_row = (bst_entry)(fan_in * BST_ENTRY);
  bst_entry* list = w->lists;
  int i = 0;
  tile->n_places = 0;
  for (; x < end && tile->n_places < BST_TILE_PLACES; x += w->strip.n_pixels, ++tile->n_places) {
    if ((size_t)(w->lists + w->n_list_entries - list) < most) break;
    for (int t = 0; t < w->g.n_steps; ++t, ++i) {
      size_t n = bst_list_window(w, t, y, x, list);
      bst_count_pixels(w, t, x, n, tile->n_active + i * w->strip.n_pixels);
      tile->is_inverted[i] = 2 * n > fan_in && !w->periodic && bst_is_whole(w, y, x);
      if (tile->is_inverted[i]) n = bst_list_silent(w, t, y, x, list);
      tile->list[i] = list;
      tile->n_padded[i] = (uint32_t)bst_bits_pad(zero_row, list, n);
      list += tile->n_padded[i];
    }
  }
}

// ---- Sums ---------------------------------------------------------------------------------------

/// A block of outputs.
typedef struct bst_block {
  const uint8_t* rows;
  const uint8_t* total;  // planes, a row each
  size_t first_word, n_words;
  size_t row_words;    // of the rows
  size_t pixel_words;  // of a vector, for one pixel
  int n_pixels;        // that meet in one vector
  int n_places;        // of a tile, that meet in one vector
  bst_sum_function* (*function)(int n_planes);
} bst_block;

static inline bst_block bst_block_at(const bst_conv_work* w, size_t first) {
  const size_t n_rows = bst_block_rows(w->strip.fan_in), left = w->g.out_words - first;
  bst_block b = {.first_word = first, .pixel_words = bst_block_words(w->g.out_words, first)};
  b.row_words = w->strip.n_pixels > 1 ? BST_BITS_WORDS : b.pixel_words;
  b.rows = (const uint8_t*)(w->rows + n_rows * first);
  b.total = b.rows + (w->strip.fan_in + 1) * b.row_words * sizeof(uint64_t);
  b.n_words = left < b.pixel_words ? left : b.pixel_words;
  b.n_pixels = (int)(BST_BITS_WORDS / b.pixel_words);
  b.n_places = b.n_pixels / w->strip.n_pixels;
  b.function = bst_sum_pieces[0];
  for (size_t words = BST_NARROWEST_WORDS, i = 0; words < b.row_words; words *= 2) {
    b.function = bst_sum_pieces[++i];
  }
  return b;
}

/// Counters with room for numbers up to `most`: as many planes as sum.h has functions for.
static inline int bst_sum_planes(uint32_t most) {
  const int n = bst_bit_length(most);
  if (n > BST_MAX_SUM_PLANES) return BST_MAX_SLICED_PLANES;
  return n < BST_MIN_SUM_PLANES ? BST_MIN_SUM_PLANES : n;
}

/// Replace counters C of one pixel by total - C, modulo 2^n_planes.
static inline void bst_from_total(const bst_block* b, int n_planes, uint64_t* counters) {
  const uint64_t* total = (const uint64_t*)(const void*)b->total;
  for (size_t k = 0; k < b->row_words; ++k) {
    uint64_t borrow = 0;
    for (int p = 0; p < n_planes; ++p) {
      uint64_t* const plane = counters + (size_t)p * BST_BITS_WORDS + k;
      const uint64_t a = total[(size_t)p * b->row_words + k], c = *plane, differ = a ^ c;
      *plane = differ ^ borrow;
      borrow = (~a & c) | (~differ & borrow);
    }
  }
}

BST_INLINE bst_bits bst_load_bits(const void* from) {
  bst_bits v;
  memcpy(&v, from, sizeof v);
  return v;
}

/// S and the beginnings of the counters of the pixels of one vector at one step: word by word, the
/// same in the words of a pixel.
typedef struct bst_counts {
  uint64_t n_active[BST_BITS_WORDS], start[BST_BITS_WORDS];
} bst_counts;

/// Bit p of each word, in all its lanes.
BST_INLINE bst_bits bst_spread_bit(const uint64_t* words, int p) {
  const bst_bits v = bst_load_bits(words), one = bst_bits_splat(1);
  return (v ^ v) - (v >> p & one);
}

/// Counters of a place that fills a vector.
static inline void bst_sum_strip(const bst_block* b, const bst_tile* tile, size_t at, int n_planes,
                                 const uint64_t* start, uint64_t* planes) {
  const bool inverted = tile->is_inverted[at];
  uint64_t begin[BST_BITS_WORDS];
  for (size_t k = 0; k < BST_BITS_WORDS; ++k) begin[k] = inverted ? 0 - start[k] : start[k];
  for (int p = 0; p < n_planes; ++p) {
    const bst_bits plane = bst_spread_bit(begin, p);
    memcpy(planes + (size_t)p * BST_BITS_WORDS, &plane, sizeof plane);
  }
  BST_WHOLE_SUM(more_function)(n_planes)(b->rows, tile->list[at], tile->n_padded[at], planes);
  if (inverted) bst_from_total(b, n_planes, planes);
}

/// Counters of places i .. i + n - 1 of a tile at step t, in one vector.
static inline void bst_sum_places(const bst_conv_work* w, const bst_block* b, const bst_tile* tile,
                                  int t, int i, int n, int n_planes, const bst_counts* counts,
                                  uint64_t* planes) {
  if (w->strip.n_pixels > 1) {
    bst_sum_strip(b, tile, (size_t)(i * w->g.n_steps + t), n_planes, counts->start, planes);
    return;
  }
  for (int k = 0; k < n; ++k) {
    const size_t at = (size_t)((i + k) * w->g.n_steps + t), word = (size_t)k * b->row_words;
    const uint32_t start = (uint32_t)counts->start[word];
    const bool inverted = tile->is_inverted[at];
    b->function(n_planes)(b->rows, tile->list[at], tile->n_padded[at], inverted ? 0 - start : start,
                          planes + word, BST_BITS_WORDS);
    if (inverted) bst_from_total(b, n_planes, planes + word);
  }
}

// ---- Neuron -------------------------------------------------------------------------------------

/// Planes of I_t, t from 1; see the file head.
#define BST_CHARGE_PLANES(n_planes, t) ((n_planes) + ((t) == 1 ? 1 : (t) + 1))

enum { BST_MAX_CHARGE_PLANES = BST_MAX_SLICED_PLANES + BST_CONV_NEURON_T + 1 };

#define BST_FIRE_ANY(name) bst_fire_##name
#define BST_FIRE BST_FIRE_ANY
#define BST_FIRE_UNROLL
#include "fire.h"

/// All steps of one vector of neurons, any T and number of planes.
/// @param sums [n_steps][n_planes], @param odd [n_steps], @param spikes out: [n_steps]
static void bst_fire_steps(int n_steps, int n_planes, const bst_theta_head* head,
                           const bst_bits* theta, const bst_bits* sums, const bst_bits* odd,
                           bst_bits* spikes) {
  bst_bits charge[BST_MAX_CHARGE_PLANES];
  int n_before = 0;
  for (int t = 1; t <= n_steps; ++t) {
    const int width = head->widths[t - 1], most = BST_CHARGE_PLANES(n_planes, t);
    const int n_here = width < most ? width : most;
    spikes[t - 1] = BST_FIRE_ANY(step)(t, n_planes, n_before, n_here, width, theta,
                                       sums + (t - 1) * n_planes, odd[t - 1], spikes, charge);
    theta += width * t;
    n_before = n_here;
  }
}

#ifdef BST_FIRE_FIXED
#include "fire_fixed.h"
#endif

// ---- conv_neuron --------------------------------------------------------------------------------

/// Counters, parities and spikes of the neurons of one vector.
typedef struct bst_group {
  bst_bits sums[BST_CONV_NEURON_T * BST_MAX_SLICED_PLANES];  // [n_steps][n_planes]
  bst_bits odd[BST_CONV_NEURON_T], spikes[BST_CONV_NEURON_T];
} bst_group;

/// sums[a] += sums[b]
static inline void bst_add_sums(int n_planes, bst_bits* a, const bst_bits* b) {
  bst_bits carry = *a ^ *a;
  for (int p = 0; p < n_planes; ++p) carry = bst_bits_add(&a[p], b[p], carry);
}

/// Counters of steps from those of periods: descending, so that divisors are still their own.
static inline void bst_add_periods(int n_steps, int n_planes, bst_bits* sums) {
  for (int t = n_steps; t > 1; --t) {
    for (int d = 1; d <= t / 2; ++d) {
      if (t % d == 0) bst_add_sums(n_planes, sums + (t - 1) * n_planes, sums + (d - 1) * n_planes);
    }
  }
}

/// S of every step of one pixel from the lengths of its lists, and what each list's counter begins
/// with, so that the counters of step t end up below P by ceil(S/2).
/// @param lengths those of step t at t * n_apart
static inline void bst_starts(const bst_conv_work* w, const uint32_t* lengths, size_t n_apart,
                              uint32_t* n_active, uint32_t* start) {
  for (int t = 1; t <= w->g.n_steps; ++t) {
    uint32_t active = lengths[(size_t)(t - 1) * n_apart], begun = 0;
    for (int d = 1; w->periodic && d <= t / 2; ++d) {
      if (t % d != 0) continue;
      active += lengths[(size_t)(d - 1) * n_apart];
      begun += start[d - 1];
    }
    n_active[t - 1] = active;
    start[t - 1] = 0 - (active + 1) / 2 - begun;
  }
}

/// bst_counts of every step of places i .. i + n - 1; returns the largest S.
static inline uint32_t bst_count_group(const bst_conv_work* w, const bst_block* b,
                                       const bst_tile* tile, int i, int n, bst_counts* counts) {
  const size_t strip = (size_t)w->strip.n_pixels, n_steps = (size_t)w->g.n_steps;
  uint32_t most = 0;
  memset(counts, 0, n_steps * sizeof *counts);
  for (size_t pixel = 0; pixel < (size_t)n * strip; ++pixel) {
    uint32_t active[BST_CONV_NEURON_T] = {0}, start[BST_CONV_NEURON_T] = {0};
    const size_t place = (size_t)i + pixel / strip;
    bst_starts(w, tile->n_active + place * n_steps * strip + pixel % strip, strip, active, start);
    for (size_t t = 0; t < n_steps; ++t) {
      most = active[t] > most ? active[t] : most;
      for (size_t k = pixel * b->pixel_words; k < (pixel + 1) * b->pixel_words; ++k) {
        counts[t].n_active[k] = active[t];
        counts[t].start[k] = start[t];
      }
    }
  }
  return most;
}

#ifdef BST_FIRE_FIXED
static inline bool bst_any_inverted(const bst_tile* tile, int i) {
  const bool* const inverted = tile->is_inverted + i * 4;
  return inverted[0] || inverted[1] || inverted[2] || inverted[3];
}

/// Sum up and fire a place that fills a vector, without going through memory; false where that
/// cannot be.
static inline bool bst_run_whole(const bst_conv_work* w, const bst_block* b,
                                 const bst_theta_head* head, const bst_bits* theta,
                                 const bst_tile* tile, int i, bst_group* group) {
  if (w->g.n_steps != 4 || b->n_pixels > 1 || w->periodic || bst_any_inverted(tile, i)) {
    return false;
  }
  const uint32_t* const active = tile->n_active + i * 4;
  uint32_t most = 0;
  for (int t = 0; t < 4; ++t) most = active[t] > most ? active[t] : most;
  const int n_planes = bst_sum_planes(most);
  if (!bst_is_fixed(4, n_planes, head)) return false;
  bst_sum_and_fire_4_table[n_planes - BST_MIN_SUM_PLANES](
      head, theta, b->rows, tile->list + i * 4, tile->n_padded + i * 4, active, group->spikes);
  return true;
}
#endif

/// Sum up and fire places i .. i + n - 1 of a tile in one vector.
static inline void bst_run_group(const bst_conv_work* w, const bst_block* b,
                                 const bst_theta_head* head, const bst_bits* theta,
                                 const bst_tile* tile, int i, int n, bst_group* group) {
#ifdef BST_FIRE_FIXED
  if (bst_run_whole(w, b, head, theta, tile, i, group)) return;
#endif
  const int n_steps = w->g.n_steps;
  bst_counts counts[BST_CONV_NEURON_T];
  const int n_planes = bst_sum_planes(bst_count_group(w, b, tile, i, n, counts));
  for (int t = 0; t < n_steps; ++t) {
    uint64_t* const planes = (uint64_t*)(void*)(group->sums + t * n_planes);
    bst_sum_places(w, b, tile, t, i, n, n_planes, &counts[t], planes);
    group->odd[t] = bst_spread_bit(counts[t].n_active, 0);
  }
  if (w->periodic) bst_add_periods(n_steps, n_planes, group->sums);
#ifdef BST_FIRE_FIXED
  if (bst_is_fixed(n_steps, n_planes, head)) {
    bst_fire_4_table[n_planes - BST_MIN_SUM_PLANES](head, theta, group->sums, group->odd,
                                                    group->spikes);
    return;
  }
#endif
  bst_fire_steps(n_steps, n_planes, head, theta, group->sums, group->odd, group->spikes);
}

/// Write the spikes of pixel `k` of a group; bits beyond the outputs are zero.
static inline void bst_put_spikes(const bst_conv_work* w, const bst_block* b,
                                  const bst_group* group, int k, uint64_t* pixel,
                                  size_t out_frame) {
  const size_t end = 64 * (b->first_word + b->n_words), n_out = (size_t)w->g.n_out;
  const uint64_t last = end > n_out ? UINT64_MAX >> (end - n_out) : UINT64_MAX;
  if (b->n_pixels == 1) {
    for (int t = 0; t < w->g.n_steps; ++t) {
      bst_bits_store(pixel + (size_t)t * out_frame + b->first_word, b->n_words, last,
                     group->spikes[t]);
    }
    return;
  }
  for (int t = 0; t < w->g.n_steps; ++t) {
    uint64_t words[BST_BITS_WORDS];
    memcpy(words, &group->spikes[t], sizeof words);
    const uint64_t* const mine = words + (size_t)k * b->pixel_words;
    uint64_t* const out = pixel + (size_t)t * out_frame + b->first_word;
    for (size_t j = 0; j + 1 < b->n_words; ++j) out[j] = mine[j];
    out[b->n_words - 1] = mine[b->n_words - 1] & last;
  }
}

/// @param n_pixels from the first of the tile to the end of the row
/// @param out      of the first pixel of the tile
static inline void bst_neuron_tile(const bst_conv_work* w, const bst_tile* tile, const void* theta,
                                   int n_pixels, uint64_t* out, size_t out_frame,
                                   bst_group* group) {
  const bst_theta_head* const head = theta;
  const bst_bits* planes =
      (const bst_bits*)(const void*)((const uint8_t*)theta + BST_THETA_HEAD_BYTES);
  for (size_t first = 0; first < w->g.out_words; first += BST_BITS_WORDS) {
    const bst_block b = bst_block_at(w, first);
    for (int i = 0; i < tile->n_places; i += b.n_places) {
      const int left = tile->n_places - i, n = left < b.n_places ? left : b.n_places;
      const int pixel = i * w->strip.n_pixels;
      bst_run_group(w, &b, head, planes, tile, i, n, group);
      for (int k = 0; k < n * w->strip.n_pixels && pixel + k < n_pixels; ++k) {
        bst_put_spikes(w, &b, group, k, out + (size_t)(pixel + k) * w->g.out_words, out_frame);
      }
    }
    planes += head->block_planes;
  }
}

/// Rows of outputs as the parts share them: a pointwise layer is one long row of cells.
typedef struct bst_conv_share {
  int first_y, end_y, first_x, end_x;
} bst_conv_share;

static inline bst_conv_share bst_share_of(const bst_conv_work* w, int part, int n_parts) {
  const size_t n = (size_t)(w->pointwise ? w->g.out_w : w->g.out_h);
  const int first = (int)bst_part_begin(part, n_parts, n);
  const int end = (int)bst_part_begin(part + 1, n_parts, n);
  const bst_conv_share cells = {0, 1, first, end}, rows = {first, end, 0, w->g.out_w};
  return w->pointwise ? cells : rows;
}

/// A pointwise layer is an image of one row.
static inline bst_conv_geometry bst_sliced_geometry(int n_steps, int height, int width, int n_in,
                                                    int n_out, int kh, int kw, int stride,
                                                    int pad) {
  const bool pointwise = kh * kw == 1 && stride == 1 && pad == 0;
  return bst_conv_geometry_of(n_steps, pointwise ? 1 : height, pointwise ? height * width : width,
                              n_in, n_out, kh, kw, stride, pad);
}

static inline void bst_list_for(bst_conv_work* w, int y) {
  const bst_conv_geometry* const g = &w->g;
  const int first = y * g->stride - g->pad, end = first + g->kh;
  if (g->kh * g->kw == 1) return;
  bst_row_lists* const rows = &w->row_lists;
  if (rows->n_listed < first) rows->n_listed = first;
  bst_list_rows(g, w->periodic, w->spikes, end < g->height ? end : g->height, rows);
  rows->first_ky = first < 0 ? -first : 0;
  rows->end_ky = end > g->height ? g->height - first : g->kh;
  for (int ky = rows->first_ky; ky < rows->end_ky; ++ky) rows->slot[ky] = (first + ky) % g->kh;
}

static inline void bst_sliced_neuron(int part, int n_parts, int n_steps, int height, int width,
                                     int n_in, int n_out, int kh, int kw, int stride, int pad,
                                     int periodic, const uint64_t* spikes, const uint64_t* rows,
                                     const void* theta, uint64_t* out, void* scratch) {
  const bst_conv_geometry g =
      bst_sliced_geometry(n_steps, height, width, n_in, n_out, kh, kw, stride, pad);
  bst_conv_work w = bst_conv_work_of(g, periodic != 0, spikes, rows, scratch);
  const bst_conv_share share = bst_share_of(&w, part, n_parts);
  const size_t out_frame = (size_t)g.out_h * (size_t)g.out_w * g.out_words;
  bst_tile tile;
  bst_group group;
  memset(&group, 0, sizeof group);
  for (int y = share.first_y; y < share.end_y; ++y) {
    bst_list_for(&w, y);
    for (int x = share.first_x; x < share.end_x; x += tile.n_places * w.strip.n_pixels) {
      bst_make_tile(&w, y, x, share.end_x, &tile);
      const size_t pixel = (size_t)y * (size_t)g.out_w + (size_t)x;
      bst_neuron_tile(&w, &tile, theta, share.end_x - x, out + pixel * g.out_words, out_frame,
                      &group);
    }
  }
}

// ---- conv_affine --------------------------------------------------------------------------------

/// Counters of one vector, and its counts in natural order.
typedef struct bst_affine_group {
  bst_bits planes[(BST_MAX_SLICED_PLANES + 7) / 8 * 8];
  uint16_t counts[BST_BITS_BYTES * 8];
} bst_affine_group;

/// Step t of places i .. i + n - 1 of a tile, `n_pixels` of which exist.
/// @param out of the first pixel
static inline void bst_affine_group_run(const bst_conv_work* w, const bst_block* b,
                                        const bst_tile* tile, int t, int i, int n, int n_pixels,
                                        const int32_t* ai, const int16_t* af, const int32_t* bias,
                                        int32_t* out, bst_affine_group* group) {
  const size_t strip = (size_t)w->strip.n_pixels, n_steps = (size_t)w->g.n_steps;
  static const bst_counts from_zero = {{0}, {0}};
  uint32_t most = 0, active[BST_BITS_WORDS] = {0};
  for (size_t k = 0; k < (size_t)n * strip; ++k) {
    active[k] = tile->n_active[(((size_t)i + k / strip) * n_steps + (size_t)t) * strip + k % strip];
    most = active[k] > most ? active[k] : most;
  }
  const int n_planes = bst_sum_planes(most);
  bst_sum_places(w, b, tile, t, i, n, n_planes, &from_zero, (uint64_t*)(void*)group->planes);
  for (int p = n_planes; p % 8 != 0; ++p) group->planes[p] = group->planes[0] ^ group->planes[0];
  bst_bits_unpack(group->planes, n_planes, group->counts);
  const size_t first = 64 * b->first_word, left = (size_t)w->g.n_out - first;
  const size_t n_lanes = left < 64 * b->n_words ? left : 64 * b->n_words;
  for (int k = 0; k < n_pixels; ++k) {
    bst_bits_scale(group->counts + (size_t)k * b->pixel_words * 64, (int32_t)active[k], n_lanes,
                   ai + first, af + first, bias + first,
                   out + (size_t)k * (size_t)w->g.n_out + first);
  }
}

/// @param n_pixels from the first of the tile to the end of the row
/// @param out      of the first pixel of the tile
static inline void bst_affine_tile(const bst_conv_work* w, const bst_tile* tile, int n_pixels,
                                   const int32_t* ai, const int16_t* af, const int32_t* bias,
                                   int32_t* out, size_t out_frame, bst_affine_group* group) {
  for (size_t first = 0; first < w->g.out_words; first += BST_BITS_WORDS) {
    const bst_block b = bst_block_at(w, first);
    for (int i = 0; i < tile->n_places; i += b.n_places) {
      const int left = tile->n_places - i, n = left < b.n_places ? left : b.n_places;
      const int pixel = i * w->strip.n_pixels, here = n * w->strip.n_pixels;
      const int exist = here < n_pixels - pixel ? here : n_pixels - pixel;
      for (int t = 0; t < w->g.n_steps; ++t) {
        bst_affine_group_run(w, &b, tile, t, i, n, exist, ai, af, bias,
                             out + (size_t)t * out_frame + (size_t)pixel * (size_t)w->g.n_out,
                             group);
      }
    }
  }
}

static inline void bst_sliced_affine(int part, int n_parts, int n_steps, int height, int width,
                                     int n_in, int n_out, int kh, int kw, int stride, int pad,
                                     const uint64_t* spikes, const uint64_t* rows,
                                     const int32_t* ai, const int16_t* af, const int32_t* b,
                                     int32_t* out, void* scratch) {
  const bst_conv_geometry g =
      bst_sliced_geometry(n_steps, height, width, n_in, n_out, kh, kw, stride, pad);
  bst_conv_work w = bst_conv_work_of(g, false, spikes, rows, scratch);
  const bst_conv_share share = bst_share_of(&w, part, n_parts);
  const size_t out_frame = (size_t)g.out_h * (size_t)g.out_w * (size_t)n_out;
  bst_tile tile;
  bst_affine_group group;
  memset(&group, 0, sizeof group);
  for (int y = share.first_y; y < share.end_y; ++y) {
    bst_list_for(&w, y);
    for (int x = share.first_x; x < share.end_x; x += tile.n_places * w.strip.n_pixels) {
      bst_make_tile(&w, y, x, share.end_x, &tile);
      const size_t pixel = (size_t)y * (size_t)g.out_w + (size_t)x;
      bst_affine_tile(&w, &tile, share.end_x - x, ai, af, b, out + pixel * (size_t)n_out, out_frame,
                      &group);
    }
  }
}

// ---- The version --------------------------------------------------------------------------------

// Windows of more inputs than entries of lists can name are left to the plain kernels of scalar.c.

static size_t bst_version_rows_bytes(int n_out, int kh, int kw, int n_in, int stride) {
  return bst_fits_lists(bst_conv_fan_in(kh, kw, n_in))
             ? bst_sliced_rows_bytes(n_out, kh, kw, n_in, stride)
             : bst_spike_conv_rows_bytes(n_out, kh, kw, n_in);
}

static void bst_version_prepare_rows(int n_out, int kh, int kw, int n_in, int stride,
                                     const uint8_t* bits, uint64_t* rows) {
  if (bst_fits_lists(bst_conv_fan_in(kh, kw, n_in))) {
    bst_sliced_prepare_rows(n_out, kh, kw, n_in, stride, bits, rows);
  } else {
    bst_spike_conv_prepare_rows(n_out, kh, kw, n_in, bits, rows);
  }
}

static size_t bst_version_theta_bytes(int n_steps, int n_out, int fan_in) {
  return bst_fits_lists((size_t)fan_in) ? bst_sliced_theta_bytes(n_steps, n_out, fan_in)
                                        : bst_spike_conv_theta_bytes(n_steps, n_out);
}

static void bst_version_prepare_theta(int n_steps, int n_out, int kh, int kw, int n_in,
                                      const uint8_t* bits, const int32_t* theta_u,
                                      const int32_t* theta_w, int n_explicit, const int32_t* index,
                                      const int32_t* explicit_theta, void* theta) {
  if (bst_fits_lists(bst_conv_fan_in(kh, kw, n_in))) {
    bst_sliced_prepare_theta(n_steps, n_out, kh, kw, n_in, bits, theta_u, theta_w, n_explicit,
                             index, explicit_theta, theta);
  } else {
    bst_spike_conv_prepare_theta(n_steps, n_out, theta_u, theta_w, n_explicit, index,
                                 explicit_theta, theta);
  }
}

static uint64_t bst_version_scratch_bytes(int n_steps, int width, int n_out, int kh, int kw,
                                          int n_in, int stride) {
  return bst_fits_lists(bst_conv_fan_in(kh, kw, n_in))
             ? bst_sliced_scratch_bytes(n_steps, width, n_out, kh, kw, n_in, stride)
             : bst_spike_conv_scratch_bytes(n_steps, kh, kw, n_in);
}

static void bst_version_neuron(int part, int n_parts, int n_steps, int height, int width, int n_in,
                               int n_out, int kh, int kw, int stride, int pad, int periodic,
                               const uint64_t* spikes, const uint64_t* rows, const void* theta,
                               uint64_t* out, void* scratch) {
  if (bst_fits_lists(bst_conv_fan_in(kh, kw, n_in))) {
    bst_sliced_neuron(part, n_parts, n_steps, height, width, n_in, n_out, kh, kw, stride, pad,
                      periodic, spikes, rows, theta, out, scratch);
  } else {
    bst_spike_conv_neuron__scalar(part, n_parts, n_steps, height, width, n_in, n_out, kh, kw,
                                  stride, pad, periodic, spikes, rows, theta, out, scratch);
  }
}

static void bst_version_affine(int part, int n_parts, int n_steps, int height, int width, int n_in,
                               int n_out, int kh, int kw, int stride, int pad,
                               const uint64_t* spikes, const uint64_t* rows, const int32_t* ai,
                               const int16_t* af, const int32_t* b, int32_t* out, void* scratch) {
  if (bst_fits_lists(bst_conv_fan_in(kh, kw, n_in))) {
    bst_sliced_affine(part, n_parts, n_steps, height, width, n_in, n_out, kh, kw, stride, pad,
                      spikes, rows, ai, af, b, out, scratch);
  } else {
    bst_spike_conv_affine__scalar(part, n_parts, n_steps, height, width, n_in, n_out, kh, kw,
                                  stride, pad, spikes, rows, ai, af, b, out, scratch);
  }
}

#define BST_SLICED_VERSION                        \
  {                                               \
      .rows_bytes = bst_version_rows_bytes,       \
      .prepare_rows = bst_version_prepare_rows,   \
      .theta_bytes = bst_version_theta_bytes,     \
      .prepare_theta = bst_version_prepare_theta, \
      .scratch_bytes = bst_version_scratch_bytes, \
      .neuron = bst_version_neuron,               \
      .affine = bst_version_affine,               \
  }

#endif  // BST_KERNELS_SPIKE_CONV_SLICED_H_
