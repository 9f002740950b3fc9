// SPDX-License-Identifier: MIT
// Streams that are no spikes yet, and neurons of several levels: stream_add; stream_mean;
// stream_levels with constants theta, falling; depthwise_levels and depthwise_stream with constants
// weight, Ai, Af, B; stream_conv with constants weight, M, shift, B; level_products.

#include "kernels/integers.h"
#include "kernels/stream_ops/stream_ops.h"
#include "ops.h"

// ---- stream_add, stream_mean --------------------------------------------------------------------

static void bst_stream_add_run(const bst_call* call, const bst_prepared* prepared,
                               const bst_io* io) {
  (void)prepared;
  const bst_buffer* const y = call->inputs[0];
  bst_stream_add(io->part, io->n_parts, (size_t)y->t * bst_cells(y) * y->c, io->inputs[0],
                 io->inputs[1], io->inputs[2], io->outputs[0]);
}

const bst_op bst_op_stream_add = {
    .code = 32,
    .name = "stream_add",
    .n_inputs = 3,
    .n_outputs = 1,
    .input_kinds = {BST_STREAM, BST_STREAM, BST_STREAM},
    .output_kinds = {BST_STREAM},
    .check = bst_check_all_same,
    .run = bst_stream_add_run,
};

static bst_status bst_stream_mean_check(const bst_call* call) {
  const bst_buffer *const x = call->inputs[0], *const out = call->outputs[0];
  BST_CHECK(bst_cells(out) == 1 && out->c == x->c, BAD_FILE, call->where, "cells of the output",
            bst_cells(out), "1, with the channels of the stream");
  return BST_OK;
}

static void bst_stream_mean_run(const bst_call* call, const bst_prepared* prepared,
                                const bst_io* io) {
  (void)prepared;
  const bst_buffer* const x = call->inputs[0];
  bst_stream_mean(io->part, io->n_parts, call->n_t, bst_cells(x), (int)x->c, io->inputs[0],
                  io->outputs[0]);
}

const bst_op bst_op_stream_mean = {
    .code = 33,
    .name = "stream_mean",
    .n_inputs = 1,
    .n_outputs = 1,
    .input_kinds = {BST_STREAM},
    .output_kinds = {BST_STREAM},
    .check = bst_stream_mean_check,
    .run = bst_stream_mean_run,
};

// ---- stream_levels ------------------------------------------------------------------------------

/// The two buffers have the same steps and cells.
static bst_status bst_check_grid(const bst_call* call) {
  const bst_buffer *const x = call->inputs[0], *const out = call->outputs[0];
  BST_CHECK(out->t == x->t && out->h == x->h && out->w == x->w, BAD_FILE, call->where,
            "height of a buffer", out->h, "that of its other buffers");
  return BST_OK;
}

static bst_status bst_stream_levels_check(const bst_call* call) {
  const uint32_t* const d = call->constants[0]->dims;
  const uint32_t c = call->inputs[0]->c;
  BST_CHECK(d[0] >= 1 && d[0] <= BST_MAX_NEURON_LEVELS, UNSUPPORTED, call->where, "levels", d[0],
            "in 1..15");
  BST_CHECK(d[1] == 1 || d[1] == c, BAD_FILE, call->where, "channels of the thresholds", d[1],
            "1, or those of the stream");
  BST_TRY(bst_check_grid(call));
  const uint32_t planes = (uint32_t)bst_bit_length(d[0]), held = call->outputs[0]->c;
  BST_CHECK(held == (planes == 1 ? c : 64 * bst_n_words(c) * planes), BAD_FILE, call->where,
            "channels of a buffer", held, "planes that hold its levels");
  if (call->constants[1] == NULL) return BST_OK;
  return bst_check_dims(call, 1, c, 0, 0, 0);
}

static void bst_stream_levels_run(const bst_call* call, const bst_prepared* prepared,
                                  const bst_io* io) {
  (void)prepared;
  const uint32_t* const d = call->constants[0]->dims;
  const bst_buffer* const x = call->inputs[0];
  bst_stream_levels(io->part, io->n_parts, (size_t)x->t * bst_cells(x), (int)x->c, (int)d[0],
                    (int)d[1], call->isa->stream_inner, call->data[0], call->data[1], io->inputs[0],
                    io->outputs[0]);
}

const bst_op bst_op_stream_levels = {
    .code = 34,
    .name = "stream_levels",
    .n_inputs = 1,
    .n_outputs = 1,
    .n_constants = 2,
    .input_kinds = {BST_STREAM},
    .output_kinds = {BST_SPIKES},
    .constants = {{BST_CONST_I32, 2, 1}, {BST_CONST_U8, 1, 0}},
    .check = bst_stream_levels_check,
    .run = bst_stream_levels_run,
};

// ---- depthwise_levels, depthwise_stream ---------------------------------------------------------

