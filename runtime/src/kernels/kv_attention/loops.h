// SPDX-License-Identifier: MIT
// Both products are sums of bit rows (spike_attention/rows.h).
//
// key_value:   v is cut out into rows [N][d bits], k turned into columns [d][N bits]; the tokens
//   where channel i of k spikes are the events of map row i, the counter of lane j is M[i, j].
// query_value: the rows of the map are the rows; the active channels of a query are the events, the
//   counter of lane j is m[n, j].

#ifndef BST_KERNELS_KV_ATTENTION_LOOPS_H_
#define BST_KERNELS_KV_ATTENTION_LOOPS_H_

#include "../spike_attention/rows.h"
#include "kv_attention.h"

BST_INLINE void bst_kv_attention_key_value_run(int part, int n_parts, bst_attention_unpack* unpack,
                                               int n_steps, int n_tokens, int channels, int heads,
                                               int form, int thr1, int frac_bits, int flags,
                                               int theta, int v_reset, int r, const uint64_t* k,
                                               const uint64_t* v, uint64_t* map, void* scratch) {
  const bst_attention_rule rule = {form, thr1, frac_bits, {flags, theta, v_reset, r}};
  const size_t n = (size_t)n_tokens, d = (size_t)channels / (size_t)heads;
  const size_t in_words = bst_attention_words((size_t)channels), in_step = n * in_words;
  const size_t n_words = bst_attention_words(n), d_words = bst_attention_words(d);
  const size_t out_step = (size_t)heads * d * d_words;
  uint64_t* const rows = scratch;
  uint64_t* const columns = rows + bst_attention_row_words(n_steps, n, d);
  uint64_t* const lists_space = columns + bst_attention_row_words(n_steps, d, n);
  uint64_t* const slice = lists_space + bst_attention_list_words(n_steps, n);
  bst_attention_lists lists;
  bst_attention_place_lists(n_steps, n, lists_space, &lists);
  const bst_attention_sum sum = bst_attention_sum_of(n, d, rows, &lists, unpack);
  const size_t first_head = bst_part_begin(part, n_parts, (size_t)heads);
  const size_t end_head = bst_part_begin(part + 1, n_parts, (size_t)heads);
  for (size_t h = first_head; h < end_head; ++h) {
    for (size_t t = 0; t < (size_t)n_steps; ++t) {
      bst_attention_cut(n, in_words, h * d, d, v + t * in_step, rows + t * (n + 1) * d_words);
      bst_attention_transpose(n, in_words, h * d, d, k + t * in_step, slice,
                              columns + t * (d + 1) * n_words);
    }
    for (size_t i = 0; i < d; ++i) {
      for (size_t t = 0; t < (size_t)n_steps; ++t) {
        bst_attention_list(n, n_words, columns + (t * (d + 1) + i) * n_words, t, &lists);
      }
      bst_attention_binary_row(n_steps, d, &rule, &sum, out_step, map + (h * d + i) * d_words);
    }
  }
}

BST_INLINE void bst_kv_attention_query_value_run(int part, int n_parts,
                                                 bst_attention_unpack* unpack, int n_steps,
                                                 int n_tokens, int channels, int heads, int flags,
                                                 int theta, int v_reset, int r, const uint64_t* q,
                                                 const uint64_t* map, const int32_t* table,
                                                 uint64_t* out, void* scratch) {
  const size_t n = (size_t)n_tokens, d = (size_t)channels / (size_t)heads;
  const size_t words = bst_attention_words((size_t)channels), step = n * words;
  const size_t d_words = bst_attention_words(d), map_step = (size_t)heads * d * d_words;
  uint64_t* const rows = scratch;
  uint64_t* const lists_space = rows + bst_attention_row_words(n_steps, d, d);
  uint64_t* const slice = lists_space + bst_attention_list_words(n_steps, d);
  bst_attention_lists lists;
  bst_attention_place_lists(n_steps, d, lists_space, &lists);
  const bst_attention_sum sum = bst_attention_sum_of(d, d, rows, &lists, unpack);
  const size_t first_query = bst_part_begin(part, n_parts, n);
  const size_t end_query = bst_part_begin(part + 1, n_parts, n);
  for (size_t t = 0; t < (size_t)n_steps; ++t) {
    memset(out + t * step + first_query * words, 0,
           (end_query - first_query) * words * sizeof *out);
  }
  for (size_t h = 0; h < (size_t)heads; ++h) {
    const bst_attention_scale scale = {
        table + h * (d + 1), (size_t)heads * (d + 1), {flags, theta, v_reset, r}};
    for (size_t t = 0; t < (size_t)n_steps; ++t) {
      bst_attention_cut(d, d_words, 0, d, map + t * map_step + h * d * d_words,
                        rows + t * (d + 1) * d_words);
    }
    for (size_t query = first_query; query < end_query; ++query) {
      for (size_t t = 0; t < (size_t)n_steps; ++t) {
        bst_slice_bits(q + t * step + query * words, h * d, d, slice);
        bst_attention_list(d, d_words, slice, t, &lists);
      }
      bst_attention_scaled_row(n_steps, d, &scale, &sum, h * d, step, out + query * words);
    }
  }
}

// The kernels of one instruction set.

#define BST_DEFINE_KEY_VALUE(name, unpack)                                                        \
  void name(int part, int n_parts, int n_steps, int n_tokens, int channels, int heads, int form,  \
            int thr1, int frac_bits, int flags, int theta, int v_reset, int r, const uint64_t* k, \
            const uint64_t* v, uint64_t* map, void* scratch) {                                    \
    bst_kv_attention_key_value_run(part, n_parts, unpack, n_steps, n_tokens, channels, heads,     \
                                   form, thr1, frac_bits, flags, theta, v_reset, r, k, v, map,    \
                                   scratch);                                                      \
  }

#define BST_DEFINE_QUERY_VALUE(name, unpack)                                                      \
  void name(int part, int n_parts, int n_steps, int n_tokens, int channels, int heads, int flags, \
            int theta, int v_reset, int r, const uint64_t* q, const uint64_t* map,                \
            const int32_t* table, uint64_t* out, void* scratch) {                                 \
    bst_kv_attention_query_value_run(part, n_parts, unpack, n_steps, n_tokens, channels, heads,   \
                                     flags, theta, v_reset, r, q, map, table, out, scratch);      \
  }

#endif  // BST_KERNELS_KV_ATTENTION_LOOPS_H_
