// SPDX-License-Identifier: MIT
// add_attention: the versions that need no instruction set, and the size of the scratch.

#include "loops.h"

/// Products and their transpose [d, d], a key and a sum [d], potentials [n_cells, d], int64.
size_t bst_add_neuron_scratch_bytes(size_t n_cells, int channels, int heads) {
  const size_t d = (size_t)channels / (size_t)heads;
  return (2 * d * d + 2 * d + n_cells * d) * sizeof(int64_t);
}

BST_DEFINE_ADD_ATTENTION(scalar)
