// SPDX-License-Identifier: MIT
// Both products are sums of bit rows, so both use the event lists and counters of lanes.h.
//
// score: per step and head k is turned into rows [d][N bits]; the active channels of a query are
// the
//   list, the counter of lane j is A[n, j]. The count form has 0 <= J_t < d 2^t + what stayed below
//   the threshold, at most d (2^T - 1) in all: int32. A threshold beyond int32 is never reached, so
//   it is cut to INT32_MAX.
// value: the head's channels of v are cut out into rows [N][d bits]; the keys a query attends to
// are
//   the list, the counter of lane c is m[n, c].

#include "../lanes.h"
#include "../stream_neuron/neuron.h"
#include "spike_attention.h"

static size_t bst_attention_words(size_t bits) { return (bits + 63) / 64; }

static size_t bst_attention_align(size_t bytes) { return (bytes + 7) / 8 * 8; }

/// Event lists of all steps of one query.
typedef struct bst_attention_lists {
  uint32_t* list[16];
  size_t n_events[16], n_padded[16];
} bst_attention_lists;

// ---- score --------------------------------------------------------------------------------------

typedef struct bst_score_rule {
  int form, thr1, frac_bits;
  bst_neuron neuron;
} bst_score_rule;

/// Rows of k of one head at every step: [T][d + 1][words of N], the last of each step zero.
static size_t bst_score_row_words(int n_steps, int n_tokens, int channels, int heads) {
  const size_t d = (size_t)channels / (size_t)heads;
  return (size_t)n_steps * (d + 1) * bst_attention_words((size_t)n_tokens);
}

size_t bst_spike_attention_score_scratch_bytes(int n_steps, int n_tokens, int channels, int heads) {
  const size_t d = (size_t)channels / (size_t)heads, t = (size_t)n_steps;
  return bst_score_row_words(n_steps, n_tokens, channels, heads) * sizeof(uint64_t) +
         t * bst_attention_align(bst_list_capacity(d) * sizeof(uint32_t)) +
         bst_attention_words(d) * sizeof(uint64_t);
}

/// Transpose the head's channels of k of one step: bit j of row c = k[j, head_start + c].
static void bst_score_transpose(size_t n_tokens, size_t in_words, size_t head_start, size_t d,
                                const uint64_t* k, uint64_t* slice, uint64_t* rows) {
  const size_t n_words = bst_attention_words(n_tokens);
  memset(rows, 0, (d + 1) * n_words * sizeof *rows);
  for (size_t j = 0; j < n_tokens; ++j, k += in_words) {
    const uint64_t bit = UINT64_C(1) << (j % 64);
    bst_slice_bits(k, head_start, d, slice);
    for (size_t w = 0; w < bst_attention_words(d); ++w) {
      for (uint64_t bits = slice[w]; bits != 0; bits &= bits - 1) {
        rows[(64 * w + bst_low_bit(bits)) * n_words + j / 64] |= bit;
      }
    }
  }
}

/// Step t (1-based) of 64 binarising neurons in transposed lane order.
static uint64_t bst_score_step(const bst_score_rule* rule, int t, const int32_t* count,
                               int32_t* state) {
  uint8_t spike[64];
  if (rule->form == 0) {
    const int64_t exact = (int64_t)rule->thr1 * (INT64_C(1) << (t - 1));
    const int32_t threshold = exact > INT32_MAX ? INT32_MAX : (int32_t)exact;
    const int32_t scale = 1 << (t - 1);
    for (int i = 0; i < 64; ++i) {
      const int32_t charged = state[i] + count[i] * scale;
      const int32_t fired = -(charged >= threshold);
      state[i] = charged - (threshold & fired);
      spike[i] = (uint8_t)(fired & 1);
    }
  } else {
    int32_t x[64];
    for (int i = 0; i < 64; ++i) x[i] = count[i] * (1 << rule->frac_bits);
    bst_neuron_step(&rule->neuron, x, state, spike);
  }
  return bst_pack_transposed(spike);
}

