// SPDX-License-Identifier: MIT
// A node: its constants laid out when the session is made, its frames run one by one.
//
// Nothing that is laid out depends on the height and width of a frame, so this is done for the
// least frame that the constants allow. Constants that are not constant (a weight that is computed,
// or a graph input) are laid out at every run: slow and correct.
//
// Time steps are outermost in ONNX, then the frames of a batch; the kernels want the steps of a
// frame adjacent. One frame is run where it lies, several through copies. So is a tensor that is
// not aligned or has bits beyond its channels, which only one from outside the graph can have.

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../src/ops.h"
#include "bst_ort.h"

enum { ORT_ALIGN = BST_ALIGN, ORT_N_IDLE = 16, ORT_MAX_BUFFERS = BST_MAX_INPUTS + BST_MAX_OUTPUTS };

OrtStatus* bst_ort_fail(const bst_ort_node* node, const char* format, ...) {
  char text[256], message[320];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  snprintf(message, sizeof message, "%s: %s", node->entry->name, text);
  return node->api->CreateStatus(ORT_INVALID_ARGUMENT, message);
}

static OrtStatus* bst_ort_no_memory(const bst_ort_node* node, uint64_t bytes) {
  return bst_ort_fail(node, "no memory for %llu bytes", (unsigned long long)bytes);
}

/// A status of the runtime: its last error says what, after "step[0] `name`: ", which is this node.
static OrtStatus* bst_ort_checked(const bst_ort_node* node, bst_status status) {
  if (status == BST_OK) return NULL;
  const char *const text = bst_last_error(), *const rest = strstr(text, "`: ");
  return bst_ort_fail(node, "%s", rest == NULL ? text : rest + 3);
}

// ---- Memory of runs -----------------------------------------------------------------------------

/// Memory between two runs, of any node: as many blocks as there are runs at one time.
typedef struct bst_ort_block {
  uint64_t bytes;
} bst_ort_block;

static _Atomic(bst_ort_block*) bst_ort_idle[ORT_N_IDLE];
static atomic_int bst_ort_n_nodes;

static uint8_t* bst_ort_aligned(void* address) {
  return (uint8_t*)(((uintptr_t)address + ORT_ALIGN - 1) & ~(uintptr_t)(ORT_ALIGN - 1));
}

static bst_ort_block* bst_ort_take_block(uint64_t bytes) {
  for (int i = 0; i < ORT_N_IDLE; ++i) {
    bst_ort_block* const found = atomic_exchange(&bst_ort_idle[i], NULL);
    if (found == NULL) continue;
    if (found->bytes >= bytes) return found;
    free(found);
  }
  if (bytes > PTRDIFF_MAX - sizeof(bst_ort_block) - ORT_ALIGN) return NULL;
  bst_ort_block* const made = malloc((size_t)bytes + sizeof(bst_ort_block) + ORT_ALIGN);
  if (made != NULL) made->bytes = bytes;
  return made;
}

static void bst_ort_give_block(bst_ort_block* block) {
  for (int i = 0; i < ORT_N_IDLE; ++i) {
    bst_ort_block* expected = NULL;
    if (atomic_compare_exchange_strong(&bst_ort_idle[i], &expected, block)) return;
  }
  free(block);
}

static void bst_ort_free_blocks(void) {
  for (int i = 0; i < ORT_N_IDLE; ++i) free(atomic_exchange(&bst_ort_idle[i], NULL));
}

// ---- Tensors ------------------------------------------------------------------------------------

static OrtStatus* bst_ort_view(const bst_ort_node* node, const OrtValue* value, size_t port,
                               size_t rank, bst_ort_tensor* tensor) {
  const OrtApi* const api = node->api;
  OrtTensorInfo* info;
  void* data;
  ORT_TRY(api->GetTensorTypeAndShape(value, &info));
  OrtStatus* status = api->GetDimensionsCount(info, &tensor->rank);
  if (status == NULL && tensor->rank == rank) {
    status = api->GetDimensions(info, tensor->dims, rank);
  }
  api->ReleaseTensorTypeAndShapeInfo(info);
  if (status != NULL) return status;
  ORT_CHECK(node, tensor->rank == rank, "`%s` has %zu axes, expected %zu",
            node->entry->op->inputs[port], tensor->rank, rank);
  tensor->count = 1;
  for (size_t i = 0; i < rank; ++i) tensor->count *= (size_t)tensor->dims[i];
  ORT_TRY(
      api->GetTensorMutableData((OrtValue*)(uintptr_t)value, &data));  // for lack of a const one
  tensor->data = data;
  return NULL;
}

