// SPDX-License-Identifier: MIT
// stem_neuron with NEON: simd.h in the words of ../neon.h.

#include "../neon.h"

#include "stem_neuron.h"

#ifdef BST_HAVE_NEON

#include "loops.h"

BST_VECTOR_BEGIN

#include "simd.h"

const bst_stem_neuron bst_stem_neuron__neon = {
    .constant_bytes = bst_stem_vector_bytes,
    .prepare = bst_stem_prepare_vector,
    .scratch_bytes = bst_stem_vector_scratch_bytes,
    .run = bst_stem_neuron_vector,
};

BST_VECTOR_END

#endif  // BST_HAVE_NEON
