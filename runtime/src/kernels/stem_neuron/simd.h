// SPDX-License-Identifier: MIT
// Stem convolution on vectors of output channels. A body: included by the file of one instruction
// set after its vocabulary, between BST_VECTOR_BEGIN and BST_VECTOR_END.
//
// Weights are cut in two signed digits, W = 4096 W1 + W0 with W0 in -2048..2047; |W| <= 8355711
// gives |W1| <= 2040. So products of int16 and sums of int32 are exact as long as
// 255 * 2048 * taps < 2^31: up to 4096 taps; n = 4096 sum p W1 + sum p W0 is put together in 64
// bits with the bias. Beyond 4096 taps the scalar version takes over.
//
// Taps enter in pairs: the kw * n_in pixels of a window's row are contiguous, an odd number of them
// is filled up with a weight of 0. Rows of the image are widened to int16 first, zero outside.
//
// Two output pixels at a time and a group of vectors of output channels: their sums stay in
// registers, an eighth of which is the number of vectors of a group.
// Prepared constants: digits int16 [groups][kh][pairs][W1, W0][vectors of the group], then int64 e
// [lanes] and bias + 2^(e-1) [n_classes][lanes]; lanes = n_out in whole vectors, zeros beyond
// n_out.

#ifndef BST_KERNELS_STEM_NEURON_SIMD_H_
#define BST_KERNELS_STEM_NEURON_SIMD_H_

#include "../stream_neuron/simd_neuron.h"
#include "loops.h"

enum {
  BST_STEM_MAX_TAPS = 4096,
  BST_STEM_DIGIT = 4096,
  BST_STEM_PIXELS = 2,                    // that are worked on together
  BST_STEM_VECS = BST_VEC_REGISTERS / 8,  // vectors of a group: 2 or 4
  BST_STEM_VEC_LANES = BST_VEC_BYTES / 4,
  BST_STEM_VEC_ITEMS = BST_VEC_BYTES / 2,               // int16
  BST_STEM_LANES = BST_STEM_VECS * BST_STEM_VEC_LANES,  // 64, 16 or 8: divides a word
  BST_STEM_MAX_STEPS = 16,                              // the most time steps of a model
};

static inline bool bst_stem_has_digits(int kh, int kw, int n_in) {
  return (uint64_t)kh * (uint64_t)kw * (uint64_t)n_in <= BST_STEM_MAX_TAPS;
}

static inline size_t bst_stem_pairs(int kw, int n_in) {
  return ((size_t)kw * (size_t)n_in + 1) / 2;
}

static inline size_t bst_stem_vecs(int n_out) {
  return ((size_t)n_out + BST_STEM_VEC_LANES - 1) / BST_STEM_VEC_LANES;
}

// ---- Prepared constants -------------------------------------------------------------------------

/// int16 of the digits of one vector of outputs.
static inline size_t bst_stem_vec_digits(int kh, int kw, int n_in) {
  return (size_t)kh * bst_stem_pairs(kw, n_in) * 2 * BST_STEM_VEC_ITEMS;
}

static inline uint64_t bst_stem_vector_bytes(int n_out, int kh, int kw, int n_in, int n_classes) {
  if (!bst_stem_has_digits(kh, kw, n_in)) return bst_stem_plain_bytes(n_out, kh, kw, n_in);
  const uint64_t n_vecs = bst_stem_vecs(n_out);
  const uint64_t digits = bst_stem_vec_digits(kh, kw, n_in) * sizeof(int16_t);
  return n_vecs * (digits + ((uint64_t)n_classes + 1) * BST_STEM_VEC_LANES * sizeof(int64_t));
}

/// Vectors of the group that holds vector v.
static inline size_t bst_stem_group_vecs(size_t n_vecs, size_t v) {
  const size_t left = n_vecs - v / BST_STEM_VECS * BST_STEM_VECS;
  return left < BST_STEM_VECS ? left : BST_STEM_VECS;
}