static size_t bst_ort_n_data(const bst_ort_op* op) { return op->step->n_inputs; }

size_t bst_ort_n_inputs(const bst_ort_op* op) {
  size_t n = 0;
  while (n < ORT_MAX_INPUTS && op->inputs[n] != NULL) ++n;
  return n;
}

/// Still images have no axis of time.
static bool bst_ort_is_still(const bst_ort_op* op, int port) {
  return op->step->input_kinds[port] == BST_KIND_IMAGE && (op->attributes & ORT_FRAMES) == 0;
}

OrtElementType bst_ort_type_of(uint32_t kind) {
  if (kind == BST_KIND_STREAM) return ORT_ELEMENT_INT32;
  return kind == BST_KIND_RAW ? ORT_ELEMENT_INT64 : ORT_ELEMENT_UINT8;
}

// ---- Constants ----------------------------------------------------------------------------------

OrtStatus* bst_ort_grow(const bst_ort_node* node, bst_ort_weights* weights, size_t bytes,
                        size_t* at) {
  *at = (size_t)bst_align_up(weights->n_bytes, 8);
  uint8_t* const data = realloc(weights->data, *at + bytes);
  if (data == NULL) return bst_ort_no_memory(node, *at + bytes);
  weights->data = data;
  weights->n_bytes = *at + bytes;
  return NULL;
}

OrtStatus* bst_ort_add(const bst_ort_node* node, bst_ort_weights* weights, int slot, uint32_t type,
                       uint32_t n_dims, const int64_t* dims, uint8_t** out) {
  static const uint8_t item_bytes[] = {0, 1, 1, 2, 4, 8};
  bst_constant made = {.type = type, .n_dims = n_dims, .dims = {1, 1, 1, 1}};
  size_t at, bytes = item_bytes[type];
  for (uint32_t i = 0; i < n_dims; ++i) {
    ORT_CHECK(node, dims[i] >= 1 && dims[i] <= INT32_MAX,
              "constant %d has %lld values along an axis, must be in 1..2^31-1", slot,
              (long long)dims[i]);
    made.dims[i] = (uint32_t)dims[i];
    const size_t side = (size_t)dims[i];
    bytes *=
        type == BST_CONST_BITS && i + 1 == n_dims ? (side + 7) / 8 : side;  // it lies in memory
  }
  ORT_TRY(bst_ort_grow(node, weights, bytes, &at));
  made.offset = at;
  made.bytes = bytes;
  weights->slots[slot] = weights->n_records;
  weights->records[weights->n_records++] = made;
  *out = weights->data + at;
  return NULL;
}

static void bst_ort_weights_init(bst_ort_weights* weights) {
  memset(weights, 0, sizeof *weights);
  for (int i = 0; i < BST_MAX_CONSTANTS; ++i) weights->slots[i] = (uint32_t)BST_NONE;
}

static void bst_ort_weights_free(bst_ort_weights* weights) {
  free(weights->data);
  free(weights->layouts);
}

// ---- A node as a file with one step -------------------------------------------------------------

/// Everything that a call of the runtime points into.
typedef struct bst_ort_file {
  bst_model_record model;
  bst_buffer buffers[ORT_MAX_BUFFERS];
  bst_step step;
  bst_file file;
  bst_call call;
} bst_ort_file;

