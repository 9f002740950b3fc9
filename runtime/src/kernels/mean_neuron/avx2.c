// SPDX-License-Identifier: MIT
// mean_neuron with AVX2: loops.h, compiled for it.

#include "../avx2.h"

#include "mean_neuron.h"

#ifdef BST_HAVE_AVX2

#include "loops.h"

BST_VECTOR_BEGIN

BST_DEFINE_MEAN_NEURON(bst_mean_neuron__avx2)

BST_VECTOR_END

#endif  // BST_HAVE_AVX2
