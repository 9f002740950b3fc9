// SPDX-License-Identifier: MIT
// products with AVX-512: loops.h, left to the compiler.

#include "../avx512.h"

#include "products.h"

#ifdef BST_HAVE_AVX512

#include "../part.h"

BST_VECTOR_BEGIN

#include "loops.h"

BST_DEFINE_PRODUCTS(bst_products__avx512)

BST_VECTOR_END

#endif  // BST_HAVE_AVX512
