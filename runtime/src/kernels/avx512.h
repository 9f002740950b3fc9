// SPDX-License-Identifier: MIT
// The vector vocabulary of x86-64 with AVX-512: 512 lanes of one bit, 64 of a byte, 32 of int16, 16
// of int32.
//
// AVX-512 here means the set that came with Ice Lake and Zen 4: F, BW, DQ, VL, VBMI, VBMI2, BITALG,
// VPOPCNTDQ, GFNI. Everything between BST_VECTOR_BEGIN and BST_VECTOR_END is compiled for it
// whatever the flags of the file; cpu.c decides at run time whether it may run.

#ifndef BST_KERNELS_AVX512_H_
#define BST_KERNELS_AVX512_H_

#include "have.h"

#ifdef BST_HAVE_AVX512

#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define BST_AVX512_FEATURES                                                               \
  "avx2,bmi,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vbmi2," \
  "avx512bitalg,avx512vpopcntdq,gfni"

#define BST_PRAGMA(text) _Pragma(#text)
#ifdef __clang__
#define BST_VECTOR_BEGIN_FOR(features) \
  BST_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define BST_VECTOR_BEGIN BST_VECTOR_BEGIN_FOR(BST_AVX512_FEATURES)
#define BST_VECTOR_END _Pragma("clang attribute pop")
#else
#define BST_VECTOR_BEGIN_FOR(features) _Pragma("GCC push_options") BST_PRAGMA(GCC target(features))
#define BST_VECTOR_BEGIN BST_VECTOR_BEGIN_FOR(BST_AVX512_FEATURES)
#define BST_VECTOR_END _Pragma("GCC pop_options")
#endif

BST_VECTOR_BEGIN

typedef __m512i bst_vec;

enum { BST_VEC_BYTES = 64, BST_VEC_REGISTERS = 32 };

static inline bst_vec bst_vec_load(const void* from) { return _mm512_loadu_si512(from); }

static inline void bst_vec_store(void* to, bst_vec a) { _mm512_storeu_si512(to, a); }

static inline bst_vec bst_vec_zero(void) { return _mm512_setzero_si512(); }

static inline bst_vec bst_vec_set8(unsigned a) { return _mm512_set1_epi8((char)a); }

/// `a` in every int32 lane.
static inline bst_vec bst_vec_set32(int32_t a) { return _mm512_set1_epi32(a); }

static inline bst_vec bst_vec_and(bst_vec a, bst_vec b) { return _mm512_and_si512(a, b); }

/// a & ~b
static inline bst_vec bst_vec_clear(bst_vec a, bst_vec b) { return _mm512_andnot_si512(b, a); }

static inline bst_vec bst_vec_or(bst_vec a, bst_vec b) { return _mm512_or_si512(a, b); }

static inline bst_vec bst_vec_xor(bst_vec a, bst_vec b) { return _mm512_xor_si512(a, b); }

/// Carry of a full adder: two of a, b, c; `half` is a ^ b.
static inline bst_vec bst_vec_carry(bst_vec half, bst_vec a, bst_vec b, bst_vec c) {
  (void)half;
  return _mm512_ternarylogic_epi64(a, b, c, 0xE8);
}

/// 64-bit lanes shifted by a constant.
#define BST_VEC_UP64(a, n) _mm512_slli_epi64((a), (n))
#define BST_VEC_DOWN64(a, n) _mm512_srli_epi64((a), (n))

// int32 lanes; they wrap.

static inline bst_vec bst_vec_add32(bst_vec a, bst_vec b) { return _mm512_add_epi32(a, b); }

static inline bst_vec bst_vec_sub32(bst_vec a, bst_vec b) { return _mm512_sub_epi32(a, b); }

/// int32 lanes, the low half of the product
static inline bst_vec bst_vec_mul32(bst_vec a, bst_vec b) { return _mm512_mullo_epi32(a, b); }

/// 16 times uint16 to int32
static inline bst_vec bst_vec_load_16_to_32(const uint16_t* from) {
  return _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(const void*)from));
}

