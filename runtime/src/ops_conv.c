// SPDX-License-Identifier: MIT
// Sliding windows over spikes: or_pool; conv_neuron with constants weight, theta_u, theta_w,
// row_index, row_theta; conv_affine with constants weight, Ai, Af, B.

#include "kernels/or_pool/or_pool.h"
#include "kernels/spike_conv/spike_conv.h"
#include "ops.h"

// ---- or_pool ------------------------------------------------------------------------------------

static bst_status bst_pool_check(const bst_call* call) {
  const int32_t* const p = call->step->params;
  BST_CHECK(p[0] >= 1, UNSUPPORTED, call->where, "kernel size", p[0], "in 1..15");
  BST_CHECK(call->inputs[0]->c == call->outputs[0]->c, BAD_FILE, call->where, "output channels",
            call->outputs[0]->c, "the input's");
  return bst_check_window(call, (uint32_t)p[0], (uint32_t)p[0], p[1], p[2]);
}

static void bst_pool_run(const bst_call* call, const bst_prepared* prepared, const bst_io* io) {
  (void)prepared;
  const bst_buffer* const in = call->inputs[0];
  const int32_t* const p = call->step->params;
  call->isa->or_pool(io->part, io->n_parts, call->n_t, (int)in->h, (int)in->w,
                     (int)bst_n_words(in->c), p[0], p[1], p[2], io->inputs[0], io->outputs[0]);
}

const bst_op bst_op_or_pool = {
    .code = 2,
    .name = "or_pool",
    .n_inputs = 1,
    .n_outputs = 1,
    .n_params = 3,  // kernel, stride, pad
    .input_kinds = {BST_SPIKES},
    .output_kinds = {BST_SPIKES},
    .check = bst_pool_check,
    .run = bst_pool_run,
};

// ---- conv_neuron, conv_affine -------------------------------------------------------------------

static bst_status bst_conv_check(const bst_call* call) {
  const uint32_t* const dims = call->constants[0]->dims;
  const uint32_t in_channels = call->inputs[0]->c;
  BST_TRY(bst_check_dims(call, 0, call->outputs[0]->c, dims[1], dims[2], in_channels));
  BST_TRY(bst_check_window(call, dims[1], dims[2], call->step->params[0], call->step->params[1]));
  const uint64_t fan_in = (uint64_t)dims[1] * dims[2] * in_channels;
  BST_CHECK(fan_in <= BST_MAX_FAN_IN, UNSUPPORTED, call->where, "fan-in", fan_in, "at most 65536");
  return BST_OK;
}

static bst_status bst_conv_neuron_check(const bst_call* call) {
  BST_TRY(bst_conv_check(call));
  return bst_check_thresholds(call);
}

static bst_status bst_conv_affine_check(const bst_call* call) {
  const uint32_t o = call->outputs[0]->c;
  BST_TRY(bst_conv_check(call));
  for (int slot = 1; slot <= 3; ++slot) BST_TRY(bst_check_dims(call, slot, o, 0, 0, 0));
  return bst_check_af(call, 2);
}

static void bst_conv_prepare(const bst_call* call, bst_bump* bump, bst_prepared* prepared) {
  const bst_spike_conv* const kernel = call->isa->spike_conv;
  const uint32_t* const d = call->constants[0]->dims;
  const int o = (int)d[0], kh = (int)d[1], kw = (int)d[2], i = (int)d[3];
  const int stride = call->step->params[0];
  uint64_t* const rows = bst_take(bump, kernel->rows_bytes(o, kh, kw, i, stride), 1);
  if (rows != NULL) kernel->prepare_rows(o, kh, kw, i, stride, call->data[0], rows);
  prepared->rows = rows;
}

/// The input comes from the encoder of a still image, whose trains are periodic by construction.
static int bst_is_periodic(const bst_call* call) {
  const bst_file* const file = call->file;
  for (uint32_t i = 0; i < file->n_steps; ++i) {
    const bst_step* const step = &file->steps[i];
    if (step->outputs[0] != call->step->inputs[0]) continue;
    return step->op == bst_op_stem_neuron.code && step->constants[5] != (uint32_t)BST_NONE;
  }
  return 0;
}

enum { BST_CONV_LAYERS = 3 };  // at most together

/// A conv_neuron of one pixel that reads the spikes of `buffer`.
static bool bst_is_pointwise(const bst_file* file, const bst_step* step, uint32_t buffer) {
  if (step->op != bst_op_conv_neuron.code || step->inputs[0] != buffer) return false;
  const uint32_t* const dims = file->constants[step->constants[0]].dims;
  return dims[1] * dims[2] == 1 && dims[3] <= BST_MAX_LAYERS_IN && step->params[0] == 1 &&
         step->params[1] == 0;
}

/// Pointwise layers of the same spikes in a row, as q, k and v are, run together: nothing between
/// them reads what they write, and the spikes live as long as the last of them. (What is never read
/// does not: see bst_take_followers.)
static void bst_find_followers(const bst_call* call, bst_prepared* prepared) {
  const bst_file* const file = call->file;
  const bst_step *step = call->step, *const end = file->steps + file->n_steps;
  const uint32_t buffer = step->inputs[0];
  if (!bst_is_pointwise(file, step, buffer)) return;
  while (++step < end && prepared->n_followers + 1 < BST_CONV_LAYERS &&
         bst_is_pointwise(file, step, buffer)) {
    ++prepared->n_followers;
  }
}

