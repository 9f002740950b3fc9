// SPDX-License-Identifier: MIT
// add_attention with AVX2: loops.h, compiled for it.

#include "../avx2.h"

#include "add_attention.h"

#ifdef BST_HAVE_AVX2

#include "loops.h"

BST_VECTOR_BEGIN

BST_DEFINE_ADD_ATTENTION(avx2)

BST_VECTOR_END

#endif  // BST_HAVE_AVX2
