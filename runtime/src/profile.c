// SPDX-License-Identifier: MIT
// Counting spikes and synaptic operations of a step, exactly: the numbers of
// bestdeploy/report/activity.py. Spikes of a buffer are counted as bits, padding bits are zero.
//
// A convolution with stride s, pad p and kernel k: row y of the input meets those output rows o and
// taps d with o s - p + d = y, 0 <= d < k; columns likewise; each such pair in every one of C_out
// output channels. A product of spikes: each spike of the first operand meets a row of the second,
// whether that row holds spikes or not.

#include "ops.h"

static uint64_t bst_count_bits(uint64_t x) {
  x -= (x >> 1) & UINT64_C(0x5555555555555555);
  x = (x & UINT64_C(0x3333333333333333)) + ((x >> 2) & UINT64_C(0x3333333333333333));
  x = (x + (x >> 4)) & UINT64_C(0x0F0F0F0F0F0F0F0F);
  return (x * UINT64_C(0x0101010101010101)) >> 56;
}

static uint64_t bst_count_words(const uint64_t* words, size_t n) {
  uint64_t total = 0;
  for (size_t i = 0; i < n; ++i) total += bst_count_bits(words[i]);
  return total;
}

/// All spikes of a buffer of spikes; 0 for other kinds.
static uint64_t bst_count_spikes(const bst_buffer* b, const void* data) {
  return b->kind == BST_KIND_SPIKES ? bst_count_words(data, (size_t)(b->bytes / 8)) : 0;
}

/// Pairs (output index, tap) that read index `at`; bst_check_window has seen to the sides.
static uint64_t bst_n_met(uint32_t at, uint32_t n_out, uint32_t kernel, uint32_t stride,
                          uint32_t pad) {
  uint64_t n = 0;
  const uint32_t place = at + pad;  // in the padded input: o * stride + tap
  for (uint32_t tap = 0; tap < kernel && tap <= place; ++tap) {
    n += (place - tap) % stride == 0 && (place - tap) / stride < n_out;
  }
  return n;
}

static uint64_t bst_window_sops(const bst_call* call, uint32_t kh, uint32_t kw, const void* data) {
  const bst_buffer *const in = call->inputs[0], *const out = call->outputs[0];
  const uint32_t stride = (uint32_t)call->step->params[0], pad = (uint32_t)call->step->params[1];
  const size_t n_words = bst_n_words(in->c);
  const uint64_t* words = data;
  uint64_t total = 0;
  for (uint32_t t = 0; t < in->t; ++t) {
    for (uint32_t y = 0; y < in->h; ++y) {
      const uint64_t n_rows = bst_n_met(y, out->h, kh, stride, pad);
      for (uint32_t x = 0; x < in->w; ++x, words += n_words) {
        total += bst_count_words(words, n_words) * n_rows * bst_n_met(x, out->w, kw, stride, pad);
      }
    }
  }
  return total * out->c;
}

static uint64_t bst_conv_sops(const bst_call* call, const void* const* inputs) {
  const uint32_t* const d = call->constants[0]->dims;
  return bst_window_sops(call, d[1], d[2], inputs[0]);
}

/// Bits of every plane are events, each meets the weights of its channel.
static uint64_t bst_weight_conv_sops(const bst_call* call, const void* const* inputs) {
  const int32_t* const p = call->step->params;
  return bst_window_sops(call, (uint32_t)p[2], (uint32_t)p[3], inputs[0]);
}

/// q k^T and k^T v give a map [T, heads, side, side]: a spike of the first operand meets a row.
static uint64_t bst_map_sops(const bst_call* call, const void* const* inputs) {
  return bst_count_spikes(call->inputs[0], inputs[0]) * call->outputs[0]->c;
}

/// A spike of the map, or of q, meets the channels of its head.
static uint64_t bst_token_sops(const bst_call* call, const void* const* inputs) {
  const uint32_t head_channels = call->outputs[0]->c / (uint32_t)call->step->params[0];
  return bst_count_spikes(call->inputs[0], inputs[0]) * head_channels;
}

/// k^T v, then q times it: a spike of k meets a row of v, one of q a row of the product.
static uint64_t bst_product_sops(const bst_call* call, const void* const* inputs) {
  const uint32_t head_channels = call->outputs[0]->c / (uint32_t)call->step->params[0];
  return (bst_count_spikes(call->inputs[0], inputs[0]) +
          bst_count_spikes(call->inputs[1], inputs[1])) *
         head_channels;
}

/// A depthwise window: a spike meets one weight per output that reads it.
static uint64_t bst_depthwise_sops(const bst_call* call, const void* const* inputs) {
  return bst_weight_conv_sops(call, inputs) / call->outputs[0]->c;
}

/// The last linear layer, on spike counts: each spike meets one weight per channel of the stream.
static uint64_t bst_readout_sops(const bst_call* call, const void* const* inputs) {
  return bst_count_spikes(call->inputs[2], inputs[2]) * call->inputs[0]->c;
}

/// What drives an op and what its spikes cause; ops that are not here have neither.
typedef struct bst_driver {
  const bst_op* op;
  int port;  ///< input whose spikes drive it
  uint64_t (*sops)(const bst_call* call, const void* const* inputs);
} bst_driver;

static const bst_driver bst_drivers[] = {
    {&bst_op_or_pool, 0, NULL},
    {&bst_op_conv_neuron, 0, bst_conv_sops},
    {&bst_op_conv_affine, 0, bst_conv_sops},
    {&bst_op_score_neuron, 0, bst_map_sops},
    {&bst_op_value_neuron, 0, bst_token_sops},
    {&bst_op_key_value_neuron, 0, bst_map_sops},
    {&bst_op_query_value_neuron, 0, bst_token_sops},
    {&bst_op_readout, 2, bst_readout_sops},
    {&bst_op_key_value_any, 0, NULL},
    {&bst_op_gate, 0, NULL},
    {&bst_op_add_neuron, 0, NULL},
    {&bst_op_weight_conv_neuron, 0, bst_weight_conv_sops},
    {&bst_op_weight_conv_affine, 0, bst_weight_conv_sops},
    {&bst_op_product_neuron, 0, bst_product_sops},
    {&bst_op_level_add, 0, NULL},
    {&bst_op_depthwise_levels, 0, bst_depthwise_sops},
    {&bst_op_level_products, 0, bst_product_sops},
};

void bst_profile_count(const bst_call* call, const bst_io* io, bst_step_profile* entry) {
  for (int i = 0; i < call->op->n_outputs; ++i) {
    entry->spikes_out += bst_count_spikes(call->outputs[i], io->outputs[i]);
  }
  for (size_t i = 0; i < sizeof bst_drivers / sizeof *bst_drivers; ++i) {
    const bst_driver* const driver = &bst_drivers[i];
    if (driver->op != call->op) continue;
    const void* const data = io->inputs[driver->port];
    entry->spikes_in += bst_count_spikes(call->inputs[driver->port], data);
    if (driver->sops != NULL) entry->sops += driver->sops(call, io->inputs);
  }
}
