// SPDX-License-Identifier: MIT
// spike_attention and the product with AVX-512: loops.h in the words of ../avx512.h.

#include "../avx512.h"

#include "spike_attention.h"

#ifdef BST_HAVE_AVX512

#include "../part.h"
#include "heads.h"
#include "rule.h"

BST_VECTOR_BEGIN

#include "../vector.h"

#define BST_ATTENTION_MULTIPLY bst_attention_product__avx512

#include "lanes_vector.h"
#include "loops.h"
#include "multiply.h"

BST_DEFINE_ATTENTION_PRODUCT(bst_attention_product__avx512)
BST_DEFINE_ATTENTION_SCORE(bst_spike_attention_score__avx512)
BST_DEFINE_ATTENTION_VALUE(bst_spike_attention_value__avx512)

BST_VECTOR_END

#endif  // BST_HAVE_AVX512
