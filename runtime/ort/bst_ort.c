// SPDX-License-Identifier: MIT
// Custom ops of the domain `bestdeploy` for ONNX Runtime, on the CPU kernels of libbst.
//
// A model.onnx carries every op of ours with a function body in standard ops. A session in which
// this library is registered runs the kernels of the ops in `bst_ort_ops` instead; all others keep
// their bodies. Inputs and outputs are those of bestdeploy/ops: time steps outermost, then frames.
//
// Constant weights and thresholds are laid out once, when the session is made; others at every run.
// What a graph may hold and a kernel does not take (see the checks) is refused with a status, never
// computed wrongly: ONNX Runtime does not fall back to the body of an op that has a kernel. A
// kernel is not written after its creation, so runs may be concurrent.

#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../src/internal.h"
#include "../src/kernels/spike_conv/spike_conv.h"
#include "../src/kernels/stream_neuron/neuron.h"
#include "../src/kernels/stream_neuron/stream_neuron.h"
#include "bst_ort_api.h"

enum { ORT_MAX_PORTS = 3, ORT_MAX_RANK = 5, ORT_N_ENTRIES = BST_MAX_CONV_NEURON_T + BST_MAX_T };

#define ORT_TRY(expression)                            \
  do {                                                 \
    OrtStatus* const ort_try_status = (expression);    \
    if (ort_try_status != NULL) return ort_try_status; \
  } while (0)

/// Return an error that names the op: "SpikeConvNeuron_T4: ...".
#define ORT_CHECK(kernel, condition, ...)                         \
  do {                                                            \
    if (!(condition)) return bst_ort_fail((kernel), __VA_ARGS__); \
  } while (0)

/// Prepared weights (spike_conv.h) and their sizes; `rows` NULL = not constant.
typedef struct bst_ort_weights {
  int n_out, kh, kw;
  uint64_t* rows;
} bst_ort_weights;

typedef struct bst_ort_conv {
  int n_in, stride, pad;
  bst_ort_weights weights;
  int32_t* theta;  ///< prepared thresholds; NULL = not constant
} bst_ort_conv;

/// One op with one number of time steps, as ONNX Runtime sees it.
typedef struct bst_ort_entry {
  OrtCustomOp base;  // first: the callbacks get a pointer to it
  const struct bst_ort_op* op;
  int n_steps;
  char name[32];
} bst_ort_entry;

/// One node of a session.
typedef struct bst_ort_kernel {
  const OrtApi* api;
  const bst_ort_entry* entry;
  union {
    bst_ort_conv conv;
    bst_neuron neuron;
  } u;
} bst_ort_kernel;

/// Row of the op table.
typedef struct bst_ort_op {
  const char* name;  ///< without the suffix _T<n>
  int max_steps;
  uint8_t n_inputs, n_outputs;
  uint8_t input_types[ORT_MAX_PORTS], output_types[ORT_MAX_PORTS];
  OrtStatus* (*create)(bst_ort_kernel* kernel, const OrtKernelInfo* info);
  OrtStatus* (*compute)(const bst_ort_kernel* kernel, OrtKernelContext* context);
  void (*destroy)(bst_ort_kernel* kernel);  ///< also after a failed `create`
} bst_ort_op;

typedef struct bst_ort_tensor {
  const void* data;
  int64_t dims[ORT_MAX_RANK];
} bst_ort_tensor;

// ---- Errors, tensors, attributes ----------------------------------------------------------------

#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
static OrtStatus* bst_ort_fail(const bst_ort_kernel* kernel, const char* format, ...) {
  char text[256], message[320];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  snprintf(message, sizeof message, "%s: %s", kernel->entry->name, text);
  return kernel->api->CreateStatus(ORT_INVALID_ARGUMENT, message);
}

static OrtStatus* bst_ort_no_memory(const bst_ort_kernel* kernel, size_t bytes) {
  return bst_ort_fail(kernel, "no memory for %zu bytes", bytes);
}

