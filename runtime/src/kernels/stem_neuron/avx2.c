// SPDX-License-Identifier: MIT
// stem_neuron compiled for AVX2.

#include "../avx2.h"

#include "loops.h"

#ifdef BST_HAVE_AVX2

BST_VECTOR_BEGIN

BST_DEFINE_STEM_NEURON(bst_stem_neuron__avx2)

BST_VECTOR_END

#endif  // BST_HAVE_AVX2
