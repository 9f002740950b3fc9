// SPDX-License-Identifier: MIT
// Not a layer but a measure: how fast rows of weight bits are added to counters when nothing else
// has to be done. Rows lie in the first-level cache, counters stay in registers, eight rows enter
// through a tree of seven carry-save full adders, as in ../lanes.h and ../vector.h. One lane
// addition adds one bit of a row to the counter of its lane.

#ifndef BST_KERNELS_ADDITIONS_H_
#define BST_KERNELS_ADDITIONS_H_

#include <stdint.h>

enum { BST_ADDITIONS_ROWS = 64 };  // added per round

/// @param check out: depends on every row, so that no addition can be left out
/// @return lane additions in one round
typedef uint64_t bst_additions_kernel(uint64_t n_rounds, uint64_t* check);

bst_additions_kernel bst_additions__avx512, bst_additions__avx2, bst_additions__neon,
    bst_additions__scalar;

/// Rows whose bits no compiler knows.
static inline void bst_additions_fill(uint64_t seed, uint64_t* words, int n) {
  for (int i = 0; i < n; ++i) {
    seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    words[i] = seed ^ (seed >> 29);
  }
}

#endif  // BST_KERNELS_ADDITIONS_H_