/// floor(a / 2^n), uint32 lanes
static inline bst_vec bst_vec_down32(bst_vec a, int n) {
  return _mm512_srl_epi32(a, _mm_cvtsi32_si128(n));
}

// a0 b0 a1 b1 .. in items of 1, 2 or 4 bytes, within each 16 bytes: `a` gets the first half of
// them, `b` the second.

static inline void bst_vec_zip8(bst_vec* a, bst_vec* b) {
  const __m512i low = _mm512_unpacklo_epi8(*a, *b);
  *b = _mm512_unpackhi_epi8(*a, *b);
  *a = low;
}

static inline void bst_vec_zip16(bst_vec* a, bst_vec* b) {
  const __m512i low = _mm512_unpacklo_epi16(*a, *b);
  *b = _mm512_unpackhi_epi16(*a, *b);
  *a = low;
}

static inline void bst_vec_zip32(bst_vec* a, bst_vec* b) {
  const __m512i low = _mm512_unpacklo_epi32(*a, *b);
  *b = _mm512_unpackhi_epi32(*a, *b);
  *a = low;
}

// Words and bits.

/// `a` in every 64-bit lane.
static inline bst_vec bst_vec_set64(uint64_t a) { return _mm512_set1_epi64((long long)a); }

/// `word` in the 64-bit lanes whose bit of `lanes` (0..255) is set, 0 in the others.
static inline bst_vec bst_vec_spread(uint64_t word, unsigned lanes) {
  return _mm512_maskz_set1_epi64((__mmask8)lanes, (long long)word);
}

/// Bit by bit a + b + c without its carry.
static inline bst_vec bst_vec_xor3(bst_vec a, bst_vec b, bst_vec c) {
  return _mm512_ternarylogic_epi64(a, b, c, 0x96);
}

/// Borrow of a - b - c, bit by bit; `half` is b ^ c.
static inline bst_vec bst_vec_borrow(bst_vec half, bst_vec a, bst_vec b, bst_vec c) {
  (void)half;
  return _mm512_ternarylogic_epi64(a, b, c, 0x8E);
}

/// 64 x 64 bits in place: bit i of word j becomes bit j of word i. Eight words at a time, their
/// bytes become 8 x 8 matrices, which the Galois field unit transposes (a product with the unit
/// matrix, rows counted from the other end); that leaves byte i of m[k] = bit i of words 8k .. 8k +
/// 7, and three rounds of zips bring the bytes of each i together, after a permutation that makes
/// up for zips that stay within 16 bytes.
static inline void bst_vec_transpose_square(uint64_t* m) {
  static const uint8_t matrices[64] = {
      56, 48, 40, 32, 24, 16, 8,  0,  57, 49, 41, 33, 25, 17, 9,  1,  58, 50, 42, 34, 26, 18,
      10, 2,  59, 51, 43, 35, 27, 19, 11, 3,  60, 52, 44, 36, 28, 20, 12, 4,  61, 53, 45, 37,
      29, 21, 13, 5,  62, 54, 46, 38, 30, 22, 14, 6,  63, 55, 47, 39, 31, 23, 15, 7};
  static const uint8_t before_zips[64] = {
      0,  1,  8,  9,  16, 17, 24, 25, 32, 33, 40, 41, 48, 49, 56, 57, 2,  3,  10, 11, 18, 19,
      26, 27, 34, 35, 42, 43, 50, 51, 58, 59, 4,  5,  12, 13, 20, 21, 28, 29, 36, 37, 44, 45,
      52, 53, 60, 61, 6,  7,  14, 15, 22, 23, 30, 31, 38, 39, 46, 47, 54, 55, 62, 63};
  const __m512i unit = _mm512_set1_epi64((long long)UINT64_C(0x8040201008040201));
  const __m512i to_matrices = bst_vec_load(matrices), order = bst_vec_load(before_zips);
  bst_vec v[8];
  for (int k = 0; k < 8; ++k) {
    const __m512i rows = _mm512_permutexvar_epi8(to_matrices, bst_vec_load(m + 8 * k));
    v[k] = _mm512_permutexvar_epi8(order, _mm512_gf2p8affine_epi64_epi8(unit, rows, 0));
  }
  for (int i = 0; i < 8; i += 2) bst_vec_zip8(&v[i], &v[i + 1]);
  for (int i = 0; i < 8; i += 4) {
    bst_vec_zip16(&v[i], &v[i + 2]);
    bst_vec_zip16(&v[i + 1], &v[i + 3]);
  }
  for (int i = 0; i < 4; ++i) bst_vec_zip32(&v[i], &v[i + 4]);
  for (int i = 0; i < 8; ++i) {  // the zips leave the pieces in bit-reversed order of i
    bst_vec_store(m + 8 * ((i & 1) << 2 | (i & 2) | i >> 2), v[i]);
  }
}

