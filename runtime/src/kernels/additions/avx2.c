// SPDX-License-Identifier: MIT
// additions with AVX2.

#include "../avx2.h"

#include "vectors.h"

#ifdef BST_HAVE_AVX2

BST_VECTOR_BEGIN

#include "../vector.h"

BST_DEFINE_ADDITIONS(bst_additions__avx2)

BST_VECTOR_END

#endif  // BST_HAVE_AVX2
