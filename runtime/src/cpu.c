// SPDX-License-Identifier: MIT
// Which instruction set the kernels use. Only the scalar kernels exist so far.

#include "internal.h"

const char* bst_isa_name(void) { return "scalar"; }