/// Read shape and address of a tensor of `rank` axes.
static OrtStatus* bst_ort_view(const bst_ort_kernel* kernel, const OrtValue* value,
                               const char* port, size_t rank, bst_ort_tensor* tensor) {
  const OrtApi* const api = kernel->api;
  OrtTensorInfo* info;
  size_t n_dims = 0;
  void* data;
  ORT_TRY(api->GetTensorTypeAndShape(value, &info));
  OrtStatus* status = api->GetDimensionsCount(info, &n_dims);
  if (status == NULL && n_dims == rank) status = api->GetDimensions(info, tensor->dims, rank);
  api->ReleaseTensorTypeAndShapeInfo(info);
  if (status != NULL) return status;
  ORT_CHECK(kernel, n_dims == rank, "`%s` has %zu axes, expected %zu", port, n_dims, rank);
  ORT_TRY(
      api->GetTensorMutableData((OrtValue*)(uintptr_t)value, &data));  // for lack of a const one
  tensor->data = data;
  return NULL;
}

static OrtStatus* bst_ort_input(const bst_ort_kernel* kernel, const OrtKernelContext* context,
                                size_t index, const char* port, size_t rank,
                                bst_ort_tensor* tensor) {
  const OrtValue* value;
  ORT_TRY(kernel->api->KernelContext_GetInput(context, index, &value));
  return bst_ort_view(kernel, value, port, rank, tensor);
}

static OrtStatus* bst_ort_output(const bst_ort_kernel* kernel, OrtKernelContext* context,
                                 size_t index, const int64_t* dims, void** data) {
  OrtValue* value;
  ORT_TRY(kernel->api->KernelContext_GetOutput(context, index, dims, ORT_MAX_RANK, &value));
  return kernel->api->GetTensorMutableData(value, data);
}

static OrtStatus* bst_ort_integer(const bst_ort_kernel* kernel, const OrtKernelInfo* info,
                                  const char* name, int64_t low, int64_t high, int* out) {
  int64_t value;
  ORT_TRY(kernel->api->KernelInfoGetAttribute_int64(info, name, &value));
  ORT_CHECK(kernel, low <= value && value <= high, "%s = %lld, must be in %lld..%lld", name,
            (long long)value, (long long)low, (long long)high);
  *out = (int)value;
  return NULL;
}

/// Read `n` integers that must be equal: the kernels know one stride and one padding.
static OrtStatus* bst_ort_equal_integers(const bst_ort_kernel* kernel, const OrtKernelInfo* info,
                                         const char* name, size_t n, int64_t low, int64_t high,
                                         int* out) {
  int64_t values[4];
  size_t n_values = n;
  ORT_TRY(kernel->api->KernelInfoGetAttributeArray_int64(info, name, values, &n_values));
  ORT_CHECK(kernel, n_values == n, "%s has %zu values, expected %zu", name, n_values, n);
  for (size_t i = 1; i < n; ++i) {
    ORT_CHECK(kernel, values[i] == values[0], "%s must be the same on every side", name);
  }
  ORT_CHECK(kernel, low <= values[0] && values[0] <= high, "%s = %lld, must be in %lld..%lld", name,
            (long long)values[0], (long long)low, (long long)high);
  *out = (int)values[0];
  return NULL;
}

static size_t bst_ort_row_bytes(int64_t channels) { return ((size_t)channels + 63) / 64 * 8; }

static bool bst_ort_between(int64_t value, int64_t low, int64_t high) {
  return low <= value && value <= high;
}

// ---- SpikeConvNeuron: spikes u8 [T, B, H, W, P], w u8 [O, kh, kw, P], theta i32 [rows, O] -------

