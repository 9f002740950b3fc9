// SPDX-License-Identifier: MIT
// Attention on spikes: score_neuron and value_neuron binarise q k^T, key_value_neuron and
// query_value_neuron binarise k^T v. The second of each pair has constants gain, exponent (form 0)
// or table (form 1).

#include "kernels/kv_attention/kv_attention.h"
#include "kernels/spike_attention/spike_attention.h"
#include "ops.h"

// ---- What they share ----------------------------------------------------------------------------

/// Tokens [T, h, w, C] as a kernel takes them.
#define BST_TOKEN_ARGS(call, tokens) \
  (call)->n_t, (int)bst_cells(tokens), (int)(tokens)->c, (call)->step->params[0]

/// Heads, tokens and the shape of the attention map: [T, heads, N, N], or [T, heads, d, d] where
/// `by_channel`. `*side` = N or d.
static bst_status bst_check_heads(const bst_call* call, const bst_buffer* tokens,
                                  const bst_buffer* map, bool by_channel, uint32_t* side) {
  const int32_t heads = call->step->params[0];
  const uint32_t n = tokens->h * tokens->w;  // sides are at most 4096
  BST_CHECK(heads >= 1 && heads <= BST_MAX_HEADS && tokens->c % (uint32_t)heads == 0, BAD_FILE,
            call->where, "heads", heads, "in 1..256 and a divisor of the channels");
  BST_CHECK(n <= BST_MAX_TOKENS, UNSUPPORTED, call->where, "number of tokens", n, "at most 1024");
  *side = by_channel ? tokens->c / (uint32_t)heads : n;
  BST_CHECK(*side <= BST_MAX_TOKENS, UNSUPPORTED, call->where, "channels per head", *side,
            "at most 1024");
  BST_CHECK(map->h == (uint32_t)heads && map->w == *side && map->c == *side, BAD_FILE, call->where,
            "attention map rows", map->w, "those of [T, heads, side, side]");
  return BST_OK;
}

/// Form, thr1 and neuron of a binarising neuron on counts up to `max_count`.
static bst_status bst_check_binariser(const bst_call* call, uint64_t max_count) {
  const int32_t* const p = call->step->params;
  BST_CHECK(p[1] == 0 || p[1] == 1, UNSUPPORTED, call->where, "form", p[1], "0 or 1");
  if (p[1] == 1) {
    BST_CHECK(p[2] == 0, BAD_FILE, call->where, "thr1", p[2], "0 in form 1");
    BST_CHECK(max_count << call->file->model->frac_bits <= INT32_MAX, BAD_FILE, call->where,
              "largest count", max_count, "below 2^(31-F)");
    return bst_check_neuron(call);
  }
  BST_CHECK(p[2] >= 1, BAD_FILE, call->where, "thr1", p[2], "at least 1");
  BST_CHECK(max_count << call->n_t < (UINT64_C(1) << 30), UNSUPPORTED, call->where, "largest count",
            max_count, "below 2^(30-T)");
  for (int i = 4; i < BST_MAX_PARAMS; ++i) {
    BST_CHECK(p[i] == 0, BAD_FILE, call->where, "a neuron param", p[i], "0 in form 0");
  }
  return BST_OK;
}

/// gain, exponent: the last table entry of each row decides, the table is monotone in m.
static bst_status bst_check_gain(const bst_call* call, uint32_t heads, int max_count) {
  const uint32_t n_t = (uint32_t)call->n_t;
  const int64_t* const gain = call->data[0];
  const int32_t* const exponent = call->data[1];
  const int64_t gain_limit = INT64_C(1) << 52;
  BST_TRY(bst_check_dims(call, 0, n_t, heads, 0, 0));
  BST_TRY(bst_check_dims(call, 1, n_t, heads, 0, 0));
  for (size_t i = 0; i < (size_t)n_t * heads; ++i) {
    BST_CHECK(gain[i] < gain_limit && gain[i] > -gain_limit, BAD_FILE, call->where, "gain", gain[i],
              "below 2^52 in size");
    const int64_t last = bst_spike_attention_scale(gain[i], max_count, exponent[i]);
    BST_CHECK(last <= INT32_MAX && last >= INT32_MIN, BAD_FILE, call->where,
              "last entry of an attention table", last, "an int32");
  }
  return BST_OK;
}

