// SPDX-License-Identifier: MIT
// stem_neuron compiled for AVX-512.

#include "../avx512.h"

#include "loops.h"

#ifdef BST_HAVE_AVX512

BST_VECTOR_BEGIN

BST_DEFINE_STEM_NEURON(bst_stem_neuron__avx512)

BST_VECTOR_END

#endif  // BST_HAVE_AVX512
