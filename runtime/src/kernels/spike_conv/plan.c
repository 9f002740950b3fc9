// SPDX-License-Identifier: MIT
// Deciding which lists a call takes. It runs once per call, on a sample.

#include "plan.h"

/// Inputs of some cells that follow a pattern.
static uint64_t bst_count_pattern(const bst_conv_geometry* g, const uint64_t* spikes, size_t apart,
                                  uint32_t pattern) {
  const size_t cells = (size_t)g->height * (size_t)g->width, frame_words = cells * g->in_words;
  uint64_t found = 0;
  for (size_t cell = 0; cell < cells; cell += apart) {
    for (size_t w = 0; w < g->in_words; ++w) {
      const uint64_t* const word = spikes + cell * g->in_words + w;
      uint64_t inputs = UINT64_MAX;
      for (int t = 0; t < g->n_steps; ++t) {
        inputs &= word[(size_t)t * frame_words] ^ ((uint64_t)(pattern >> t & 1) - 1);
      }
      found += bst_set_bits(inputs);
    }
  }
  return found;
}

/// A pattern gets a list where that saves more rows per window than it costs: a list more to pad
/// and two additions of counters are about as much work as BST_LIST_ROWS rows, a
/// word more to list about BST_WORD_ROWS. Patterns are used where that saves BST_PLAN_ROWS more
/// than that, for they also rule out shorter ways. A few cells are asked; small windows are not
/// worth it.
bst_list_plan bst_plan_lists(const bst_conv_geometry* g, const bst_strip* strip, bool periodic,
                             const uint64_t* spikes) {
  enum {
    BST_LIST_ROWS = 64,
    BST_WORD_ROWS = 8,
    BST_PLAN_ROWS = 200,
    BST_LEAST_FAN_IN = 512,
    BST_SAMPLE_WORDS = 32
  };
  const size_t cells = (size_t)g->height * (size_t)g->width;
  const size_t apart = (cells * g->in_words + BST_SAMPLE_WORDS - 1) / BST_SAMPLE_WORDS;
  const uint64_t n_inputs = (cells + apart - 1) / apart * (uint64_t)g->n_in;
  const uint64_t cost = BST_LIST_ROWS + BST_WORD_ROWS * g->in_words * (uint64_t)strip->n_pixels;
  const bst_list_plan by_step = {BST_BY_STEP, g->n_steps, g->n_steps, 1, UINT32_MAX, {0}};
  bst_list_plan plan = {BST_BY_PATTERN, g->n_steps, 0, 1, 0, {0}};
  uint64_t saved_rows = 0;
  if (periodic) return (bst_list_plan){BST_BY_PERIOD, g->n_steps, g->n_steps, 1, UINT32_MAX, {0}};
  if (g->n_steps > BST_PATTERN_STEPS || strip->fan_in < BST_LEAST_FAN_IN) return by_step;
  plan.n_lists = bst_n_lists(BST_BY_PATTERN, g->n_steps);
  for (int p = 0; p < plan.n_lists; ++p) {
    const uint32_t pattern = (uint32_t)p + 1, saved = bst_set_bits(pattern) - 1;
    const uint64_t rows = saved == 0 ? 0
                                     : bst_count_pattern(g, spikes, apart, pattern) * saved *
                                           strip->fan_in / n_inputs;
    const bool has_list = saved == 0 || rows > cost;
    if (rows > cost) saved_rows += rows - cost;
    plan.lists |= (uint32_t)has_list << p;
    for (int l = 0; l < plan.n_lists; ++l) {  // its own list, or those of its steps
      const uint32_t other = (uint32_t)l + 1;
      const bool is_in = has_list ? l == p : bst_is_single(other) && (other & pattern) != 0;
      plan.truth[l] |= (uint32_t)is_in << pattern;
    }
  }
  return saved_rows > BST_PLAN_ROWS ? plan : by_step;
}