/// Constants of the table X[T, heads, 0 .. max_count].
static bst_status bst_check_scale(const bst_call* call, uint32_t max_count) {
  const int32_t form = call->step->params[1];
  const uint32_t heads = (uint32_t)call->step->params[0];
  BST_CHECK(form == 0 || form == 1, UNSUPPORTED, call->where, "form", form, "0 or 1");
  const bool has_gain = call->constants[0] != NULL, has_exponent = call->constants[1] != NULL;
  const bool has_table = call->constants[2] != NULL;
  BST_CHECK(has_gain == (form == 0) && has_exponent == (form == 0) && has_table == (form == 1),
            BAD_FILE, call->where, "form", form, "0 with constants 0 and 1, or 1 with constant 2");
  if (form == 1) return bst_check_dims(call, 2, (uint32_t)call->n_t, heads, max_count + 1, 0);
  return bst_check_gain(call, heads, (int)max_count);
}

/// The table of form 1 is used where it lies, that of form 0 is computed.
static void bst_prepare_scale(const bst_call* call, uint32_t max_count, bst_bump* bump,
                              bst_prepared* prepared) {
  prepared->table = call->data[2];
  if (call->step->params[1] == 1) return;
  const uint32_t heads = (uint32_t)call->step->params[0];
  const uint64_t n_items = (uint64_t)call->n_t * heads * (max_count + 1);
  int32_t* const table = bst_take(bump, n_items, sizeof(int32_t));
  if (table != NULL) {
    bst_spike_attention_prepare_table(call->n_t, (int)heads, (int)max_count, call->data[0],
                                      call->data[1], table);
  }
  prepared->table = table;
}

// ---- score_neuron -------------------------------------------------------------------------------

static bst_status bst_score_check(const bst_call* call) {
  const bst_buffer* const q = call->inputs[0];
  uint32_t n = 0;
  BST_TRY(bst_check_same_shape(call, q, call->inputs[1]));
  BST_TRY(bst_check_heads(call, q, call->outputs[0], false, &n));
  return bst_check_binariser(call, q->c / (uint32_t)call->step->params[0]);
}

static uint64_t bst_score_scratch(const bst_call* call, bool* overflow) {
  (void)overflow;  // channels, tokens and T are capped: far below 2^32
  return bst_spike_attention_score_scratch_bytes(BST_TOKEN_ARGS(call, call->inputs[0]));
}

static void bst_score_run(const bst_call* call, const bst_prepared* prepared, const bst_io* io) {
  (void)prepared;
  const int32_t* const p = call->step->params;
  call->isa->attention_score(io->part, io->n_parts, BST_TOKEN_ARGS(call, call->inputs[0]), p[1],
                             p[2], (int)call->file->model->frac_bits, BST_NEURON_ARGS(call->step),
                             io->inputs[0], io->inputs[1], io->outputs[0], io->scratch);
}

const bst_op bst_op_score_neuron = {
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
};

// ---- value_neuron -------------------------------------------------------------------------------

static bst_status bst_value_check(const bst_call* call) {
  const bst_buffer* const v = call->inputs[1];
  uint32_t n = 0;
  BST_TRY(bst_check_same_shape(call, v, call->outputs[0]));
  BST_TRY(bst_check_heads(call, v, call->inputs[0], false, &n));
  return bst_check_scale(call, n);
}

static void bst_value_prepare(const bst_call* call, bst_bump* bump, bst_prepared* prepared) {
  bst_prepare_scale(call, call->inputs[0]->c, bump, prepared);
}

static uint64_t bst_value_scratch(const bst_call* call, bool* overflow) {
  (void)overflow;  // as bst_score_scratch
  return bst_spike_attention_value_scratch_bytes(BST_TOKEN_ARGS(call, call->inputs[1]));
}

