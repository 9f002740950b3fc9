// SPDX-License-Identifier: MIT
// The neurons that end an attention product, all on counts 0 .. max_count (numerics.md 7), and when
// they are integer thresholds on sums of counts.
//
// SOFT: the binarising neuron J_t = J_{t-1} + 2^(t-1) A_t, fires iff J_t >= thr1 2^(t-1), then
//   J_t -= thr1 2^(t-1). The low t - 1 bits of J_t take part in nothing any more, so K_t =
//   floor(J_t / 2^(t-1)) is enough: K_t = floor(K_{t-1} / 2) + A_t, fires iff K_t >= thr1, then
//   K_t -= thr1. K stays below 2 max_count.
//
// HARD: the stream neuron with tau = 2 and hard reset to 0 on a table x_t = X[t, m]. Nested floors
//   are one: after a reset at step s, with n = t - s,
//     decay_input:  h_t = floor(sum_{k=s+1..t} 2^(k-s-1) x_k / 2^n)
//     otherwise:    h_t = floor(sum 2^(k-s) x_k / 2^n)
//   so it fires iff sum 2^(k-s-1) x_k >= theta 2^n (or theta 2^(n-1)). Let P / M be the slope of
//   the table, M = max_count, P = X[1, M], and D_k(m) = M X[k, m] - P m, what is not linear in it.
//   With J = sum 2^(k-1) m_k over the same steps (a multiple of 2^s) the neuron fires iff
//     P J / 2^s + E >= M theta 2^n (or half of it),  E = sum 2^(k-s-1) D_k(m_k)
//   and E lies between the sums of the least and the greatest D_k. C_t = ceil(M theta 2^t / P) is a
//   threshold for J whatever s is, if for every s < t the sum is on the right side for all E, both
//   at the least J >= C_t that is a multiple of 2^s and at the one before it. This is checked for
//   every table before it is used. Membranes stay within 32 bits, where wrapping is no question:
//   |x| < 2^29 gives |h| < 2^30. Where P <= 0 the same bounds may show that it never fires.
//
// LANES: everything else, in lanes of int32.

#ifndef BST_KERNELS_SPIKE_ATTENTION_RULE_H_
#define BST_KERNELS_SPIKE_ATTENTION_RULE_H_

#include <stdbool.h>
#include <string.h>

#include "../integers.h"
#include "../stream_neuron/neuron.h"

enum {
  BST_ATTENTION_MAX_T = 16,
  BST_ATTENTION_PLANES = 24,      // 17 of counts up to 65536, one more for SOFT, in whole bytes
  BST_ATTENTION_MAX_HARD = 1024,  // counts for which HARD is tried: every product below 2^59
};

typedef enum bst_attention_kind {
  BST_ATTENTION_SOFT,
  BST_ATTENTION_HARD,
  BST_ATTENTION_LANES,
} bst_attention_kind;

typedef struct bst_attention_rule {
  bst_attention_kind kind;
  uint32_t threshold[BST_ATTENTION_MAX_T];  ///< thr1 for SOFT; C_t of step t + 1 for HARD
  /// LANES: x = table[t * table_step + count], or count << frac_bits without a table.
  const int32_t* table;
  size_t table_step;
  int frac_bits;
  bst_neuron neuron;
} bst_attention_rule;

/// Least and greatest weighted sum of D over the last n steps before each step; see the file head.
typedef struct bst_attention_bounds {
  int64_t slope, low[BST_ATTENTION_MAX_T], high[BST_ATTENTION_MAX_T];
} bst_attention_bounds;

/// Bits of J after step t (0-based): J <= max_count (2^(t+1) - 1).
static inline int bst_attention_hard_planes(size_t max_count, int t) {
  return bst_bit_length(max_count) + t + 1;
}

static inline int64_t bst_attention_shift_up(int64_t a, int n) { return a * (INT64_C(1) << n); }

/// Whether J >= `threshold` is what the neuron does at step t for every J and every time s of the
/// last reset (t and s count steps: 1 is the first). All products are below 2^59.
static inline bool bst_attention_proves(const bst_attention_bounds* b, size_t max_count,
                                        int64_t goal, int doubled, int t, int64_t threshold) {
  int64_t low = 0, high = 0;
  for (int s = t - 1; s >= 0; --s) {  // step s + 1 comes in with weight 1
    low = 2 * low + b->low[s];
    high = 2 * high + b->high[s];
    const int64_t most = (int64_t)max_count * ((INT64_C(1) << (t - s)) - 1);
    const int64_t first = -((-threshold) >> s);  // in units of 2^s
    const int64_t last_quiet = first - 1 < most ? first - 1 : most;
    const int64_t here = bst_attention_shift_up(goal, t - s - doubled);
    if (first <= most && b->slope * first + low < here) return false;
    if (last_quiet >= 0 && b->slope * last_quiet + high >= here) return false;
    if (b->slope <= 0 && high >= here) return false;  // never fires: worst at J = 0
  }
  return true;
}

