// SPDX-License-Identifier: MIT
// The op table: what each step of a program must look like, what is prepared for it at load, and
// which kernel runs it. Everything a kernel relies on is checked here, once, at load.

#include <string.h>

#include "internal.h"
#include "kernels/or_pool/or_pool.h"
#include "kernels/readout/readout.h"
#include "kernels/spike_attention/spike_attention.h"
#include "kernels/spike_conv/spike_conv.h"
#include "kernels/stem_neuron/stem_neuron.h"
#include "kernels/stream_neuron/neuron.h"
#include "kernels/stream_neuron/stream_neuron.h"

#define BST_BIAS_LIMIT (INT64_C(1) << 60)

enum { BST_MAX_STEM_WEIGHT = 8355711, BST_MAX_STEM_SHIFT = 24, BST_MAX_AF = 16384 };

// ---- Shared checks ------------------------------------------------------------------------------

static size_t bst_count_of(const bst_constant* c) {
  return (size_t)c->dims[0] * c->dims[1] * c->dims[2] * c->dims[3];
}

/// Constant `slot` has exactly these dims (0 = end).
static bst_status bst_check_dims(const bst_call* call, int slot, uint32_t d0, uint32_t d1,
                                 uint32_t d2, uint32_t d3) {
  const uint32_t expected[4] = {d0, d1, d2, d3};
  for (int i = 0; i < 4; ++i) {
    const uint32_t wanted = expected[i] == 0 ? 1 : expected[i];
    BST_CHECK(call->constants[slot]->dims[i] == wanted, BAD_FILE, call->where,
              "a dimension of a constant", call->constants[slot]->dims[i],
              "what the step's shapes ask for");
  }
  return BST_OK;
}

static bst_status bst_check_i64_limit(const bst_call* call, int slot) {
  const int64_t* const values = call->data[slot];
  for (size_t i = 0; i < bst_count_of(call->constants[slot]); ++i) {
    BST_CHECK(values[i] < BST_BIAS_LIMIT && values[i] > -BST_BIAS_LIMIT, BAD_FILE, call->where,
              "a bias", values[i], "below 2^60 in size");
  }
  return BST_OK;
}

static bst_status bst_check_af(const bst_call* call, int slot) {
  const int16_t* const values = call->data[slot];
  for (size_t i = 0; i < bst_count_of(call->constants[slot]); ++i) {
    BST_CHECK(values[i] <= BST_MAX_AF && values[i] >= -BST_MAX_AF, BAD_FILE, call->where, "Af",
              values[i], "in -16384..16384");
  }
  return BST_OK;
}

static bool bst_same_shape(const bst_buffer* a, const bst_buffer* b) {
  return a->t == b->t && a->h == b->h && a->w == b->w && a->c == b->c;
}

static bst_status bst_check_same_shape(const bst_call* call, const bst_buffer* a,
                                       const bst_buffer* b) {
  BST_CHECK(bst_same_shape(a, b), BAD_FILE, call->where, "channels of a buffer", b->c,
            "the shape of its other buffers");
  return BST_OK;
}

static bst_status bst_check_all_same(const bst_call* call) {
  for (int i = 1; i < call->op->n_inputs; ++i) {
    BST_TRY(bst_check_same_shape(call, call->inputs[0], call->inputs[i]));
  }
  for (int i = 0; i < call->op->n_outputs; ++i) {
    BST_TRY(bst_check_same_shape(call, call->inputs[0], call->outputs[i]));
  }
  return BST_OK;
}

static bst_status bst_check_side(const bst_call* call, uint32_t in, uint32_t out, uint32_t kernel,
                                 int32_t stride, int32_t pad) {
  BST_CHECK(kernel >= 1 && kernel <= BST_MAX_KERNEL, UNSUPPORTED, call->where, "kernel size",
            kernel, "in 1..15");
  BST_CHECK(stride >= 1 && stride <= BST_MAX_STRIDE, UNSUPPORTED, call->where, "stride", stride,
            "in 1..16");
  BST_CHECK(pad >= 0 && pad < (int32_t)kernel, UNSUPPORTED, call->where, "pad", pad,
            "below the kernel size");
  const int32_t room = (int32_t)in + 2 * pad - (int32_t)kernel;
  BST_CHECK(room >= 0 && (int32_t)out == room / stride + 1, BAD_FILE, call->where,
            "output height or width", out, "(input + 2 pad - kernel) / stride + 1");
  return BST_OK;
}

