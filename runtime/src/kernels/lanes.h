// SPDX-License-Identifier: MIT
// Bits, bit-sliced counters and 64 lanes of int32: the common machinery of the event-driven
// kernels.
//
// Counting. To add many rows of 64 bits lane by lane, keep the 64 counters vertically: plane p
// holds bit p of every counter. Eight rows enter through a tree of seven full adders (Harley-Seal):
// ones, twos and fours absorb them and one carry of weight 8 leaves per group, which ripples
// through the higher planes. About 4.6 word operations per row of 64 counters.
//
// Lane order. Turning planes into numbers is an 8x8 bit transposition of each group of eight
// planes: afterwards byte b of word k is the count of lane 8b + k. The kernels keep this transposed
// order (position 8k + b holds lane 8b + k) for state and tables: nothing ever needs the byte
// shuffle back because spikes are packed by `word |= bytes[k] << k`, which restores the lane order
// for free.

#ifndef BST_KERNELS_LANES_H_
#define BST_KERNELS_LANES_H_

#include <string.h>

#include "integers.h"

enum {
  BST_SUM_WORDS = 8,    // words (of 64 lanes) that are counted in one pass
  BST_MAX_PLANES = 17,  // counts up to 65536 = BST_MAX_FAN_IN
  BST_SUM_GROUP = 8,    // row lists are padded to a multiple of this with a row of zeros
};

/// Position of lane i (0..63) in the transposed order, and back: its own inverse.
static inline int bst_transposed_lane(int i) { return (i & 7) * 8 + (i >> 3); }

/// Pack 64 values 0/1 in natural lane order into a word.
static inline uint64_t bst_pack_lanes(const uint8_t* spike) {
  uint64_t word = 0;
  for (int b = 0; b < 8; ++b) {
    uint64_t bytes;
    memcpy(&bytes, spike + 8 * b, 8);
    word |= ((bytes * UINT64_C(0x0102040810204080)) >> 56) << (8 * b);
  }
  return word;
}

/// Pack 64 values 0/1 in transposed lane order into a word.
static inline uint64_t bst_pack_transposed(const uint8_t* spike) {
  uint64_t word = 0;
  for (int k = 0; k < 8; ++k) {
    uint64_t bytes;
    memcpy(&bytes, spike + 8 * k, 8);
    word |= bytes << k;
  }
  return word;
}

/// Append `first + position` of every set bit of `n_words` words to `list`; return the new length.
static inline size_t bst_list_bits(const uint64_t* words, size_t n_words, uint32_t first,
                                   uint32_t* list, size_t n) {
  for (size_t w = 0; w < n_words; ++w, first += 64) {
    for (uint64_t bits = words[w]; bits != 0; bits &= bits - 1) {
      list[n++] = first + bst_low_bit(bits);
    }
  }
  return n;
}

/// Pad a list with `zero_row` to a multiple of BST_SUM_GROUP; return the padded length.
static inline size_t bst_pad_list(uint32_t zero_row, uint32_t* list, size_t n) {
  while (n % BST_SUM_GROUP != 0) list[n++] = zero_row;
  return n;
}

/// Entries that a list of up to `n` rows needs after padding.
static inline size_t bst_list_capacity(size_t n) { return n + BST_SUM_GROUP; }

/// Bit `words` words of a bit string that starts at bit `from` of `source`; the last word is cut to
/// `n_bits`. Reads only words that hold wanted bits.
static inline void bst_slice_bits(const uint64_t* source, size_t from, size_t n_bits,
                                  uint64_t* words) {
  const size_t shift = from % 64;
  source += from / 64;
  for (size_t done = 0; done < n_bits; done += 64, ++source, ++words) {
    const size_t left = n_bits - done < 64 ? n_bits - done : 64;
    uint64_t bits = source[0] >> shift;
    if (shift != 0 && left > 64 - shift) bits |= source[1] << (64 - shift);
    *words = left < 64 ? bits & ((UINT64_C(1) << left) - 1) : bits;
  }
}

/// OR one word of `n_bits` (1..64) bits into `target` from bit `to` on; higher bits must be zero.
static inline void bst_insert_bits(uint64_t* target, size_t to, size_t n_bits, uint64_t bits) {
  const size_t shift = to % 64;
  target[to / 64] |= bits << shift;
  if (shift != 0 && n_bits > 64 - shift) target[to / 64 + 1] |= bits >> (64 - shift);
}

