// SPDX-License-Identifier: MIT
// Integer weights of several bits and levels: weight_conv_neuron with constants weight, theta_u,
// theta_w, row_index, row_theta; weight_conv_affine with constants weight, Ai, Af, B; products;
// level_add; level_readout with constants V, C.
//
// A buffer of levels of C channels is a buffer of spikes with n planes of whole words per cell, so
// of 64 ceil(C / 64) n channels; one plane is spikes, of C channels.

#include "kernels/levels/levels.h"
#include "kernels/products/products.h"
#include "kernels/weight_conv/weight_conv.h"
#include "ops.h"

// ---- weight_conv_neuron, weight_conv_affine -----------------------------------------------------

/// Weight bits [bits, O, kh * kw, I]; params stride, pad, kh, kw.
static bst_status bst_weight_conv_check(const bst_call* call) {
  const uint32_t* const d = call->constants[0]->dims;
  const int32_t* const p = call->step->params;
  BST_CHECK(d[0] <= BST_MAX_WEIGHT_BITS, UNSUPPORTED, call->where, "bits of a weight", d[0],
            "in 1..16");
  BST_CHECK(p[2] >= 1 && p[2] <= BST_MAX_KERNEL && p[3] >= 1 && p[3] <= BST_MAX_KERNEL, UNSUPPORTED,
            call->where, "kernel size", p[2] < 1 || p[2] > BST_MAX_KERNEL ? p[2] : p[3],
            "in 1..15");
  BST_TRY(bst_check_dims(call, 0, d[0], call->outputs[0]->c, (uint32_t)(p[2] * p[3]), d[3]));
  BST_TRY(bst_check_levels(call, call->inputs[0], d[3]));
  BST_TRY(bst_check_window(call, (uint32_t)p[2], (uint32_t)p[3], p[0], p[1]));
  const uint64_t fan_in = (uint64_t)d[2] * d[3];
  BST_CHECK(fan_in <= BST_MAX_FAN_IN, UNSUPPORTED, call->where, "fan-in", fan_in, "at most 65536");
  return BST_OK;
}

static bst_status bst_weight_conv_neuron_check(const bst_call* call) {
  BST_TRY(bst_weight_conv_check(call));
  return bst_check_thresholds(call);
}

static bst_status bst_weight_conv_affine_check(const bst_call* call) {
  const uint32_t o = call->outputs[0]->c;
  BST_TRY(bst_weight_conv_check(call));
  for (int slot = 1; slot <= 3; ++slot) BST_TRY(bst_check_dims(call, slot, o, 0, 0, 0));
  return bst_check_af(call, 2);
}

/// Where the bit-sliced kernel takes the call: signs on levels, one cell at a time.
static bool bst_is_sliced(const bst_call* call) {
  const uint32_t* const d = call->constants[0]->dims;
  const int32_t* const p = call->step->params;
  return d[0] == 1 && p[0] == 1 && p[1] == 0 && p[2] == 1 && p[3] == 1 &&
         bst_takes_levels(call->n_t, bst_n_planes(call->inputs[0], d[3]), (int)d[3]);
}

static void bst_sliced_prepare(const bst_call* call, bst_bump* bump, bst_prepared* prepared) {
  const bst_spike_conv* const kernel = call->isa->spike_conv;
  const int o = (int)call->outputs[0]->c, i = (int)call->constants[0]->dims[3];
  const int most = bst_most_level(bst_n_planes(call->inputs[0], (uint32_t)i));
  uint64_t* const rows = bst_take(bump, kernel->rows_bytes(o, 1, 1, i, 1), 1);
  void* const theta = bst_take(bump, kernel->theta_bytes(call->n_t, o, i * most), 1);
  if (rows != NULL) kernel->prepare_rows(o, 1, 1, i, 1, call->data[0], rows);
  if (theta != NULL) {
    const int n_explicit = call->constants[3] == NULL ? 0 : (int)call->constants[3]->dims[0];
    kernel->prepare_theta(call->n_t, o, 1, 1, i, most, call->data[0], call->data[1], call->data[2],
                          n_explicit, call->data[3], call->data[4], theta);
  }
  prepared->rows = rows;
  prepared->table = theta;
}

