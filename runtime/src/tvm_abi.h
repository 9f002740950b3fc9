// SPDX-License-Identifier: MIT
// What TVM's packed functions take and give, as far as modules use it: the layouts of dlpack.h and
// tvm/ffi/c_api.h, declared here so that nothing of TVM is needed to build or to run.

#ifndef BST_TVM_ABI_H_
#define BST_TVM_ABI_H_

#include <stdint.h>

typedef struct bst_dl_tensor {
  void* data;
  int32_t device_type, device_id;
  int32_t n_dims;
  uint8_t type_code, bits;
  uint16_t lanes;
  int64_t *shape, *strides;  ///< strides NULL: compact
  uint64_t byte_offset;
} bst_dl_tensor;

typedef struct bst_ffi_any {
  int32_t type_index;
  uint32_t zero;
  union {
    int64_t integer;
    void* pointer;
  } value;
} bst_ffi_any;

enum {
  BST_FFI_NONE = 0,
  BST_FFI_TENSOR_POINTER = 7,
  BST_DL_CPU = 1,
  BST_DL_INT = 0,
  BST_DL_UINT = 1,
  BST_FFI_MAX_ARGS = 4,
};

typedef int bst_ffi_function(void* self, const bst_ffi_any* args, int32_t n_args,
                             bst_ffi_any* result);

/// What a module calls before it returns an error; `parts` together are the message, any may be
/// NULL. libtvm_ffi has it where a module is loaded in Python.
void TVMFFIErrorSetRaisedFromCStrParts(const char* kind, const char** parts, int32_t n_parts);

/// Message of the last such call on this thread; "" before the first.
const char* bst_module_error(void);

#endif  // BST_TVM_ABI_H_
