// SPDX-License-Identifier: MIT
// add_attention in plain loops over lanes that a compiler turns into the vectors of the instruction
// set it is inlined for.
//
// add_neuron, per head of d channels and per step: every token adds or subtracts its row of K [d]
// to one row of M^T [d, d] for each of its signs w; M is the transpose; every token sums the rows
// of M that its spikes q name. Heads whose spikes share a word of the output form a group; the
// parts share the groups.

#ifndef BST_KERNELS_ADD_ATTENTION_LOOPS_H_
#define BST_KERNELS_ADD_ATTENTION_LOOPS_H_

#include <string.h>

#include "../lanes.h"
#include "../part.h"
#include "add_attention.h"

// ---- ternary_neuron -----------------------------------------------------------------------------

/// One step of 64 neurons; theta >= 1, so that +1 and -1 exclude each other.
BST_INLINE void bst_ternary_step(int decay, int32_t theta, int64_t r, const int32_t* x, int32_t* v,
                                 uint8_t* plus, uint8_t* minus) {
  const int64_t half = INT64_C(1) << 29;
  for (int i = 0; i < 64; ++i) {
    const int64_t now = x[i], before = v[i];
    const int64_t moved = (decay != 0 ? (now - before) : before) * r + half;
    const int64_t u = (decay != 0 ? before : now) + (moved >> 30);
    plus[i] = u >= theta;
    minus[i] = -u >= theta;
    v[i] = plus[i] != 0 || minus[i] != 0 ? 0 : (int32_t)u;
  }
}

BST_INLINE void bst_ternary_neuron_run(int part, int n_parts, int n_steps, size_t n_cells,
                                       int channels, int decay, int theta, int r, const int32_t* x,
                                       uint64_t* signs) {
  const size_t c = (size_t)channels, n_words = (c + 63) / 64;
  const size_t end = bst_part_begin(part + 1, n_parts, n_cells);
  for (size_t cell = bst_part_begin(part, n_parts, n_cells); cell < end; ++cell) {
    for (size_t w = 0; w < n_words; ++w) {
      const size_t left = c - 64 * w, n = left < 64 ? left : 64;
      const uint64_t mask = n < 64 ? (UINT64_C(1) << n) - 1 : UINT64_MAX;
      int32_t v[64] = {0}, now[64] = {0};
      uint8_t plus[64], minus[64];
      for (size_t t = 0; t < (size_t)n_steps; ++t) {
        memcpy(now, x + (t * n_cells + cell) * c + 64 * w, n * sizeof *now);
        bst_ternary_step(decay, theta, r, now, v, plus, minus);
        uint64_t* const out = signs + (t * n_cells + cell) * 2 * n_words + w;
        out[0] = bst_pack_lanes(plus) & mask;
        out[n_words] = bst_pack_lanes(minus) & mask;
      }
    }
  }
}

// ---- add_neuron ---------------------------------------------------------------------------------

/// Heads of one group: their channels begin and end at whole words.
static inline size_t bst_add_group(size_t d) {
  size_t heads = 64;
  for (; heads > 1 && d % 2 == 0; d /= 2) heads /= 2;
  return heads;
}

/// One head at one step.
typedef struct bst_add_head {
  size_t n_cells, channels, n_words, first, d;  // its channels are first .. first + d - 1
  int k_shift, decay;
  int64_t theta;
  const uint64_t *q, *w;
  const int32_t* y;
  uint64_t* spikes;
} bst_add_head;

/// Bits first .. first + 63 of a row of words, those of `n` channels; the others 0.
static inline uint64_t bst_add_bits(const uint64_t* row, size_t first, size_t n) {
  const size_t shift = first % 64;
  uint64_t bits = row[first / 64] >> shift;
  if (shift != 0 && shift + n > 64) bits |= row[first / 64 + 1] << (64 - shift);
  return n < 64 ? bits & ((UINT64_C(1) << n) - 1) : bits;
}

/// One row of K, int64.
BST_INLINE void bst_add_key(const bst_add_head* h, const int32_t* y, int64_t* key) {
  const int64_t half = (INT64_C(1) << h->k_shift) >> 1;
  for (size_t i = 0; i < h->d; ++i) {
    const int64_t k = y[i] > 0 ? y[i] : 0;
    key[i] = (int64_t)((uint64_t)((k + half) >> h->k_shift) << h->k_shift);
  }
}

/// rows[j] += or -= key for every sign of one token
BST_INLINE void bst_add_signs(const bst_add_head* h, const uint64_t* plane, int negative,
                              const int64_t* key, int64_t* rows) {
  const int64_t flip = negative != 0 ? -1 : 0;
  for (size_t j = 0; j < h->d; j += 64) {
    const size_t left = h->d - j;
    uint64_t bits = bst_add_bits(plane, h->first + j, left < 64 ? left : 64);
    for (; bits != 0; bits &= bits - 1) {
      int64_t* const row = rows + (j + bst_low_bit(bits)) * h->d;
      for (size_t i = 0; i < h->d; ++i) row[i] += (key[i] ^ flip) - flip;
    }
  }
}