static OrtStatus* bst_ort_prepare_weights(const bst_ort_kernel* kernel, const OrtValue* value,
                                          bst_ort_weights* weights) {
  const bst_ort_conv* const conv = &kernel->u.conv;
  bst_ort_tensor w;
  ORT_TRY(bst_ort_view(kernel, value, "w", 4, &w));
  const size_t row_bytes = bst_ort_row_bytes(conv->n_in), in_bytes = ((size_t)conv->n_in + 7) / 8;
  ORT_CHECK(kernel, w.dims[3] == (int64_t)row_bytes, "`w` has rows of %lld bytes, expected %zu",
            (long long)w.dims[3], row_bytes);
  ORT_CHECK(kernel, bst_ort_between(w.dims[0], 1, BST_MAX_CHANNELS), "`w` has %lld outputs",
            (long long)w.dims[0]);
  const bool window = bst_ort_between(w.dims[1], 1, BST_MAX_KERNEL) &&
                      bst_ort_between(w.dims[2], 1, BST_MAX_KERNEL);
  ORT_CHECK(kernel, window, "the window is %lld x %lld, at most %d", (long long)w.dims[1],
            (long long)w.dims[2], BST_MAX_KERNEL);
  ORT_CHECK(kernel, conv->pad < w.dims[1] && conv->pad < w.dims[2],
            "pads = %d, must be below the window", conv->pad);
  const int64_t fan_in = w.dims[1] * w.dims[2] * conv->n_in;
  ORT_CHECK(kernel, fan_in <= BST_MAX_FAN_IN, "fan-in %lld, at most %d", (long long)fan_in,
            BST_MAX_FAN_IN);

  bst_ort_weights made = {(int)w.dims[0], (int)w.dims[1], (int)w.dims[2], NULL};
  const size_t rows_bytes = bst_spike_conv_rows_bytes(made.n_out, made.kh, made.kw, conv->n_in);
  const size_t n_rows = (size_t)(w.dims[0] * w.dims[1] * w.dims[2]);
  uint8_t* const bits = malloc(n_rows * in_bytes);  // rows padded to bytes, not to words
  made.rows = malloc(rows_bytes);
  if (bits == NULL || made.rows == NULL) {
    free(bits);
    free(made.rows);
    return bst_ort_no_memory(kernel, rows_bytes);
  }
  for (size_t i = 0; i < n_rows; ++i) {
    memcpy(bits + i * in_bytes, (const uint8_t*)w.data + i * row_bytes, in_bytes);
  }
  bst_spike_conv_prepare_rows(made.n_out, made.kh, made.kw, conv->n_in, bits, made.rows);
  free(bits);
  *weights = made;
  return NULL;
}

static OrtStatus* bst_ort_prepare_theta(const bst_ort_kernel* kernel, const OrtValue* value,
                                        int32_t** theta, int* n_channels) {
  const int n_steps = kernel->entry->n_steps;
  const int64_t n_rows = (int64_t)n_steps * (n_steps + 1) / 2;
  bst_ort_tensor table;
  ORT_TRY(bst_ort_view(kernel, value, "theta", 2, &table));
  ORT_CHECK(kernel, table.dims[0] == n_rows && bst_ort_between(table.dims[1], 1, BST_MAX_CHANNELS),
            "`theta` is [%lld, %lld], expected [%lld, O]", (long long)table.dims[0],
            (long long)table.dims[1], (long long)n_rows);
  const size_t rows = (size_t)n_rows, n = (size_t)table.dims[1];
  const size_t bytes = bst_spike_conv_theta_bytes(n_steps, (int)n);
  // Every channel goes in as one with a table of its own: zeros [n], index [n], tables [n][rows].
  int32_t* const work = calloc(n * (rows + 2), sizeof *work);
  int32_t* const made = malloc(bytes);
  if (work == NULL || made == NULL) {
    free(work);
    free(made);
    return bst_ort_no_memory(kernel, bytes);
  }
  int32_t *const index = work + n, *const tables = work + 2 * n;
  for (size_t o = 0; o < n; ++o) {
    index[o] = (int32_t)o;
    for (size_t k = 0; k < rows; ++k) {
      memcpy(tables + o * rows + k, (const uint8_t*)table.data + 4 * (k * n + o), 4);
    }
  }
  bst_spike_conv_prepare_theta(n_steps, (int)n, work, work, (int)n, index, tables, made);
  free(work);
  *theta = made;
  *n_channels = (int)n;
  return NULL;
}

static OrtStatus* bst_ort_conv_create(bst_ort_kernel* kernel, const OrtKernelInfo* info) {
  bst_ort_conv* const conv = &kernel->u.conv;
  const OrtValue* value;
  int is_constant;
  ORT_TRY(bst_ort_integer(kernel, info, "in_channels", 1, BST_MAX_CHANNELS, &conv->n_in));
  ORT_TRY(bst_ort_equal_integers(kernel, info, "strides", 2, 1, BST_MAX_STRIDE, &conv->stride));
  ORT_TRY(bst_ort_equal_integers(kernel, info, "pads", 4, 0, BST_MAX_KERNEL - 1, &conv->pad));
  ORT_TRY(kernel->api->KernelInfoGetConstantInput_tensor(info, 1, &is_constant, &value));
  if (is_constant) ORT_TRY(bst_ort_prepare_weights(kernel, value, &conv->weights));
  ORT_TRY(kernel->api->KernelInfoGetConstantInput_tensor(info, 2, &is_constant, &value));
  if (is_constant) {
    int n_channels;
    ORT_TRY(bst_ort_prepare_theta(kernel, value, &conv->theta, &n_channels));
    ORT_CHECK(kernel, conv->weights.rows == NULL || n_channels == conv->weights.n_out,
              "`theta` has %d channels, `w` %d", n_channels, conv->weights.n_out);
    conv->weights.n_out = n_channels;
  }
  return NULL;
}

