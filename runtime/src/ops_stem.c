// SPDX-License-Identifier: MIT
// The first convolution: constants weight, bias, shift, row_class, col_class, (first). stem_neuron
// gives spikes, stem_stream what they would be made of.

#include "kernels/stem_neuron/stem_neuron.h"
#include "ops.h"

enum { BST_MAX_STEM_WEIGHT = 8355711, BST_MAX_STEM_SHIFT = 24 };

static bst_status bst_check_classes(const bst_call* call, int slot, uint32_t n_classes) {
  const uint8_t* const classes = call->data[slot];
  for (size_t i = 0; i < bst_count_of(call->constants[slot]); ++i) {
    BST_CHECK(classes[i] < n_classes, BAD_FILE, call->where, "border class", classes[i],
              "below the number of classes");
  }
  return BST_OK;
}

static bst_status bst_stem_check_values(const bst_call* call, uint32_t n_col_classes) {
  const int32_t* const weight = call->data[0];
  const uint8_t* const shift = call->data[2];
  for (size_t i = 0; i < bst_count_of(call->constants[0]); ++i) {
    BST_CHECK(weight[i] <= BST_MAX_STEM_WEIGHT && weight[i] >= -BST_MAX_STEM_WEIGHT, BAD_FILE,
              call->where, "weight", weight[i], "in -8355711..8355711");
  }
  BST_TRY(bst_check_i64_limit(call, 1));
  for (size_t i = 0; i < bst_count_of(call->constants[2]); ++i) {
    BST_CHECK(shift[i] <= BST_MAX_STEM_SHIFT, BAD_FILE, call->where, "shift", shift[i], "in 0..24");
  }
  BST_TRY(bst_check_classes(call, 3, call->constants[1]->dims[0] / n_col_classes));
  return bst_check_classes(call, 4, n_col_classes);
}

/// Either a neuron, or, for still images, the table of first steps and no neuron.
static bst_status bst_stem_check_neuron(const bst_call* call) {
  const int32_t* const first = call->data[5];
  const int32_t* const p = call->step->params;
  if (first == NULL) return bst_check_neuron(call);
  BST_CHECK(call->inputs[0]->t == 1, BAD_FILE, call->where, "t of the image", call->inputs[0]->t,
            "1 with the table of first steps");
  for (int i = 4; i < BST_MAX_PARAMS; ++i) {
    BST_CHECK(p[i] == 0, BAD_FILE, call->where, "a neuron param", p[i],
              "0 with the table of first steps");
  }
  BST_TRY(bst_check_dims(call, 5, (uint32_t)call->n_t, 0, 0, 0));
  for (int i = 1; i < call->n_t; ++i) {
    BST_CHECK(first[i] <= first[i - 1], BAD_FILE, call->where, "first", first[i],
              "at most the value before");
  }
  return BST_OK;
}

/// What both ops have in common.
static bst_status bst_stem_check_shapes(const bst_call* call) {
  const uint32_t* const dims = call->constants[0]->dims;
  const bst_buffer* const out = call->outputs[0];
  const int32_t n_col_classes = call->step->params[2];
  BST_TRY(bst_check_dims(call, 0, out->c, dims[1], dims[2], call->inputs[0]->c));
  BST_TRY(bst_check_window(call, dims[1], dims[2], call->step->params[0], call->step->params[1]));
  const uint32_t n_classes = call->constants[1]->dims[0];
  BST_TRY(bst_check_dims(call, 1, n_classes, out->c, 0, 0));
  BST_TRY(bst_check_dims(call, 2, out->c, 0, 0, 0));
  BST_TRY(bst_check_dims(call, 3, out->h, 0, 0, 0));
  BST_TRY(bst_check_dims(call, 4, out->w, 0, 0, 0));
  BST_CHECK(n_col_classes >= 1 && n_classes % (uint32_t)n_col_classes == 0, BAD_FILE, call->where,
            "n_col_classes", n_col_classes, "a divisor of the number of bias rows");
  return bst_stem_check_values(call, (uint32_t)n_col_classes);
}

static bst_status bst_stem_check(const bst_call* call) {
  BST_TRY(bst_stem_check_shapes(call));
  return bst_stem_check_neuron(call);
}

