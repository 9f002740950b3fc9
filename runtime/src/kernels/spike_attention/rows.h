// SPDX-License-Identifier: MIT
// What the attention kernels share. A product of spike matrices is a sum of bit rows: per output
// row, the list of the input rows that take part (the events) and the counters of lanes.h, 64
// output lanes at a time. Two kinds of neurons end it: the binarising one on the count itself, and
// the stream neuron on a table of the count.
//
// Every list is padded with the number of a row of zeros, which lies behind the other rows of its
// step: rows are [T][n_rows + 1][words of n_lanes].

#ifndef BST_KERNELS_SPIKE_ATTENTION_ROWS_H_
#define BST_KERNELS_SPIKE_ATTENTION_ROWS_H_

#include "../lanes.h"
#include "../part.h"
#include "../stream_neuron/neuron.h"

enum { BST_ATTENTION_MAX_T = 16 };

/// Events of one output row at every step.
typedef struct bst_attention_lists {
  uint32_t* list[BST_ATTENTION_MAX_T];
  size_t n_events[BST_ATTENTION_MAX_T], n_padded[BST_ATTENTION_MAX_T];
} bst_attention_lists;

/// Binarising neuron (numerics.md 7).
/// form 0: J += 2^(t-1) count, fires iff J >= thr1 << (t-1), then J -= that (thr1 >= 1)
/// form 1: `neuron` on count << frac_bits
typedef struct bst_attention_rule {
  int form, thr1, frac_bits;
  bst_neuron neuron;
} bst_attention_rule;

/// Stream neuron on X[t, count] (numerics.md 7): `table` int32, `table_step` entries per step.
typedef struct bst_attention_scale {
  const int32_t* table;
  size_t table_step;
  bst_neuron neuron;
} bst_attention_scale;

static inline size_t bst_attention_words(size_t bits) { return (bits + 63) / 64; }

/// Words of [T][n_rows + 1] rows of `n_lanes` bits.
static inline size_t bst_attention_row_words(int n_steps, size_t n_rows, size_t n_lanes) {
  return (size_t)n_steps * (n_rows + 1) * bst_attention_words(n_lanes);
}

/// Words of T lists of up to `n_rows` events.
static inline size_t bst_attention_list_words(int n_steps, size_t n_rows) {
  return (size_t)n_steps * ((bst_list_capacity(n_rows) + 1) / 2);
}

/// Put the lists into bst_attention_list_words(n_steps, n_rows) words at `space`.
static inline void bst_attention_place_lists(int n_steps, size_t n_rows, uint64_t* space,
                                             bst_attention_lists* lists) {
  const size_t words = bst_attention_list_words(1, n_rows);
  for (int t = 0; t < n_steps; ++t) lists->list[t] = (uint32_t*)(void*)(space + (size_t)t * words);
}

/// The events of step t are the set bits of `n_words` words, numbers of rows below `n_rows`.
BST_INLINE void bst_attention_list(size_t n_rows, size_t n_words, const uint64_t* bits, size_t t,
                                   bst_attention_lists* lists) {
  lists->n_events[t] = bst_list_bits(bits, n_words, 0, lists->list[t], 0);
  lists->n_padded[t] = bst_pad_list((uint32_t)n_rows, lists->list[t], lists->n_events[t]);
}

/// Cut bits first .. first + n_lanes - 1 out of each of `n_rows` rows; a row of zeros follows.
BST_INLINE void bst_attention_cut(size_t n_rows, size_t in_words, size_t first, size_t n_lanes,
                                  const uint64_t* in, uint64_t* rows) {
  const size_t n_words = bst_attention_words(n_lanes);
  for (size_t i = 0; i < n_rows; ++i) {
    bst_slice_bits(in + i * in_words, first, n_lanes, rows + i * n_words);
  }
  memset(rows + n_rows * n_words, 0, n_words * sizeof *rows);
}