/// Eight planes to bytes: byte b of 16-byte piece L of o[j] is the number of lane 128L + 16j + b.
/// Interleaving puts the eight bytes of eight lanes side by side, the highest plane first as the
/// matrix product wants it, which then transposes 8x8 bits.
static inline void bst_vec_to_bytes(const __m512i* p, __m512i* o) {
  __m512i a[8], b[8];
  for (int i = 0; i < 4; ++i) {
    a[2 * i] = _mm512_unpacklo_epi8(p[7 - 2 * i], p[6 - 2 * i]);
    a[2 * i + 1] = _mm512_unpackhi_epi8(p[7 - 2 * i], p[6 - 2 * i]);
  }
  for (int i = 0; i < 8; i += 4) {
    for (int k = 0; k < 2; ++k) {
      b[i + 2 * k] = _mm512_unpacklo_epi16(a[i + k], a[i + 2 + k]);
      b[i + 2 * k + 1] = _mm512_unpackhi_epi16(a[i + k], a[i + 2 + k]);
    }
  }
  const __m512i ones = _mm512_set1_epi64((long long)0x8040201008040201);
  for (int i = 0; i < 4; ++i) {
    o[2 * i] = _mm512_gf2p8affine_epi64_epi8(ones, _mm512_unpacklo_epi32(b[i], b[i + 4]), 0);
    o[2 * i + 1] = _mm512_gf2p8affine_epi64_epi8(ones, _mm512_unpackhi_epi32(b[i], b[i + 4]), 0);
  }
}

/// Counts of 512 lanes in natural order; `planes` holds whole groups of eight.
static inline void bst_vec_unpack(const bst_vec* planes, int n_planes, uint16_t* counts) {
  __m512i o[8];
  bst_vec_to_bytes(planes, o);
  for (int j = 0; j < 8; ++j) {
    __m256i* const to = (__m256i*)(void*)(counts + 16 * j);
    _mm256_storeu_si256(to, _mm256_cvtepu8_epi16(_mm512_castsi512_si128(o[j])));
    _mm256_storeu_si256(to + 8, _mm256_cvtepu8_epi16(_mm512_extracti32x4_epi32(o[j], 1)));
    _mm256_storeu_si256(to + 16, _mm256_cvtepu8_epi16(_mm512_extracti32x4_epi32(o[j], 2)));
    _mm256_storeu_si256(to + 24, _mm256_cvtepu8_epi16(_mm512_extracti32x4_epi32(o[j], 3)));
  }
  if (n_planes <= 8) return;
  uint16_t high[512];  // counts stay below 2^16: no third group
  bst_vec_unpack(planes + 8, 8, high);
  for (int i = 0; i < 512; i += 32) {
    const __m512i up = _mm512_slli_epi16(_mm512_loadu_si512(high + i), 8);
    _mm512_storeu_si512(counts + i, _mm512_or_si512(_mm512_loadu_si512(counts + i), up));
  }
}

// ---- Streams, the stem and the read-out ---------------------------------------------------------

/// One bit per int32 lane of a comparison.
typedef __mmask16 bst_mask;

/// Lanes with a < b, int32.
static inline bst_mask bst_vec_below32(bst_vec a, bst_vec b) {
  return _mm512_cmplt_epi32_mask(a, b);
}

