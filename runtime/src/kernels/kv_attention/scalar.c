// SPDX-License-Identifier: MIT
// kv_attention: scratch, and the versions on words: loops.h in the words of ../words.h.

#include "../words.h"

#define BST_ATTENTION_MULTIPLY bst_attention_product__scalar

#include "loops.h"

size_t bst_kv_attention_key_value_scratch_bytes(int n_steps, int n_tokens, int channels,
                                                int heads) {
  const size_t n = (size_t)n_tokens, d = (size_t)channels / (size_t)heads;
  // Of k either [channels of a chunk][words of N], or [N][words of d], which is not more.
  const size_t per_step =
      n * bst_attention_words(d) + 64 * bst_attention_chunk_words(d) * bst_attention_words(n);
  return ((size_t)n_steps * per_step + bst_attention_list_words(n_steps, n)) * sizeof(uint64_t);
}

BST_DEFINE_KEY_VALUE(bst_kv_attention_key_value__scalar)

size_t bst_kv_attention_query_value_scratch_bytes(int n_steps, int n_tokens, int channels,
                                                  int heads) {
  const size_t d = (size_t)channels / (size_t)heads, d_words = bst_attention_words(d);
  const size_t group = 64 * bst_attention_group_words((size_t)heads, d);
  const size_t per_step =
      2 * group * bst_attention_words((size_t)n_tokens) + 64 * d_words * d_words;
  return ((size_t)n_steps * per_step + bst_attention_list_words(n_steps, d)) * sizeof(uint64_t);
}

BST_DEFINE_QUERY_VALUE(bst_kv_attention_query_value__scalar)
