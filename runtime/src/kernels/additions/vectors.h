// SPDX-License-Identifier: MIT
// additions on vectors, in the words of ../vector.h, which comes before the definition. Two columns
// of counters, as in spike_conv: the chains of one fill the gaps of the other.

#ifndef BST_KERNELS_ADDITIONS_VECTORS_H_
#define BST_KERNELS_ADDITIONS_VECTORS_H_

#include <stddef.h>

#include "additions.h"

/// Add eight rows, of which a vector lies every `stride` bytes, to a counter; the carry of weight 8
/// is only looked at.
#define BST_ADD_EIGHT(n, row, stride)                                                              \
  do {                                                                                             \
    bst_vec_counter* const bst_n = (n);                                                            \
    bst_vec bst_twos[4], bst_fours[2];                                                             \
    for (size_t bst_i = 0; bst_i < 4; ++bst_i) {                                                   \
      bst_twos[bst_i] = bst_vec_full_add(&bst_n->ones, bst_vec_load((row) + 2 * bst_i * (stride)), \
                                         bst_vec_load((row) + (2 * bst_i + 1) * (stride)));        \
    }                                                                                              \
    bst_fours[0] = bst_vec_full_add(&bst_n->twos, bst_twos[0], bst_twos[1]);                       \
    bst_fours[1] = bst_vec_full_add(&bst_n->twos, bst_twos[2], bst_twos[3]);                       \
    bst_n->eights =                                                                                \
        bst_vec_xor(bst_n->eights, bst_vec_full_add(&bst_n->fours, bst_fours[0], bst_fours[1]));   \
  } while (0)

#define BST_DEFINE_ADDITIONS(name)                                                             \
  uint64_t name(uint64_t n_rounds, uint64_t* check) {                                          \
    enum { WORDS = 2 * BST_VEC_WORDS, STRIDE = WORDS * 8 };                                    \
    _Alignas(64) uint64_t rows[BST_ADDITIONS_ROWS * WORDS];                                    \
    const uint8_t* const first = (const uint8_t*)rows;                                         \
    const bst_vec zero = bst_vec_zero();                                                       \
    bst_vec_counter a = {zero, zero, zero, zero}, b = a;                                       \
    bst_additions_fill(n_rounds, rows, BST_ADDITIONS_ROWS * WORDS);                            \
    for (uint64_t round = 0; round < n_rounds; ++round) {                                      \
      for (size_t i = 0; i < BST_ADDITIONS_ROWS; i += 8) {                                     \
        BST_ADD_EIGHT(&a, first + i * STRIDE, STRIDE);                                         \
        BST_ADD_EIGHT(&b, first + i * STRIDE + BST_VEC_BYTES, STRIDE);                         \
      }                                                                                        \
    }                                                                                          \
    const bst_vec low = bst_vec_xor(bst_vec_xor(a.ones, a.twos), bst_vec_xor(b.ones, b.twos)); \
    const bst_vec high =                                                                       \
        bst_vec_xor(bst_vec_xor(a.fours, a.eights), bst_vec_xor(b.fours, b.eights));           \
    bst_vec_store(rows, bst_vec_xor(low, high));                                               \
    *check = 0;                                                                                \
    for (int i = 0; i < BST_VEC_WORDS; ++i) *check ^= rows[i];                                 \
    return (uint64_t)BST_ADDITIONS_ROWS * WORDS * 64;                                          \
  }

#endif  // BST_KERNELS_ADDITIONS_VECTORS_H_
