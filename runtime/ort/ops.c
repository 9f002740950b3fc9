// SPDX-License-Identifier: MIT
// The op table: what each op of bestdeploy/ops becomes as a step of the runtime. A test compares
// the table with the one in Python (tests/bestdeploy/test_onnxruntime.py).

#include "../src/ops.h"

#include <string.h>

#include "../src/kernels/levels/levels.h"
#include "../src/kernels/stream_neuron/neuron.h"
#include "bst_ort.h"

enum {
  U8 = ORT_ELEMENT_UINT8,
  I8 = ORT_ELEMENT_INT8,
  I16 = ORT_ELEMENT_INT16,
  I32 = ORT_ELEMENT_INT32,
  I64 = ORT_ELEMENT_INT64,
  N_LIMBS = 3,
};

// ---- Attributes ---------------------------------------------------------------------------------

static OrtStatus* bst_ort_integer(const bst_ort_node* node, const OrtKernelInfo* info,
                                  const char* name, int64_t low, int64_t high, int32_t* out) {
  int64_t value;
  ORT_TRY(node->api->KernelInfoGetAttribute_int64(info, name, &value));
  ORT_CHECK(node, low <= value && value <= high, "%s = %lld, must be in %lld..%lld", name,
            (long long)value, (long long)low, (long long)high);
  *out = (int32_t)value;
  return NULL;
}

/// Read `n` integers that must be equal: the kernels know one size, stride and padding.
static OrtStatus* bst_ort_equal_integers(const bst_ort_node* node, const OrtKernelInfo* info,
                                         const char* name, size_t n, int64_t low, int64_t high,
                                         int32_t* out) {
  int64_t values[4];
  size_t n_values = n;
  ORT_TRY(node->api->KernelInfoGetAttributeArray_int64(info, name, values, &n_values));
  ORT_CHECK(node, n_values == n, "%s has %zu values, expected %zu", name, n_values, n);
  for (size_t i = 1; i < n; ++i) {
    ORT_CHECK(node, values[i] == values[0], "%s must be the same on every side", name);
  }
  ORT_CHECK(node, low <= values[0] && values[0] <= high, "%s = %lld, must be in %lld..%lld", name,
            (long long)values[0], (long long)low, (long long)high);
  *out = (int32_t)values[0];
  return NULL;
}

static OrtStatus* bst_ort_window(const bst_ort_node* node, const OrtKernelInfo* info,
                                 int32_t* params) {
  ORT_TRY(bst_ort_equal_integers(node, info, "strides", 2, 1, BST_MAX_STRIDE, &params[0]));
  return bst_ort_equal_integers(node, info, "pads", 4, 0, BST_MAX_KERNEL - 1, &params[1]);
}

/// The neuron of bestdeploy/ops/neuron.py: rounding = 0 and rate = 2^29 are the halving of tau = 2.
static OrtStatus* bst_ort_neuron(const bst_ort_node* node, const OrtKernelInfo* info,
                                 int32_t* params) {
  const int32_t half = 1 << 29;
  int32_t decay = 0, soft = 0, rounding = 0, rate = 0;
  ORT_TRY(bst_ort_integer(node, info, "decay_input", 0, 1, &decay));
  ORT_TRY(bst_ort_integer(node, info, "soft_reset", 0, 1, &soft));
  ORT_TRY(bst_ort_integer(node, info, "rounding", 0, half, &rounding));
  ORT_TRY(bst_ort_integer(node, info, "rate", 0, 2 * half, &rate));
  ORT_TRY(bst_ort_integer(node, info, "v_threshold", INT32_MIN, INT32_MAX, &params[5]));
  ORT_TRY(bst_ort_integer(node, info, "v_reset", INT32_MIN, INT32_MAX, &params[6]));
  const bool halving = rounding == 0;
  ORT_CHECK(node, halving ? rate == half : rounding == half,
            "rounding = %d with rate = %d, expected %d, or 0 with rate %d", (int)rounding,
            (int)rate, (int)half, (int)half);
  params[4] =
      (decay ? BST_DECAY_INPUT : 0) | (soft ? BST_SOFT_RESET : 0) | (halving ? BST_HALVING : 0);
  params[7] = halving ? 0 : rate;
  return NULL;
}

/// The neuron of spikes -1, 0, +1 (bestdeploy/ops/ternary.py): hard reset to 0.
static OrtStatus* bst_ort_ternary(const bst_ort_node* node, const OrtKernelInfo* info,
                                  int32_t* params) {
  ORT_TRY(bst_ort_integer(node, info, "rate", 0, 1 << 30, &params[7]));
  ORT_TRY(bst_ort_integer(node, info, "v_threshold", 1, INT32_MAX, &params[5]));
  return bst_ort_integer(node, info, "decay_input", 0, 1, &params[4]);
}

/// Addition-only attention (bestdeploy/ops/add_attention.py); its neuron halves.
static OrtStatus* bst_ort_add_attention(const bst_ort_node* node, const OrtKernelInfo* info,
                                        int32_t* params) {
  ORT_TRY(bst_ort_integer(node, info, "heads", 1, BST_MAX_HEADS, &params[0]));
  ORT_TRY(bst_ort_integer(node, info, "k_shift", 0, 30, &params[1]));
  ORT_TRY(bst_ort_integer(node, info, "v_threshold", INT32_MIN, INT32_MAX, &params[5]));
  ORT_TRY(bst_ort_integer(node, info, "decay_input", 0, 1, &params[4]));
  params[4] = (params[4] ? BST_DECAY_INPUT : 0) | BST_HALVING;
  return NULL;
}

