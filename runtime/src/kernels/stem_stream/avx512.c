// SPDX-License-Identifier: MIT
// stem_stream with AVX-512: loops.h, compiled for it.

#include "../avx512.h"

#include "stem_stream.h"

#ifdef BST_HAVE_AVX512

#include "loops.h"

BST_VECTOR_BEGIN

BST_DEFINE_STEM_STREAM(bst_stem_stream__avx512)

BST_VECTOR_END

#endif  // BST_HAVE_AVX512