#define BST_FULL_ADD(carry, sum, a, b, c)         \
  do {                                            \
    const uint64_t bst_half = (a) ^ (b);          \
    const uint64_t bst_third = (c);               \
    carry = ((a) & (b)) | (bst_half & bst_third); \
    sum = bst_half ^ bst_third;                   \
  } while (0)

/// One block of `N` words of bst_sum_rows; the low planes stay in registers over the whole list.
#define BST_DEFINE_SUM_BLOCK(N)                                                             \
  static inline void bst_sum_block_##N(const uint64_t* rows, size_t row_words,              \
                                       const uint32_t* list, size_t n_padded, int n_planes, \
                                       uint64_t planes[][BST_SUM_WORDS], int first) {       \
    uint64_t ones[N] = {0}, twos[N] = {0}, fours[N] = {0}, eights[N];                       \
    for (int p = 3; p < n_planes; ++p) {                                                    \
      for (int j = 0; j < (N); ++j) planes[p][first + j] = 0;                               \
    }                                                                                       \
    for (size_t i = 0; i < n_padded; i += BST_SUM_GROUP) {                                  \
      const uint64_t* const r0 = rows + row_words * list[i];                                \
      const uint64_t* const r1 = rows + row_words * list[i + 1];                            \
      const uint64_t* const r2 = rows + row_words * list[i + 2];                            \
      const uint64_t* const r3 = rows + row_words * list[i + 3];                            \
      const uint64_t* const r4 = rows + row_words * list[i + 4];                            \
      const uint64_t* const r5 = rows + row_words * list[i + 5];                            \
      const uint64_t* const r6 = rows + row_words * list[i + 6];                            \
      const uint64_t* const r7 = rows + row_words * list[i + 7];                            \
      for (int j = 0; j < (N); ++j) {                                                       \
        uint64_t twos_a, twos_b, fours_a, fours_b;                                          \
        BST_FULL_ADD(twos_a, ones[j], r0[j], r1[j], ones[j]);                               \
        BST_FULL_ADD(twos_b, ones[j], r2[j], r3[j], ones[j]);                               \
        BST_FULL_ADD(fours_a, twos[j], twos_a, twos_b, twos[j]);                            \
        BST_FULL_ADD(twos_a, ones[j], r4[j], r5[j], ones[j]);                               \
        BST_FULL_ADD(twos_b, ones[j], r6[j], r7[j], ones[j]);                               \
        BST_FULL_ADD(fours_b, twos[j], twos_a, twos_b, twos[j]);                            \
        BST_FULL_ADD(eights[j], fours[j], fours_a, fours_b, fours[j]);                      \
      }                                                                                     \
      for (int p = 3; p < n_planes; ++p) {                                                  \
        for (int j = 0; j < (N); ++j) {                                                     \
          const uint64_t plane = planes[p][first + j];                                      \
          planes[p][first + j] = plane ^ eights[j];                                         \
          eights[j] &= plane;                                                               \
        }                                                                                   \
      }                                                                                     \
    }                                                                                       \
    for (int j = 0; j < (N); ++j) {                                                         \
      if (n_planes > 0) planes[0][first + j] = ones[j];                                     \
      if (n_planes > 1) planes[1][first + j] = twos[j];                                     \
      if (n_planes > 2) planes[2][first + j] = fours[j];                                    \
    }                                                                                       \
  }
BST_DEFINE_SUM_BLOCK(8)
BST_DEFINE_SUM_BLOCK(4)
BST_DEFINE_SUM_BLOCK(2)
BST_DEFINE_SUM_BLOCK(1)
#undef BST_DEFINE_SUM_BLOCK