/// Kernel, stride, pad and output size of a sliding window.
static bst_status bst_check_window(const bst_call* call, uint32_t kh, uint32_t kw, int32_t stride,
                                   int32_t pad) {
  BST_TRY(bst_check_side(call, call->inputs[0]->h, call->outputs[0]->h, kh, stride, pad));
  return bst_check_side(call, call->inputs[0]->w, call->outputs[0]->w, kw, stride, pad);
}

static bst_status bst_check_neuron(const bst_call* call) {
  const int32_t flags = call->step->params[4], r = call->step->params[7];
  BST_CHECK(flags >= 0 && flags <= 7, UNSUPPORTED, call->where, "neuron flags", flags, "in 0..7");
  if ((flags & BST_HALVING) != 0) {
    BST_CHECK(r == 0, BAD_FILE, call->where, "neuron r", r, "0 for a halving neuron");
  } else {
    const int32_t low = (flags & BST_DECAY_INPUT) != 0 ? 1 : 0;
    BST_CHECK(r >= low && r <= 1 << 30, BAD_FILE, call->where, "neuron r", r, "in 1..2^30");
  }
  return BST_OK;
}

static size_t bst_cells(const bst_buffer* b) { return (size_t)b->h * b->w; }

#define BST_NEURON_ARGS(step) \
  (step)->params[4], (step)->params[5], (step)->params[6], (step)->params[7]

// ---- stem_neuron: weight, bias, shift, row_class, col_class -------------------------------------

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

static bst_status bst_stem_check(const bst_call* call) {
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

static void bst_stem_prepare(const bst_call* call, bst_bump* bump, bst_prepared* prepared) {
  const uint32_t* const d = call->constants[0]->dims;
  const int o = (int)d[0], kh = (int)d[1], kw = (int)d[2], i = (int)d[3];
  const uint64_t n_items = (uint64_t)d[1] * d[2] * d[3] * bst_n_words(d[0]) * 64;
  int32_t* const weight = bst_take(bump, n_items, sizeof(int32_t));
  if (weight != NULL) bst_stem_neuron_prepare_weight(o, kh, kw, i, call->data[0], weight);
  prepared->table = weight;
}

static void bst_stem_run(const bst_call* call, const bst_prepared* prepared, const bst_io* io) {
  const bst_buffer* const in = call->inputs[0];
  const uint32_t* const d = call->constants[0]->dims;
  const int32_t* const p = call->step->params;
  bst_stem_neuron__scalar(call->n_t, (int)in->h, (int)in->w, (int)in->c, (int)d[0], (int)d[1],
                          (int)d[2], p[0], p[1], BST_NEURON_ARGS(call->step), io->inputs[0],
                          prepared->table, call->data[1], call->data[2], call->data[3],
                          call->data[4], p[2], io->outputs[0]);
}

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
  bst_or_pool__scalar(call->n_t, (int)in->h, (int)in->w, (int)bst_n_words(in->c), p[0], p[1], p[2],
                      io->inputs[0], io->outputs[0]);
}

// ---- conv_neuron: weight, theta_u, theta_w, row_index, row_theta --------------------------------
// ---- conv_affine: weight, Ai, Af, B -------------------------------------------------------------

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
  const uint32_t o = call->outputs[0]->c, t = (uint32_t)call->n_t;
  BST_TRY(bst_conv_check(call));
  BST_CHECK(t <= BST_MAX_CONV_NEURON_T, UNSUPPORTED, call->where, "T", t, "at most 8");
  BST_TRY(bst_check_dims(call, 1, o, 0, 0, 0));
  BST_TRY(bst_check_dims(call, 2, o, 0, 0, 0));
  BST_CHECK((call->constants[3] == NULL) == (call->constants[4] == NULL), BAD_FILE, call->where,
            "number of explicit tables", call->constants[3] == NULL ? 0 : 1,
            "given with their channels, or neither");
  if (call->constants[3] == NULL) return BST_OK;
  const uint32_t n_explicit = call->constants[3]->dims[0];
  const int32_t* const index = call->data[3];
  BST_TRY(bst_check_dims(call, 4, n_explicit, t * (t + 1) / 2, 0, 0));
  for (uint32_t i = 0; i < n_explicit; ++i) {
    BST_CHECK(index[i] > (i == 0 ? -1 : index[i - 1]) && index[i] < (int32_t)o, BAD_FILE,
              call->where, "row_index", index[i], "ascending channels");
  }
  return BST_OK;
}

