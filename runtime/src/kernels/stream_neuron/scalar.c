// SPDX-License-Identifier: MIT
// stream_neuron: the versions that need no instruction set.

#include "loops.h"

BST_DEFINE_STREAM_NEURON(bst_stream_neuron__scalar)
BST_DEFINE_RESIDUAL_NEURON(bst_residual_neuron__scalar)
