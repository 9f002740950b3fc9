// SPDX-License-Identifier: MIT
// The error hook of TVM modules. It is in libbst for a net.o that is linked into a program, and,
// with BST_MODULE_SHARED, in every net.so: there libtvm_ffi's own comes first where a process has
// it.

#include <string.h>

#include "../include/bst.h"
#include "tvm_abi.h"

#ifdef BST_MODULE_SHARED
#define BST_HOOK BST_API
#else
#define BST_HOOK
#endif

enum { BST_MODULE_TEXT_BYTES = 240 };

static _Thread_local char bst_module_text[BST_MODULE_TEXT_BYTES];

BST_HOOK void TVMFFIErrorSetRaisedFromCStrParts(const char* kind, const char** parts,
                                                int32_t n_parts) {
  size_t at = 0;
  (void)kind;
  for (int32_t i = 0; i < n_parts; ++i) {
    for (const char* c = parts[i]; c != NULL && *c != '\0'; ++c) {
      if (at + 1 < sizeof bst_module_text) bst_module_text[at++] = *c;
    }
  }
  bst_module_text[at] = '\0';
}

BST_HOOK const char* bst_module_error(void) { return bst_module_text; }
