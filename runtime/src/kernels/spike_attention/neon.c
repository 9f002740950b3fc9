// SPDX-License-Identifier: MIT
// spike_attention with NEON: loops.h in the words of ../neon.h.

#include "../neon.h"

#include "spike_attention.h"

#ifdef BST_HAVE_NEON

#include "../part.h"
#include "heads.h"
#include "rule.h"

BST_VECTOR_BEGIN

#include "../vector.h"
#include "loops.h"

BST_DEFINE_ATTENTION_SCORE(bst_spike_attention_score__neon)
BST_DEFINE_ATTENTION_VALUE(bst_spike_attention_value__neon)

BST_VECTOR_END

#endif  // BST_HAVE_NEON
