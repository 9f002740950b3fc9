// SPDX-License-Identifier: MIT
// What the lists of lists.h hold, for every instruction set.

#ifndef BST_KERNELS_SPIKE_CONV_PLAN_H_
#define BST_KERNELS_SPIKE_CONV_PLAN_H_

#include <stdbool.h>

#include "../integers.h"
#include "geometry.h"

enum {
  BST_MAX_LISTS = 16,  // T, or patterns of BST_PATTERN_STEPS
  BST_PATTERN_STEPS = 4,
};

/// Neighbouring outputs of a row of pixels that share a vector, and what they see together.
typedef struct bst_strip {
  int n_pixels;  // 1: no strips
  int columns;   // of the image
  size_t fan_in;
} bst_strip;

typedef enum bst_list_kind {
  BST_BY_STEP,     // list t: the inputs that fire at step t
  BST_BY_PERIOD,   // list t: those of period t + 1, see the file head of sliced.h
  BST_BY_PLANE,    // list t * n_planes + p: the inputs of levels with bit p at step t
  BST_BY_PATTERN,  // list p - 1: those that fire at the steps of the bits of p and at no other
} bst_list_kind;

static inline int bst_n_lists(bst_list_kind kind, int n_steps) {
  return kind == BST_BY_PATTERN ? (1 << n_steps) - 1 : n_steps;
}

/// The most lists that a layer may take.
static inline int bst_most_lists(int n_steps) {
  return bst_n_lists(n_steps <= BST_PATTERN_STEPS ? BST_BY_PATTERN : BST_BY_STEP, n_steps);
}

/// Which lists there are. BY_PATTERN, a pattern of one step has a list always; inputs of a pattern
/// without one are in the lists of its steps.
typedef struct bst_list_plan {
  bst_list_kind kind;
  int n_steps, n_lists, n_planes;  // planes of levels, 1 for spikes
  uint32_t lists;                  // a bit per list that there is
  uint32_t truth[BST_MAX_LISTS];   // BY_PATTERN: a bit per pattern whose inputs are in the list
} bst_list_plan;

static inline bool bst_has_list(const bst_list_plan* plan, int list) {
  return (plan->lists >> list & 1) != 0;
}

static inline bool bst_is_single(uint32_t pattern) { return (pattern & (pattern - 1)) == 0; }

/// Decide which lists a call takes, from a sample of the spikes.
bst_list_plan bst_plan_lists(const bst_conv_geometry* g, const bst_strip* strip, bool periodic,
                             const uint64_t* spikes);

#endif  // BST_KERNELS_SPIKE_CONV_PLAN_H_
