// SPDX-License-Identifier: MIT
// products with AVX-512: rows.h.

#include "../avx512.h"

#include "products.h"

#ifdef BST_HAVE_AVX512

#include "../part.h"

BST_VECTOR_BEGIN

#define BST_PRODUCTS_COUNT(x) __builtin_popcountll(x)
#include "rows.h"

BST_DEFINE_PRODUCT_ROWS(bst_products__avx512)

BST_VECTOR_END

#endif  // BST_HAVE_AVX512
