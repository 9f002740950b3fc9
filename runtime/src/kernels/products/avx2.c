// SPDX-License-Identifier: MIT
// products with AVX2: rows.h.

#include "../avx2.h"

#include "products.h"

#ifdef BST_HAVE_AVX2

#include "../part.h"

BST_VECTOR_BEGIN

#include "rows.h"

BST_DEFINE_PRODUCT_ROWS(bst_products__avx2)

BST_VECTOR_END

#endif  // BST_HAVE_AVX2
