// SPDX-License-Identifier: MIT
// spike_conv: binary-weight convolution of spikes, fused with what follows it.
//
//   conv_neuron  spikes -> spikes: the exact integer neuron of numerics.md 4
//   conv_affine  spikes -> int32 stream: y = n*Ai + ((n*Af + 2^14) >> 15) + B (numerics.md 6)
//
// Shapes, one frame: spikes [T, height, width, n_in], out [T, out_h, out_w, n_out], rows of
// channels packed 64 per word (lanes.h). out_h = (height + 2 pad - kh) / stride + 1, out_w alike.
// Limits that the caller has checked: kh * kw * n_in <= 65536, T <= 8 for conv_neuron, <= 16 else.
// The `prepare` functions lay out weights and tables once, in the caller's memory.
// `part` of `n_parts`: see part.h.

#ifndef BST_KERNELS_SPIKE_CONV_H_
#define BST_KERNELS_SPIKE_CONV_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/// Prepared weight rows: u64 [kh * kw * n_in + 1][ceil(n_out / 64)], row = (ky * kw + kx) * n_in +
/// i, bit o of a row = weight (o, ky, kx, i) is +1. The last row is zero and pads event lists.
size_t bst_spike_conv_rows_bytes(int n_out, int kh, int kw, int n_in);

/// @param bits weights as in the file: [n_out, kh, kw] rows of ceil(n_in / 8) bytes, 1 = +1
void bst_spike_conv_prepare_rows(int n_out, int kh, int kw, int n_in, const uint8_t* bits,
                                 uint64_t* rows);

/// Prepared thresholds: int32 [T(T+1)/2][64 ceil(n_out / 64)], channels in the order of lanes.h.
size_t bst_spike_conv_theta_bytes(int n_steps, int n_out);

/// Theta[t, s] = ceil((u 2^t + w 2^s) / 2^18) for all channels, then the explicit rows.
/// @param index [n_explicit] channels, @param explicit_theta [n_explicit][T(T+1)/2]
void bst_spike_conv_prepare_theta(int n_steps, int n_out, const int32_t* theta_u,
                                  const int32_t* theta_w, int n_explicit, const int32_t* index,
                                  const int32_t* explicit_theta, int32_t* theta);

/// Bytes of scratch of both kernels.
size_t bst_spike_conv_scratch_bytes(int n_steps, int kh, int kw, int n_in);

/// @param periodic 1: every input fires at p, 2p, 3p, .. for some p, or never; a kernel may use it
/// @param theta    prepared thresholds of the same version
typedef void bst_spike_conv_neuron_kernel(int part, int n_parts, int n_steps, int height, int width,
                                          int n_in, int n_out, int kh, int kw, int stride, int pad,
                                          int periodic, const uint64_t* spikes,
                                          const uint64_t* rows, const void* theta, uint64_t* out,
                                          void* scratch);

/// One of several pointwise layers that read the same spikes.
typedef struct bst_conv_layer {
  int n_out;
  const uint64_t* rows;
  const void* theta;
  uint64_t* out;
} bst_conv_layer;

enum { BST_MAX_LAYERS_IN = 4096 };

/// conv_neuron of several pointwise layers (kh = kw = stride = 1, pad = 0) of at most
/// BST_MAX_LAYERS_IN inputs: their events are listed once. Scratch as for one of them.
typedef void bst_spike_conv_layers_kernel(int part, int n_parts, int n_steps, int n_cells, int n_in,
                                          const uint64_t* spikes, int n_layers,
                                          const bst_conv_layer* layers, void* scratch);

/// @param ai, b [n_out] int32, @param af [n_out] int16 in -16384..16384
typedef void bst_spike_conv_affine_kernel(int part, int n_parts, int n_steps, int height, int width,
                                          int n_in, int n_out, int kh, int kw, int stride, int pad,
                                          const uint64_t* spikes, const uint64_t* rows,
                                          const int32_t* ai, const int16_t* af, const int32_t* b,
                                          int32_t* out, void* scratch);

/// The neuron of a pointwise convolution of levels: spikes [T, n_cells, n_planes, n_in], bit i of
/// plane p of a cell counts 2^p; sizes as bst_takes_levels allows.
typedef void bst_spike_conv_level_kernel(int part, int n_parts, int n_steps, int n_cells,
                                         int n_planes, int n_in, int n_out, const uint64_t* spikes,
                                         const uint64_t* rows, const void* theta, uint64_t* out,
                                         void* scratch);

enum { BST_MAX_LEVEL_LISTS = 16, BST_MAX_LEVEL_SUM = 8190 };

static inline int bst_most_level(int n_planes) { return (1 << n_planes) - 1; }

/// Whether level_neuron takes these levels.
static inline bool bst_takes_levels(int n_steps, int n_planes, int n_in) {
  return n_steps * n_planes <= BST_MAX_LEVEL_LISTS && n_planes <= 8 &&
         (int64_t)n_in * bst_most_level(n_planes) <= BST_MAX_LEVEL_SUM;
}

bst_spike_conv_neuron_kernel bst_spike_conv_neuron__scalar;
bst_spike_conv_affine_kernel bst_spike_conv_affine__scalar;

/// A version of the kernel for one instruction set: its own layouts, made once at load, and the
/// kernels that read them. Arguments as above; `scratch_bytes` is below 2^50. `most_level` is what
/// an input counts at most, 1 for spikes. For levels, theta_bytes takes the fan-in times that and
/// scratch_bytes takes T times the number of planes.
typedef struct bst_spike_conv {
  size_t (*rows_bytes)(int n_out, int kh, int kw, int n_in, int stride);
  void (*prepare_rows)(int n_out, int kh, int kw, int n_in, int stride, const uint8_t* bits,
                       uint64_t* rows);
  size_t (*theta_bytes)(int n_steps, int n_out, int fan_in);
  void (*prepare_theta)(int n_steps, int n_out, int kh, int kw, int n_in, int most_level,
                        const uint8_t* bits, const int32_t* theta_u, const int32_t* theta_w,
                        int n_explicit, const int32_t* index, const int32_t* explicit_theta,
                        void* theta);
  uint64_t (*scratch_bytes)(int n_steps, int width, int n_out, int kh, int kw, int n_in,
                            int stride);
  bst_spike_conv_neuron_kernel* neuron;
  bst_spike_conv_affine_kernel* affine;
  bst_spike_conv_level_kernel* level_neuron;
  bst_spike_conv_layers_kernel* layers;
} bst_spike_conv;

extern const bst_spike_conv bst_spike_conv__scalar, bst_spike_conv__avx2, bst_spike_conv__avx512,
    bst_spike_conv__neon;

#endif  // BST_KERNELS_SPIKE_CONV_H_