static void bst_ort_make_step(const bst_ort_node* node, const bst_ort_weights* weights,
                              bst_step* step) {
  const bst_op* const op = node->entry->op->step;
  step->op = op->code;
  step->name = 0;
  memset(step->inputs, 0xFF, sizeof step->inputs);
  memset(step->outputs, 0xFF, sizeof step->outputs);
  for (uint32_t i = 0; i < op->n_inputs; ++i) step->inputs[i] = i;
  for (uint32_t i = 0; i < op->n_outputs; ++i) step->outputs[i] = op->n_inputs + i;
  memcpy(step->constants, weights->slots, sizeof step->constants);
  memcpy(step->params, node->params, sizeof step->params);
  for (int i = 0; i < 2; ++i) {
    if (weights->sizes[i] != 0) step->params[2 + i] = weights->sizes[i];
  }
}

static OrtStatus* bst_ort_check_buffer(const bst_ort_node* node, const bst_buffer* b) {
  ORT_CHECK(node, b->t >= 1 && b->t <= BST_MAX_T, "%u time steps, must be in 1..%d", b->t,
            BST_MAX_T);
  ORT_CHECK(node, b->h >= 1 && b->h <= BST_MAX_SIDE && b->w >= 1 && b->w <= BST_MAX_SIDE,
            "a tensor of %u x %u cells, must be in 1..%d", b->h, b->w, BST_MAX_SIDE);
  ORT_CHECK(node, b->c >= 1 && b->c <= BST_MAX_CHANNELS, "%u channels, must be in 1..%d", b->c,
            BST_MAX_CHANNELS);
  return NULL;
}

/// Exact size of a buffer whose sides were checked: far below 2^63.
static uint64_t bst_ort_buffer_bytes(const bst_buffer* b) {
  const uint64_t cells = (uint64_t)b->t * b->h * b->w;
  if (b->kind == BST_KIND_SPIKES) return cells * bst_ort_row_bytes(b->c);
  return cells * b->c * (b->kind == BST_KIND_IMAGE ? 1 : b->kind == BST_KIND_STREAM ? 4 : 8);
}

/// Complete the records for inputs whose t, h, w and c (of packed ones: any) are set; check them.
static OrtStatus* bst_ort_make_call(const bst_ort_node* node, const bst_ort_weights* weights,
                                    bst_ort_file* made) {
  const bst_ort_op* const op = node->entry->op;
  const bst_op* const step = op->step;
  bst_buffer *const in = made->buffers, *const out = in + step->n_inputs;
  const uint32_t n_steps =
      node->entry->n_steps != 0 ? (uint32_t)node->entry->n_steps : made->buffers[0].t;
  for (int i = 0; i < step->n_inputs; ++i) {
    in[i].kind = step->input_kinds[i];
    ORT_TRY(bst_ort_check_buffer(node, &in[i]));
  }
  for (int i = 0; i < step->n_outputs; ++i) {
    const uint32_t kind = step->output_kinds[i];
    out[i] = (bst_buffer){.kind = kind, .t = kind == BST_KIND_RAW ? 1 : n_steps};
  }
  op->shape(node, weights, in, out);
  for (int i = 0; i < step->n_inputs + step->n_outputs; ++i) {
    if (i < step->n_inputs || in[i].h != 0) ORT_TRY(bst_ort_check_buffer(node, &in[i]));
    in[i].bytes = bst_ort_buffer_bytes(&in[i]);
  }
  bst_ort_make_step(node, weights, &made->step);
  made->model = (bst_model_record){.n_steps = n_steps, .frac_bits = node->frac_bits};
  made->file = (bst_file){
      .model = &made->model,
      .buffers = made->buffers,
      .steps = &made->step,
      .constants = weights->records,
      .data = weights->data,
      .names = node->entry->name,
      .n_buffers = (uint32_t)step->n_inputs + step->n_outputs,
      .n_steps = 1,
      .n_constants = weights->n_records,
  };
  ORT_TRY(bst_ort_checked(node, bst_call_check(&made->file, 0, &made->call)));
  made->call.isa = node->isa;
  return NULL;
}

// ---- Laying out ---------------------------------------------------------------------------------

