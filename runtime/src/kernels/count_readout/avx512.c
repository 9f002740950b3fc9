// SPDX-License-Identifier: MIT
// count_readout with AVX-512: loops.h, compiled for it.

#include "../avx512.h"

#include "count_readout.h"

#ifdef BST_HAVE_AVX512

#include "loops.h"

BST_VECTOR_BEGIN

BST_DEFINE_COUNT_READOUT(bst_count_readout__avx512)

BST_VECTOR_END

#endif  // BST_HAVE_AVX512
