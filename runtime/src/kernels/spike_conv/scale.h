// SPDX-License-Identifier: MIT
// The affine of conv_affine on vectors. A body: included after a vocabulary of vectors.

#ifndef BST_KERNELS_SPIKE_CONV_SCALE_H_
#define BST_KERNELS_SPIKE_CONV_SCALE_H_

/// y of `n_lanes` outputs from their counts, int32 in natural order.
static inline void bst_bits_scale(const int32_t* count, int32_t n_events, size_t n_lanes,
                                  const int32_t* ai, const int16_t* af, const int32_t* b,
                                  int32_t* out) {
  const bst_vec offset = bst_vec_set(true, n_events), half = bst_vec_set(true, 1 << 14);
  size_t i = 0;
  for (; i + BST_VEC_LANES32 <= n_lanes; i += BST_VEC_LANES32) {
    const bst_vec n = bst_vec_sub(true, bst_vec_up(true, bst_vec_load(count + i), 1), offset);
    const bst_vec whole = bst_vec_mul32(n, bst_vec_load(ai + i));
    const bst_vec part = bst_vec_mul32(n, bst_vec_load_16_to_32(af + i));
    const bst_vec scaled = bst_vec_add(true, whole, bst_vec_floor15(bst_vec_add(true, part, half)));
    bst_vec_store(out + i, bst_vec_add(true, scaled, bst_vec_load(b + i)));
  }
  for (; i < n_lanes; ++i) {
    out[i] = bst_add32(bst_scale_count32(2 * count[i] - n_events, ai[i], af[i]), b[i]);
  }
}

#endif  // BST_KERNELS_SPIKE_CONV_SCALE_H_
