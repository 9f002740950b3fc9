// SPDX-License-Identifier: MIT
// stream_neuron compiled for AVX2.

#include "../avx2.h"

#include "loops.h"

#ifdef BST_HAVE_AVX2

BST_VECTOR_BEGIN

BST_DEFINE_STREAM_NEURON(bst_stream_neuron__avx2)
BST_DEFINE_RESIDUAL_NEURON(bst_residual_neuron__avx2)

BST_VECTOR_END

#endif  // BST_HAVE_AVX2
