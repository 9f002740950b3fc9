// SPDX-License-Identifier: MIT
// stem_neuron with AVX2: simd.h in the words of ../avx2.h.

#include "../avx2.h"

#include "stem_neuron.h"

#ifdef BST_HAVE_AVX2

#include "loops.h"

BST_VECTOR_BEGIN

#include "simd.h"

const bst_stem_neuron bst_stem_neuron__avx2 = {
    .constant_bytes = bst_stem_vector_bytes,
    .prepare = bst_stem_prepare_vector,
    .scratch_bytes = bst_stem_vector_scratch_bytes,
    .run = bst_stem_neuron_vector,
};

BST_VECTOR_END

#endif  // BST_HAVE_AVX2