OrtStatus* bst_ort_read_attributes(bst_ort_node* node, const OrtKernelInfo* info) {
  const uint16_t has = node->entry->op->attributes;
  int32_t* const p = node->params;
  int32_t channels = 0, bits = 0, planes = 0;
  if (has & ORT_WINDOW) ORT_TRY(bst_ort_window(node, info, p));
  if (has & ORT_POOL) {
    ORT_TRY(bst_ort_equal_integers(node, info, "kernel_shape", 2, 1, BST_MAX_KERNEL, &p[0]));
    ORT_TRY(bst_ort_window(node, info, p + 1));
  }
  if (has & ORT_IN_CHANNELS) {
    ORT_TRY(bst_ort_integer(node, info, "in_channels", 1, BST_MAX_CHANNELS, &channels));
  }
  if (has & ORT_HEADS) {
    ORT_TRY(bst_ort_integer(node, info, "heads", 1, BST_MAX_HEADS, &p[0]));
    ORT_TRY(bst_ort_integer(node, info, "channels", 1, BST_MAX_CHANNELS, &channels));
    p[1] = (has & ORT_FIRST) == 0;  // form 1: any neuron; a table of scale and lambda
  }
  if (has & ORT_FIRST) ORT_TRY(bst_ort_integer(node, info, "first", 1, INT32_MAX, &p[2]));
  if (has & ORT_BITS) ORT_TRY(bst_ort_integer(node, info, "bits", 0, 30, &bits));
  if (has & ORT_NEURON) ORT_TRY(bst_ort_neuron(node, info, p));
  if (has & ORT_Q) ORT_TRY(bst_ort_integer(node, info, "q", 0, 62, &p[0]));
  if (has & ORT_SHIFT) ORT_TRY(bst_ort_integer(node, info, "bits", 0, 30, &p[1]));
  if (has & ORT_LEVELS) {
    ORT_TRY(bst_ort_integer(node, info, "channels", 1, BST_MAX_CHANNELS, &channels));
    ORT_TRY(bst_ort_integer(node, info, "planes", 1, BST_MAX_LEVEL_PLANES, &planes));
    p[0] = channels;
  }
  if (has & ORT_INVERT) ORT_TRY(bst_ort_integer(node, info, "invert", 0, 1, &p[0]));
  if (has & ORT_TERNARY) ORT_TRY(bst_ort_ternary(node, info, p));
  if (has & ORT_ADD) ORT_TRY(bst_ort_add_attention(node, info, p));
  if (has & ORT_THRESHOLDS) {
    ORT_TRY(bst_ort_integer(node, info, "levels", 1, BST_MAX_NEURON_LEVELS, &planes));
    planes = bst_bit_length((size_t)planes);
  }
  const bst_op* const step = node->entry->op->step;
  if (step == &bst_op_level_readout || step == &bst_op_level_products) p[1] = channels;
  node->n_channels = (uint32_t)channels;
  node->frac_bits = (uint32_t)bits;
  node->n_planes = (uint32_t)planes;
  return NULL;
}

// ---- Constants ----------------------------------------------------------------------------------

static int64_t bst_ort_i64(const bst_ort_tensor* tensor, size_t index) {
  int64_t value;
  memcpy(&value, tensor->data + 8 * index, sizeof value);
  return value;
}

static size_t bst_ort_item_bytes(uint32_t type) {
  return type == BST_CONST_I64 ? 8 : type == BST_CONST_I32 ? 4 : type == BST_CONST_I16 ? 2 : 1;
}

/// The same values with the same dims.
static OrtStatus* bst_ort_copy(const bst_ort_node* node, bst_ort_weights* weights, int slot,
                               uint32_t type, const bst_ort_tensor* tensor) {
  uint8_t* out;
  ORT_TRY(bst_ort_add(node, weights, slot, type, (uint32_t)tensor->rank, tensor->dims, &out));
  memcpy(out, tensor->data, tensor->count * bst_ort_item_bytes(type));
  return NULL;
}

/// Numbers of 0..255 that ONNX has as int64.
static OrtStatus* bst_ort_narrow(const bst_ort_node* node, bst_ort_weights* weights, int slot,
                                 const char* port, const bst_ort_tensor* tensor) {
  uint8_t* out;
  ORT_TRY(
      bst_ort_add(node, weights, slot, BST_CONST_U8, (uint32_t)tensor->rank, tensor->dims, &out));
  for (size_t i = 0; i < tensor->count; ++i) {
    const int64_t value = bst_ort_i64(tensor, i);
    ORT_CHECK(node, value >= 0 && value <= 255, "`%s` holds %lld, must be in 0..255", port,
              (long long)value);
    out[i] = (uint8_t)value;
  }
  return NULL;
}

/// Copy `n` packed rows, each `stride` bytes behind the one before, cut to bytes, bits beyond the
/// channels cleared.
static void bst_ort_cut_rows(const bst_ort_node* node, const uint8_t* rows, size_t n, size_t stride,
                             uint8_t* out) {
  const size_t bytes = ((size_t)node->n_channels + 7) / 8;
  const uint32_t rest = node->n_channels % 8;
  const uint8_t mask = (uint8_t)(rest == 0 ? 255 : (1U << rest) - 1);
  for (size_t i = 0; i < n; ++i) {
    memcpy(out + i * bytes, rows + i * stride, bytes);
    out[(i + 1) * bytes - 1] &= mask;
  }
}

/// Weight bits [O, kh, kw, P].
static OrtStatus* bst_ort_load_bits(const bst_ort_node* node, bst_ort_weights* weights,
                                    const bst_ort_tensor* w) {
  const size_t row_bytes = bst_ort_row_bytes(node->n_channels);
  const int64_t dims[] = {w->dims[0], w->dims[1], w->dims[2], node->n_channels};
  uint8_t* out;
  ORT_CHECK(node, w->dims[3] == (int64_t)row_bytes, "`w` has rows of %lld bytes, expected %zu",
            (long long)w->dims[3], row_bytes);
  ORT_TRY(bst_ort_add(node, weights, 0, BST_CONST_BITS, 4, dims, &out));
  bst_ort_cut_rows(node, w->data, w->count / row_bytes, row_bytes, out);
  return NULL;
}