static bst_status bst_conv_affine_check(const bst_call* call) {
  const uint32_t o = call->outputs[0]->c;
  BST_TRY(bst_conv_check(call));
  for (int slot = 1; slot <= 3; ++slot) BST_TRY(bst_check_dims(call, slot, o, 0, 0, 0));
  return bst_check_af(call, 2);
}

static void bst_conv_prepare(const bst_call* call, bst_bump* bump, bst_prepared* prepared) {
  const uint32_t* const d = call->constants[0]->dims;
  const uint64_t n_rows = (uint64_t)d[1] * d[2] * d[3] + 1;
  uint64_t* const rows = bst_take(bump, n_rows * bst_n_words(d[0]), sizeof(uint64_t));
  if (rows != NULL) {
    bst_spike_conv_prepare_rows((int)d[0], (int)d[1], (int)d[2], (int)d[3], call->data[0], rows);
  }
  prepared->rows = rows;
}

static void bst_conv_neuron_prepare(const bst_call* call, bst_bump* bump, bst_prepared* prepared) {
  bst_conv_prepare(call, bump, prepared);
  const uint32_t o = call->outputs[0]->c, t = (uint32_t)call->n_t;
  const uint64_t n_items = (uint64_t)t * (t + 1) / 2 * bst_n_words(o) * 64;
  int32_t* const theta = bst_take(bump, n_items, sizeof(int32_t));
  if (theta != NULL) {
    const int n_explicit = call->constants[3] == NULL ? 0 : (int)call->constants[3]->dims[0];
    bst_spike_conv_prepare_theta(call->n_t, (int)o, call->data[1], call->data[2], n_explicit,
                                 call->data[3], call->data[4], theta);
  }
  prepared->table = theta;
}

static uint64_t bst_conv_scratch(const bst_call* call, bool* overflow) {
  const uint32_t* const d = call->constants[0]->dims;
  (void)overflow;  // fan-in and T are capped: at most 16 * 65544 * 4 bytes
  return bst_spike_conv_scratch_bytes(call->n_t, (int)d[1], (int)d[2], (int)d[3]);
}

#define BST_CONV_ARGS(call)                                                                     \
  (call)->n_t, (int)(call)->inputs[0]->h, (int)(call)->inputs[0]->w, (int)(call)->inputs[0]->c, \
      (int)(call)->outputs[0]->c, (int)(call)->constants[0]->dims[1],                           \
      (int)(call)->constants[0]->dims[2], (call)->step->params[0], (call)->step->params[1]

static void bst_conv_neuron_run(const bst_call* call, const bst_prepared* prepared,
                                const bst_io* io) {
  bst_spike_conv_neuron__scalar(BST_CONV_ARGS(call), io->inputs[0], prepared->rows, prepared->table,
                                io->outputs[0], io->scratch);
}

static void bst_conv_affine_run(const bst_call* call, const bst_prepared* prepared,
                                const bst_io* io) {
  bst_spike_conv_affine__scalar(BST_CONV_ARGS(call), io->inputs[0], prepared->rows, call->data[1],
                                call->data[2], call->data[3], io->outputs[0], io->scratch);
}

// ---- stream_neuron, residual_neuron -------------------------------------------------------------

static void bst_stream_run(const bst_call* call, const bst_prepared* prepared, const bst_io* io) {
  (void)prepared;
  const bst_buffer* const in = call->inputs[0];
  bst_stream_neuron__scalar(call->n_t, bst_cells(in), (int)in->c, BST_NEURON_ARGS(call->step),
                            io->inputs[0], io->outputs[0]);
}

static void bst_residual_run(const bst_call* call, const bst_prepared* prepared, const bst_io* io) {
  (void)prepared;
  const bst_buffer* const in = call->inputs[0];
  bst_residual_neuron__scalar(call->n_t, bst_cells(in), (int)in->c, BST_NEURON_ARGS(call->step),
                              io->inputs[0], io->inputs[1], io->inputs[2], io->outputs[0],
                              io->outputs[1]);
}

