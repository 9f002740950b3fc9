// SPDX-License-Identifier: MIT
// Addition-only attention: ternary_neuron and add_neuron.

#include "kernels/add_attention/add_attention.h"
#include "kernels/stream_neuron/neuron.h"
#include "ops.h"

/// `planes` has the steps and cells of `x`, and two planes of its channels, padded to words.
static bst_status bst_check_two_planes(const bst_call* call, const bst_buffer* x,
                                       const bst_buffer* planes) {
  const bool cells = planes->t == x->t && planes->h == x->h && planes->w == x->w;
  BST_CHECK(cells && planes->c == 128 * bst_n_words(x->c), BAD_FILE, call->where,
            "channels of two planes", planes->c, "twice those of the stream in whole words");
  return BST_OK;
}

static bst_status bst_ternary_check(const bst_call* call) {
  const int32_t* const p = call->step->params;
  BST_CHECK(p[4] == 0 || p[4] == BST_DECAY_INPUT, BAD_FILE, call->where, "neuron flags", p[4],
            "0 or 1 for a ternary neuron");
  BST_CHECK(p[5] >= 1, BAD_FILE, call->where, "theta", p[5], "at least 1 for a ternary neuron");
  BST_CHECK(p[6] == 0, BAD_FILE, call->where, "v_reset", p[6], "0 for a ternary neuron");
  return bst_check_two_planes(call, call->inputs[0], call->outputs[0]);
}

static void bst_ternary_run(const bst_call* call, const bst_prepared* prepared, const bst_io* io) {
  (void)prepared;
  const bst_buffer* const x = call->inputs[0];
  const int32_t* const p = call->step->params;
  call->isa->ternary_neuron(io->part, io->n_parts, call->n_t, bst_cells(x), (int)x->c,
                            p[4] & BST_DECAY_INPUT, p[5], p[7], io->inputs[0], io->outputs[0]);
}

const bst_op bst_op_ternary_neuron = {
    .code = 29,
    .name = "ternary_neuron",
    .n_inputs = 1,
    .n_outputs = 1,
    .has_neuron = 1,
    .input_kinds = {BST_STREAM},
    .output_kinds = {BST_SPIKES},
    .check = bst_ternary_check,
    .run = bst_ternary_run,
};

static bst_status bst_add_check(const bst_call* call) {
  const bst_buffer* const q = call->inputs[0];
  const int32_t* const p = call->step->params;
  BST_TRY(bst_check_same_shape(call, q, call->inputs[1]));
  BST_TRY(bst_check_same_shape(call, q, call->outputs[0]));
  BST_TRY(bst_check_two_planes(call, q, call->inputs[2]));
  BST_CHECK(p[0] >= 1 && p[0] <= BST_MAX_HEADS && q->c % (uint32_t)p[0] == 0, BAD_FILE, call->where,
            "heads", p[0], "in 1..256 and a divisor of the channels");
  BST_CHECK(bst_cells(q) <= BST_MAX_TOKENS, UNSUPPORTED, call->where, "number of tokens",
            bst_cells(q), "at most 1024");
  BST_CHECK(q->c / (uint32_t)p[0] <= BST_MAX_TOKENS, UNSUPPORTED, call->where, "channels per head",
            q->c / (uint32_t)p[0], "at most 1024");
  BST_CHECK(p[1] >= 0 && p[1] <= 30, BAD_FILE, call->where, "k_shift", p[1], "in 0..30");
  BST_CHECK((p[4] & ~BST_DECAY_INPUT) == BST_HALVING, BAD_FILE, call->where, "neuron flags", p[4],
            "4 or 5: halving, hard reset");
  BST_CHECK(p[6] == 0, BAD_FILE, call->where, "v_reset", p[6], "0");
  return BST_OK;
}

static uint64_t bst_add_scratch(const bst_call* call, bool* overflow) {
  (void)overflow;  // tokens and channels per head are capped
  const bst_buffer* const q = call->inputs[0];
  return bst_add_neuron_scratch_bytes(bst_cells(q), (int)q->c, call->step->params[0]);
}

static void bst_add_run(const bst_call* call, const bst_prepared* prepared, const bst_io* io) {
  (void)prepared;
  const bst_buffer* const q = call->inputs[0];
  const int32_t* const p = call->step->params;
  call->isa->add_neuron(io->part, io->n_parts, call->n_t, bst_cells(q), (int)q->c, p[0], p[1],
                        p[4] & BST_DECAY_INPUT, p[5], io->inputs[0], io->inputs[1], io->inputs[2],
                        io->outputs[0], io->scratch);
}

const bst_op bst_op_add_neuron = {
    .code = 30,
    .name = "add_neuron",
    .n_inputs = 3,
    .n_outputs = 1,
    .n_params = 2,  // heads, k_shift
    .has_neuron = 1,
    .input_kinds = {BST_SPIKES, BST_STREAM, BST_SPIKES},
    .output_kinds = {BST_SPIKES},
    .check = bst_add_check,
    .scratch_bytes = bst_add_scratch,
    .run = bst_add_run,
};
