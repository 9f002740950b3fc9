// SPDX-License-Identifier: MIT
// mean_neuron: the version that needs no instruction set.

#include "loops.h"

BST_DEFINE_MEAN_NEURON(bst_mean_neuron__scalar)
