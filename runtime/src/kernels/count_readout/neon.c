// SPDX-License-Identifier: MIT
// count_readout with NEON: loops.h, compiled for it.

#include "../neon.h"

#include "count_readout.h"

#ifdef BST_HAVE_NEON

#include "loops.h"

BST_VECTOR_BEGIN

BST_DEFINE_COUNT_READOUT(bst_count_readout__neon)

BST_VECTOR_END

#endif  // BST_HAVE_NEON