/// Transpose bits first .. first + n_rows - 1 of each of `n_lanes` rows: bit j of row i is bit
/// first + i of row j of `in`; a row of zeros follows.
/// @param slice scratch, bst_attention_words(n_rows) words
BST_INLINE void bst_attention_transpose(size_t n_lanes, size_t in_words, size_t first,
                                        size_t n_rows, const uint64_t* in, uint64_t* slice,
                                        uint64_t* rows) {
  const size_t n_words = bst_attention_words(n_lanes);
  memset(rows, 0, (n_rows + 1) * n_words * sizeof *rows);
  for (size_t j = 0; j < n_lanes; ++j, in += in_words) {
    const uint64_t bit = UINT64_C(1) << (j % 64);
    bst_slice_bits(in, first, n_rows, slice);
    for (size_t w = 0; w < bst_attention_words(n_rows); ++w) {
      for (uint64_t bits = slice[w]; bits != 0; bits &= bits - 1) {
        rows[(64 * w + bst_low_bit(bits)) * n_words + j / 64] |= bit;
      }
    }
  }
}

static inline void bst_attention_start(const bst_attention_rule* rule, int32_t* state) {
  if (rule->form == 0) {
    memset(state, 0, 64 * sizeof *state);
  } else {
    bst_neuron_start(&rule->neuron, state);
  }
}

/// Step t (1-based) of 64 binarising neurons in transposed lane order. In form 0, J stays below
/// count_max 2^T < 2^30; a threshold beyond int32 is never reached, so it is cut to INT32_MAX.
BST_INLINE uint64_t bst_attention_binarise(const bst_attention_rule* rule, int t,
                                           const int32_t* count, int32_t* state) {
  uint8_t spike[64];
  if (rule->form == 0) {
    const int64_t exact = (int64_t)rule->thr1 * (INT64_C(1) << (t - 1));
    const int32_t threshold = exact > INT32_MAX ? INT32_MAX : (int32_t)exact;
    const int32_t scale = 1 << (t - 1);
    for (int i = 0; i < 64; ++i) {
      const int32_t charged = state[i] + count[i] * scale;
      const int32_t fired = -(charged >= threshold);
      state[i] = charged - (threshold & fired);
      spike[i] = (uint8_t)(fired & 1);
    }
  } else {
    int32_t x[64];
    for (int i = 0; i < 64; ++i) x[i] = count[i] * (1 << rule->frac_bits);
    bst_neuron_step(&rule->neuron, x, state, spike);
  }
  return bst_pack_transposed(spike);
}

// ---- Sums of rows -------------------------------------------------------------------------------

/// Counts of the 64 lanes of each of `n_words` words, in transposed lane order.
typedef void bst_attention_unpack(uint64_t planes[][BST_SUM_WORDS], int n_planes, int n_words,
                                  int32_t counts[][64]);

/// The unpacking that needs no instruction set.
static inline void bst_attention_unpack_words(uint64_t planes[][BST_SUM_WORDS], int n_planes,
                                              int n_words, int32_t counts[][64]) {
  for (int j = 0; j < n_words; ++j) bst_unpack_counts(planes, n_planes, j, counts[j]);
}

/// What a product is summed from; `rows` and `lists` of every step.
typedef struct bst_attention_sum {
  const uint64_t* rows;
  const bst_attention_lists* lists;
  size_t n_rows, n_words;  // per step, words of a row
  bst_attention_unpack* unpack;
} bst_attention_sum;

static inline bst_attention_sum bst_attention_sum_of(size_t n_rows, size_t n_lanes,
                                                     const uint64_t* rows,
                                                     const bst_attention_lists* lists,
                                                     bst_attention_unpack* unpack) {
  const bst_attention_sum sum = {rows, lists, n_rows, bst_attention_words(n_lanes), unpack};
  return sum;
}

/// Steps whose counts of `n_block` words fit one pass.
static inline int bst_attention_steps_at_once(int n_block) { return BST_SUM_WORDS / n_block; }

