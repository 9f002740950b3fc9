// SPDX-License-Identifier: MIT
// stem_neuron compiled for NEON.

#include "../neon.h"

#include "loops.h"

#ifdef BST_HAVE_NEON

BST_VECTOR_BEGIN

BST_DEFINE_STEM_NEURON(bst_stem_neuron__neon)

BST_VECTOR_END

#endif  // BST_HAVE_NEON
