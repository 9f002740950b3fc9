// SPDX-License-Identifier: MIT
// Both products in the terms of product.h. A body, like product.h.
//
// score: items are queries, lanes are keys, events the channels of the head: k is transposed to
//   [channel][keys], and q to [channel][queries] where the product is dense. Parts share the heads.
// value: items are the channels of v, lanes are 64 queries, events the keys: the map is transposed
//   to [key][queries], v to [channel][keys] where the product is not dense, and the result, for
//   all heads that share words of the output, back to [query][channels]. Parts share groups of
//   heads that fill whole words, times words of 64 queries.

#ifndef BST_KERNELS_SPIKE_ATTENTION_LOOPS_H_
#define BST_KERNELS_SPIKE_ATTENTION_LOOPS_H_

#include "../part.h"
#include "heads.h"
#include "product.h"
#include "spike_attention.h"

BST_INLINE void bst_spike_attention_score_run(int part, int n_parts, int n_steps, int n_tokens,
                                              int channels, int heads, int form, int thr1,
                                              int frac_bits, bst_neuron neuron, const uint64_t* q,
                                              const uint64_t* k, uint64_t* attention,
                                              void* scratch) {
  const size_t n = (size_t)n_tokens, n_heads = (size_t)heads, d = (size_t)channels / n_heads;
  const size_t words = bst_attention_words((size_t)channels), in_step = n * words;
  const size_t n_words = bst_attention_words(n);
  const size_t space = (size_t)n_steps * 64 * bst_attention_chunk_words(d) * n_words;
  uint64_t* const k_columns = scratch;
  uint64_t* const q_columns = k_columns + space;
  const bst_attention_rule rule =
      bst_attention_count_rule(n_steps, d, form, thr1, frac_bits, neuron);
  bst_attention_product p = {
      .n_events = d,
      .n_items = n,
      .n_lanes = n,
      .out_stride = n_words,
      .out_word_stride = 1,
      .out_step = n_heads * n * n_words,
      .lists = (uint32_t*)(void*)(q_columns + space),
  };
  const size_t end = bst_part_begin(part + 1, n_parts, n_heads);
  for (size_t h = bst_part_begin(part, n_parts, n_heads); h < end;) {
    const size_t chunk_end = bst_attention_chunk_end(h, end, n_heads, d);
    const size_t column = h * d / 64, end_column = bst_attention_words(chunk_end * d);
    const size_t n_rows = 64 * (end_column - column), step = n_rows * n_words;
    bst_attention_columns(n_steps, n, words, in_step, column, end_column, k, k_columns);
    if (BST_ATTENTION_DENSE) {
      bst_attention_columns(n_steps, n, words, in_step, column, end_column, q, q_columns);
    }
    for (; h < chunk_end; ++h) {
      const size_t row = h * d - 64 * column;
      p.y = (bst_attention_bits){k_columns + row, 1, n_rows, step, 0};
      p.x = BST_ATTENTION_DENSE ? (bst_attention_bits){q_columns + row, 1, n_rows, step, 0}
                                : (bst_attention_bits){q, words, 1, in_step, h * d};
      p.out = attention + h * n * n_words;
      BST_ATTENTION_MULTIPLY(n_steps, &p, &rule);
    }
  }
}

/// Transpose spikes [T][words of n_tokens][64 n_columns], which are overwritten, into words
/// `column`
/// .. of the rows of `n_tokens` tokens.
static inline void bst_attention_put_columns(int n_steps, size_t n_tokens, size_t column,
                                             size_t n_columns, uint64_t* spikes, size_t out_stride,
                                             size_t out_step, uint64_t* out) {
  for (size_t t = 0; t < (size_t)n_steps; ++t, out += out_step) {
    for (size_t row = 0; row < n_tokens; row += 64) {
      for (size_t c = 0; c < n_columns; ++c, spikes += 64) {
        uint64_t* const to = out + row * out_stride + column + c;
        bst_vec_transpose_square(spikes);
        for (size_t r = 0; r < 64 && row + r < n_tokens; ++r) to[r * out_stride] = spikes[r];
      }
    }
  }
}

/// The work of a part of value and query_value: units are groups of heads that fill whole words
/// times words of 64 queries. `unit` steps through the groups.
typedef struct bst_attention_share {
  size_t unit, end, group, n_words;
} bst_attention_share;

/// What a part does with one group: heads first .. end - 1 = words column .. column + n_columns - 1
/// of the output, queries query .. query + n_queries - 1.
typedef struct bst_attention_piece {
  size_t first, end, column, n_columns, query, n_queries;
} bst_attention_piece;

static inline bst_attention_share bst_attention_share_of(int part, int n_parts, size_t n_heads,
                                                         size_t d, size_t n) {
  const size_t group = bst_attention_group(n_heads, d), n_words = bst_attention_words(n);
  const size_t n_units = (n_heads + group - 1) / group * n_words;
  return (bst_attention_share){bst_part_begin(part, n_parts, n_units),
                               bst_part_begin(part + 1, n_parts, n_units), group, n_words};
}

