// SPDX-License-Identifier: MIT
// Integer helpers of the kernels: wrapping arithmetic and floor shifts with one meaning everywhere.
//
// C11 leaves two things to the implementation that every compiler we target defines alike: `>>` of
// a negative number is the floor shift, and an unsigned value converts to a signed type modulo 2^n.
// Both are asserted here, so a compiler that differs refuses to build rather than computing
// something else. Signed overflow, which is undefined, is avoided by adding in unsigned types.

#ifndef BST_KERNELS_INTEGERS_H_
#define BST_KERNELS_INTEGERS_H_

#include <stddef.h>
#include <stdint.h>

/// A function that becomes part of its caller and so is compiled for the caller's instruction set.
#if defined(__GNUC__) || defined(__clang__)
#define BST_INLINE static inline __attribute__((always_inline))
#define BST_NOINLINE static __attribute__((noinline))
#define BST_COLD static __attribute__((noinline, cold))  // runs once per model: made small
#else
#define BST_INLINE static inline
#define BST_NOINLINE static
#define BST_COLD static
#endif

_Static_assert((INT32_C(-3) >> 1) == -2 && (INT64_C(-3) >> 1) == -2, "floor shift of negatives");
_Static_assert((int32_t)UINT32_C(0xFFFFFFFE) == -2, "modular conversion to signed");
_Static_assert((int64_t)UINT64_C(0xFFFFFFFFFFFFFFFE) == -2, "modular conversion to signed");
_Static_assert(sizeof(int) == 4, "int is 32 bits");

/// Low 32 bits of a 64-bit value, as a signed number.
static inline int32_t bst_wrap32(int64_t x) { return (int32_t)(uint32_t)(uint64_t)x; }

static inline int32_t bst_add32(int32_t a, int32_t b) {
  return (int32_t)((uint32_t)a + (uint32_t)b);
}

static inline int32_t bst_sub32(int32_t a, int32_t b) {
  return (int32_t)((uint32_t)a - (uint32_t)b);
}

static inline int32_t bst_mul32(int32_t a, int32_t b) {
  return (int32_t)((uint32_t)a * (uint32_t)b);
}

static inline int64_t bst_add64(int64_t a, int64_t b) {
  return (int64_t)((uint64_t)a + (uint64_t)b);
}

static inline int64_t bst_mul64(int64_t a, int64_t b) {
  return (int64_t)((uint64_t)a * (uint64_t)b);
}

/// `yes` where mask is -1, `no` where it is 0. Spelled with masks because compilers vectorise this
/// and often not `?:` between two loads.
static inline int32_t bst_select32(int32_t mask, int32_t yes, int32_t no) {
  return (yes & mask) | (no & ~mask);
}

/// floor((a + b) / 2) without leaving 32 bits: common bits plus half of the differing ones.
static inline int32_t bst_average32(int32_t a, int32_t b) { return (a & b) + ((a ^ b) >> 1); }

/// n*Ai + floor((n*Af + 2^14) / 2^15), the affine of numerics.md 6 before its bias, in 32 bits.
/// |n * Af| stays below 2^31 because fan-in <= 65536 and |Af| <= 16384.
static inline int32_t bst_scale_count32(int32_t n, int32_t ai, int32_t af) {
  return bst_add32(bst_mul32(n, ai), (n * af + (1 << 14)) >> 15);
}

/// Number of bits of x: 0 for 0.
static inline int bst_bit_length(size_t x) {
  int n = 0;
  for (; x != 0; x >>= 1) ++n;
  return n;
}

/// Number of set bits.
static inline unsigned bst_set_bits(uint64_t x) {
  x -= x >> 1 & UINT64_C(0x5555555555555555);
  x = (x & UINT64_C(0x3333333333333333)) + (x >> 2 & UINT64_C(0x3333333333333333));
  x = (x + (x >> 4)) & UINT64_C(0x0F0F0F0F0F0F0F0F);
  return (unsigned)(x * UINT64_C(0x0101010101010101) >> 56);
}

/// Position of the lowest set bit of x != 0.
static inline unsigned bst_low_bit(uint64_t x) {
#if defined(__GNUC__) || defined(__clang__)
  return (unsigned)__builtin_ctzll(x);
#else
  unsigned n = 0;
  for (; (x & 1) == 0; x >>= 1) ++n;
  return n;
#endif
}

#endif  // BST_KERNELS_INTEGERS_H_