/// Counts of words first .. first + n_block - 1 at steps t .. t + n_steps - 1:
/// counts[s * n_block + j] is word first + j at step t + s. Narrow rows are unpacked several steps
/// at a time, which fills vectors wider than a word.
BST_INLINE void bst_attention_counts(const bst_attention_sum* sum, size_t first, int n_block, int t,
                                     int n_steps, int32_t counts[][64]) {
  uint64_t planes[BST_MAX_PLANES][BST_SUM_WORDS];
  const size_t step_words = (sum->n_rows + 1) * sum->n_words;
  size_t most = 0;
  for (int s = 0; s < n_steps; ++s) {
    const size_t n = sum->lists->n_events[t + s];
    most = n > most ? n : most;
  }
  const int n_planes = bst_bit_length(most);
  for (int s = 0; s < n_steps; ++s) {
    bst_sum_rows(sum->rows + (size_t)(t + s) * step_words + first, sum->n_words, n_block,
                 sum->lists->list[t + s], sum->lists->n_padded[t + s], n_planes, s * n_block,
                 planes);
  }
  sum->unpack(planes, n_planes, n_steps * n_block, counts);
}

/// Bits of a word that are lanes.
static inline uint64_t bst_attention_lanes(size_t n_lanes, size_t word) {
  const size_t left = n_lanes - 64 * word;
  return left < 64 ? (UINT64_C(1) << left) - 1 : UINT64_MAX;
}

/// One output row of binarising neurons over all steps: [words of n_lanes], `out_step` words apart.
BST_INLINE void bst_attention_binary_row(int n_steps, size_t n_lanes,
                                         const bst_attention_rule* rule,
                                         const bst_attention_sum* sum, size_t out_step,
                                         uint64_t* out) {
  int32_t state[BST_SUM_WORDS][64], counts[BST_SUM_WORDS][64];
  for (size_t w = 0; w < sum->n_words; w += BST_SUM_WORDS) {
    const size_t left = sum->n_words - w;
    const int n_block = left < BST_SUM_WORDS ? (int)left : BST_SUM_WORDS;
    const int n_once = bst_attention_steps_at_once(n_block);
    for (int j = 0; j < n_block; ++j) bst_attention_start(rule, state[j]);
    for (int t = 0; t < n_steps; ++t) {
      const int n_here = n_steps - t < n_once ? n_steps - t : n_once;
      if (t % n_once == 0) bst_attention_counts(sum, w, n_block, t, n_here, counts);
      for (int j = 0; j < n_block; ++j) {
        const size_t word = w + (size_t)j;
        const uint64_t spikes =
            bst_attention_binarise(rule, t + 1, counts[t % n_once * n_block + j], state[j]);
        out[(size_t)t * out_step + word] = spikes & bst_attention_lanes(n_lanes, word);
      }
    }
  }
}

/// One output row of stream neurons over all steps, ORed in from bit `first` of `out` on, steps
/// `out_step` words apart.
BST_INLINE void bst_attention_scaled_row(int n_steps, size_t n_lanes,
                                         const bst_attention_scale* scale,
                                         const bst_attention_sum* sum, size_t first,
                                         size_t out_step, uint64_t* out) {
  int32_t state[BST_SUM_WORDS][64], counts[BST_SUM_WORDS][64], x[64];
  uint8_t spike[64];
  for (size_t w = 0; w < sum->n_words; w += BST_SUM_WORDS) {
    const size_t left = sum->n_words - w;
    const int n_block = left < BST_SUM_WORDS ? (int)left : BST_SUM_WORDS;
    const int n_once = bst_attention_steps_at_once(n_block);
    for (int j = 0; j < n_block; ++j) bst_neuron_start(&scale->neuron, state[j]);
    for (int t = 0; t < n_steps; ++t) {
      const int32_t* const x_of = scale->table + (size_t)t * scale->table_step;
      const int n_here = n_steps - t < n_once ? n_steps - t : n_once;
      if (t % n_once == 0) bst_attention_counts(sum, w, n_block, t, n_here, counts);
      for (int j = 0; j < n_block; ++j) {
        const size_t word = w + (size_t)j, lane = 64 * word;
        const int32_t* const count = counts[t % n_once * n_block + j];
        for (int i = 0; i < 64; ++i) x[i] = x_of[count[i]];
        bst_neuron_step(&scale->neuron, x, state[j], spike);
        bst_insert_bits(out + (size_t)t * out_step, first + lane,
                        n_lanes - lane < 64 ? n_lanes - lane : 64,
                        bst_pack_transposed(spike) & bst_attention_lanes(n_lanes, word));
      }
    }
  }
}

#endif  // BST_KERNELS_SPIKE_ATTENTION_ROWS_H_
