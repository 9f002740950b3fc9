// SPDX-License-Identifier: MIT
// The vector vocabulary of ARM with NEON, 64-bit and 32-bit: 128 lanes of one bit, 16 of a byte, 8
// of int16, 4 of int32.
//
// Everything between BST_VECTOR_BEGIN and BST_VECTOR_END is compiled for NEON whatever the flags of
// the file, so one source list serves every machine; cpu.c decides at run time whether it may run.

#ifndef BST_KERNELS_NEON_H_
#define BST_KERNELS_NEON_H_

#include "have.h"

#ifdef BST_HAVE_NEON

#include <arm_neon.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "lanes.h"

#ifdef __ARM_NEON
#define BST_VECTOR_BEGIN
#define BST_VECTOR_END
#elif defined(__clang__)
#define BST_VECTOR_BEGIN \
  _Pragma("clang attribute push(__attribute__((target(\"neon\"))), apply_to = function)")
#define BST_VECTOR_END _Pragma("clang attribute pop")
#else
#define BST_VECTOR_BEGIN _Pragma("GCC push_options") _Pragma("GCC target(\"fpu=neon\")")
#define BST_VECTOR_END _Pragma("GCC pop_options")
#endif

BST_VECTOR_BEGIN

typedef uint8x16_t bst_vec;

#ifdef __aarch64__
enum { BST_VEC_BYTES = 16, BST_VEC_REGISTERS = 32 };
#else
enum { BST_VEC_BYTES = 16, BST_VEC_REGISTERS = 16 };
#endif

// The same bits as lanes of another type.
#define BST_U16(a) vreinterpretq_u16_u8(a)
#define BST_U32(a) vreinterpretq_u32_u8(a)
#define BST_U64(a) vreinterpretq_u64_u8(a)
#define BST_S16(a) vreinterpretq_s16_u8(a)
#define BST_S32(a) vreinterpretq_s32_u8(a)
#define BST_FROM_U16(a) vreinterpretq_u8_u16(a)
#define BST_FROM_U32(a) vreinterpretq_u8_u32(a)
#define BST_FROM_U64(a) vreinterpretq_u8_u64(a)
#define BST_FROM_S32(a) vreinterpretq_u8_s32(a)
#define BST_S64(a) vreinterpretq_s64_u8(a)
#define BST_FROM_S64(a) vreinterpretq_u8_s64(a)

static inline bst_vec bst_vec_load(const void* from) { return vld1q_u8((const uint8_t*)from); }

static inline void bst_vec_store(void* to, bst_vec a) { vst1q_u8((uint8_t*)to, a); }

static inline bst_vec bst_vec_zero(void) { return vdupq_n_u8(0); }

static inline bst_vec bst_vec_set8(unsigned a) { return vdupq_n_u8((uint8_t)a); }

/// `a` in every int32 lane.
static inline bst_vec bst_vec_set32(int32_t a) { return BST_FROM_S32(vdupq_n_s32(a)); }

static inline bst_vec bst_vec_and(bst_vec a, bst_vec b) { return vandq_u8(a, b); }

/// a & ~b
static inline bst_vec bst_vec_clear(bst_vec a, bst_vec b) { return vbicq_u8(a, b); }

static inline bst_vec bst_vec_or(bst_vec a, bst_vec b) { return vorrq_u8(a, b); }

static inline bst_vec bst_vec_xor(bst_vec a, bst_vec b) { return veorq_u8(a, b); }

/// Carry of a full adder: two of a, b, c; `half` is a ^ b.
static inline bst_vec bst_vec_carry(bst_vec half, bst_vec a, bst_vec b, bst_vec c) {
  (void)b;
  return vbslq_u8(half, c, a);
}

/// 64-bit lanes shifted by a constant.
#define BST_VEC_UP64(a, n) BST_FROM_U64(vshlq_n_u64(BST_U64(a), (n)))
#define BST_VEC_DOWN64(a, n) BST_FROM_U64(vshrq_n_u64(BST_U64(a), (n)))

// int32 lanes; they wrap.

static inline bst_vec bst_vec_add32(bst_vec a, bst_vec b) {
  return BST_FROM_U32(vaddq_u32(BST_U32(a), BST_U32(b)));
}