// ---- score_neuron, value_neuron -----------------------------------------------------------------

/// Heads, tokens and the shape of the attention map [T, heads, N, N].
static bst_status bst_check_heads(const bst_call* call, const bst_buffer* tokens,
                                  const bst_buffer* map) {
  const int32_t heads = call->step->params[0];
  const uint32_t n = tokens->h * tokens->w;  // sides are at most 4096
  BST_CHECK(heads >= 1 && heads <= BST_MAX_HEADS && tokens->c % (uint32_t)heads == 0, BAD_FILE,
            call->where, "heads", heads, "in 1..256 and a divisor of the channels");
  BST_CHECK(n <= BST_MAX_TOKENS, UNSUPPORTED, call->where, "number of tokens", n, "at most 1024");
  BST_CHECK(map->h == (uint32_t)heads && map->w == n && map->c == n, BAD_FILE, call->where,
            "attention map rows", map->w, "[T, heads, tokens, tokens]");
  return BST_OK;
}

static bst_status bst_score_check(const bst_call* call) {
  const int32_t* const p = call->step->params;
  BST_TRY(bst_check_same_shape(call, call->inputs[0], call->inputs[1]));
  BST_TRY(bst_check_heads(call, call->inputs[0], call->outputs[0]));
  const uint64_t d = call->inputs[0]->c / (uint32_t)p[0];
  BST_CHECK(p[1] == 0 || p[1] == 1, UNSUPPORTED, call->where, "form", p[1], "0 or 1");
  if (p[1] == 1) {
    BST_CHECK(p[2] == 0, BAD_FILE, call->where, "thr1", p[2], "0 in form 1");
    BST_CHECK(d << call->file->model->frac_bits <= INT32_MAX, BAD_FILE, call->where,
              "channels per head", d, "below 2^(31-F)");
    return bst_check_neuron(call);
  }
  BST_CHECK(p[2] >= 1, BAD_FILE, call->where, "thr1", p[2], "at least 1");
  BST_CHECK(d << call->n_t < (UINT64_C(1) << 30), UNSUPPORTED, call->where, "channels per head", d,
            "below 2^(30-T)");
  for (int i = 4; i < BST_MAX_PARAMS; ++i) {
    BST_CHECK(p[i] == 0, BAD_FILE, call->where, "a neuron param", p[i], "0 in form 0");
  }
  return BST_OK;
}

static uint64_t bst_score_scratch(const bst_call* call, bool* overflow) {
  const bst_buffer* const in = call->inputs[0];
  (void)overflow;  // channels, tokens and T are capped: far below 2^32
  return bst_spike_attention_score_scratch_bytes(call->n_t, (int)bst_cells(in), (int)in->c,
                                                 call->step->params[0]);
}

static void bst_score_run(const bst_call* call, const bst_prepared* prepared, const bst_io* io) {
  (void)prepared;
  const bst_buffer* const in = call->inputs[0];
  const int32_t* const p = call->step->params;
  bst_spike_attention_score__scalar(call->n_t, (int)bst_cells(in), (int)in->c, p[0], p[1], p[2],
                                    (int)call->file->model->frac_bits, BST_NEURON_ARGS(call->step),
                                    io->inputs[0], io->inputs[1], io->outputs[0], io->scratch);
}

/// gain, exponent: the last table entry of each row decides, the table is monotone in m.
static bst_status bst_value_check_gain(const bst_call* call, uint32_t n_t, uint32_t heads, int n) {
  const int64_t* const gain = call->data[0];
  const int32_t* const exponent = call->data[1];
  const int64_t gain_limit = INT64_C(1) << 52;
  BST_TRY(bst_check_dims(call, 0, n_t, heads, 0, 0));
  BST_TRY(bst_check_dims(call, 1, n_t, heads, 0, 0));
  for (size_t i = 0; i < (size_t)n_t * heads; ++i) {
    BST_CHECK(gain[i] < gain_limit && gain[i] > -gain_limit, BAD_FILE, call->where, "gain", gain[i],
              "below 2^52 in size");
    const int64_t last = bst_spike_attention_scale(gain[i], n, exponent[i]);
    BST_CHECK(last <= INT32_MAX && last >= INT32_MIN, BAD_FILE, call->where,
              "last entry of an attention table", last, "an int32");
  }
  return BST_OK;
}