/// Planes of integer weights: [O, kh, kw, n P] -> [n, O, kh kw, I].
static OrtStatus* bst_ort_load_planes(const bst_ort_node* node, bst_ort_weights* weights,
                                      const bst_ort_tensor* w) {
  const size_t plane = bst_ort_row_bytes(node->n_channels), stride = (size_t)w->dims[3];
  const size_t n = stride / plane, bytes = ((size_t)node->n_channels + 7) / 8;
  const int64_t dims[] = {(int64_t)n, w->dims[0], w->dims[1] * w->dims[2], node->n_channels};
  uint8_t* out;
  ORT_CHECK(node, stride % plane == 0, "`w` has rows of %zu bytes, expected planes of %zu", stride,
            plane);
  for (int i = 0; i < 2; ++i) {
    ORT_CHECK(node, w->dims[1 + i] >= 1 && w->dims[1 + i] <= BST_MAX_KERNEL,
              "`w` has %lld values along an axis, must be in 1..%d", (long long)w->dims[1 + i],
              BST_MAX_KERNEL);
    weights->sizes[i] = (int32_t)w->dims[1 + i];
  }
  ORT_TRY(bst_ort_add(node, weights, 0, BST_CONST_BITS, 4, dims, &out));
  const size_t n_rows = w->count / stride;
  for (size_t i = 0; i < n; ++i) {
    bst_ort_cut_rows(node, w->data + i * plane, n_rows, stride, out + i * n_rows * bytes);
  }
  return NULL;
}

/// The weights of a convolution: signs, or integers where the step takes these.
static OrtStatus* bst_ort_load_weights(const bst_ort_node* node, bst_ort_weights* weights,
                                       const bst_ort_tensor* w) {
  const bst_op* const step = node->entry->op->step;
  const bool is_integer = step == &bst_op_weight_conv_neuron ||
                          step == &bst_op_weight_conv_affine || step == &bst_op_depthwise_levels ||
                          step == &bst_op_depthwise_stream;
  return is_integer ? bst_ort_load_planes(node, weights, w) : bst_ort_load_bits(node, weights, w);
}

/// limbs i8 [3, O, kh, kw, C] -> weight i32 [O, kh, kw, C].
static OrtStatus* bst_ort_load_limbs(const bst_ort_node* node, bst_ort_weights* weights,
                                     const bst_ort_tensor* limbs) {
  uint8_t* out;
  ORT_CHECK(node, limbs->dims[0] == N_LIMBS, "`limbs` has %lld parts, expected %d",
            (long long)limbs->dims[0], N_LIMBS);
  ORT_TRY(bst_ort_add(node, weights, 0, BST_CONST_I32, 4, limbs->dims + 1, &out));
  const size_t n = limbs->count / N_LIMBS;
  const int8_t* const digits = (const void*)limbs->data;
  for (size_t i = 0; i < n; ++i) {
    const int32_t value = digits[i] + 256 * digits[n + i] + 65536 * digits[2 * n + i];
    memcpy(out + 4 * i, &value, sizeof value);
  }
  return NULL;
}

/// limbs, bias, row_class, col_class, shift, (first)
static OrtStatus* bst_ort_load_stem(const bst_ort_node* node, const bst_ort_tensor* inputs,
                                    bst_ort_weights* weights) {
  bst_ort_tensor bias = inputs[1];
  ORT_CHECK(node, bias.dims[1] <= 256, "`bias` has %lld column classes, at most 256",
            (long long)bias.dims[1]);
  weights->sizes[0] = (int32_t)bias.dims[1];
  bias.rank = 2;
  bias.dims[0] *= bias.dims[1];
  bias.dims[1] = bias.dims[2];
  ORT_TRY(bst_ort_load_limbs(node, weights, &inputs[0]));
  ORT_TRY(bst_ort_copy(node, weights, 1, BST_CONST_I64, &bias));
  ORT_TRY(bst_ort_narrow(node, weights, 2, "shift", &inputs[4]));
  ORT_TRY(bst_ort_narrow(node, weights, 3, "row_class", &inputs[2]));
  ORT_TRY(bst_ort_narrow(node, weights, 4, "col_class", &inputs[3]));
  if (node->entry->op->constants[5].type == 0) return NULL;
  return bst_ort_copy(node, weights, 5, BST_CONST_I32, &inputs[5]);
}

/// w, theta: every channel goes in as one with a table of its own.
static OrtStatus* bst_ort_load_conv_neuron(const bst_ort_node* node, const bst_ort_tensor* inputs,
                                           bst_ort_weights* weights) {
  const bst_ort_tensor *const w = &inputs[0], *const theta = &inputs[1];
  const int64_t n_steps = node->entry->n_steps, expected = n_steps * (n_steps + 1) / 2;
  const size_t n_rows = (size_t)theta->dims[0], n = (size_t)theta->dims[1];
  const int64_t turned[] = {theta->dims[1], theta->dims[0]};
  uint8_t* out;
  ORT_CHECK(node, theta->dims[0] == expected, "`theta` is [%lld, %lld], expected [%lld, O]",
            (long long)theta->dims[0], (long long)theta->dims[1], (long long)expected);
  ORT_CHECK(node, theta->dims[1] == w->dims[0], "`theta` has %lld channels, `w` %lld",
            (long long)theta->dims[1], (long long)w->dims[0]);
  ORT_TRY(bst_ort_load_weights(node, weights, w));
  for (int slot = 1; slot <= 2; ++slot) {
    ORT_TRY(bst_ort_add(node, weights, slot, BST_CONST_I32, 1, turned, &out));
    memset(out, 0, 4 * n);
  }
  ORT_TRY(bst_ort_add(node, weights, 3, BST_CONST_I32, 1, turned, &out));
  for (size_t o = 0; o < n; ++o) memcpy(out + 4 * o, &(int32_t){(int32_t)o}, 4);
  ORT_TRY(bst_ort_add(node, weights, 4, BST_CONST_I32, 2, turned, &out));
  for (size_t o = 0; o < n; ++o) {
    for (size_t k = 0; k < n_rows; ++k) {
      memcpy(out + 4 * (o * n_rows + k), theta->data + 4 * (k * n + o), 4);
    }
  }
  return NULL;
}

/// w, whole, fraction, shift
static OrtStatus* bst_ort_load_conv_affine(const bst_ort_node* node, const bst_ort_tensor* inputs,
                                           bst_ort_weights* weights) {
  ORT_TRY(bst_ort_load_weights(node, weights, &inputs[0]));
  ORT_TRY(bst_ort_copy(node, weights, 1, BST_CONST_I32, &inputs[1]));
  ORT_TRY(bst_ort_copy(node, weights, 2, BST_CONST_I16, &inputs[2]));
  return bst_ort_copy(node, weights, 3, BST_CONST_I32, &inputs[3]);
}

