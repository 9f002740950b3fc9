// SPDX-License-Identifier: MIT
// stream_ops: what works on an int32 stream that is no spikes yet: sums, means, neurons of several
// levels, depthwise and 1x1 convolutions, products of levels (docs/numerics_qsd.md).
//
// Shapes, one frame: streams int32 [T, height, width, channels]; levels are planes of bits, see
// levels.h. The walks over a frame are written once, in walks.c; what they spend their time in is
// `bst_stream_inner`, compiled for every instruction set. `part` of `n_parts`: see part.h.

#ifndef BST_KERNELS_STREAM_OPS_H_
#define BST_KERNELS_STREAM_OPS_H_

#include <stddef.h>
#include <stdint.h>

enum {
  BST_DOT_LANES = 64,  // channels at a time
  BST_DOT_TOKENS = 4,  // tokens that share a load of weights
  BST_MAX_NEURON_LEVELS = 15,
  BST_MAX_STREAM_BITS = 8,  // of a weight on a stream
};

/// Inner loops of one instruction set.
typedef struct bst_stream_inner {
  /// Bit i: x[i] >= least[i], of 64 channels.
  uint64_t (*at_least)(const int32_t* x, const int32_t* least);
  /// out[c] = sum over r < n_rows of a[r][at + c] b[r][at + c], or b[r][0] for all c where
  /// `b_is_scalar`; c < n <= 64, modulo 2^32.
  void (*multiply_add)(size_t n_rows, const int32_t* const* a, const int32_t* const* b,
                       int b_is_scalar, size_t at, size_t n, int32_t* out);
  /// out[k][o] = sum over pairs p of low(x[p][k]) rows[2 p][o] + high(x[p][k]) rows[2 p + 1][o],
  /// o < 64, k < 8; low and high are the int16 halves. A row is `lanes` int8.
  void (*dot)(size_t n_pairs, size_t lanes, const int8_t* rows, const uint32_t* x,
              int32_t out[2 * BST_DOT_TOKENS][BST_DOT_LANES]);
} bst_stream_inner;

extern const bst_stream_inner bst_stream_inner__scalar, bst_stream_inner__avx2,
    bst_stream_inner__avx512, bst_stream_inner__neon;

/// x2 = y + ((x0 + x1) >> 1); x2 may be y.
void bst_stream_add(int part, int n_parts, size_t n_items, const int32_t* y, const int32_t* x0,
                    const int32_t* x1, int32_t* x2);

/// mean = floor((2 S + N) / (2 N)) of each step and channel, S the sum over N = n_cells.
void bst_stream_mean(int part, int n_parts, int n_steps, size_t n_cells, int channels,
                     const int32_t* x, int32_t* mean);

/// Levels: number of k with x >= theta[k, c], n_levels less that in channels that fall.
/// @param theta [n_levels, theta_width], theta_width 1 (all channels) or `channels`
/// @param falling [channels], not 0 where a channel falls; NULL: none does
void bst_stream_levels(int part, int n_parts, size_t n_cells, int channels, int n_levels,
                       int theta_width, const bst_stream_inner* inner, const int32_t* theta,
                       const uint8_t* falling, const int32_t* x, uint64_t* levels);

/// Sizes of a depthwise convolution; n_planes = 0: its input is a stream.
typedef struct bst_depthwise {
  int n_steps, height, width, channels, n_planes, kh, kw, stride, pad, out_h, out_w;
} bst_depthwise;

size_t bst_depthwise_rows_bytes(int n_taps, int channels);

/// Lay weights out as int32 [n_taps][channels].
/// @param planes [bits, n_taps] rows of ceil(channels / 8) bytes, as in weight_conv.h
void bst_depthwise_prepare(int bits, int n_taps, int channels, const uint8_t* planes,
                           int32_t* rows);

/// In 64 bits on every machine: the rows of a frame may be larger than its memory.
uint64_t bst_depthwise_scratch_bytes(const bst_depthwise* s);

/// out = n Ai + ((n Af + 2^14) >> 15) + B of the sums n, all modulo 2^32 but the shift.
void bst_depthwise_affine(int part, int n_parts, const bst_depthwise* s,
                          const bst_stream_inner* inner, const void* x, const int32_t* rows,
                          const int32_t* ai, const int16_t* af, const int32_t* b, int32_t* out,
                          void* scratch);

/// Bytes of the weight rows of a 1x1 convolution of a stream, int8 (in 64 bits, see above), and of
/// 2^15 times the sums of weights.
uint64_t bst_stream_conv_rows_bytes(int n_out, int n_in);
size_t bst_stream_conv_bias_bytes(int n_out);

/// @param planes [bits, n_out] rows of ceil(n_in / 8) bytes
void bst_stream_conv_prepare(int bits, int n_out, int n_in, const uint8_t* planes, int8_t* rows,
                             int64_t* bias);

size_t bst_stream_conv_scratch_bytes(int n_in);

/// out = ((n M + half) >> s) + B of n = sum w x, modulo 2^64; half = 2^(s-1), 0 where s = 0.
void bst_stream_conv(int part, int n_parts, size_t n_cells, int bits, int n_in, int n_out,
                     const bst_stream_inner* inner, const int32_t* x, const int8_t* rows,
                     const int64_t* bias, const int32_t* gain, const uint8_t* shift,
                     const int32_t* offset, int32_t* out, uint32_t* halves);

size_t bst_level_products_scratch_bytes(int n_tokens, int channels, int heads);

/// m = q (k^T v) per step and head, int32 [T, n_tokens, channels].
void bst_level_products(int part, int n_parts, int n_steps, int n_tokens, int channels,
                        int n_planes, int heads, const bst_stream_inner* inner, const uint64_t* q,
                        const uint64_t* k, const uint64_t* v, int32_t* m, void* scratch);

#endif  // BST_KERNELS_STREAM_OPS_H_
