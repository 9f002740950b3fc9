// SPDX-License-Identifier: MIT
// One time step of the stream neuron (numerics.md 5) on 64 neurons, shared by the kernels that end
// in one. Charge, fire, reset; everything int32, the general charge with a 64-bit product.
//
//   decay_input:   halving h = (v + x) >> 1     else h = v + (((x - v) R + 2^29) >> 30)
//   otherwise:     halving h = (v >> 1) + x     else h = ((v R + 2^29) >> 30) + x
//   spike = h >= theta;  v = spike ? (soft: h - theta, hard: v_reset) : h

#ifndef BST_KERNELS_STREAM_NEURON_NEURON_H_
#define BST_KERNELS_STREAM_NEURON_NEURON_H_

#include "../integers.h"

enum { BST_DECAY_INPUT = 1, BST_SOFT_RESET = 2, BST_HALVING = 4, BST_LANES = 64 };

/// Parameters in the order of step params 4..7. v starts at v_reset.
typedef struct bst_neuron {
  int32_t flags, theta, v_reset, r;
} bst_neuron;

BST_INLINE void bst_neuron_charge_halving(const bst_neuron* p, const int32_t* x, int32_t* v) {
  if ((p->flags & BST_DECAY_INPUT) != 0) {
    for (int i = 0; i < BST_LANES; ++i) v[i] = bst_average32(v[i], x[i]);
  } else {
    for (int i = 0; i < BST_LANES; ++i) v[i] = bst_add32(v[i] >> 1, x[i]);
  }
}

BST_INLINE void bst_neuron_charge_any(const bst_neuron* p, const int32_t* x, int32_t* v) {
  const int64_t r = p->r, half = INT64_C(1) << 29;  // |x - v| < 2^32, r <= 2^30: below 2^63
  if ((p->flags & BST_DECAY_INPUT) != 0) {
    for (int i = 0; i < BST_LANES; ++i) {
      v[i] = bst_wrap32(v[i] + ((((int64_t)x[i] - v[i]) * r + half) >> 30));
    }
  } else {
    for (int i = 0; i < BST_LANES; ++i) {
      v[i] = bst_wrap32(((v[i] * r + half) >> 30) + x[i]);
    }
  }
}

/// @param x     [64] inputs of this step
/// @param v     [64] membrane potentials, updated
/// @param spike [64] out: 1 or 0
BST_INLINE void bst_neuron_step(const bst_neuron* p, const int32_t* x, int32_t* v, uint8_t* spike) {
  if ((p->flags & BST_HALVING) != 0) {
    bst_neuron_charge_halving(p, x, v);
  } else {
    bst_neuron_charge_any(p, x, v);
  }
  const int32_t theta = p->theta, v_reset = p->v_reset;
  const int32_t drop = (p->flags & BST_SOFT_RESET) != 0 ? theta : 0;
  const int32_t keep = (p->flags & BST_SOFT_RESET) != 0 ? -1 : 0;
  for (int i = 0; i < BST_LANES; ++i) {
    const int32_t h = v[i], fired = -(h >= theta);
    const int32_t reset = bst_select32(keep, bst_sub32(h, drop), v_reset);
    v[i] = bst_select32(fired, reset, h);
    spike[i] = (uint8_t)(fired & 1);
  }
}

static inline void bst_neuron_start(const bst_neuron* p, int32_t* v) {
  for (int i = 0; i < BST_LANES; ++i) v[i] = p->v_reset;
}

#endif  // BST_KERNELS_STREAM_NEURON_NEURON_H_
