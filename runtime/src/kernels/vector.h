// SPDX-License-Identifier: MIT
// Lists and bit-sliced counters on vectors: what lanes.h does for words, a vector of lanes at once.
// A body: included by the file of one instruction set after its vocabulary (avx2.h, neon.h),
// between BST_VECTOR_BEGIN and BST_VECTOR_END.
//
// Counting adds sixteen rows at a time (Harley-Seal): the planes of weight 1, 2, 4 and 8 stay in
// registers, one carry of weight 16 leaves per sixteen rows and ripples through the planes in
// memory. A last group of eight, where there is one, is added into the plane of weight 8.
//
// Lane order. Transposing eight planes in 8x8 bits leaves vectors m[0..7] with byte b of m[k] = the
// count of lane 8b + k. State and tables stay in that order, lane 8b + k at BST_VEC_BYTES k + b:
// what m[k] widens to is contiguous there, and comparison masks that are narrowed back to bytes are
// spikes in natural order once bit k of each byte is taken.

#ifndef BST_KERNELS_VECTOR_H_
#define BST_KERNELS_VECTOR_H_

#include "lanes.h"

enum {
  BST_VEC_WORDS = BST_VEC_BYTES / 8,
  BST_VEC_BITS = BST_VEC_BYTES * 8,  // lanes of one bit
  BST_VEC_LANES32 = BST_VEC_BYTES / 4,
  BST_VEC_MAX_PARTS = 4,  // vectors that the bytes of one widen to: 4 of int32, 2 of int16
};

static inline int bst_vec_n_parts(bool wide) { return wide ? 4 : 2; }

/// Place of a lane in the order of the file head, within its vector of lanes.
static inline size_t bst_vec_place(size_t lane) { return lane % 8 * BST_VEC_BYTES + lane / 8; }

// ---- Lists --------------------------------------------------------------------------------------

/// Entries of lists are row numbers times 8: the byte offset of a row is entry * words of a row.
enum { BST_VEC_ENTRY = 8 };

// Row v of the tables: the positions of the set bits of v, ascending, times BST_VEC_ENTRY, a byte
// each from the lowest byte on; and their number.
#define BST_BIT_BELOW(v, i, limit) ((i) < (limit) ? (v) >> (i) & 1 : 0)
#define BST_N_BELOW(v, i)                                                     \
  (BST_BIT_BELOW(v, 0, i) + BST_BIT_BELOW(v, 1, i) + BST_BIT_BELOW(v, 2, i) + \
   BST_BIT_BELOW(v, 3, i) + BST_BIT_BELOW(v, 4, i) + BST_BIT_BELOW(v, 5, i) + \
   BST_BIT_BELOW(v, 6, i) + BST_BIT_BELOW(v, 7, i))
#define BST_N_POSITIONS(v) BST_N_BELOW(v, 8)
#define BST_POSITION(v, i) \
  (((v) >> (i) & 1) != 0 ? (UINT64_C(i) * BST_VEC_ENTRY) << 8 * BST_N_BELOW(v, i) : 0)
#define BST_POSITIONS(v)                                                               \
  (BST_POSITION(v, 1) | BST_POSITION(v, 2) | BST_POSITION(v, 3) | BST_POSITION(v, 4) | \
   BST_POSITION(v, 5) | BST_POSITION(v, 6) | BST_POSITION(v, 7))
#define BST_ROWS_4(row, v) row(v), row((v) + 1), row((v) + 2), row((v) + 3)
#define BST_ROWS_16(row, v) \
  BST_ROWS_4(row, v), BST_ROWS_4(row, (v) + 4), BST_ROWS_4(row, (v) + 8), BST_ROWS_4(row, (v) + 12)
#define BST_ROWS_64(row, v)                                                    \
  BST_ROWS_16(row, v), BST_ROWS_16(row, (v) + 16), BST_ROWS_16(row, (v) + 32), \
      BST_ROWS_16(row, (v) + 48)
#define BST_ROWS_256(row) \
  BST_ROWS_64(row, 0), BST_ROWS_64(row, 64), BST_ROWS_64(row, 128), BST_ROWS_64(row, 192)
static const uint64_t bst_positions[256] = {BST_ROWS_256(BST_POSITIONS)};
static const uint8_t bst_n_positions[256] = {BST_ROWS_256(BST_N_POSITIONS)};

