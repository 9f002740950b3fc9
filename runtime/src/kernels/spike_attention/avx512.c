// SPDX-License-Identifier: MIT
// spike_attention with AVX-512, for now on the vectors of AVX2: the unpacking on vectors, the rest
// compiled for it.

#include "../avx2.h"
#include "loops.h"

#ifdef BST_HAVE_AVX2

BST_VECTOR_BEGIN

#include "../vector.h"

BST_DEFINE_ATTENTION_SCORE(bst_spike_attention_score__avx512, bst_vec_unpack_words)
BST_DEFINE_ATTENTION_VALUE(bst_spike_attention_value__avx512, bst_vec_unpack_words)

BST_VECTOR_END

#endif  // BST_HAVE_AVX2
