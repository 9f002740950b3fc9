// SPDX-License-Identifier: MIT
// The four memory functions for machines without a C library; bst.c holds this file. They are weak:
// functions of the same names elsewhere in the program win. Compilers call them on their own too,
// so they exist as functions; calls written in the sources become builtins, which vanish where the
// size is a small constant.

#ifndef BST_FIRMWARE_MEMORY_H_
#define BST_FIRMWARE_MEMORY_H_

#if defined(BST_FREESTANDING) && defined(__GNUC__)  // clang says __GNUC__ too

#include <stddef.h>
#include <stdint.h>

/// Keeps a compiler from finding a memory function in the loops below and calling it: itself.
#define BST_KEEP_LOOP() __asm__ volatile("" ::: "memory")
#define BST_WEAK __attribute__((weak))

BST_WEAK void* memcpy(void* restrict target, const void* restrict source, size_t n);
BST_WEAK void* memmove(void* target, const void* source, size_t n);
BST_WEAK void* memset(void* target, int value, size_t n);
BST_WEAK int memcmp(const void* a, const void* b, size_t n);

void* memcpy(void* restrict target, const void* restrict source, size_t n) {
  uint8_t* to = target;
  const uint8_t* from = source;
  for (; n != 0; --n) {
    BST_KEEP_LOOP();
    *to++ = *from++;
  }
  return target;
}

void* memmove(void* target, const void* source, size_t n) {
  uint8_t* const to = target;
  const uint8_t* const from = source;
  if ((uintptr_t)to < (uintptr_t)from) {
    for (size_t i = 0; i < n; ++i) {
      BST_KEEP_LOOP();
      to[i] = from[i];
    }
  } else {
    for (size_t i = n; i > 0; --i) {
      BST_KEEP_LOOP();
      to[i - 1] = from[i - 1];
    }
  }
  return target;
}

void* memset(void* target, int value, size_t n) {
  uint8_t* to = target;
  for (; n != 0; --n) {
    BST_KEEP_LOOP();
    *to++ = (uint8_t)value;
  }
  return target;
}

int memcmp(const void* a, const void* b, size_t n) {
  const uint8_t *x = a, *y = b;
  for (size_t i = 0; i < n; ++i) {
    BST_KEEP_LOOP();
    if (x[i] != y[i]) return x[i] < y[i] ? -1 : 1;
  }
  return 0;
}

#define memcpy __builtin_memcpy
#define memmove __builtin_memmove
#define memset __builtin_memset
#define memcmp __builtin_memcmp

#else
#include <string.h>
#endif

#endif  // BST_FIRMWARE_MEMORY_H_