/// bst_list_bits of lanes.h without a branch per bit; `first` is an entry. May write up to 8
/// entries beyond the new length: bst_list_capacity holds them.
static inline size_t bst_vec_list_bits(const uint64_t* words, size_t n_words, uint32_t first,
                                       uint32_t* list, size_t n) {
  const bst_vec next = bst_vec_set(true, 8 * BST_VEC_ENTRY);
  bst_vec entry = bst_vec_set(true, (int32_t)first);
  for (size_t w = 0; w < n_words; ++w) {
    uint64_t bits = words[w];
    for (int i = 0; i < 8; ++i, bits >>= 8) {
      const unsigned byte = (unsigned)bits & 0xFF;
      bst_vec_store_entries(list + n, bst_positions[byte], entry);
      entry = bst_vec_add(true, entry, next);
      n += bst_n_positions[byte];
    }
  }
  return n;
}

/// list[n + i] = from[i] + add for i < count; return n + count. May read and write up to 7 entries
/// beyond.
static inline size_t bst_vec_list_copy(const uint32_t* from, size_t count, uint32_t add,
                                       uint32_t* list, size_t n) {
  const bst_vec offset = bst_vec_set(true, (int32_t)add);
  for (size_t i = 0; i < count; i += BST_VEC_LANES32) {
    bst_vec_store(list + n + i, bst_vec_add(true, bst_vec_load(from + i), offset));
  }
  return n + count;
}

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

/// Add eight listed rows; returns the carry of weight 8.
static inline bst_vec bst_vec_add8(bst_vec_counter* n, const uint64_t* rows, size_t row_words,
                                   const uint32_t* list) {
#define BST_VEC_ROW(i) bst_vec_load((const uint8_t*)rows + list[i] * row_words)
  bst_vec twos_a = bst_vec_full_add(&n->ones, BST_VEC_ROW(0), BST_VEC_ROW(1));
  bst_vec twos_b = bst_vec_full_add(&n->ones, BST_VEC_ROW(2), BST_VEC_ROW(3));
  const bst_vec fours = bst_vec_full_add(&n->twos, twos_a, twos_b);
  twos_a = bst_vec_full_add(&n->ones, BST_VEC_ROW(4), BST_VEC_ROW(5));
  twos_b = bst_vec_full_add(&n->ones, BST_VEC_ROW(6), BST_VEC_ROW(7));
#undef BST_VEC_ROW
  return bst_vec_full_add(&n->fours, fours, bst_vec_full_add(&n->twos, twos_a, twos_b));
}

/// Add a carry of weight 16 into the planes in memory.
static inline void bst_vec_ripple(bst_vec carry, int n_planes, bst_vec* planes) {
  for (int p = 4; p < n_planes; ++p) {
    const bst_vec plane = planes[p];
    planes[p] = bst_vec_xor(plane, carry);
    carry = bst_vec_and(plane, carry);
  }
}

static inline void bst_vec_store_low(const bst_vec_counter* n, bst_vec* planes) {
  planes[0] = n->ones;
  planes[1] = n->twos;
  planes[2] = n->fours;
  planes[3] = n->eights;
}

enum { BST_VEC_MAX_PLANES = (BST_MAX_PLANES + 7) / 8 * 8 };

/// Planes that are stored: whole groups of eight, for the transposition.
static inline int bst_vec_stored_planes(int n_planes) {
  return n_planes == 0 ? 8 : (n_planes + 7) / 8 * 8;
}