static void bst_ort_conv_destroy(bst_ort_kernel* kernel) {
  free(kernel->u.conv.weights.rows);
  free(kernel->u.conv.theta);
}

/// One frame [T, cells, row] out of, or into, a tensor [T, B, cells, row].
static void bst_ort_copy_frame(int n_steps, size_t target_step, uint8_t* target, size_t source_step,
                               const uint8_t* source, size_t frame_bytes) {
  for (int t = 0; t < n_steps; ++t, target += target_step, source += source_step) {
    memcpy(target, source, frame_bytes);
  }
}

/// The kernel trusts that bits beyond the channels are zero; a tensor from outside need not be.
static void bst_ort_clear_padding(size_t n_cells, int channels, uint64_t* spikes) {
  if (channels % 64 == 0) return;
  const uint64_t mask = (UINT64_C(1) << (channels % 64)) - 1;
  const size_t n_words = ((size_t)channels + 63) / 64;
  for (size_t i = n_words - 1; i < n_cells * n_words; i += n_words) spikes[i] &= mask;
}

static OrtStatus* bst_ort_conv_run(const bst_ort_kernel* kernel, OrtKernelContext* context,
                                   const bst_ort_weights* weights, const int32_t* theta) {
  const bst_ort_conv* const conv = &kernel->u.conv;
  const int n_steps = kernel->entry->n_steps;
  const size_t in_row = bst_ort_row_bytes(conv->n_in), out_row = bst_ort_row_bytes(weights->n_out);
  bst_ort_tensor x;
  void* out;
  ORT_TRY(bst_ort_input(kernel, context, 0, "spikes", 5, &x));
  ORT_CHECK(kernel, x.dims[0] == n_steps && x.dims[4] == (int64_t)in_row,
            "`spikes` is [%lld, .., %lld], expected [%d, .., %zu]", (long long)x.dims[0],
            (long long)x.dims[4], n_steps, in_row);
  const int64_t free_h = x.dims[2] + 2 * conv->pad - weights->kh;
  const int64_t free_w = x.dims[3] + 2 * conv->pad - weights->kw;
  const bool size = bst_ort_between(x.dims[2], 1, BST_MAX_SIDE) &&
                    bst_ort_between(x.dims[3], 1, BST_MAX_SIDE) && free_h >= 0 && free_w >= 0;
  ORT_CHECK(kernel, size, "`spikes` has %lld x %lld cells, allowed are the window to %d",
            (long long)x.dims[2], (long long)x.dims[3], BST_MAX_SIDE);
  const int64_t dims[ORT_MAX_RANK] = {n_steps, x.dims[1], free_h / conv->stride + 1,
                                      free_w / conv->stride + 1, (int64_t)out_row};
  ORT_TRY(bst_ort_output(kernel, context, 0, dims, &out));
  const size_t n_frames = (size_t)x.dims[1];
  if (n_frames == 0) return NULL;

  // Steps of a frame are adjacent for the kernel and B frames apart in the graph.
  const size_t n_cells = (size_t)(x.dims[2] * x.dims[3]);
  const size_t in_bytes = n_cells * in_row, out_bytes = (size_t)(dims[2] * dims[3]) * out_row;
  const size_t steps = (size_t)n_steps;
  const size_t total = steps * (in_bytes + out_bytes) +
                       bst_spike_conv_scratch_bytes(n_steps, weights->kh, weights->kw, conv->n_in);
  uint64_t* const in_frame = malloc(total);
  if (in_frame == NULL) return bst_ort_no_memory(kernel, total);
  uint64_t* const out_frame = in_frame + steps * in_bytes / 8;
  void* const scratch = out_frame + steps * out_bytes / 8;
  for (size_t b = 0; b < n_frames; ++b) {
    bst_ort_copy_frame(n_steps, in_bytes, (uint8_t*)in_frame, n_frames * in_bytes,
                       (const uint8_t*)x.data + b * in_bytes, in_bytes);
    bst_ort_clear_padding(steps * n_cells, conv->n_in, in_frame);
    bst_spike_conv_neuron__scalar(0, 1, n_steps, (int)x.dims[2], (int)x.dims[3], conv->n_in,
                                  weights->n_out, weights->kh, weights->kw, conv->stride, conv->pad,
                                  0, in_frame, weights->rows, theta, out_frame, scratch);
    bst_ort_copy_frame(n_steps, n_frames * out_bytes, (uint8_t*)out + b * out_bytes, out_bytes,
                       (const uint8_t*)out_frame, out_bytes);
  }
  free(in_frame);
  return NULL;
}

