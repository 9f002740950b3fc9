// SPDX-License-Identifier: MIT
// stream_neuron compiled for AVX-512.

#include "../avx512.h"

#include "loops.h"

#ifdef BST_HAVE_AVX512

BST_VECTOR_BEGIN

BST_DEFINE_STREAM_NEURON(bst_stream_neuron__avx512)
BST_DEFINE_RESIDUAL_NEURON(bst_residual_neuron__avx512)

BST_VECTOR_END

#endif  // BST_HAVE_AVX512
