// SPDX-License-Identifier: MIT
// Firmware in one page: two static buffers, the model in flash, its golden vectors run and
// compared. Returns 0 when every raw logit is exact.
//
//   cc -std=c11 -O3 main.c bst.c -o demo && ./demo                        any hosted compiler
//   arm-none-eabi-gcc -ffreestanding -DBST_FREESTANDING -O3 main.c bst.c  no C library: the board
//                                                         gives board_print and the start-up code

#include "bst.h"
#include "model.h"

#if defined(BST_FREESTANDING) || (defined(__STDC_HOSTED__) && __STDC_HOSTED__ == 0)
/// Write a text where the board shows texts: a serial port, a debugger, ...
void board_print(const char* text);
#else
#include <stdio.h>
static void board_print(const char* text) { fputs(text, stdout); }
#endif

static _Alignas(BST_ALIGN) uint8_t model_memory[MODEL_BYTES];  // prepared weights and tables
static _Alignas(BST_ALIGN) uint8_t arena[MODEL_ARENA_BYTES];   // one session
static int64_t raw[MODEL_CLASSES];
static const char* const class_names[MODEL_CLASSES] = MODEL_CLASS_NAMES;

static void print_number(int64_t value) {
  char digits[24];
  size_t at = sizeof digits;
  uint64_t left = value < 0 ? UINT64_C(0) - (uint64_t)value : (uint64_t)value;
  digits[--at] = '\0';
  do {
    digits[--at] = (char)('0' + left % 10);
    left /= 10;
  } while (left != 0);
  if (value < 0) digits[--at] = '-';
  board_print(digits + at);
}

static int fail(const char* call, bst_status status) {
  board_print(call);
  board_print(": ");
  board_print(bst_status_name(status));
  board_print(" ");
  board_print(bst_last_error());
  board_print("\n");
  return 1;
}

/// Run one golden vector; print its class and raw logits. @return whether every logit is exact
static bst_status run_golden(const bst_model* model, bst_session* session, uint32_t index,
                             int* exact) {
  const uint8_t* frame;
  const int64_t* expected;
  uint32_t best = 0;
  bst_status status = bst_model_golden(model, index, &frame, &expected);
  if (status == BST_OK) {
    status = bst_session_run(session, frame, MODEL_FRAME_BYTES, raw, MODEL_CLASSES);
  }
  if (status != BST_OK) return status;
  *exact = 1;
  for (uint32_t k = 0; k < MODEL_CLASSES; ++k) {
    if (raw[k] != expected[k]) *exact = 0;
    if (raw[k] > raw[best]) best = k;
  }
  board_print("golden ");
  print_number(index);
  board_print(*exact ? ": exact, class " : ": WRONG, class ");
  board_print(class_names[best]);
  board_print(", raw");
  for (uint32_t k = 0; k < MODEL_CLASSES; ++k) {
    board_print(" ");
    print_number(raw[k]);
  }
  board_print("\n");
  return BST_OK;
}

int main(void) {
  bst_model* model;
  bst_session* session;
  uint32_t n_exact = 0;
  // MODEL_BYTES is the size for the portable kernels, which are all that a freestanding build has.
  // Elsewhere NULL in place of "scalar" takes the fastest ones: ask bst_model_bytes for their size.
  bst_status status = bst_model_init(model_file, MODEL_FILE_BYTES, "scalar", model_memory,
                                     sizeof model_memory, &model);
  if (status != BST_OK) return fail("bst_model_init", status);
  status = bst_session_init(model, NULL, arena, sizeof arena, &session);
  if (status != BST_OK) return fail("bst_session_init", status);
  for (uint32_t i = 0; i < MODEL_GOLDEN; ++i) {
    int exact = 0;
    status = run_golden(model, session, i, &exact);
    if (status != BST_OK) return fail("golden", status);
    n_exact += exact != 0;
  }
  print_number(n_exact);
  board_print(" of ");
  print_number(MODEL_GOLDEN);
  board_print(" golden vectors exact\n");
  return n_exact == MODEL_GOLDEN ? 0 : 1;
}
