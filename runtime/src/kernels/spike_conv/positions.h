// SPDX-License-Identifier: MIT
// Positions of the set bits of a byte, as entries of lists: for instruction sets that list a byte
// at a time.

#ifndef BST_KERNELS_SPIKE_CONV_POSITIONS_H_
#define BST_KERNELS_SPIKE_CONV_POSITIONS_H_

#include "sum_common.h"

// Row v of the tables: the positions of the set bits of v, ascending, times BST_ENTRY, a byte
// each from the lowest byte on; and their number.
#define BST_BIT_BELOW(v, i, limit) ((i) < (limit) ? (v) >> (i) & 1 : 0)
#define BST_N_BELOW(v, i)                                                     \
  (BST_BIT_BELOW(v, 0, i) + BST_BIT_BELOW(v, 1, i) + BST_BIT_BELOW(v, 2, i) + \
   BST_BIT_BELOW(v, 3, i) + BST_BIT_BELOW(v, 4, i) + BST_BIT_BELOW(v, 5, i) + \
   BST_BIT_BELOW(v, 6, i) + BST_BIT_BELOW(v, 7, i))
#define BST_N_POSITIONS(v) BST_N_BELOW(v, 8)
#define BST_POSITION(v, i) \
  (((v) >> (i) & 1) != 0 ? (UINT64_C(i) * BST_ENTRY) << 8 * BST_N_BELOW(v, i) : 0)
#define BST_POSITIONS(v)                                                               \
  (BST_POSITION(v, 1) | BST_POSITION(v, 2) | BST_POSITION(v, 3) | BST_POSITION(v, 4) | \
   BST_POSITION(v, 5) | BST_POSITION(v, 6) | BST_POSITION(v, 7))
#define BST_ROWS_4(row, v) row(v), row((v) + 1), row((v) + 2), row((v) + 3)
#define BST_ROWS_16(row, v) \
  BST_ROWS_4(row, v), BST_ROWS_4(row, (v) + 4), BST_ROWS_4(row, (v) + 8), BST_ROWS_4(row, (v) + 12)
#define BST_ROWS_64(row, v)                                                    \
  BST_ROWS_16(row, v), BST_ROWS_16(row, (v) + 16), BST_ROWS_16(row, (v) + 32), \
      BST_ROWS_16(row, (v) + 48)
#define BST_ROWS_256(row) \
  BST_ROWS_64(row, 0), BST_ROWS_64(row, 64), BST_ROWS_64(row, 128), BST_ROWS_64(row, 192)
static const uint64_t bst_positions[256] = {BST_ROWS_256(BST_POSITIONS)};
static const uint8_t bst_n_positions[256] = {BST_ROWS_256(BST_N_POSITIONS)};

#endif  // BST_KERNELS_SPIKE_CONV_POSITIONS_H_