/// Lay out what is not constant, run, forget it.
static OrtStatus* bst_ort_conv_compute(const bst_ort_kernel* kernel, OrtKernelContext* context) {
  const bst_ort_conv* const conv = &kernel->u.conv;
  bst_ort_weights weights = conv->weights;
  int32_t* theta = conv->theta;
  int n_channels = weights.n_out;
  OrtStatus* status = NULL;
  const OrtValue* value;
  if (conv->weights.rows == NULL) {
    status = kernel->api->KernelContext_GetInput(context, 1, &value);
    if (status == NULL) status = bst_ort_prepare_weights(kernel, value, &weights);
  }
  if (status == NULL && conv->theta == NULL) {
    status = kernel->api->KernelContext_GetInput(context, 2, &value);
    if (status == NULL) status = bst_ort_prepare_theta(kernel, value, &theta, &n_channels);
  }
  if (status == NULL && n_channels != weights.n_out) {
    status = bst_ort_fail(kernel, "`theta` has %d channels, `w` %d", n_channels, weights.n_out);
  }
  if (status == NULL) status = bst_ort_conv_run(kernel, context, &weights, theta);
  if (conv->weights.rows == NULL) free(weights.rows);
  if (conv->theta == NULL) free(theta);
  return status;
}

// ---- ResidualNeuron: y, x0, x1 i32 [T, B, H, W, C] -> x2 alike, spikes u8 [T, B, H, W, P] -------

static OrtStatus* bst_ort_residual_create(bst_ort_kernel* kernel, const OrtKernelInfo* info) {
  bst_neuron* const neuron = &kernel->u.neuron;
  const int half = 1 << 29;
  int decay = 0, soft = 0, rounding = 0;
  ORT_TRY(bst_ort_integer(kernel, info, "decay_input", 0, 1, &decay));
  ORT_TRY(bst_ort_integer(kernel, info, "soft_reset", 0, 1, &soft));
  ORT_TRY(bst_ort_integer(kernel, info, "rounding", 0, half, &rounding));
  ORT_TRY(bst_ort_integer(kernel, info, "rate", 0, 2 * half, &neuron->r));
  ORT_TRY(bst_ort_integer(kernel, info, "v_threshold", INT32_MIN, INT32_MAX, &neuron->theta));
  ORT_TRY(bst_ort_integer(kernel, info, "v_reset", INT32_MIN, INT32_MAX, &neuron->v_reset));
  const bool halving = rounding == 0;
  ORT_CHECK(kernel, halving ? neuron->r == half : rounding == half,
            "rounding = %d with rate = %d, expected %d, or 0 with rate %d", rounding, neuron->r,
            half, half);
  neuron->flags =
      (decay ? BST_DECAY_INPUT : 0) | (soft ? BST_SOFT_RESET : 0) | (halving ? BST_HALVING : 0);
  return NULL;
}

