// SPDX-License-Identifier: MIT
// The sums of weight_conv on vectors, and the loops on them. A body: included by the file of one
// instruction set after its vocabulary and
//
//   BST_WC_LANES                   int16 lanes of a vector
//   bst_wc_add8(sum, row)          int16 lanes plus BST_WC_LANES int8
//   bst_wc_empty(sum, total)       total[BST_WC_LANES] += int16 lanes
//   bst_wc_add16(sum, row)         int32 lanes plus BST_WC_LANES / 2 int16
//   bst_wc_add_bytes(sum, row)     int8 lanes plus as many int8
//   bst_wc_widen(sum, bytes, half) int16 lanes plus one half of the int8 lanes
//
// BST_WC_VECS sums are held in registers over the list. Weights of few bits are added in int8 lanes
// first, which takes half as many vectors and no conversion: `run` rows of at most 2^(bits-1) in
// size stay within 127.

#ifndef BST_KERNELS_WEIGHT_CONV_SIMD_H_
#define BST_KERNELS_WEIGHT_CONV_SIMD_H_

#include "../spike_conv/sum_common.h"

enum { BST_WC_RUN = 255, BST_WC_VECS = 64 * BST_WC_WORDS / BST_WC_LANES };

BST_INLINE void bst_wc_run8(const int8_t* rows, size_t stride, const uint32_t* list, size_t n,
                            int n_vecs, int32_t* total) {
  bst_vec sum[BST_WC_VECS];
  BST_UNROLL
  for (int j = 0; j < n_vecs; ++j) sum[j] = bst_vec_zero();
  for (size_t e = 0; e < n; ++e) {
    const int8_t* const row = rows + list[e] * stride;
    BST_UNROLL
    for (int j = 0; j < n_vecs; ++j) sum[j] = bst_wc_add8(sum[j], row + j * BST_WC_LANES);
  }
  BST_UNROLL
  for (int j = 0; j < n_vecs; ++j) bst_wc_empty(sum[j], total + j * BST_WC_LANES);
}

/// As bst_wc_run8, through int8 lanes.
BST_INLINE void bst_wc_run_bytes(const int8_t* rows, size_t stride, const uint32_t* list, size_t n,
                                 size_t run, int n_vecs, int32_t* total) {
  bst_vec sum[BST_WC_VECS], bytes[BST_WC_VECS / 2];
  BST_UNROLL
  for (int j = 0; j < n_vecs; ++j) sum[j] = bst_vec_zero();
  for (size_t done = 0; done < n; done += run) {
    const size_t end = n - done < run ? n : done + run;
    BST_UNROLL
    for (int j = 0; j < n_vecs / 2; ++j) bytes[j] = bst_vec_zero();
    for (size_t e = done; e < end; ++e) {
      const int8_t* const row = rows + list[e] * stride;
      BST_UNROLL
      for (int j = 0; j < n_vecs / 2; ++j) {
        bytes[j] = bst_wc_add_bytes(bytes[j], row + 2 * j * BST_WC_LANES);
      }
    }
    BST_UNROLL
    for (int j = 0; j < n_vecs; ++j) sum[j] = bst_wc_widen(sum[j], bytes[j / 2], j % 2);
  }
  BST_UNROLL
  for (int j = 0; j < n_vecs; ++j) bst_wc_empty(sum[j], total + j * BST_WC_LANES);
}

BST_INLINE void bst_wc_sum8(const int8_t* rows, size_t stride, const uint32_t* list, size_t n,
                            size_t run, int n_words, int32_t* total) {
  const int n_vecs = 64 * n_words / BST_WC_LANES;
  for (size_t done = 0; done < n; done += BST_WC_RUN) {
    const size_t left = n - done, here = left < BST_WC_RUN ? left : BST_WC_RUN;
    if (run > 1) {
      bst_wc_run_bytes(rows, stride, list + done, here, run, n_vecs, total);
    } else {
      bst_wc_run8(rows, stride, list + done, here, n_vecs, total);
    }
  }
}

BST_INLINE void bst_wc_sum16(const int16_t* rows, size_t stride, const uint32_t* list, size_t n,
                             int n_words, int32_t* total) {
  enum { HALF = BST_WC_LANES / 2 };
  for (int half = 0; half < 2; ++half) {  // twice as many lanes as registers hold
    const int n_vecs = 64 * n_words / BST_WC_LANES, first = half * n_vecs * HALF;
    bst_vec sum[BST_WC_VECS];
    BST_UNROLL
    for (int j = 0; j < n_vecs; ++j) sum[j] = bst_vec_load(total + first + j * HALF);
    for (size_t e = 0; e < n; ++e) {
      const int16_t* const row = rows + list[e] * stride + first;
      BST_UNROLL
      for (int j = 0; j < n_vecs; ++j) sum[j] = bst_wc_add16(sum[j], row + j * HALF);
    }
    BST_UNROLL
    for (int j = 0; j < n_vecs; ++j) bst_vec_store(total + first + j * HALF, sum[j]);
  }
}

#include "loops.h"

#endif  // BST_KERNELS_WEIGHT_CONV_SIMD_H_
