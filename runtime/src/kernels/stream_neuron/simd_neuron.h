// SPDX-License-Identifier: MIT
// One time step of the stream neuron (neuron.h) on a vector of int32 lanes. A body: included by the
// file of one instruction set after its vocabulary, between BST_VECTOR_BEGIN and BST_VECTOR_END.
//
// The two resets are one formula: v = (h & keep) - drop, with keep = -1 and drop = theta for the
// soft one, keep = 0 and drop = -v_reset for the hard one; it wraps to the same 32 bits.

#ifndef BST_KERNELS_STREAM_NEURON_SIMD_NEURON_H_
#define BST_KERNELS_STREAM_NEURON_SIMD_NEURON_H_

#include "neuron.h"

/// How a neuron charges: a constant wherever it matters, so that each form is code of its own.
typedef enum bst_vec_charge {
  BST_VEC_HALVE_BOTH,  // halving, decay_input
  BST_VEC_HALVE_V,     // halving
  BST_VEC_SCALE_BOTH,  // any tau, decay_input
  BST_VEC_SCALE_V,     // any tau
} bst_vec_charge;

static inline bst_vec_charge bst_vec_charge_of(int flags) {
  if ((flags & BST_HALVING) != 0) {
    return (flags & BST_DECAY_INPUT) != 0 ? BST_VEC_HALVE_BOTH : BST_VEC_HALVE_V;
  }
  return (flags & BST_DECAY_INPUT) != 0 ? BST_VEC_SCALE_BOTH : BST_VEC_SCALE_V;
}

/// Parameters in every lane; v starts at `start`.
typedef struct bst_vec_neuron {
  bst_vec theta, start, keep, drop, r;
} bst_vec_neuron;

static inline bst_vec_neuron bst_vec_neuron_of(int flags, int theta, int v_reset, int r) {
  const bool soft = (flags & BST_SOFT_RESET) != 0;
  const bst_vec_neuron made = {
      .theta = bst_vec_set32(theta),
      .start = bst_vec_set32(v_reset),
      .keep = bst_vec_set32(soft ? -1 : 0),
      .drop = bst_vec_set32(soft ? theta : bst_sub32(0, v_reset)),
      .r = bst_vec_set32(r),
  };
  return made;
}

/// Charge, fire, reset.
/// @param v membrane potentials, updated
/// @return the lanes that stay silent
BST_INLINE bst_mask bst_vec_neuron_step(bst_vec_charge charge, const bst_vec_neuron* p, bst_vec x,
                                        bst_vec* v) {
  bst_vec h;
  if (charge == BST_VEC_HALVE_BOTH) {
    h = bst_vec_average32(*v, x);
  } else if (charge == BST_VEC_HALVE_V) {
    h = bst_vec_add32(bst_vec_half32(*v), x);
  } else if (charge == BST_VEC_SCALE_BOTH) {
    h = bst_vec_add32(*v, bst_vec_scale30(x, *v, p->r));
  } else {
    h = bst_vec_add32(bst_vec_scale30(*v, bst_vec_zero(), p->r), x);
  }
  const bst_mask silent = bst_vec_below32(h, p->theta);
  const bst_vec reset = bst_vec_sub32(bst_vec_and(h, p->keep), p->drop);
  *v = bst_vec_choose32(silent, h, reset);
  return silent;
}

#endif  // BST_KERNELS_STREAM_NEURON_SIMD_NEURON_H_
