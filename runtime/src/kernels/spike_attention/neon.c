// SPDX-License-Identifier: MIT
// spike_attention with NEON: the unpacking on vectors, the rest compiled for it.

#include "../neon.h"

#include "loops.h"

#ifdef BST_HAVE_NEON

BST_VECTOR_BEGIN

#include "../vector.h"

BST_DEFINE_ATTENTION_SCORE(bst_spike_attention_score__neon, bst_vec_unpack_words)
BST_DEFINE_ATTENTION_VALUE(bst_spike_attention_value__neon, bst_vec_unpack_words)

BST_VECTOR_END

#endif  // BST_HAVE_NEON
