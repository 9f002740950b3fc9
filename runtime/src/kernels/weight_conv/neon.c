// SPDX-License-Identifier: MIT
// weight_conv with NEON: the loops on the sums of simd.h.

#include "../neon.h"

#include "weight_conv.h"

#ifdef BST_HAVE_NEON

#include "../spike_conv/geometry.h"

BST_VECTOR_BEGIN

enum { BST_WC_WORDS = 1, BST_WC_LANES = 8 };

BST_INLINE bst_vec bst_wc_add8(bst_vec sum, const int8_t* row) {
  const int16x8_t wide = vaddw_s8(vreinterpretq_s16_u8(sum), vld1_s8(row));
  return vreinterpretq_u8_s16(wide);
}

BST_INLINE bst_vec bst_wc_add16(bst_vec sum, const int16_t* row) {
  const int32x4_t wide = vaddw_s16(vreinterpretq_s32_u8(sum), vld1_s16(row));
  return vreinterpretq_u8_s32(wide);
}

BST_INLINE void bst_wc_empty(bst_vec sum, int32_t* total) {
  const int16x8_t lanes = vreinterpretq_s16_u8(sum);
  vst1q_s32(total, vaddw_s16(vld1q_s32(total), vget_low_s16(lanes)));
  vst1q_s32(total + 4, vaddw_s16(vld1q_s32(total + 4), vget_high_s16(lanes)));
}

BST_INLINE bst_vec bst_wc_add_bytes(bst_vec sum, const int8_t* row) {
  return vaddq_u8(sum, bst_vec_load(row));
}

BST_INLINE bst_vec bst_wc_widen(bst_vec sum, bst_vec bytes, int half) {
  const int8x16_t lanes = vreinterpretq_s8_u8(bytes);
  const int8x8_t part = half == 0 ? vget_low_s8(lanes) : vget_high_s8(lanes);
  return vreinterpretq_u8_s16(vaddw_s8(vreinterpretq_s16_u8(sum), part));
}

#include "simd.h"

BST_DEFINE_WEIGHT_CONV_NEURON(bst_weight_conv_neuron__neon)
BST_DEFINE_WEIGHT_CONV_AFFINE(bst_weight_conv_affine__neon)

BST_VECTOR_END

#endif  // BST_HAVE_NEON
