// SPDX-License-Identifier: MIT
// The product of product.h, bit-sliced. A body, like that; the neurons on int32 lanes come before
// it (lanes_vector.h, lanes_words.h).
//
// A vector holds BST_VEC_WORDS items x 64 lanes, one word of lanes per item. Event e adds the row
// "word of y[e] in the words whose item has x[e, i] = 1, 0 in the others". Rows are added sixteen
// at a time (Harley-Seal): the planes of weight 1, 2, 4 and 8 stay in registers, one carry of
// weight 16 leaves per sixteen rows. The neurons of rule.h follow on the planes, or on int32 lanes
// where they have to, and the spikes of item i are words of bits l.
//
// Two ways through the events. With vectors of eight words every event is added, since most have
// one of eight items (BST_ATTENTION_DENSE): x is given as rows [event][items], whose byte is the
// mask. With fewer words only events that have an item are added: x is given as rows
// [item][events], the OR of a vector's items is the list, padded with rows of zeros to whole groups
// of eight. Either way the cost of a list is shared by all words of lanes.

#ifndef BST_KERNELS_SPIKE_ATTENTION_MULTIPLY_H_
#define BST_KERNELS_SPIKE_ATTENTION_MULTIPLY_H_

#include "product.h"

enum { BST_ATTENTION_GROUP = 8 };

// ---- Events -------------------------------------------------------------------------------------

/// The events of one vector of items at one step.
typedef struct bst_attention_events {
  const uint8_t* masks;  ///< dense: of event e at e * mask_stride
  size_t mask_stride;
  const uint32_t* list;  ///< else: event + mask * 2^24
  size_t n;
} bst_attention_events;

/// Append the events `first` + (bits of `any`) to a list; rows[i] has the bits of item i, `any` is
/// their OR. The 8 x 8 transposition of the rows has the mask of event e in byte e / 8 of word e
/// % 8.
static inline size_t bst_attention_append(uint64_t any, uint64_t rows[8], uint32_t first,
                                          uint32_t* list, size_t n) {
  uint8_t masks[64];
  if (BST_ATTENTION_ITEMS > 1) {
    bst_transpose_planes(rows);
    memcpy(masks, rows, sizeof masks);
  }
  for (; any != 0; any &= any - 1) {
    const uint32_t e = bst_low_bit(any);
    const uint32_t mask = BST_ATTENTION_ITEMS > 1 ? masks[e % 8 * 8 + e / 8] : 1;
    list[n++] = (first + e) | mask << 24;
  }
  return n;
}

/// List the events of up to BST_ATTENTION_ITEMS items from `item` on at step t; return how many,
/// padded.
static inline size_t bst_attention_list(const bst_attention_product* p, size_t item, size_t t,
                                        uint32_t* list) {
  const size_t left = p->n_items - item;
  const uint64_t* const from = p->x.words + t * p->x.step + item * p->x.stride;
  size_t n = 0;
  for (size_t done = 0; done < p->n_events; done += 64) {
    const size_t n_bits = p->n_events - done < 64 ? p->n_events - done : 64;
    uint64_t rows[8] = {0}, any = 0;
    for (size_t j = 0; j < BST_ATTENTION_ITEMS && j < left; ++j) {
      bst_slice_bits(from + j * p->x.stride + done / 64 * p->x.word_stride, p->x.first, n_bits,
                     &rows[j]);
      any |= rows[j];
    }
    n = bst_attention_append(any, rows, (uint32_t)done, list, n);
  }
  while (n % BST_ATTENTION_GROUP != 0) list[n++] = 0;
  return n;
}

/// Events of the items from `item` on at every step.
static inline void bst_attention_find_events(int n_steps, const bst_attention_product* p,
                                             size_t item, bst_attention_events* events) {
  const size_t capacity = bst_list_capacity(p->n_events);
  for (size_t t = 0; t < (size_t)n_steps; ++t) {
    bst_attention_events* const at = &events[t];
    if (BST_ATTENTION_DENSE) {
      const size_t bit = p->x.first + item;
      at->masks =
          (const uint8_t*)(p->x.words + t * p->x.step + bit / 64 * p->x.word_stride) + bit % 64 / 8;
      at->mask_stride = 8 * p->x.stride;
      at->n = p->n_events;
    } else {
      uint32_t* const list = p->lists + t * capacity;
      at->list = list;
      at->n = bst_attention_list(p, item, t, list);
    }
  }
}

// ---- Counts -------------------------------------------------------------------------------------

/// The rows of a sum, one after the other.
typedef struct bst_attention_rows {
  const uint64_t* y;  ///< word of lanes of event 0; dense: of the next event
  size_t y_stride;
  const uint8_t* mask;
  size_t mask_stride;
  const uint32_t* list;
} bst_attention_rows;

