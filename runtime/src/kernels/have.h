// SPDX-License-Identifier: MIT
// Which instruction sets this compiler can make kernels for. Whether the machine has them is
// another question, answered at run time by ../cpu.c. BST_SCALAR_ONLY leaves them all out.

#ifndef BST_KERNELS_HAVE_H_
#define BST_KERNELS_HAVE_H_

// BST_SCALAR_ONLY leaves them all out.
#if (defined(__GNUC__) || defined(__clang__)) && !defined(BST_SCALAR_ONLY)
#if defined(__x86_64__)
#define BST_HAVE_AVX2 1
#define BST_HAVE_AVX512 1
#endif
#if defined(__aarch64__) && defined(__ARM_NEON)
#define BST_HAVE_NEON 1
#endif
// 32-bit ARM: a file may ask for NEON itself, given the floating-point registers and an
// architecture that knows it.
#if defined(__arm__) && defined(__ARM_FP) && __ARM_ARCH >= 7 && __ARM_ARCH_PROFILE == 'A'
#define BST_HAVE_NEON 1
#endif
#endif

#endif  // BST_KERNELS_HAVE_H_
