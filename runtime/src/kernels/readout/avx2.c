// SPDX-License-Identifier: MIT
// readout with AVX2: simd.h in the words of ../avx2.h.

#include "../avx2.h"

#include "readout.h"

#ifdef BST_HAVE_AVX2

BST_VECTOR_BEGIN

#include "../vector.h"
#include "simd.h"

void bst_readout__avx2(int part, int n_parts, int n_steps, size_t n_cells, int n_dim, int n_hidden,
                       int n_classes, int q, const int32_t* x2, const int32_t* x1,
                       const uint64_t* hidden, const uint8_t* weight, const int32_t* ai,
                       const int16_t* af, const int32_t* b, const int32_t* v0, const int32_t* v1,
                       const int64_t* c, int64_t* raw, void* scratch) {
  bst_readout_vector(part, n_parts, n_steps, n_cells, n_dim, n_hidden, n_classes, q, x2, x1, hidden,
                     weight, ai, af, b, v0, v1, c, raw, scratch);
}

void bst_residual_readout__avx2(int part, int n_parts, int n_steps, size_t n_cells, int n_dim,
                                int n_classes, int q, const int32_t* y, const int32_t* x0,
                                const int32_t* x1, const int32_t* v, const int64_t* c, int64_t* raw,
                                void* scratch) {
  bst_residual_readout_vector(part, n_parts, n_steps, n_cells, n_dim, n_classes, q, y, x0, x1, v, c,
                              raw, scratch);
}

BST_VECTOR_END

#endif  // BST_HAVE_AVX2
