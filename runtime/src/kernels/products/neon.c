// SPDX-License-Identifier: MIT
// products with NEON: rows.h.

#include "../neon.h"

#include "products.h"

#ifdef BST_HAVE_NEON

#include "../part.h"

BST_VECTOR_BEGIN

#include "rows.h"

BST_DEFINE_PRODUCT_ROWS(bst_products__neon)

BST_VECTOR_END

#endif  // BST_HAVE_NEON