/// Vertical sum of the rows of a padded list over one or two vectors of lanes.
/// @param rows      first word wanted of row 0, rows of `row_words` words
/// @param n_columns 1 or 2; a constant, so that unused columns cost nothing
/// @param n_padded  list length, a multiple of BST_SUM_GROUP
/// @param planes    out: [n_columns][bst_vec_stored_planes(n_planes)], zero from n_planes on;
///                  n_planes = bst_bit_length(length before padding)
static inline void bst_vec_sum_rows(const uint64_t* rows, size_t row_words, int n_columns,
                                    const uint32_t* list, size_t n_padded, int n_planes,
                                    bst_vec planes[][BST_VEC_MAX_PLANES]) {
  const bst_vec zero = bst_vec_zero();
  const uint64_t* const more = rows + BST_VEC_WORDS;
  bst_vec_counter a = {zero, zero, zero, zero}, b = a;
  bst_vec eights_a = zero, eights_b = zero;
  for (int p = 4; p < bst_vec_stored_planes(n_planes); ++p) {
    for (int c = 0; c < n_columns; ++c) planes[c][p] = zero;
  }
  for (; n_padded >= 2 * BST_SUM_GROUP; n_padded -= 2 * BST_SUM_GROUP) {
    eights_a = bst_vec_add8(&a, rows, row_words, list);
    if (n_columns > 1) eights_b = bst_vec_add8(&b, more, row_words, list);
    list += BST_SUM_GROUP;
    eights_a = bst_vec_full_add(&a.eights, eights_a, bst_vec_add8(&a, rows, row_words, list));
    if (n_columns > 1) {
      eights_b = bst_vec_full_add(&b.eights, eights_b, bst_vec_add8(&b, more, row_words, list));
    }
    list += BST_SUM_GROUP;
    bst_vec_ripple(eights_a, n_planes, planes[0]);
    if (n_columns > 1) bst_vec_ripple(eights_b, n_planes, planes[1]);
  }
  if (n_padded != 0) {
    eights_a = bst_vec_add8(&a, rows, row_words, list);
    bst_vec_ripple(bst_vec_full_add(&a.eights, eights_a, zero), n_planes, planes[0]);
    if (n_columns > 1) {
      eights_b = bst_vec_add8(&b, more, row_words, list);
      bst_vec_ripple(bst_vec_full_add(&b.eights, eights_b, zero), n_planes, planes[1]);
    }
  }
  bst_vec_store_low(&a, planes[0]);
  if (n_columns > 1) bst_vec_store_low(&b, planes[1]);
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

/// Counts of one vector of lanes, int32 or int16 [BST_VEC_BITS], in the order of the file head or
/// in natural order.
static inline void bst_vec_unpack(bool wide, bool natural, const bst_vec* planes, int n_planes,
                                  void* counts) {
  const size_t part_bytes = BST_VEC_BYTES / (size_t)bst_vec_n_parts(wide), item = wide ? 4 : 2;
  for (int done = 0; done == 0 || done < n_planes; done += 8) {
    bst_vec m[8], part[BST_VEC_MAX_PARTS];
    for (int p = 0; p < 8; ++p) m[p] = planes[done + p];
    bst_vec_transpose(m);
    if (natural) bst_vec_natural_order(m);
    for (size_t k = 0; k < 8; ++k) {
      bst_vec_widen(wide, m[k], part);
      for (size_t j = 0; j < (size_t)bst_vec_n_parts(wide); ++j) {
        const size_t byte = j * part_bytes;
        const size_t lane =
            natural ? byte / 16 * 128 + 16 * k + byte % 16 : k * BST_VEC_BYTES + byte;
        uint8_t* const at = (uint8_t*)counts + item * lane;
        bst_vec value = part[j];
        if (done > 0) value = bst_vec_or(bst_vec_load(at), bst_vec_up(wide, value, done));
        bst_vec_store(at, value);
      }
    }
  }
}

/// What bst_unpack_counts of lanes.h does, for words 0 .. n_words - 1 of `planes`.
static inline void bst_vec_unpack_words(uint64_t planes[][BST_SUM_WORDS], int n_planes, int n_words,
                                        int32_t counts[][64]) {
  for (int first = 0; first < n_words; first += BST_VEC_WORDS) {
    for (int done = 0; done == 0 || done < n_planes; done += 8) {
      bst_vec m[8], part[BST_VEC_MAX_PARTS];
      for (int p = 0; p < 8; ++p) {
        m[p] = done + p < n_planes ? bst_vec_load(&planes[done + p][first]) : bst_vec_zero();
      }
      bst_vec_transpose(m);
      for (size_t k = 0; k < 8; ++k) {
        bst_vec_widen(true, m[k], part);
        for (size_t j = 0; j < BST_VEC_MAX_PARTS; ++j) {
          const size_t byte = j * BST_VEC_LANES32, word = (size_t)first + byte / 8;
          int32_t* const at = counts[word] + 8 * k + byte % 8;
          bst_vec value = part[j];
          if (done > 0) value = bst_vec_or(bst_vec_load(at), bst_vec_up(true, value, done));
          bst_vec_store(at, value);
        }
      }
    }
  }
}

#endif  // BST_KERNELS_VECTOR_H_
