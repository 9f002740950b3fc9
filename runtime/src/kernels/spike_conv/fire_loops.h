// SPDX-License-Identifier: MIT
// The neuron of sliced.h on planes in memory, for any number of steps and planes: for instruction
// sets whose registers do not hold them (BST_FIRE_LOOPS). Where fire.h asks per plane which part of
// a sum it is in, here are loops for the parts, and their own for the first step, which adds
// nothing, and the fourth, the longest of the usual T. As many planes are taken as the largest S of
// the vector needs. A part of sliced.h.
//
// Theta lies by difference (layouts.h): the planes of Theta[t, 0], and of every other Theta[t, s]
// what differs from them, so that a choice is two operations, and masks tell which step was the
// last that spiked.

enum { BST_MORE_SIGNS = 2 };  // that I_t may have more planes than I_t-1

/// What a neuron carries from step to step: I, its sign repeated above, and for s = 1, 2, ..
/// whether step s was the last that spiked.
typedef struct bst_charge {
  bst_bits planes[BST_MAX_CHARGE_PLANES + BST_MORE_SIGNS];
  bst_bits last[BST_CONV_NEURON_T];
} bst_charge;

/// One plane of Theta[t, s], s the last step below t that spiked; `h` is [t] planes.
BST_INLINE bst_bits bst_last_theta(int t, const bst_charge* charge, const bst_bits* h) {
  bst_bits plane = bst_load_bits(h);
  for (int s = 1; s < t; ++s) plane ^= bst_load_bits(h + s) & charge->last[s - 1];
  return plane;
}

/// Step t; see the head of sliced.h.
/// @param n_planes of the counters, @param n_here of I_t, at most `width`, those of Theta
BST_INLINE bst_bits bst_fire_step(int t, int n_planes, int n_here, int width, const bst_bits* h,
                                  const bst_bits* sum, bst_bits odd, bst_bits quiet,
                                  bst_charge* charge) {
  const bst_bits zero = odd ^ odd;
  bst_bits *const planes = charge->planes, borrow = zero;
  for (int i = 0; i < t - 1; ++i) {
    planes[i] = planes[i] & quiet;
    borrow = bst_bits_less(planes[i], bst_last_theta(t, charge, h + i * t), borrow);
  }
  bst_bits j = zero;
  if (t > 1) j = planes[t - 1] & quiet;
  bst_bits carry = j & odd;
  planes[t - 1] = j ^ odd;
  borrow = bst_bits_less(planes[t - 1], bst_last_theta(t, charge, h + (t - 1) * t), borrow);
  int i = t;
  for (; i < n_here - 1; ++i) {
    j = zero;
    if (t > 1) j = planes[i] & quiet;
    carry = bst_bits_add(&j, sum[i - t], carry);
    planes[i] = j;
    borrow = bst_bits_less(j, bst_last_theta(t, charge, h + i * t), borrow);
  }
  bst_bits sign = sum[i - t < n_planes ? i - t : n_planes - 1] ^ carry;
  if (t > 1) sign ^= planes[i] & quiet;
  for (int k = 0; k <= BST_MORE_SIGNS; ++k) planes[i + k] = sign;
  for (; i < width - 1; ++i) {
    borrow = bst_bits_less(sign, bst_last_theta(t, charge, h + i * t), borrow);
  }
  // Signs weigh -2^(width-1): I < Theta iff (Theta's sign) < (I's sign) with the borrow.
  return ~bst_bits_less(bst_last_theta(t, charge, h + i * t), sign, borrow);
}

/// All steps of one vector of neurons.
/// @param sums   step t at sums + t * stride, @param n_planes of them that hold a number
/// @param odd    [n_steps], @param spikes out: [n_steps]
static void bst_fire_steps(int n_steps, int n_planes, int stride, const bst_theta_head* head,
                           const bst_bits* theta, const bst_bits* sums, const bst_bits* odd,
                           bst_bits* spikes) {
  bst_charge charge;
  bst_bits spike = *odd, quiet = *odd;
  for (int t = 1; t <= n_steps; ++t, sums += stride) {
    const int width = head->widths[t - 1], most = BST_CHARGE_PLANES(n_planes, t);
    const int n_here = width < most ? width : most;
    if (t > 1) {
      quiet = ~spike;
      for (int s = 1; s < t - 1; ++s) charge.last[s - 1] &= quiet;
      charge.last[t - 2] = spike;
    }
#define BST_FIRE_STEP(t) \
  bst_fire_step(t, n_planes, n_here, width, theta, sums, odd[(t) - 1], quiet, &charge)
    if (t == 1) {
      spike = BST_FIRE_STEP(1);
    } else if (t == 4) {
      spike = BST_FIRE_STEP(4);
    } else {
      spike = BST_FIRE_STEP(t);
    }
#undef BST_FIRE_STEP
    spikes[t - 1] = spike;
    theta += width * t;
  }
}
