// SPDX-License-Identifier: MIT
// stem_stream with NEON: loops.h, compiled for it.

#include "../neon.h"

#include "stem_stream.h"

#ifdef BST_HAVE_NEON

#include "loops.h"

BST_VECTOR_BEGIN

BST_DEFINE_STEM_STREAM(bst_stem_stream__neon)

BST_VECTOR_END

#endif  // BST_HAVE_NEON