/// The digits of one output; `tap` runs over [kh][kw * n_in].
static inline void bst_stem_set_digits(int n_out, int kh, int kw, int n_in, size_t o,
                                       const int32_t* weight, int16_t* digits) {
  const size_t v = o / BST_STEM_VEC_LANES, n_vecs = bst_stem_group_vecs(bst_stem_vecs(n_out), v);
  const size_t row = (size_t)kw * (size_t)n_in, n_pairs = bst_stem_pairs(kw, n_in);
  int16_t* const group =
      digits + v / BST_STEM_VECS * BST_STEM_VECS * bst_stem_vec_digits(kh, kw, n_in);
  for (size_t tap = 0; tap < (size_t)kh * row; ++tap) {
    const size_t pair = tap / row * n_pairs + tap % row / 2;
    const size_t place = bst_vec_pair_place(o % BST_STEM_VEC_LANES, tap % row % 2);
    int16_t* const at =
        group + (2 * pair * n_vecs + v % BST_STEM_VECS) * BST_STEM_VEC_ITEMS + place;
    const int32_t low =
        ((weight[tap] + BST_STEM_DIGIT / 2) & (BST_STEM_DIGIT - 1)) - BST_STEM_DIGIT / 2;
    at[0] = (int16_t)((weight[tap] - low) / BST_STEM_DIGIT);
    at[n_vecs * BST_STEM_VEC_ITEMS] = (int16_t)low;
  }
}

BST_COLD void bst_stem_prepare_vector(int n_out, int kh, int kw, int n_in, int n_classes,
                                      const int32_t* weight, const int64_t* bias,
                                      const uint8_t* shift, void* constants) {
  if (!bst_stem_has_digits(kh, kw, n_in)) {
    bst_stem_prepare_plain(n_out, kh, kw, n_in, weight, constants);
    return;
  }
  const size_t outputs = (size_t)n_out, lanes = bst_stem_vecs(n_out) * BST_STEM_VEC_LANES;
  const size_t n_digits = bst_stem_vecs(n_out) * bst_stem_vec_digits(kh, kw, n_in);
  const size_t fan_in = (size_t)kh * (size_t)kw * (size_t)n_in;
  int16_t* const digits = constants;
  int64_t* table = (int64_t*)(void*)(digits + n_digits);
  memset(constants, 0, (size_t)bst_stem_vector_bytes(n_out, kh, kw, n_in, n_classes));
  for (size_t o = 0; o < outputs; ++o) {
    bst_stem_set_digits(n_out, kh, kw, n_in, o, weight + o * fan_in, digits);
  }
  for (size_t o = 0; o < outputs; ++o) table[o] = shift[o];
  for (int c = 0; c < n_classes; ++c, bias += outputs) {
    table += lanes;
    for (size_t o = 0; o < outputs; ++o) table[o] = bias[o] + ((INT64_C(1) << shift[o]) >> 1);
  }
}

// ---- Rows of the image --------------------------------------------------------------------------

/// int16 of one widened row: the padding on both sides, and one item that fills up a last pair.
static inline size_t bst_stem_row_items(int width, int n_in, int pad) {
  return ((size_t)width + 2 * (size_t)pad) * (size_t)n_in + 1;
}

static inline uint64_t bst_stem_vector_scratch_bytes(int n_frames, int width, int n_in, int kh,
                                                     int kw, int pad) {
  if (!bst_stem_has_digits(kh, kw, n_in)) return 0;
  return (uint64_t)n_frames * (uint64_t)kh * bst_stem_row_items(width, n_in, pad) * sizeof(int16_t);
}

/// Row in_y of a frame, zeros where it lies outside.
static inline void bst_stem_widen_row(const bst_stem_geometry* g, const uint8_t* frame, int in_y,
                                      int16_t* row) {
  const size_t n = (size_t)g->width * (size_t)g->n_in, border = (size_t)g->pad * (size_t)g->n_in;
  if (in_y < 0 || in_y >= g->height) {
    memset(row, 0, (n + 2 * border + 1) * sizeof *row);
    return;
  }
  const uint8_t* const pixels = frame + (size_t)in_y * n;
  memset(row, 0, border * sizeof *row);
  for (size_t i = 0; i < n; ++i) row[border + i] = pixels[i];
  memset(row + border + n, 0, (border + 1) * sizeof *row);
}

/// The rows under output row y: [n_frames][kh].
static inline void bst_stem_widen_rows(const bst_stem_geometry* g, const uint8_t* image, int y,
                                       int16_t* rows) {
  const size_t frame_bytes = (size_t)g->height * (size_t)g->width * (size_t)g->n_in;
  const size_t items = bst_stem_row_items(g->width, g->n_in, g->pad);
  for (int t = 0; t < g->n_frames; ++t, image += frame_bytes) {
    for (int ky = 0; ky < g->kh; ++ky, rows += items) {
      bst_stem_widen_row(g, image, y * g->stride - g->pad + ky, rows);
    }
  }
}

// ---- One group of output channels ---------------------------------------------------------------