static void bst_conv_neuron_prepare(const bst_call* call, bst_bump* bump, bst_prepared* prepared) {
  bst_conv_prepare(call, bump, prepared);
  const bst_spike_conv* const kernel = call->isa->spike_conv;
  const uint32_t* const d = call->constants[0]->dims;
  const int o = (int)call->outputs[0]->c, fan_in = (int)(d[1] * d[2] * d[3]);
  void* const theta = bst_take(bump, kernel->theta_bytes(call->n_t, o, fan_in), 1);
  if (theta != NULL) {
    const int n_explicit = call->constants[3] == NULL ? 0 : (int)call->constants[3]->dims[0];
    kernel->prepare_theta(call->n_t, o, (int)d[1], (int)d[2], (int)d[3], 1, call->data[0],
                          call->data[1], call->data[2], n_explicit, call->data[3], call->data[4],
                          theta);
  }
  prepared->table = theta;
  prepared->periodic = bst_is_periodic(call);
  bst_find_followers(call, prepared);
}

static uint64_t bst_conv_scratch(const bst_call* call, bool* overflow) {
  const uint32_t* const d = call->constants[0]->dims;
  (void)overflow;  // sides, fan-in and T are capped
  return call->isa->spike_conv->scratch_bytes(call->n_t, (int)call->inputs[0]->w, (int)d[0],
                                              (int)d[1], (int)d[2], (int)d[3],
                                              call->step->params[0]);
}

#define BST_CONV_ARGS(call)                                                                     \
  (call)->n_t, (int)(call)->inputs[0]->h, (int)(call)->inputs[0]->w, (int)(call)->inputs[0]->c, \
      (int)(call)->outputs[0]->c, (int)(call)->constants[0]->dims[1],                           \
      (int)(call)->constants[0]->dims[2], (call)->step->params[0], (call)->step->params[1]

/// A step and its followers.
static void bst_conv_layers_run(const bst_call* call, const bst_prepared* prepared,
                                const bst_io* io) {
  const bst_file* const file = call->file;
  const int n = prepared->n_followers + 1;
  uint8_t* const buffers = (uint8_t*)io->outputs[0] - call->outputs[0]->offset;
  bst_conv_layer layers[BST_CONV_LAYERS];
  for (int i = 0; i < n; ++i) {
    const bst_buffer* const out = &file->buffers[call->step[i].outputs[0]];
    layers[i] = (bst_conv_layer){(int)out->c, prepared[i].rows, prepared[i].table,
                                 (uint64_t*)(void*)(buffers + out->offset)};
  }
  call->isa->spike_conv->layers(io->part, io->n_parts, call->n_t, (int)bst_cells(call->inputs[0]),
                                (int)call->inputs[0]->c, io->inputs[0], n, layers, io->scratch);
}

static void bst_conv_neuron_run(const bst_call* call, const bst_prepared* prepared,
                                const bst_io* io) {
  if (io->together && prepared->n_followers != 0) {
    bst_conv_layers_run(call, prepared, io);
    return;
  }
  call->isa->spike_conv->neuron(io->part, io->n_parts, BST_CONV_ARGS(call), prepared->periodic,
                                io->inputs[0], prepared->rows, prepared->table, io->outputs[0],
                                io->scratch);
}

static void bst_conv_affine_run(const bst_call* call, const bst_prepared* prepared,
                                const bst_io* io) {
  call->isa->spike_conv->affine(io->part, io->n_parts, BST_CONV_ARGS(call), io->inputs[0],
                                prepared->rows, call->data[1], call->data[2], call->data[3],
                                io->outputs[0], io->scratch);
}

const bst_op bst_op_conv_neuron = {
    .code = 3,
    .name = "conv_neuron",
    .n_inputs = 1,
    .n_outputs = 1,
    .n_constants = 5,
    .n_params = 2,  // stride, pad
    .input_kinds = {BST_SPIKES},
    .output_kinds = {BST_SPIKES},
    .constants = {{BST_CONST_BITS, 4, 1},
                  {BST_CONST_I32, 1, 1},
                  {BST_CONST_I32, 1, 1},
                  {BST_CONST_I32, 1, 0},
                  {BST_CONST_I32, 2, 0}},
    .check = bst_conv_neuron_check,
    .prepare = bst_conv_neuron_prepare,
    .scratch_bytes = bst_conv_scratch,
    .run = bst_conv_neuron_run,
};

const bst_op bst_op_conv_affine = {
    .code = 4,
    .name = "conv_affine",
    .n_inputs = 1,
    .n_outputs = 1,
    .n_constants = 4,
    .n_params = 2,  // stride, pad
    .input_kinds = {BST_SPIKES},
    .output_kinds = {BST_STREAM},
    .constants = {{BST_CONST_BITS, 4, 1},
                  {BST_CONST_I32, 1, 1},
                  {BST_CONST_I16, 1, 1},
                  {BST_CONST_I32, 1, 1}},
    .check = bst_conv_affine_check,
    .prepare = bst_conv_prepare,
    .scratch_bytes = bst_conv_scratch,
    .run = bst_conv_affine_run,
};
