// SPDX-License-Identifier: MIT
// Start-up code of a Cortex-M without a C library. Texts and the end of the program go through
// semihosting, which an emulator or a debugger answers.

#include <stdint.h>

int main(void);
void board_print(const char* text);
void reset(void);

enum { SYS_WRITE0 = 0x04, SYS_EXIT_EXTENDED = 0x20, APPLICATION_EXIT = 0x20026 };

extern uint32_t data_begin[], data_end[], data_source[], bss_begin[], bss_end[], stack_top[];

static void semihost(uint32_t operation, const void* argument) {
  register uint32_t r0 __asm__("r0") = operation;
  register const void* r1 __asm__("r1") = argument;
  __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
}

void board_print(const char* text) { semihost(SYS_WRITE0, text); }

void reset(void) {
  const uint32_t* from = data_source;
  for (uint32_t* to = data_begin; to < data_end; ++to) *to = *from++;
  for (uint32_t* to = bss_begin; to < bss_end; ++to) *to = 0;
  const uint32_t end[2] = {APPLICATION_EXIT, (uint32_t)main()};
  semihost(SYS_EXIT_EXTENDED, end);
  for (;;) {
  }
}

static void fault(void) {
  board_print("fault\n");
  const uint32_t end[2] = {APPLICATION_EXIT, 70};
  semihost(SYS_EXIT_EXTENDED, end);
  for (;;) {
  }
}

/// First words of the flash: stack, reset, then the exceptions up to SysTick.
__attribute__((section(".vectors"), used)) static const void* const vectors[16] = {
    stack_top, (void*)reset, (void*)fault, (void*)fault, (void*)fault, (void*)fault, (void*)fault,
};