static void bst_weight_conv_prepare(const bst_call* call, bst_bump* bump, bst_prepared* prepared) {
  const uint32_t* const d = call->constants[0]->dims;
  const int bits = (int)d[0], o = (int)d[1], taps = (int)d[2], i = (int)d[3];
  uint64_t* const rows = bst_take(bump, bst_weight_conv_rows_bytes(bits, o, taps, i), 1);
  if (rows != NULL) bst_weight_conv_prepare_rows(bits, o, taps, i, call->data[0], rows);
  prepared->rows = rows;
}

static void bst_weight_conv_neuron_prepare(const bst_call* call, bst_bump* bump,
                                           bst_prepared* prepared) {
  if (bst_is_sliced(call)) {
    bst_sliced_prepare(call, bump, prepared);
    return;
  }
  bst_weight_conv_prepare(call, bump, prepared);
  const int o = (int)call->outputs[0]->c;
  int32_t* const theta = bst_take(bump, bst_weight_conv_theta_bytes(call->n_t, o), 1);
  if (theta != NULL) {
    const int n_explicit = call->constants[3] == NULL ? 0 : (int)call->constants[3]->dims[0];
    bst_weight_conv_prepare_theta(call->n_t, o, call->data[1], call->data[2], n_explicit,
                                  call->data[3], call->data[4], theta);
  }
  prepared->table = theta;
}

static uint64_t bst_weight_conv_scratch(const bst_call* call, bool* overflow) {
  const uint32_t channels = call->constants[0]->dims[3];
  const int32_t* const p = call->step->params;
  (void)overflow;  // fan-in, T and planes are capped
  return bst_weight_conv_scratch_bytes(call->n_t, bst_n_planes(call->inputs[0], channels), p[2],
                                       p[3], (int)channels);
}

#define BST_WEIGHT_CONV_ARGS(call)                                                             \
  (call)->n_t, (int)(call)->inputs[0]->h, (int)(call)->inputs[0]->w,                           \
      bst_n_planes((call)->inputs[0], (call)->constants[0]->dims[3]),                          \
      (int)(call)->constants[0]->dims[3], (int)(call)->outputs[0]->c, (call)->step->params[2], \
      (call)->step->params[3], (call)->step->params[0], (call)->step->params[1],               \
      (int)(call)->constants[0]->dims[0]

static uint64_t bst_weight_conv_neuron_scratch(const bst_call* call, bool* overflow) {
  const int channels = (int)call->constants[0]->dims[3];
  const int lists = call->n_t * bst_n_planes(call->inputs[0], (uint32_t)channels);
  if (!bst_is_sliced(call)) return bst_weight_conv_scratch(call, overflow);
  return call->isa->spike_conv->scratch_bytes(lists, (int)call->inputs[0]->w,
                                              (int)call->outputs[0]->c, 1, 1, channels, 1);
}

static void bst_weight_conv_neuron_run(const bst_call* call, const bst_prepared* prepared,
                                       const bst_io* io) {
  if (bst_is_sliced(call)) {
    const int channels = (int)call->constants[0]->dims[3];
    call->isa->spike_conv->level_neuron(
        io->part, io->n_parts, call->n_t, (int)bst_cells(call->inputs[0]),
        bst_n_planes(call->inputs[0], (uint32_t)channels), channels, (int)call->outputs[0]->c,
        io->inputs[0], prepared->rows, prepared->table, io->outputs[0], io->scratch);
    return;
  }
  call->isa->weight_conv_neuron(io->part, io->n_parts, BST_WEIGHT_CONV_ARGS(call), io->inputs[0],
                                prepared->rows, prepared->table, io->outputs[0], io->scratch);
}