/// One query row over all keys and steps.
static void bst_score_query(int n_steps, size_t n_tokens, size_t d, const bst_score_rule* rule,
                            const uint64_t* rows, const bst_attention_lists* lists,
                            size_t step_words, uint64_t* attention) {
  const size_t n_words = bst_attention_words(n_tokens);
  uint64_t planes[BST_MAX_PLANES][BST_SUM_WORDS];
  int32_t state[BST_SUM_WORDS][64], count[64];
  for (size_t w = 0; w < n_words; w += BST_SUM_WORDS) {
    const int n_block = n_words - w < BST_SUM_WORDS ? (int)(n_words - w) : BST_SUM_WORDS;
    for (int j = 0; j < n_block; ++j) {
      if (rule->form == 0) {
        memset(state[j], 0, sizeof state[j]);
      } else {
        bst_neuron_start(&rule->neuron, state[j]);
      }
    }
    for (int t = 0; t < n_steps; ++t) {
      const int n_planes = bst_bit_length(lists->n_events[t]);
      bst_sum_rows(rows + (size_t)t * (d + 1) * n_words + w, n_words, n_block, lists->list[t],
                   lists->n_padded[t], n_planes, planes);
      for (int j = 0; j < n_block; ++j) {
        const size_t first = (w + (size_t)j) * 64, left = n_tokens - first;
        const uint64_t mask = left < 64 ? (UINT64_C(1) << left) - 1 : UINT64_MAX;
        bst_unpack_counts(planes, n_planes, j, count);
        attention[(size_t)t * step_words + w + (size_t)j] =
            bst_score_step(rule, t + 1, count, state[j]) & mask;
      }
    }
  }
}

void bst_spike_attention_score__scalar(int n_steps, int n_tokens, int channels, int heads, int form,
                                       int thr1, int frac_bits, int flags, int theta, int v_reset,
                                       int r, const uint64_t* q, const uint64_t* k,
                                       uint64_t* attention, void* scratch) {
  const bst_score_rule rule = {form, thr1, frac_bits, {flags, theta, v_reset, r}};
  const size_t n = (size_t)n_tokens, d = (size_t)channels / (size_t)heads;
  const size_t in_words = bst_attention_words((size_t)channels), n_words = bst_attention_words(n);
  const size_t in_step = n * in_words, out_step = (size_t)heads * n * n_words;
  uint64_t* const rows = scratch;
  uint64_t* const slice = rows + bst_score_row_words(n_steps, n_tokens, channels, heads);
  uint8_t* const list_base = (uint8_t*)(slice + bst_attention_words(d));
  const size_t list_bytes = bst_attention_align(bst_list_capacity(d) * sizeof(uint32_t));
  bst_attention_lists lists;
  for (int t = 0; t < n_steps; ++t) {
    lists.list[t] = (uint32_t*)(void*)(list_base + (size_t)t * list_bytes);
  }
  for (size_t h = 0; h < (size_t)heads; ++h) {
    for (size_t t = 0; t < (size_t)n_steps; ++t) {
      bst_score_transpose(n, in_words, h * d, d, k + t * in_step, slice,
                          rows + t * (d + 1) * n_words);
    }
    for (size_t query = 0; query < n; ++query) {
      for (size_t t = 0; t < (size_t)n_steps; ++t) {
        bst_slice_bits(q + t * in_step + query * in_words, h * d, d, slice);
        lists.n_events[t] = bst_list_bits(slice, bst_attention_words(d), 0, lists.list[t], 0);
        lists.n_padded[t] = bst_pad_list((uint32_t)d, lists.list[t], lists.n_events[t]);
      }
      bst_score_query(n_steps, n, d, &rule, rows, &lists, out_step,
                      attention + (h * n + query) * n_words);
    }
  }
}

// ---- value --------------------------------------------------------------------------------------

int64_t bst_spike_attention_scale(int64_t gain, int m, int32_t exponent) {
  const int64_t product = gain * m;               // |gain| < 2^52, m <= 2^10: below 2^62
  if (product == 0 || exponent <= -64) return 0;  // below a half
  if (exponent >= 0) {
    const int64_t limit = exponent < 62 ? (INT64_C(1) << (62 - exponent)) : 0;
    if (product > limit || product < -limit) return product > 0 ? INT64_MAX : -INT64_MAX;
    return product * (INT64_C(1) << exponent);
  }
  if (exponent == -63) return 0;  // |product| < 2^62: below a half
  const int shift = -exponent;    // 1..62
  const int64_t floor = product >> shift;
  const uint64_t rest = (uint64_t)product & ((UINT64_C(1) << shift) - 1);
  const uint64_t half = UINT64_C(1) << (shift - 1);
  return floor + (rest > half || (rest == half && (floor & 1) != 0));
}

void bst_spike_attention_prepare_table(int n_steps, int heads, int n_tokens, const int64_t* gain,
                                       const int32_t* exponent, int32_t* table) {
  const size_t n_rows = (size_t)n_steps * (size_t)heads;
  for (size_t row = 0; row < n_rows; ++row) {
    for (int m = 0; m <= n_tokens; ++m) {
      *table++ = bst_wrap32(bst_spike_attention_scale(gain[row], m, exponent[row]));
    }
  }
}