static void bst_stem_prepare(const bst_call* call, bst_bump* bump, bst_prepared* prepared) {
  const bst_stem_neuron* const kernel = call->isa->stem_neuron;
  const uint32_t* const d = call->constants[0]->dims;
  const int o = (int)d[0], kh = (int)d[1], kw = (int)d[2], i = (int)d[3];
  const int n_classes = (int)call->constants[1]->dims[0];
  void* const constants = bst_take(bump, kernel->constant_bytes(o, kh, kw, i, n_classes), 1);
  if (constants != NULL) {
    kernel->prepare(o, kh, kw, i, n_classes, call->data[0], call->data[1], call->data[2],
                    constants);
  }
  prepared->table = constants;
}

static uint64_t bst_stem_scratch(const bst_call* call, bool* overflow) {
  const bst_buffer* const in = call->inputs[0];
  const uint32_t* const d = call->constants[0]->dims;
  (void)overflow;  // sides, window and T are capped
  return call->isa->stem_neuron->scratch_bytes((int)in->t, (int)in->w, (int)d[3], (int)d[1],
                                               (int)d[2], call->step->params[1]);
}

/// Spikes where `spikes` is not NULL, else the stream.
static void bst_stem_call(const bst_call* call, const bst_prepared* prepared, const bst_io* io,
                          const int32_t* first, uint64_t* spikes, int32_t* stream) {
  const bst_buffer* const in = call->inputs[0];
  const uint32_t* const d = call->constants[0]->dims;
  const int32_t* const p = call->step->params;
  call->isa->stem_neuron->run(io->part, io->n_parts, call->n_t, (int)in->t, (int)in->h, (int)in->w,
                              (int)in->c, (int)d[0], (int)d[1], (int)d[2], p[0], p[1],
                              BST_NEURON_ARGS(call->step), io->inputs[0], prepared->table,
                              call->data[1], call->data[2], call->data[3], call->data[4], p[2],
                              first, spikes, stream, io->scratch);
}

static void bst_stem_run(const bst_call* call, const bst_prepared* prepared, const bst_io* io) {
  bst_stem_call(call, prepared, io, call->data[5], io->outputs[0], NULL);
}

const bst_op bst_op_stem_neuron = {
    .code = 1,
    .name = "stem_neuron",
    .n_inputs = 1,
    .n_outputs = 1,
    .n_constants = 6,
    .n_params = 3,  // stride, pad, n_col_classes
    .has_neuron = 1,
    .neuron_by_form = 1,
    .input_kinds = {BST_IMAGE},
    .output_kinds = {BST_SPIKES},
    .constants = {{BST_CONST_I32, 4, 1},
                  {BST_CONST_I64, 2, 1},
                  {BST_CONST_U8, 1, 1},
                  {BST_CONST_U8, 1, 1},
                  {BST_CONST_U8, 1, 1},
                  {BST_CONST_I32, 1, 0}},
    .check = bst_stem_check,
    .prepare = bst_stem_prepare,
    .scratch_bytes = bst_stem_scratch,
    .run = bst_stem_run,
};

static void bst_stem_stream_run(const bst_call* call, const bst_prepared* prepared,
                                const bst_io* io) {
  bst_stem_call(call, prepared, io, NULL, NULL, io->outputs[0]);
}

const bst_op bst_op_stem_stream = {
    .code = 31,
    .name = "stem_stream",
    .n_inputs = 1,
    .n_outputs = 1,
    .n_constants = 5,
    .n_params = 3,  // stride, pad, n_col_classes
    .input_kinds = {BST_IMAGE},
    .output_kinds = {BST_STREAM},
    .constants = {{BST_CONST_I32, 4, 1},
                  {BST_CONST_I64, 2, 1},
                  {BST_CONST_U8, 1, 1},
                  {BST_CONST_U8, 1, 1},
                  {BST_CONST_U8, 1, 1}},
    .check = bst_stem_check_shapes,
    .prepare = bst_stem_prepare,
    .scratch_bytes = bst_stem_scratch,
    .run = bst_stem_stream_run,
};
