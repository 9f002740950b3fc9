// SPDX-License-Identifier: MIT
// stream_ops, one value at a time.

#include "loops.h"

static uint64_t bst_at_least__scalar(const int32_t* x, const int32_t* least) {
  uint64_t mask = 0;
  for (int i = 0; i < BST_DOT_LANES; ++i) mask |= (uint64_t)(x[i] >= least[i]) << i;
  return mask;
}

static void bst_multiply_add__scalar(size_t n_rows, const int32_t* const* a,
                                     const int32_t* const* b, int b_is_scalar, size_t at, size_t n,
                                     int32_t* out) {
  bst_multiply_add_run(n_rows, a, b, b_is_scalar, at, n, out);
}

static void bst_stream_dot__scalar(size_t n_pairs, size_t lanes, const int8_t* rows,
                                   const uint32_t* x,
                                   int32_t out[2 * BST_DOT_TOKENS][BST_DOT_LANES]) {
  memset(out, 0, 2 * BST_DOT_TOKENS * sizeof *out);
  for (size_t p = 0; p < n_pairs; ++p, rows += 2 * lanes, x += 2 * BST_DOT_TOKENS) {
    for (size_t k = 0; k < 2 * BST_DOT_TOKENS; ++k) {
      const int32_t low = (int16_t)(x[k] & 0xFFFF), high = (int16_t)(x[k] >> 16);
      for (size_t o = 0; o < BST_DOT_LANES; ++o) {
        out[k][o] += low * rows[o] + high * rows[lanes + o];
      }
    }
  }
}

const bst_stream_inner bst_stream_inner__scalar = {bst_at_least__scalar, bst_multiply_add__scalar,
                                                   bst_stream_dot__scalar};
