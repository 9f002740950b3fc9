// SPDX-License-Identifier: MIT
// stem_stream: the version that needs no instruction set, and the layout of all versions.

#include "loops.h"

uint64_t bst_stem_stream_bytes(int n_out, int kh, int kw, int n_in) {
  return bst_stem_plain_bytes(n_out, kh, kw, n_in);
}

void bst_stem_stream_prepare(int n_out, int kh, int kw, int n_in, const int32_t* weight,
                             void* prepared) {
  bst_stem_prepare_plain(n_out, kh, kw, n_in, weight, prepared);
}

BST_DEFINE_STEM_STREAM(bst_stem_stream__scalar)
