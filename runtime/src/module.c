// SPDX-License-Identifier: MIT
// Running a network that TVM compiled: three functions of TVM's packed ABI, given tensors of bytes.
// Layout of the caller's buffer: bst_module, weights, arena, each 64-aligned. What tensors must
// look like is checked by the module itself; what it says becomes the last error.

#include <string.h>

#include "internal.h"
#include "tvm_abi.h"

struct bst_module {
  const bst_model* model;
  bst_ffi_function* main;
  const char* (*error)(void);
  uint8_t *weights, *arena;
  uint64_t weights_bytes, arena_bytes;
};

/// A module's functions, looked up, and the sizes it asked for.
typedef struct bst_module_facts {
  bst_ffi_function *sizes, *prepare, *main;
  const char* (*error)(void);
  int64_t wanted[2];  // bytes of weights and of the arena
} bst_module_facts;

static const bst_where bst_in_module = {"module", -1, NULL};

/// One argument of a call.
typedef struct bst_module_tensor {
  bst_dl_tensor tensor;
  int64_t shape[4];
} bst_module_tensor;

static void bst_module_bytes_tensor(bst_module_tensor* t, const void* data, uint64_t bytes) {
  *t = (bst_module_tensor){.shape = {(int64_t)bytes}};
  t->tensor = (bst_dl_tensor){.data = (void*)(uintptr_t)data,
                              .device_type = BST_DL_CPU,
                              .n_dims = 1,
                              .type_code = BST_DL_UINT,
                              .bits = 8,
                              .lanes = 1,
                              .shape = t->shape};
}

/// [height, width, channels], with the steps in front where each has its own image.
static void bst_module_frame_tensor(bst_module_tensor* t, const uint8_t* frame,
                                    const bst_buffer* image) {
  const int64_t shape[4] = {image->t, image->h, image->w, image->c};
  const int first = image->t == 1;
  bst_module_bytes_tensor(t, frame, image->bytes);
  t->tensor.n_dims = 4 - first;
  memcpy(t->shape, shape + first, sizeof shape - (size_t)first * sizeof *shape);
}

static void bst_module_ints_tensor(bst_module_tensor* t, int64_t* data, uint64_t count) {
  bst_module_bytes_tensor(t, data, count);
  t->tensor.type_code = BST_DL_INT;
  t->tensor.bits = 64;
}

static bst_status bst_module_call(bst_ffi_function* function, const char* (*error)(void),
                                  bst_module_tensor* tensors, int32_t n) {
  bst_ffi_any args[BST_FFI_MAX_ARGS], result = {.type_index = BST_FFI_NONE};
  for (int32_t i = 0; i < n; ++i) {
    tensors[i].tensor.shape = tensors[i].shape;
    args[i] = (bst_ffi_any){.type_index = BST_FFI_TENSOR_POINTER};
    args[i].value.pointer = &tensors[i].tensor;
  }
  const int code = function(NULL, args, n, &result);
  if (code == 0) return BST_OK;
  const char* const text = error();
  return text[0] != '\0' ? bst_fail_text(BST_BAD_MODULE, bst_in_module, text)
                         : bst_fail(BST_BAD_MODULE, bst_in_module, "result of a call", code, "0");
}

/// Function pointers from data pointers: ISO C has no cast, POSIX promises that they fit.
static bool bst_module_find(bst_module_lookup* lookup, void* user, const char* name,
                            void* function) {
  void* const found = lookup(user, name);
  memcpy(function, &found, sizeof found);
  return found != NULL;
}

static bst_status bst_module_look_up(const bst_model* model, bst_module_lookup* lookup, void* user,
                                     bst_module_facts* facts) {
  BST_CHECK(model != NULL && lookup != NULL, BAD_ARGUMENT, bst_in_module, "model or lookup", 0,
            "not NULL");
  const bool all = bst_module_find(lookup, user, "__tvm_ffi_sizes", &facts->sizes) &&
                   bst_module_find(lookup, user, "__tvm_ffi_prepare", &facts->prepare) &&
                   bst_module_find(lookup, user, "__tvm_ffi_main", &facts->main);
  BST_CHECK(all, BAD_MODULE, bst_in_module, "functions sizes, prepare and main", 0,
            "in it: compiled with --backend tvm");
  if (!bst_module_find(lookup, user, "bst_module_error", &facts->error)) {
    facts->error = bst_module_error;
  }
  const bst_file* const file = &model->file;
  bst_module_tensor tensors[2];
  bst_module_bytes_tensor(&tensors[0], file->bytes, file->n_bytes);
  bst_module_ints_tensor(&tensors[1], facts->wanted, 2);
  BST_TRY(bst_module_call(facts->sizes, facts->error, tensors, 2));
  for (int i = 0; i < 2; ++i) {
    const int64_t n = facts->wanted[i];
    BST_CHECK(n >= 0 && (uint64_t)n < BST_MAX_ARENA_BYTES, BAD_MODULE, bst_in_module,
              "bytes that it asks for", n, "below 2^40");
  }
  return BST_OK;
}

