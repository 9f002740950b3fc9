// SPDX-License-Identifier: MIT
// additions with NEON.

#include "../neon.h"

#include "vectors.h"

#ifdef BST_HAVE_NEON

BST_VECTOR_BEGIN

#include "../vector.h"

BST_DEFINE_ADDITIONS(bst_additions__neon)

BST_VECTOR_END

#endif  // BST_HAVE_NEON