static void bst_weight_conv_affine_run(const bst_call* call, const bst_prepared* prepared,
                                       const bst_io* io) {
  call->isa->weight_conv_affine(io->part, io->n_parts, BST_WEIGHT_CONV_ARGS(call), io->inputs[0],
                                prepared->rows, call->data[1], call->data[2], call->data[3],
                                io->outputs[0], io->scratch);
}

const bst_op bst_op_weight_conv_neuron = {
    .code = 13,
    .name = "weight_conv_neuron",
    .n_inputs = 1,
    .n_outputs = 1,
    .n_constants = 5,
    .n_params = 4,  // stride, pad, kh, kw
    .input_kinds = {BST_SPIKES},
    .output_kinds = {BST_SPIKES},
    .constants = {{BST_CONST_BITS, 4, 1},
                  {BST_CONST_I32, 1, 1},
                  {BST_CONST_I32, 1, 1},
                  {BST_CONST_I32, 1, 0},
                  {BST_CONST_I32, 2, 0}},
    .check = bst_weight_conv_neuron_check,
    .prepare = bst_weight_conv_neuron_prepare,
    .scratch_bytes = bst_weight_conv_neuron_scratch,
    .run = bst_weight_conv_neuron_run,
};

const bst_op bst_op_weight_conv_affine = {
    .code = 14,
    .name = "weight_conv_affine",
    .n_inputs = 1,
    .n_outputs = 1,
    .n_constants = 4,
    .n_params = 4,  // stride, pad, kh, kw
    .input_kinds = {BST_SPIKES},
    .output_kinds = {BST_STREAM},
    .constants = {{BST_CONST_BITS, 4, 1},
                  {BST_CONST_I32, 1, 1},
                  {BST_CONST_I16, 1, 1},
                  {BST_CONST_I32, 1, 1}},
    .check = bst_weight_conv_affine_check,
    .prepare = bst_weight_conv_prepare,
    .scratch_bytes = bst_weight_conv_scratch,
    .run = bst_weight_conv_affine_run,
};

// ---- product_neuron -----------------------------------------------------------------------------

static bst_status bst_product_check(const bst_call* call) {
  const bst_buffer* const q = call->inputs[0];
  const int32_t heads = call->step->params[0], shift = call->step->params[1];
  BST_TRY(bst_check_all_same(call));
  BST_TRY(bst_check_product_heads(call, q->c));
  const uint64_t n = (uint64_t)q->h * q->w, d = q->c / (uint32_t)heads;
  BST_CHECK(shift >= 0 && shift <= 30 && (n * d) << shift <= INT32_MAX, BAD_FILE, call->where,
            "shift", shift, "in 0..30 and such that N d 2^shift is an int32");
  return bst_check_neuron(call);
}

#define BST_PRODUCT_ARGS(call) \
  (call)->n_t, (int)bst_cells((call)->inputs[0]), (int)(call)->inputs[0]->c, (call)->step->params[0]

static uint64_t bst_product_scratch(const bst_call* call, bool* overflow) {
  (void)overflow;  // channels, tokens and T are capped: far below 2^32
  return bst_products_scratch_bytes(BST_PRODUCT_ARGS(call));
}

static void bst_product_run(const bst_call* call, const bst_prepared* prepared, const bst_io* io) {
  (void)prepared;
  call->isa->products(io->part, io->n_parts, BST_PRODUCT_ARGS(call), call->step->params[1],
                      BST_NEURON_ARGS(call->step), io->inputs[0], io->inputs[1], io->inputs[2],
                      io->outputs[0], io->scratch);
}

