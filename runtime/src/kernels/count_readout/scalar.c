// SPDX-License-Identifier: MIT
// count_readout: the version that needs no instruction set, and the size of its scratch.

#include "loops.h"

size_t bst_count_readout_scratch_bytes(int channels) {
  return ((size_t)channels + 63) / 64 * 64 * sizeof(int32_t);
}

BST_DEFINE_COUNT_READOUT(bst_count_readout__scalar)