/// Vertical sum of the rows of a padded list, over `n_words` words.
/// @param rows      first word wanted of row 0; row i lies `row_words * i` words further
/// @param n_padded  list length, a multiple of BST_SUM_GROUP
/// @param n_planes  at least bst_bit_length(length before padding)
/// @param planes    out: words at .. at + n_words - 1 (of 0 .. BST_SUM_WORDS - 1) of each plane
static inline void bst_sum_rows(const uint64_t* rows, size_t row_words, int n_words,
                                const uint32_t* list, size_t n_padded, int n_planes, int at,
                                uint64_t planes[][BST_SUM_WORDS]) {
  int done = 0;
  if (n_words == 8) {
    bst_sum_block_8(rows, row_words, list, n_padded, n_planes, planes, at);
    return;
  }
  if (n_words >= 4) {
    bst_sum_block_4(rows, row_words, list, n_padded, n_planes, planes, at);
    done = 4;
  }
  if (n_words - done >= 2) {
    bst_sum_block_2(rows + done, row_words, list, n_padded, n_planes, planes, at + done);
    done += 2;
  }
  if (n_words - done >= 1) {
    bst_sum_block_1(rows + done, row_words, list, n_padded, n_planes, planes, at + done);
  }
}

/// 8x8 bit transposition of eight plane words: byte b of word k becomes the number of lane 8b + k.
static inline void bst_transpose_planes(uint64_t* m) {
#define BST_SWAP_BITS(a, b, shift, mask)                      \
  do {                                                        \
    const uint64_t bst_x = (((a) >> (shift)) ^ (b)) & (mask); \
    (b) ^= bst_x;                                             \
    (a) ^= bst_x << (shift);                                  \
  } while (0)
  for (int i = 0; i < 4; ++i) BST_SWAP_BITS(m[i], m[i + 4], 4, UINT64_C(0x0F0F0F0F0F0F0F0F));
  for (int i = 0; i < 8; i += 4) {
    BST_SWAP_BITS(m[i], m[i + 2], 2, UINT64_C(0x3333333333333333));
    BST_SWAP_BITS(m[i + 1], m[i + 3], 2, UINT64_C(0x3333333333333333));
  }
  for (int i = 0; i < 8; i += 2) BST_SWAP_BITS(m[i], m[i + 1], 1, UINT64_C(0x5555555555555555));
#undef BST_SWAP_BITS
}

/// Counts of the 64 lanes of word `j` of `planes`, int32, in transposed lane order.
static inline void bst_unpack_counts(uint64_t planes[][BST_SUM_WORDS], int n_planes, int j,
                                     int32_t* counts) {
  uint64_t m[8];
  uint8_t bytes[64];
  for (int p = 0; p < 8; ++p) m[p] = p < n_planes ? planes[p][j] : 0;
  bst_transpose_planes(m);
  memcpy(bytes, m, sizeof bytes);
  for (int i = 0; i < 64; ++i) counts[i] = bytes[i];
  for (int done = 8; done < n_planes; done += 8) {
    for (int p = 0; p < 8; ++p) m[p] = done + p < n_planes ? planes[done + p][j] : 0;
    bst_transpose_planes(m);
    memcpy(bytes, m, sizeof bytes);
    for (int i = 0; i < 64; ++i) counts[i] |= (int32_t)bytes[i] << done;
  }
}

/// Transpose 64 x 64 bits in place: bit i of word j becomes bit j of word i. Each stage swaps one
/// bit of the row number with the same bit of the column number.
BST_INLINE void bst_transpose_square(uint64_t* m) {
#define BST_SWAP_ROWS(n, mask)                                              \
  for (int i = 0; i < 64; i += 2 * (n)) {                                   \
    for (int k = i; k < i + (n); ++k) {                                     \
      const uint64_t bst_x = ((m[k] >> (n)) ^ m[k + (n)]) & UINT64_C(mask); \
      m[k + (n)] ^= bst_x;                                                  \
      m[k] ^= bst_x << (n);                                                 \
    }                                                                       \
  }
  BST_SWAP_ROWS(32, 0x00000000FFFFFFFF)
  BST_SWAP_ROWS(16, 0x0000FFFF0000FFFF)
  BST_SWAP_ROWS(8, 0x00FF00FF00FF00FF)
  BST_SWAP_ROWS(4, 0x0F0F0F0F0F0F0F0F)
  BST_SWAP_ROWS(2, 0x3333333333333333)
  BST_SWAP_ROWS(1, 0x5555555555555555)
#undef BST_SWAP_ROWS
}

#endif  // BST_KERNELS_LANES_H_
