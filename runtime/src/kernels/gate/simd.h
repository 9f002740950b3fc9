// SPDX-License-Identifier: MIT
// gate, one vector of words of channels at a time. A body: included by the file of one instruction
// set after its vocabulary, between BST_VECTOR_BEGIN and BST_VECTOR_END. The parts of key_value_any
// share the steps, those of gate the cells.

#ifndef BST_KERNELS_GATE_SIMD_H_
#define BST_KERNELS_GATE_SIMD_H_

#include "../integers.h"
#include "../part.h"
#include "gate.h"

enum { BST_GATE_VEC_WORDS = BST_VEC_BYTES / 8 };

/// Words of the vector that begins at word w.
BST_INLINE size_t bst_gate_left_vec(size_t n_words, size_t w) {
  return n_words - w < BST_GATE_VEC_WORDS ? n_words - w : BST_GATE_VEC_WORDS;
}

static inline void bst_key_value_any_vector(int part, int n_parts, int n_steps, size_t n_cells,
                                            int n_words, const uint64_t* k, const uint64_t* v,
                                            uint64_t* any) {
  const size_t words = (size_t)n_words;
  const size_t end = bst_part_begin(part + 1, n_parts, (size_t)n_steps);
  for (size_t t = bst_part_begin(part, n_parts, (size_t)n_steps); t < end; ++t) {
    for (size_t w = 0; w < words; w += BST_GATE_VEC_WORDS) {
      const size_t n = bst_gate_left_vec(words, w);
      bst_vec found = bst_vec_zero();
      for (size_t cell = 0; cell < n_cells; ++cell) {
        const size_t at = (t * n_cells + cell) * words + w;
        found = bst_vec_or(
            found, bst_vec_and(bst_vec_load_some64(k + at, n), bst_vec_load_some64(v + at, n)));
      }
      bst_vec_store_some64(any + t * words + w, found, n);
    }
  }
}

static inline void bst_gate_vector(int part, int n_parts, int n_steps, size_t n_cells,
                                   size_t n_gates, int n_words, int invert, const uint64_t* a,
                                   const uint64_t* gates, uint64_t* out) {
  const size_t words = (size_t)n_words;
  const bst_vec flip = bst_vec_set64(0 - (uint64_t)invert);
  const size_t end = bst_part_begin(part + 1, n_parts, n_cells);
  for (size_t t = 0; t < (size_t)n_steps; ++t) {
    for (size_t cell = bst_part_begin(part, n_parts, n_cells); cell < end; ++cell) {
      const uint64_t* const g = gates + (t * n_gates + (n_gates == 1 ? 0 : cell)) * words;
      const size_t at = (t * n_cells + cell) * words;
      for (size_t w = 0; w < words; w += BST_GATE_VEC_WORDS) {
        const size_t n = bst_gate_left_vec(words, w);
        const bst_vec open = bst_vec_xor(bst_vec_load_some64(g + w, n), flip);
        const bst_vec x = bst_vec_load_some64(a + at + w, n);
        bst_vec_store_some64(out + at + w, bst_vec_and(x, open), n);
      }
    }
  }
}

#endif  // BST_KERNELS_GATE_SIMD_H_