/// table
static OrtStatus* bst_ort_load_table(const bst_ort_node* node, const bst_ort_tensor* inputs,
                                     bst_ort_weights* weights) {
  ORT_CHECK(node, inputs[0].dims[2] >= 2, "`table` has %lld entries, at least 2",
            (long long)inputs[0].dims[2]);
  return bst_ort_copy(node, weights, 2, BST_CONST_I32, &inputs[0]);
}

/// w, whole, fraction, shift, v0, v1, constant. The step wants B of shift = T N B, which node.c
/// makes when N is known.
static OrtStatus* bst_ort_load_readout(const bst_ort_node* node, const bst_ort_tensor* inputs,
                                       bst_ort_weights* weights) {
  const bst_ort_tensor *const shift = &inputs[3], *const v0 = &inputs[4];
  uint8_t* out;
  bool reads_v0 = false;
  ORT_TRY(bst_ort_load_bits(node, weights, &inputs[0]));
  ORT_TRY(bst_ort_copy(node, weights, 1, BST_CONST_I32, &inputs[1]));
  ORT_TRY(bst_ort_copy(node, weights, 2, BST_CONST_I16, &inputs[2]));
  ORT_TRY(bst_ort_add(node, weights, 3, BST_CONST_I32, 1, shift->dims, &out));
  memset(out, 0, 4 * shift->count);
  ORT_TRY(bst_ort_grow(node, weights, 8 * shift->count, &weights->shift_at));
  memcpy(weights->data + weights->shift_at, shift->data, 8 * shift->count);
  for (size_t i = 0; i < 4 * v0->count; ++i) reads_v0 |= v0->data[i] != 0;
  if (reads_v0) ORT_TRY(bst_ort_copy(node, weights, 4, BST_CONST_I32, v0));
  ORT_TRY(bst_ort_copy(node, weights, 5, BST_CONST_I32, &inputs[5]));
  return bst_ort_copy(node, weights, 6, BST_CONST_I64, &inputs[6]);
}

/// theta, falling; one value of 0 for all channels: none falls
static OrtStatus* bst_ort_load_levels(const bst_ort_node* node, const bst_ort_tensor* inputs,
                                      bst_ort_weights* weights) {
  const bst_ort_tensor* const falling = &inputs[1];
  ORT_TRY(bst_ort_copy(node, weights, 0, BST_CONST_I32, &inputs[0]));
  if (falling->count == 1 && falling->data[0] == 0) return NULL;
  return bst_ort_copy(node, weights, 1, BST_CONST_U8, falling);
}

/// w, gain, shift, offset
static OrtStatus* bst_ort_load_stream_conv(const bst_ort_node* node, const bst_ort_tensor* inputs,
                                           bst_ort_weights* weights) {
  ORT_TRY(bst_ort_load_planes(node, weights, &inputs[0]));
  weights->sizes[0] = weights->sizes[1] = 0;  // the step has no params
  ORT_TRY(bst_ort_copy(node, weights, 1, BST_CONST_I32, &inputs[1]));
  ORT_TRY(bst_ort_copy(node, weights, 2, BST_CONST_U8, &inputs[2]));
  return bst_ort_copy(node, weights, 3, BST_CONST_I32, &inputs[3]);
}

/// v, constant
static OrtStatus* bst_ort_load_head(const bst_ort_node* node, const bst_ort_tensor* inputs,
                                    bst_ort_weights* weights) {
  ORT_TRY(bst_ort_copy(node, weights, 0, BST_CONST_I32, &inputs[0]));
  return bst_ort_copy(node, weights, 1, BST_CONST_I64, &inputs[1]);
}

// ---- Shapes -------------------------------------------------------------------------------------

static const uint32_t* bst_ort_dims(const bst_ort_weights* weights, int slot) {
  return weights->records[weights->slots[slot]].dims;
}

/// Positions of a window; 0, which the runtime refuses, where it does not fit.
static uint32_t bst_ort_out_size(uint32_t size, uint32_t kernel, int32_t stride, int32_t pad) {
  const int64_t room = (int64_t)size + 2 * pad - kernel;
  return room < 0 ? 0 : (uint32_t)(room / stride + 1);
}

static void bst_ort_slide(const bst_buffer* in, uint32_t kh, uint32_t kw, const int32_t* window,
                          bst_buffer* out) {
  out->h = bst_ort_out_size(in->h, kh, window[0], window[1]);
  out->w = bst_ort_out_size(in->w, kw, window[0], window[1]);
}

static void bst_ort_shape_stem(const bst_ort_node* node, const bst_ort_weights* weights,
                               bst_buffer* in, bst_buffer* out) {
  const uint32_t* const d = bst_ort_dims(weights, 0);
  bst_ort_slide(in, d[1], d[2], node->params, out);
  out->c = d[0];
}

/// Least size of which a window makes `n` positions.
static uint32_t bst_ort_in_size(uint32_t n, uint32_t kernel, int32_t stride, int32_t pad) {
  const int64_t size = ((int64_t)n - 1) * stride + kernel - 2 * pad;
  return size < 1 ? 1 : (uint32_t)size;
}

static void bst_ort_smallest_stem(const bst_ort_node* node, const bst_ort_weights* weights,
                                  bst_buffer* in) {
  const uint32_t* const d = bst_ort_dims(weights, 0);
  const int32_t* const p = node->params;
  in->h = bst_ort_in_size(bst_ort_dims(weights, 3)[0], d[1], p[0], p[1]);
  in->w = bst_ort_in_size(bst_ort_dims(weights, 4)[0], d[2], p[0], p[1]);
  in->c = d[3];
}

static void bst_ort_shape_pool(const bst_ort_node* node, const bst_ort_weights* weights,
                               bst_buffer* in, bst_buffer* out) {
  (void)weights;
  const uint32_t kernel = (uint32_t)node->params[0];
  bst_ort_slide(in, kernel, kernel, node->params + 1, out);
  out->c = in->c;  // whole words: the op does not say how many channels they hold
}

