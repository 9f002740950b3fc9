// SPDX-License-Identifier: MIT
// The vector vocabulary of a machine without vectors: one word, 64 lanes of one bit. Only what
// works on bits; bodies that also need lanes of integers take them from lanes.h.

#ifndef BST_KERNELS_WORDS_H_
#define BST_KERNELS_WORDS_H_

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "lanes.h"

typedef uint64_t bst_vec;

enum { BST_VEC_BYTES = 8 };

static inline bst_vec bst_vec_load(const void* from) {
  bst_vec a;
  memcpy(&a, from, sizeof a);
  return a;
}

static inline void bst_vec_store(void* to, bst_vec a) { memcpy(to, &a, sizeof a); }

static inline bst_vec bst_vec_zero(void) { return 0; }

static inline bst_vec bst_vec_and(bst_vec a, bst_vec b) { return a & b; }

/// a & ~b
static inline bst_vec bst_vec_clear(bst_vec a, bst_vec b) { return a & ~b; }

static inline bst_vec bst_vec_or(bst_vec a, bst_vec b) { return a | b; }

static inline bst_vec bst_vec_xor(bst_vec a, bst_vec b) { return a ^ b; }

/// Carry of a full adder: two of a, b, c; `half` is a ^ b.
static inline bst_vec bst_vec_carry(bst_vec half, bst_vec a, bst_vec b, bst_vec c) {
  return (a & b) | (half & c);
}

static inline bst_vec bst_vec_set64(uint64_t a) { return a; }

/// `word` where `lanes` is 1, 0 where it is 0.
static inline bst_vec bst_vec_spread(uint64_t word, unsigned lanes) {
  return word & (0 - (uint64_t)lanes);
}

/// Bit by bit a + b + c without its carry.
static inline bst_vec bst_vec_xor3(bst_vec a, bst_vec b, bst_vec c) { return a ^ b ^ c; }

/// Borrow of a - b - c, bit by bit; `half` is b ^ c.
static inline bst_vec bst_vec_borrow(bst_vec half, bst_vec a, bst_vec b, bst_vec c) {
  return (b & c) | (half & ~a);
}

/// 64 x 64 bits in place: bit i of word j becomes bit j of word i.
static inline void bst_vec_transpose_square(uint64_t* m) { bst_transpose_square(m); }

/// Counts of the 64 lanes in natural order.
static inline void bst_vec_unpack(const bst_vec* planes, int n_planes, int32_t* count) {
  uint64_t m[8];
  memset(count, 0, 64 * sizeof *count);
  for (int done = 0; done < n_planes; done += 8) {
    for (int p = 0; p < 8; ++p) m[p] = planes[done + p];
    bst_transpose_planes(m);
    for (int k = 0; k < 8; ++k) {
      for (int b = 0; b < 8; ++b) {
        count[8 * b + k] |= (int32_t)(m[k] >> (8 * b) & 0xFF) << done;
      }
    }
  }
}

#endif  // BST_KERNELS_WORDS_H_
