// SPDX-License-Identifier: MIT
// Both products are sums of bit rows (rows.h).
//
// score: k is turned into rows [d][N bits]; the active channels of a query are the events, the
//   counter of lane j is A[n, j].
// value: the head's channels of v are cut out into rows [N][d bits]; the keys that a query attends
//   to are the events, the counter of lane c is m[n, c].

#ifndef BST_KERNELS_SPIKE_ATTENTION_LOOPS_H_
#define BST_KERNELS_SPIKE_ATTENTION_LOOPS_H_

#include "rows.h"
#include "spike_attention.h"

BST_INLINE void bst_spike_attention_score_run(int part, int n_parts, bst_attention_unpack* unpack,
                                              int n_steps, int n_tokens, int channels, int heads,
                                              int form, int thr1, int frac_bits, int flags,
                                              int theta, int v_reset, int r, const uint64_t* q,
                                              const uint64_t* k, uint64_t* attention,
                                              void* scratch) {
  const bst_attention_rule rule = {form, thr1, frac_bits, {flags, theta, v_reset, r}};
  const size_t n = (size_t)n_tokens, d = (size_t)channels / (size_t)heads;
  const size_t in_words = bst_attention_words((size_t)channels), n_words = bst_attention_words(n);
  const size_t in_step = n * in_words, out_step = (size_t)heads * n * n_words;
  uint64_t* const rows = scratch;
  uint64_t* const lists_space = rows + bst_attention_row_words(n_steps, d, n);
  uint64_t* const slice = lists_space + bst_attention_list_words(n_steps, d);
  bst_attention_lists lists;
  bst_attention_place_lists(n_steps, d, lists_space, &lists);
  const bst_attention_sum sum = bst_attention_sum_of(d, n, rows, &lists, unpack);
  const size_t first_head = bst_part_begin(part, n_parts, (size_t)heads);
  const size_t end_head = bst_part_begin(part + 1, n_parts, (size_t)heads);
  for (size_t h = first_head; h < end_head; ++h) {
    for (size_t t = 0; t < (size_t)n_steps; ++t) {
      bst_attention_transpose(n, in_words, h * d, d, k + t * in_step, slice,
                              rows + t * (d + 1) * n_words);
    }
    for (size_t query = 0; query < n; ++query) {
      for (size_t t = 0; t < (size_t)n_steps; ++t) {
        bst_slice_bits(q + t * in_step + query * in_words, h * d, d, slice);
        bst_attention_list(d, bst_attention_words(d), slice, t, &lists);
      }
      bst_attention_binary_row(n_steps, n, &rule, &sum, out_step,
                               attention + (h * n + query) * n_words);
    }
  }
}

BST_INLINE void bst_spike_attention_value_run(int part, int n_parts, bst_attention_unpack* unpack,
                                              int n_steps, int n_tokens, int channels, int heads,
                                              int flags, int theta, int v_reset, int r,
                                              const uint64_t* attention, const uint64_t* v,
                                              const int32_t* table, uint64_t* out, void* scratch) {
  const size_t n = (size_t)n_tokens, d = (size_t)channels / (size_t)heads;
  const size_t words = bst_attention_words((size_t)channels), n_words = bst_attention_words(n);
  const size_t step = n * words, map_step = (size_t)heads * n * n_words;
  uint64_t* const rows = scratch;
  bst_attention_lists lists;
  bst_attention_place_lists(n_steps, n, rows + bst_attention_row_words(n_steps, n, d), &lists);
  const bst_attention_sum sum = bst_attention_sum_of(n, d, rows, &lists, unpack);
  const size_t first_query = bst_part_begin(part, n_parts, n);
  const size_t end_query = bst_part_begin(part + 1, n_parts, n);
  for (size_t t = 0; t < (size_t)n_steps; ++t) {
    memset(out + t * step + first_query * words, 0,
           (end_query - first_query) * words * sizeof *out);
  }
  for (size_t h = 0; h < (size_t)heads; ++h) {
    const bst_attention_scale scale = {
        table + h * (n + 1), (size_t)heads * (n + 1), {flags, theta, v_reset, r}};
    for (size_t t = 0; t < (size_t)n_steps; ++t) {
      bst_attention_cut(n, words, h * d, d, v + t * step,
                        rows + t * (n + 1) * bst_attention_words(d));
    }
    for (size_t query = first_query; query < end_query; ++query) {
      for (size_t t = 0; t < (size_t)n_steps; ++t) {
        const uint64_t* const keys = attention + t * map_step + (h * n + query) * n_words;
        bst_attention_list(n, n_words, keys, t, &lists);
      }
      bst_attention_scaled_row(n_steps, d, &scale, &sum, h * d, step, out + query * words);
    }
  }
}

// The kernels of one instruction set.

#define BST_DEFINE_ATTENTION_SCORE(name, unpack)                                                   \
  void name(int part, int n_parts, int n_steps, int n_tokens, int channels, int heads, int form,   \
            int thr1, int frac_bits, int flags, int theta, int v_reset, int r, const uint64_t* q,  \
            const uint64_t* k, uint64_t* attention, void* scratch) {                               \
    bst_spike_attention_score_run(part, n_parts, unpack, n_steps, n_tokens, channels, heads, form, \
                                  thr1, frac_bits, flags, theta, v_reset, r, q, k, attention,      \
                                  scratch);                                                        \
  }

#define BST_DEFINE_ATTENTION_VALUE(name, unpack)                                                  \
  void name(int part, int n_parts, int n_steps, int n_tokens, int channels, int heads, int flags, \
            int theta, int v_reset, int r, const uint64_t* attention, const uint64_t* v,          \
            const int32_t* table, uint64_t* out, void* scratch) {                                 \
    bst_spike_attention_value_run(part, n_parts, unpack, n_steps, n_tokens, channels, heads,      \
                                  flags, theta, v_reset, r, attention, v, table, out, scratch);   \
  }

#endif  // BST_KERNELS_SPIKE_ATTENTION_LOOPS_H_
