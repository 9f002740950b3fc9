// SPDX-License-Identifier: MIT
// stem_neuron: the layout of the weights, and the version that needs no instruction set.

#include "loops.h"

size_t bst_stem_neuron_weight_bytes(int n_out, int kh, int kw, int n_in) {
  return (size_t)kh * (size_t)kw * (size_t)n_in * bst_stem_lanes(n_out) * sizeof(int32_t);
}

void bst_stem_neuron_prepare_weight(int n_out, int kh, int kw, int n_in, const int32_t* file_weight,
                                    int32_t* weight) {
  const size_t fan_in = (size_t)kh * (size_t)kw * (size_t)n_in, n_lanes = bst_stem_lanes(n_out);
  memset(weight, 0, bst_stem_neuron_weight_bytes(n_out, kh, kw, n_in));
  for (size_t o = 0; o < (size_t)n_out; ++o) {
    for (size_t i = 0; i < fan_in; ++i) weight[i * n_lanes + o] = *file_weight++;
  }
}

BST_DEFINE_STEM_NEURON(bst_stem_neuron__scalar)
