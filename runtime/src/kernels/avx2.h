// SPDX-License-Identifier: MIT
// The vector vocabulary of x86-64 with AVX2: 256 lanes of one bit, 32 of a byte, 16 of int16, 8 of
// int32. Functions that take `wide` work on int32 lanes where it is true, else on int16; it is a
// constant at every call.
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

enum { BST_VEC_BYTES = 32 };

static inline bst_vec bst_vec_load(const void* from) {
  return _mm256_loadu_si256((const __m256i*)from);
}

static inline void bst_vec_store(void* to, bst_vec a) { _mm256_storeu_si256((__m256i*)to, a); }

static inline bst_vec bst_vec_zero(void) { return _mm256_setzero_si256(); }

static inline bst_vec bst_vec_set8(unsigned a) { return _mm256_set1_epi8((char)a); }

/// The low bits of `a` in every lane.
static inline bst_vec bst_vec_set(bool wide, int32_t a) {
  return wide ? _mm256_set1_epi32(a) : _mm256_set1_epi16((short)(uint32_t)a);
}

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

// Lanes wrap.

static inline bst_vec bst_vec_add(bool wide, bst_vec a, bst_vec b) {
  return wide ? _mm256_add_epi32(a, b) : _mm256_add_epi16(a, b);
}

static inline bst_vec bst_vec_sub(bool wide, bst_vec a, bst_vec b) {
  return wide ? _mm256_sub_epi32(a, b) : _mm256_sub_epi16(a, b);
}

/// a * 2^n
static inline bst_vec bst_vec_up(bool wide, bst_vec a, int n) {
  const __m128i count = _mm_cvtsi32_si128(n);
  return wide ? _mm256_sll_epi32(a, count) : _mm256_sll_epi16(a, count);
}

/// -1 where a > b, else 0
static inline bst_vec bst_vec_greater(bool wide, bst_vec a, bst_vec b) {
  return wide ? _mm256_cmpgt_epi32(a, b) : _mm256_cmpgt_epi16(a, b);
}

/// `yes` where a lane of the mask is -1, `no` where it is 0
static inline bst_vec bst_vec_select(bst_vec mask, bst_vec yes, bst_vec no) {
  return _mm256_blendv_epi8(no, yes, mask);
}

static inline bst_vec bst_vec_mul32(bst_vec a, bst_vec b) { return _mm256_mullo_epi32(a, b); }

/// floor(a / 2^15), int32 lanes
static inline bst_vec bst_vec_floor15(bst_vec a) { return _mm256_srai_epi32(a, 15); }

/// 8 times int16 to int32
static inline bst_vec bst_vec_load_16_to_32(const int16_t* from) {
  return _mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i*)(const void*)from));
}

/// uint8 lanes to `wide` lanes, in order: four vectors of int32 or two of int16.
static inline void bst_vec_widen(bool wide, bst_vec a, bst_vec* lanes) {
  const __m128i low = _mm256_castsi256_si128(a), high = _mm256_extracti128_si256(a, 1);
  if (wide) {
    lanes[0] = _mm256_cvtepu8_epi32(low);
    lanes[1] = _mm256_cvtepu8_epi32(_mm_unpackhi_epi64(low, low));
    lanes[2] = _mm256_cvtepu8_epi32(high);
    lanes[3] = _mm256_cvtepu8_epi32(_mm_unpackhi_epi64(high, high));
  } else {
    lanes[0] = _mm256_cvtepu8_epi16(low);
    lanes[1] = _mm256_cvtepu8_epi16(high);
  }
}

/// Masks of `wide` lanes to masks of bytes, in order: from four vectors of int32 or two of int16.
static inline bst_vec bst_vec_narrow_masks(bool wide, const bst_vec* lanes) {
  if (wide) {  // the packs work on each half: a b c d a b c d, four bytes of each
    const __m256i pieces = _mm256_packs_epi16(_mm256_packs_epi32(lanes[0], lanes[1]),
                                              _mm256_packs_epi32(lanes[2], lanes[3]));
    return _mm256_permutevar8x32_epi32(pieces, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  }
  return _mm256_permute4x64_epi64(_mm256_packs_epi16(lanes[0], lanes[1]), 0xD8);
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

/// Eight bytes, lowest first, added to eight int32 each at `first`; stored to `list`.
static inline void bst_vec_store_entries(uint32_t* list, uint64_t bytes, bst_vec first) {
  const __m256i wide = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)bytes));
  bst_vec_store(list, _mm256_add_epi32(wide, first));
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

BST_VECTOR_END

#endif  // BST_HAVE_AVX2
#endif  // BST_KERNELS_AVX2_H_