static OrtStatus* bst_ort_residual_compute(const bst_ort_kernel* kernel,
                                           OrtKernelContext* context) {
  static const char* const ports[] = {"y", "x0", "x1"};
  const bst_neuron* const p = &kernel->u.neuron;
  const int n_steps = kernel->entry->n_steps;
  bst_ort_tensor x[3];
  void *x2, *spikes;
  for (size_t i = 0; i < 3; ++i) {
    ORT_TRY(bst_ort_input(kernel, context, i, ports[i], 5, &x[i]));
    ORT_CHECK(kernel, memcmp(x[i].dims, x[0].dims, sizeof x[0].dims) == 0,
              "`%s` and `y` must have equal shapes", ports[i]);
    ORT_CHECK(kernel, (uintptr_t)x[i].data % sizeof(int32_t) == 0, "`%s` is not aligned", ports[i]);
  }
  const int64_t* const d = x[0].dims;
  ORT_CHECK(kernel, d[0] == n_steps && bst_ort_between(d[4], 1, BST_MAX_CHANNELS),
            "`y` is [%lld, .., %lld], expected [%d, .., C] with C in 1..%d", (long long)d[0],
            (long long)d[4], n_steps, BST_MAX_CHANNELS);
  const int64_t packed[ORT_MAX_RANK] = {d[0], d[1], d[2], d[3], (int64_t)bst_ort_row_bytes(d[4])};
  ORT_TRY(bst_ort_output(kernel, context, 0, d, &x2));
  ORT_TRY(bst_ort_output(kernel, context, 1, packed, &spikes));
  const bool aligned = (uintptr_t)x2 % sizeof(int32_t) == 0 && (uintptr_t)spikes % 8 == 0;
  ORT_CHECK(kernel, aligned, "%s", "an output is not aligned");
  // Cells are independent, so the frames of a batch are just more cells.
  bst_residual_neuron__scalar(0, 1, n_steps, (size_t)(d[1] * d[2] * d[3]), (int)d[4], p->flags,
                              p->theta, p->v_reset, p->r, x[0].data, x[1].data, x[2].data, x2,
                              spikes);
  return NULL;
}

static void bst_ort_no_destroy(bst_ort_kernel* kernel) { (void)kernel; }

// ---- The op table -------------------------------------------------------------------------------

enum { U8 = ORT_ELEMENT_UINT8, I32 = ORT_ELEMENT_INT32 };

static const bst_ort_op bst_ort_ops[] = {
    {"SpikeConvNeuron",
     BST_MAX_CONV_NEURON_T,
     3,
     1,
     {U8, U8, I32},
     {U8},
     bst_ort_conv_create,
     bst_ort_conv_compute,
     bst_ort_conv_destroy},
    {"ResidualNeuron",
     BST_MAX_T,
     3,
     2,
     {I32, I32, I32},
     {I32, U8},
     bst_ort_residual_create,
     bst_ort_residual_compute,
     bst_ort_no_destroy},
};

// ---- What ONNX Runtime calls --------------------------------------------------------------------

static const bst_ort_entry* bst_ort_entry_of(const OrtCustomOp* op) {
  return (const bst_ort_entry*)(const void*)op;
}

static const char* bst_ort_name(const OrtCustomOp* op) { return bst_ort_entry_of(op)->name; }

static const char* bst_ort_provider(const OrtCustomOp* op) {
  (void)op;
  return NULL;
}

static size_t bst_ort_n_inputs(const OrtCustomOp* op) { return bst_ort_entry_of(op)->op->n_inputs; }

static size_t bst_ort_n_outputs(const OrtCustomOp* op) {
  return bst_ort_entry_of(op)->op->n_outputs;
}

static OrtElementType bst_ort_input_type(const OrtCustomOp* op, size_t index) {
  return (OrtElementType)bst_ort_entry_of(op)->op->input_types[index];
}

static OrtElementType bst_ort_output_type(const OrtCustomOp* op, size_t index) {
  return (OrtElementType)bst_ort_entry_of(op)->op->output_types[index];
}

static int bst_ort_zero(const OrtCustomOp* op, size_t index) {
  (void)op;
  (void)index;
  return 0;
}

static void bst_ort_destroy(void* opaque) {
  bst_ort_kernel* const kernel = opaque;
  if (kernel == NULL) return;
  kernel->entry->op->destroy(kernel);
  free(kernel);
}

static OrtStatus* bst_ort_create(const OrtCustomOp* op, const OrtApi* api,
                                 const OrtKernelInfo* info, void** out) {
  bst_ort_kernel* const kernel = calloc(1, sizeof *kernel);
  *out = NULL;
  if (kernel == NULL) return api->CreateStatus(ORT_FAIL, "bestdeploy: no memory for a kernel");
  kernel->api = api;
  kernel->entry = bst_ort_entry_of(op);
  OrtStatus* const status = kernel->entry->op->create(kernel, info);
  if (status != NULL) {
    bst_ort_destroy(kernel);
    return status;
  }
  *out = kernel;
  return NULL;
}

