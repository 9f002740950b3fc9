// SPDX-License-Identifier: MIT
// One step of the neuron of sliced.h on planes. A body: included twice, with BST_FIRE(name) and
// BST_FIRE_UNROLL: for bounds that are constants, so that planes stay in registers, and for any.

/// One plane of Theta[t, s], s the last step below t that spiked; `h` is [t] planes.
BST_INLINE bst_bits BST_FIRE(theta_plane)(int t, const bst_bits* spikes, const bst_bits* h) {
  bst_bits plane = bst_load_bits(h);
  BST_FIRE_UNROLL
  for (int s = 1; s < t; ++s) plane = bst_bits_select(spikes[s - 1], bst_load_bits(h + s), plane);
  return plane;
}

/// Step t of all steps; see the file head.
/// @param n_before planes of `charge` before, @param n_here after, at most `width`, those of Theta
BST_INLINE bst_bits BST_FIRE(step)(int t, int n_planes, int n_before, int n_here, int width,
                                   const bst_bits* h, const bst_bits* sum, bst_bits odd,
                                   const bst_bits* spikes, bst_bits* charge) {
  const bst_bits zero = odd ^ odd;
  bst_bits quiet = zero, old_sign = zero, carry = zero, borrow = zero;
  if (t > 1) {
    quiet = ~spikes[t - 2];
    old_sign = charge[n_before - 1] & quiet;
  }
  BST_FIRE_UNROLL
  for (int i = 0; i < n_here; ++i) {
    bst_bits j = old_sign;
    if (i < n_before - 1) j = charge[i] & quiet;
    if (i == t - 1) {
      carry = j & odd;
      j = j ^ odd;
    } else if (i >= t) {
      const bst_bits x = sum[i - t < n_planes ? i - t : n_planes - 1];
      carry = bst_bits_add(&j, x, carry);
    }
    charge[i] = j;
    if (i < n_here - 1)
      borrow = bst_bits_less(j, BST_FIRE(theta_plane)(t, spikes, h + i * t), borrow);
  }
  const bst_bits sign = charge[n_here - 1];
  for (int i = n_here - 1; i < width - 1; ++i) {
    borrow = bst_bits_less(sign, BST_FIRE(theta_plane)(t, spikes, h + i * t), borrow);
  }
  // Signs weigh -2^(width-1): I < Theta iff (Theta's sign) < (I's sign) with the borrow.
  return ~bst_bits_less(BST_FIRE(theta_plane)(t, spikes, h + (width - 1) * t), sign, borrow);
}

#undef BST_FIRE
#undef BST_FIRE_UNROLL
