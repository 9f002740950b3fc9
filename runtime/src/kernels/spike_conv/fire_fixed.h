// SPDX-License-Identifier: MIT
// The neuron of sliced.h for four steps, the usual T, with a function per number of planes, so that
// planes stay in registers. A part of sliced.h for instruction sets with registers enough
// (BST_FIRE_FIXED).

#define BST_FIRE_FIXED_NAME(name) bst_fire_fixed_##name
#define BST_FIRE BST_FIRE_FIXED_NAME
#define BST_FIRE_UNROLL BST_UNROLL
#include "fire.h"

/// Four steps, where Theta has at least BST_CHARGE_PLANES planes at each.
BST_INLINE void bst_fire_four(int n_planes, const bst_theta_head* head, const bst_bits* theta,
                              const bst_bits* sums, const bst_bits* odd, bst_bits* spikes) {
  bst_bits charge[BST_MAX_CHARGE_PLANES];
  BST_UNROLL
  for (int t = 1; t <= 4; ++t) {
    spikes[t - 1] =
        BST_FIRE_FIXED_NAME(step)(t, n_planes, t == 1 ? 0 : BST_CHARGE_PLANES(n_planes, t - 1),
                                  BST_CHARGE_PLANES(n_planes, t), head->widths[t - 1], theta,
                                  sums + (t - 1) * n_planes, odd[t - 1], spikes, charge);
    theta += head->widths[t - 1] * t;
  }
}

typedef void bst_fire_4_function(const bst_theta_head* head, const bst_bits* theta,
                                 const bst_bits* sums, const bst_bits* odd, bst_bits* spikes);

#define BST_FIRE_4(n) bst_fire_4_##n
#define BST_FIRE_PLANES(n)                                                                 \
  static void BST_FIRE_4(n)(const bst_theta_head* head, const bst_bits* theta,             \
                            const bst_bits* sums, const bst_bits* odd, bst_bits* spikes) { \
    bst_fire_four(n, head, theta, sums, odd, spikes);                                      \
  }
BST_FIRE_PLANES(8)
BST_FIRE_PLANES(10)
#undef BST_FIRE_PLANES

/// The function for `n_planes`.
static bst_fire_4_function* const bst_fire_4_table[] = {BST_FIRE_4(8), BST_FIRE_4(10)};

/// Whether the functions for four steps take `n_planes`.
static inline bool bst_is_fixed(int n_steps, int n_planes, const bst_theta_head* head) {
  if (n_steps != 4 || n_planes > BST_MAX_SUM_PLANES) return false;
  for (int t = 1; t <= 4; ++t) {
    if (head->widths[t - 1] < BST_CHARGE_PLANES(n_planes, t)) return false;
  }
  return true;
}
