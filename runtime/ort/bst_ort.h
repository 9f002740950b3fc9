// SPDX-License-Identifier: MIT
// What the files of ort/ share: a node of a graph as a step of the runtime.
//
// A node of the packed graph is one step of a .bstm (bestdeploy/lower.py has the same
// correspondence). The library makes the records of such a step from the node's attributes,
// constants and the shapes of a run, and then uses the runtime's own table of ops: its checks, its
// layouts, its kernels. Layers: bst_ort.h <- ops.c, node.c <- bst_ort.c.

#ifndef BST_ORT_H_
#define BST_ORT_H_

#include "../src/internal.h"
#include "bst_ort_api.h"

enum {
  ORT_MAX_INPUTS = 10,
  ORT_MAX_RANK = 5,
  ORT_MAX_OP_CONSTANTS = 7,
  ORT_MAX_NAME_BYTES = 32,
};

#define ORT_TRY(expression)                            \
  do {                                                 \
    OrtStatus* const ort_try_status = (expression);    \
    if (ort_try_status != NULL) return ort_try_status; \
  } while (0)

/// Return an error that names the op: "SpikeConvNeuron_T4: ...".
#define ORT_CHECK(node, condition, ...)                         \
  do {                                                          \
    if (!(condition)) return bst_ort_fail((node), __VA_ARGS__); \
  } while (0)

/// Attributes that an op has; its own and those of its parts.
enum {
  ORT_WINDOW = 1,       ///< strides, pads: params 0 and 1
  ORT_POOL = 2,         ///< kernel_shape, strides, pads: params 0, 1 and 2
  ORT_IN_CHANNELS = 4,  ///< in_channels
  ORT_HEADS = 8,        ///< heads: param 0; channels
  ORT_FIRST = 16,       ///< first: param 2, form 0
  ORT_BITS = 32,        ///< bits: F, form 1
  ORT_NEURON = 64,      ///< decay_input, soft_reset, rate, rounding, v_threshold, v_reset: 4 to 7
  ORT_Q = 128,          ///< q: param 0
  ORT_SHIFT = 256,      ///< bits: param 1
  ORT_LEVELS = 512,     ///< channels: param 0; planes
  ORT_INVERT = 1024,    ///< invert: param 0
  ORT_TERNARY = 2048,   ///< rate, v_threshold, decay_input: params 4, 5, 7
  ORT_ADD = 4096,       ///< heads, k_shift, decay_input, v_threshold: params 0, 1, 4, 5
  ORT_THRESHOLDS = 16384,  ///< levels: planes of the output
  ORT_FRAMES = 8192,       ///< no attribute: the image has an axis of time
};

typedef struct bst_ort_node bst_ort_node;

/// An input as it comes from ONNX Runtime; values need not be aligned.
typedef struct bst_ort_tensor {
  const uint8_t* data;
  size_t rank, count;
  int64_t dims[ORT_MAX_RANK];
} bst_ort_tensor;

/// The constants of a step, and what the runtime's op has prepared from them.
typedef struct bst_ort_weights {
  uint8_t* data;  ///< values of all constants
  size_t n_bytes;
  uint32_t n_records;
  bst_constant records[BST_MAX_CONSTANTS];
  uint32_t slots[BST_MAX_CONSTANTS];  ///< record of each slot of the step, BST_NONE: absent
  int32_t sizes[2];                   ///< params 2, 3: column classes of the stem; kh, kw
  size_t shift_at;                    ///< of the read-out: T N B int64 [D] in `data`
  uint8_t* layouts;
  bst_prepared prepared;
} bst_ort_weights;

typedef struct bst_ort_port {
  uint8_t type, rank;  ///< type 0 = no port
} bst_ort_port;

/// Row of the op table. The first inputs of a node are those of the step, the others constants.
typedef struct bst_ort_op {
  const char* name;    ///< without the suffix _T<n>
  const bst_op* step;  ///< what runs it
  uint8_t max_steps;   ///< 0: the name has no number of steps
  uint16_t attributes;
  const char* inputs[ORT_MAX_INPUTS];  ///< names, NULL behind the last
  bst_ort_port constants[ORT_MAX_OP_CONSTANTS];
  /// Turn the constant inputs into constants of the step.
  OrtStatus* (*load)(const bst_ort_node* node, const bst_ort_tensor* inputs,
                     bst_ort_weights* weights);
  /// Input sizes of the least frame that the constants allow; they are 1 where it sets none.
  void (*smallest)(const bst_ort_node* node, const bst_ort_weights* weights, bst_buffer* in);
  /// Set the channels of packed inputs, and h, w, c of the outputs.
  void (*shape)(const bst_ort_node* node, const bst_ort_weights* weights, bst_buffer* in,
                bst_buffer* out);
  /// Channels of a plane of packed input `port`; NULL: all its channels, of one plane.
  uint32_t (*plane)(const bst_ort_node* node, const bst_buffer* in, int port);
} bst_ort_op;

/// The op table.
extern const bst_ort_op bst_ort_ops[];
extern const size_t bst_ort_n_ops;

/// One op with one number of time steps, as ONNX Runtime sees it.
typedef struct bst_ort_entry {
  OrtCustomOp base;  // first: the callbacks get a pointer to it
  const bst_ort_op* op;
  int n_steps;  ///< 0: the name has no number
  int n_parts;  ///< to share the work of a node between
  char name[ORT_MAX_NAME_BYTES];
} bst_ort_entry;

/// One node of a session; not written after it was made, so runs may be concurrent.
struct bst_ort_node {
  const OrtApi* api;
  const bst_ort_entry* entry;
  const bst_isa* isa;
  int32_t params[BST_MAX_PARAMS];
  uint32_t frac_bits, n_channels;  ///< attributes bits; in_channels or channels
  uint32_t n_planes;               ///< attribute planes: of the output
  bool is_prepared;                ///< all constants are: `weights` are laid out
  bst_ort_weights weights;
};

#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
OrtStatus* bst_ort_fail(const bst_ort_node* node, const char* format, ...);

/// Number of inputs of an op in ONNX.
size_t bst_ort_n_inputs(const bst_ort_op* op);

/// Bytes of a packed row of ONNX: whole 64-bit words.
static inline size_t bst_ort_row_bytes(uint32_t channels) {
  return (size_t)bst_n_words(channels) * 8;
}

/// Element type of what a buffer of the runtime holds.
OrtElementType bst_ort_type_of(uint32_t kind);

/// Room for a constant of the step in `slot`; *out stays valid until the next call.
/// @param dims the last 0 or [rank]
OrtStatus* bst_ort_add(const bst_ort_node* node, bst_ort_weights* weights, int slot, uint32_t type,
                       uint32_t n_dims, const int64_t* dims, uint8_t** out);

/// Room in `weights->data`, which may move; *at is its offset, a multiple of 8.
OrtStatus* bst_ort_grow(const bst_ort_node* node, bst_ort_weights* weights, size_t bytes,
                        size_t* at);

/// Read the attributes of an op into the node.
OrtStatus* bst_ort_read_attributes(bst_ort_node* node, const OrtKernelInfo* info);

/// Make a node: read its attributes and lay out its constants.
OrtStatus* bst_ort_node_open(bst_ort_node* node, const OrtKernelInfo* info);
void bst_ort_node_close(bst_ort_node* node);

/// Run a node on all frames of its inputs.
OrtStatus* bst_ort_node_run(const bst_ort_node* node, OrtKernelContext* context);

#endif  // BST_ORT_H_