BST_INLINE bst_vec bst_attention_row(bst_attention_rows* r) {
  if (BST_ATTENTION_DENSE) {
    const bst_vec row = bst_vec_spread(*r->y, *r->mask);
    r->y += r->y_stride;
    r->mask += r->mask_stride;
    return row;
  }
  const uint32_t entry = *r->list++;
  return bst_vec_spread(r->y[(entry & 0xFFFFFF) * r->y_stride], entry >> 24);
}

/// *sum += a + b, lane by lane; returns the carry.
BST_INLINE bst_vec bst_attention_full_add(bst_vec* sum, bst_vec a, bst_vec b) {
  const bst_vec half = bst_vec_xor(a, b), c = *sum;
  *sum = bst_vec_xor3(a, b, c);
  return bst_vec_carry(half, a, b, c);
}

/// *sum += a; returns the carry.
BST_INLINE bst_vec bst_attention_half_add(bst_vec* sum, bst_vec a) {
  const bst_vec c = *sum;
  *sum = bst_vec_xor(c, a);
  return bst_vec_and(c, a);
}

typedef struct bst_attention_counter {
  bst_vec ones, twos, fours, eights;
} bst_attention_counter;

/// Add two rows; returns the carry of weight 2.
BST_INLINE bst_vec bst_attention_add2(bst_attention_counter* n, bst_attention_rows* rows) {
  const bst_vec a = bst_attention_row(rows);
  return bst_attention_full_add(&n->ones, a, bst_attention_row(rows));
}

/// Add four rows; returns the carry of weight 4.
BST_INLINE bst_vec bst_attention_add4(bst_attention_counter* n, bst_attention_rows* rows) {
  const bst_vec twos = bst_attention_add2(n, rows);
  return bst_attention_full_add(&n->twos, twos, bst_attention_add2(n, rows));
}

/// Add eight rows; returns the carry of weight 8.
BST_INLINE bst_vec bst_attention_add8(bst_attention_counter* n, bst_attention_rows* rows) {
  const bst_vec fours = bst_attention_add4(n, rows);
  return bst_attention_full_add(&n->fours, fours, bst_attention_add4(n, rows));
}

/// Add a carry of weight 16 into the planes in memory.
BST_INLINE void bst_attention_ripple(bst_vec carry, int n_planes, bst_vec* planes) {
  for (int p = 4; p < n_planes; ++p) carry = bst_attention_half_add(&planes[p], carry);
}

/// Counts as planes 0 .. n_planes - 1, which hold them.
BST_INLINE void bst_attention_count(const bst_attention_events* from, const uint64_t* y,
                                    size_t y_stride, int n_planes, bst_vec* planes) {
  const bst_vec zero = bst_vec_zero();
  bst_attention_counter n = {zero, zero, zero, zero};
  bst_attention_rows rows = {y, y_stride, from->masks, from->mask_stride, from->list};
  for (int p = 4; p < n_planes; ++p) planes[p] = zero;
  for (size_t left = from->n; left >= 16; left -= 16) {
    bst_vec carry = bst_attention_add8(&n, &rows);
    carry = bst_attention_full_add(&n.eights, carry, bst_attention_add8(&n, &rows));
    bst_attention_ripple(carry, n_planes, planes);
  }
  if ((from->n & 8) != 0) {
    const bst_vec carry = bst_attention_add8(&n, &rows);
    bst_attention_ripple(bst_attention_half_add(&n.eights, carry), n_planes, planes);
  }
  if (BST_ATTENTION_DENSE) {  // lists are padded
    for (size_t left = from->n & 7; left > 0; --left) {
      bst_vec carry = bst_attention_half_add(&n.ones, bst_attention_row(&rows));
      carry = bst_attention_half_add(&n.twos, carry);
      carry = bst_attention_half_add(&n.fours, carry);
      bst_attention_ripple(bst_attention_half_add(&n.eights, carry), n_planes, planes);
    }
  }
  planes[0] = n.ones;
  planes[1] = n.twos;
  planes[2] = n.fours;
  planes[3] = n.eights;
}

// ---- Neurons ------------------------------------------------------------------------------------

/// One step of SOFT; m: n_planes planes of the count and one of zeros.
/// @param k state, n_planes + 1 planes and one of zeros
BST_INLINE bst_vec bst_attention_soft_step(uint32_t threshold, int n_planes, const bst_vec* m,
                                           bst_vec* k) {
  bst_vec carry = bst_vec_zero(), borrow = carry, differ[BST_ATTENTION_PLANES];
  for (int p = 0; p <= n_planes; ++p) {
    const bst_vec a = k[p + 1], b = m[p];
    const bst_vec half = bst_vec_xor(a, b), sum = bst_vec_xor3(a, b, carry);
    const bst_vec bit = bst_vec_set64(0 - (uint64_t)(threshold >> p & 1));
    carry = bst_vec_carry(half, a, b, carry);
    k[p] = sum;
    differ[p] = bst_vec_xor(bit, borrow);  // sum - threshold is sum ^ differ
    borrow = bst_vec_borrow(differ[p], sum, bit, borrow);
  }
  const bst_vec fired = bst_vec_clear(bst_vec_set64(UINT64_MAX), borrow);
  for (int p = 0; p <= n_planes; ++p) k[p] = bst_vec_xor(k[p], bst_vec_and(differ[p], fired));
  return fired;
}

