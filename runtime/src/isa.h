// SPDX-License-Identifier: MIT
// Instruction sets: a row of kernels each.

#ifndef BST_ISA_H_
#define BST_ISA_H_

#include <stdbool.h>

#include "kernels/add_attention/add_attention.h"
#include "kernels/additions/additions.h"
#include "kernels/count_readout/count_readout.h"
#include "kernels/gate/gate.h"
#include "kernels/kv_attention/kv_attention.h"
#include "kernels/max_pool/max_pool.h"
#include "kernels/mean_neuron/mean_neuron.h"
#include "kernels/or_pool/or_pool.h"
#include "kernels/products/products.h"
#include "kernels/readout/readout.h"
#include "kernels/spike_attention/spike_attention.h"
#include "kernels/spike_conv/spike_conv.h"
#include "kernels/stem_neuron/stem_neuron.h"
#include "kernels/stream_neuron/stream_neuron.h"
#include "kernels/stream_ops/stream_ops.h"
#include "kernels/weight_conv/weight_conv.h"

typedef struct bst_isa {
  const char* name;
  /// Whether this machine and its operating system let the kernels run.
  bool (*is_usable)(void);
  const bst_spike_conv* spike_conv;
  const bst_stem_neuron* stem_neuron;
  bst_or_pool_kernel* or_pool;
  bst_stream_neuron_kernel* stream_neuron;
  bst_residual_neuron_kernel* residual_neuron;
  bst_spike_attention_score_kernel* attention_score;
  bst_spike_attention_value_kernel* attention_value;
  bst_kv_attention_key_value_kernel* key_value;
  bst_kv_attention_query_value_kernel* query_value;
  bst_readout_kernel* readout;
  bst_residual_readout_kernel* residual_readout;
  bst_key_value_any_kernel* key_value_any;
  bst_gate_kernel* gate;
  bst_max_pool_kernel* max_pool;
  bst_mean_neuron_kernel* mean_neuron;
  bst_count_readout_kernel* count_readout;
  bst_ternary_neuron_kernel* ternary_neuron;
  bst_add_neuron_kernel* add_neuron;
  bst_weight_conv_neuron_kernel* weight_conv_neuron;
  bst_weight_conv_affine_kernel* weight_conv_affine;
  bst_products_kernel* products;
  const bst_stream_inner* stream_inner;
  bst_additions_kernel* additions;
} bst_isa;

/// The usable row with this name; the best usable one for NULL. NULL when there is none.
const bst_isa* bst_find_isa(const char* name);

#endif  // BST_ISA_H_
