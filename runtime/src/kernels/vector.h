// SPDX-License-Identifier: MIT
// Bit-sliced counters on vectors: what lanes.h does for words, a vector of lanes at once. A body:
// included by the file of one instruction set after its vocabulary (avx2.h, neon.h), between
// BST_VECTOR_BEGIN and BST_VECTOR_END.

#ifndef BST_KERNELS_VECTOR_H_
#define BST_KERNELS_VECTOR_H_

#include "lanes.h"

enum {
  BST_VEC_WORDS = BST_VEC_BYTES / 8,
  BST_VEC_LANES32 = BST_VEC_BYTES / 4,
};

/// Low planes of the counters of one vector of lanes.
typedef struct bst_vec_counter {
  bst_vec ones, twos, fours, eights;
} bst_vec_counter;

/// *sum += a + b, lane by lane; returns the carry.
static inline bst_vec bst_vec_full_add(bst_vec* sum, bst_vec a, bst_vec b) {
  const bst_vec half = bst_vec_xor(a, b), c = *sum;
  *sum = bst_vec_xor(half, c);
  return bst_vec_carry(half, a, b, c);
}

#endif  // BST_KERNELS_VECTOR_H_
