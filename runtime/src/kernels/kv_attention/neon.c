// SPDX-License-Identifier: MIT
// kv_attention with NEON: the unpacking on vectors, the rest compiled for it.

#include "../neon.h"

#include "loops.h"

#ifdef BST_HAVE_NEON

BST_VECTOR_BEGIN

#include "../vector.h"

BST_DEFINE_KEY_VALUE(bst_kv_attention_key_value__neon, bst_vec_unpack_words)
BST_DEFINE_QUERY_VALUE(bst_kv_attention_query_value__neon, bst_vec_unpack_words)

BST_VECTOR_END

#endif  // BST_HAVE_NEON
