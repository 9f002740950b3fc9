// SPDX-License-Identifier: MIT
// stream_ops: inner loops in plain C, which a compiler turns into the vectors of the instruction
// set that it is compiled for.

#ifndef BST_KERNELS_STREAM_OPS_LOOPS_H_
#define BST_KERNELS_STREAM_OPS_LOOPS_H_

#include <string.h>

#include "../integers.h"
#include "stream_ops.h"

/// Sixteen channels whose sums stay in registers.
BST_INLINE void bst_multiply_add_block(size_t n_rows, const int32_t* const* a,
                                       const int32_t* const* b, int b_is_scalar, size_t at,
                                       int32_t* out) {
  uint32_t sum[16] = {0};
  for (size_t r = 0; r < n_rows; ++r) {
    const int32_t *const x = a[r] + at, *const w = b_is_scalar ? b[r] : b[r] + at;
    for (size_t i = 0; i < 16; ++i) sum[i] += (uint32_t)x[i] * (uint32_t)w[b_is_scalar ? 0 : i];
  }
  memcpy(out, sum, sizeof sum);
}

BST_INLINE void bst_multiply_add_run(size_t n_rows, const int32_t* const* a,
                                     const int32_t* const* b, int b_is_scalar, size_t at, size_t n,
                                     int32_t* out) {
  size_t done = 0;
  for (; done + 16 <= n; done += 16) {
    if (b_is_scalar) {
      bst_multiply_add_block(n_rows, a, b, 1, at + done, out + done);
    } else {
      bst_multiply_add_block(n_rows, a, b, 0, at + done, out + done);
    }
  }
  for (; done < n; ++done) {
    uint32_t sum = 0;
    for (size_t r = 0; r < n_rows; ++r) {
      sum += (uint32_t)a[r][at + done] * (uint32_t)b[r][b_is_scalar ? 0 : at + done];
    }
    out[done] = (int32_t)sum;
  }
}

#endif  // BST_KERNELS_STREAM_OPS_LOOPS_H_
