// SPDX-License-Identifier: MIT
// Stream neuron in one pass over the streams: vectors of int32 channels, comparisons become bits of
// a word of spikes at once, the residual is added on the way. A body: included by the file of one
// instruction set after its vocabulary, between BST_VECTOR_BEGIN and BST_VECTOR_END.
//
// Order. The work is bound by memory. In common shapes the steps of a stream lie a multiple of 4096
// bytes apart, so all steps of all streams at one channel share a set of the first-level cache, and
// there are more of them than ways. So a block of some hundred channels takes one step after the
// other: few sequential streams at a time; its potentials wait in a small array.

#ifndef BST_KERNELS_STREAM_NEURON_SIMD_H_
#define BST_KERNELS_STREAM_NEURON_SIMD_H_

#include "../part.h"
#include "simd_neuron.h"
#include "stream_neuron.h"

enum {
  BST_STREAM_VECS = 4,   // vectors of a group
  BST_STREAM_BLOCK = 8,  // groups of a block
  BST_STREAM_VEC_LANES = BST_VEC_BYTES / 4,
  BST_STREAM_LANES = BST_STREAM_VECS * BST_STREAM_VEC_LANES,  // 64, 32 or 16: divides a word
};

/// One call: the neuron on x, or on y + ((x0 + x1) >> 1), which is stored to x2.
typedef struct bst_stream {
  int n_steps;
  size_t channels;
  size_t step_items, step_words;  // from one step to the next, in streams and in spikes
  const int32_t *y, *x0, *x1;     // NULL without a residual
  const int32_t* x;
  int32_t* x2;
  uint64_t* spikes;
  bst_vec_neuron neuron;
} bst_stream;

/// Channels whose spikes begin at bit `shift` of a word; `n` of them exist.
typedef struct bst_stream_group {
  size_t shift, n;
} bst_stream_group;

/// Channels of vector j of a group that exist.
BST_INLINE size_t bst_stream_left(const bst_stream_group* g, size_t j) {
  const size_t before = j * BST_STREAM_VEC_LANES, left = g->n > before ? g->n - before : 0;
  return left < BST_STREAM_VEC_LANES ? left : BST_STREAM_VEC_LANES;
}

/// Vector j of a group in a stream; lanes that do not exist are 0.
BST_INLINE bst_vec bst_stream_load(const bst_stream_group* g, bool whole, const int32_t* from,
                                   size_t j) {
  const size_t left = bst_stream_left(g, j);
  if (whole) return bst_vec_load(from + j * BST_STREAM_VEC_LANES);
  return left == 0 ? bst_vec_zero() : bst_vec_load_some32(from + j * BST_STREAM_VEC_LANES, left);
}

BST_INLINE void bst_stream_store(const bst_stream_group* g, bool whole, bst_vec x, int32_t* to,
                                 size_t j) {
  const size_t left = bst_stream_left(g, j);
  if (whole) {
    bst_vec_store(to + j * BST_STREAM_VEC_LANES, x);
  } else if (left > 0) {
    bst_vec_store_some32(to + j * BST_STREAM_VEC_LANES, x, left);
  }
}

/// One step of a group, `at` items into the streams and `word` words into the spikes.
/// @param whole all channels of the group exist
/// @param v     potentials, updated
BST_INLINE void bst_stream_step(const bst_stream* s, const bst_stream_group* g,
                                bst_vec_charge charge, bool residual, bool whole, size_t at,
                                size_t word, bst_vec* v) {
  bst_mask silent[BST_STREAM_VECS];
  for (size_t j = 0; j < BST_STREAM_VECS; ++j) {
    bst_vec x;
    if (residual) {
      const bst_vec x0 = bst_stream_load(g, whole, s->x0 + at, j);
      const bst_vec x1 = bst_stream_load(g, whole, s->x1 + at, j);
      const bst_vec y = bst_stream_load(g, whole, s->y + at, j);
      x = bst_vec_add32(y, bst_vec_average32(x0, x1));
      bst_stream_store(g, whole, x, s->x2 + at, j);
    } else {
      x = bst_stream_load(g, whole, s->x + at, j);
    }
    silent[j] = bst_vec_neuron_step(charge, &s->neuron, x, &v[j]);
  }
  const uint64_t mask = g->n < 64 ? (UINT64_C(1) << g->n) - 1 : UINT64_MAX;
  const uint64_t fired = ~bst_vec_bits32(silent, BST_STREAM_VECS) & mask;
  s->spikes[word] = g->shift == 0 ? fired : s->spikes[word] | fired << g->shift;
}