static void bst_ort_smallest_pool(const bst_ort_node* node, const bst_ort_weights* weights,
                                  bst_buffer* in) {
  (void)weights;
  in->h = in->w = (uint32_t)node->params[0];
}

static void bst_ort_shape_conv(const bst_ort_node* node, const bst_ort_weights* weights,
                               bst_buffer* in, bst_buffer* out) {
  const uint32_t* const d = bst_ort_dims(weights, 0);
  in->c = node->n_channels;
  bst_ort_slide(in, d[1], d[2], node->params, out);
  out->c = d[0];
}

static void bst_ort_smallest_conv(const bst_ort_node* node, const bst_ort_weights* weights,
                                  bst_buffer* in) {
  (void)node;
  in->h = bst_ort_dims(weights, 0)[1];
  in->w = bst_ort_dims(weights, 0)[2];
}

/// The packed input becomes spikes where it has one plane, and stays levels where it has more.
static void bst_ort_set_levels(const bst_ort_node* node, bst_buffer* in) {
  if (bst_n_words(in->c) == bst_n_words(node->n_channels)) in->c = node->n_channels;
}

static void bst_ort_shape_weight_conv(const bst_ort_node* node, const bst_ort_weights* weights,
                                      bst_buffer* in, bst_buffer* out) {
  bst_ort_set_levels(node, in);
  bst_ort_slide(in, (uint32_t)weights->sizes[0], (uint32_t)weights->sizes[1], node->params, out);
  out->c = bst_ort_dims(weights, 0)[1];
}

static void bst_ort_smallest_weight_conv(const bst_ort_node* node, const bst_ort_weights* weights,
                                         bst_buffer* in) {
  in->h = (uint32_t)weights->sizes[0];
  in->w = (uint32_t)weights->sizes[1];
  in->c = node->n_channels;
}

/// As a convolution, with the channels of the input.
static void bst_ort_shape_depthwise(const bst_ort_node* node, const bst_ort_weights* weights,
                                    bst_buffer* in, bst_buffer* out) {
  if (in->kind == BST_KIND_SPIKES) bst_ort_set_levels(node, in);
  bst_ort_slide(in, (uint32_t)weights->sizes[0], (uint32_t)weights->sizes[1], node->params, out);
  out->c = node->n_channels;
}

static void bst_ort_shape_stream_conv(const bst_ort_node* node, const bst_ort_weights* weights,
                                      bst_buffer* in, bst_buffer* out) {
  (void)node;
  out->h = in->h;
  out->w = in->w;
  out->c = bst_ort_dims(weights, 0)[1];
}

static void bst_ort_smallest_stream_conv(const bst_ort_node* node, const bst_ort_weights* weights,
                                         bst_buffer* in) {
  in->c = bst_ort_dims(weights, 0)[3];
  (void)node;
}

/// Thresholds of every channel, or of all alike.
static void bst_ort_smallest_thresholds(const bst_ort_node* node, const bst_ort_weights* weights,
                                        bst_buffer* in) {
  (void)node;
  in->c = bst_ort_dims(weights, 0)[1];
}

static void bst_ort_shape_thresholds(const bst_ort_node* node, const bst_ort_weights* weights,
                                     bst_buffer* in, bst_buffer* out) {
  (void)weights;
  out->h = in->h;
  out->w = in->w;
  out->c = node->n_planes == 1 ? in->c : 64 * bst_n_words(in->c) * node->n_planes;
}

static void bst_ort_shape_level_products(const bst_ort_node* node, const bst_ort_weights* weights,
                                         bst_buffer* in, bst_buffer* out) {
  (void)weights;
  for (int i = 0; i < 3; ++i) bst_ort_set_levels(node, &in[i]);
  out->h = in->h;
  out->w = in->w;
  out->c = node->n_channels;
}

static void bst_ort_smallest_levels(const bst_ort_node* node, const bst_ort_weights* weights,
                                    bst_buffer* in) {
  (void)weights;
  for (int i = 0; i < node->entry->op->step->n_inputs; ++i) in[i].c = node->n_channels;
}

static uint32_t bst_ort_plane_levels(const bst_ort_node* node, const bst_buffer* in, int port) {
  (void)in;
  (void)port;
  return node->n_channels;
}

static void bst_ort_shape_level_add(const bst_ort_node* node, const bst_ort_weights* weights,
                                    bst_buffer* in, bst_buffer* out) {
  (void)weights;
  for (int i = 0; i < 2; ++i) bst_ort_set_levels(node, &in[i]);
  out->h = in->h;
  out->w = in->w;
  out->c =
      node->n_planes == 1 ? node->n_channels : 64 * bst_n_words(node->n_channels) * node->n_planes;
}

static void bst_ort_shape_level_readout(const bst_ort_node* node, const bst_ort_weights* weights,
                                        bst_buffer* in, bst_buffer* out) {
  bst_ort_set_levels(node, in);
  out->h = out->w = 1;
  out->c = bst_ort_dims(weights, 0)[0];
}

static void bst_ort_shape_stream(const bst_ort_node* node, const bst_ort_weights* weights,
                                 bst_buffer* in, bst_buffer* out) {
  (void)weights;
  for (int i = 0; i < node->entry->op->step->n_outputs; ++i) {
    out[i].h = in->h;
    out[i].w = in->w;
    out[i].c = in->c;
  }
}

/// One cell with the channels of the input.
static void bst_ort_shape_one_cell(const bst_ort_node* node, const bst_ort_weights* weights,
                                   bst_buffer* in, bst_buffer* out) {
  (void)node;
  (void)weights;
  out->h = out->w = 1;
  out->c = in->c;
}

/// Two planes: +1, -1.
static void bst_ort_shape_ternary(const bst_ort_node* node, const bst_ort_weights* weights,
                                  bst_buffer* in, bst_buffer* out) {
  bst_ort_shape_stream(node, weights, in, out);
  out->c = 128 * bst_n_words(in->c);
}

