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

/// The same from the lists of one pixel, for blocks as wide as a vector: the counters never leave
/// the registers.
BST_INLINE void bst_sum_and_fire_four(int n_planes, const bst_theta_head* head,
                                      const bst_bits* theta, const uint8_t* rows,
                                      const bst_entry* const* list, const uint32_t* n_padded,
                                      const uint32_t* n_active, bst_bits* spikes) {
  bst_bits charge[BST_MAX_CHARGE_PLANES], sum[BST_MAX_PLANES];
  BST_UNROLL
  for (int t = 1; t <= 4; ++t) {
    const uint32_t active = n_active[t - 1];
    const bst_bits odd = BST_WHOLE_SUM(splat)(bst_all_or_none[active & 1]);
    BST_WHOLE_SUM(start)(n_planes, 0 - (active + 1) / 2, sum);
    BST_WHOLE_SUM(planes)(n_planes, rows, list[t - 1], n_padded[t - 1], sum);
    spikes[t - 1] = BST_FIRE_FIXED_NAME(step)(
        t, n_planes, t == 1 ? 0 : BST_CHARGE_PLANES(n_planes, t - 1),
        BST_CHARGE_PLANES(n_planes, t), head->widths[t - 1], theta, sum, odd, spikes, charge);
    theta += head->widths[t - 1] * t;
  }
}

// One function of each per number of planes.

typedef void bst_fire_4_function(const bst_theta_head* head, const bst_bits* theta,
                                 const bst_bits* sums, const bst_bits* odd, bst_bits* spikes);
typedef void bst_sum_and_fire_4_function(const bst_theta_head* head, const bst_bits* theta,
                                         const uint8_t* rows, const bst_entry* const* list,
                                         const uint32_t* n_padded, const uint32_t* n_active,
                                         bst_bits* spikes);

#define BST_FIRE_4(n) bst_fire_4_##n
#define BST_SUM_AND_FIRE_4(n) bst_sum_and_fire_4_##n
#define BST_FIRE_PLANES(n)                                                                 \
  static void BST_FIRE_4(n)(const bst_theta_head* head, const bst_bits* theta,             \
                            const bst_bits* sums, const bst_bits* odd, bst_bits* spikes) { \
    bst_fire_four(n, head, theta, sums, odd, spikes);                                      \
  }                                                                                        \
  static void BST_SUM_AND_FIRE_4(n)(const bst_theta_head* head, const bst_bits* theta,     \
                                    const uint8_t* rows, const bst_entry* const* list,     \
                                    const uint32_t* n_padded, const uint32_t* n_active,    \
                                    bst_bits* spikes) {                                    \
    bst_sum_and_fire_four(n, head, theta, rows, list, n_padded, n_active, spikes);         \
  }
BST_FIRE_PLANES(5)
BST_FIRE_PLANES(6)
BST_FIRE_PLANES(7)
BST_FIRE_PLANES(8)
BST_FIRE_PLANES(9)
BST_FIRE_PLANES(10)
#undef BST_FIRE_PLANES

static bst_fire_4_function* const bst_fire_4_table[] = {
    BST_FIRE_4(5), BST_FIRE_4(6), BST_FIRE_4(7), BST_FIRE_4(8), BST_FIRE_4(9), BST_FIRE_4(10)};
static bst_sum_and_fire_4_function* const bst_sum_and_fire_4_table[] = {
    BST_SUM_AND_FIRE_4(5), BST_SUM_AND_FIRE_4(6), BST_SUM_AND_FIRE_4(7),
    BST_SUM_AND_FIRE_4(8), BST_SUM_AND_FIRE_4(9), BST_SUM_AND_FIRE_4(10)};

/// Whether the functions for four steps take `n_planes`.
static inline bool bst_is_fixed(int n_steps, int n_planes, const bst_theta_head* head) {
  if (n_steps != 4 || n_planes > BST_MAX_SUM_PLANES) return false;
  for (int t = 1; t <= 4; ++t) {
    if (head->widths[t - 1] < BST_CHARGE_PLANES(n_planes, t)) return false;
  }
  return true;
}
