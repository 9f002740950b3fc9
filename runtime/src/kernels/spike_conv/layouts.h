// SPDX-License-Identifier: MIT
// Weights and thresholds as sliced.h reads them, for vectors of any width.

#ifndef BST_KERNELS_SPIKE_CONV_LAYOUTS_H_
#define BST_KERNELS_SPIKE_CONV_LAYOUTS_H_

#include <stdbool.h>

#include "../have.h"
#include "geometry.h"
#include "plan.h"
#include "spike_conv.h"
#include "sum_common.h"

enum { BST_CONV_NEURON_T = 8 };

/// Words of a vector, and of the narrowest rows that it may be cut into.
typedef struct bst_width {
  size_t words, narrowest;
#ifdef BST_HAVE_AVX2         // whose kernels want it; elsewhere two registers hold a width
  bool theta_by_difference;  // Theta[t, s], s > 0, as what differs from Theta[t, 0], bit by bit
#endif
} bst_width;

/// Words of one row of the block that begins at word `first`.
static inline size_t bst_block_words(bst_width v, size_t out_words, size_t first) {
  const size_t left = out_words - first;
  size_t words = v.words;
  while (words / 2 >= left && words / 2 >= v.narrowest) words /= 2;
  return words;
}

/// Output words in whole rows of blocks.
static inline size_t bst_blocks_words(bst_width v, int n_out) {
  const size_t words = bst_conv_words(n_out), last = (words - 1) / v.words * v.words;
  return last + bst_block_words(v, words, last);
}

/// Rows of a block: weights, zeros, planes of `total`.
static inline size_t bst_block_rows(size_t fan_in) { return fan_in + 1 + BST_MAX_SLICED_PLANES; }

static inline bool bst_fits_lists(size_t fan_in) { return fan_in < BST_MAX_ENTRY_ROWS; }

static inline bst_strip bst_strip_of(bst_width v, int n_out, int kh, int kw, int n_in, int stride) {
  const int n = (int)(v.words / bst_block_words(v, bst_conv_words(n_out), 0));
  const int columns = kw + (n - 1) * stride;
  const bst_strip one = {1, kw, bst_conv_fan_in(kh, kw, n_in)};
  const bst_strip all = {n, columns, bst_conv_fan_in(kh, columns, n_in)};
  return n > 1 && kw > stride && bst_fits_lists(all.fan_in) ? all : one;
}

static inline size_t bst_sliced_rows_bytes(bst_width v, int n_out, int kh, int kw, int n_in,
                                           int stride) {
  const bst_strip strip = bst_strip_of(v, n_out, kh, kw, n_in, stride);
  const size_t words = strip.n_pixels > 1 ? v.words : bst_blocks_words(v, n_out);
  return bst_block_rows(strip.fan_in) * words * sizeof(uint64_t);
}

/// Head of the prepared thresholds; planes follow at BST_THETA_HEAD_BYTES.
typedef struct bst_theta_head {
  int32_t widths[BST_CONV_NEURON_T];  // planes of Theta[t, .] with its sign
  uint64_t block_planes;              // planes of one block
} bst_theta_head;

enum { BST_THETA_HEAD_BYTES = 64 };
_Static_assert(sizeof(bst_theta_head) <= BST_THETA_HEAD_BYTES, "head of the thresholds");

static inline size_t bst_n_blocks(bst_width v, int n_out) {
  return (bst_conv_words(n_out) + v.words - 1) / v.words;
}

/// Planes of a signed number in -most - 1 .. most + 1.
static inline int bst_signed_planes(uint64_t most) { return bst_bit_length((size_t)most + 1) + 1; }

/// Planes of I_t of counters of n_planes planes, t from 1; see the head of sliced.h.
#define BST_CHARGE_PLANES(n_planes, t) ((n_planes) + ((t) == 1 ? 1 : (t) + 1))

/// Planes of Theta[t, .] where |n| <= most: never fewer than the functions of fire_fixed.h take.
static inline int bst_theta_planes(uint64_t most, int t) {
  const int needed = bst_signed_planes(most * ((1U << t) - 1));
  const int least = BST_CHARGE_PLANES(BST_MIN_SUM_PLANES, t);
  return needed < least ? least : needed;
}

static inline size_t bst_sliced_theta_bytes(bst_width v, int n_steps, int n_out, int fan_in) {
  size_t planes = 0;
  for (int t = 1; t <= n_steps; ++t) {
    planes += (size_t)t * (size_t)bst_theta_planes((uint64_t)fan_in, t);
  }
  return BST_THETA_HEAD_BYTES + bst_n_blocks(v, n_out) * planes * v.words * sizeof(uint64_t);
}

/// Lay out weights, bst_sliced_rows_bytes; see bst_spike_conv.prepare_rows.
void bst_sliced_prepare_rows(bst_width v, int n_out, int kh, int kw, int n_in, int stride,
                             const uint8_t* bits, uint64_t* rows);

/// Lay out thresholds, bst_sliced_theta_bytes; see bst_spike_conv.prepare_theta.
void bst_sliced_prepare_theta(bst_width v, int n_steps, int n_out, int kh, int kw, int n_in,
                              int most_level, const uint8_t* bits, const int32_t* theta_u,
                              const int32_t* theta_w, int n_explicit, const int32_t* index,
                              const int32_t* explicit_theta, void* memory);

#endif  // BST_KERNELS_SPIKE_CONV_LAYOUTS_H_