static void bst_value_run(const bst_call* call, const bst_prepared* prepared, const bst_io* io) {
  call->isa->attention_value(io->part, io->n_parts, BST_TOKEN_ARGS(call, call->inputs[1]),
                             BST_NEURON_ARGS(call->step), io->inputs[0], io->inputs[1],
                             prepared->table, io->outputs[0], io->scratch);
}

const bst_op bst_op_value_neuron = {
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
};

// ---- key_value_neuron ---------------------------------------------------------------------------

static bst_status bst_key_value_check(const bst_call* call) {
  const bst_buffer* const k = call->inputs[0];
  uint32_t d = 0;
  BST_TRY(bst_check_same_shape(call, k, call->inputs[1]));
  BST_TRY(bst_check_heads(call, k, call->outputs[0], true, &d));
  return bst_check_binariser(call, bst_cells(k));
}

static uint64_t bst_key_value_scratch(const bst_call* call, bool* overflow) {
  (void)overflow;  // as bst_score_scratch
  return bst_kv_attention_key_value_scratch_bytes(BST_TOKEN_ARGS(call, call->inputs[0]));
}

static void bst_key_value_run(const bst_call* call, const bst_prepared* prepared,
                              const bst_io* io) {
  (void)prepared;
  const int32_t* const p = call->step->params;
  call->isa->key_value(io->part, io->n_parts, BST_TOKEN_ARGS(call, call->inputs[0]), p[1], p[2],
                       (int)call->file->model->frac_bits, BST_NEURON_ARGS(call->step),
                       io->inputs[0], io->inputs[1], io->outputs[0], io->scratch);
}

const bst_op bst_op_key_value_neuron = {
    .code = 10,
    .name = "key_value_neuron",
    .n_inputs = 2,
    .n_outputs = 1,
    .n_params = 3,  // heads, form, thr1
    .has_neuron = 1,
    .neuron_by_form = 1,
    .input_kinds = {BST_SPIKES, BST_SPIKES},
    .output_kinds = {BST_SPIKES},
    .check = bst_key_value_check,
    .scratch_bytes = bst_key_value_scratch,
    .run = bst_key_value_run,
};

// ---- query_value_neuron -------------------------------------------------------------------------

static bst_status bst_query_value_check(const bst_call* call) {
  const bst_buffer* const q = call->inputs[0];
  uint32_t d = 0;
  BST_TRY(bst_check_same_shape(call, q, call->outputs[0]));
  BST_TRY(bst_check_heads(call, q, call->inputs[1], true, &d));
  return bst_check_scale(call, d);
}

static void bst_query_value_prepare(const bst_call* call, bst_bump* bump, bst_prepared* prepared) {
  bst_prepare_scale(call, call->inputs[1]->c, bump, prepared);
}

static uint64_t bst_query_value_scratch(const bst_call* call, bool* overflow) {
  (void)overflow;  // as bst_score_scratch
  return bst_kv_attention_query_value_scratch_bytes(BST_TOKEN_ARGS(call, call->inputs[0]));
}

static void bst_query_value_run(const bst_call* call, const bst_prepared* prepared,
                                const bst_io* io) {
  call->isa->query_value(io->part, io->n_parts, BST_TOKEN_ARGS(call, call->inputs[0]),
                         BST_NEURON_ARGS(call->step), io->inputs[0], io->inputs[1], prepared->table,
                         io->outputs[0], io->scratch);
}

const bst_op bst_op_query_value_neuron = {
    .code = 11,
    .name = "query_value_neuron",
    .n_inputs = 2,
    .n_outputs = 1,
    .n_constants = 3,
    .n_params = 2,  // heads, form
    .has_neuron = 1,
    .input_kinds = {BST_SPIKES, BST_SPIKES},
    .output_kinds = {BST_SPIKES},
    .constants = {{BST_CONST_I64, 2, 0}, {BST_CONST_I32, 2, 0}, {BST_CONST_I32, 3, 0}},
    .check = bst_query_value_check,
    .prepare = bst_query_value_prepare,
    .scratch_bytes = bst_query_value_scratch,
    .run = bst_query_value_run,
};