static inline bst_vec bst_vec_sub32(bst_vec a, bst_vec b) {
  return BST_FROM_U32(vsubq_u32(BST_U32(a), BST_U32(b)));
}

/// a * 2^n, int16 lanes
static inline bst_vec bst_vec_up16(bst_vec a, int n) {
  return BST_FROM_U16(vshlq_u16(BST_U16(a), vdupq_n_s16((int16_t)n)));
}

/// int32 lanes, the low half of the product
static inline bst_vec bst_vec_mul32(bst_vec a, bst_vec b) {
  return BST_FROM_U32(vmulq_u32(BST_U32(a), BST_U32(b)));
}

/// 4 times uint16 to int32
static inline bst_vec bst_vec_load_16_to_32(const uint16_t* from) {
  return BST_FROM_U32(vmovl_u16(vld1_u16(from)));
}

/// floor(a / 2^n), uint32 lanes
static inline bst_vec bst_vec_down32(bst_vec a, int n) {
  return BST_FROM_U32(vshlq_u32(BST_U32(a), vdupq_n_s32(-n)));
}

/// uint8 lanes to int16 lanes, in order.
static inline void bst_vec_widen(bst_vec a, bst_vec* lanes) {
  lanes[0] = BST_FROM_U16(vmovl_u8(vget_low_u8(a)));
  lanes[1] = BST_FROM_U16(vmovl_u8(vget_high_u8(a)));
}

/// Masks of four vectors of int32 to masks of bytes, in order.
static inline bst_vec bst_vec_narrow_masks(const bst_vec* lanes) {
  const uint16x8_t low = vcombine_u16(vmovn_u32(BST_U32(lanes[0])), vmovn_u32(BST_U32(lanes[1])));
  const uint16x8_t high = vcombine_u16(vmovn_u32(BST_U32(lanes[2])), vmovn_u32(BST_U32(lanes[3])));
  return vcombine_u8(vmovn_u16(low), vmovn_u16(high));
}

// a0 b0 a1 b1 .. in items of 1, 2 or 4 bytes: `a` gets the first half of them, `b` the second.

static inline void bst_vec_zip8(bst_vec* a, bst_vec* b) {
  const uint8x16x2_t zipped = vzipq_u8(*a, *b);
  *a = zipped.val[0];
  *b = zipped.val[1];
}

static inline void bst_vec_zip16(bst_vec* a, bst_vec* b) {
  const uint16x8x2_t zipped = vzipq_u16(BST_U16(*a), BST_U16(*b));
  *a = BST_FROM_U16(zipped.val[0]);
  *b = BST_FROM_U16(zipped.val[1]);
}

static inline void bst_vec_zip32(bst_vec* a, bst_vec* b) {
  const uint32x4x2_t zipped = vzipq_u32(BST_U32(*a), BST_U32(*b));
  *a = BST_FROM_U32(zipped.val[0]);
  *b = BST_FROM_U32(zipped.val[1]);
}

// Words and bits.

/// `a` in every 64-bit lane.
static inline bst_vec bst_vec_set64(uint64_t a) { return BST_FROM_U64(vdupq_n_u64(a)); }

static const uint64_t bst_vec_spreads[4][2] = {
    {0, 0}, {UINT64_MAX, 0}, {0, UINT64_MAX}, {UINT64_MAX, UINT64_MAX}};

/// `word` in the 64-bit lanes whose bit of `lanes` (0..3) is set, 0 in the others.
static inline bst_vec bst_vec_spread(uint64_t word, unsigned lanes) {
  return vandq_u8(bst_vec_set64(word), bst_vec_load(bst_vec_spreads[lanes]));
}

/// Bit by bit a + b + c without its carry.
static inline bst_vec bst_vec_xor3(bst_vec a, bst_vec b, bst_vec c) {
  return veorq_u8(veorq_u8(a, b), c);
}

/// Borrow of a - b - c, bit by bit; `half` is b ^ c.
static inline bst_vec bst_vec_borrow(bst_vec half, bst_vec a, bst_vec b, bst_vec c) {
  (void)c;
  return vbslq_u8(half, vmvnq_u8(a), b);
}

/// 64 x 64 bits in place: bit i of word j becomes bit j of word i.
static inline void bst_vec_transpose_square(uint64_t* m) { bst_transpose_square(m); }

