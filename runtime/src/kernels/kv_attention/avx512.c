// SPDX-License-Identifier: MIT
// kv_attention with AVX-512, for now on the vectors of AVX2: the unpacking on vectors, the rest
// compiled for it.

#include "../avx2.h"
#include "loops.h"

#ifdef BST_HAVE_AVX2

BST_VECTOR_BEGIN

#include "../vector.h"

BST_DEFINE_KEY_VALUE(bst_kv_attention_key_value__avx512, bst_vec_unpack_words)
BST_DEFINE_QUERY_VALUE(bst_kv_attention_query_value__avx512, bst_vec_unpack_words)

BST_VECTOR_END

#endif  // BST_HAVE_AVX2
