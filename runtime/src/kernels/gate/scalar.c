// SPDX-License-Identifier: MIT
// gate: one word of 64 channels at a time. The parts of key_value_any share the steps, those of
// gate the cells.

#include "../part.h"
#include "gate.h"

void bst_key_value_any__scalar(int part, int n_parts, int n_steps, size_t n_cells, int n_words,
                               const uint64_t* k, const uint64_t* v, uint64_t* any) {
  const size_t words = (size_t)n_words;
  const size_t end = bst_part_begin(part + 1, n_parts, (size_t)n_steps);
  for (size_t t = bst_part_begin(part, n_parts, (size_t)n_steps); t < end; ++t) {
    uint64_t* const out = any + t * words;
    for (size_t w = 0; w < words; ++w) out[w] = 0;
    for (size_t i = t * n_cells * words; i < (t + 1) * n_cells * words; i += words) {
      for (size_t w = 0; w < words; ++w) out[w] |= k[i + w] & v[i + w];
    }
  }
}

void bst_gate__scalar(int part, int n_parts, int n_steps, size_t n_cells, size_t n_gates,
                      int n_words, int invert, const uint64_t* a, const uint64_t* gates,
                      uint64_t* out) {
  const size_t words = (size_t)n_words;
  const uint64_t flip = 0 - (uint64_t)invert;
  const size_t end = bst_part_begin(part + 1, n_parts, n_cells);
  for (size_t t = 0; t < (size_t)n_steps; ++t) {
    for (size_t cell = bst_part_begin(part, n_parts, n_cells); cell < end; ++cell) {
      const uint64_t* const g = gates + (t * n_gates + (n_gates == 1 ? 0 : cell)) * words;
      const size_t at = (t * n_cells + cell) * words;
      for (size_t w = 0; w < words; ++w) out[at + w] = a[at + w] & (g[w] ^ flip);
    }
  }
}
