// SPDX-License-Identifier: MIT
// The op table, looking up a step, memory for what is laid out. What a step must look like, what is
// prepared for it at load and which kernel runs it stands in ops_<family>.c; what holds for every
// op is checked here.

#include "ops.h"

#include <string.h>

static const bst_op* const bst_ops[] = {
    &bst_op_stem_neuron,
    &bst_op_or_pool,
    &bst_op_conv_neuron,
    &bst_op_conv_affine,
    &bst_op_stream_neuron,
    &bst_op_residual_neuron,
    &bst_op_score_neuron,
    &bst_op_value_neuron,
    &bst_op_readout,
    &bst_op_key_value_neuron,
    &bst_op_query_value_neuron,
    &bst_op_residual_readout,
    &bst_op_key_value_any,
    &bst_op_gate,
    &bst_op_max_pool,
    &bst_op_mean_neuron,
    &bst_op_count_readout,
    &bst_op_ternary_neuron,
    &bst_op_add_neuron,
    &bst_op_weight_conv_neuron,
    &bst_op_weight_conv_affine,
    &bst_op_product_neuron,
    &bst_op_level_add,
    &bst_op_level_readout,
    &bst_op_stem_stream,
    &bst_op_stream_add,
    &bst_op_stream_mean,
    &bst_op_stream_levels,
    &bst_op_depthwise_levels,
    &bst_op_depthwise_stream,
    &bst_op_stream_conv,
    &bst_op_level_products,
};

const bst_op* bst_find_op(uint32_t code) {
  for (size_t i = 0; i < sizeof bst_ops / sizeof *bst_ops; ++i) {
    if (bst_ops[i]->code == code) return bst_ops[i];
  }
  return NULL;
}

// ---- Looking up a step --------------------------------------------------------------------------

void bst_call_open(const bst_file* file, const bst_isa* isa, uint32_t index, bst_call* call) {
  const bst_step* const step = &file->steps[index];
  memset(call, 0, sizeof *call);
  call->file = file;
  call->step = step;
  call->op = bst_find_op(step->op);
  call->where = (bst_where){"step", (int64_t)index, file->names + step->name};
  call->n_t = (int)file->model->n_steps;
  call->isa = isa;
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
  BST_CHECK(op != NULL, UNSUPPORTED, where, "op", step->op, "one of this version");
  BST_TRY(bst_check_slots(where, step->inputs, BST_MAX_INPUTS, op->n_inputs, file->n_buffers));
  BST_TRY(bst_check_slots(where, step->outputs, BST_MAX_OUTPUTS, op->n_outputs, file->n_buffers));
  BST_TRY(bst_check_constants(file, op, where, step));
  for (int i = 0; i < BST_MAX_PARAMS; ++i) {
    const bool used = i < op->n_params || (op->has_neuron && i >= 4);
    BST_CHECK(used || step->params[i] == 0, BAD_FILE, where, "unused param", step->params[i], "0");
  }
  bst_call_open(file, NULL, index, call);
  BST_TRY(bst_check_buffers(call));
  if (op->has_neuron && !op->neuron_by_form) BST_TRY(bst_check_neuron(call));
  return op->check(call);
}

// ---- Laying out ---------------------------------------------------------------------------------

void* bst_take(bst_bump* bump, uint64_t count, uint64_t item_bytes) {
  const uint64_t bytes = bst_mul(count, item_bytes, &bump->overflow);
  if (bytes > BST_MAX_ARENA_BYTES) bump->overflow = true;
  if (bump->overflow) return NULL;
  void* const piece = bump->base == NULL ? NULL : bump->base + bump->used;
  bump->used = bst_add(bump->used, bst_align_up(bytes, BST_ALIGN), &bump->overflow);
  return piece;
}
