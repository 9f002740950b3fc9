// SPDX-License-Identifier: MIT
// spike_attention and the product with NEON: loops.h in the words of ../neon.h.

#include "../neon.h"

#include "spike_attention.h"

#ifdef BST_HAVE_NEON

#include "../part.h"
#include "heads.h"
#include "rule.h"

BST_VECTOR_BEGIN

#include "../planes.h"
#include "../vector.h"

#define BST_ATTENTION_MULTIPLY bst_attention_product__neon

#include "lanes_vector.h"
#include "loops.h"
#include "multiply.h"

BST_DEFINE_ATTENTION_PRODUCT(bst_attention_product__neon)
BST_DEFINE_ATTENTION_SCORE(bst_spike_attention_score__neon)
BST_DEFINE_ATTENTION_VALUE(bst_spike_attention_value__neon)

BST_VECTOR_END

#endif  // BST_HAVE_NEON
