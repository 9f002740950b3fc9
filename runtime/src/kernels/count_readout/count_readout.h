// SPDX-License-Identifier: MIT
// count_readout: raw logits from the counts of spikes over time and cells.
//
//   cnt[c] = number of spikes of channel c      raw[k] = C[k] + sum over c of V[k, c] cnt[c]
//
// Shapes, one frame: spikes [n_rows, n_words], n_rows = T * cells below 2^31; V int32
// [n_classes, channels]; C, raw int64 [n_classes]. Products and sums wrap modulo 2^64.
// `part` of `n_parts`: see part.h; part 0 does the work.

#ifndef BST_KERNELS_COUNT_READOUT_H_
#define BST_KERNELS_COUNT_READOUT_H_

#include <stddef.h>
#include <stdint.h>

size_t bst_count_readout_scratch_bytes(int channels);

typedef void bst_count_readout_kernel(int part, int n_parts, size_t n_rows, int channels,
                                      int n_classes, const uint64_t* spikes, const int32_t* v,
                                      const int64_t* c, int64_t* raw, void* scratch);

bst_count_readout_kernel bst_count_readout__scalar, bst_count_readout__avx2,
    bst_count_readout__avx512, bst_count_readout__neon;

#endif  // BST_KERNELS_COUNT_READOUT_H_
