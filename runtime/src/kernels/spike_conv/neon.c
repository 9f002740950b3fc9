// SPDX-License-Identifier: MIT
// spike_conv with NEON: sliced.h on vectors of 128 lanes, narrow blocks on 64.

#include "../neon.h"

#include "spike_conv.h"

#ifdef BST_HAVE_NEON

BST_VECTOR_BEGIN

#include "../planes.h"
#include "positions.h"
#include "sum_common.h"

typedef uint64x2_t bst_bits;
enum { BST_BITS_WORDS = 2, BST_NARROWEST_WORDS = 1 };

BST_INLINE bst_bits bst_bits_splat(uint64_t a) { return vdupq_n_u64(a); }

/// The first `n_words` words; zeros above.
BST_INLINE bst_bits bst_bits_load(const uint64_t* from, size_t n_words) {
  return n_words == 2 ? vld1q_u64(from) : vcombine_u64(vld1_u64(from), vdup_n_u64(0));
}

/// `v` with `a` in the `n` words from word k * n on.
BST_INLINE bst_bits bst_bits_put(bst_bits v, size_t k, size_t n, uint64_t a) {
  if (n == 2) return vdupq_n_u64(a);
  return k == 0 ? vsetq_lane_u64(a, v, 0) : vsetq_lane_u64(a, v, 1);
}

BST_INLINE bst_bits bst_bits_select(bst_bits mask, bst_bits yes, bst_bits no) {
  return vbslq_u64(mask, yes, no);
}

/// Borrow of a - b - borrow: b where a and b differ.
BST_INLINE bst_bits bst_bits_less(bst_bits a, bst_bits b, bst_bits borrow) {
  return vbslq_u64(veorq_u64(a, b), b, borrow);
}

/// Full adder: *sum += a + b; returns the carry, the sum's old bit where a and b differ.
BST_INLINE bst_bits bst_bits_add(bst_bits* sum, bst_bits a, bst_bits b) {
  const bst_bits half = veorq_u64(a, b), c = *sum;
  *sum = veorq_u64(half, c);
  return vbslq_u64(half, c, a);
}

/// Store the first `n_words` words; the last of them cut to the bits of `last`.
BST_INLINE void bst_bits_store(uint64_t* out, size_t n_words, uint64_t last, bst_bits v) {
  if (n_words == 1) {
    out[0] = vgetq_lane_u64(v, 0) & last;
  } else {
    vst1q_u64(out, vandq_u64(v, vcombine_u64(vdup_n_u64(UINT64_MAX), vdup_n_u64(last))));
  }
}

#define BST_SUM1(name) bst_sum1_##name
#define BST_SUM BST_SUM1
#define BST_SUM_VEC uint64x1_t
#define BST_SUM_WORDS_OF 1
BST_INLINE uint64x1_t BST_SUM1(splat)(uint64_t a) { return vdup_n_u64(a); }
BST_INLINE uint64x1_t BST_SUM1(add)(uint64x1_t* sum, uint64x1_t a, uint64x1_t b) {
  const uint64x1_t half = veor_u64(a, b), c = *sum;
  *sum = veor_u64(half, c);
  return vbsl_u64(half, c, a);
}
#include "sum.h"

#define BST_SUM_IS_WHOLE
#define BST_SUM_FIXED 10
#define BST_SUM2(name) bst_sum2_##name
#define BST_SUM BST_SUM2
#define BST_SUM_VEC uint64x2_t
#define BST_SUM_WORDS_OF 2
BST_INLINE uint64x2_t BST_SUM2(splat)(uint64_t a) { return vdupq_n_u64(a); }
BST_INLINE uint64x2_t BST_SUM2(add)(uint64x2_t* sum, uint64x2_t a, uint64x2_t b) {
  return bst_bits_add(sum, a, b);
}
#include "sum.h"

static bst_sum_piece* const bst_sum_pieces[] = {BST_SUM1(function), BST_SUM2(function)};

/// One at a time, so many positions take fewer instructions than a table per byte.
enum { BST_FEW_BITS = 12 };

