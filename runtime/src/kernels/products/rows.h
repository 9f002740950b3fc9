// SPDX-License-Identifier: MIT
// products on rows of int16 in vector types of the compiler, which makes vectors (bst_vec) of the
// instruction set of the file that includes this. A body. Sums are at most N d; where that is no
// int16 the version of scalar.c takes over.
//
// k^T v: 64 tokens at a time, the channels of a head are turned into columns of one bit per token
// by a transposition of 64 x 64 bits; entry (i, j) is the number of common bits of two columns.
// q (k^T v): a unit is a group of 32 channels of one head of one token; the rows (i, .) of the
// spikes of q are added in one vector. Two units share the 64 lanes of the neuron.

#ifndef BST_KERNELS_PRODUCTS_ROWS_H_
#define BST_KERNELS_PRODUCTS_ROWS_H_

#include "../lanes.h"
#include "../part.h"
#include "../stream_neuron/neuron.h"
#include "products.h"

#ifndef BST_PRODUCTS_COUNT
/// Number of set bits.
#define BST_PRODUCTS_COUNT(x) bst_set_bits(x)
#endif

enum { BST_PRODUCTS_LANES = 32, BST_PRODUCTS_UNITS = BST_LANES / BST_PRODUCTS_LANES };

typedef int16_t bst_products_row __attribute__((vector_size(2 * BST_PRODUCTS_LANES)));

typedef struct bst_products_call {
  size_t n_steps, n_tokens, d, words, n_words, n_groups, lanes;  // of a row: d in whole groups
  size_t in_step;
  int shift;
  bst_neuron neuron;
  const uint64_t *q, *k, *v;
  uint64_t* out;
} bst_products_call;

/// Bit c of word r becomes bit r of word c.
static inline void bst_products_transpose(uint64_t* a) {
  uint64_t mask = UINT32_MAX;
  for (size_t j = 32; j != 0; j >>= 1, mask ^= mask << j) {
    for (size_t first = 0; first < 64; first += 2 * j) {
      for (size_t r = first; r < first + j; ++r) {
        const uint64_t swap = ((a[r] >> j) ^ a[r + j]) & mask;
        a[r] ^= swap << j;
        a[r + j] ^= swap;
      }
    }
  }
}

/// Channels first .. first + d - 1 of one step as columns [n_words][lanes].
static inline void bst_products_row_columns(const bst_products_call* c, const uint64_t* tokens,
                                            size_t first, uint64_t* columns) {
  uint64_t block[64];
  for (size_t w = 0; w < c->n_words; ++w, columns += c->lanes) {
    const size_t left = c->n_tokens - 64 * w, n_here = left < 64 ? left : 64;
    for (size_t done = 0; done < c->lanes; done += 64) {
      const size_t n_bits = c->d - done < 64 ? c->d - done : 64;
      const size_t n_to = c->lanes - done < 64 ? c->lanes - done : 64;
      memset(block, 0, sizeof block);
      for (size_t n = 0; n < n_here; ++n) {
        bst_slice_bits(tokens + (64 * w + n) * c->words, first + done, n_bits, &block[n]);
      }
      bst_products_transpose(block);
      memcpy(columns + done, block, n_to * sizeof *columns);
    }
  }
}

/// k^T v of one step, [d][lanes], zero beyond d.
static inline void bst_products_row_pairs(const bst_products_call* c, const uint64_t* k,
                                          const uint64_t* v, int16_t* pairs) {
  for (size_t i = 0; i < c->d; ++i, pairs += c->lanes) {
    for (size_t j = 0; j < c->lanes; j += BST_PRODUCTS_LANES) {
      int16_t count[BST_PRODUCTS_LANES] = {0};
      for (size_t w = 0; w < c->n_words; ++w) {
        const uint64_t one = k[w * c->lanes + i];
        const uint64_t* const other = v + w * c->lanes + j;
        for (int l = 0; l < BST_PRODUCTS_LANES; ++l) {
          count[l] = (int16_t)(count[l] + (int16_t)BST_PRODUCTS_COUNT(one & other[l]));
        }
      }
      memcpy(pairs + j, count, sizeof count);
    }
  }
}

/// Sum of the rows of the spikes of one unit at one step.
/// @param q of the token, @param rows of the step, from the first channel of the group on
BST_INLINE void bst_products_sum(const bst_products_call* c, size_t first, const uint64_t* q,
                                 const int16_t* rows, int16_t* x) {
  bst_products_row sum = {0};
  for (size_t done = 0; done < c->d; done += 64, rows += 64 * c->lanes) {
    const size_t left = c->d - done;
    uint64_t word = 0;
    bst_slice_bits(q, first + done, left < 64 ? left : 64, &word);
    for (; word != 0; word &= word - 1) {
      bst_products_row row;
      memcpy(&row, rows + bst_low_bit(word) * c->lanes, sizeof row);
      sum += row;
    }
  }
  memcpy(x, &sum, sizeof sum);
}