/// All steps of `n_groups` groups that follow each other from one channel of a cell on.
BST_INLINE void bst_stream_block(const bst_stream* s, bst_vec_charge charge, bool residual,
                                 size_t first_cell, size_t first_c, size_t n_groups) {
  bst_vec v[BST_STREAM_BLOCK][BST_STREAM_VECS];
  const size_t n_words = (s->channels + 63) / 64;
  for (size_t k = 0; k < n_groups; ++k) {
    for (int j = 0; j < BST_STREAM_VECS; ++j) v[k][j] = s->neuron.start;
  }
  for (size_t t = 0; t < (size_t)s->n_steps; ++t) {
    size_t cell = first_cell, c = first_c;
    for (size_t k = 0; k < n_groups; ++k) {
      const size_t at = t * s->step_items + cell * s->channels + c;
      const size_t word = t * s->step_words + cell * n_words + c / 64, left = s->channels - c;
      bst_stream_group g = {c % 64, BST_STREAM_LANES};
      if (left >= BST_STREAM_LANES) {
        bst_stream_step(s, &g, charge, residual, true, at, word, v[k]);
      } else {
        g.n = left;
        bst_stream_step(s, &g, charge, residual, false, at, word, v[k]);
      }
      c += BST_STREAM_LANES;
      if (c >= s->channels) {
        c = 0;
        ++cell;
      }
    }
  }
}

BST_INLINE void bst_stream_cells(const bst_stream* s, bst_vec_charge charge, bool residual,
                                 size_t first, size_t end) {
  const size_t per_cell = (s->channels + BST_STREAM_LANES - 1) / BST_STREAM_LANES;
  const size_t last = end * per_cell;
  for (size_t at = first * per_cell; at < last; at += BST_STREAM_BLOCK) {
    const size_t left = last - at, n = left < BST_STREAM_BLOCK ? left : BST_STREAM_BLOCK;
    bst_stream_block(s, charge, residual, at / per_cell, at % per_cell * BST_STREAM_LANES, n);
  }
}

/// The loops once per form of charging; the usual one with a residual once more on large vectors.
BST_NOINLINE void bst_stream_share(const bst_stream* given, int flags, size_t first, size_t end) {
  const bst_stream s = *given;  // nobody else has its address
  const bool residual = s.y != NULL;
  switch (bst_vec_charge_of(flags)) {
    case BST_VEC_HALVE_BOTH:
      if (residual && BST_VEC_BYTES > 16) {
        bst_stream_cells(&s, BST_VEC_HALVE_BOTH, true, first, end);
      } else {
        bst_stream_cells(&s, BST_VEC_HALVE_BOTH, residual, first, end);
      }
      break;
    case BST_VEC_HALVE_V:
      bst_stream_cells(&s, BST_VEC_HALVE_V, residual, first, end);
      break;
    case BST_VEC_SCALE_BOTH:
      bst_stream_cells(&s, BST_VEC_SCALE_BOTH, residual, first, end);
      break;
    case BST_VEC_SCALE_V:
      bst_stream_cells(&s, BST_VEC_SCALE_V, residual, first, end);
      break;
  }
}

static inline void bst_stream_neuron_vector(int part, int n_parts, int n_steps, size_t n_cells,
                                            int channels, int flags, int theta, int v_reset, int r,
                                            const int32_t* x, uint64_t* spikes) {
  const size_t c = (size_t)channels;
  const bst_stream s = {.n_steps = n_steps,
                        .channels = c,
                        .step_items = n_cells * c,
                        .step_words = n_cells * ((c + 63) / 64),
                        .x = x,
                        .spikes = spikes,
                        .neuron = bst_vec_neuron_of(flags, theta, v_reset, r)};
  bst_stream_share(&s, flags, bst_part_begin(part, n_parts, n_cells),
                   bst_part_begin(part + 1, n_parts, n_cells));
}

static inline void bst_residual_neuron_vector(int part, int n_parts, int n_steps, size_t n_cells,
                                              int channels, int flags, int theta, int v_reset,
                                              int r, const int32_t* y, const int32_t* x0,
                                              const int32_t* x1, int32_t* x2, uint64_t* spikes) {
  const size_t c = (size_t)channels;
  const bst_stream s = {.n_steps = n_steps,
                        .channels = c,
                        .step_items = n_cells * c,
                        .step_words = n_cells * ((c + 63) / 64),
                        .y = y,
                        .x0 = x0,
                        .x1 = x1,
                        .x2 = x2,
                        .spikes = spikes,
                        .neuron = bst_vec_neuron_of(flags, theta, v_reset, r)};
  bst_stream_share(&s, flags, bst_part_begin(part, n_parts, n_cells),
                   bst_part_begin(part + 1, n_parts, n_cells));
}

#endif  // BST_KERNELS_STREAM_NEURON_SIMD_H_
