// SPDX-License-Identifier: MIT
// kv_attention with AVX-512: loops.h in the words of ../avx512.h.

#include "../avx512.h"

#include "kv_attention.h"

#ifdef BST_HAVE_AVX512

#include "../part.h"
#include "../spike_attention/heads.h"
#include "../spike_attention/rule.h"
#include "../spike_attention/spike_attention.h"

BST_VECTOR_BEGIN

#include "../vector.h"

#define BST_ATTENTION_MULTIPLY bst_attention_product__avx512

#include "loops.h"

BST_DEFINE_KEY_VALUE(bst_kv_attention_key_value__avx512)
BST_DEFINE_QUERY_VALUE(bst_kv_attention_query_value__avx512)

BST_VECTOR_END

#endif  // BST_HAVE_AVX512
