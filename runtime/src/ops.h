// SPDX-License-Identifier: MIT
// What the ops_<family>.c files share: the rows of the op table, checks, argument helpers. All
// checks run once, at load; whatever a kernel relies on is checked there.

#ifndef BST_OPS_H_
#define BST_OPS_H_

#include "internal.h"

#define BST_IMAGE BST_KIND_IMAGE
#define BST_SPIKES BST_KIND_SPIKES
#define BST_STREAM BST_KIND_STREAM

/// Params 4..7 of a step, as the arguments flags, theta, v_reset, r of a kernel.
#define BST_NEURON_ARGS(step) \
  (step)->params[4], (step)->params[5], (step)->params[6], (step)->params[7]

static inline size_t bst_cells(const bst_buffer* b) { return (size_t)b->h * b->w; }

/// Number of values of a constant.
size_t bst_count_of(const bst_constant* c);

/// Constant `slot` has exactly these dims (0 = end).
bst_status bst_check_dims(const bst_call* call, int slot, uint32_t d0, uint32_t d1, uint32_t d2,
                          uint32_t d3);

/// Values of an I64 constant are below 2^60 in size: sums of them stay inside int64.
bst_status bst_check_i64_limit(const bst_call* call, int slot);

/// Values of the I16 constant Af are in -2^14..2^14.
bst_status bst_check_af(const bst_call* call, int slot);

bst_status bst_check_same_shape(const bst_call* call, const bst_buffer* a, const bst_buffer* b);

/// All inputs and outputs have one shape.
bst_status bst_check_all_same(const bst_call* call);

/// Kernel, stride, pad and output size of a sliding window.
bst_status bst_check_window(const bst_call* call, uint32_t kh, uint32_t kw, int32_t stride,
                            int32_t pad);

/// Params 4..7 are a neuron.
bst_status bst_check_neuron(const bst_call* call);

/// Constants 1..4 are the thresholds of a conv_neuron: theta_u, theta_w, row_index, row_theta.
bst_status bst_check_thresholds(const bst_call* call);

enum { BST_MAX_WEIGHT_BITS = 16 };

/// The buffer holds spikes or levels of `channels` channels.
bst_status bst_check_levels(const bst_call* call, const bst_buffer* b, uint32_t channels);

/// Param 0, heads, divides the channels; tokens and channels per head are at most 1024.
bst_status bst_check_product_heads(const bst_call* call, uint32_t channels);

/// Planes of a checked buffer of levels.
static inline int bst_n_planes(const bst_buffer* b, uint32_t channels) {
  return (int)(bst_n_words(b->c) / bst_n_words(channels));
}

// ---- Rows of the table --------------------------------------------------------------------------

extern const bst_op bst_op_stem_neuron, bst_op_or_pool, bst_op_conv_neuron, bst_op_conv_affine,
    bst_op_stream_neuron, bst_op_residual_neuron, bst_op_score_neuron, bst_op_value_neuron,
    bst_op_readout, bst_op_key_value_neuron, bst_op_query_value_neuron, bst_op_residual_readout,
    bst_op_key_value_any, bst_op_gate, bst_op_max_pool, bst_op_mean_neuron, bst_op_count_readout,
    bst_op_ternary_neuron, bst_op_add_neuron, bst_op_weight_conv_neuron, bst_op_weight_conv_affine,
    bst_op_product_neuron, bst_op_level_add, bst_op_level_readout, bst_op_stem_stream,
    bst_op_stream_add, bst_op_stream_mean, bst_op_stream_levels, bst_op_depthwise_levels,
    bst_op_depthwise_stream, bst_op_stream_conv, bst_op_level_products;

#endif  // BST_OPS_H_
