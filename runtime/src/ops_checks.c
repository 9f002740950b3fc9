// SPDX-License-Identifier: MIT
// Checks that several ops share; see ops.h.

#include "kernels/levels/levels.h"
#include "kernels/stream_neuron/neuron.h"
#include "ops.h"

#define BST_BIAS_LIMIT (INT64_C(1) << 60)

enum { BST_MAX_AF = 16384, BST_OP_LEVEL_ADD = 16, BST_OP_STREAM_LEVELS = 34 };

size_t bst_count_of(const bst_constant* c) {
  return (size_t)c->dims[0] * c->dims[1] * c->dims[2] * c->dims[3];
}

bst_status bst_check_dims(const bst_call* call, int slot, uint32_t d0, uint32_t d1, uint32_t d2,
                          uint32_t d3) {
  const uint32_t expected[4] = {d0, d1, d2, d3};
  for (int i = 0; i < 4; ++i) {
    const uint32_t wanted = expected[i] == 0 ? 1 : expected[i];
    BST_CHECK(call->constants[slot]->dims[i] == wanted, BAD_FILE, call->where,
              "a dimension of a constant", call->constants[slot]->dims[i],
              "what the step's shapes ask for");
  }
  return BST_OK;
}

bst_status bst_check_i64_limit(const bst_call* call, int slot) {
  const int64_t* const values = call->data[slot];
  for (size_t i = 0; i < bst_count_of(call->constants[slot]); ++i) {
    BST_CHECK(values[i] < BST_BIAS_LIMIT && values[i] > -BST_BIAS_LIMIT, BAD_FILE, call->where,
              "a bias", values[i], "below 2^60 in size");
  }
  return BST_OK;
}

bst_status bst_check_af(const bst_call* call, int slot) {
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

bst_status bst_check_same_shape(const bst_call* call, const bst_buffer* a, const bst_buffer* b) {
  BST_CHECK(bst_same_shape(a, b), BAD_FILE, call->where, "channels of a buffer", b->c,
            "the shape of its other buffers");
  return BST_OK;
}

bst_status bst_check_all_same(const bst_call* call) {
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

bst_status bst_check_window(const bst_call* call, uint32_t kh, uint32_t kw, int32_t stride,
                            int32_t pad) {
  BST_TRY(bst_check_side(call, call->inputs[0]->h, call->outputs[0]->h, kh, stride, pad));
  return bst_check_side(call, call->inputs[0]->w, call->outputs[0]->w, kw, stride, pad);
}

bst_status bst_check_neuron(const bst_call* call) {
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

bst_status bst_check_thresholds(const bst_call* call) {
  const uint32_t o = call->outputs[0]->c, t = (uint32_t)call->n_t;
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

/// Bits of a plane beyond the channels are 0 where the step that wrote it has as many channels.
static bool bst_wrote_levels(const bst_call* call, const bst_buffer* b, uint32_t channels) {
  const bst_file* const file = call->file;
  const uint32_t number = (uint32_t)(b - file->buffers);
  for (const bst_step* s = file->steps; s < file->steps + file->n_steps; ++s) {
    if (s->outputs[0] != number) continue;
    uint32_t held = s->op == BST_OP_LEVEL_ADD ? (uint32_t)s->params[0] : 0;
    if (s->op == BST_OP_STREAM_LEVELS && s->inputs[0] < file->n_buffers) {
      held = file->buffers[s->inputs[0]].c;
    }
    return held == channels;
  }
  return file->n_steps == 1;  // nobody: it is an input of ONNX Runtime, or spikes of a residual
}

bst_status bst_check_levels(const bst_call* call, const bst_buffer* b, uint32_t channels) {
  BST_CHECK(channels >= 1 && channels <= BST_MAX_CHANNELS, BAD_FILE, call->where, "channels",
            channels, "in 1..65536");
  const uint32_t plane = 64 * bst_n_words(channels), n = b->c / plane;
  const bool is_levels = b->c % plane == 0 && n >= 2 && n <= BST_MAX_LEVEL_PLANES &&
                         (channels % 64 == 0 || bst_wrote_levels(call, b, channels));
  BST_CHECK(b->c == channels || is_levels, BAD_FILE, call->where, "channels of a buffer", b->c,
            "those of spikes, or 2..8 planes of whole words");
  return BST_OK;
}

bst_status bst_check_product_heads(const bst_call* call, uint32_t channels) {
  const int32_t heads = call->step->params[0];
  BST_CHECK(heads >= 1 && heads <= BST_MAX_HEADS && channels % (uint32_t)heads == 0, BAD_FILE,
            call->where, "heads", heads, "in 1..256 and a divisor of the channels");
  const uint64_t n = bst_cells(call->inputs[0]), d = channels / (uint32_t)heads;
  BST_CHECK(n <= BST_MAX_TOKENS, UNSUPPORTED, call->where, "number of tokens", n, "at most 1024");
  BST_CHECK(d <= BST_MAX_TOKENS, UNSUPPORTED, call->where, "channels per head", d, "at most 1024");
  return BST_OK;
}