static OrtStatus* bst_ort_prepare(const bst_ort_node* node, const bst_call* call,
                                  bst_ort_weights* weights) {
  bst_bump count = {NULL, 0, false};
  if (call->op->prepare == NULL) return NULL;
  call->op->prepare(call, &count, &weights->prepared);
  ORT_CHECK(node, !count.overflow && count.used <= PTRDIFF_MAX - ORT_ALIGN, "%s",
            "its layouts are larger than this machine can address");
  weights->layouts = malloc((size_t)count.used + ORT_ALIGN);
  if (weights->layouts == NULL) return bst_ort_no_memory(node, count.used);
  bst_bump fill = {bst_ort_aligned(weights->layouts), 0, false};
  call->op->prepare(call, &fill, &weights->prepared);
  return NULL;
}

/// Turn the constant inputs into those of the step.
static OrtStatus* bst_ort_load(const bst_ort_node* node, const OrtValue* const* values,
                               bst_ort_weights* weights) {
  const bst_ort_op* const op = node->entry->op;
  const size_t n_data = bst_ort_n_data(op), n = bst_ort_n_inputs(op) - n_data;
  bst_ort_tensor inputs[ORT_MAX_OP_CONSTANTS];
  for (size_t i = 0; i < n; ++i) {
    ORT_TRY(bst_ort_view(node, values[i], n_data + i, op->constants[i].rank, &inputs[i]));
    for (size_t k = 0; k < inputs[i].rank; ++k) {
      ORT_CHECK(node, inputs[i].dims[k] >= 1 && inputs[i].dims[k] <= INT32_MAX,
                "`%s` has %lld values along an axis, must be in 1..2^31-1", op->inputs[n_data + i],
                (long long)inputs[i].dims[k]);
    }
  }
  return op->load == NULL ? NULL : op->load(node, inputs, weights);
}

/// Lay out the weights for the least frame that they allow.
static OrtStatus* bst_ort_lay_out(const bst_ort_node* node, bst_ort_weights* weights) {
  const bst_ort_op* const op = node->entry->op;
  const uint32_t n_steps = node->entry->n_steps != 0 ? (uint32_t)node->entry->n_steps : 1;
  bst_ort_file made;
  memset(&made, 0, sizeof made);
  for (int i = 0; i < op->step->n_inputs; ++i) {
    const uint32_t t = bst_ort_is_still(op, i) ? 1 : n_steps;
    made.buffers[i] = (bst_buffer){.t = t, .h = 1, .w = 1, .c = 1};
  }
  if (op->smallest != NULL) op->smallest(node, weights, made.buffers);
  ORT_TRY(bst_ort_make_call(node, weights, &made));
  return bst_ort_prepare(node, &made.call, weights);
}

/// Fetch the constant inputs when the session is made; *all = they are constant indeed.
static OrtStatus* bst_ort_constants(const bst_ort_node* node, const OrtKernelInfo* info,
                                    const OrtValue** values, bool* all) {
  const size_t n_data = bst_ort_n_data(node->entry->op);
  *all = true;
  for (size_t i = n_data; i < bst_ort_n_inputs(node->entry->op) && *all; ++i) {
    int is_constant = 0;
    ORT_TRY(
        node->api->KernelInfoGetConstantInput_tensor(info, i, &is_constant, &values[i - n_data]));
    *all = is_constant != 0;
  }
  return NULL;
}

OrtStatus* bst_ort_node_open(bst_ort_node* node, const OrtKernelInfo* info) {
  const OrtValue* values[ORT_MAX_OP_CONSTANTS];
  const char* const isa = getenv("BESTDEPLOY_ISA");
  atomic_fetch_add(&bst_ort_n_nodes, 1);
  bst_ort_weights_init(&node->weights);
  node->isa = bst_find_isa(isa != NULL && *isa != '\0' ? isa : NULL);
  if (node->isa == NULL) return bst_ort_checked(node, bst_fail_isa(isa));
  ORT_TRY(bst_ort_read_attributes(node, info));
  ORT_TRY(bst_ort_constants(node, info, values, &node->is_prepared));
  if (!node->is_prepared) return NULL;
  ORT_TRY(bst_ort_load(node, values, &node->weights));
  return bst_ort_lay_out(node, &node->weights);
}

