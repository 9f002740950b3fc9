// SPDX-License-Identifier: MIT
// spike_conv with AVX-512, for now on the vectors of AVX2: simd.h in the words of ../avx2.h.

#include "../avx2.h"
#include "spike_conv.h"

#ifdef BST_HAVE_AVX2

BST_VECTOR_BEGIN

#include "simd.h"

const bst_spike_conv bst_spike_conv__avx512 = {
    .rows_bytes = bst_conv_block_rows_bytes,
    .prepare_rows = bst_conv_prepare_block_rows,
    .theta_bytes = bst_conv_vector_theta_bytes,
    .prepare_theta = bst_conv_prepare_vector_theta,
    .scratch_bytes = bst_conv_vector_scratch_bytes,
    .neuron = bst_conv_neuron_vector,
    .affine = bst_conv_affine_vector,
};

BST_VECTOR_END

#endif  // BST_HAVE_AVX2