/// Where the number in planes first .. first + n - 1 and those below is at least `threshold`:
/// `reaches` is the answer for the planes below, all ones where there are none.
BST_INLINE bst_vec bst_attention_reaches(uint32_t threshold, int first, int n,
                                         const bst_vec* planes, bst_vec reaches) {
  for (int p = 0; p < n; ++p) {
    reaches = (threshold >> (first + p) & 1) != 0 ? bst_vec_and(planes[p], reaches)
                                                  : bst_vec_or(planes[p], reaches);
  }
  return reaches;
}

/// Planes of J: the lowest t at step t (0-based), to which nothing is added any more, and those
/// from weight 2^t on.
typedef struct bst_attention_sum {
  bst_vec low[BST_ATTENTION_MAX_T], high[BST_ATTENTION_PLANES];
} bst_attention_sum;

/// Step t (0-based) of HARD.
BST_INLINE bst_vec bst_attention_hard_step(uint32_t threshold, int t, bool last, int n_planes,
                                           const bst_vec* m, bst_attention_sum* j) {
  bst_vec* const high = j->high;
  if (t == 0) {
    for (int p = 0; p <= n_planes; ++p) high[p] = m[p];
  } else {
    bst_vec carry = bst_vec_zero();
    j->low[t - 1] = high[0];
    for (int p = 0; p < n_planes; ++p) {
      const bst_vec a = high[p + 1], half = bst_vec_xor(a, m[p]);
      high[p] = bst_vec_xor3(a, m[p], carry);
      carry = bst_vec_carry(half, a, m[p], carry);
    }
    high[n_planes] = carry;
  }
  bst_vec fired = bst_attention_reaches(threshold, 0, t, j->low, bst_vec_set64(UINT64_MAX));
  fired = bst_attention_reaches(threshold, t, n_planes + 1, high, fired);
  if (!last) {
    for (int p = 0; p < t; ++p) j->low[p] = bst_vec_clear(j->low[p], fired);
    for (int p = 0; p <= n_planes; ++p) high[p] = bst_vec_clear(high[p], fired);
  }
  return fired;
}

// ---- The product --------------------------------------------------------------------------------

/// Store the words of up to `n` items.
static inline void bst_attention_store(bst_vec spikes, size_t n, size_t stride, uint64_t* out) {
  uint64_t words[BST_ATTENTION_ITEMS];
  if (n >= BST_ATTENTION_ITEMS && stride == 1) {
    bst_vec_store(out, spikes);
    return;
  }
  bst_vec_store(words, spikes);
  for (size_t j = 0; j < BST_ATTENTION_ITEMS && j < n; ++j) out[j * stride] = words[j];
}

// The counts and the neurons on planes as functions of their own: once for the usual number of
// planes, so that they stay in registers, and once for any. Fewer planes are as good as seven. (The
// neurons of two items are too little work for that.)

enum { BST_ATTENTION_USUAL = 7 };

BST_NOINLINE void bst_attention_count_usual(const bst_attention_events* from, const uint64_t* y,
                                            size_t y_stride, bst_vec* planes) {
  bst_attention_count(from, y, y_stride, BST_ATTENTION_USUAL, planes);
}

BST_NOINLINE void bst_attention_count_any(const bst_attention_events* from, const uint64_t* y,
                                          size_t y_stride, int n_planes, bst_vec* planes) {
  bst_attention_count(from, y, y_stride, n_planes, planes);
}

BST_NOINLINE bst_vec bst_attention_soft_usual(uint32_t threshold, const bst_vec* m, bst_vec* k) {
  return bst_attention_soft_step(threshold, BST_ATTENTION_USUAL, m, k);
}

BST_NOINLINE bst_vec bst_attention_soft_any(uint32_t threshold, int n_planes, const bst_vec* m,
                                            bst_vec* k) {
  return bst_attention_soft_step(threshold, n_planes, m, k);
}

BST_NOINLINE bst_vec bst_attention_hard_usual(uint32_t threshold, int t, bool last,
                                              const bst_vec* m, bst_attention_sum* j) {
  return bst_attention_hard_step(threshold, t, last, BST_ATTENTION_USUAL, m, j);
}

BST_NOINLINE bst_vec bst_attention_hard_any(uint32_t threshold, int t, bool last, int n_planes,
                                            const bst_vec* m, bst_attention_sum* j) {
  return bst_attention_hard_step(threshold, t, last, n_planes, m, j);
}

