// SPDX-License-Identifier: MIT
// additions in portable C: blocks of eight words, as ../lanes.h adds them.

#include "../lanes.h"
#include "additions.h"

uint64_t bst_additions__scalar(uint64_t n_rounds, uint64_t* check) {
  enum { WORDS = 8 };
  uint64_t rows[BST_ADDITIONS_ROWS][WORDS];
  uint64_t ones[WORDS] = {0}, twos[WORDS] = {0}, fours[WORDS] = {0}, eights[WORDS] = {0};
  bst_additions_fill(n_rounds, rows[0], BST_ADDITIONS_ROWS * WORDS);
  for (uint64_t round = 0; round < n_rounds; ++round) {
    for (int row = 0; row < BST_ADDITIONS_ROWS; row += 8) {
      for (int j = 0; j < WORDS; ++j) {
        uint64_t twos_a, twos_b, fours_a, fours_b, carry;
        BST_FULL_ADD(twos_a, ones[j], rows[row][j], rows[row + 1][j], ones[j]);
        BST_FULL_ADD(twos_b, ones[j], rows[row + 2][j], rows[row + 3][j], ones[j]);
        BST_FULL_ADD(fours_a, twos[j], twos_a, twos_b, twos[j]);
        BST_FULL_ADD(twos_a, ones[j], rows[row + 4][j], rows[row + 5][j], ones[j]);
        BST_FULL_ADD(twos_b, ones[j], rows[row + 6][j], rows[row + 7][j], ones[j]);
        BST_FULL_ADD(fours_b, twos[j], twos_a, twos_b, twos[j]);
        BST_FULL_ADD(carry, fours[j], fours_a, fours_b, fours[j]);
        eights[j] ^= carry;
      }
    }
  }
  *check = 0;
  for (int j = 0; j < WORDS; ++j) *check ^= ones[j] ^ twos[j] ^ fours[j] ^ eights[j];
  return (uint64_t)BST_ADDITIONS_ROWS * WORDS * 64;
}
