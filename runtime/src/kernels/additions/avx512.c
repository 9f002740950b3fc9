// SPDX-License-Identifier: MIT
// additions with AVX-512.

#include "../avx512.h"

#include "vectors.h"

#ifdef BST_HAVE_AVX512

BST_VECTOR_BEGIN

#include "../vector.h"

BST_DEFINE_ADDITIONS(bst_additions__avx512)

BST_VECTOR_END

#endif  // BST_HAVE_AVX512
