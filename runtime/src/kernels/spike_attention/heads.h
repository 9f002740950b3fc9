// SPDX-License-Identifier: MIT
// How the attention kernels share their work: which heads are taken at a time, and what scratch
// that needs. Spikes are transposed in whole columns of words, so heads that share a word are taken
// together.

#ifndef BST_KERNELS_SPIKE_ATTENTION_HEADS_H_
#define BST_KERNELS_SPIKE_ATTENTION_HEADS_H_

#include "../lanes.h"

enum { BST_ATTENTION_CHANNELS_AT_ONCE = 256 };

static inline size_t bst_attention_words(size_t bits) { return (bits + 63) / 64; }

static inline size_t bst_attention_min(size_t a, size_t b) { return a < b ? a : b; }

/// Words of T lists of up to `n_events` events.
static inline size_t bst_attention_list_words(int n_steps, size_t n_events) {
  return ((size_t)n_steps * bst_list_capacity(n_events) + 1) / 2;
}

/// The least number of heads of d channels whose channels fill whole words, at most `heads`.
static inline size_t bst_attention_group(size_t heads, size_t d) {
  size_t n = 1;
  while (n < 64 && n * d % 64 != 0) n *= 2;
  return bst_attention_min(n, heads);
}

/// Words of the channels of a group.
static inline size_t bst_attention_group_words(size_t heads, size_t d) {
  return bst_attention_words(bst_attention_group(heads, d) * d);
}

/// End of the heads that are taken together from `first` on where heads need not fill words: those
/// of a group, or fewer where these are many channels.
static inline size_t bst_attention_chunk_end(size_t first, size_t end, size_t heads, size_t d) {
  const size_t group = bst_attention_group(heads, d);
  if (group * d <= BST_ATTENTION_CHANNELS_AT_ONCE) {
    return bst_attention_min(end, (first / group + 1) * group);
  }
  const size_t n = d < BST_ATTENTION_CHANNELS_AT_ONCE ? BST_ATTENTION_CHANNELS_AT_ONCE / d : 1;
  return bst_attention_min(end, first + n);
}

/// Most columns of words that the heads of a chunk touch.
static inline size_t bst_attention_chunk_words(size_t d) {
  const size_t most = d > BST_ATTENTION_CHANNELS_AT_ONCE ? d : BST_ATTENTION_CHANNELS_AT_ONCE;
  return (most + 126) / 64;
}

#endif  // BST_KERNELS_SPIKE_ATTENTION_HEADS_H_