/// Rows of v of one head at every step: [T][N + 1][words of d], the last of each step zero.
static size_t bst_value_row_words(int n_steps, int n_tokens, int channels, int heads) {
  const size_t d = (size_t)channels / (size_t)heads;
  return (size_t)n_steps * ((size_t)n_tokens + 1) * bst_attention_words(d);
}

size_t bst_spike_attention_value_scratch_bytes(int n_steps, int n_tokens, int channels, int heads) {
  const size_t list = bst_attention_align(bst_list_capacity((size_t)n_tokens) * sizeof(uint32_t));
  return bst_value_row_words(n_steps, n_tokens, channels, heads) * sizeof(uint64_t) +
         (size_t)n_steps * list;
}

/// One query of one head over all steps.
static void bst_value_query(int n_steps, size_t n_tokens, size_t d, const bst_neuron* p,
                            const uint64_t* rows, const bst_attention_lists* lists,
                            const int32_t* table, size_t table_step, size_t head_start,
                            size_t step_words, uint64_t* out) {
  const size_t d_words = bst_attention_words(d);
  uint64_t planes[BST_MAX_PLANES][BST_SUM_WORDS];
  int32_t state[BST_SUM_WORDS][64], x[64], count[64];
  uint8_t spike[64];
  for (size_t w = 0; w < d_words; w += BST_SUM_WORDS) {
    const int n_block = d_words - w < BST_SUM_WORDS ? (int)(d_words - w) : BST_SUM_WORDS;
    for (int j = 0; j < n_block; ++j) bst_neuron_start(p, state[j]);
    for (int t = 0; t < n_steps; ++t) {
      const int32_t* const x_of = table + (size_t)t * table_step;
      const int n_planes = bst_bit_length(lists->n_events[t]);
      bst_sum_rows(rows + (size_t)t * (n_tokens + 1) * d_words + w, d_words, n_block,
                   lists->list[t], lists->n_padded[t], n_planes, planes);
      for (int j = 0; j < n_block; ++j) {
        const size_t first = (w + (size_t)j) * 64, left = d - first < 64 ? d - first : 64;
        const uint64_t mask = left < 64 ? (UINT64_C(1) << left) - 1 : UINT64_MAX;
        bst_unpack_counts(planes, n_planes, j, count);
        for (int i = 0; i < 64; ++i) x[i] = x_of[count[i]];
        bst_neuron_step(p, x, state[j], spike);
        bst_insert_bits(out + (size_t)t * step_words, head_start + first, left,
                        bst_pack_transposed(spike) & mask);
      }
    }
  }
}

void bst_spike_attention_value__scalar(int n_steps, int n_tokens, int channels, int heads,
                                       int flags, int theta, int v_reset, int r,
                                       const uint64_t* attention, const uint64_t* v,
                                       const int32_t* table, uint64_t* out, void* scratch) {
  const bst_neuron p = {flags, theta, v_reset, r};
  const size_t n = (size_t)n_tokens, d = (size_t)channels / (size_t)heads;
  const size_t words = bst_attention_words((size_t)channels), n_words = bst_attention_words(n);
  const size_t step = n * words, map_step = (size_t)heads * n * n_words;
  const size_t d_words = bst_attention_words(d);
  uint64_t* const rows = scratch;
  uint8_t* const list_base =
      (uint8_t*)(rows + bst_value_row_words(n_steps, n_tokens, channels, heads));
  const size_t list_bytes = bst_attention_align(bst_list_capacity(n) * sizeof(uint32_t));
  bst_attention_lists lists;
  for (int t = 0; t < n_steps; ++t) {
    lists.list[t] = (uint32_t*)(void*)(list_base + (size_t)t * list_bytes);
  }
  memset(out, 0, (size_t)n_steps * step * sizeof *out);
  for (size_t h = 0; h < (size_t)heads; ++h) {
    for (size_t t = 0; t < (size_t)n_steps; ++t) {
      uint64_t* const step_rows = rows + t * (n + 1) * d_words;
      for (size_t j = 0; j < n; ++j) {
        bst_slice_bits(v + t * step + j * words, h * d, d, step_rows + j * d_words);
      }
      memset(step_rows + n * d_words, 0, d_words * sizeof *rows);
    }
    for (size_t query = 0; query < n; ++query) {
      for (size_t t = 0; t < (size_t)n_steps; ++t) {
        const uint64_t* const keys = attention + t * map_step + (h * n + query) * n_words;
        lists.n_events[t] = bst_list_bits(keys, n_words, 0, lists.list[t], 0);
        lists.n_padded[t] = bst_pad_list((uint32_t)n, lists.list[t], lists.n_events[t]);
      }
      bst_value_query(n_steps, n, d, &p, rows, &lists, table + h * (n + 1), (size_t)heads * (n + 1),
                      h * d, step, out + query * words);
    }
  }
}