/// Units from `unit` on, `n` of them, of the head that begins at channel `first`.
static inline void bst_products_units(const bst_products_call* c, size_t first, size_t unit,
                                      size_t n, const int16_t* rows) {
  int16_t sums[BST_LANES] = {0};
  int32_t v[BST_LANES], x[BST_LANES];
  uint8_t spike[BST_LANES];
  bst_neuron_start(&c->neuron, v);
  for (size_t t = 0; t < c->n_steps; ++t, rows += c->d * c->lanes) {
    for (size_t u = 0; u < n; ++u) {
      const size_t token = (unit + u) / c->n_groups, group = (unit + u) % c->n_groups;
      bst_products_sum(c, first, c->q + t * c->in_step + token * c->words,
                       rows + group * BST_PRODUCTS_LANES, sums + u * BST_PRODUCTS_LANES);
    }
    for (int i = 0; i < BST_LANES; ++i) x[i] = (int32_t)((uint32_t)(int32_t)sums[i] << c->shift);
    bst_neuron_step(&c->neuron, x, v, spike);
    uint64_t bits = bst_pack_lanes(spike);
    for (size_t u = 0; u < n; ++u, bits >>= BST_PRODUCTS_LANES) {
      const size_t token = (unit + u) / c->n_groups;
      const size_t done = (unit + u) % c->n_groups * BST_PRODUCTS_LANES, left = c->d - done;
      const size_t n_here = left < BST_PRODUCTS_LANES ? left : BST_PRODUCTS_LANES;
      bst_insert_bits(c->out + t * c->in_step + token * c->words, first + done, n_here,
                      bits & ((UINT64_C(1) << n_here) - 1));
    }
  }
}

static inline void bst_products_rows(int part, int n_parts, const bst_products_call* c,
                                     size_t heads, void* scratch) {
  const size_t columns = c->n_words * c->lanes;
  uint64_t* const k_columns = scratch;
  uint64_t* const v_columns = k_columns + columns;
  int16_t* const pairs = (int16_t*)(void*)(v_columns + columns);  // [T][d][lanes]
  const size_t begin = bst_part_begin(part, n_parts, c->n_tokens);
  const size_t end = bst_part_begin(part + 1, n_parts, c->n_tokens);
  if (begin == end) return;
  for (size_t t = 0; t < c->n_steps; ++t) {
    memset(c->out + t * c->in_step + begin * c->words, 0, (end - begin) * c->words * 8);
  }
  for (size_t h = 0; h < heads; ++h) {
    const size_t first = h * c->d, last = end * c->n_groups;
    for (size_t t = 0; t < c->n_steps; ++t) {
      bst_products_row_columns(c, c->k + t * c->in_step, first, k_columns);
      bst_products_row_columns(c, c->v + t * c->in_step, first, v_columns);
      bst_products_row_pairs(c, k_columns, v_columns, pairs + t * c->d * c->lanes);
    }
    for (size_t unit = begin * c->n_groups; unit < last; unit += BST_PRODUCTS_UNITS) {
      const size_t left = last - unit;
      bst_products_units(c, first, unit, left < BST_PRODUCTS_UNITS ? left : BST_PRODUCTS_UNITS,
                         pairs);
    }
  }
}

// The kernel of one instruction set.

#define BST_DEFINE_PRODUCT_ROWS(name)                                                              \
  void name(int part, int n_parts, int n_steps, int n_tokens, int channels, int heads, int shift,  \
            int flags, int theta, int v_reset, int r, const uint64_t* q, const uint64_t* k,        \
            const uint64_t* v, uint64_t* out, void* scratch) {                                     \
    const size_t d = (size_t)channels / (size_t)heads, words = ((size_t)channels + 63) / 64;       \
    const size_t n_groups = (d + BST_PRODUCTS_LANES - 1) / BST_PRODUCTS_LANES;                     \
    if ((size_t)n_tokens * d > INT16_MAX) {                                                        \
      bst_products__scalar(part, n_parts, n_steps, n_tokens, channels, heads, shift, flags, theta, \
                           v_reset, r, q, k, v, out, scratch);                                     \
      return;                                                                                      \
    }                                                                                              \
    const bst_products_call c = {.n_steps = (size_t)n_steps,                                       \
                                 .n_tokens = (size_t)n_tokens,                                     \
                                 .d = d,                                                           \
                                 .words = words,                                                   \
                                 .n_words = ((size_t)n_tokens + 63) / 64,                          \
                                 .n_groups = n_groups,                                             \
                                 .lanes = n_groups * BST_PRODUCTS_LANES,                           \
                                 .in_step = (size_t)n_tokens * words,                              \
                                 .shift = shift,                                                   \
                                 .neuron = {flags, theta, v_reset, r},                             \
                                 .q = q,                                                           \
                                 .k = k,                                                           \
                                 .v = v,                                                           \
                                 .out = out};                                                      \
    bst_products_rows(part, n_parts, &c, (size_t)heads, scratch);                                  \
  }

#undef BST_PRODUCTS_COUNT

#endif  // BST_KERNELS_PRODUCTS_ROWS_H_
