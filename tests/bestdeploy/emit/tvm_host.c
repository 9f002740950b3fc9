// SPDX-License-Identifier: MIT
// A plain C program around a net.o of bestdeploy.emit.tvm, without TVM's headers or libraries.
//
//   tvm_host CALLS RESULTS
//
// CALLS (little endian): u32 n_tensors, then per tensor {u32 dtype code, bits, n_dims, is_output;
// i64 shape[n_dims]; the values unless it is an output}, then u32 n_calls, then per call {u32
// function (0 prepare, 1 main), n_args, tensor number of each}. RESULTS receives the outputs in
// order. Every tensor lies between guard bytes. Exit: 0, 1 a call failed (its message goes to
// stderr), 2 bad CALLS, 3 a guard was overwritten.

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- TVM's C ABI, as far as it is used (dlpack.h, tvm/ffi/c_api.h)

typedef struct dl_tensor {
  void* data;
  int32_t device_type, device_id;
  int32_t n_dims;
  uint8_t code, bits;
  uint16_t lanes;
  int64_t *shape, *strides;  // strides NULL: compact
  uint64_t byte_offset;
} dl_tensor;

typedef struct ffi_any {
  int32_t type_index;
  uint32_t zero;
  union {
    int64_t integer;
    void* pointer;
  } value;
} ffi_any;

enum { FFI_NONE = 0, FFI_TENSOR_POINTER = 7, DL_CPU = 1 };

int __tvm_ffi_prepare(void* self, const ffi_any* args, int32_t n_args, ffi_any* result);
int __tvm_ffi_main(void* self, const ffi_any* args, int32_t n_args, ffi_any* result);
void TVMFFIErrorSetRaisedFromCStrParts(const char* kind, const char** parts, int32_t n_parts);

/// Called by the object before it returns an error.
void TVMFFIErrorSetRaisedFromCStrParts(const char* kind, const char** parts, int32_t n_parts) {
  fprintf(stderr, "%s: ", kind);
  for (int32_t i = 0; i < n_parts; ++i) {
    if (parts[i] != NULL) fputs(parts[i], stderr);
  }
  fputc('\n', stderr);
}

// ---- Tensors between guards

enum { MAX_TENSORS = 32, MAX_DIMS = 8, MAX_ARGS = 16, ALIGN = 64, GUARD = 0xA5 };

typedef struct tensor {
  dl_tensor dl;
  int64_t shape[MAX_DIMS];
  size_t bytes;
  uint32_t is_output;
  uint8_t* piece;  // ALIGN guard bytes, the values, ALIGN guard bytes
} tensor;

static int read_u32(FILE* stream, uint32_t* values, size_t n) {
  return fread(values, sizeof *values, n, stream) == n;
}

static int read_tensor(FILE* stream, tensor* t) {
  uint32_t head[4];
  if (!read_u32(stream, head, 4) || head[2] > MAX_DIMS) return 0;
  if (fread(t->shape, sizeof *t->shape, head[2], stream) != head[2]) return 0;
  t->bytes = head[1] / 8;
  for (uint32_t i = 0; i < head[2]; ++i) t->bytes *= (size_t)t->shape[i];
  t->is_output = head[3];
  const size_t room = (t->bytes + 3 * ALIGN - 1) / ALIGN * ALIGN;
  t->piece = aligned_alloc(ALIGN, room);
  if (t->piece == NULL) return 0;
  memset(t->piece, GUARD, room);
  const dl_tensor dl = {.data = t->piece + ALIGN,
                        .device_type = DL_CPU,
                        .n_dims = (int32_t)head[2],
                        .code = (uint8_t)head[0],
                        .bits = (uint8_t)head[1],
                        .lanes = 1,
                        .shape = t->shape};
  t->dl = dl;
  return t->is_output != 0 || fread(dl.data, 1, t->bytes, stream) == t->bytes;
}

static int guards_are_whole(const tensor* t) {
  for (size_t i = 0; i < ALIGN; ++i) {
    if (t->piece[i] != GUARD || t->piece[ALIGN + t->bytes + i] != GUARD) return 0;
  }
  return 1;
}

static int run_call(FILE* stream, tensor* tensors, uint32_t n_tensors) {
  uint32_t head[2], index[MAX_ARGS];
  ffi_any args[MAX_ARGS], result = {.type_index = FFI_NONE};
  if (!read_u32(stream, head, 2) || head[1] > MAX_ARGS) return 2;
  if (!read_u32(stream, index, head[1])) return 2;
  for (uint32_t i = 0; i < head[1]; ++i) {
    if (index[i] >= n_tensors) return 2;
    args[i].type_index = FFI_TENSOR_POINTER;
    args[i].zero = 0;
    args[i].value.integer = 0;
    args[i].value.pointer = &tensors[index[i]].dl;
  }
  const int32_t n = (int32_t)head[1];
  const int rc = head[0] == 0 ? __tvm_ffi_prepare(NULL, args, n, &result)
                              : __tvm_ffi_main(NULL, args, n, &result);
  return rc != 0;
}

static int run(FILE* calls, FILE* results) {
  static tensor tensors[MAX_TENSORS];
  uint32_t n_tensors, n_calls;
  if (!read_u32(calls, &n_tensors, 1) || n_tensors > MAX_TENSORS) return 2;
  for (uint32_t i = 0; i < n_tensors; ++i) {
    if (!read_tensor(calls, &tensors[i])) return 2;
  }
  if (!read_u32(calls, &n_calls, 1)) return 2;
  for (uint32_t i = 0; i < n_calls; ++i) {
    const int rc = run_call(calls, tensors, n_tensors);
    if (rc != 0) return rc;
  }
  for (uint32_t i = 0; i < n_tensors; ++i) {
    if (!guards_are_whole(&tensors[i])) return 3;
    if (tensors[i].is_output != 0) {
      if (fwrite(tensors[i].dl.data, 1, tensors[i].bytes, results) != tensors[i].bytes) return 2;
    }
    free(tensors[i].piece);
  }
  return 0;
}

int main(int argc, char** argv) {
  FILE* const calls = argc == 3 ? fopen(argv[1], "rb") : NULL;
  FILE* const results = argc == 3 ? fopen(argv[2], "wb") : NULL;
  if (calls == NULL || results == NULL) return 2;
  const int rc = run(calls, results);
  fclose(calls);
  return fclose(results) == 0 ? rc : 2;
}