void bst_ort_node_close(bst_ort_node* node) {
  bst_ort_weights_free(&node->weights);
  if (atomic_fetch_sub(&bst_ort_n_nodes, 1) == 1) bst_ort_free_blocks();
}

// ---- A run --------------------------------------------------------------------------------------

/// One input or output of a run: where it lies in ONNX, and where the kernel reads or writes it.
typedef struct bst_ort_place {
  const bst_buffer* buffer;
  uint8_t* tensor;
  uint8_t* copy;
} bst_ort_place;

typedef struct bst_ort_run {
  const bst_ort_node* node;
  OrtKernelContext* context;
  bst_ort_file made;
  bst_prepared prepared;
  size_t n_frames;
  bst_ort_place places[ORT_MAX_BUFFERS];
  int32_t* shift;  ///< B of the read-out
  bst_io io;
  uint8_t* scratch;
} bst_ort_run;

/// Frames in order: images and raw logits have no axis of time, or a later one.
static bool bst_ort_is_whole(const bst_buffer* b) {
  return b->kind == BST_KIND_IMAGE || b->kind == BST_KIND_RAW;
}

/// Copy frame `index` of a batch out of its tensor, or back into it.
static void bst_ort_copy_frame(const bst_ort_place* place, size_t n_frames, size_t index,
                               bool back) {
  const size_t n_pieces = bst_ort_is_whole(place->buffer) ? 1 : place->buffer->t;
  const size_t bytes = (size_t)place->buffer->bytes / n_pieces;
  for (size_t t = 0; t < n_pieces; ++t) {
    uint8_t* const tensor = place->tensor + (t * n_frames + index) * bytes;
    uint8_t* const copy = place->copy + t * bytes;
    memcpy(back ? tensor : copy, back ? copy : tensor, bytes);
  }
}

/// The planes of a packed tensor: `n_words` words, of which the last has the bits `padding` beyond
/// the channels. The kernels trust that they are zero.
typedef struct bst_ort_planes {
  size_t n_words;
  uint64_t padding;
} bst_ort_planes;

static bst_ort_planes bst_ort_planes_of(const bst_ort_run* run, int port) {
  const bst_buffer* const b = &run->made.buffers[port];
  const bst_ort_op* const op = run->node->entry->op;
  const uint32_t c = op->plane == NULL ? b->c : op->plane(run->node, run->made.buffers, port);
  const bool is_full = b->kind != BST_KIND_SPIKES || c % 64 == 0;
  return (bst_ort_planes){bst_n_words(c), is_full ? 0 : ~UINT64_C(0) << (c % 64)};
}

static bool bst_ort_has_padding(const bst_ort_run* run, int port, const uint8_t* rows) {
  const bst_ort_planes planes = bst_ort_planes_of(run, port);
  const size_t n = (size_t)run->made.buffers[port].bytes / 8;
  uint64_t found = 0;
  if (planes.padding == 0) return false;
  for (size_t i = planes.n_words - 1; i < n; i += planes.n_words) {
    uint64_t word;
    memcpy(&word, rows + 8 * i, sizeof word);
    found |= word;
  }
  return (found & planes.padding) != 0;
}

static void bst_ort_clear_padding(const bst_ort_run* run, int port, uint8_t* rows) {
  const bst_ort_planes planes = bst_ort_planes_of(run, port);
  const size_t n = (size_t)run->made.buffers[port].bytes / 8;
  uint64_t* const words = (void*)rows;
  if (planes.padding == 0) return;
  for (size_t i = planes.n_words - 1; i < n; i += planes.n_words) words[i] &= ~planes.padding;
}

/// Whether every train of a frame fires at p, 2p, 3p, .. for some p, or never: what the encoder of
/// a still image makes, and what a kernel can use. Other spikes show it within a few words.
static bool bst_ort_is_periodic(const bst_buffer* b, const void* spikes) {
  const uint64_t* const words = spikes;
  const size_t n = (size_t)b->bytes / 8 / b->t;
  for (size_t i = 0; i < n; ++i) {
    uint64_t expected[BST_MAX_T + 1] = {0}, seen = 0;
    for (uint32_t t = 1; t <= b->t; ++t) {
      const uint64_t fired = words[(t - 1) * n + i], first = fired & ~seen;
      for (uint32_t later = t; later <= b->t; later += t) expected[later] |= first;
      if (fired != expected[t]) return false;
      seen |= first;
    }
  }
  return true;
}