// ---- Streams, the stem and the read-out ---------------------------------------------------------

/// -1 or 0 per int32 lane of a comparison.
typedef uint8x16_t bst_mask;

/// Lanes with a < b, int32.
static inline bst_mask bst_vec_below32(bst_vec a, bst_vec b) {
  return BST_FROM_U32(vcltq_s32(BST_S32(a), BST_S32(b)));
}

/// `yes` in the lanes of the mask, `no` in the others.
static inline bst_vec bst_vec_choose32(bst_mask mask, bst_vec yes, bst_vec no) {
  return vbslq_u8(mask, yes, no);
}

/// The bits of n masks (1..4), those of lane 0 of masks[0] lowest.
static inline uint64_t bst_vec_bits32(const bst_mask* masks, int n) {
  const uint8x8_t weight = vcreate_u8(UINT64_C(0x8040201008040201));
  bst_vec all[4];
  for (int i = 0; i < 4; ++i) all[i] = i < n ? masks[i] : vdupq_n_u8(0);
  const uint8x16_t bytes = vandq_u8(bst_vec_narrow_masks(all), vcombine_u8(weight, weight));
  uint8x8_t sums = vpadd_u8(vget_low_u8(bytes), vget_high_u8(bytes));
  sums = vpadd_u8(sums, sums);
  sums = vpadd_u8(sums, sums);
  return vget_lane_u16(vreinterpret_u16_u8(sums), 0);
}

/// floor(a / 2), int32 lanes
static inline bst_vec bst_vec_half32(bst_vec a) { return BST_FROM_S32(vshrq_n_s32(BST_S32(a), 1)); }

/// floor((a + b) / 2) without leaving 32 bits: bst_average32 of integers.h
static inline bst_vec bst_vec_average32(bst_vec a, bst_vec b) {
  return BST_FROM_S32(vhaddq_s32(BST_S32(a), BST_S32(b)));
}

/// The low 32 bits of floor(((a - b) r + 2^29) / 2^30), int32 lanes; |(a - b) r| < 2^62.
static inline bst_vec bst_vec_scale30(bst_vec a, bst_vec b, bst_vec r) {
  const int32x4_t x = BST_S32(a), y = BST_S32(b);
  const int32x2_t scale = vget_low_s32(BST_S32(r));  // the same in every lane
  const int64x2_t low = vmlsl_s32(vmull_s32(vget_low_s32(x), scale), vget_low_s32(y), scale);
  const int64x2_t high = vmlsl_s32(vmull_s32(vget_high_s32(x), scale), vget_high_s32(y), scale);
  return BST_FROM_S32(vcombine_s32(vrshrn_n_s64(low, 30), vrshrn_n_s64(high, 30)));
}

// The first n items, 0 <= n <= what a vector holds; nothing beyond is read or written, lanes beyond
// are 0.

static inline bst_vec bst_vec_load_some8(const uint8_t* from, size_t n) {
  uint8_t bytes[BST_VEC_BYTES] = {0};
  memcpy(bytes, from, n);
  return bst_vec_load(bytes);
}

static inline bst_vec bst_vec_load_some32(const int32_t* from, size_t n) {
  int32_t lanes[4] = {0};
  memcpy(lanes, from, n * sizeof *from);
  return bst_vec_load(lanes);
}

static inline void bst_vec_store_some32(int32_t* to, bst_vec a, size_t n) {
  int32_t lanes[4];
  bst_vec_store(lanes, a);
  memcpy(to, lanes, n * sizeof *to);
}

static inline bst_vec bst_vec_load_some64(const uint64_t* from, size_t n) {
  if (n >= 2) return bst_vec_load(from);
  return n == 0 ? vdupq_n_u8(0) : vcombine_u8(vld1_u8((const uint8_t*)from), vcreate_u8(0));
}

static inline void bst_vec_store_some64(uint64_t* to, bst_vec a, size_t n) {
  if (n >= 2) {
    bst_vec_store(to, a);
  } else if (n == 1) {
    vst1_u8((uint8_t*)to, vget_low_u8(a));
  }
}

// Products of pairs of int16, for the digits of numbers (stem_neuron/simd.h).

