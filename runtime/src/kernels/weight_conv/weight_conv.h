// SPDX-License-Identifier: MIT
// weight_conv: convolution of spikes or levels with integer weights of 1 to 16 bits, fused with
// what follows it.
//
//   weight_conv_neuron  -> spikes: the exact integer neuron of numerics.md 4 on n = sum w s
//   weight_conv_affine  -> int32 stream: y = n*Ai + ((n*Af + 2^14) >> 15) + B (numerics.md 6)
//
// Shapes, one frame: input [T, height, width, n_planes, n_in], out [T, out_h, out_w, n_out], rows
// of channels packed 64 per word (lanes.h). Bit i of plane p of a cell says that channel i counts
// 2^p: one plane is spikes, more are levels. Sums are taken modulo 2^32; an export proves that none
// leaves int32. Limits that the caller has checked: kh * kw * n_in <= 65536, n_planes <= 8,
// T <= 8 for weight_conv_neuron, <= 16 else.
// The `prepare` functions lay out weights and tables once, in the caller's memory, alike for every
// instruction set. `part` of `n_parts`: see part.h.

#ifndef BST_KERNELS_WEIGHT_CONV_H_
#define BST_KERNELS_WEIGHT_CONV_H_

#include <stddef.h>
#include <stdint.h>

/// Prepared weight rows: row (ky * kw + kx) * n_in + i holds the weights of input (ky, kx, i) to
/// all outputs, padded with zeros to 64; int8 where `bits` <= 8, else int16.
size_t bst_weight_conv_rows_bytes(int bits, int n_out, int n_taps, int n_in);

/// @param planes weights as in the file: [bits, n_out, n_taps] rows of ceil(n_in / 8) bytes; one
///               plane holds signs, 1 = +1, more hold two's complement, lowest plane first
void bst_weight_conv_prepare_rows(int bits, int n_out, int n_taps, int n_in, const uint8_t* planes,
                                  void* rows);

/// Prepared thresholds: int32 [T(T+1)/2][64 ceil(n_out / 64)].
size_t bst_weight_conv_theta_bytes(int n_steps, int n_out);

/// As bst_spike_conv_prepare_theta, channels in their order.
void bst_weight_conv_prepare_theta(int n_steps, int n_out, const int32_t* theta_u,
                                   const int32_t* theta_w, int n_explicit, const int32_t* index,
                                   const int32_t* explicit_theta, int32_t* theta);

/// Bytes of scratch of both kernels.
size_t bst_weight_conv_scratch_bytes(int n_steps, int n_planes, int kh, int kw, int n_in);

typedef void bst_weight_conv_neuron_kernel(int part, int n_parts, int n_steps, int height,
                                           int width, int n_planes, int n_in, int n_out, int kh,
                                           int kw, int stride, int pad, int bits,
                                           const uint64_t* spikes, const void* rows,
                                           const int32_t* theta, uint64_t* out, void* scratch);

/// @param ai, b [n_out] int32, @param af [n_out] int16 in -16384..16384
typedef void bst_weight_conv_affine_kernel(int part, int n_parts, int n_steps, int height,
                                           int width, int n_planes, int n_in, int n_out, int kh,
                                           int kw, int stride, int pad, int bits,
                                           const uint64_t* spikes, const void* rows,
                                           const int32_t* ai, const int16_t* af, const int32_t* b,
                                           int32_t* out, void* scratch);

bst_weight_conv_neuron_kernel bst_weight_conv_neuron__scalar, bst_weight_conv_neuron__avx2,
    bst_weight_conv_neuron__avx512, bst_weight_conv_neuron__neon;
bst_weight_conv_affine_kernel bst_weight_conv_affine__scalar, bst_weight_conv_affine__avx2,
    bst_weight_conv_affine__avx512, bst_weight_conv_affine__neon;

#endif  // BST_KERNELS_WEIGHT_CONV_H_