static bst_status bst_value_check(const bst_call* call) {
  const int32_t form = call->step->params[1];
  BST_TRY(bst_check_same_shape(call, call->inputs[1], call->outputs[0]));
  BST_TRY(bst_check_heads(call, call->inputs[1], call->inputs[0]));
  const uint32_t heads = (uint32_t)call->step->params[0], n = call->inputs[0]->c;
  BST_CHECK(form == 0 || form == 1, UNSUPPORTED, call->where, "form", form, "0 or 1");
  const bool has_gain = call->constants[0] != NULL, has_exponent = call->constants[1] != NULL;
  const bool has_table = call->constants[2] != NULL;
  BST_CHECK(has_gain == (form == 0) && has_exponent == (form == 0) && has_table == (form == 1),
            BAD_FILE, call->where, "form", form, "0 with constants 0 and 1, or 1 with constant 2");
  if (form == 1) return bst_check_dims(call, 2, (uint32_t)call->n_t, heads, n + 1, 0);
  return bst_value_check_gain(call, (uint32_t)call->n_t, heads, (int)n);
}

static void bst_value_prepare(const bst_call* call, bst_bump* bump, bst_prepared* prepared) {
  prepared->table = call->data[2];
  if (call->step->params[1] == 1) return;
  const uint32_t heads = (uint32_t)call->step->params[0], n = call->inputs[0]->c;
  const uint64_t n_items = (uint64_t)call->n_t * heads * (n + 1);
  int32_t* const table = bst_take(bump, n_items, sizeof(int32_t));
  if (table != NULL) {
    bst_spike_attention_prepare_table(call->n_t, (int)heads, (int)n, call->data[0], call->data[1],
                                      table);
  }
  prepared->table = table;
}

static uint64_t bst_value_scratch(const bst_call* call, bool* overflow) {
  const bst_buffer* const v = call->inputs[1];
  (void)overflow;  // as bst_score_scratch
  return bst_spike_attention_value_scratch_bytes(call->n_t, (int)bst_cells(v), (int)v->c,
                                                 call->step->params[0]);
}

static void bst_value_run(const bst_call* call, const bst_prepared* prepared, const bst_io* io) {
  const bst_buffer* const v = call->inputs[1];
  bst_spike_attention_value__scalar(call->n_t, (int)bst_cells(v), (int)v->c, call->step->params[0],
                                    BST_NEURON_ARGS(call->step), io->inputs[0], io->inputs[1],
                                    prepared->table, io->outputs[0], io->scratch);
}

// ---- readout: weight, Ai, Af, B, V0, V1, C ------------------------------------------------------

static bst_status bst_readout_check(const bst_call* call) {
  const bst_buffer *const x2 = call->inputs[0], *const hidden = call->inputs[2];
  const uint32_t d = x2->c, e = hidden->c, k = call->outputs[0]->c;
  const int32_t q = call->step->params[0];
  BST_TRY(bst_check_same_shape(call, x2, call->inputs[1]));
  BST_CHECK(hidden->t == x2->t && hidden->h == x2->h && hidden->w == x2->w, BAD_FILE, call->where,
            "height of the hidden spikes", hidden->h, "the streams'");
  BST_TRY(bst_check_dims(call, 0, d, 0, 0, e));
  for (int slot = 1; slot <= 3; ++slot) BST_TRY(bst_check_dims(call, slot, d, 0, 0, 0));
  BST_TRY(bst_check_dims(call, 4, k, d, 0, 0));
  BST_TRY(bst_check_dims(call, 5, k, d, 0, 0));
  BST_TRY(bst_check_dims(call, 6, k, 0, 0, 0));
  const uint64_t n_spikes = (uint64_t)x2->t * x2->h * x2->w * e;  // below 2^44
  BST_CHECK(n_spikes <= UINT64_C(1) << 31, UNSUPPORTED, call->where, "T * tokens * hidden channels",
            n_spikes, "at most 2^31");
  BST_CHECK(q >= 0 && q <= 62, BAD_FILE, call->where, "q", q, "in 0..62");
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
  bst_readout__scalar(call->n_t, bst_cells(x2), (int)x2->c, (int)call->inputs[2]->c,
                      (int)call->outputs[0]->c, call->step->params[0], io->inputs[0], io->inputs[1],
                      io->inputs[2], data[0], data[1], data[2], data[3], data[4], data[5], data[6],
                      io->outputs[0], io->scratch);
}

