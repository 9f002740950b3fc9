// SPDX-License-Identifier: MIT
// Read-outs: readout with constants weight, Ai, Af, B, (V0), V1, C; residual_readout with V, C.

#include "kernels/readout/readout.h"
#include "ops.h"

static bst_status bst_check_q(const bst_call* call) {
  const int32_t q = call->step->params[0];
  BST_CHECK(q >= 0 && q <= 62, BAD_FILE, call->where, "q", q, "in 0..62");
  return BST_OK;
}

static bst_status bst_readout_check(const bst_call* call) {
  const bst_buffer *const x2 = call->inputs[0], *const hidden = call->inputs[2];
  const uint32_t d = x2->c, e = hidden->c, k = call->outputs[0]->c;
  BST_TRY(bst_check_same_shape(call, x2, call->inputs[1]));
  BST_CHECK(hidden->t == x2->t && hidden->h == x2->h && hidden->w == x2->w, BAD_FILE, call->where,
            "height of the hidden spikes", hidden->h, "the streams'");
  BST_TRY(bst_check_dims(call, 0, d, 0, 0, e));
  for (int slot = 1; slot <= 3; ++slot) BST_TRY(bst_check_dims(call, slot, d, 0, 0, 0));
  if (call->constants[4] != NULL) BST_TRY(bst_check_dims(call, 4, k, d, 0, 0));
  BST_TRY(bst_check_dims(call, 5, k, d, 0, 0));
  BST_TRY(bst_check_dims(call, 6, k, 0, 0, 0));
  const uint64_t n_spikes = (uint64_t)x2->t * x2->h * x2->w * e;  // below 2^44
  BST_CHECK(n_spikes <= UINT64_C(1) << 31, UNSUPPORTED, call->where, "T * tokens * hidden channels",
            n_spikes, "at most 2^31");
  BST_TRY(bst_check_q(call));
  return bst_check_af(call, 2);
}

static uint64_t bst_readout_scratch(const bst_call* call, bool* overflow) {
  (void)overflow;  // channels are capped
  return bst_readout_scratch_bytes((int)call->inputs[0]->c, (int)call->inputs[2]->c);
}

static void bst_readout_run(const bst_call* call, const bst_prepared* prepared, const bst_io* io) {
  (void)prepared;
  const bst_buffer* const x2 = call->inputs[0];
  const void* const* const data = call->data;
  call->isa->readout(io->part, io->n_parts, call->n_t, bst_cells(x2), (int)x2->c,
                     (int)call->inputs[2]->c, (int)call->outputs[0]->c, call->step->params[0],
                     io->inputs[0], io->inputs[1], io->inputs[2], data[0], data[1], data[2],
                     data[3], data[4], data[5], data[6], io->outputs[0], io->scratch);
}

const bst_op bst_op_readout = {
    .code = 9,
    .name = "readout",
    .n_inputs = 3,
    .n_outputs = 1,
    .n_constants = 7,
    .n_params = 1,  // q
    .input_kinds = {BST_STREAM, BST_STREAM, BST_SPIKES},
    .output_kinds = {BST_KIND_RAW},
    .constants = {{BST_CONST_BITS, 4, 1},
                  {BST_CONST_I32, 1, 1},
                  {BST_CONST_I16, 1, 1},
                  {BST_CONST_I32, 1, 1},
                  {BST_CONST_I32, 2, 0},
                  {BST_CONST_I32, 2, 1},
                  {BST_CONST_I64, 1, 1}},
    .check = bst_readout_check,
    .scratch_bytes = bst_readout_scratch,
    .run = bst_readout_run,
};

static bst_status bst_residual_readout_check(const bst_call* call) {
  const uint32_t k = call->outputs[0]->c;
  for (int i = 1; i < 3; ++i) {
    BST_TRY(bst_check_same_shape(call, call->inputs[0], call->inputs[i]));
  }
  BST_TRY(bst_check_dims(call, 0, k, call->inputs[0]->c, 0, 0));
  BST_TRY(bst_check_dims(call, 1, k, 0, 0, 0));
  return bst_check_q(call);
}

static uint64_t bst_residual_readout_scratch(const bst_call* call, bool* overflow) {
  (void)overflow;  // channels are capped
  return bst_residual_readout_scratch_bytes((int)call->inputs[0]->c);
}

static void bst_residual_readout_run(const bst_call* call, const bst_prepared* prepared,
                                     const bst_io* io) {
  (void)prepared;
  const bst_buffer* const y = call->inputs[0];
  call->isa->residual_readout(io->part, io->n_parts, call->n_t, bst_cells(y), (int)y->c,
                              (int)call->outputs[0]->c, call->step->params[0], io->inputs[0],
                              io->inputs[1], io->inputs[2], call->data[0], call->data[1],
                              io->outputs[0], io->scratch);
}

const bst_op bst_op_residual_readout = {
    .code = 12,
    .name = "residual_readout",
    .n_inputs = 3,
    .n_outputs = 1,
    .n_constants = 2,
    .n_params = 1,  // q
    .input_kinds = {BST_STREAM, BST_STREAM, BST_STREAM},
    .output_kinds = {BST_KIND_RAW},
    .constants = {{BST_CONST_I32, 2, 1}, {BST_CONST_I64, 1, 1}},
    .check = bst_residual_readout_check,
    .scratch_bytes = bst_residual_readout_scratch,
    .run = bst_residual_readout_run,
};
