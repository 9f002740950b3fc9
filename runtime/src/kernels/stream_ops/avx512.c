// SPDX-License-Identifier: MIT
// stream_ops with AVX-512: pairs of int16 by one multiply-add, 16 outputs of 4 tokens at a time.

#include "../avx512.h"

#include "loops.h"

#ifdef BST_HAVE_AVX512

BST_VECTOR_BEGIN

static uint64_t bst_at_least__avx512(const int32_t* x, const int32_t* least) {
  uint64_t mask = 0;
  for (int i = 0; i < BST_DOT_LANES; i += 16) {
    mask |= (uint64_t)_mm512_cmpge_epi32_mask(bst_vec_load(x + i), bst_vec_load(least + i)) << i;
  }
  return mask;
}

static void bst_multiply_add__avx512(size_t n_rows, const int32_t* const* a,
                                     const int32_t* const* b, int b_is_scalar, size_t at, size_t n,
                                     int32_t* out) {
  bst_multiply_add_run(n_rows, a, b, b_is_scalar, at, n, out);
}

static void bst_stream_dot__avx512(size_t n_pairs, size_t lanes, const int8_t* rows,
                                   const uint32_t* x,
                                   int32_t out[2 * BST_DOT_TOKENS][BST_DOT_LANES]) {
  for (size_t at = 0; at < BST_DOT_LANES; at += 16) {
    const int8_t* row = rows + at;
    const uint32_t* from = x;
    __m512i sum[2 * BST_DOT_TOKENS];
    for (int k = 0; k < 2 * BST_DOT_TOKENS; ++k) sum[k] = _mm512_setzero_si512();
    for (size_t p = 0; p < n_pairs; ++p, row += 2 * lanes, from += 2 * BST_DOT_TOKENS) {
      const __m128i one = _mm_loadu_si128((const __m128i*)row);
      const __m128i two = _mm_loadu_si128((const __m128i*)(row + lanes));
      const __m256i bytes = _mm256_inserti128_si256(
          _mm256_castsi128_si256(_mm_unpacklo_epi8(one, two)), _mm_unpackhi_epi8(one, two), 1);
      const __m512i w = _mm512_cvtepi8_epi16(bytes);
#pragma GCC unroll 8
      for (int k = 0; k < 2 * BST_DOT_TOKENS; ++k) {
        const __m512i both = _mm512_set1_epi32((int32_t)from[k]);
        sum[k] = _mm512_add_epi32(sum[k], _mm512_madd_epi16(w, both));
      }
    }
    for (int k = 0; k < 2 * BST_DOT_TOKENS; ++k) bst_vec_store(out[k] + at, sum[k]);
  }
}

BST_VECTOR_END

const bst_stream_inner bst_stream_inner__avx512 = {bst_at_least__avx512, bst_multiply_add__avx512,
                                                   bst_stream_dot__avx512};

#endif  // BST_HAVE_AVX512
