// SPDX-License-Identifier: MIT
// kv_attention with NEON: loops.h in the words of ../neon.h.

#include "../neon.h"

#include "kv_attention.h"

#ifdef BST_HAVE_NEON

#include "../part.h"
#include "../spike_attention/heads.h"
#include "../spike_attention/rule.h"
#include "../spike_attention/spike_attention.h"

BST_VECTOR_BEGIN

#include "../vector.h"

#define BST_ATTENTION_MULTIPLY bst_attention_product__neon

#include "loops.h"

BST_DEFINE_KEY_VALUE(bst_kv_attention_key_value__neon)
BST_DEFINE_QUERY_VALUE(bst_kv_attention_query_value__neon)

BST_VECTOR_END

#endif  // BST_HAVE_NEON