/// The stream of the keys says how many channels there are.
static void bst_ort_shape_add_neuron(const bst_ort_node* node, const bst_ort_weights* weights,
                                     bst_buffer* in, bst_buffer* out) {
  in[0].c = in[1].c;
  bst_ort_shape_stream(node, weights, in, out);
}

static void bst_ort_smallest_add_neuron(const bst_ort_node* node, const bst_ort_weights* weights,
                                        bst_buffer* in) {
  (void)weights;
  in[1].c = (uint32_t)node->params[0];
  in[2].c = 128 * bst_n_words(in[1].c);
}

static uint32_t bst_ort_plane_add_neuron(const bst_ort_node* node, const bst_buffer* in, int port) {
  (void)node;
  (void)port;
  return in[1].c;
}

static void bst_ort_shape_products(const bst_ort_node* node, const bst_ort_weights* weights,
                                   bst_buffer* in, bst_buffer* out) {
  for (int i = 0; i < 3; ++i) in[i].c = node->n_channels;
  bst_ort_shape_stream(node, weights, in, out);
}

/// A map of attention: [heads, side, side].
static void bst_ort_map(const bst_ort_node* node, uint32_t side, bst_buffer* out) {
  out->h = (uint32_t)node->params[0];
  out->w = out->c = side;
}

static uint32_t bst_ort_head_channels(const bst_ort_node* node) {
  return node->n_channels / (uint32_t)node->params[0];
}

static void bst_ort_shape_scores(const bst_ort_node* node, const bst_ort_weights* weights,
                                 bst_buffer* in, bst_buffer* out) {
  (void)weights;
  in[0].c = in[1].c = node->n_channels;
  bst_ort_map(node, in[0].h * in[0].w, out);
}

static void bst_ort_shape_key_values(const bst_ort_node* node, const bst_ort_weights* weights,
                                     bst_buffer* in, bst_buffer* out) {
  (void)weights;
  in[0].c = in[1].c = node->n_channels;
  bst_ort_map(node, bst_ort_head_channels(node), out);
}

static void bst_ort_shape_values(const bst_ort_node* node, const bst_ort_weights* weights,
                                 bst_buffer* in, bst_buffer* out) {
  in[0].c = in[1].h * in[1].w;
  in[1].c = node->n_channels;
  bst_ort_shape_stream(node, weights, &in[1], out);
}

/// The table has an entry for every count 0 .. N.
static void bst_ort_smallest_values(const bst_ort_node* node, const bst_ort_weights* weights,
                                    bst_buffer* in) {
  const uint32_t n = bst_ort_dims(weights, 2)[2] - 1;
  bst_ort_map(node, n, &in[0]);
  in[1].h = n;
}

static void bst_ort_shape_query_values(const bst_ort_node* node, const bst_ort_weights* weights,
                                       bst_buffer* in, bst_buffer* out) {
  in[0].c = node->n_channels;
  in[1].c = bst_ort_head_channels(node);
  bst_ort_shape_stream(node, weights, in, out);
}

static void bst_ort_smallest_query_values(const bst_ort_node* node, const bst_ort_weights* weights,
                                          bst_buffer* in) {
  (void)weights;
  bst_ort_map(node, bst_ort_head_channels(node), &in[1]);
}

static void bst_ort_shape_readout(const bst_ort_node* node, const bst_ort_weights* weights,
                                  bst_buffer* in, bst_buffer* out) {
  in[2].c = node->n_channels;
  out->h = out->w = 1;
  out->c = bst_ort_dims(weights, 5)[0];
}

static void bst_ort_smallest_readout(const bst_ort_node* node, const bst_ort_weights* weights,
                                     bst_buffer* in) {
  (void)node;
  in[0].c = in[1].c = bst_ort_dims(weights, 1)[0];
}

static void bst_ort_shape_residual_readout(const bst_ort_node* node, const bst_ort_weights* weights,
                                           bst_buffer* in, bst_buffer* out) {
  (void)node;
  (void)in;
  out->h = out->w = 1;
  out->c = bst_ort_dims(weights, 0)[0];
}

static void bst_ort_smallest_residual_readout(const bst_ort_node* node,
                                              const bst_ort_weights* weights, bst_buffer* in) {
  (void)node;
  in[0].c = in[1].c = in[2].c = bst_ort_dims(weights, 0)[1];
}

static void bst_ort_shape_count_readout(const bst_ort_node* node, const bst_ort_weights* weights,
                                        bst_buffer* in, bst_buffer* out) {
  in->c = node->n_channels;
  out->h = out->w = 1;
  out->c = bst_ort_dims(weights, 0)[0];
}

// ---- The table ----------------------------------------------------------------------------------