/// Read an input's sizes: [T, B, H, W, C], of an image [B, H, W, C] or [B, T, H, W, C].
static OrtStatus* bst_ort_read_input(const bst_ort_run* run, size_t port, bst_ort_place* place,
                                     size_t* n_frames, int64_t* last) {
  const bst_ort_node* const node = run->node;
  const bst_op* const step = node->entry->op->step;
  const char* const name = node->entry->op->inputs[port];
  const bool is_image = step->input_kinds[port] == BST_KIND_IMAGE;
  const bool is_still = bst_ort_is_still(node->entry->op, (int)port);
  const OrtValue* value;
  bst_ort_tensor x;
  ORT_TRY(node->api->KernelContext_GetInput(run->context, port, &value));
  ORT_TRY(bst_ort_view(node, value, port, is_still ? 4 : 5, &x));
  const int64_t* const d = is_still ? x.dims : x.dims + 1;
  const int64_t t = is_still ? 1 : x.dims[is_image ? 1 : 0];
  bst_buffer* const b = (bst_buffer*)(uintptr_t)place->buffer;
  ORT_CHECK(node, node->entry->n_steps == 0 || is_still || t == node->entry->n_steps,
            "`%s` has %lld time steps, expected %d", name, (long long)t, node->entry->n_steps);
  for (int i = 1; i < 4; ++i) {
    ORT_CHECK(node, d[i] >= 1 && d[i] <= BST_MAX_CHANNELS,
              "`%s` has %lld values along an axis, must be in 1..%d", name, (long long)d[i],
              BST_MAX_CHANNELS);
  }
  ORT_CHECK(node, t >= 1 && t <= BST_MAX_T, "`%s` has %lld time steps, must be in 1..%d", name,
            (long long)t, BST_MAX_T);
  *b = (bst_buffer){.t = (uint32_t)t, .h = (uint32_t)d[1], .w = (uint32_t)d[2]};
  b->c = (uint32_t)d[3];
  if (step->input_kinds[port] == BST_KIND_SPIKES) {
    ORT_CHECK(node, d[3] % 8 == 0, "`%s` has rows of %lld bytes, expected whole 64-bit words", name,
              (long long)d[3]);
    b->c = (uint32_t)d[3] * 8 <= BST_MAX_CHANNELS ? (uint32_t)d[3] * 8 : BST_MAX_CHANNELS;
  }
  place->tensor = (uint8_t*)(uintptr_t)x.data;
  *n_frames = (size_t)(is_image ? x.dims[0] : x.dims[1]);
  *last = d[3];
  return NULL;
}

static OrtStatus* bst_ort_read_inputs(bst_ort_run* run, const bst_ort_weights* weights) {
  const bst_ort_node* const node = run->node;
  const bst_op* const step = node->entry->op->step;
  int64_t last[BST_MAX_INPUTS];
  for (size_t i = 0; i < step->n_inputs; ++i) {
    size_t n_frames = 0;
    ORT_TRY(bst_ort_read_input(run, i, &run->places[i], &n_frames, &last[i]));
    ORT_CHECK(node, i == 0 || n_frames == run->n_frames, "`%s` has %zu frames, `%s` %zu",
              node->entry->op->inputs[i], n_frames, node->entry->op->inputs[0], run->n_frames);
    run->n_frames = n_frames;
  }
  ORT_TRY(bst_ort_make_call(node, weights, &run->made));
  for (size_t i = 0; i < step->n_inputs; ++i) {
    const bst_buffer* const b = &run->made.buffers[i];
    if (b->kind != BST_KIND_SPIKES) continue;
    ORT_CHECK(node, last[i] == (int64_t)bst_ort_row_bytes(b->c),
              "`%s` has rows of %lld bytes, expected %zu of %u channels",
              node->entry->op->inputs[i], (long long)last[i], bst_ort_row_bytes(b->c), b->c);
  }
  return NULL;
}

