// SPDX-License-Identifier: MIT
// The neurons of LANES (rule.h) on vectors of int32. A body, like product.h.
//
// Charges. X[t, m] is a multiple of m rounded to even, so nearly always there is a number G with
//   X[t, m] = rint(m G / 2^s) for m = 0 .. M
// which is computed in 32 bits from G = 2^s whole + part: with r = m part, f = m whole + floor(r /
// 2^s) it is m whole + floor((r + 2^(s-1) - 1 + (f odd)) / 2^s), where s is the largest for which
// that sum is below 2^32. Each m confines G to an interval; G is searched for and then tried on
// every m. A step without such a G looks its charges up.

#ifndef BST_KERNELS_SPIKE_ATTENTION_LANES_VECTOR_H_
#define BST_KERNELS_SPIKE_ATTENTION_LANES_VECTOR_H_

#include "../stream_neuron/simd_neuron.h"
#include "product.h"

/// Charges of one step.
typedef struct bst_attention_line {
  bool exists;
  int32_t whole, part;
} bst_attention_line;

typedef struct bst_attention_lanes {
  const bst_attention_rule* rule;
  bst_vec_neuron neuron;
  int shift;
  bst_attention_line lines[BST_ATTENTION_MAX_T];
} bst_attention_lanes;

/// What m g lacks to the least number that rounds to x 2^shift, or has beyond the greatest; 0 where
/// it rounds to it. All products are below 2^62.
static inline int64_t bst_attention_misses(int64_t g, size_t m, int32_t x, int shift) {
  const int64_t above = (int64_t)m * g - bst_attention_shift_up(x, shift);
  const int64_t most = (INT64_C(1) << (shift - 1)) - (x & 1);
  return above > most ? above - most : above < -most ? above + most : 0;
}

/// Search from the slope of the whole row. From below all intervals g only grows, to the largest of
/// their lower ends, and from above it only falls.
static inline bst_attention_line bst_attention_find_line(const int32_t* row, size_t max_count,
                                                         int shift) {
  int64_t g = bst_attention_shift_up(row[max_count], shift) / (int64_t)max_count;
  bool fits = row[0] == 0;
  for (size_t m = max_count; m > 0; --m) {
    const int64_t miss = bst_attention_misses(g, m, row[m], shift), n = (int64_t)m;
    if (miss != 0) g -= (miss > 0 ? miss + n - 1 : miss - n + 1) / n;
  }
  for (size_t m = 1; m <= max_count; ++m) {
    fits = fits && bst_attention_misses(g, m, row[m], shift) == 0;
  }
  const int64_t part = g & ((INT64_C(1) << shift) - 1);
  return (bst_attention_line){fits, bst_wrap32(g >> shift), (int32_t)part};
}

static inline bst_attention_lanes bst_attention_lanes_of(int n_steps, size_t max_count,
                                                         const bst_attention_rule* rule) {
  const bst_neuron* const p = &rule->neuron;
  bst_attention_lanes lanes = {
      .rule = rule,
      .neuron = bst_vec_neuron_of(p->flags, p->theta, p->v_reset, p->r),
      .shift = 31 - bst_bit_length(max_count),
  };
  for (int t = 0; t < n_steps; ++t) {
    if (max_count > UINT16_MAX) {
      lanes.lines[t] = (bst_attention_line){false, 0, 0};
    } else if (rule->table == NULL) {
      lanes.lines[t] = (bst_attention_line){true, INT32_C(1) << rule->frac_bits, 0};
    } else {
      lanes.lines[t] = bst_attention_find_line(rule->table + (size_t)t * rule->table_step,
                                               max_count, lanes.shift);
    }
  }
  return lanes;
}

/// Charges of a vector of counts.
BST_INLINE bst_vec bst_attention_charge(const bst_attention_line* line, int shift, bst_vec m) {
  const bst_vec half = bst_vec_set32((INT32_C(1) << (shift - 1)) - 1);
  const bst_vec n = bst_vec_mul32(m, bst_vec_set32(line->whole));
  const bst_vec r = bst_vec_mul32(m, bst_vec_set32(line->part));
  const bst_vec odd = bst_vec_and(bst_vec_xor(n, bst_vec_down32(r, shift)), bst_vec_set32(1));
  const bst_vec raised = bst_vec_add32(bst_vec_add32(r, half), odd);
  return bst_vec_add32(n, bst_vec_down32(raised, shift));
}