/// Weight bits [bits, 1, kh * kw, C]; params stride, pad, kh, kw.
static bst_status bst_depthwise_check(const bst_call* call) {
  const uint32_t* const d = call->constants[0]->dims;
  const int32_t* const p = call->step->params;
  const uint32_t c = call->outputs[0]->c;
  BST_CHECK(d[0] <= BST_MAX_WEIGHT_BITS, UNSUPPORTED, call->where, "bits of a weight", d[0],
            "in 1..16");
  BST_TRY(bst_check_window(call, (uint32_t)p[2], (uint32_t)p[3], p[0], p[1]));
  BST_TRY(bst_check_dims(call, 0, d[0], 1, (uint32_t)(p[2] * p[3]), c));
  if (call->op->input_kinds[0] == BST_SPIKES) {
    BST_TRY(bst_check_levels(call, call->inputs[0], c));
  } else {
    BST_CHECK(call->inputs[0]->c == c, BAD_FILE, call->where, "output channels", c,
              "those of the input");
  }
  for (int slot = 1; slot <= 3; ++slot) BST_TRY(bst_check_dims(call, slot, c, 0, 0, 0));
  return bst_check_af(call, 2);
}

static bst_depthwise bst_depthwise_of(const bst_call* call) {
  const bst_buffer *const x = call->inputs[0], *const out = call->outputs[0];
  const int32_t* const p = call->step->params;
  const bool is_levels = x->kind == BST_SPIKES;
  return (bst_depthwise){
      .n_steps = call->n_t,
      .height = (int)x->h,
      .width = (int)x->w,
      .channels = (int)out->c,
      .n_planes = is_levels ? bst_n_planes(x, out->c) : 0,
      .kh = p[2],
      .kw = p[3],
      .stride = p[0],
      .pad = p[1],
      .out_h = (int)out->h,
      .out_w = (int)out->w,
  };
}

static void bst_depthwise_layout(const bst_call* call, bst_bump* bump, bst_prepared* prepared) {
  const uint32_t* const d = call->constants[0]->dims;
  int32_t* const rows = bst_take(bump, bst_depthwise_rows_bytes((int)d[2], (int)d[3]), 1);
  if (rows != NULL) {
    bst_depthwise_prepare((int)d[0], (int)d[2], (int)d[3], call->data[0], rows);
  }
  prepared->table = rows;
}

static uint64_t bst_depthwise_scratch(const bst_call* call, bool* overflow) {
  const bst_depthwise s = bst_depthwise_of(call);
  (void)overflow;  // 15 rows of 4096 cells of 65536 channels: far below 2^64
  return bst_depthwise_scratch_bytes(&s);
}

static void bst_depthwise_run(const bst_call* call, const bst_prepared* prepared,
                              const bst_io* io) {
  const bst_depthwise s = bst_depthwise_of(call);
  bst_depthwise_affine(io->part, io->n_parts, &s, call->isa->stream_inner, io->inputs[0],
                       prepared->table, call->data[1], call->data[2], call->data[3], io->outputs[0],
                       io->scratch);
}

#define BST_DEPTHWISE_OP(op_code, op_name, kind) \
  {                                              \
      .code = (op_code),                         \
      .name = op_name,                           \
      .n_inputs = 1,                             \
      .n_outputs = 1,                            \
      .n_constants = 4,                          \
      .n_params = 4, /* stride, pad, kh, kw */   \
      .input_kinds = {kind},                     \
      .output_kinds = {BST_STREAM},              \
      .constants = {{BST_CONST_BITS, 4, 1},      \
                    {BST_CONST_I32, 1, 1},       \
                    {BST_CONST_I16, 1, 1},       \
                    {BST_CONST_I32, 1, 1}},      \
      .check = bst_depthwise_check,              \
      .prepare = bst_depthwise_layout,           \
      .scratch_bytes = bst_depthwise_scratch,    \
      .run = bst_depthwise_run,                  \
  }

const bst_op bst_op_depthwise_levels = BST_DEPTHWISE_OP(35, "depthwise_levels", BST_SPIKES);
const bst_op bst_op_depthwise_stream = BST_DEPTHWISE_OP(36, "depthwise_stream", BST_STREAM);

// ---- stream_conv --------------------------------------------------------------------------------

static bst_status bst_stream_conv_check(const bst_call* call) {
  const uint32_t* const d = call->constants[0]->dims;
  const uint32_t o = call->outputs[0]->c;
  BST_CHECK(d[0] <= BST_MAX_STREAM_BITS, UNSUPPORTED, call->where, "bits of a weight", d[0],
            "in 1..8");
  BST_TRY(bst_check_dims(call, 0, d[0], o, 1, call->inputs[0]->c));
  BST_TRY(bst_check_grid(call));
  for (int slot = 1; slot <= 3; ++slot) BST_TRY(bst_check_dims(call, slot, o, 0, 0, 0));
  const uint8_t* const shift = call->data[2];
  for (uint32_t i = 0; i < o; ++i) {
    BST_CHECK(shift[i] <= 62, BAD_FILE, call->where, "shift", shift[i], "in 0..62");
  }
  return BST_OK;
}

