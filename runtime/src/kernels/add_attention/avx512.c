// SPDX-License-Identifier: MIT
// add_attention with AVX-512: loops.h, compiled for it.

#include "../avx512.h"

#include "add_attention.h"

#ifdef BST_HAVE_AVX512

#include "loops.h"

BST_VECTOR_BEGIN

BST_DEFINE_ADD_ATTENTION(avx512)

BST_VECTOR_END

#endif  // BST_HAVE_AVX512