/// `yes` in the lanes of the mask, `no` in the others.
static inline bst_vec bst_vec_choose32(bst_mask mask, bst_vec yes, bst_vec no) {
  return _mm512_mask_mov_epi32(no, mask, yes);
}

/// The bits of n masks (1..4), those of lane 0 of masks[0] lowest.
static inline uint64_t bst_vec_bits32(const bst_mask* masks, int n) {
  uint64_t bits = 0;
  for (int i = 0; i < n; ++i) bits |= (uint64_t)masks[i] << 16 * i;
  return bits;
}

/// floor(a / 2), int32 lanes
static inline bst_vec bst_vec_half32(bst_vec a) { return _mm512_srai_epi32(a, 1); }

/// floor((a + b) / 2) without leaving 32 bits: bst_average32 of integers.h
static inline bst_vec bst_vec_average32(bst_vec a, bst_vec b) {
  const __m512i half = _mm512_srai_epi32(_mm512_xor_si512(a, b), 1);
  return _mm512_add_epi32(_mm512_and_si512(a, b), half);
}

/// The low 32 bits of floor(((a - b) r + 2^29) / 2^30), int32 lanes; |(a - b) r| < 2^62.
static inline bst_vec bst_vec_scale30(bst_vec a, bst_vec b, bst_vec r) {
  const __m512i half = _mm512_set1_epi64(1 << 29);
  const __m512i a_odd = _mm512_srli_epi64(a, 32), b_odd = _mm512_srli_epi64(b, 32);
  const __m512i even = _mm512_sub_epi64(_mm512_mul_epi32(a, r), _mm512_mul_epi32(b, r));
  const __m512i odd = _mm512_sub_epi64(_mm512_mul_epi32(a_odd, r), _mm512_mul_epi32(b_odd, r));
  return _mm512_mask_mov_epi32(_mm512_srli_epi64(_mm512_add_epi64(even, half), 30), 0xAAAA,
                               _mm512_slli_epi64(_mm512_add_epi64(odd, half), 2));
}

// The first n items, 0 <= n <= what a vector holds; nothing beyond is read or written, lanes beyond
// are 0.

static inline bst_vec bst_vec_load_some32(const int32_t* from, size_t n) {
  return _mm512_maskz_loadu_epi32((__mmask16)((1U << n) - 1), from);
}

static inline void bst_vec_store_some32(int32_t* to, bst_vec a, size_t n) {
  _mm512_mask_storeu_epi32(to, (__mmask16)((1U << n) - 1), a);
}

static inline bst_vec bst_vec_load_some64(const uint64_t* from, size_t n) {
  return _mm512_maskz_loadu_epi64((__mmask8)((1U << n) - 1), from);
}

static inline void bst_vec_store_some64(uint64_t* to, bst_vec a, size_t n) {
  _mm512_mask_storeu_epi64(to, (__mmask8)((1U << n) - 1), a);
}

static inline bst_vec bst_vec_load_some8(const uint8_t* from, size_t n) {
  const __mmask64 mask = n < 64 ? (UINT64_C(1) << n) - 1 : UINT64_MAX;
  return _mm512_maskz_loadu_epi8(mask, from);
}

// Products of pairs of int16, for the digits of numbers (stem_neuron/simd.h).

/// Place of item `parity` (0, 1) of the pair of an int32 lane, among the int16 of a vector.
static inline size_t bst_vec_pair_place(size_t lane, size_t parity) { return 2 * lane + parity; }

/// The pair from[0], from[1] for every lane.
static inline bst_vec bst_vec_set_pair(const int16_t* from) {
  int32_t pair;
  memcpy(&pair, from, sizeof pair);
  return _mm512_set1_epi32(pair);
}

/// sum + w[0] pair[0] + w[1] pair[1] in every int32 lane
static inline bst_vec bst_vec_add_pair(bst_vec sum, bst_vec w, bst_vec pair) {
  return _mm512_add_epi32(sum, _mm512_madd_epi16(w, pair));
}

