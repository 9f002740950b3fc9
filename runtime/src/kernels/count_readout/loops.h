// SPDX-License-Identifier: MIT
// count_readout: bytes of counts of 64 channels grow for up to 255 rows, then go into int32; in
// plain loops over lanes that a compiler turns into vectors.

#ifndef BST_KERNELS_COUNT_READOUT_LOOPS_H_
#define BST_KERNELS_COUNT_READOUT_LOOPS_H_

#include <string.h>

#include "../integers.h"
#include "count_readout.h"

enum { BST_COUNT_ROWS = 255 };

/// Byte b of word k counts channel 8 b + k.
BST_INLINE void bst_count_add_word(uint64_t spikes, uint64_t* bytes) {
  for (int k = 0; k < 8; ++k) bytes[k] += (spikes >> k) & UINT64_C(0x0101010101010101);
}

BST_INLINE void bst_count_block(size_t n_rows, size_t n_words, const uint64_t* spikes,
                                int32_t* count) {
  for (int i = 0; i < 64; ++i) count[i] = 0;
  while (n_rows > 0) {
    const size_t n = n_rows < BST_COUNT_ROWS ? n_rows : BST_COUNT_ROWS;
    uint64_t bytes[8] = {0};
    for (size_t row = 0; row < n; ++row, spikes += n_words) bst_count_add_word(*spikes, bytes);
    for (int k = 0; k < 8; ++k) {
      for (int b = 0; b < 8; ++b) count[8 * b + k] += (int32_t)(bytes[k] >> (8 * b) & 0xFF);
    }
    n_rows -= n;
  }
}

BST_INLINE void bst_count_readout_plain(int part, int n_parts, size_t n_rows, int channels,
                                        int n_classes, const uint64_t* spikes, const int32_t* v,
                                        const int64_t* c, int64_t* raw, void* scratch) {
  (void)n_parts;
  if (part != 0) return;
  const size_t n_channels = (size_t)channels, n_words = (n_channels + 63) / 64;
  int32_t* const count = scratch;
  for (size_t w = 0; w < n_words; ++w) {
    bst_count_block(n_rows, n_words, spikes + w, count + 64 * w);
  }
  for (size_t k = 0; k < (size_t)n_classes; ++k, v += n_channels) {
    uint64_t sum = (uint64_t)c[k];
    for (size_t i = 0; i < n_channels; ++i) sum += (uint64_t)((int64_t)v[i] * count[i]);
    raw[k] = (int64_t)sum;
  }
}

/// The kernel of one instruction set.
#define BST_DEFINE_COUNT_READOUT(name)                                                     \
  void name(int part, int n_parts, size_t n_rows, int channels, int n_classes,             \
            const uint64_t* spikes, const int32_t* v, const int64_t* c, int64_t* raw,      \
            void* scratch) {                                                               \
    bst_count_readout_plain(part, n_parts, n_rows, channels, n_classes, spikes, v, c, raw, \
                            scratch);                                                      \
  }

#endif  // BST_KERNELS_COUNT_READOUT_LOOPS_H_
