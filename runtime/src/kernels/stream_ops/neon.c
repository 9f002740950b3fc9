// SPDX-License-Identifier: MIT
// stream_ops with NEON: int16 by int16 into int32, 8 outputs of 4 tokens at a time.

#include "../neon.h"

#include "loops.h"

#ifdef BST_HAVE_NEON

BST_VECTOR_BEGIN

static uint64_t bst_at_least__neon(const int32_t* x, const int32_t* least) {
  const uint32_t bits[4] = {1, 2, 4, 8};
  const uint32x4_t place = vld1q_u32(bits);
  uint64_t mask = 0;
  for (int i = 0; i < BST_DOT_LANES; i += 4) {
    const uint32x4_t found = vandq_u32(vcgeq_s32(vld1q_s32(x + i), vld1q_s32(least + i)), place);
    const uint32x2_t two = vorr_u32(vget_low_u32(found), vget_high_u32(found));
    mask |= (uint64_t)(vget_lane_u32(two, 0) | vget_lane_u32(two, 1)) << i;
  }
  return mask;
}

static void bst_multiply_add__neon(size_t n_rows, const int32_t* const* a, const int32_t* const* b,
                                   int b_is_scalar, size_t at, size_t n, int32_t* out) {
  bst_multiply_add_run(n_rows, a, b, b_is_scalar, at, n, out);
}

static void bst_stream_dot__neon(size_t n_pairs, size_t lanes, const int8_t* rows,
                                 const uint32_t* x,
                                 int32_t out[2 * BST_DOT_TOKENS][BST_DOT_LANES]) {
  for (size_t at = 0; at < BST_DOT_LANES; at += 8) {
    const int8_t* row = rows + at;
    const uint32_t* from = x;
    int32x4_t low[2 * BST_DOT_TOKENS], high[2 * BST_DOT_TOKENS];
    for (int k = 0; k < 2 * BST_DOT_TOKENS; ++k) low[k] = high[k] = vdupq_n_s32(0);
    for (size_t p = 0; p < n_pairs; ++p, row += 2 * lanes, from += 2 * BST_DOT_TOKENS) {
      const int16x8_t one = vmovl_s8(vld1_s8(row)), two = vmovl_s8(vld1_s8(row + lanes));
      for (int k = 0; k < 2 * BST_DOT_TOKENS; ++k) {
        const int16_t first = (int16_t)(from[k] & 0xFFFF), second = (int16_t)(from[k] >> 16);
        low[k] = vmlal_n_s16(low[k], vget_low_s16(one), first);
        high[k] = vmlal_n_s16(high[k], vget_high_s16(one), first);
        low[k] = vmlal_n_s16(low[k], vget_low_s16(two), second);
        high[k] = vmlal_n_s16(high[k], vget_high_s16(two), second);
      }
    }
    for (int k = 0; k < 2 * BST_DOT_TOKENS; ++k) {
      vst1q_s32(out[k] + at, low[k]);
      vst1q_s32(out[k] + at + 4, high[k]);
    }
  }
}

BST_VECTOR_END

const bst_stream_inner bst_stream_inner__neon = {bst_at_least__neon, bst_multiply_add__neon,
                                                 bst_stream_dot__neon};

#endif  // BST_HAVE_NEON