static uint64_t bst_module_total(const bst_module_facts* facts) {
  return bst_align_up(sizeof(bst_module), BST_ALIGN) +
         bst_align_up((uint64_t)facts->wanted[0], BST_ALIGN) +
         bst_align_up((uint64_t)facts->wanted[1], BST_ALIGN);
}

bst_status bst_module_bytes(const bst_model* model, bst_module_lookup* lookup, void* user,
                            size_t* bytes) {
  bst_module_facts facts;
  BST_CHECK(bytes != NULL, BAD_ARGUMENT, bst_in_module, "bytes", 0, "not NULL");
  BST_TRY(bst_module_look_up(model, lookup, user, &facts));
  const uint64_t total = bst_module_total(&facts);
  BST_CHECK(total <= PTRDIFF_MAX, UNSUPPORTED, bst_in_module, "size in bytes", total,
            "what this machine can address");
  *bytes = (size_t)total;
  return BST_OK;
}

bst_status bst_model_open_module(const bst_model* model, bst_module_lookup* lookup, void* user,
                                 void* buffer, size_t bytes, bst_module** module) {
  bst_module_facts facts;
  bst_module_tensor tensors[2];
  BST_CHECK(module != NULL, BAD_ARGUMENT, bst_in_module, "module", 0, "not NULL");
  BST_CHECK(buffer != NULL && (uintptr_t)buffer % BST_ALIGN == 0, BAD_ARGUMENT, bst_in_module,
            "buffer address modulo 64", (uintptr_t)buffer % BST_ALIGN, "0, and not NULL");
  BST_TRY(bst_module_look_up(model, lookup, user, &facts));
  BST_CHECK(bytes >= bst_module_total(&facts), NO_MEMORY, bst_in_module, "bytes", bytes,
            "at least what bst_module_bytes tells");
  bst_module* const made = buffer;
  uint8_t* const weights = (uint8_t*)buffer + bst_align_up(sizeof(bst_module), BST_ALIGN);
  *made = (bst_module){
      .model = model,
      .main = facts.main,
      .error = facts.error,
      .weights = weights,
      .arena = weights + bst_align_up((uint64_t)facts.wanted[0], BST_ALIGN),
      .weights_bytes = (uint64_t)facts.wanted[0],
      .arena_bytes = (uint64_t)facts.wanted[1],
  };
  bst_module_bytes_tensor(&tensors[0], model->file.bytes, model->file.n_bytes);
  bst_module_bytes_tensor(&tensors[1], made->weights, made->weights_bytes);
  BST_TRY(bst_module_call(facts.prepare, facts.error, tensors, 2));
  *module = made;
  return BST_OK;
}

bst_status bst_module_run(bst_module* module, const uint8_t* frame, size_t frame_bytes,
                          int64_t* raw, size_t n_raw) {
  BST_CHECK(module != NULL && frame != NULL && raw != NULL, BAD_ARGUMENT, bst_in_module,
            "module, frame or raw", 0, "not NULL");
  const bst_buffer* const image = &module->model->file.buffers[0];
  BST_CHECK(frame_bytes == image->bytes, BAD_ARGUMENT, bst_in_module, "frame_bytes", frame_bytes,
            "frame_steps * height * width * channels");
  bst_module_tensor tensors[4];
  bst_module_frame_tensor(&tensors[0], frame, image);
  bst_module_bytes_tensor(&tensors[1], module->weights, module->weights_bytes);
  bst_module_bytes_tensor(&tensors[2], module->arena, module->arena_bytes);
  bst_module_ints_tensor(&tensors[3], raw, n_raw);
  return bst_module_call(module->main, module->error, tensors, 4);
}
