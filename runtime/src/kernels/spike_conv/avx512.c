// SPDX-License-Identifier: MIT
// spike_conv with AVX-512: sliced.h on vectors of 512 lanes, narrow blocks on 256 and 128. Functions
// of three bits are one instruction each (vpternlog); its constant is the truth table, bit
// 4a + 2b + c of it the result for a, b, c.

#include "../avx512.h"

#include "spike_conv.h"

#ifdef BST_HAVE_AVX512

BST_VECTOR_BEGIN

#include "../vector.h"

enum {
  BST_TABLE_PARITY = 0x96,
  BST_TABLE_MAJORITY = 0xE8,
  BST_TABLE_SELECT = 0xCA,
  BST_TABLE_LESS = 0x8E,  // borrow of a - b - c: majority of ~a, b, c
};

typedef __m512i bst_bits;
enum { BST_BITS_WORDS = 8, BST_NARROWEST_WORDS = 2 };

BST_INLINE bst_bits bst_bits_parity(bst_bits a, bst_bits b, bst_bits c) {
  return _mm512_ternarylogic_epi64(a, b, c, BST_TABLE_PARITY);
}

BST_INLINE bst_bits bst_bits_majority(bst_bits a, bst_bits b, bst_bits c) {
  return _mm512_ternarylogic_epi64(a, b, c, BST_TABLE_MAJORITY);
}

BST_INLINE bst_bits bst_bits_select(bst_bits mask, bst_bits yes, bst_bits no) {
  return _mm512_ternarylogic_epi64(mask, yes, no, BST_TABLE_SELECT);
}

BST_INLINE bst_bits bst_bits_less(bst_bits a, bst_bits b, bst_bits borrow) {
  return _mm512_ternarylogic_epi64(a, b, borrow, BST_TABLE_LESS);
}

#include "sum_common.h"

#define BST_SUM(name) bst_sum2_##name
#define BST_SUM_VEC __m128i
#define BST_SUM_WORDS_OF 2
BST_INLINE __m128i bst_sum2_splat(uint64_t a) { return _mm_set1_epi64x((long long)a); }
BST_INLINE __m128i bst_sum2_parity(__m128i a, __m128i b, __m128i c) {
  return _mm_ternarylogic_epi64(a, b, c, BST_TABLE_PARITY);
}
BST_INLINE __m128i bst_sum2_majority(__m128i a, __m128i b, __m128i c) {
  return _mm_ternarylogic_epi64(a, b, c, BST_TABLE_MAJORITY);
}
#include "sum.h"

#define BST_SUM(name) bst_sum4_##name
#define BST_SUM_VEC __m256i
#define BST_SUM_WORDS_OF 4
BST_INLINE __m256i bst_sum4_splat(uint64_t a) { return _mm256_set1_epi64x((long long)a); }
BST_INLINE __m256i bst_sum4_parity(__m256i a, __m256i b, __m256i c) {
  return _mm256_ternarylogic_epi64(a, b, c, BST_TABLE_PARITY);
}
BST_INLINE __m256i bst_sum4_majority(__m256i a, __m256i b, __m256i c) {
  return _mm256_ternarylogic_epi64(a, b, c, BST_TABLE_MAJORITY);
}
#include "sum.h"

#define BST_SUM(name) bst_sum8_##name
#define BST_SUM_VEC __m512i
#define BST_SUM_WORDS_OF 8
BST_INLINE __m512i bst_sum8_splat(uint64_t a) { return _mm512_set1_epi64((long long)a); }
BST_INLINE __m512i bst_sum8_parity(__m512i a, __m512i b, __m512i c) {
  return bst_bits_parity(a, b, c);
}
BST_INLINE __m512i bst_sum8_majority(__m512i a, __m512i b, __m512i c) {
  return bst_bits_majority(a, b, c);
}
#include "sum.h"

typedef bst_sum_function* bst_sum_piece(int n_planes);
static bst_sum_piece* const bst_sum_pieces[] = {bst_sum2_function, bst_sum4_function,
                                                bst_sum8_function};

/// Append the positions of the set bits of `n_words` words, times 8, to `first`.
static inline size_t bst_bits_list(const uint64_t* words, size_t n_words, uint32_t first,
                                   uint32_t* list, size_t n) {
  const __m512i places = _mm512_set_epi64(0x3F3E3D3C3B3A3938, 0x3736353433323130,
                                          0x2F2E2D2C2B2A2928, 0x2726252423222120,
                                          0x1F1E1D1C1B1A1918, 0x1716151413121110,
                                          0x0F0E0D0C0B0A0908, 0x0706050403020100);
  for (size_t w = 0; w < n_words; ++w, first += 64 * 8) {
    const uint64_t bits = words[w];
    if (bits == 0) continue;
    __m512i packed = _mm512_maskz_compress_epi8(bits, places);
    const __m512i base = _mm512_set1_epi32((int32_t)first);
    const int count = (int)_mm_popcnt_u64(bits);
    uint32_t* to = list + n;
    for (int left = count; left > 0; left -= 16, to += 16) {
      const __m512i entries = _mm512_cvtepu8_epi32(_mm512_castsi512_si128(packed));
      _mm512_storeu_si512(to, _mm512_add_epi32(base, _mm512_slli_epi32(entries, 3)));
      packed = _mm512_alignr_epi64(packed, packed, 2);
    }
    n += (size_t)count;
  }
  return n;
}

/// list[n + i] = from[i] + add for i < count.
static inline size_t bst_bits_copy(const uint32_t* from, size_t count, uint32_t add, uint32_t* list,
                                   size_t n) {
  const __m512i offset = _mm512_set1_epi32((int32_t)add);
  for (size_t i = 0; i < count; i += 16) {
    _mm512_storeu_si512(list + n + i, _mm512_add_epi32(_mm512_loadu_si512(from + i), offset));
  }
  return n + count;
}

static inline void bst_bits_unpack(const bst_bits* planes, int n_planes, int32_t* counts) {
  bst_vec_unpack(true, true, planes, n_planes, counts);
}

#include "scale.h"
#include "sliced.h"

const bst_spike_conv bst_spike_conv__avx512 = {
    .rows_bytes = bst_sliced_rows_bytes,
    .prepare_rows = bst_sliced_prepare_rows,
    .theta_bytes = bst_sliced_theta_bytes,
    .prepare_theta = bst_sliced_prepare_theta,
    .scratch_bytes = bst_sliced_scratch_bytes,
    .neuron = bst_sliced_neuron,
    .affine = bst_sliced_affine,
};

BST_VECTOR_END

#endif  // BST_HAVE_AVX512
