// SPDX-License-Identifier: MIT
// stream_ops with AVX2: pairs of int16 by one multiply-add, 8 outputs of 4 tokens at a time.

#include "../avx2.h"

#include "loops.h"

#ifdef BST_HAVE_AVX2

BST_VECTOR_BEGIN

static uint64_t bst_at_least__avx2(const int32_t* x, const int32_t* least) {
  uint64_t below = 0;
  for (int i = 0; i < BST_DOT_LANES; i += 8) {
    const __m256i less = _mm256_cmpgt_epi32(bst_vec_load(least + i), bst_vec_load(x + i));
    below |= (uint64_t)(uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(less)) << i;
  }
  return ~below;
}

static void bst_multiply_add__avx2(size_t n_rows, const int32_t* const* a, const int32_t* const* b,
                                   int b_is_scalar, size_t at, size_t n, int32_t* out) {
  bst_multiply_add_run(n_rows, a, b, b_is_scalar, at, n, out);
}

static void bst_stream_dot__avx2(size_t n_pairs, size_t lanes, const int8_t* rows,
                                 const uint32_t* x,
                                 int32_t out[2 * BST_DOT_TOKENS][BST_DOT_LANES]) {
  for (size_t at = 0; at < BST_DOT_LANES; at += 8) {
    const int8_t* row = rows + at;
    const uint32_t* from = x;
    __m256i sum[2 * BST_DOT_TOKENS];
    for (int k = 0; k < 2 * BST_DOT_TOKENS; ++k) sum[k] = _mm256_setzero_si256();
    for (size_t p = 0; p < n_pairs; ++p, row += 2 * lanes, from += 2 * BST_DOT_TOKENS) {
      const __m128i one = _mm_loadl_epi64((const __m128i*)row);
      const __m128i two = _mm_loadl_epi64((const __m128i*)(row + lanes));
      const __m256i w = _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(one, two));
#pragma GCC unroll 8
      for (int k = 0; k < 2 * BST_DOT_TOKENS; ++k) {
        const __m256i both = _mm256_set1_epi32((int32_t)from[k]);
        sum[k] = _mm256_add_epi32(sum[k], _mm256_madd_epi16(w, both));
      }
    }
    for (int k = 0; k < 2 * BST_DOT_TOKENS; ++k) bst_vec_store(out[k] + at, sum[k]);
  }
}

BST_VECTOR_END

const bst_stream_inner bst_stream_inner__avx2 = {bst_at_least__avx2, bst_multiply_add__avx2,
                                                 bst_stream_dot__avx2};

#endif  // BST_HAVE_AVX2
