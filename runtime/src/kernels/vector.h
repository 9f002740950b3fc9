// SPDX-License-Identifier: MIT
// Bit-sliced counters on vectors: what lanes.h does for words, a vector of lanes at once. A body:
// included by the file of one instruction set after its vocabulary (avx2.h, neon.h), between
// BST_VECTOR_BEGIN and BST_VECTOR_END.
//
// Lane order. Transposing eight planes in 8x8 bits leaves vectors m[0..7] with byte b of m[k] = the
// count of lane 8b + k; what m[k] widens to is contiguous in that order. Zips bring the bytes to
// natural order.

#ifndef BST_KERNELS_VECTOR_H_
#define BST_KERNELS_VECTOR_H_

#include "lanes.h"

enum {
  BST_VEC_WORDS = BST_VEC_BYTES / 8,
  BST_VEC_LANES32 = BST_VEC_BYTES / 4,
};

// ---- Counters -----------------------------------------------------------------------------------

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

// ---- Planes to numbers --------------------------------------------------------------------------

/// 8x8 bit transposition in each byte of eight vectors; see the file head.
static inline void bst_vec_transpose(bst_vec* m) {
#define BST_VEC_SWAP(a, b, shift, mask)                                                        \
  do {                                                                                         \
    const bst_vec bst_x = bst_vec_and(bst_vec_xor(BST_VEC_DOWN64((a), (shift)), (b)), (mask)); \
    (b) = bst_vec_xor((b), bst_x);                                                             \
    (a) = bst_vec_xor((a), BST_VEC_UP64(bst_x, (shift)));                                      \
  } while (0)
  const bst_vec nibbles = bst_vec_set8(0x0F), pairs = bst_vec_set8(0x33);
  const bst_vec bits = bst_vec_set8(0x55);
  for (int i = 0; i < 4; ++i) BST_VEC_SWAP(m[i], m[i + 4], 4, nibbles);
  for (int i = 0; i < 8; i += 4) {
    BST_VEC_SWAP(m[i], m[i + 2], 2, pairs);
    BST_VEC_SWAP(m[i + 1], m[i + 3], 2, pairs);
  }
  for (int i = 0; i < 8; i += 2) BST_VEC_SWAP(m[i], m[i + 1], 1, bits);
#undef BST_VEC_SWAP
}

/// Transposed bytes m[0..7] to natural order: byte b of m[i] is lane 128 (b / 16) + 16i + b % 16.
/// The zips leave the pieces in bit-reversed order of i.
static inline void bst_vec_natural_order(bst_vec* m) {
  for (int i = 0; i < 8; i += 2) bst_vec_zip8(&m[i], &m[i + 1]);
  for (int i = 0; i < 8; i += 4) {
    bst_vec_zip16(&m[i], &m[i + 2]);
    bst_vec_zip16(&m[i + 1], &m[i + 3]);
  }
  for (int i = 0; i < 4; ++i) bst_vec_zip32(&m[i], &m[i + 4]);
  const bst_vec one = m[1], three = m[3];
  m[1] = m[4];
  m[3] = m[6];
  m[4] = one;
  m[6] = three;
}

/// Counts of one vector of lanes, int32 or int16, in natural order.
static inline void bst_vec_unpack(bool wide, const bst_vec* planes, int n_planes, void* counts) {
  const size_t n_parts = wide ? 4 : 2, item = wide ? 4 : 2;
  for (int done = 0; done == 0 || done < n_planes; done += 8) {
    bst_vec m[8], part[4];
    for (int p = 0; p < 8; ++p) m[p] = planes[done + p];
    bst_vec_transpose(m);
    bst_vec_natural_order(m);
    for (size_t k = 0; k < 8; ++k) {
      bst_vec_widen(wide, m[k], part);
      for (size_t j = 0; j < n_parts; ++j) {
        const size_t byte = j * (BST_VEC_BYTES / n_parts);
        uint8_t* const at = (uint8_t*)counts + item * (byte / 16 * 128 + 16 * k + byte % 16);
        bst_vec value = part[j];
        if (done > 0) value = bst_vec_or(bst_vec_load(at), bst_vec_up(wide, value, done));
        bst_vec_store(at, value);
      }
    }
  }
}

#endif  // BST_KERNELS_VECTOR_H_