/// Output pixels that are worked on together, so that they share what is loaded of the weights. A
/// pixel without neighbours is taken twice.
typedef struct bst_stem_pixels {
  const int16_t* window;                 // of the first one, in the widened rows
  size_t window_step;                    // from one window to the next
  const int64_t* bias[BST_STEM_PIXELS];  // lanes of their border classes
  uint64_t words[BST_STEM_PIXELS][BST_STEM_MAX_STEPS];
  int32_t* stream;  // NULL, or where x of the first one goes
  size_t stream_step, n_out;
  int n_pixels;
} bst_stem_pixels;

/// What the vectors of a group read.
typedef struct bst_stem_group {
  const int16_t* digits;
  const int64_t* shift;
  size_t lane;  // of the first one
} bst_stem_group;

/// x of one vector of outputs.
BST_NOINLINE bst_vec bst_stem_join(bst_vec high, bst_vec low, const int64_t* bias,
                                   const int64_t* shift) {
  return bst_vec_join_digits(high, low, bias, shift);
}

/// x of a group of n_vecs vectors at the pixels of frame t.
BST_INLINE void bst_stem_group_input(const bst_stem_geometry* g, const bst_stem_group* group,
                                     int n_vecs, const bst_stem_pixels* pixels, int t,
                                     bst_vec x[][BST_STEM_VECS]) {
  const size_t items = bst_stem_row_items(g->width, g->n_in, g->pad), step = pixels->window_step;
  const size_t n_pairs = bst_stem_pairs(g->kw, g->n_in);
  const int16_t* window = pixels->window + (size_t)t * (size_t)g->kh * items;
  const int16_t* w = group->digits;
  bst_vec high[BST_STEM_PIXELS][BST_STEM_VECS], low[BST_STEM_PIXELS][BST_STEM_VECS];
  for (int i = 0; i < BST_STEM_PIXELS; ++i) {
    for (int j = 0; j < n_vecs; ++j) high[i][j] = low[i][j] = bst_vec_zero();
  }
  for (int ky = 0; ky < g->kh; ++ky, window += items) {
    for (size_t k = 0; k < n_pairs; ++k, w += 2 * n_vecs * BST_STEM_VEC_ITEMS) {
      bst_vec pair[BST_STEM_PIXELS];
      for (int i = 0; i < BST_STEM_PIXELS; ++i) {
        pair[i] = bst_vec_set_pair(window + (size_t)i * step + 2 * k);
      }
      for (int j = 0; j < n_vecs; ++j) {
        const bst_vec w1 = bst_vec_load(w + j * BST_STEM_VEC_ITEMS);
        const bst_vec w0 = bst_vec_load(w + (n_vecs + j) * BST_STEM_VEC_ITEMS);
        for (int i = 0; i < BST_STEM_PIXELS; ++i) {
          high[i][j] = bst_vec_add_pair(high[i][j], w1, pair[i]);
          low[i][j] = bst_vec_add_pair(low[i][j], w0, pair[i]);
        }
      }
    }
  }
  for (int i = 0; i < BST_STEM_PIXELS; ++i) {
    const int64_t* const bias = pixels->bias[i] + group->lane;
    for (int j = 0; j < n_vecs; ++j) {
      x[i][j] = bst_stem_join(high[i][j], low[i][j], bias + j * BST_STEM_VEC_LANES,
                              group->shift + j * BST_STEM_VEC_LANES);
    }
  }
}

/// What turns x into spikes: `first`, or the neuron where it is NULL.
typedef struct bst_stem_encoder {
  const int32_t* first;
  bst_vec_charge charge;
  bst_vec_neuron neuron;
} bst_stem_encoder;

/// Spikes of a group from the table of first steps: its bits at `at` of the word of each step.
BST_INLINE void bst_stem_group_look_up(int n_steps, int n_vecs, const int32_t* first,
                                       const bst_vec* x, size_t at, uint64_t* words) {
  bst_mask below[BST_STEM_VECS];
  uint64_t before = 0;
  for (int p = 1; p <= n_steps; ++p) {
    const bst_vec threshold = bst_vec_set32(first[p - 1]);
    for (int j = 0; j < n_vecs; ++j) below[j] = bst_vec_below32(x[j], threshold);
    const uint64_t lanes = UINT64_MAX >> (64 - n_vecs * BST_STEM_VEC_LANES);
    const uint64_t fired = ~bst_vec_bits32(below, n_vecs) & lanes;
    for (int t = p; t <= n_steps; t += p) words[t - 1] |= (fired & ~before) << at;
    before = fired;
  }
}

