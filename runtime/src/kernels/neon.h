// SPDX-License-Identifier: MIT
// The vector vocabulary of ARM with NEON, 64-bit and 32-bit: 128 lanes of one bit, 16 of a byte, 8
// of int16, 4 of int32. Functions that take `wide` work on int32 lanes where it is true, else on
// int16; it is a constant at every call.
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

enum { BST_VEC_BYTES = 16 };

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

static inline bst_vec bst_vec_load(const void* from) { return vld1q_u8((const uint8_t*)from); }

static inline void bst_vec_store(void* to, bst_vec a) { vst1q_u8((uint8_t*)to, a); }

static inline bst_vec bst_vec_zero(void) { return vdupq_n_u8(0); }

static inline bst_vec bst_vec_set8(unsigned a) { return vdupq_n_u8((uint8_t)a); }

/// The low bits of `a` in every lane.
static inline bst_vec bst_vec_set(bool wide, int32_t a) {
  return wide ? BST_FROM_S32(vdupq_n_s32(a)) : BST_FROM_U16(vdupq_n_u16((uint16_t)a));
}

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

// Lanes wrap.

static inline bst_vec bst_vec_add(bool wide, bst_vec a, bst_vec b) {
  return wide ? BST_FROM_U32(vaddq_u32(BST_U32(a), BST_U32(b)))
              : BST_FROM_U16(vaddq_u16(BST_U16(a), BST_U16(b)));
}

static inline bst_vec bst_vec_sub(bool wide, bst_vec a, bst_vec b) {
  return wide ? BST_FROM_U32(vsubq_u32(BST_U32(a), BST_U32(b)))
              : BST_FROM_U16(vsubq_u16(BST_U16(a), BST_U16(b)));
}

/// a * 2^n
static inline bst_vec bst_vec_up(bool wide, bst_vec a, int n) {
  return wide ? BST_FROM_U32(vshlq_u32(BST_U32(a), vdupq_n_s32(n)))
              : BST_FROM_U16(vshlq_u16(BST_U16(a), vdupq_n_s16((int16_t)n)));
}

/// -1 where a > b, else 0
static inline bst_vec bst_vec_greater(bool wide, bst_vec a, bst_vec b) {
  return wide ? BST_FROM_U32(vcgtq_s32(BST_S32(a), BST_S32(b)))
              : BST_FROM_U16(vcgtq_s16(BST_S16(a), BST_S16(b)));
}

/// `yes` where a lane of the mask is -1, `no` where it is 0
static inline bst_vec bst_vec_select(bst_vec mask, bst_vec yes, bst_vec no) {
  return vbslq_u8(mask, yes, no);
}

static inline bst_vec bst_vec_mul32(bst_vec a, bst_vec b) {
  return BST_FROM_U32(vmulq_u32(BST_U32(a), BST_U32(b)));
}

/// floor(a / 2^15), int32 lanes
static inline bst_vec bst_vec_floor15(bst_vec a) {
  return BST_FROM_S32(vshrq_n_s32(BST_S32(a), 15));
}

/// 4 times int16 to int32
static inline bst_vec bst_vec_load_16_to_32(const int16_t* from) {
  return BST_FROM_S32(vmovl_s16(vld1_s16(from)));
}

/// uint8 lanes to `wide` lanes, in order: four vectors of int32 or two of int16.
static inline void bst_vec_widen(bool wide, bst_vec a, bst_vec* lanes) {
  const uint16x8_t low = vmovl_u8(vget_low_u8(a)), high = vmovl_u8(vget_high_u8(a));
  if (wide) {
    lanes[0] = BST_FROM_U32(vmovl_u16(vget_low_u16(low)));
    lanes[1] = BST_FROM_U32(vmovl_u16(vget_high_u16(low)));
    lanes[2] = BST_FROM_U32(vmovl_u16(vget_low_u16(high)));
    lanes[3] = BST_FROM_U32(vmovl_u16(vget_high_u16(high)));
  } else {
    lanes[0] = BST_FROM_U16(low);
    lanes[1] = BST_FROM_U16(high);
  }
}

/// Masks of `wide` lanes to masks of bytes, in order: from four vectors of int32 or two of int16.
static inline bst_vec bst_vec_narrow_masks(bool wide, const bst_vec* lanes) {
  uint16x8_t low = BST_U16(lanes[0]), high = BST_U16(lanes[1]);
  if (wide) {
    low = vcombine_u16(vmovn_u32(BST_U32(lanes[0])), vmovn_u32(BST_U32(lanes[1])));
    high = vcombine_u16(vmovn_u32(BST_U32(lanes[2])), vmovn_u32(BST_U32(lanes[3])));
  }
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

/// Eight bytes, lowest first, added to eight int32 each at `first`; stored to `list`.
static inline void bst_vec_store_entries(uint32_t* list, uint64_t bytes, bst_vec first) {
  const uint16x8_t wide = vmovl_u8(vcreate_u8(bytes));
  vst1q_u32(list, vaddw_u16(BST_U32(first), vget_low_u16(wide)));
  vst1q_u32(list + 4, vaddw_u16(BST_U32(first), vget_high_u16(wide)));
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

BST_VECTOR_END

#endif  // BST_HAVE_NEON
#endif  // BST_KERNELS_NEON_H_
