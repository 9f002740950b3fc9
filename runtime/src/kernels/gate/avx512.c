// SPDX-License-Identifier: MIT
// gate with AVX-512: simd.h in the words of ../avx512.h.

#include "../avx512.h"

#include "gate.h"

#ifdef BST_HAVE_AVX512

BST_VECTOR_BEGIN

#include "simd.h"

void bst_key_value_any__avx512(int part, int n_parts, int n_steps, size_t n_cells, int n_words,
                               const uint64_t* k, const uint64_t* v, uint64_t* any) {
  bst_key_value_any_vector(part, n_parts, n_steps, n_cells, n_words, k, v, any);
}

void bst_gate__avx512(int part, int n_parts, int n_steps, size_t n_cells, size_t n_gates,
                      int n_words, int invert, const uint64_t* a, const uint64_t* gates,
                      uint64_t* out) {
  bst_gate_vector(part, n_parts, n_steps, n_cells, n_gates, n_words, invert, a, gates, out);
}

BST_VECTOR_END

#endif  // BST_HAVE_AVX512