/// What the neurons of a vector keep from step to step.
typedef union bst_attention_state {
  bst_vec soft[BST_ATTENTION_PLANES];
  bst_attention_sum hard;
  int32_t lanes[BST_ATTENTION_ITEMS][64];
} bst_attention_state;

/// Step t (0-based) of any kind; `m` as bst_attention_vector leaves it.
static inline bst_vec bst_attention_step(const bst_attention_rule* rule,
                                         const bst_attention_lanes* lanes, int t, int n_steps,
                                         int n_planes, const bst_vec* m,
                                         bst_attention_state* state) {
  const bool usual = BST_ATTENTION_ITEMS > 2 && n_planes == BST_ATTENTION_USUAL;
  if (rule->kind == BST_ATTENTION_LANES) {
    return bst_attention_lanes_step(lanes, t, n_planes, m, state->lanes);
  }
  if (rule->kind == BST_ATTENTION_SOFT) {
    const uint32_t threshold = rule->threshold[0];
    return usual ? bst_attention_soft_usual(threshold, m, state->soft)
                 : bst_attention_soft_any(threshold, n_planes, m, state->soft);
  }
  const uint32_t threshold = rule->threshold[t];
  const bool last = t == n_steps - 1;
  return usual ? bst_attention_hard_usual(threshold, t, last, m, &state->hard)
               : bst_attention_hard_any(threshold, t, last, n_planes, m, &state->hard);
}

/// All steps of the items from `item` on and the word `w` of lanes.
static inline void bst_attention_vector(int n_planes, int n_steps, const bst_attention_product* p,
                                        const bst_attention_rule* rule,
                                        const bst_attention_lanes* lanes_rule,
                                        const bst_attention_events* events, size_t item, size_t w) {
  bst_vec planes[BST_ATTENTION_PLANES];
  bst_attention_state state;
  const size_t left = p->n_lanes - 64 * w;
  const bst_vec lanes = bst_vec_set64(left < 64 ? (UINT64_C(1) << left) - 1 : UINT64_MAX);
  for (int i = 0; i < n_planes + 2 && rule->kind == BST_ATTENTION_SOFT; ++i) {
    state.soft[i] = bst_vec_zero();
  }
  for (int j = 0; j < BST_ATTENTION_ITEMS && rule->kind == BST_ATTENTION_LANES; ++j) {
    for (int i = 0; i < 64; ++i) state.lanes[j][i] = rule->neuron.v_reset;
  }
  for (int i = n_planes; i < BST_ATTENTION_PLANES; ++i) planes[i] = bst_vec_zero();
  for (int t = 0; t < n_steps; ++t) {
    const uint64_t* const y = p->y.words + (size_t)t * p->y.step + w * p->y.word_stride;
    if (BST_ATTENTION_ITEMS > 1 && n_planes == BST_ATTENTION_USUAL) {
      bst_attention_count_usual(&events[t], y, p->y.stride, planes);
    } else {
      bst_attention_count_any(&events[t], y, p->y.stride, n_planes, planes);
    }
    const bst_vec spikes =
        bst_attention_step(rule, lanes_rule, t, n_steps, n_planes, planes, &state);
    bst_attention_store(
        bst_vec_and(spikes, lanes), p->n_items - item, p->out_stride,
        p->out + (size_t)t * p->out_step + item * p->out_stride + w * p->out_word_stride);
  }
}

static inline void bst_attention_multiply(int n_steps, const bst_attention_product* p,
                                          const bst_attention_rule* rule) {
  bst_attention_events events[BST_ATTENTION_MAX_T] = {{NULL, 0, NULL, 0}};
  const int least = BST_ATTENTION_ITEMS > 1 ? BST_ATTENTION_USUAL : 0;
  const int exact = bst_bit_length(p->n_events), n_planes = exact < least ? least : exact;
  bst_attention_lanes lanes;
  if (rule->kind == BST_ATTENTION_LANES) lanes = bst_attention_lanes_of(n_steps, p->n_events, rule);
  for (size_t item = 0; item < p->n_items; item += BST_ATTENTION_ITEMS) {
    bst_attention_find_events(n_steps, p, item, events);
    for (size_t w = 0; 64 * w < p->n_lanes; ++w) {
      bst_attention_vector(n_planes, n_steps, p, rule, &lanes, events, item, w);
    }
  }
}

/// bst_attention_product_kernel of one instruction set.
#define BST_DEFINE_ATTENTION_PRODUCT(name)                                                 \
  void name(int n_steps, const bst_attention_product* p, const bst_attention_rule* rule) { \
    bst_attention_multiply(n_steps, p, rule);                                              \
  }

#endif  // BST_KERNELS_SPIKE_ATTENTION_MULTIPLY_H_
