// SPDX-License-Identifier: MIT
// The vector vocabulary of x86-64 with AVX2: 256 lanes of one bit, 32 of a byte, 16 of int16, 8 of
// int32.
//
// Everything between BST_VECTOR_BEGIN and BST_VECTOR_END is compiled for AVX2 whatever the flags of
// the file, so one source list serves every machine; cpu.c decides at run time whether it may run.

#ifndef BST_KERNELS_AVX2_H_
#define BST_KERNELS_AVX2_H_

#include "have.h"

#ifdef BST_HAVE_AVX2

#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "lanes.h"

#ifdef __clang__
#define BST_VECTOR_BEGIN \
  _Pragma("clang attribute push(__attribute__((target(\"avx2\"))), apply_to = function)")
#define BST_VECTOR_END _Pragma("clang attribute pop")
#else
#define BST_VECTOR_BEGIN _Pragma("GCC push_options") _Pragma("GCC target(\"avx2\")")
#define BST_VECTOR_END _Pragma("GCC pop_options")
#endif

BST_VECTOR_BEGIN

typedef __m256i bst_vec;

enum { BST_VEC_BYTES = 32, BST_VEC_REGISTERS = 16 };

static inline bst_vec bst_vec_load(const void* from) {
  return _mm256_loadu_si256((const __m256i*)from);
}

static inline void bst_vec_store(void* to, bst_vec a) { _mm256_storeu_si256((__m256i*)to, a); }

static inline bst_vec bst_vec_zero(void) { return _mm256_setzero_si256(); }

static inline bst_vec bst_vec_set8(unsigned a) { return _mm256_set1_epi8((char)a); }

/// `a` in every int32 lane.
static inline bst_vec bst_vec_set32(int32_t a) { return _mm256_set1_epi32(a); }

static inline bst_vec bst_vec_and(bst_vec a, bst_vec b) { return _mm256_and_si256(a, b); }

/// a & ~b
static inline bst_vec bst_vec_clear(bst_vec a, bst_vec b) { return _mm256_andnot_si256(b, a); }

static inline bst_vec bst_vec_or(bst_vec a, bst_vec b) { return _mm256_or_si256(a, b); }

static inline bst_vec bst_vec_xor(bst_vec a, bst_vec b) { return _mm256_xor_si256(a, b); }

/// Carry of a full adder: two of a, b, c; `half` is a ^ b.
static inline bst_vec bst_vec_carry(bst_vec half, bst_vec a, bst_vec b, bst_vec c) {
  return _mm256_or_si256(_mm256_and_si256(a, b), _mm256_and_si256(half, c));
}

/// 64-bit lanes shifted by a constant.
#define BST_VEC_UP64(a, n) _mm256_slli_epi64((a), (n))
#define BST_VEC_DOWN64(a, n) _mm256_srli_epi64((a), (n))

// int32 lanes; they wrap.

static inline bst_vec bst_vec_add32(bst_vec a, bst_vec b) { return _mm256_add_epi32(a, b); }

static inline bst_vec bst_vec_sub32(bst_vec a, bst_vec b) { return _mm256_sub_epi32(a, b); }

/// a * 2^n, int16 lanes
static inline bst_vec bst_vec_up16(bst_vec a, int n) {
  return _mm256_sll_epi16(a, _mm_cvtsi32_si128(n));
}

/// int32 lanes, the low half of the product
static inline bst_vec bst_vec_mul32(bst_vec a, bst_vec b) { return _mm256_mullo_epi32(a, b); }

/// 8 times uint16 to int32
static inline bst_vec bst_vec_load_16_to_32(const uint16_t* from) {
  return _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)(const void*)from));
}

/// floor(a / 2^n), uint32 lanes
static inline bst_vec bst_vec_down32(bst_vec a, int n) {
  return _mm256_srl_epi32(a, _mm_cvtsi32_si128(n));
}

/// uint8 lanes to int16 lanes, in order.
static inline void bst_vec_widen(bst_vec a, bst_vec* lanes) {
  lanes[0] = _mm256_cvtepu8_epi16(_mm256_castsi256_si128(a));
  lanes[1] = _mm256_cvtepu8_epi16(_mm256_extracti128_si256(a, 1));
}

