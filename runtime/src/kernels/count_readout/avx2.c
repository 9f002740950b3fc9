// SPDX-License-Identifier: MIT
// count_readout with AVX2: loops.h, compiled for it.

#include "../avx2.h"

#include "count_readout.h"

#ifdef BST_HAVE_AVX2

#include "loops.h"

BST_VECTOR_BEGIN

BST_DEFINE_COUNT_READOUT(bst_count_readout__avx2)

BST_VECTOR_END

#endif  // BST_HAVE_AVX2
