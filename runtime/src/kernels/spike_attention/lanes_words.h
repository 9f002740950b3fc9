// SPDX-License-Identifier: MIT
// The neurons of LANES (rule.h) without vectors, in plain loops. A body, like product.h.

#ifndef BST_KERNELS_SPIKE_ATTENTION_LANES_WORDS_H_
#define BST_KERNELS_SPIKE_ATTENTION_LANES_WORDS_H_

#include "product.h"

typedef struct bst_attention_lanes {
  const bst_attention_rule* rule;
} bst_attention_lanes;

static inline bst_attention_lanes bst_attention_lanes_of(int n_steps, size_t max_count,
                                                         const bst_attention_rule* rule) {
  (void)n_steps;
  (void)max_count;
  return (bst_attention_lanes){rule};
}

/// 64 counts of step t (0-based) become charges.
static inline void bst_attention_charges(const bst_attention_rule* rule, int t, int32_t* counts) {
  const int32_t* const x_of = rule->table + (size_t)t * rule->table_step;
  for (int i = 0; i < 64; ++i) {
    counts[i] = rule->table == NULL ? counts[i] * (1 << rule->frac_bits) : x_of[counts[i]];
  }
}

/// One step (0-based) for the items of a vector.
/// @param m planes of the count, zero from n_planes to the next multiple of eight
BST_INLINE bst_vec bst_attention_lanes_step(const bst_attention_lanes* lanes, int t, int n_planes,
                                            const bst_vec* m, int32_t state[][64]) {
  const bst_attention_rule* const rule = lanes->rule;
  uint64_t spikes[BST_ATTENTION_ITEMS];
  int32_t x[BST_ATTENTION_ITEMS][64];
  uint8_t spike[64];
  bst_vec_unpack(m, n_planes, x[0]);
  for (int j = 0; j < BST_ATTENTION_ITEMS; ++j) {
    bst_attention_charges(rule, t, x[j]);
    bst_neuron_step(&rule->neuron, x[j], state[j], spike);
    spikes[j] = bst_pack_lanes(spike);
  }
  return bst_vec_load(spikes);
}

#endif  // BST_KERNELS_SPIKE_ATTENTION_LANES_WORDS_H_