/// Masks of four vectors of int32 to masks of bytes, in order. The packs work on each half: a b c d
/// a b c d, four bytes of each.
static inline bst_vec bst_vec_narrow_masks(const bst_vec* lanes) {
  const __m256i pieces = _mm256_packs_epi16(_mm256_packs_epi32(lanes[0], lanes[1]),
                                            _mm256_packs_epi32(lanes[2], lanes[3]));
  return _mm256_permutevar8x32_epi32(pieces, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

// a0 b0 a1 b1 .. in items of 1, 2 or 4 bytes, within each 16 bytes: `a` gets the first half of
// them, `b` the second.

static inline void bst_vec_zip8(bst_vec* a, bst_vec* b) {
  const __m256i low = _mm256_unpacklo_epi8(*a, *b);
  *b = _mm256_unpackhi_epi8(*a, *b);
  *a = low;
}

static inline void bst_vec_zip16(bst_vec* a, bst_vec* b) {
  const __m256i low = _mm256_unpacklo_epi16(*a, *b);
  *b = _mm256_unpackhi_epi16(*a, *b);
  *a = low;
}

static inline void bst_vec_zip32(bst_vec* a, bst_vec* b) {
  const __m256i low = _mm256_unpacklo_epi32(*a, *b);
  *b = _mm256_unpackhi_epi32(*a, *b);
  *a = low;
}

// Words and bits.

/// `a` in every 64-bit lane.
static inline bst_vec bst_vec_set64(uint64_t a) { return _mm256_set1_epi64x((long long)a); }

static const uint64_t bst_vec_spreads[16][4] = {
    {0, 0, 0, 0},
    {UINT64_MAX, 0, 0, 0},
    {0, UINT64_MAX, 0, 0},
    {UINT64_MAX, UINT64_MAX, 0, 0},
    {0, 0, UINT64_MAX, 0},
    {UINT64_MAX, 0, UINT64_MAX, 0},
    {0, UINT64_MAX, UINT64_MAX, 0},
    {UINT64_MAX, UINT64_MAX, UINT64_MAX, 0},
    {0, 0, 0, UINT64_MAX},
    {UINT64_MAX, 0, 0, UINT64_MAX},
    {0, UINT64_MAX, 0, UINT64_MAX},
    {UINT64_MAX, UINT64_MAX, 0, UINT64_MAX},
    {0, 0, UINT64_MAX, UINT64_MAX},
    {UINT64_MAX, 0, UINT64_MAX, UINT64_MAX},
    {0, UINT64_MAX, UINT64_MAX, UINT64_MAX},
    {UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX},
};

/// `word` in the 64-bit lanes whose bit of `lanes` (0..15) is set, 0 in the others.
static inline bst_vec bst_vec_spread(uint64_t word, unsigned lanes) {
  return _mm256_and_si256(bst_vec_set64(word), bst_vec_load(bst_vec_spreads[lanes]));
}

/// Bit by bit a + b + c without its carry.
static inline bst_vec bst_vec_xor3(bst_vec a, bst_vec b, bst_vec c) {
  return _mm256_xor_si256(_mm256_xor_si256(a, b), c);
}

/// Borrow of a - b - c, bit by bit; `half` is b ^ c.
static inline bst_vec bst_vec_borrow(bst_vec half, bst_vec a, bst_vec b, bst_vec c) {
  return _mm256_or_si256(_mm256_and_si256(b, c), _mm256_andnot_si256(a, half));
}

/// 64 x 64 bits in place: bit i of word j becomes bit j of word i.
static inline void bst_vec_transpose_square(uint64_t* m) { bst_transpose_square(m); }

// ---- Streams, the stem and the read-out ---------------------------------------------------------

/// -1 or 0 per int32 lane of a comparison.
typedef __m256i bst_mask;

/// Lanes with a < b, int32.
static inline bst_mask bst_vec_below32(bst_vec a, bst_vec b) { return _mm256_cmpgt_epi32(b, a); }

/// `yes` in the lanes of the mask, `no` in the others.
static inline bst_vec bst_vec_choose32(bst_mask mask, bst_vec yes, bst_vec no) {
  return _mm256_blendv_epi8(no, yes, mask);
}

/// The bits of n masks (1..4), those of lane 0 of masks[0] lowest.
static inline uint64_t bst_vec_bits32(const bst_mask* masks, int n) {
  if (n == 4) {
    const __m256i bytes = bst_vec_narrow_masks(masks);
    return (uint32_t)_mm256_movemask_epi8(bytes);
  }
  uint64_t bits = 0;
  for (int i = 0; i < n; ++i) {
    bits |= (uint64_t)(uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(masks[i])) << 8 * i;
  }
  return bits;
}

/// floor(a / 2), int32 lanes
static inline bst_vec bst_vec_half32(bst_vec a) { return _mm256_srai_epi32(a, 1); }

/// floor((a + b) / 2) without leaving 32 bits: bst_average32 of integers.h
static inline bst_vec bst_vec_average32(bst_vec a, bst_vec b) {
  const __m256i half = _mm256_srai_epi32(_mm256_xor_si256(a, b), 1);
  return _mm256_add_epi32(_mm256_and_si256(a, b), half);
}

/// The low 32 bits of floor(((a - b) r + 2^29) / 2^30), int32 lanes; |(a - b) r| < 2^62.
static inline bst_vec bst_vec_scale30(bst_vec a, bst_vec b, bst_vec r) {
  const __m256i half = _mm256_set1_epi64x(1 << 29);
  const __m256i a_odd = _mm256_srli_epi64(a, 32), b_odd = _mm256_srli_epi64(b, 32);
  const __m256i even = _mm256_sub_epi64(_mm256_mul_epi32(a, r), _mm256_mul_epi32(b, r));
  const __m256i odd = _mm256_sub_epi64(_mm256_mul_epi32(a_odd, r), _mm256_mul_epi32(b_odd, r));
  return _mm256_blend_epi32(_mm256_srli_epi64(_mm256_add_epi64(even, half), 30),
                            _mm256_slli_epi64(_mm256_add_epi64(odd, half), 2), 0xAA);
}

// The first n items, 0 <= n <= what a vector holds; nothing beyond is read or written, lanes beyond
// are 0.

/// -1 in the first n int32 lanes
static inline __m256i bst_vec_first32(size_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

/// -1 in the first n 64-bit lanes
static inline __m256i bst_vec_first64(size_t n) {
  return _mm256_cmpgt_epi64(_mm256_set1_epi64x((long long)n), _mm256_setr_epi64x(0, 1, 2, 3));
}

static inline bst_vec bst_vec_load_some32(const int32_t* from, size_t n) {
  return _mm256_maskload_epi32(from, bst_vec_first32(n));
}

static inline void bst_vec_store_some32(int32_t* to, bst_vec a, size_t n) {
  _mm256_maskstore_epi32(to, bst_vec_first32(n), a);
}

static inline bst_vec bst_vec_load_some64(const uint64_t* from, size_t n) {
  return _mm256_maskload_epi64((const long long*)from, bst_vec_first64(n));
}

static inline void bst_vec_store_some64(uint64_t* to, bst_vec a, size_t n) {
  _mm256_maskstore_epi64((long long*)to, bst_vec_first64(n), a);
}

static inline bst_vec bst_vec_load_some8(const uint8_t* from, size_t n) {
  uint8_t bytes[BST_VEC_BYTES] = {0};
  memcpy(bytes, from, n);
  return bst_vec_load(bytes);
}

// Products of pairs of int16, for the digits of numbers (stem_neuron/simd.h).

/// Place of item `parity` (0, 1) of the pair of an int32 lane, among the int16 of a vector.
static inline size_t bst_vec_pair_place(size_t lane, size_t parity) { return 2 * lane + parity; }

/// The pair from[0], from[1] for every lane.
static inline bst_vec bst_vec_set_pair(const int16_t* from) {
  int32_t pair;
  memcpy(&pair, from, sizeof pair);
  return _mm256_set1_epi32(pair);
}

/// sum + w[0] pair[0] + w[1] pair[1] in every int32 lane
static inline bst_vec bst_vec_add_pair(bst_vec sum, bst_vec w, bst_vec pair) {
  return _mm256_add_epi32(sum, _mm256_madd_epi16(w, pair));
}

/// The low 32 bits of floor((4096 high + low + bias) / 2^shift), int32 lanes; bias and shift one
/// int64 per lane, shift in 0..24. A logical shift leaves the same low bits as the floor shift.
static inline bst_vec bst_vec_join_digits(bst_vec high, bst_vec low, const int64_t* bias,
                                          const int64_t* shift) {
  __m256i part[2];
  for (int i = 0; i < 2; ++i) {
    const __m128i h = i == 0 ? _mm256_castsi256_si128(high) : _mm256_extracti128_si256(high, 1);
    const __m128i l = i == 0 ? _mm256_castsi256_si128(low) : _mm256_extracti128_si256(low, 1);
    const __m256i n =
        _mm256_add_epi64(_mm256_slli_epi64(_mm256_cvtepi32_epi64(h), 12), _mm256_cvtepi32_epi64(l));
    part[i] = _mm256_srlv_epi64(_mm256_add_epi64(n, bst_vec_load(bias + 4 * i)),
                                bst_vec_load(shift + 4 * i));
  }
  const __m256i low_halves = _mm256_castps_si256(
      _mm256_shuffle_ps(_mm256_castsi256_ps(part[0]), _mm256_castsi256_ps(part[1]), 0x88));
  return _mm256_permute4x64_epi64(low_halves, 0xD8);
}

// Sums of int32 lanes in 64 bits: `all` adds pairs of lanes as one 64-bit number, `odd` the upper
// one alone, both with 2^31 added to make them unsigned. Modulo 2^64 the lower sum is the rest.

typedef struct bst_vec_sum {
  bst_vec all, odd;
} bst_vec_sum;

static inline void bst_vec_sum_add(bst_vec_sum* sum, bst_vec a) {
  const __m256i raised = _mm256_xor_si256(a, _mm256_set1_epi32(INT32_MIN));
  sum->all = _mm256_add_epi64(sum->all, raised);
  sum->odd = _mm256_add_epi64(sum->odd, _mm256_srli_epi64(raised, 32));
}

/// The sums of the lanes, in order, once n vectors were added.
static inline void bst_vec_sum_store(const bst_vec_sum* sum, size_t n, int64_t* to) {
  const __m256i raised = _mm256_set1_epi64x((long long)((uint64_t)n << 31));
  const __m256i even = _mm256_sub_epi64(sum->all, _mm256_slli_epi64(sum->odd, 32));
  const __m256i a = _mm256_sub_epi64(even, raised), b = _mm256_sub_epi64(sum->odd, raised);
  const __m256i low = _mm256_unpacklo_epi64(a, b), high = _mm256_unpackhi_epi64(a, b);
  bst_vec_store(to, _mm256_permute2x128_si256(low, high, 0x20));
  bst_vec_store(to + 4, _mm256_permute2x128_si256(low, high, 0x31));
}

// 64-bit lanes.

static inline bst_vec bst_vec_add64(bst_vec a, bst_vec b) { return _mm256_add_epi64(a, b); }

/// a * 2^n
static inline bst_vec bst_vec_up64(bst_vec a, int n) {
  return _mm256_sll_epi64(a, _mm_cvtsi32_si128(n));
}

/// sum + products of the int32 lanes of a and b, two in every 64-bit lane
static inline bst_vec bst_vec_add_products(bst_vec sum, bst_vec a, bst_vec b) {
  const __m256i odd = _mm256_mul_epi32(_mm256_srli_epi64(a, 32), _mm256_srli_epi64(b, 32));
  return _mm256_add_epi64(_mm256_add_epi64(sum, _mm256_mul_epi32(a, b)), odd);
}

/// a + the number of set bits, byte by byte
static inline bst_vec bst_vec_add_popcount(bst_vec a, bst_vec bits) {
  const __m256i nibble = _mm256_set1_epi8(0x0F);
  const __m256i counts = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1,
                                          2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
  const __m256i low = _mm256_and_si256(bits, nibble);
  const __m256i high = _mm256_and_si256(_mm256_srli_epi16(bits, 4), nibble);
  return _mm256_add_epi8(_mm256_add_epi8(a, _mm256_shuffle_epi8(counts, low)),
                         _mm256_shuffle_epi8(counts, high));
}

/// Sums of the bytes of every 64-bit lane.
static inline bst_vec bst_vec_sum_bytes(bst_vec a) {
  return _mm256_sad_epu8(a, _mm256_setzero_si256());
}

BST_VECTOR_END

#endif  // BST_HAVE_AVX2
#endif  // BST_KERNELS_AVX2_H_
