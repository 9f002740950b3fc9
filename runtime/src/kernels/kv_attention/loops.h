// SPDX-License-Identifier: MIT
// Both products in the terms of spike_attention/product.h. A body, like that.
//
// key_value:   items are the channels of k, lanes those of v, events the tokens: v is cut out of
//   its rows, k is transposed to [channel][tokens] where the product is not dense. Parts share the
//   heads.
// query_value: items are the channels of v, lanes are 64 queries, events the channels of q: q is
//   transposed to [channel][queries], the map to [item][event] where the product is not dense, and
//   the result back as in spike_attention/loops.h, whose parts these are.

#ifndef BST_KERNELS_KV_ATTENTION_LOOPS_H_
#define BST_KERNELS_KV_ATTENTION_LOOPS_H_

#include "../spike_attention/loops.h"
#include "kv_attention.h"

BST_INLINE void bst_kv_attention_key_value_run(int part, int n_parts, int n_steps, int n_tokens,
                                               int channels, int heads, int form, int thr1,
                                               int frac_bits, bst_neuron neuron, const uint64_t* k,
                                               const uint64_t* v, uint64_t* map, void* scratch) {
  const size_t n = (size_t)n_tokens, n_heads = (size_t)heads, d = (size_t)channels / n_heads;
  const size_t words = bst_attention_words((size_t)channels), in_step = n * words;
  const size_t n_words = bst_attention_words(n), d_words = bst_attention_words(d);
  const size_t steps = (size_t)n_steps;
  uint64_t* const v_rows = scratch;  // [T][N][d_words]
  uint64_t* const k_space = v_rows + steps * n * d_words;
  uint64_t* const lists = k_space + steps * 64 * bst_attention_chunk_words(d) * n_words;
  const bst_attention_rule rule =
      bst_attention_count_rule(n_steps, n, form, thr1, frac_bits, neuron);
  bst_attention_product p = {
      .n_events = n,
      .n_items = d,
      .n_lanes = d,
      .y = {v_rows, d_words, 1, n * d_words, 0},
      .out_stride = d_words,
      .out_word_stride = 1,
      .out_step = n_heads * d * d_words,
      .lists = (uint32_t*)(void*)lists,
  };
  const size_t end = bst_part_begin(part + 1, n_parts, n_heads);
  for (size_t h = bst_part_begin(part, n_parts, n_heads); h < end;) {
    const size_t chunk_end = bst_attention_chunk_end(h, end, n_heads, d);
    const size_t column = h * d / 64, end_column = bst_attention_words(chunk_end * d);
    const size_t n_rows = 64 * (end_column - column);
    if (!BST_ATTENTION_DENSE) {
      bst_attention_columns(n_steps, n, words, in_step, column, end_column, k, k_space);
    }
    for (; h < chunk_end; ++h) {
      const bst_attention_bits tokens = {k, words, 1, in_step, h * d};
      bst_attention_cut(n_steps, n, words, in_step, h * d, d, v, v_rows);
      if (BST_ATTENTION_DENSE) {
        p.x = bst_attention_mask_rows(n_steps, n, tokens, d, k_space);
      } else {
        p.x = (bst_attention_bits){k_space + (h * d - 64 * column), 1, n_rows, n_rows * n_words, 0};
      }
      p.out = map + h * d * d_words;
      BST_ATTENTION_MULTIPLY(n_steps, &p, &rule);
    }
  }
}

BST_INLINE void bst_kv_attention_query_value_run(int part, int n_parts, int n_steps, int n_tokens,
                                                 int channels, int heads, bst_neuron neuron,
                                                 const uint64_t* q, const uint64_t* map,
                                                 const int32_t* table, uint64_t* out,
                                                 void* scratch) {
  const size_t n = (size_t)n_tokens, n_heads = (size_t)heads, d = (size_t)channels / n_heads;
  const size_t words = bst_attention_words((size_t)channels), in_step = n * words;
  const size_t d_words = bst_attention_words(d), map_step = n_heads * d * d_words;
  const size_t space =
      (size_t)n_steps * 64 * bst_attention_group_words(n_heads, d) * bst_attention_words(n);
  uint64_t* const spikes = scratch;            // [T][words of n_queries][64 n_columns]
  uint64_t* const q_columns = spikes + space;  // the same
  uint64_t* const map_columns = q_columns + space;
  uint64_t* const lists = map_columns + (size_t)n_steps * 64 * d_words * d_words;
  bst_attention_product p = {.n_events = d, .n_items = d, .lists = (uint32_t*)(void*)lists};
  bst_attention_share share = bst_attention_share_of(part, n_parts, n_heads, d, n);
  bst_attention_piece piece;
  while (bst_attention_next_piece(&share, n_heads, d, n, &piece)) {
    const size_t out_words = bst_attention_words(piece.n_queries);
    bst_attention_columns(n_steps, piece.n_queries, words, in_step, piece.column,
                          piece.column + piece.n_columns, q + piece.query * words, q_columns);
    p.n_lanes = piece.n_queries;
    p.out_stride = 1;
    p.out_word_stride = 64 * piece.n_columns;
    p.out_step = p.out_word_stride * out_words;
    memset(spikes, 0, (size_t)n_steps * p.out_step * sizeof *spikes);
    for (size_t h = piece.first; h < piece.end; ++h) {
      const size_t channel = h * d - 64 * piece.column;
      const uint64_t* const rows = map + h * d * d_words;
      const bst_attention_rule rule =
          bst_attention_table_rule(n_steps, d, table + h * (d + 1), n_heads * (d + 1), neuron);
      if (BST_ATTENTION_DENSE) {
        p.x = (bst_attention_bits){rows, d_words, 1, map_step, 0};
      } else {
        bst_attention_columns(n_steps, d, d_words, map_step, 0, d_words, rows, map_columns);
        p.x = (bst_attention_bits){map_columns, 1, 64 * d_words, 64 * d_words * d_words, 0};
      }
      p.y = (bst_attention_bits){q_columns + channel, 1, p.out_word_stride, p.out_step, 0};
      p.out = spikes + channel;
      BST_ATTENTION_MULTIPLY(n_steps, &p, &rule);
    }
    bst_attention_put_columns(n_steps, piece.n_queries, piece.column, piece.n_columns, spikes,
                              words, in_step, out + piece.query * words);
  }
}

// The kernels of one instruction set.

#define BST_DEFINE_KEY_VALUE(name)                                                                \
  void name(int part, int n_parts, int n_steps, int n_tokens, int channels, int heads, int form,  \
            int thr1, int frac_bits, int flags, int theta, int v_reset, int r, const uint64_t* k, \
            const uint64_t* v, uint64_t* map, void* scratch) {                                    \
    const bst_neuron neuron = {flags, theta, v_reset, r};                                         \
    bst_kv_attention_key_value_run(part, n_parts, n_steps, n_tokens, channels, heads, form, thr1, \
                                   frac_bits, neuron, k, v, map, scratch);                        \
  }

#define BST_DEFINE_QUERY_VALUE(name)                                                               \
  void name(int part, int n_parts, int n_steps, int n_tokens, int channels, int heads, int flags,  \
            int theta, int v_reset, int r, const uint64_t* q, const uint64_t* map,                 \
            const int32_t* table, uint64_t* out, void* scratch) {                                  \
    const bst_neuron neuron = {flags, theta, v_reset, r};                                          \
    bst_kv_attention_query_value_run(part, n_parts, n_steps, n_tokens, channels, heads, neuron, q, \
                                     map, table, out, scratch);                                    \
  }

#endif  // BST_KERNELS_KV_ATTENTION_LOOPS_H_
