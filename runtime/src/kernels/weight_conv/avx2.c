// SPDX-License-Identifier: MIT
// weight_conv with AVX2: the loops on the sums of simd.h.

#include "../avx2.h"

#include "weight_conv.h"

#ifdef BST_HAVE_AVX2

#include "../spike_conv/geometry.h"

BST_VECTOR_BEGIN

enum { BST_WC_WORDS = 2, BST_WC_LANES = 16 };

BST_INLINE bst_vec bst_wc_add8(bst_vec sum, const int8_t* row) {
  return _mm256_add_epi16(sum,
                          _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)(const void*)row)));
}

BST_INLINE bst_vec bst_wc_add16(bst_vec sum, const int16_t* row) {
  return _mm256_add_epi32(sum,
                          _mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i*)(const void*)row)));
}

BST_INLINE void bst_wc_empty(bst_vec sum, int32_t* total) {
  const bst_vec low = _mm256_cvtepi16_epi32(_mm256_castsi256_si128(sum));
  const bst_vec high = _mm256_cvtepi16_epi32(_mm256_extracti128_si256(sum, 1));
  bst_vec_store(total, _mm256_add_epi32(bst_vec_load(total), low));
  bst_vec_store(total + 8, _mm256_add_epi32(bst_vec_load(total + 8), high));
}

BST_INLINE bst_vec bst_wc_add_bytes(bst_vec sum, const int8_t* row) {
  return _mm256_add_epi8(sum, bst_vec_load(row));
}

BST_INLINE bst_vec bst_wc_widen(bst_vec sum, bst_vec bytes, int half) {
  const __m128i part =
      half == 0 ? _mm256_castsi256_si128(bytes) : _mm256_extracti128_si256(bytes, 1);
  return _mm256_add_epi16(sum, _mm256_cvtepi8_epi16(part));
}

#include "simd.h"

BST_DEFINE_WEIGHT_CONV_NEURON(bst_weight_conv_neuron__avx2)
BST_DEFINE_WEIGHT_CONV_AFFINE(bst_weight_conv_affine__avx2)

BST_VECTOR_END

#endif  // BST_HAVE_AVX2
