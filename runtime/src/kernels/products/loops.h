// SPDX-License-Identifier: MIT
// products on plain arrays of int32: any sizes. For scalar.c.
//
// k^T v: the channels of k and v of a head are turned into columns of one bit per token; entry
// (i, j) is the number of common bits of two columns. It is at most N <= 1024.
// q (k^T v): for every token the rows (i, .) of its spikes are added, in groups of 64 channels.

#ifndef BST_KERNELS_PRODUCTS_LOOPS_H_
#define BST_KERNELS_PRODUCTS_LOOPS_H_

#include "../lanes.h"
#include "../part.h"
#include "../stream_neuron/neuron.h"
#include "products.h"

typedef struct bst_products_shape {
  size_t n_steps, n_tokens, d, words, n_words, lanes;  // lanes: d, padded to 64
} bst_products_shape;

static inline bst_products_shape bst_products_shape_of(int n_steps, int n_tokens, int channels,
                                                       int heads) {
  const size_t d = (size_t)channels / (size_t)heads;
  return (bst_products_shape){(size_t)n_steps,
                              (size_t)n_tokens,
                              d,
                              ((size_t)channels + 63) / 64,
                              ((size_t)n_tokens + 63) / 64,
                              (d + 63) / 64 * 64};
}

BST_INLINE int32_t bst_products_count(uint64_t x) {
  x -= (x >> 1) & UINT64_C(0x5555555555555555);
  x = (x & UINT64_C(0x3333333333333333)) + ((x >> 2) & UINT64_C(0x3333333333333333));
  x = (x + (x >> 4)) & UINT64_C(0x0F0F0F0F0F0F0F0F);
  return (int32_t)((x * UINT64_C(0x0101010101010101)) >> 56);
}

/// Channels first .. first + d - 1 of one step as columns [n_words][lanes]: bit n of word w of
/// channel i = spike of token 64 w + n.
BST_INLINE void bst_products_columns(const bst_products_shape* s, const uint64_t* tokens,
                                     size_t first, uint64_t* columns) {
  memset(columns, 0, s->n_words * s->lanes * sizeof *columns);
  for (size_t n = 0; n < s->n_tokens; ++n, tokens += s->words) {
    uint64_t* const to = columns + n / 64 * s->lanes;
    const uint64_t bit = UINT64_C(1) << (n % 64);
    for (size_t done = 0; done < s->d; done += 64) {
      const size_t left = s->d - done;
      uint64_t word = 0;
      bst_slice_bits(tokens, first + done, left < 64 ? left : 64, &word);
      for (; word != 0; word &= word - 1) to[done + bst_low_bit(word)] |= bit;
    }
  }
}

/// k^T v of one step, int32 [d][lanes], zero beyond d.
BST_INLINE void bst_products_pairs(const bst_products_shape* s, const uint64_t* k,
                                   const uint64_t* v, int32_t* pairs) {
  for (size_t i = 0; i < s->d; ++i, pairs += s->lanes) {
    memset(pairs, 0, s->lanes * sizeof *pairs);
    for (size_t w = 0; w < s->n_words; ++w) {
      const uint64_t one = k[w * s->lanes + i];
      const uint64_t* const other = v + w * s->lanes;
      if (one == 0) continue;
      for (size_t j = 0; j < s->lanes; ++j) pairs[j] += bst_products_count(one & other[j]);
    }
  }
}

/// The neurons of one group of 64 channels of a token in a head.
/// @param q spikes of the token, step 0, @param pairs of step 0, from the first channel of the
/// group
BST_INLINE void bst_products_token(const bst_products_shape* s, size_t first, size_t group,
                                   int shift, const bst_neuron* neuron, const uint64_t* q,
                                   const int32_t* pairs, uint64_t* out) {
  int32_t v[BST_LANES], x[BST_LANES];
  uint8_t spike[BST_LANES];
  const size_t in_step = s->n_tokens * s->words, left = s->d - group;
  const size_t n_here = left < 64 ? left : 64;
  bst_neuron_start(neuron, v);
  for (size_t t = 0; t < s->n_steps; ++t, q += in_step, out += in_step) {
    memset(x, 0, sizeof x);
    for (size_t done = 0; done < s->d; done += 64) {
      const size_t more = s->d - done;
      uint64_t word = 0;
      bst_slice_bits(q, first + done, more < 64 ? more : 64, &word);
      for (; word != 0; word &= word - 1) {
        const int32_t* const row = pairs + (t * s->d + done + bst_low_bit(word)) * s->lanes + group;
        for (int i = 0; i < BST_LANES; ++i) x[i] += row[i];
      }
    }
    for (int i = 0; i < BST_LANES; ++i) x[i] = (int32_t)((uint32_t)x[i] << shift);
    bst_neuron_step(neuron, x, v, spike);
    uint64_t bits = bst_pack_lanes(spike);
    if (n_here < 64) bits &= (UINT64_C(1) << n_here) - 1;
    bst_insert_bits(out, first + group, n_here, bits);
  }
}

BST_INLINE void bst_products_run(int part, int n_parts, const bst_products_shape* s, size_t heads,
                                 int shift, const bst_neuron* neuron, const uint64_t* q,
                                 const uint64_t* k, const uint64_t* v, uint64_t* out,
                                 void* scratch) {
  const size_t in_step = s->n_tokens * s->words, columns = s->n_words * s->lanes;
  uint64_t* const k_columns = scratch;
  uint64_t* const v_columns = k_columns + columns;
  int32_t* const pairs = (int32_t*)(void*)(v_columns + columns);  // [T][d][lanes]
  const size_t begin = bst_part_begin(part, n_parts, s->n_tokens);
  const size_t end = bst_part_begin(part + 1, n_parts, s->n_tokens);
  if (begin == end) return;
  for (size_t t = 0; t < s->n_steps; ++t) {
    memset(out + t * in_step + begin * s->words, 0, (end - begin) * s->words * sizeof *out);
  }
  for (size_t h = 0; h < heads; ++h) {
    const size_t first = h * s->d;
    for (size_t t = 0; t < s->n_steps; ++t) {
      bst_products_columns(s, k + t * in_step, first, k_columns);
      bst_products_columns(s, v + t * in_step, first, v_columns);
      bst_products_pairs(s, k_columns, v_columns, pairs + t * s->d * s->lanes);
    }
    for (size_t n = begin; n < end; ++n) {
      for (size_t group = 0; group < s->d; group += 64) {
        bst_products_token(s, first, group, shift, neuron, q + n * s->words, pairs,
                           out + n * s->words);
      }
    }
  }
}

// The kernel of one instruction set.

#define BST_DEFINE_PRODUCTS(name)                                                                 \
  void name(int part, int n_parts, int n_steps, int n_tokens, int channels, int heads, int shift, \
            int flags, int theta, int v_reset, int r, const uint64_t* q, const uint64_t* k,       \
            const uint64_t* v, uint64_t* out, void* scratch) {                                    \
    const bst_products_shape s = bst_products_shape_of(n_steps, n_tokens, channels, heads);       \
    const bst_neuron neuron = {flags, theta, v_reset, r};                                         \
    bst_products_run(part, n_parts, &s, (size_t)heads, shift, &neuron, q, k, v, out, scratch);    \
  }

#endif  // BST_KERNELS_PRODUCTS_LOOPS_H_