/// The low 32 bits of floor((4096 high + low + bias) / 2^shift), int32 lanes; bias and shift one
/// int64 per lane, shift in 0..24. A logical shift leaves the same low bits as the floor shift.
static inline bst_vec bst_vec_join_digits(bst_vec high, bst_vec low, const int64_t* bias,
                                          const int64_t* shift) {
  __m512i part[2];
  for (int i = 0; i < 2; ++i) {
    const __m256i h = i == 0 ? _mm512_castsi512_si256(high) : _mm512_extracti64x4_epi64(high, 1);
    const __m256i l = i == 0 ? _mm512_castsi512_si256(low) : _mm512_extracti64x4_epi64(low, 1);
    const __m512i n =
        _mm512_add_epi64(_mm512_slli_epi64(_mm512_cvtepi32_epi64(h), 12), _mm512_cvtepi32_epi64(l));
    const __m512i sum = _mm512_add_epi64(n, _mm512_loadu_si512(bias + 8 * i));
    part[i] = _mm512_srlv_epi64(sum, _mm512_loadu_si512(shift + 8 * i));
  }
  const __m512i low_halves =
      _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  return _mm512_permutex2var_epi32(part[0], low_halves, part[1]);
}

// Sums of int32 lanes in 64 bits: `all` adds pairs of lanes as one 64-bit number, `odd` the upper
// one alone, both with 2^31 added to make them unsigned. Modulo 2^64 the lower sum is the rest.

typedef struct bst_vec_sum {
  bst_vec all, odd;
} bst_vec_sum;

static inline void bst_vec_sum_add(bst_vec_sum* sum, bst_vec a) {
  const __m512i raised = _mm512_xor_si512(a, _mm512_set1_epi32(INT32_MIN));
  sum->all = _mm512_add_epi64(sum->all, raised);
  sum->odd = _mm512_add_epi64(sum->odd, _mm512_srli_epi64(raised, 32));
}

/// The sums of the lanes, in order, once n vectors were added.
static inline void bst_vec_sum_store(const bst_vec_sum* sum, size_t n, int64_t* to) {
  const __m512i raised = _mm512_set1_epi64((int64_t)((uint64_t)n << 31));
  const __m512i even = _mm512_sub_epi64(sum->all, _mm512_slli_epi64(sum->odd, 32));
  const __m512i a = _mm512_sub_epi64(even, raised), b = _mm512_sub_epi64(sum->odd, raised);
  const __m512i first = _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11);
  const __m512i second = _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15);
  _mm512_storeu_si512(to, _mm512_permutex2var_epi64(a, first, b));
  _mm512_storeu_si512(to + 8, _mm512_permutex2var_epi64(a, second, b));
}

// 64-bit lanes.

static inline bst_vec bst_vec_add64(bst_vec a, bst_vec b) { return _mm512_add_epi64(a, b); }

/// a * 2^n
static inline bst_vec bst_vec_up64(bst_vec a, int n) {
  return _mm512_sll_epi64(a, _mm_cvtsi32_si128(n));
}

/// sum + products of the int32 lanes of a and b, two in every 64-bit lane
static inline bst_vec bst_vec_add_products(bst_vec sum, bst_vec a, bst_vec b) {
  const __m512i odd = _mm512_mul_epi32(_mm512_srli_epi64(a, 32), _mm512_srli_epi64(b, 32));
  return _mm512_add_epi64(_mm512_add_epi64(sum, _mm512_mul_epi32(a, b)), odd);
}

/// a + the number of set bits, byte by byte
static inline bst_vec bst_vec_add_popcount(bst_vec a, bst_vec bits) {
  return _mm512_add_epi8(a, _mm512_popcnt_epi8(bits));
}

/// Sums of the bytes of every 64-bit lane.
static inline bst_vec bst_vec_sum_bytes(bst_vec a) {
  return _mm512_sad_epu8(a, _mm512_setzero_si512());
}

BST_VECTOR_END

#endif  // BST_HAVE_AVX512
#endif  // BST_KERNELS_AVX512_H_