/// One step of the neurons of a group: their bits at `at` of the word.
BST_NOINLINE void bst_stem_group_fire(const bst_stem_encoder* encoder, int n_vecs, const bst_vec* x,
                                      size_t at, bst_vec* v, uint64_t* word) {
  const uint64_t lanes = UINT64_MAX >> (64 - n_vecs * BST_STEM_VEC_LANES);
  bst_mask silent[BST_STEM_VECS];
  for (int j = 0; j < n_vecs; ++j) {
    silent[j] = bst_vec_neuron_step(encoder->charge, &encoder->neuron, x[j], &v[j]);
  }
  *word |= (~bst_vec_bits32(silent, n_vecs) & lanes) << at;
}

/// Store x of a group at step t.
BST_NOINLINE void bst_stem_group_store(const bst_stem_pixels* pixels, size_t lane, int n_vecs,
                                       int t, bst_vec x[][BST_STEM_VECS]) {
  for (int i = 0; i < pixels->n_pixels; ++i) {
    int32_t* const to =
        pixels->stream + (size_t)t * pixels->stream_step + (size_t)i * pixels->n_out + lane;
    for (int j = 0; j < n_vecs; ++j) {
      const size_t done = (size_t)j * BST_STEM_VEC_LANES, left = pixels->n_out - lane - done;
      bst_vec_store_some32(to + done, x[i][j],
                           left < BST_STEM_VEC_LANES ? left : BST_STEM_VEC_LANES);
    }
  }
}

/// Spikes of a group, from bit `at` of the words of the pixels on; or x.
BST_INLINE void bst_stem_group_run(const bst_stem_geometry* g, const bst_stem_group* group,
                                   const bst_stem_encoder* encoder, int n_vecs, size_t at,
                                   bst_stem_pixels* pixels) {
  bst_vec x[BST_STEM_PIXELS][BST_STEM_VECS], v[BST_STEM_PIXELS][BST_STEM_VECS];
  for (int i = 0; i < BST_STEM_PIXELS; ++i) {
    for (int j = 0; j < n_vecs; ++j) v[i][j] = encoder->neuron.start;
  }
  for (int t = 0; t < g->n_steps; ++t) {
    if (t < g->n_frames) bst_stem_group_input(g, group, n_vecs, pixels, t, x);
    if (pixels->stream != NULL) {
      bst_stem_group_store(pixels, group->lane, n_vecs, t, x);
      continue;
    }
    for (int i = 0; i < BST_STEM_PIXELS; ++i) {
      if (encoder->first == NULL) {
        bst_stem_group_fire(encoder, n_vecs, x[i], at, v[i], &pixels->words[i][t]);
      } else {
        bst_stem_group_look_up(g->n_steps, n_vecs, encoder->first, x[i], at, pixels->words[i]);
      }
    }
    if (encoder->first != NULL) return;
  }
}

/// The same with the number of vectors as a constant.
BST_INLINE void bst_stem_group_choose(const bst_stem_geometry* g, const bst_stem_group* group,
                                      const bst_stem_encoder* encoder, size_t n_vecs, size_t at,
                                      bst_stem_pixels* pixels) {
  if (n_vecs == 1) {
    bst_stem_group_run(g, group, encoder, 1, at, pixels);
  } else if (n_vecs == BST_STEM_VECS) {
    bst_stem_group_run(g, group, encoder, BST_STEM_VECS, at, pixels);
  } else if (n_vecs == 2) {
    bst_stem_group_run(g, group, encoder, 2, at, pixels);
  } else {
    bst_stem_group_run(g, group, encoder, BST_STEM_VECS - 1, at, pixels);
  }
}

// ---- All output pixels --------------------------------------------------------------------------

/// Where the constants of one call lie.
typedef struct bst_stem_constants {
  const int16_t* digits;
  const int64_t *bias, *shift;
  size_t n_out, n_vecs, vec_digits;
} bst_stem_constants;

static inline bst_stem_constants bst_stem_open(const void* constants, int n_out, int kh, int kw,
                                               int n_in) {
  const size_t n_vecs = bst_stem_vecs(n_out), vec_digits = bst_stem_vec_digits(kh, kw, n_in);
  const int16_t* const digits = constants;
  const int64_t* const shift = (const int64_t*)(const void*)(digits + n_vecs * vec_digits);
  const bst_stem_constants made = {
      digits, shift + n_vecs * BST_STEM_VEC_LANES, shift, (size_t)n_out, n_vecs, vec_digits};
  return made;
}

