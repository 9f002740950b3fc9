// SPDX-License-Identifier: MIT
// Planes of counters to numbers, for vectors of up to 32 bytes. A body, like vector.h.

#ifndef BST_KERNELS_PLANES_H_
#define BST_KERNELS_PLANES_H_

/// 8x8 bit transposition in each byte of eight vectors; byte b of m[k] becomes the
/// count of lane 8b + k.
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

/// Counts of one vector of lanes in natural order.
/// @param planes whole groups of eight
static inline void bst_vec_unpack(const bst_vec* planes, int n_planes, uint16_t* counts) {
  for (int done = 0; done == 0 || done < n_planes; done += 8) {
    bst_vec m[8], half[2];
    for (int p = 0; p < 8; ++p) m[p] = planes[done + p];
    bst_vec_transpose(m);
    bst_vec_natural_order(m);
    for (size_t k = 0; k < 8; ++k) {
      bst_vec_widen(m[k], half);
      for (size_t j = 0; j < 2; ++j) {
        const size_t byte = j * (BST_VEC_BYTES / 2);
        uint16_t* const at = counts + byte / 16 * 128 + 16 * k + byte % 16;
        bst_vec value = half[j];
        if (done > 0) value = bst_vec_or(bst_vec_load(at), bst_vec_up16(value, done));
        bst_vec_store(at, value);
      }
    }
  }
}

#endif  // BST_KERNELS_PLANES_H_
