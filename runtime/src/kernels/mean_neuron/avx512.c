// SPDX-License-Identifier: MIT
// mean_neuron with AVX-512: loops.h, compiled for it.

#include "../avx512.h"

#include "mean_neuron.h"

#ifdef BST_HAVE_AVX512

#include "loops.h"

BST_VECTOR_BEGIN

BST_DEFINE_MEAN_NEURON(bst_mean_neuron__avx512)

BST_VECTOR_END

#endif  // BST_HAVE_AVX512
