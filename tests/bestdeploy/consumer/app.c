// SPDX-License-Identifier: MIT
// A user's program: reads a .bstm and prints the raw logits of its golden frames, a line for each.
// Which instruction set it runs on goes to stderr.

#include <bst.h>
#include <stdio.h>
#include <stdlib.h>

static void* must(void* memory) {
  if (memory == NULL) exit(1);
  return memory;
}

static void check(bst_status status) {
  if (status == BST_OK) return;
  fprintf(stderr, "%s: %s\n", bst_status_name(status), bst_last_error());
  exit(1);
}

int main(int argc, char** argv) {
  static _Alignas(BST_ALIGN) unsigned char file[1 << 16];
  size_t model_bytes, arena_bytes;
  bst_model* model;
  bst_model_info info;
  bst_session* session;
  FILE* const stream = argc == 2 ? fopen(argv[1], "rb") : NULL;
  const size_t n = stream == NULL ? 0 : fread(file, 1, sizeof file, stream);

  check(bst_model_bytes(file, n, NULL, &model_bytes));
  void* const memory = must(aligned_alloc(BST_ALIGN, model_bytes));
  check(bst_model_init(file, n, NULL, memory, model_bytes, &model));
  check(bst_model_describe(model, &info));
  check(bst_arena_bytes(model, 1, &arena_bytes));
  void* const arena = must(aligned_alloc(BST_ALIGN, arena_bytes));
  check(bst_session_init(model, NULL, arena, arena_bytes, &session));

  fprintf(stderr, "%s\n", bst_model_isa(model));
  int64_t* const raw = must(calloc(info.n_classes, sizeof *raw));
  for (uint32_t i = 0; i < info.n_golden; ++i) {
    const uint8_t* frame;
    const int64_t* expected;
    check(bst_model_golden(model, i, &frame, &expected));
    check(bst_session_run(session, frame, (size_t)info.frame_bytes, raw, info.n_classes));
    for (uint32_t k = 0; k < info.n_classes; ++k) printf("%lld ", (long long)raw[k]);
    printf("\n");
  }
  return 0;
}