/// Bounds of one step of a table; false where an entry is too large.
BST_INLINE bool bst_attention_bound(const int32_t* row, size_t max_count, int64_t slope,
                                    int64_t* low, int64_t* high) {
  const int64_t m_count = (int64_t)max_count;
  int64_t least = 0, greatest = 0;
  int32_t size = 0;
  for (size_t m = 0; m <= max_count; ++m) {
    const int64_t d = m_count * row[m] - slope * (int64_t)m;
    least = d < least ? d : least;
    greatest = d > greatest ? d : greatest;
    size |= row[m] ^ (row[m] >> 31);
  }
  *low = least;
  *high = greatest;
  return size < (INT32_C(1) << 29);
}

BST_INLINE bool bst_attention_same_row(const int32_t* a, const int32_t* b, size_t n) {
  int32_t differ = 0;
  for (size_t i = 0; i < n; ++i) differ |= a[i] ^ b[i];
  return differ == 0;
}

BST_INLINE bool bst_attention_bound_all(int n_steps, size_t max_count, const int32_t* table,
                                        size_t table_step, bst_attention_bounds* b) {
  b->slope = table[max_count];
  for (int t = 0; t < n_steps; ++t) {
    const int32_t* const row = table + (size_t)t * table_step;
    if (t > 0 && bst_attention_same_row(table, row, max_count + 1)) {
      b->low[t] = b->low[0];
      b->high[t] = b->high[0];
    } else if (!bst_attention_bound(row, max_count, b->slope, &b->low[t], &b->high[t])) {
      return false;
    }
  }
  return true;
}

/// Thresholds of all steps from the bounds, if they can be proved.
static inline bool bst_attention_find_thresholds(int n_steps, size_t max_count,
                                                 const bst_attention_bounds* b,
                                                 const bst_neuron* neuron, uint32_t* threshold) {
  const int64_t goal = (int64_t)max_count * neuron->theta;
  const int doubled = (neuron->flags & BST_DECAY_INPUT) == 0;
  for (int t = 1; t <= n_steps; ++t) {
    const int64_t most = (int64_t)max_count * ((INT64_C(1) << t) - 1), never = most + 1;
    int64_t found = never;
    if (b->slope > 0) {
      const int64_t sum = bst_attention_shift_up(goal, t - doubled);
      const int64_t exact = (sum + b->slope - 1) / b->slope;
      found = exact < never ? exact : never;
    }
    if (!bst_attention_proves(b, max_count, goal, doubled, t, found)) return false;
    threshold[t - 1] = (uint32_t)found;
  }
  return true;
}

static inline bool bst_attention_may_be_hard(const bst_neuron* p) {
  return (p->flags & BST_HALVING) != 0 && (p->flags & BST_SOFT_RESET) == 0 && p->v_reset == 0 &&
         p->theta > 0;
}

/// The rule of a stream neuron on a table [n_steps], `table_step` entries apart, of
/// 0 .. max_count >= 1.
BST_INLINE bst_attention_rule bst_attention_table_rule(int n_steps, size_t max_count,
                                                       const int32_t* table, size_t table_step,
                                                       bst_neuron neuron) {
  bst_attention_rule rule = {BST_ATTENTION_LANES, {0}, table, table_step, 0, neuron};
  bst_attention_bounds bounds;
  if (bst_attention_may_be_hard(&neuron) &&
      bst_attention_bound_all(n_steps, max_count, table, table_step, &bounds) &&
      bst_attention_find_thresholds(n_steps, max_count, &bounds, &neuron, rule.threshold)) {
    rule.kind = BST_ATTENTION_HARD;
  }
  return rule;
}

/// The rule of a binarising neuron. Form 0: SOFT with thr1. Form 1: the stream neuron on
/// count << frac_bits, which is linear and so HARD wherever the neuron allows.
static inline bst_attention_rule bst_attention_count_rule(int n_steps, size_t max_count, int form,
                                                          int thr1, int frac_bits,
                                                          bst_neuron neuron) {
  bst_attention_rule rule = {BST_ATTENTION_LANES, {0}, NULL, 0, frac_bits, neuron};
  bst_attention_bounds bounds;
  memset(&bounds, 0, sizeof bounds);
  bounds.slope = bst_attention_shift_up((int64_t)max_count, frac_bits);
  if (form == 0) {
    const uint32_t most = 2 * (uint32_t)max_count;  // never reached
    rule.kind = BST_ATTENTION_SOFT;
    rule.threshold[0] = (uint32_t)thr1 < most ? (uint32_t)thr1 : most;
  } else if (bst_attention_may_be_hard(&neuron) && max_count <= BST_ATTENTION_MAX_HARD &&
             bounds.slope < (INT64_C(1) << 29) &&
             bst_attention_find_thresholds(n_steps, max_count, &bounds, &neuron, rule.threshold)) {
    rule.kind = BST_ATTENTION_HARD;
  }
  return rule;
}

#endif  // BST_KERNELS_SPIKE_ATTENTION_RULE_H_
