// SPDX-License-Identifier: MIT
// add_attention with NEON: loops.h, compiled for it.

#include "../neon.h"

#include "add_attention.h"

#ifdef BST_HAVE_NEON

#include "loops.h"

BST_VECTOR_BEGIN

BST_DEFINE_ADD_ATTENTION(neon)

BST_VECTOR_END

#endif  // BST_HAVE_NEON