static OrtStatus* bst_ort_compute(void* opaque, OrtKernelContext* context) {
  const bst_ort_kernel* const kernel = opaque;
  return kernel->entry->op->compute(kernel, context);
}

/// A domain with its ops; lives until the process ends.
typedef struct bst_ort_registry {
  const OrtApi* api;
  OrtCustomOpDomain* domain;
  bst_ort_entry entries[ORT_N_ENTRIES];
} bst_ort_registry;

static void bst_ort_fill_entry(const bst_ort_op* op, int n_steps, bst_ort_entry* entry) {
  const OrtCustomOp base = {
      .version = ORT_API_VERSION_USED,
      .GetName = bst_ort_name,
      .GetExecutionProviderType = bst_ort_provider,
      .GetInputType = bst_ort_input_type,
      .GetInputTypeCount = bst_ort_n_inputs,
      .GetOutputType = bst_ort_output_type,
      .GetOutputTypeCount = bst_ort_n_outputs,
      .KernelDestroy = bst_ort_destroy,
      .GetInputCharacteristic = bst_ort_zero,
      .GetOutputCharacteristic = bst_ort_zero,
      .GetInputMemoryType = bst_ort_zero,
      .CreateKernelV2 = bst_ort_create,
      .KernelComputeV2 = bst_ort_compute,
  };
  entry->base = base;
  entry->op = op;
  entry->n_steps = n_steps;
  snprintf(entry->name, sizeof entry->name, "%s_T%d", op->name, n_steps);
}

static OrtStatus* bst_ort_fill(const OrtApi* api, bst_ort_registry* registry) {
  bst_ort_entry* entry = registry->entries;
  registry->api = api;
  ORT_TRY(api->CreateCustomOpDomain("bestdeploy", &registry->domain));
  for (size_t i = 0; i < sizeof bst_ort_ops / sizeof *bst_ort_ops; ++i) {
    for (int t = 1; t <= bst_ort_ops[i].max_steps; ++t, ++entry) {
      bst_ort_fill_entry(&bst_ort_ops[i], t, entry);
      ORT_TRY(api->CustomOpDomain_Add(registry->domain, &entry->base));
    }
  }
  return NULL;
}

static void bst_ort_drop(bst_ort_registry* registry) {
  if (registry->domain != NULL) registry->api->ReleaseCustomOpDomain(registry->domain);
  free(registry);
}

/// Make the domain at the first call, whichever thread that is; later calls find it.
static OrtStatus* bst_ort_find_registry(const OrtApi* api, bst_ort_registry** out) {
  static _Atomic(bst_ort_registry*) shared;
  bst_ort_registry* found = atomic_load(&shared);
  if (found == NULL) {
    bst_ort_registry* const made = calloc(1, sizeof *made);
    if (made == NULL) return api->CreateStatus(ORT_FAIL, "bestdeploy: no memory for the ops");
    OrtStatus* const status = bst_ort_fill(api, made);
    if (status != NULL) {
      bst_ort_drop(made);
      return status;
    }
    if (atomic_compare_exchange_strong(&shared, &found, made)) {
      found = made;
    } else {
      bst_ort_drop(made);
    }
  }
  if (found->api != api) {
    return api->CreateStatus(ORT_FAIL, "bestdeploy: a second ONNX Runtime in one process");
  }
  *out = found;
  return NULL;
}

#if defined(__GNUC__)
__attribute__((visibility("default")))
#endif
OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base);

OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  const OrtApi* const api = base->GetApi(ORT_API_VERSION_USED);
  bst_ort_registry* registry = NULL;
  if (api == NULL) {
    // The first version has the slot that makes an error; without it there is no way to tell.
    const OrtApi* const oldest = base->GetApi(1);
    return oldest == NULL ? NULL
                          : oldest->CreateStatus(
                                ORT_FAIL, "bestdeploy: its custom ops need ONNX Runtime 1.17");
  }
  ORT_TRY(bst_ort_find_registry(api, &registry));
  return api->AddCustomOpDomain(options, registry->domain);
}