/// Append the positions of the set bits of `n_words` words, times 8, to `first`. May write 8
/// entries beyond the new length.
static inline size_t bst_bits_list(const uint64_t* words, size_t n_words, bst_entry first,
                                   bst_entry* list, size_t n) {
  for (size_t w = 0; w < n_words; ++w) {
    uint64_t bits = words[w];
    unsigned base = first + (unsigned)w * 64 * BST_ENTRY;
    if (bst_set_bits(bits) <= BST_FEW_BITS) {
      for (; bits != 0; bits &= bits - 1) {
        list[n++] = (bst_entry)(base + bst_low_bit(bits) * BST_ENTRY);
      }
      continue;
    }
    for (; bits != 0; bits >>= 8, base += 8 * BST_ENTRY) {
      const unsigned byte = (unsigned)bits & 0xFF;
      const uint8x8_t places = vcreate_u8(bst_positions[byte]);
      vst1q_u16(list + n, vaddw_u8(vdupq_n_u16((uint16_t)base), places));
      n += bst_n_positions[byte];
    }
  }
  return n;
}

/// list[n + i] = from[i] + add for i < count. May read and write 8 entries beyond.
static inline size_t bst_bits_copy(const bst_entry* from, size_t count, bst_entry add,
                                   bst_entry* list, size_t n) {
  const uint16x8_t offset = vdupq_n_u16(add);
  for (size_t i = 0; i < count; i += 8) {
    vst1q_u16(list + n + i, vaddq_u16(vld1q_u16(from + i), offset));
  }
  return n + count;
}

/// Pad with `zero_row` to a multiple of BST_SUM_ROWS. May write 16 entries beyond the old length.
static inline size_t bst_bits_pad(bst_entry zero_row, bst_entry* list, size_t n) {
  vst1q_u16(list + n, vdupq_n_u16(zero_row));
  vst1q_u16(list + n + 8, vdupq_n_u16(zero_row));
  return (n + BST_SUM_ROWS - 1) / BST_SUM_ROWS * BST_SUM_ROWS;
}

/// Counts of 128 lanes in natural order; `planes` holds whole groups of eight.
static inline void bst_bits_unpack(const bst_bits* planes, int n_planes, uint16_t* counts) {
  bst_vec bytes[(BST_MAX_SLICED_PLANES + 7) / 8 * 8];
  for (int p = 0; p < (n_planes + 7) / 8 * 8; ++p) bytes[p] = vreinterpretq_u8_u64(planes[p]);
  bst_vec_unpack(bytes, n_planes, counts);
}

/// y of four outputs from n and (n Af + 2^14) >> 15.
BST_INLINE int32x4_t bst_bits_scale4(int16x4_t n, int16x4_t part, const int32_t* ai,
                                     const int32_t* b) {
  const int32x4_t shift = vaddw_s16(vld1q_s32(b), part);
  return vmlaq_s32(shift, vmovl_s16(n), vld1q_s32(ai));
}

/// y of `n_lanes` outputs from their counts. |n| and |Af| stay below 2^14, so (n Af + 2^14) >> 15
/// is what a rounding doubling high product computes.
BST_NOINLINE void bst_bits_scale(const uint16_t* count, int32_t n_events, size_t n_lanes,
                                 const int32_t* ai, const int16_t* af, const int32_t* b,
                                 int32_t* out) {
  const int16x8_t offset = vdupq_n_s16((int16_t)n_events);
  size_t i = 0;
  for (; i + 8 <= n_lanes; i += 8) {
    const int16x8_t c = vreinterpretq_s16_u16(vld1q_u16(count + i));
    const int16x8_t n = vsubq_s16(vaddq_s16(c, c), offset);
    const int16x8_t part = vqrdmulhq_s16(n, vld1q_s16(af + i));
    vst1q_s32(out + i, bst_bits_scale4(vget_low_s16(n), vget_low_s16(part), ai + i, b + i));
    vst1q_s32(out + i + 4,
              bst_bits_scale4(vget_high_s16(n), vget_high_s16(part), ai + i + 4, b + i + 4));
  }
  for (; i < n_lanes; ++i) {
    out[i] = bst_add32(bst_scale_count32(2 * count[i] - n_events, ai[i], af[i]), b[i]);
  }
}

#ifdef __aarch64__  // armv7 has half as many registers
#define BST_FIRE_FIXED
#endif
#define BST_WHOLE_SUM BST_SUM2
#include "sliced.h"

const bst_spike_conv bst_spike_conv__neon = BST_SLICED_VERSION;

BST_VECTOR_END

#endif  // BST_HAVE_NEON