/// The next piece; false after the last.
static inline bool bst_attention_next_piece(bst_attention_share* share, size_t n_heads, size_t d,
                                            size_t n, bst_attention_piece* piece) {
  if (share->unit == share->end) return false;
  const size_t number = share->unit / share->n_words, word = share->unit % share->n_words;
  const size_t next = bst_attention_min((number + 1) * share->n_words, share->end);
  piece->first = number * share->group;
  piece->end = bst_attention_min(piece->first + share->group, n_heads);
  piece->column = piece->first * d / 64;
  piece->n_columns = bst_attention_words(piece->end * d) - piece->column;
  piece->query = 64 * word;
  piece->n_queries = bst_attention_min(64 * (word + next - share->unit), n) - piece->query;
  share->unit = next;
  return true;
}

BST_INLINE void bst_spike_attention_value_run(int part, int n_parts, int n_steps, int n_tokens,
                                              int channels, int heads, bst_neuron neuron,
                                              const uint64_t* attention, const uint64_t* v,
                                              const int32_t* table, uint64_t* out, void* scratch) {
  const size_t n = (size_t)n_tokens, n_heads = (size_t)heads, d = (size_t)channels / n_heads;
  const size_t words = bst_attention_words((size_t)channels), in_step = n * words;
  const size_t n_words = bst_attention_words(n), map_step = n_heads * n * n_words;
  const size_t space = (size_t)n_steps * 64 * bst_attention_group_words(n_heads, d) * n_words;
  uint64_t* const spikes = scratch;  // [T][words of n_queries][64 n_columns]
  uint64_t* const v_space = spikes + space;
  uint64_t* const map_columns = v_space + space;  // [T][words of n_queries][64 n_words]
  uint64_t* const lists = map_columns + (size_t)n_steps * 64 * n_words * n_words;
  bst_attention_product p = {.n_events = n, .n_items = d, .lists = (uint32_t*)(void*)lists};
  bst_attention_share share = bst_attention_share_of(part, n_parts, n_heads, d, n);
  bst_attention_piece piece;
  while (bst_attention_next_piece(&share, n_heads, d, n, &piece)) {
    const size_t out_words = bst_attention_words(piece.n_queries);
    if (!BST_ATTENTION_DENSE) {
      bst_attention_columns(n_steps, n, words, in_step, piece.column,
                            piece.column + piece.n_columns, v, v_space);
    }
    p.n_lanes = piece.n_queries;
    p.y = (bst_attention_bits){map_columns, 1, 64 * n_words, 64 * n_words * out_words, 0};
    p.out_stride = 1;
    p.out_word_stride = 64 * piece.n_columns;
    p.out_step = p.out_word_stride * out_words;
    memset(spikes, 0, (size_t)n_steps * p.out_step * sizeof *spikes);
    for (size_t h = piece.first; h < piece.end; ++h) {
      const size_t channel = h * d - 64 * piece.column;
      const bst_attention_rule rule =
          bst_attention_table_rule(n_steps, n, table + h * (n + 1), n_heads * (n + 1), neuron);
      const bst_attention_bits tokens = {v, words, 1, in_step, h * d};
      bst_attention_columns(n_steps, p.n_lanes, n_words, map_step, 0, n_words,
                            attention + (h * n + piece.query) * n_words, map_columns);
      if (BST_ATTENTION_DENSE) {
        p.x = bst_attention_mask_rows(n_steps, n, tokens, d, v_space);
      } else {
        p.x = (bst_attention_bits){v_space + channel, 1, 64 * piece.n_columns,
                                   64 * piece.n_columns * n_words, 0};
      }
      p.out = spikes + channel;
      BST_ATTENTION_MULTIPLY(n_steps, &p, &rule);
    }
    bst_attention_put_columns(n_steps, piece.n_queries, piece.column, piece.n_columns, spikes,
                              words, in_step, out + piece.query * words);
  }
}

// The kernels of one instruction set.

#define BST_DEFINE_ATTENTION_SCORE(name)                                                          \
  void name(int part, int n_parts, int n_steps, int n_tokens, int channels, int heads, int form,  \
            int thr1, int frac_bits, int flags, int theta, int v_reset, int r, const uint64_t* q, \
            const uint64_t* k, uint64_t* attention, void* scratch) {                              \
    const bst_neuron neuron = {flags, theta, v_reset, r};                                         \
    bst_spike_attention_score_run(part, n_parts, n_steps, n_tokens, channels, heads, form, thr1,  \
                                  frac_bits, neuron, q, k, attention, scratch);                   \
  }

#define BST_DEFINE_ATTENTION_VALUE(name)                                                          \
  void name(int part, int n_parts, int n_steps, int n_tokens, int channels, int heads, int flags, \
            int theta, int v_reset, int r, const uint64_t* attention, const uint64_t* v,          \
            const int32_t* table, uint64_t* out, void* scratch) {                                 \
    const bst_neuron neuron = {flags, theta, v_reset, r};                                         \
    bst_spike_attention_value_run(part, n_parts, n_steps, n_tokens, channels, heads, neuron,      \
                                  attention, v, table, out, scratch);                             \
  }

#endif  // BST_KERNELS_SPIKE_ATTENTION_LOOPS_H_