static OrtStatus* bst_ort_make_outputs(bst_ort_run* run) {
  const bst_ort_node* const node = run->node;
  const bst_op* const step = node->entry->op->step;
  for (size_t i = 0; i < step->n_outputs; ++i) {
    const bst_buffer* const b = run->places[step->n_inputs + i].buffer;
    const int64_t row = b->kind == BST_KIND_SPIKES ? (int64_t)bst_ort_row_bytes(b->c) : b->c;
    const int64_t n = (int64_t)run->n_frames, whole[] = {b->t, n, b->h, b->w, row},
                  raw[] = {n, row};
    const bool is_raw = b->kind == BST_KIND_RAW;
    OrtValue* value;
    void* data;
    ORT_TRY(node->api->KernelContext_GetOutput(run->context, i, is_raw ? raw : whole,
                                               is_raw ? 2 : 5, &value));
    ORT_TRY(node->api->GetTensorMutableData(value, &data));
    run->places[step->n_inputs + i].tensor = data;
  }
  return NULL;
}

/// B = (T N B) / (T N) of the read-out.
static OrtStatus* bst_ort_fill_shift(bst_ort_run* run, const bst_ort_weights* weights) {
  const bst_buffer* const x = &run->made.buffers[0];
  const int64_t n = (int64_t)x->t * x->h * x->w;
  for (uint32_t i = 0; i < x->c; ++i) {
    int64_t shift;
    memcpy(&shift, weights->data + weights->shift_at + 8 * (size_t)i, sizeof shift);
    const int64_t each = shift / n;
    ORT_CHECK(run->node, shift % n == 0 && each >= INT32_MIN && each <= INT32_MAX,
              "shift = %lld, must be %lld times an int32", (long long)shift, (long long)n);
    run->shift[i] = (int32_t)each;
  }
  run->made.call.data[3] = run->shift;
  return NULL;
}

static void bst_ort_part(void* user, size_t index) {
  const bst_ort_run* const run = user;
  bst_io io = run->io;
  io.part = (int)index;
  io.scratch = run->scratch + index * (size_t)run->prepared.scratch_bytes;
  run->made.call.op->run(&run->made.call, &run->prepared, &io);
}

/// Whether the kernel takes tensor `i`, inputs first, where it lies.
static bool bst_ort_in_place(const bst_ort_run* run, int i) {
  const uint8_t* const tensor = run->places[i].tensor;
  const bool is_input = i < run->made.call.op->n_inputs;
  return run->n_frames == 1 && (uintptr_t)tensor % ORT_ALIGN == 0 &&
         !(is_input && bst_ort_has_padding(run, i, tensor));
}

static OrtStatus* bst_ort_run_frame(bst_ort_run* run, size_t index) {
  const bst_op* const op = run->made.call.op;
  const int n_parts = run->node->entry->n_parts;
  for (int i = 0; i < op->n_inputs; ++i) {
    const bst_ort_place* const place = &run->places[i];
    if (place->copy != NULL) {
      bst_ort_copy_frame(place, run->n_frames, index, false);
      bst_ort_clear_padding(run, i, place->copy);
    }
    run->io.inputs[i] = place->copy != NULL ? place->copy : place->tensor;
  }
  for (int i = 0; i < op->n_outputs; ++i) {
    const bst_ort_place* const place = &run->places[op->n_inputs + i];
    run->io.outputs[i] = place->copy != NULL ? place->copy : place->tensor;
  }
  if (op == &bst_op_conv_neuron) {
    run->prepared.periodic = bst_ort_is_periodic(&run->made.buffers[0], run->io.inputs[0]);
  }
  run->io.n_parts = n_parts;
  if (n_parts == 1) {
    bst_ort_part(run, 0);
  } else {
    ORT_TRY(run->node->api->KernelContext_ParallelFor(run->context, bst_ort_part, (size_t)n_parts,
                                                      0, run));
  }
  for (int i = 0; i < op->n_outputs; ++i) {
    const bst_ort_place* const place = &run->places[op->n_inputs + i];
    if (place->copy != NULL) bst_ort_copy_frame(place, run->n_frames, index, true);
  }
  return NULL;
}