static void bst_stream_conv_layout(const bst_call* call, bst_bump* bump, bst_prepared* prepared) {
  const uint32_t* const d = call->constants[0]->dims;
  const int bits = (int)d[0], o = (int)d[1], i = (int)d[3];
  int8_t* const rows = bst_take(bump, bst_stream_conv_rows_bytes(o, i), 1);
  int64_t* const bias = bst_take(bump, bst_stream_conv_bias_bytes(o), 1);
  if (rows != NULL && bias != NULL) {
    bst_stream_conv_prepare(bits, o, i, call->data[0], rows, bias);
  }
  prepared->rows = (const uint64_t*)rows;
  prepared->table = bias;
}

static uint64_t bst_stream_conv_scratch(const bst_call* call, bool* overflow) {
  (void)overflow;  // channels are capped
  return bst_stream_conv_scratch_bytes((int)call->inputs[0]->c);
}

static void bst_stream_conv_run(const bst_call* call, const bst_prepared* prepared,
                                const bst_io* io) {
  const bst_buffer* const x = call->inputs[0];
  bst_stream_conv(io->part, io->n_parts, (size_t)x->t * bst_cells(x),
                  (int)call->constants[0]->dims[0], (int)x->c, (int)call->outputs[0]->c,
                  call->isa->stream_inner, io->inputs[0], (const int8_t*)prepared->rows,
                  prepared->table, call->data[1], call->data[2], call->data[3], io->outputs[0],
                  io->scratch);
}

const bst_op bst_op_stream_conv = {
    .code = 37,
    .name = "stream_conv",
    .n_inputs = 1,
    .n_outputs = 1,
    .n_constants = 4,
    .input_kinds = {BST_STREAM},
    .output_kinds = {BST_STREAM},
    .constants = {{BST_CONST_BITS, 4, 1},
                  {BST_CONST_I32, 1, 1},
                  {BST_CONST_U8, 1, 1},
                  {BST_CONST_I32, 1, 1}},
    .check = bst_stream_conv_check,
    .prepare = bst_stream_conv_layout,
    .scratch_bytes = bst_stream_conv_scratch,
    .run = bst_stream_conv_run,
};

// ---- level_products -----------------------------------------------------------------------------

static bst_status bst_level_products_check(const bst_call* call) {
  const bst_buffer* const q = call->inputs[0];
  const uint32_t c = (uint32_t)call->step->params[1];
  for (int i = 1; i < 3; ++i) BST_TRY(bst_check_same_shape(call, q, call->inputs[i]));
  BST_TRY(bst_check_levels(call, q, c));
  BST_TRY(bst_check_grid(call));
  BST_CHECK(call->outputs[0]->c == c, BAD_FILE, call->where, "output channels", call->outputs[0]->c,
            "those of the levels");
  BST_TRY(bst_check_product_heads(call, c));
  const uint64_t n = (uint64_t)q->h * q->w, d = c / (uint32_t)call->step->params[0];
  const uint64_t most = (UINT64_C(1) << bst_n_planes(q, c)) - 1;
  BST_CHECK(n * d * most * most * most <= INT32_MAX, UNSUPPORTED, call->where,
            "levels of attention", most, "such that N d L^3 is an int32");
  return BST_OK;
}

#define BST_LEVEL_PRODUCTS_ARGS(call) (int)bst_cells((call)->inputs[0]), (int)(call)->outputs[0]->c

static uint64_t bst_level_products_scratch(const bst_call* call, bool* overflow) {
  (void)overflow;  // tokens and channels per head are capped
  return bst_level_products_scratch_bytes(BST_LEVEL_PRODUCTS_ARGS(call), call->step->params[0]);
}

static void bst_level_products_run(const bst_call* call, const bst_prepared* prepared,
                                   const bst_io* io) {
  (void)prepared;
  bst_level_products(io->part, io->n_parts, call->n_t, BST_LEVEL_PRODUCTS_ARGS(call),
                     bst_n_planes(call->inputs[0], call->outputs[0]->c), call->step->params[0],
                     call->isa->stream_inner, io->inputs[0], io->inputs[1], io->inputs[2],
                     io->outputs[0], io->scratch);
}

const bst_op bst_op_level_products = {
    .code = 38,
    .name = "level_products",
    .n_inputs = 3,
    .n_outputs = 1,
    .n_params = 2,  // heads, channels
    .input_kinds = {BST_SPIKES, BST_SPIKES, BST_SPIKES},
    .output_kinds = {BST_STREAM},
    .check = bst_level_products_check,
    .scratch_bytes = bst_level_products_scratch,
    .run = bst_level_products_run,
};
