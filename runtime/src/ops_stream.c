// SPDX-License-Identifier: MIT
// Streams that are pooled, or averaged over tokens in front of a neuron; read-out of spike counts.

#include "kernels/count_readout/count_readout.h"
#include "kernels/max_pool/max_pool.h"
#include "kernels/mean_neuron/mean_neuron.h"
#include "ops.h"

static bst_status bst_max_pool_check(const bst_call* call) {
  const int32_t* const p = call->step->params;
  BST_CHECK(call->inputs[0]->c == call->outputs[0]->c, BAD_FILE, call->where, "output channels",
            call->outputs[0]->c, "those of the input");
  BST_CHECK(p[0] >= 1, UNSUPPORTED, call->where, "kernel size", p[0], "in 1..15");
  return bst_check_window(call, (uint32_t)p[0], (uint32_t)p[0], p[1], p[2]);
}

static void bst_max_pool_run(const bst_call* call, const bst_prepared* prepared, const bst_io* io) {
  (void)prepared;
  const bst_buffer* const in = call->inputs[0];
  const int32_t* const p = call->step->params;
  call->isa->max_pool(io->part, io->n_parts, call->n_t, (int)in->h, (int)in->w, (int)in->c, p[0],
                      p[1], p[2], io->inputs[0], io->outputs[0]);
}

const bst_op bst_op_max_pool = {
    .code = 26,
    .name = "max_pool",
    .n_inputs = 1,
    .n_outputs = 1,
    .n_params = 3,  // kernel, stride, pad
    .input_kinds = {BST_STREAM},
    .output_kinds = {BST_STREAM},
    .check = bst_max_pool_check,
    .run = bst_max_pool_run,
};

static bst_status bst_mean_check(const bst_call* call) {
  const bst_buffer *const y = call->inputs[0], *const out = call->outputs[0];
  for (int i = 1; i < 3; ++i) BST_TRY(bst_check_same_shape(call, y, call->inputs[i]));
  BST_CHECK(out->t == y->t && bst_cells(out) == 1 && out->c == y->c, BAD_FILE, call->where,
            "cells of the output", bst_cells(out), "1, with the channels of the streams");
  return BST_OK;
}

static void bst_mean_run(const bst_call* call, const bst_prepared* prepared, const bst_io* io) {
  (void)prepared;
  const bst_buffer* const y = call->inputs[0];
  call->isa->mean_neuron(io->part, io->n_parts, call->n_t, bst_cells(y), (int)y->c,
                         BST_NEURON_ARGS(call->step), io->inputs[0], io->inputs[1], io->inputs[2],
                         io->outputs[0]);
}

const bst_op bst_op_mean_neuron = {
    .code = 27,
    .name = "mean_neuron",
    .n_inputs = 3,
    .n_outputs = 1,
    .has_neuron = 1,
    .input_kinds = {BST_STREAM, BST_STREAM, BST_STREAM},
    .output_kinds = {BST_SPIKES},
    .check = bst_mean_check,
    .run = bst_mean_run,
};

static bst_status bst_count_readout_check(const bst_call* call) {
  const uint32_t k = call->outputs[0]->c;
  BST_TRY(bst_check_dims(call, 0, k, call->inputs[0]->c, 0, 0));
  return bst_check_dims(call, 1, k, 0, 0, 0);
}

static uint64_t bst_count_readout_scratch(const bst_call* call, bool* overflow) {
  (void)overflow;  // channels are capped
  return bst_count_readout_scratch_bytes((int)call->inputs[0]->c);
}

static void bst_count_readout_run(const bst_call* call, const bst_prepared* prepared,
                                  const bst_io* io) {
  (void)prepared;
  const bst_buffer* const in = call->inputs[0];
  call->isa->count_readout(io->part, io->n_parts, (size_t)call->n_t * bst_cells(in), (int)in->c,
                           (int)call->outputs[0]->c, io->inputs[0], call->data[0], call->data[1],
                           io->outputs[0], io->scratch);
}

const bst_op bst_op_count_readout = {
    .code = 28,
    .name = "count_readout",
    .n_inputs = 1,
    .n_outputs = 1,
    .n_constants = 2,
    .input_kinds = {BST_SPIKES},
    .output_kinds = {BST_KIND_RAW},
    .constants = {{BST_CONST_I32, 2, 1}, {BST_CONST_I64, 1, 1}},
    .check = bst_count_readout_check,
    .scratch_bytes = bst_count_readout_scratch,
    .run = bst_count_readout_run,
};