/// The output of the pixels, neighbours in a row: word w of pixel i at step t goes to
/// spikes[t * out_step + i * n_words + w], unless x is asked for.
BST_INLINE void bst_stem_pixels_run(const bst_stem_geometry* g, const bst_stem_constants* c,
                                    const bst_stem_encoder* encoder, size_t out_step,
                                    bst_stem_pixels* pixels, uint64_t* spikes) {
  const size_t n_words = g->n_lanes / 64;
  for (size_t done = 0; done < c->n_out; done += 64) {
    const size_t end = c->n_out - done < 64 ? c->n_out - done : 64;
    const uint64_t mask = UINT64_MAX >> (64 - end);
    memset(pixels->words, 0, sizeof pixels->words);
    for (size_t at = 0; at < end; at += BST_STEM_LANES) {
      const size_t lane = done + at, v = lane / BST_STEM_VEC_LANES;
      const bst_stem_group group = {c->digits + v * c->vec_digits, c->shift + lane, lane};
      const size_t n_vecs = bst_stem_group_vecs(c->n_vecs, v);
      bst_stem_group_choose(g, &group, encoder, n_vecs, at, pixels);
    }
    for (int i = 0; pixels->stream == NULL && i < pixels->n_pixels; ++i) {
      uint64_t* const to = spikes + (size_t)i * n_words + done / 64;
      for (int t = 0; t < g->n_steps; ++t) to[(size_t)t * out_step] = pixels->words[i][t] & mask;
    }
  }
}

static inline void bst_stem_neuron_vector(
    int part, int n_parts, int n_steps, int n_frames, int height, int width, int n_in, int n_out,
    int kh, int kw, int stride, int pad, int flags, int theta, int v_reset, int r,
    const uint8_t* image, const void* constants, const int64_t* bias, const uint8_t* shift,
    const uint8_t* row_class, const uint8_t* col_class, int n_col_classes, const int32_t* first,
    uint64_t* spikes, int32_t* stream, void* scratch) {
  if (!bst_stem_has_digits(kh, kw, n_in)) {
    // rare: not worth a copy for every instruction set
    bst_stem_neuron__scalar.run(part, n_parts, n_steps, n_frames, height, width, n_in, n_out, kh,
                                kw, stride, pad, flags, theta, v_reset, r, image, constants, bias,
                                shift, row_class, col_class, n_col_classes, first, spikes, stream,
                                scratch);
    return;
  }
  const bst_stem_geometry g = {n_steps, n_frames, height, width, n_in,
                               kh,      kw,       stride, pad,   bst_stem_lanes(n_out)};
  const bst_stem_constants c = bst_stem_open(constants, n_out, kh, kw, n_in);
  const bst_stem_encoder encoder = {first, bst_vec_charge_of(flags),
                                    bst_vec_neuron_of(flags, theta, v_reset, r)};
  const int out_h = (height + 2 * pad - kh) / stride + 1;
  const int out_w = (width + 2 * pad - kw) / stride + 1;
  const size_t n_words = g.n_lanes / 64, cells = (size_t)out_h * (size_t)out_w;
  const int first_y = (int)bst_part_begin(part, n_parts, (size_t)out_h);
  const int end_y = (int)bst_part_begin(part + 1, n_parts, (size_t)out_h);
  int16_t* const rows = scratch;
  for (int y = first_y; y < end_y; ++y) {
    bst_stem_widen_rows(&g, image, y, rows);
    for (int x = 0, n; x < out_w; x += n) {
      const size_t cell = (size_t)y * (size_t)out_w + (size_t)x;
      bst_stem_pixels pixels;
      n = out_w - x < BST_STEM_PIXELS ? 1 : BST_STEM_PIXELS;
      pixels.n_pixels = n;
      pixels.n_out = c.n_out;
      pixels.stream = stream == NULL ? NULL : stream + cell * c.n_out;
      pixels.stream_step = cells * c.n_out;
      pixels.window_step = (size_t)stride * (size_t)n_in;
      pixels.window = rows + (size_t)x * pixels.window_step;
      if (n == 1) pixels.window_step = 0;
      for (int i = 0; i < BST_STEM_PIXELS; ++i) {
        const int column = x + (n == 1 ? 0 : i);
        const size_t border = (size_t)(row_class[y] * n_col_classes + col_class[column]);
        pixels.bias[i] = c.bias + border * c.n_vecs * BST_STEM_VEC_LANES;
      }
      bst_stem_pixels_run(&g, &c, &encoder, cells * n_words, &pixels,
                          stream == NULL ? spikes + cell * n_words : NULL);
    }
  }
}

#endif  // BST_KERNELS_STEM_NEURON_SIMD_H_
