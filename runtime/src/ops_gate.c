// SPDX-License-Identifier: MIT
// Spikes combined with spikes: key_value_any and gate of Spike-driven Transformer v1.

#include "kernels/gate/gate.h"
#include "ops.h"

/// `b` has one cell, and the steps and channels of `a`.
static bool bst_is_per_channel(const bst_buffer* b, const bst_buffer* a) {
  return b->t == a->t && b->h == 1 && b->w == 1 && b->c == a->c;
}

static bst_status bst_any_check(const bst_call* call) {
  const bst_buffer *const k = call->inputs[0], *const out = call->outputs[0];
  BST_TRY(bst_check_same_shape(call, k, call->inputs[1]));
  BST_CHECK(bst_is_per_channel(out, k), BAD_FILE, call->where, "cells of the output",
            bst_cells(out), "1, with the channels of k");
  return BST_OK;
}

static void bst_any_run(const bst_call* call, const bst_prepared* prepared, const bst_io* io) {
  (void)prepared;
  const bst_buffer* const k = call->inputs[0];
  call->isa->key_value_any(io->part, io->n_parts, call->n_t, bst_cells(k), (int)bst_n_words(k->c),
                           io->inputs[0], io->inputs[1], io->outputs[0]);
}

const bst_op bst_op_key_value_any = {
    .code = 24,
    .name = "key_value_any",
    .n_inputs = 2,
    .n_outputs = 1,
    .input_kinds = {BST_SPIKES, BST_SPIKES},
    .output_kinds = {BST_SPIKES},
    .check = bst_any_check,
    .run = bst_any_run,
};

static bst_status bst_gate_check(const bst_call* call) {
  const int32_t invert = call->step->params[0];
  const bst_buffer *const a = call->inputs[0], *const gates = call->inputs[1];
  BST_CHECK(invert == 0 || invert == 1, UNSUPPORTED, call->where, "invert", invert, "0 or 1");
  BST_TRY(bst_check_same_shape(call, a, call->outputs[0]));
  if (bst_is_per_channel(gates, a)) return BST_OK;
  return bst_check_same_shape(call, a, gates);
}

static void bst_gate_run(const bst_call* call, const bst_prepared* prepared, const bst_io* io) {
  (void)prepared;
  const bst_buffer* const a = call->inputs[0];
  call->isa->gate(io->part, io->n_parts, call->n_t, bst_cells(a), bst_cells(call->inputs[1]),
                  (int)bst_n_words(a->c), call->step->params[0], io->inputs[0], io->inputs[1],
                  io->outputs[0]);
}

const bst_op bst_op_gate = {
    .code = 25,
    .name = "gate",
    .n_inputs = 2,
    .n_outputs = 1,
    .n_params = 1,  // invert
    .input_kinds = {BST_SPIKES, BST_SPIKES},
    .output_kinds = {BST_SPIKES},
    .check = bst_gate_check,
    .run = bst_gate_run,
};
