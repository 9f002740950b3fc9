// SPDX-License-Identifier: MIT
// stem_neuron with AVX-512: simd.h in the words of ../avx512.h.

#include "../avx512.h"

#include "stem_neuron.h"

#ifdef BST_HAVE_AVX512

#include "loops.h"

BST_VECTOR_BEGIN

#include "simd.h"

const bst_stem_neuron bst_stem_neuron__avx512 = {
    .constant_bytes = bst_stem_vector_bytes,
    .prepare = bst_stem_prepare_vector,
    .scratch_bytes = bst_stem_vector_scratch_bytes,
    .run = bst_stem_neuron_vector,
};

BST_VECTOR_END

#endif  // BST_HAVE_AVX512
