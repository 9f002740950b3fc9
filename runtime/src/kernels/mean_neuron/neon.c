// SPDX-License-Identifier: MIT
// mean_neuron with NEON: loops.h, compiled for it.

#include "../neon.h"

#include "mean_neuron.h"

#ifdef BST_HAVE_NEON

#include "loops.h"

BST_VECTOR_BEGIN

BST_DEFINE_MEAN_NEURON(bst_mean_neuron__neon)

BST_VECTOR_END

#endif  // BST_HAVE_NEON