const bst_op bst_op_product_neuron = {
    .code = 15,
    .name = "product_neuron",
    .n_inputs = 3,
    .n_outputs = 1,
    .n_params = 2,  // heads, shift
    .has_neuron = 1,
    .input_kinds = {BST_SPIKES, BST_SPIKES, BST_SPIKES},
    .output_kinds = {BST_SPIKES},
    .check = bst_product_check,
    .scratch_bytes = bst_product_scratch,
    .run = bst_product_run,
};

// ---- level_add ----------------------------------------------------------------------------------

static bst_status bst_level_add_check(const bst_call* call) {
  const bst_buffer* const out = call->outputs[0];
  const uint32_t channels = (uint32_t)call->step->params[0];
  const bst_buffer* const all[] = {call->inputs[0], call->inputs[1], out};
  for (int i = 0; i < 3; ++i) {
    BST_TRY(bst_check_levels(call, all[i], channels));
    BST_CHECK(all[i]->t == out->t && all[i]->h == out->h && all[i]->w == out->w, BAD_FILE,
              call->where, "height of a buffer", all[i]->h, "that of its other buffers");
  }
  return BST_OK;
}

static void bst_level_add_run(const bst_call* call, const bst_prepared* prepared,
                              const bst_io* io) {
  (void)prepared;
  const uint32_t channels = (uint32_t)call->step->params[0];
  const bst_buffer* const out = call->outputs[0];
  bst_level_add(io->part, io->n_parts, out->t * bst_cells(out), (int)bst_n_words(channels),
                bst_n_planes(call->inputs[0], channels), bst_n_planes(call->inputs[1], channels),
                bst_n_planes(out, channels), io->inputs[0], io->inputs[1], io->outputs[0]);
}

const bst_op bst_op_level_add = {
    .code = 16,
    .name = "level_add",
    .n_inputs = 2,
    .n_outputs = 1,
    .n_params = 1,  // channels
    .input_kinds = {BST_SPIKES, BST_SPIKES},
    .output_kinds = {BST_SPIKES},
    .check = bst_level_add_check,
    .run = bst_level_add_run,
};

// ---- level_readout ------------------------------------------------------------------------------

static bst_status bst_level_readout_check(const bst_call* call) {
  const int32_t q = call->step->params[0];
  const uint32_t channels = (uint32_t)call->step->params[1], k = call->outputs[0]->c;
  BST_TRY(bst_check_levels(call, call->inputs[0], channels));
  BST_TRY(bst_check_dims(call, 0, k, channels, 0, 0));
  BST_TRY(bst_check_dims(call, 1, k, 0, 0, 0));
  BST_CHECK(q >= 0 && q <= 62, BAD_FILE, call->where, "q", q, "in 0..62");
  return BST_OK;
}

static uint64_t bst_level_readout_scratch(const bst_call* call, bool* overflow) {
  (void)overflow;  // channels are capped
  return bst_level_readout_scratch_bytes(call->step->params[1]);
}

static void bst_level_readout_run(const bst_call* call, const bst_prepared* prepared,
                                  const bst_io* io) {
  (void)prepared;
  const bst_buffer* const in = call->inputs[0];
  const uint32_t channels = (uint32_t)call->step->params[1];
  bst_level_readout(io->part, io->n_parts, in->t * bst_cells(in), bst_n_planes(in, channels),
                    (int)channels, (int)call->outputs[0]->c, (int)call->file->model->frac_bits,
                    call->step->params[0], io->inputs[0], call->data[0], call->data[1],
                    io->outputs[0], io->scratch);
}

const bst_op bst_op_level_readout = {
    .code = 17,
    .name = "level_readout",
    .n_inputs = 1,
    .n_outputs = 1,
    .n_constants = 2,
    .n_params = 2,  // q, channels
    .input_kinds = {BST_SPIKES},
    .output_kinds = {BST_KIND_RAW},
    .constants = {{BST_CONST_I32, 2, 1}, {BST_CONST_I64, 1, 1}},
    .check = bst_level_readout_check,
    .scratch_bytes = bst_level_readout_scratch,
    .run = bst_level_readout_run,
};