// ---- The table ----------------------------------------------------------------------------------

#define BST_IMAGE BST_KIND_IMAGE
#define BST_SPIKES BST_KIND_SPIKES
#define BST_STREAM BST_KIND_STREAM

static const bst_op bst_ops[] = {
    {
        .code = 1,
        .name = "stem_neuron",
        .n_inputs = 1,
        .n_outputs = 1,
        .n_constants = 5,
        .n_params = 3,  // stride, pad, n_col_classes
        .has_neuron = 1,
        .input_kinds = {BST_IMAGE},
        .output_kinds = {BST_SPIKES},
        .constants = {{BST_CONST_I32, 4, 1},
                      {BST_CONST_I64, 2, 1},
                      {BST_CONST_U8, 1, 1},
                      {BST_CONST_U8, 1, 1},
                      {BST_CONST_U8, 1, 1}},
        .check = bst_stem_check,
        .prepare = bst_stem_prepare,
        .run = bst_stem_run,
    },
    {
        .code = 2,
        .name = "or_pool",
        .n_inputs = 1,
        .n_outputs = 1,
        .n_params = 3,  // kernel, stride, pad
        .input_kinds = {BST_SPIKES},
        .output_kinds = {BST_SPIKES},
        .check = bst_pool_check,
        .run = bst_pool_run,
    },
    {
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
    },
    {
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
    },
    {
        .code = 5,
        .name = "stream_neuron",
        .n_inputs = 1,
        .n_outputs = 1,
        .has_neuron = 1,
        .input_kinds = {BST_STREAM},
        .output_kinds = {BST_SPIKES},
        .check = bst_check_all_same,
        .run = bst_stream_run,
    },
    {
        .code = 6,
        .name = "residual_neuron",
        .n_inputs = 3,
        .n_outputs = 2,
        .has_neuron = 1,
        .input_kinds = {BST_STREAM, BST_STREAM, BST_STREAM},
        .output_kinds = {BST_STREAM, BST_SPIKES},
        .check = bst_check_all_same,
        .run = bst_residual_run,
    },
    {
        .code = 7,
        .name = "score_neuron",
        .n_inputs = 2,
        .n_outputs = 1,
        .n_params = 3,  // heads, form, thr1
        .has_neuron = 1,
        .neuron_by_form = 1,
        .input_kinds = {BST_SPIKES, BST_SPIKES},
        .output_kinds = {BST_SPIKES},
        .check = bst_score_check,
        .scratch_bytes = bst_score_scratch,
        .run = bst_score_run,
    },
    {
        .code = 8,
        .name = "value_neuron",
        .n_inputs = 2,
        .n_outputs = 1,
        .n_constants = 3,
        .n_params = 2,  // heads, form
        .has_neuron = 1,
        .input_kinds = {BST_SPIKES, BST_SPIKES},
        .output_kinds = {BST_SPIKES},
        .constants = {{BST_CONST_I64, 2, 0}, {BST_CONST_I32, 2, 0}, {BST_CONST_I32, 3, 0}},
        .check = bst_value_check,
        .prepare = bst_value_prepare,
        .scratch_bytes = bst_value_scratch,
        .run = bst_value_run,
    },
    {
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
                      {BST_CONST_I32, 2, 1},
                      {BST_CONST_I32, 2, 1},
                      {BST_CONST_I64, 1, 1}},
        .check = bst_readout_check,
        .scratch_bytes = bst_readout_scratch,
        .run = bst_readout_run,
    },
};

const bst_op* bst_find_op(uint32_t code) {
  for (size_t i = 0; i < sizeof bst_ops / sizeof *bst_ops; ++i) {
    if (bst_ops[i].code == code) return &bst_ops[i];
  }
  return NULL;
}

// ---- Looking up a step --------------------------------------------------------------------------

