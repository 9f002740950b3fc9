// SPDX-License-Identifier: MIT
// stream_neuron compiled for NEON.

#include "../neon.h"

#include "loops.h"

#ifdef BST_HAVE_NEON

BST_VECTOR_BEGIN

BST_DEFINE_STREAM_NEURON(bst_stream_neuron__neon)
BST_DEFINE_RESIDUAL_NEURON(bst_residual_neuron__neon)

BST_VECTOR_END

#endif  // BST_HAVE_NEON