/// Place of item `parity` (0, 1) of the pair of an int32 lane, among the int16 of a vector.
static inline size_t bst_vec_pair_place(size_t lane, size_t parity) { return 4 * parity + lane; }

/// The pair from[0], from[1] for every lane.
static inline bst_vec bst_vec_set_pair(const int16_t* from) {
  int32_t pair;
  memcpy(&pair, from, sizeof pair);
  return BST_FROM_S32(vdupq_n_s32(pair));
}

/// sum + w[0] pair[0] + w[1] pair[1] in every int32 lane
static inline bst_vec bst_vec_add_pair(bst_vec sum, bst_vec w, bst_vec pair) {
  const int16x4_t both = vget_low_s16(BST_S16(pair));
  const int32x4_t first = vmlal_lane_s16(BST_S32(sum), vget_low_s16(BST_S16(w)), both, 0);
  return BST_FROM_S32(vmlal_lane_s16(first, vget_high_s16(BST_S16(w)), both, 1));
}

/// The low 32 bits of floor((4096 high + low + bias) / 2^shift), int32 lanes; bias and shift one
/// int64 per lane, shift in 0..24.
static inline bst_vec bst_vec_join_digits(bst_vec high, bst_vec low, const int64_t* bias,
                                          const int64_t* shift) {
  int32x2_t part[2];
  for (int i = 0; i < 2; ++i) {
    const int32x2_t h = i == 0 ? vget_low_s32(BST_S32(high)) : vget_high_s32(BST_S32(high));
    const int32x2_t l = i == 0 ? vget_low_s32(BST_S32(low)) : vget_high_s32(BST_S32(low));
    const int64x2_t n = vaddw_s32(vshll_n_s32(h, 12), l);
    const int64x2_t sum = vaddq_s64(n, vld1q_s64(bias + 2 * i));
    part[i] = vmovn_s64(vshlq_s64(sum, vsubq_s64(vdupq_n_s64(0), vld1q_s64(shift + 2 * i))));
  }
  return BST_FROM_S32(vcombine_s32(part[0], part[1]));
}

// Sums of int32 lanes in 64 bits.

typedef struct bst_vec_sum {
  bst_vec low, high;
} bst_vec_sum;

static inline void bst_vec_sum_add(bst_vec_sum* sum, bst_vec a) {
  sum->low = BST_FROM_S64(vaddw_s32(BST_S64(sum->low), vget_low_s32(BST_S32(a))));
  sum->high = BST_FROM_S64(vaddw_s32(BST_S64(sum->high), vget_high_s32(BST_S32(a))));
}

/// The sums of the lanes, in order, once n vectors were added.
static inline void bst_vec_sum_store(const bst_vec_sum* sum, size_t n, int64_t* to) {
  (void)n;
  bst_vec_store(to, sum->low);
  bst_vec_store(to + 2, sum->high);
}

// 64-bit lanes.

static inline bst_vec bst_vec_add64(bst_vec a, bst_vec b) {
  return BST_FROM_U64(vaddq_u64(BST_U64(a), BST_U64(b)));
}

/// a * 2^n
static inline bst_vec bst_vec_up64(bst_vec a, int n) {
  return BST_FROM_U64(vshlq_u64(BST_U64(a), vdupq_n_s64(n)));
}

/// sum + products of the int32 lanes of a and b, two in every 64-bit lane
static inline bst_vec bst_vec_add_products(bst_vec sum, bst_vec a, bst_vec b) {
  const int32x4_t x = BST_S32(a), y = BST_S32(b);
  const int64x2_t low = vmlal_s32(BST_S64(sum), vget_low_s32(x), vget_low_s32(y));
  return BST_FROM_S64(vmlal_s32(low, vget_high_s32(x), vget_high_s32(y)));
}

/// a + the number of set bits, byte by byte
static inline bst_vec bst_vec_add_popcount(bst_vec a, bst_vec bits) {
  return vaddq_u8(a, vcntq_u8(bits));
}

/// Sums of the bytes of every 64-bit lane.
static inline bst_vec bst_vec_sum_bytes(bst_vec a) {
  return BST_FROM_U64(vpaddlq_u32(vpaddlq_u16(vpaddlq_u8(a))));
}

BST_VECTOR_END

#endif  // BST_HAVE_NEON
#endif  // BST_KERNELS_NEON_H_
