// SPDX-License-Identifier: MIT
// stream_neuron with AVX-512: simd.h in the words of ../avx512.h.

#include "../avx512.h"

#include "stream_neuron.h"

#ifdef BST_HAVE_AVX512

BST_VECTOR_BEGIN

#include "simd.h"

void bst_stream_neuron__avx512(int part, int n_parts, int n_steps, size_t n_cells, int channels,
                               int flags, int theta, int v_reset, int r, const int32_t* x,
                               uint64_t* spikes) {
  bst_stream_neuron_vector(part, n_parts, n_steps, n_cells, channels, flags, theta, v_reset, r, x,
                           spikes);
}

void bst_residual_neuron__avx512(int part, int n_parts, int n_steps, size_t n_cells, int channels,
                                 int flags, int theta, int v_reset, int r, const int32_t* y,
                                 const int32_t* x0, const int32_t* x1, int32_t* x2,
                                 uint64_t* spikes) {
  bst_residual_neuron_vector(part, n_parts, n_steps, n_cells, channels, flags, theta, v_reset, r, y,
                             x0, x1, x2, spikes);
}

BST_VECTOR_END

#endif  // BST_HAVE_AVX512
