// SPDX-License-Identifier: MIT
// spike_attention: scratch, the table of the values, and the versions on words: loops.h in the
// words of ../words.h.

#include "../words.h"

#define BST_ATTENTION_MULTIPLY bst_attention_product__scalar

#include "lanes_words.h"
#include "loops.h"
#include "multiply.h"

BST_DEFINE_ATTENTION_PRODUCT(bst_attention_product__scalar)

// ---- score --------------------------------------------------------------------------------------

size_t bst_spike_attention_score_scratch_bytes(int n_steps, int n_tokens, int channels, int heads) {
  const size_t d = (size_t)channels / (size_t)heads;
  const size_t columns =
      (size_t)n_steps * 64 * bst_attention_chunk_words(d) * bst_attention_words((size_t)n_tokens);
  return (2 * columns + bst_attention_list_words(n_steps, d)) * sizeof(uint64_t);
}

BST_DEFINE_ATTENTION_SCORE(bst_spike_attention_score__scalar)

// ---- value --------------------------------------------------------------------------------------

int64_t bst_spike_attention_scale(int64_t gain, int m, int32_t exponent) {
  const int64_t product = gain * m;               // |gain| < 2^52, m <= 2^10: below 2^62
  if (product == 0 || exponent <= -64) return 0;  // below a half
  if (exponent >= 0) {
    const int64_t limit = exponent < 62 ? (INT64_C(1) << (62 - exponent)) : 0;
    if (product > limit || product < -limit) return product > 0 ? INT64_MAX : -INT64_MAX;
    return product * (INT64_C(1) << exponent);
  }
  if (exponent == -63) return 0;  // |product| < 2^62: below a half
  const int shift = -exponent;    // 1..62
  const int64_t floor = product >> shift;
  const uint64_t rest = (uint64_t)product & ((UINT64_C(1) << shift) - 1);
  const uint64_t half = UINT64_C(1) << (shift - 1);
  return floor + (rest > half || (rest == half && (floor & 1) != 0));
}

void bst_spike_attention_prepare_table(int n_steps, int heads, int max_count, const int64_t* gain,
                                       const int32_t* exponent, int32_t* table) {
  const size_t n_rows = (size_t)n_steps * (size_t)heads;
  for (size_t row = 0; row < n_rows; ++row) {
    for (int m = 0; m <= max_count; ++m) {
      *table++ = bst_wrap32(bst_spike_attention_scale(gain[row], m, exponent[row]));
    }
  }
}

size_t bst_spike_attention_value_scratch_bytes(int n_steps, int n_tokens, int channels, int heads) {
  const size_t n = (size_t)n_tokens, d = (size_t)channels / (size_t)heads;
  const size_t n_words = bst_attention_words(n);
  const size_t group = 64 * bst_attention_group_words((size_t)heads, d);
  // Of v either [group][words of N], or [N][words of d], which is not more than the former.
  const size_t per_step = 2 * group * n_words + 64 * n_words * n_words;
  return ((size_t)n_steps * per_step + bst_attention_list_words(n_steps, n)) * sizeof(uint64_t);
}

BST_DEFINE_ATTENTION_VALUE(bst_spike_attention_value__scalar)