void bst_call_open(const bst_file* file, uint32_t index, bst_call* call) {
  const bst_step* const step = &file->steps[index];
  memset(call, 0, sizeof *call);
  call->file = file;
  call->step = step;
  call->op = bst_find_op(step->op);
  call->where = (bst_where){"step", (int64_t)index, file->names + step->name};
  call->n_t = (int)file->model->n_steps;
  for (int i = 0; i < call->op->n_inputs; ++i) {
    call->inputs[i] = &file->buffers[step->inputs[i]];
  }
  for (int i = 0; i < call->op->n_outputs; ++i) {
    call->outputs[i] = &file->buffers[step->outputs[i]];
  }
  for (int i = 0; i < call->op->n_constants; ++i) {
    if (step->constants[i] == (uint32_t)BST_NONE) continue;
    call->constants[i] = &file->constants[step->constants[i]];
    call->data[i] = file->data + call->constants[i]->offset;
  }
}

/// `used` numbers below `limit`, the rest BST_NONE.
static bst_status bst_check_slots(bst_where where, const uint32_t* numbers, int n, int used,
                                  uint32_t limit) {
  for (int i = 0; i < n; ++i) {
    if (i < used) {
      BST_CHECK(numbers[i] < limit, BAD_FILE, where, "buffer number", numbers[i],
                "below the number of buffers");
    } else {
      BST_CHECK(numbers[i] == (uint32_t)BST_NONE, BAD_FILE, where, "unused buffer slot", numbers[i],
                "0xFFFFFFFF");
    }
  }
  return BST_OK;
}

static bst_status bst_check_constants(const bst_file* file, const bst_op* op, bst_where where,
                                      const bst_step* step) {
  for (int i = 0; i < BST_MAX_CONSTANTS; ++i) {
    const uint32_t number = step->constants[i];
    const bst_const_rule* const rule = &op->constants[i];
    if (number == (uint32_t)BST_NONE) {
      BST_CHECK(i >= op->n_constants || !rule->needed, BAD_FILE, where, "missing constant", i,
                "given");
      continue;
    }
    BST_CHECK(i < op->n_constants, BAD_FILE, where, "unused constant slot", number, "0xFFFFFFFF");
    BST_CHECK(number < file->n_constants, BAD_FILE, where, "constant number", number,
              "below the number of constants");
    const bst_constant* const constant = &file->constants[number];
    BST_CHECK(constant->type == rule->type && constant->n_dims == rule->n_dims, BAD_FILE, where,
              "type of a constant", constant->type, "the op's, with its number of dims");
  }
  return BST_OK;
}

static bst_status bst_check_buffers(const bst_call* call) {
  const uint32_t n_t = (uint32_t)call->n_t;
  for (int i = 0; i < call->op->n_inputs + call->op->n_outputs; ++i) {
    const bool is_input = i < call->op->n_inputs;
    const int port = is_input ? i : i - call->op->n_inputs;
    const bst_buffer* const buffer = is_input ? call->inputs[port] : call->outputs[port];
    const uint32_t kind = is_input ? call->op->input_kinds[port] : call->op->output_kinds[port];
    BST_CHECK(buffer->kind == kind, BAD_FILE, call->where, "kind of a buffer", buffer->kind,
              "the one the op takes");
    BST_CHECK(kind == BST_KIND_IMAGE || kind == BST_KIND_RAW || buffer->t == n_t, BAD_FILE,
              call->where, "t of a buffer", buffer->t, "the model's number of steps");
  }
  return BST_OK;
}

bst_status bst_call_check(const bst_file* file, uint32_t index, bst_call* call) {
  const bst_step* const step = &file->steps[index];
  const bst_where where = {"step", (int64_t)index, file->names + step->name};
  const bst_op* const op = bst_find_op(step->op);
  BST_CHECK(op != NULL, UNSUPPORTED, where, "op", step->op, "in 1..9");
  BST_TRY(bst_check_slots(where, step->inputs, BST_MAX_INPUTS, op->n_inputs, file->n_buffers));
  BST_TRY(bst_check_slots(where, step->outputs, BST_MAX_OUTPUTS, op->n_outputs, file->n_buffers));
  BST_TRY(bst_check_constants(file, op, where, step));
  for (int i = 0; i < BST_MAX_PARAMS; ++i) {
    const bool used = i < op->n_params || (op->has_neuron && i >= 4);
    BST_CHECK(used || step->params[i] == 0, BAD_FILE, where, "unused param", step->params[i], "0");
  }
  bst_call_open(file, index, call);
  BST_TRY(bst_check_buffers(call));
  if (op->has_neuron && !op->neuron_by_form) BST_TRY(bst_check_neuron(call));
  return op->check(call);
}
