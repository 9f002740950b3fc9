// SPDX-License-Identifier: MIT
// What the benchmarks share: aligned memory, random numbers, the clock, statistics, the mark that
// the instruction counter looks for. Programs for one thread of a Linux machine; GCC or Clang;
// they define _GNU_SOURCE before anything is included.

#ifndef BST_TESTS_BENCH_BENCH_H_
#define BST_TESTS_BENCH_BENCH_H_

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define BENCH_NOINLINE __attribute__((noinline))

/// Zeroed memory aligned to 64; ends the program where there is none.
static inline void* bench_allocate(size_t bytes) {
  const size_t whole = (bytes + 127) / 64 * 64;  // a vector may be read at the very end
  void* const memory = aligned_alloc(64, whole);
  if (memory == NULL) {
    fprintf(stderr, "error: no memory for %zu bytes\n", bytes);
    exit(1);
  }
  return memset(memory, 0, whole);
}

/// xorshift64: the same numbers on every machine.
static inline uint64_t bench_random(uint64_t* state) {
  *state ^= *state << 13;
  *state ^= *state >> 7;
  *state ^= *state << 17;
  return *state;
}

/// Uniform in 0 .. 1.
static inline double bench_uniform(uint64_t* state) {
  return (double)(bench_random(state) >> 11) * 0x1p-53;
}

/// Microseconds of CPU time of this thread: what other programs take does not count.
static inline double bench_now_us(void) {
  struct timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return (double)now.tv_sec * 1e6 + (double)now.tv_nsec * 1e-3;
}

static inline int bench_compare(const void* a, const void* b) {
  const double x = *(const double*)a, y = *(const double*)b;
  return (x > y) - (x < y);
}

static inline void bench_sort(double* values, int n) {
  qsort(values, (size_t)n, sizeof *values, bench_compare);
}

/// Quantile of sorted values.
static inline double bench_quantile(const double* sorted, int n, double q) {
  return sorted[(int)(q * (double)(n - 1) + 0.5)];
}

/// Boundary of a counted region: the counter reads at every entry of this function, and takes what
/// was executed between two entries together.
void bench_mark(void);
BENCH_NOINLINE void bench_mark(void) { __asm__ volatile("" ::: "memory"); }

#if defined(__x86_64__)

/// Clock rate in GHz while this thread computes, from a chain of multiplications of 3 cycles each.
static inline double bench_ghz(void) {
  enum { N_CHAINS = 20000, N_TRIES = 15 };
  double best_us = 1e9;
  uint64_t x = 3;
  for (int i = 0; i < N_TRIES; ++i) {
    const double start = bench_now_us();
    for (int k = 0; k < N_CHAINS; ++k) {
      __asm__ volatile(
          "imul %0, %0\n\timul %0, %0\n\timul %0, %0\n\timul %0, %0\n\timul %0, %0\n\t"
          "imul %0, %0\n\timul %0, %0\n\timul %0, %0\n\timul %0, %0\n\timul %0, %0"
          : "+r"(x));
    }
    const double us = bench_now_us() - start;
    if (us < best_us) best_us = us;
  }
  return N_CHAINS * 30.0 / best_us * 1e-3;
}

#else

/// Unknown: 0.
static inline double bench_ghz(void) { return 0; }

#endif

#endif  // BST_TESTS_BENCH_BENCH_H_
