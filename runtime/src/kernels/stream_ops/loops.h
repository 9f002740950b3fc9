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
                                       size_t n, int32_t* out) {
  uint32_t sum[16] = {0};
  for (size_t r = 0; r < n_rows; ++r) {
    const int32_t *const x = a[r] + at, *const w = b_is_scalar ? b[r] : b[r] + at;
    for (size_t i = 0; i < n; ++i) sum[i] += (uint32_t)x[i] * (uint32_t)w[b_is_scalar ? 0 : i];
  }
  memcpy(out, sum, n * sizeof *out);
}

BST_INLINE void bst_multiply_add_run(size_t n_rows, const int32_t* const* a,
                                     const int32_t* const* b, int b_is_scalar, size_t at, size_t n,
                                     int32_t* out) {
  size_t done = 0;
  for (; done + 16 <= n; done += 16) {
    if (b_is_scalar) {
      bst_multiply_add_block(n_rows, a, b, 1, at + done, 16, out + done);
    } else {
      bst_multiply_add_block(n_rows, a, b, 0, at + done, 16, out + done);
    }
  }
  if (done < n) bst_multiply_add_block(n_rows, a, b, b_is_scalar, at + done, n - done, out + done);
}

#endif  // BST_KERNELS_STREAM_OPS_LOOPS_H_
