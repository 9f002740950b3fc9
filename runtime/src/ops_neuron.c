// SPDX-License-Identifier: MIT
// Neurons on the residual stream.

#include "kernels/stream_neuron/stream_neuron.h"
#include "ops.h"

static void bst_stream_run(const bst_call* call, const bst_prepared* prepared, const bst_io* io) {
  (void)prepared;
  const bst_buffer* const in = call->inputs[0];
  call->isa->stream_neuron(io->part, io->n_parts, call->n_t, bst_cells(in), (int)in->c,
                           BST_NEURON_ARGS(call->step), io->inputs[0], io->outputs[0]);
}

static void bst_residual_run(const bst_call* call, const bst_prepared* prepared, const bst_io* io) {
  (void)prepared;
  const bst_buffer* const in = call->inputs[0];
  call->isa->residual_neuron(io->part, io->n_parts, call->n_t, bst_cells(in), (int)in->c,
                             BST_NEURON_ARGS(call->step), io->inputs[0], io->inputs[1],
                             io->inputs[2], io->outputs[0], io->outputs[1]);
}

const bst_op bst_op_stream_neuron = {
    .code = 5,
    .name = "stream_neuron",
    .n_inputs = 1,
    .n_outputs = 1,
    .has_neuron = 1,
    .input_kinds = {BST_STREAM},
    .output_kinds = {BST_SPIKES},
    .check = bst_check_all_same,
    .run = bst_stream_run,
};

const bst_op bst_op_residual_neuron = {
    .code = 6,
    .name = "residual_neuron",
    .n_inputs = 3,
    .n_outputs = 2,
    .has_neuron = 1,
    .input_kinds = {BST_STREAM, BST_STREAM, BST_STREAM},
    .output_kinds = {BST_STREAM, BST_SPIKES},
    .check = bst_check_all_same,
    .run = bst_residual_run,
};
