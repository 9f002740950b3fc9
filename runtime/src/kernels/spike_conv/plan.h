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

/// Spikes of a word that follow one of the patterns of `truth`, a function of the steps: its values
/// for the first step's two, then chosen by the others.
/// @param spikes the word at the first step
static inline uint64_t bst_truth_word(int n_steps, const uint64_t* spikes, size_t frame_words,
                                      uint32_t truth) {
  const uint64_t a = spikes[0], b = n_steps > 1 ? spikes[frame_words] : 0;
  const uint64_t c = n_steps > 2 ? spikes[2 * frame_words] : 0;
  const uint64_t d = n_steps > 3 ? spikes[3 * frame_words] : 0;
  const uint64_t leaves[4] = {0, ~a, a, UINT64_MAX};
#define BST_LEAF(i) leaves[truth >> (2 * (i)) & 3]
#define BST_CHOOSE(bit, zero, one) ((zero) ^ (((zero) ^ (one)) & (bit)))
  const uint64_t f = BST_CHOOSE(b, BST_LEAF(0), BST_LEAF(1));
  const uint64_t g = BST_CHOOSE(b, BST_LEAF(2), BST_LEAF(3));
  const uint64_t h = BST_CHOOSE(b, BST_LEAF(4), BST_LEAF(5));
  const uint64_t i = BST_CHOOSE(b, BST_LEAF(6), BST_LEAF(7));
  const uint64_t low = BST_CHOOSE(c, f, g), high = BST_CHOOSE(c, h, i);
  return BST_CHOOSE(d, low, high);
#undef BST_LEAF
#undef BST_CHOOSE
}

/// Decide which lists a call takes, from a sample of the spikes.
bst_list_plan bst_plan_lists(const bst_conv_geometry* g, const bst_strip* strip, bool periodic,
                             const uint64_t* spikes);

#endif  // BST_KERNELS_SPIKE_CONV_PLAN_H_
