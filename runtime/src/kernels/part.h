// SPDX-License-Identifier: MIT
// Sharing one call between threads. Every kernel takes `part` and `n_parts` first: the n_parts
// calls with part = 0 .. n_parts - 1 and otherwise equal arguments, each with scratch of its own,
// together do the whole work, in any order or at the same time. They write different words and read
// nothing that another part writes. What they write does not depend on n_parts. A kernel whose work
// is too small to share does all of it in part 0.

#ifndef BST_KERNELS_PART_H_
#define BST_KERNELS_PART_H_

#include <stddef.h>
#include <stdint.h>

/// First of the items 0 .. n - 1 that belong to `part`; those of part n_parts would begin at n.
static inline size_t bst_part_begin(int part, int n_parts, size_t n) {
  return (size_t)((uint64_t)n * (uint64_t)part / (uint64_t)n_parts);
}

#endif  // BST_KERNELS_PART_H_
