// SPDX-License-Identifier: MIT
// spike_attention and the product with AVX2: loops.h in the words of ../avx2.h.

#include "../avx2.h"

#include "spike_attention.h"

#ifdef BST_HAVE_AVX2

#include "../part.h"
#include "heads.h"
#include "rule.h"

BST_VECTOR_BEGIN

#include "../planes.h"
#include "../vector.h"

#define BST_ATTENTION_MULTIPLY bst_attention_product__avx2

#include "lanes_vector.h"
#include "loops.h"
#include "multiply.h"

BST_DEFINE_ATTENTION_PRODUCT(bst_attention_product__avx2)
BST_DEFINE_ATTENTION_SCORE(bst_spike_attention_score__avx2)
BST_DEFINE_ATTENTION_VALUE(bst_spike_attention_value__avx2)

BST_VECTOR_END

#endif  // BST_HAVE_AVX2