const bst_ort_op bst_ort_ops[] = {
    {
        .name = "StemNeuron",
        .step = &bst_op_stem_neuron,
        .max_steps = BST_MAX_T,
        .attributes = ORT_WINDOW,
        .inputs = {"image", "limbs", "bias", "row_class", "col_class", "shift", "first"},
        .constants = {{I8, 5}, {I64, 3}, {I64, 1}, {I64, 1}, {I64, 1}, {I32, 1}},
        .load = bst_ort_load_stem,
        .smallest = bst_ort_smallest_stem,
        .shape = bst_ort_shape_stem,
    },
    {
        .name = "StemFrames",
        .step = &bst_op_stem_neuron,
        .max_steps = BST_MAX_T,
        .attributes = ORT_WINDOW | ORT_NEURON | ORT_FRAMES,
        .inputs = {"image", "limbs", "bias", "row_class", "col_class", "shift"},
        .constants = {{I8, 5}, {I64, 3}, {I64, 1}, {I64, 1}, {I64, 1}},
        .load = bst_ort_load_stem,
        .smallest = bst_ort_smallest_stem,
        .shape = bst_ort_shape_stem,
    },
    {
        .name = "StemStream",
        .step = &bst_op_stem_stream,
        .max_steps = BST_MAX_T,
        .attributes = ORT_WINDOW,
        .inputs = {"image", "limbs", "bias", "row_class", "col_class", "shift"},
        .constants = {{I8, 5}, {I64, 3}, {I64, 1}, {I64, 1}, {I64, 1}},
        .load = bst_ort_load_stem,
        .smallest = bst_ort_smallest_stem,
        .shape = bst_ort_shape_stem,
    },
    {
        .name = "StemStreamFrames",
        .step = &bst_op_stem_stream,
        .max_steps = BST_MAX_T,
        .attributes = ORT_WINDOW | ORT_FRAMES,
        .inputs = {"image", "limbs", "bias", "row_class", "col_class", "shift"},
        .constants = {{I8, 5}, {I64, 3}, {I64, 1}, {I64, 1}, {I64, 1}},
        .load = bst_ort_load_stem,
        .smallest = bst_ort_smallest_stem,
        .shape = bst_ort_shape_stem,
    },
    {
        .name = "SpikeOrPool",
        .step = &bst_op_or_pool,
        .attributes = ORT_POOL,
        .inputs = {"spikes"},
        .smallest = bst_ort_smallest_pool,
        .shape = bst_ort_shape_pool,
    },
    {
        .name = "SpikeConvNeuron",
        .step = &bst_op_conv_neuron,
        .max_steps = BST_MAX_CONV_NEURON_T,
        .attributes = ORT_WINDOW | ORT_IN_CHANNELS,
        .inputs = {"spikes", "w", "theta"},
        .constants = {{U8, 4}, {I32, 2}},
        .load = bst_ort_load_conv_neuron,
        .smallest = bst_ort_smallest_conv,
        .shape = bst_ort_shape_conv,
    },
    {
        .name = "SpikeConvAffine",
        .step = &bst_op_conv_affine,
        .attributes = ORT_WINDOW | ORT_IN_CHANNELS,
        .inputs = {"spikes", "w", "whole", "fraction", "shift"},
        .constants = {{U8, 4}, {I32, 1}, {I16, 1}, {I32, 1}},
        .load = bst_ort_load_conv_affine,
        .smallest = bst_ort_smallest_conv,
        .shape = bst_ort_shape_conv,
    },
    {
        .name = "WeightConvNeuron",
        .step = &bst_op_weight_conv_neuron,
        .max_steps = BST_MAX_CONV_NEURON_T,
        .attributes = ORT_WINDOW | ORT_IN_CHANNELS,
        .inputs = {"spikes", "w", "theta"},
        .constants = {{U8, 4}, {I32, 2}},
        .load = bst_ort_load_conv_neuron,
        .smallest = bst_ort_smallest_weight_conv,
        .shape = bst_ort_shape_weight_conv,
        .plane = bst_ort_plane_levels,
    },
    {
        .name = "WeightConvAffine",
        .step = &bst_op_weight_conv_affine,
        .attributes = ORT_WINDOW | ORT_IN_CHANNELS,
        .inputs = {"spikes", "w", "whole", "fraction", "shift"},
        .constants = {{U8, 4}, {I32, 1}, {I16, 1}, {I32, 1}},
        .load = bst_ort_load_conv_affine,
        .smallest = bst_ort_smallest_weight_conv,
        .shape = bst_ort_shape_weight_conv,
        .plane = bst_ort_plane_levels,
    },
    {
        .name = "StreamNeuron",
        .step = &bst_op_stream_neuron,
        .max_steps = BST_MAX_T,
        .attributes = ORT_NEURON,
        .inputs = {"x"},
        .shape = bst_ort_shape_stream,
    },
    {
        .name = "ResidualNeuron",
        .step = &bst_op_residual_neuron,
        .max_steps = BST_MAX_T,
        .attributes = ORT_NEURON,
        .inputs = {"y", "x0", "x1"},
        .shape = bst_ort_shape_stream,
    },
    {
        .name = "SpikeScores",
        .step = &bst_op_score_neuron,
        .max_steps = BST_MAX_T,
        .attributes = ORT_HEADS | ORT_FIRST,
        .inputs = {"q", "k"},
        .shape = bst_ort_shape_scores,
    },
    {
        .name = "SpikeScoresStream",
        .step = &bst_op_score_neuron,
        .max_steps = BST_MAX_T,
        .attributes = ORT_HEADS | ORT_BITS | ORT_NEURON,
        .inputs = {"q", "k"},
        .shape = bst_ort_shape_scores,
    },
    {
        .name = "SpikeValues",
        .step = &bst_op_value_neuron,
        .max_steps = BST_MAX_T,
        .attributes = ORT_HEADS | ORT_NEURON,
        .inputs = {"attention", "v", "table"},
        .constants = {{I32, 3}},
        .load = bst_ort_load_table,
        .smallest = bst_ort_smallest_values,
        .shape = bst_ort_shape_values,
    },
    {
        .name = "SpikeKeyValues",
        .step = &bst_op_key_value_neuron,
        .max_steps = BST_MAX_T,
        .attributes = ORT_HEADS | ORT_FIRST,
        .inputs = {"k", "v"},
        .shape = bst_ort_shape_key_values,
    },
    {
        .name = "SpikeKeyValuesStream",
        .step = &bst_op_key_value_neuron,
        .max_steps = BST_MAX_T,
        .attributes = ORT_HEADS | ORT_BITS | ORT_NEURON,
        .inputs = {"k", "v"},
        .shape = bst_ort_shape_key_values,
    },
    {
        .name = "SpikeQueryValues",
        .step = &bst_op_query_value_neuron,
        .max_steps = BST_MAX_T,
        .attributes = ORT_HEADS | ORT_NEURON,
        .inputs = {"q", "attention", "table"},
        .constants = {{I32, 3}},
        .load = bst_ort_load_table,
        .smallest = bst_ort_smallest_query_values,
        .shape = bst_ort_shape_query_values,
    },
    {
        .name = "SpikeProducts",
        .step = &bst_op_product_neuron,
        .max_steps = BST_MAX_T,
        .attributes = ORT_HEADS | ORT_SHIFT | ORT_NEURON,
        .inputs = {"q", "k", "v"},
        .shape = bst_ort_shape_products,
    },
    {
        .name = "SpikeLevelAdd",
        .step = &bst_op_level_add,
        .attributes = ORT_LEVELS,
        .inputs = {"a", "b"},
        .smallest = bst_ort_smallest_levels,
        .shape = bst_ort_shape_level_add,
        .plane = bst_ort_plane_levels,
    },
    {
        .name = "SpikeReadOut",
        .step = &bst_op_readout,
        .attributes = ORT_Q | ORT_IN_CHANNELS,
        .inputs = {"x2", "x1", "spikes", "w", "whole", "fraction", "shift", "v0", "v1", "constant"},
        .constants = {{U8, 4}, {I32, 1}, {I16, 1}, {I64, 1}, {I32, 2}, {I32, 2}, {I64, 1}},
        .load = bst_ort_load_readout,
        .smallest = bst_ort_smallest_readout,
        .shape = bst_ort_shape_readout,
    },
    {
        .name = "ResidualReadOut",
        .step = &bst_op_residual_readout,
        .attributes = ORT_Q,
        .inputs = {"y", "x0", "x1", "v", "constant"},
        .constants = {{I32, 2}, {I64, 1}},
        .load = bst_ort_load_head,
        .smallest = bst_ort_smallest_residual_readout,
        .shape = bst_ort_shape_residual_readout,
    },
    {
        .name = "SpikeTernaryNeuron",
        .step = &bst_op_ternary_neuron,
        .max_steps = BST_MAX_T,
        .attributes = ORT_TERNARY,
        .inputs = {"x"},
        .shape = bst_ort_shape_ternary,
    },
    {
        .name = "SpikeAddNeuron",
        .step = &bst_op_add_neuron,
        .max_steps = BST_MAX_T,
        .attributes = ORT_ADD,
        .inputs = {"q", "y", "v"},
        .smallest = bst_ort_smallest_add_neuron,
        .shape = bst_ort_shape_add_neuron,
        .plane = bst_ort_plane_add_neuron,
    },
    {
        .name = "SpikeKeyValueAny",
        .step = &bst_op_key_value_any,
        .inputs = {"k", "v"},
        .shape = bst_ort_shape_one_cell,
    },
    {
        .name = "SpikeGate",
        .step = &bst_op_gate,
        .attributes = ORT_INVERT,
        .inputs = {"spikes", "gate"},
        .shape = bst_ort_shape_stream,
    },
    {
        .name = "StreamMaxPool",
        .step = &bst_op_max_pool,
        .attributes = ORT_POOL,
        .inputs = {"x"},
        .smallest = bst_ort_smallest_pool,
        .shape = bst_ort_shape_pool,
    },
    {
        .name = "ResidualMeanNeuron",
        .step = &bst_op_mean_neuron,
        .max_steps = BST_MAX_T,
        .attributes = ORT_NEURON,
        .inputs = {"y", "x0", "x1"},
        .shape = bst_ort_shape_one_cell,
    },
    {
        .name = "SpikeCountReadOut",
        .step = &bst_op_count_readout,
        .attributes = ORT_IN_CHANNELS,
        .inputs = {"spikes", "v", "constant"},
        .constants = {{I32, 2}, {I64, 1}},
        .load = bst_ort_load_head,
        .shape = bst_ort_shape_count_readout,
    },
    {
        .name = "SpikeLevelReadOut",
        .step = &bst_op_level_readout,
        .attributes = ORT_Q | ORT_BITS | ORT_IN_CHANNELS,
        .inputs = {"levels", "v", "constant"},
        .constants = {{I32, 2}, {I64, 1}},
        .load = bst_ort_load_head,
        .smallest = bst_ort_smallest_levels,
        .shape = bst_ort_shape_level_readout,
        .plane = bst_ort_plane_levels,
    },
    {
        .name = "ReversibleAdd",
        .step = &bst_op_stream_add,
        .inputs = {"y", "x0", "x1"},
        .shape = bst_ort_shape_stream,
    },
    {
        .name = "StreamTokenMean",
        .step = &bst_op_stream_mean,
        .inputs = {"x"},
        .shape = bst_ort_shape_one_cell,
    },
    {
        .name = "StreamLevels",
        .step = &bst_op_stream_levels,
        .attributes = ORT_THRESHOLDS,
        .inputs = {"x", "theta", "falling"},
        .constants = {{I32, 2}, {U8, 1}},
        .load = bst_ort_load_levels,
        .smallest = bst_ort_smallest_thresholds,
        .shape = bst_ort_shape_thresholds,
    },
    {
        .name = "DepthwiseLevelsAffine",
        .step = &bst_op_depthwise_levels,
        .attributes = ORT_WINDOW | ORT_IN_CHANNELS,
        .inputs = {"levels", "w", "whole", "fraction", "shift"},
        .constants = {{U8, 4}, {I32, 1}, {I16, 1}, {I32, 1}},
        .load = bst_ort_load_conv_affine,
        .smallest = bst_ort_smallest_weight_conv,
        .shape = bst_ort_shape_depthwise,
        .plane = bst_ort_plane_levels,
    },
    {
        .name = "DepthwiseStreamAffine",
        .step = &bst_op_depthwise_stream,
        .attributes = ORT_WINDOW | ORT_IN_CHANNELS,
        .inputs = {"x", "w", "whole", "fraction", "shift"},
        .constants = {{U8, 4}, {I32, 1}, {I16, 1}, {I32, 1}},
        .load = bst_ort_load_conv_affine,
        .smallest = bst_ort_smallest_weight_conv,
        .shape = bst_ort_shape_depthwise,
    },
    {
        .name = "StreamPointwise",
        .step = &bst_op_stream_conv,
        .attributes = ORT_IN_CHANNELS,
        .inputs = {"x", "w", "gain", "shift", "offset"},
        .constants = {{U8, 4}, {I32, 1}, {U8, 1}, {I32, 1}},
        .load = bst_ort_load_stream_conv,
        .smallest = bst_ort_smallest_stream_conv,
        .shape = bst_ort_shape_stream_conv,
    },
    {
        .name = "LevelProducts",
        .step = &bst_op_level_products,
        .attributes = ORT_HEADS,
        .inputs = {"q", "k", "v"},
        .smallest = bst_ort_smallest_levels,
        .shape = bst_ort_shape_level_products,
        .plane = bst_ort_plane_levels,
    },
};

const size_t bst_ort_n_ops = sizeof bst_ort_ops / sizeof *bst_ort_ops;
