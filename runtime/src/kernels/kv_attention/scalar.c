// SPDX-License-Identifier: MIT
// kv_attention: scratch, and the versions that need no instruction set.

#include "loops.h"

size_t bst_kv_attention_key_value_scratch_bytes(int n_steps, int n_tokens, int channels,
                                                int heads) {
  const size_t n = (size_t)n_tokens, d = (size_t)channels / (size_t)heads;
  const size_t n_words = bst_attention_row_words(n_steps, n, d) +
                         bst_attention_row_words(n_steps, d, n) +
                         bst_attention_list_words(n_steps, n) + bst_attention_words(d);
  return n_words * sizeof(uint64_t);
}

BST_DEFINE_KEY_VALUE(bst_kv_attention_key_value__scalar, bst_attention_unpack_words)

size_t bst_kv_attention_query_value_scratch_bytes(int n_steps, int n_tokens, int channels,
                                                  int heads) {
  const size_t d = (size_t)channels / (size_t)heads;
  const size_t n_words = bst_attention_row_words(n_steps, d, d) +
                         bst_attention_list_words(n_steps, d) + bst_attention_words(d);
  (void)n_tokens;  // one query at a time
  return n_words * sizeof(uint64_t);
}

BST_DEFINE_QUERY_VALUE(bst_kv_attention_query_value__scalar, bst_attention_unpack_words)
