// SPDX-License-Identifier: MIT
// A program with net.o linked into it: reads MODEL.bstm, prints the raw logits of a black frame.

#include <bst.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int __tvm_ffi_sizes(void);
int __tvm_ffi_prepare(void);
int __tvm_ffi_main(void);

static void* look_up(void* user, const char* name) {
  static const struct {
    const char* name;
    int (*function)(void);
  } known[] = {{"__tvm_ffi_sizes", __tvm_ffi_sizes},
               {"__tvm_ffi_prepare", __tvm_ffi_prepare},
               {"__tvm_ffi_main", __tvm_ffi_main}};
  void* found = NULL;
  (void)user;
  for (size_t i = 0; i < sizeof known / sizeof *known; ++i) {
    if (strcmp(name, known[i].name) == 0) memcpy(&found, &known[i].function, sizeof found);
  }
  return found;
}

static int complain(const char* what) {
  fprintf(stderr, "%s: %s\n", what, bst_last_error());
  return 1;
}

int main(int argc, char** argv) {
  static _Alignas(64) uint8_t file[1 << 20], prepared[1 << 22], place[1 << 22];
  static uint8_t frame[1 << 16];
  static int64_t raw[64];
  size_t bytes;
  bst_model* model;
  bst_module* module;
  bst_model_info info;
  FILE* const stream = argc == 2 ? fopen(argv[1], "rb") : NULL;
  if (stream == NULL) return 2;
  const size_t file_bytes = fread(file, 1, sizeof file, stream);
  fclose(stream);
  if (bst_model_init(file, file_bytes, NULL, prepared, sizeof prepared, &model) != BST_OK ||
      bst_model_describe(model, &info) != BST_OK) {
    return complain("model");
  }
  if (bst_module_bytes(model, look_up, NULL, &bytes) != BST_OK) return complain("bytes");
  if (bytes > sizeof place || info.frame_bytes > sizeof frame || info.n_classes > 64) return 2;
  if (bst_model_open_module(model, look_up, NULL, place, bytes, &module) != BST_OK) {
    return complain("open");
  }
  if (bst_module_run(module, frame, (size_t)info.frame_bytes + 1, raw, info.n_classes) == BST_OK ||
      bst_module_run(module, frame, (size_t)info.frame_bytes, raw, info.n_classes + 1) == BST_OK) {
    return 3;  // sizes that do not match are refused
  }
  if (bst_module_run(module, frame, (size_t)info.frame_bytes, raw, info.n_classes) != BST_OK) {
    return complain("run");
  }
  for (uint32_t k = 0; k < info.n_classes; ++k) printf("%lld ", (long long)raw[k]);
  return 0;
}