/// Give out the memory of a run: scratch of every part, copies, B. With `base` NULL only count.
static uint64_t bst_ort_divide(bst_ort_run* run, const bool* in_place, uint8_t* base) {
  const bst_op* const op = run->made.call.op;
  uint64_t at = (uint64_t)run->node->entry->n_parts * run->prepared.scratch_bytes;
  run->scratch = base;
  for (int i = 0; i < op->n_inputs + op->n_outputs; ++i) {
    bst_ort_place* const place = &run->places[i];
    place->copy = in_place[i] || base == NULL ? NULL : base + at;
    if (!in_place[i]) at += bst_align_up(place->buffer->bytes, ORT_ALIGN);
  }
  if (op == &bst_op_readout) {
    run->shift = base == NULL ? NULL : (void*)(base + at);
    at += sizeof(int32_t) * (uint64_t)run->made.buffers[0].c;
  }
  return at;
}

static OrtStatus* bst_ort_run_frames(bst_ort_run* run, const bst_ort_weights* weights) {
  const bst_call* const call = &run->made.call;
  const bst_op* const op = call->op;
  bool in_place[ORT_MAX_BUFFERS], overflow = false;
  for (int i = 0; i < op->n_inputs + op->n_outputs; ++i) {
    in_place[i] = bst_ort_in_place(run, i);
  }
  run->prepared = weights->prepared;
  const uint64_t bytes = op->scratch_bytes == NULL ? 0 : op->scratch_bytes(call, &overflow);
  run->prepared.scratch_bytes = bst_align_up(bytes, ORT_ALIGN);
  const uint64_t total = bst_ort_divide(run, in_place, NULL);
  bst_ort_block* const block = overflow ? NULL : bst_ort_take_block(total);
  if (block == NULL) return bst_ort_no_memory(run->node, total);
  (void)bst_ort_divide(run, in_place, bst_ort_aligned(block + 1));
  OrtStatus* status = NULL;
  if (op == &bst_op_readout) status = bst_ort_fill_shift(run, weights);
  for (size_t i = 0; i < run->n_frames && status == NULL; ++i) status = bst_ort_run_frame(run, i);
  bst_ort_give_block(block);
  return status;
}

static OrtStatus* bst_ort_run_with(const bst_ort_node* node, OrtKernelContext* context,
                                   const bst_ort_weights* weights) {
  bst_ort_run run;
  memset(&run, 0, sizeof run);
  run.node = node;
  run.context = context;
  for (int i = 0; i < ORT_MAX_BUFFERS; ++i) run.places[i].buffer = &run.made.buffers[i];
  ORT_TRY(bst_ort_read_inputs(&run, weights));
  ORT_TRY(bst_ort_make_outputs(&run));
  return run.n_frames == 0 ? NULL : bst_ort_run_frames(&run, weights);
}

/// Lay out what is not constant for one run.
static OrtStatus* bst_ort_load_now(const bst_ort_node* node, OrtKernelContext* context,
                                   bst_ort_weights* weights) {
  const bst_ort_op* const op = node->entry->op;
  const size_t n_data = bst_ort_n_data(op);
  const OrtValue* values[ORT_MAX_OP_CONSTANTS];
  for (size_t i = n_data; i < bst_ort_n_inputs(op); ++i) {
    ORT_TRY(node->api->KernelContext_GetInput(context, i, &values[i - n_data]));
  }
  ORT_TRY(bst_ort_load(node, values, weights));
  return bst_ort_lay_out(node, weights);
}

OrtStatus* bst_ort_node_run(const bst_ort_node* node, OrtKernelContext* context) {
  if (node->is_prepared) return bst_ort_run_with(node, context, &node->weights);
  bst_ort_weights weights;
  bst_ort_weights_init(&weights);
  OrtStatus* status = bst_ort_load_now(node, context, &weights);
  if (status == NULL) status = bst_ort_run_with(node, context, &weights);
  bst_ort_weights_free(&weights);
  return status;
}