/// m[i, j] = sum over tokens of K[i] w[j]; `rows` and `key` are room for its transpose and a row.
BST_INLINE void bst_add_products(const bst_add_head* h, int64_t* rows, int64_t* key, int64_t* m) {
  const size_t d = h->d;
  memset(rows, 0, d * d * sizeof *rows);
  for (size_t cell = 0; cell < h->n_cells; ++cell) {
    const uint64_t* const plus = h->w + cell * 2 * h->n_words;
    bst_add_key(h, h->y + cell * h->channels + h->first, key);
    bst_add_signs(h, plus, 0, key, rows);
    bst_add_signs(h, plus + h->n_words, 1, key, rows);
  }
  for (size_t i = 0; i < d; ++i) {
    for (size_t j = 0; j < d; ++j) m[i * d + j] = rows[j * d + i];
  }
}

/// Neurons of one token on z, `v` updated; spikes are ORed into the token's words.
BST_INLINE void bst_add_fire(const bst_add_head* h, const int64_t* z, int64_t* v, uint64_t* out) {
  for (size_t j = 0; j < h->d; ++j) {
    const int64_t charged = h->decay != 0 ? (v[j] + z[j]) >> 1 : (v[j] >> 1) + z[j];
    const int fired = charged >= h->theta;
    v[j] = fired != 0 ? 0 : charged;
    out[(h->first + j) / 64] |= (uint64_t)(unsigned)fired << (h->first + j) % 64;
  }
}

BST_INLINE void bst_add_tokens(const bst_add_head* h, const int64_t* m, int64_t* z, int64_t* v) {
  const size_t d = h->d;
  for (size_t cell = 0; cell < h->n_cells; ++cell, v += d) {
    const uint64_t* const q = h->q + cell * h->n_words;
    memset(z, 0, d * sizeof *z);
    for (size_t i = 0; i < d; i += 64) {
      const size_t left = d - i;
      uint64_t bits = bst_add_bits(q, h->first + i, left < 64 ? left : 64);
      for (; bits != 0; bits &= bits - 1) {
        const int64_t* const row = m + (i + bst_low_bit(bits)) * d;
        for (size_t j = 0; j < d; ++j) z[j] += row[j];
      }
    }
    bst_add_fire(h, z, v, h->spikes + cell * h->n_words);
  }
}

BST_INLINE void bst_add_neuron_run(int part, int n_parts, int n_steps, size_t n_cells, int channels,
                                   int heads, int k_shift, int decay, int theta, const uint64_t* q,
                                   const int32_t* y, const uint64_t* w, uint64_t* spikes,
                                   void* scratch) {
  const size_t c = (size_t)channels, d = c / (size_t)heads, n_words = (c + 63) / 64;
  const size_t group = bst_add_group(d), n_groups = ((size_t)heads + group - 1) / group;
  int64_t *const rows = scratch, *const m = rows + d * d, *const key = m + d * d;
  int64_t *const z = key + d, *const v = z + d;
  const size_t end = bst_part_begin(part + 1, n_parts, n_groups);
  for (size_t g = bst_part_begin(part, n_parts, n_groups); g < end; ++g) {
    const size_t last = (g + 1) * group < (size_t)heads ? (g + 1) * group : (size_t)heads;
    const size_t from = g * group * d / 64, to = (last * d + 63) / 64;
    for (size_t i = 0; i < (size_t)n_steps * n_cells; ++i) {
      memset(spikes + i * n_words + from, 0, (to - from) * sizeof *spikes);
    }
    for (size_t head = g * group; head < last; ++head) {
      bst_add_head h = {n_cells, c, n_words, head * d, d, k_shift, decay, theta, q, w, y, spikes};
      memset(v, 0, n_cells * d * sizeof *v);
      for (int t = 0; t < n_steps; ++t) {
        bst_add_products(&h, rows, key, m);
        bst_add_tokens(&h, m, z, v);
        h.q += n_cells * n_words;
        h.w += n_cells * 2 * n_words;
        h.y += n_cells * c;
        h.spikes += n_cells * n_words;
      }
    }
  }
}

/// The kernels of one instruction set.
#define BST_DEFINE_ADD_ATTENTION(isa)                                                              \
  void bst_ternary_neuron__##isa(int part, int n_parts, int n_steps, size_t n_cells, int channels, \
                                 int decay, int theta, int r, const int32_t* x, uint64_t* signs) { \
    bst_ternary_neuron_run(part, n_parts, n_steps, n_cells, channels, decay, theta, r, x, signs);  \
  }                                                                                                \
  void bst_add_neuron__##isa(int part, int n_parts, int n_steps, size_t n_cells, int channels,     \
                             int heads, int k_shift, int decay, int theta, const uint64_t* q,      \
                             const int32_t* y, const uint64_t* w, uint64_t* spikes,                \
                             void* scratch) {                                                      \
    bst_add_neuron_run(part, n_parts, n_steps, n_cells, channels, heads, k_shift, decay, theta, q, \
                       y, w, spikes, scratch);                                                     \
  }

#endif  // BST_KERNELS_ADD_ATTENTION_LOOPS_H_
