// SPDX-License-Identifier: MIT
// A program whose instructions are known from below: a loop of N rounds between two marks.

#include <stdlib.h>

void bench_mark(void);
__attribute__((noinline)) void bench_mark(void) { __asm__ volatile("" ::: "memory"); }

int known_loop(int n);
__attribute__((noinline)) int known_loop(int n) {
  int sum = 0;
  for (int i = 0; i < n; ++i) {
    sum += i;
    __asm__ volatile("" : "+r"(sum));  // neither unrolled nor computed ahead
  }
  return sum;
}

int main(int argc, char** argv) {
  const int n = argc > 1 ? atoi(argv[1]) : 0;
  bench_mark();
  const int sum = known_loop(n);
  bench_mark();
  return sum == n * (n - 1) / 2 ? 0 : 1;
}
