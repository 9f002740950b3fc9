// SPDX-License-Identifier: MIT
// products: scratch, and the version without an instruction set of its own.

#include "loops.h"

size_t bst_products_scratch_bytes(int n_steps, int n_tokens, int channels, int heads) {
  const bst_products_shape s = bst_products_shape_of(n_steps, n_tokens, channels, heads);
  return 2 * s.n_words * s.lanes * sizeof(uint64_t) + s.n_steps * s.d * s.lanes * sizeof(int32_t);
}

BST_DEFINE_PRODUCTS(bst_products__scalar)