/// 64 neurons; returns their spikes.
/// @param charges instead of those of the line, or NULL
BST_INLINE uint64_t bst_attention_lanes_word(bst_vec_charge charge,
                                             const bst_attention_lanes* lanes,
                                             const bst_attention_line* line, const uint16_t* counts,
                                             const int32_t* charges, int32_t* state) {
  enum { GROUP = 4 };
  uint64_t silent = 0;
  for (size_t i = 0; i < 64; i += GROUP * BST_VEC_LANES32) {
    bst_mask masks[GROUP];
    for (size_t j = 0; j < GROUP; ++j) {
      const size_t at = i + j * BST_VEC_LANES32;
      const bst_vec m = bst_vec_load_16_to_32(counts + at);
      const bst_vec x = charges == NULL ? bst_attention_charge(line, lanes->shift, m)
                                        : bst_vec_load(charges + at);
      bst_vec v = bst_vec_load(state + at);
      masks[j] = bst_vec_neuron_step(charge, &lanes->neuron, x, &v);
      bst_vec_store(state + at, v);
    }
    silent |= bst_vec_bits32(masks, GROUP) << i;
  }
  return ~silent;
}

/// Charges of 64 counts one by one; those above UINT16_MAX have a bit in the word `high`.
static inline void bst_attention_charges(const bst_attention_rule* rule, int t,
                                         const uint16_t* counts, uint64_t high, int32_t* charges) {
  for (int i = 0; i < 64; ++i) {
    const int32_t m = counts[i] + (int32_t)((uint32_t)(high >> i & 1) << 16);
    charges[i] = rule->table == NULL ? m * (1 << rule->frac_bits)
                                     : rule->table[(size_t)t * rule->table_step + (size_t)m];
  }
}

/// @param high plane 16 of the counts, word by word
BST_INLINE bst_vec bst_attention_lanes_words(bst_vec_charge charge,
                                             const bst_attention_lanes* lanes, int t,
                                             uint16_t counts[][64], const uint64_t* high,
                                             int32_t state[][64]) {
  const bst_attention_line line = lanes->lines[t];
  uint64_t spikes[BST_ATTENTION_ITEMS];
  int32_t charges[64];
  for (int j = 0; j < BST_ATTENTION_ITEMS; ++j) {
    if (!line.exists) bst_attention_charges(lanes->rule, t, counts[j], high[j], charges);
    spikes[j] = bst_attention_lanes_word(charge, lanes, &line, counts[j],
                                         line.exists ? NULL : charges, state[j]);
  }
  return bst_vec_load(spikes);
}

/// One step (0-based) for the items of a vector.
/// @param m planes of the count, zero from n_planes on
BST_INLINE bst_vec bst_attention_lanes_step(const bst_attention_lanes* lanes, int t, int n_planes,
                                            const bst_vec* m, int32_t state[][64]) {
  uint16_t counts[BST_ATTENTION_ITEMS][64];
  uint64_t high[BST_ATTENTION_ITEMS];
  bst_vec_unpack(m, n_planes < 16 ? n_planes : 16, counts[0]);
  bst_vec_store(high, m[16]);
  switch (bst_vec_charge_of(lanes->rule->neuron.flags)) {
    case BST_VEC_HALVE_BOTH:
      return bst_attention_lanes_words(BST_VEC_HALVE_BOTH, lanes, t, counts, high, state);
    case BST_VEC_HALVE_V:
      return bst_attention_lanes_words(BST_VEC_HALVE_V, lanes, t, counts, high, state);
    case BST_VEC_SCALE_BOTH:
      return bst_attention_lanes_words(BST_VEC_SCALE_BOTH, lanes, t, counts, high, state);
    default:
      return bst_attention_lanes_words(BST_VEC_SCALE_V, lanes, t, counts, high, state);
  }
}

#endif  // BST_KERNELS_SPIKE_ATTENTION_LANES_VECTOR_H_
