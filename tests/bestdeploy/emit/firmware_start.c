// SPDX-License-Identifier: MIT
// Start-up code and console of a "board" without a C library: Linux system calls only. Linked with
// the main.c and bst.c of a source bundle, it makes a program that user emulators run.

#include <stddef.h>

int main(void);
void board_print(const char* text);
void start(void);
int raise(int signal);

#if defined(__aarch64__)
enum { SYS_WRITE = 64, SYS_EXIT = 93 };
__asm__(".globl _start\n_start:\n  bl start\n");

static long system_call(long number, long a, long b, long c) {
  register long x8 __asm__("x8") = number;
  register long x0 __asm__("x0") = a;
  register long x1 __asm__("x1") = b;
  register long x2 __asm__("x2") = c;
  __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
  return x0;
}
#elif defined(__arm__)
enum { SYS_WRITE = 4, SYS_EXIT = 1 };
#ifdef __thumb__
__asm__(".syntax unified\n.thumb\n.globl _start\n.thumb_func\n_start:\n  bl start\n");
#else
__asm__(".globl _start\n_start:\n  bl start\n");
#endif

// r7 holds the number of the call, and is the frame pointer of Thumb code: it is saved around it.
static long system_call(long number, long a, long b, long c) {
  register long r0 __asm__("r0") = a;
  register long r1 __asm__("r1") = b;
  register long r2 __asm__("r2") = c;
  register long r4 __asm__("r4") = number;
  __asm__ volatile("mov r5, r7\n mov r7, r4\n svc 0\n mov r7, r5"
                   : "+r"(r0)
                   : "r"(r1), "r"(r2), "r"(r4)
                   : "r5", "memory");
  return r0;
}

/// What libgcc of a Linux compiler calls on a division by zero.
int raise(int signal) {
  (void)system_call(SYS_EXIT, 128 + signal, 0, 0);
  return 0;
}
#elif defined(__x86_64__)
enum { SYS_WRITE = 1, SYS_EXIT = 60 };
__asm__(".globl _start\n_start:\n  call start\n");

static long system_call(long number, long a, long b, long c) {
  long result;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(number), "D"(a), "S"(b), "d"(c)
                   : "rcx", "r11", "memory");
  return result;
}
#endif

void board_print(const char* text) {
  size_t n = 0;
  while (text[n] != '\0') ++n;
  (void)system_call(SYS_WRITE, 1, (long)text, (long)n);
}

void start(void) {
  (void)system_call(SYS_EXIT, main(), 0, 0);
  for (;;) {
  }
}
