// SPDX-License-Identifier: MIT
// stem_neuron: the first convolution, uint8 pixels to spikes (numerics.md 3 and 5).
//
//   n = sum over taps inside the image of p * W, int64, exact
//   x = (n + bias[class] + (e ? 2^(e-1) : 0)) >> e, class = row_class * n_col_classes + col_class
//
// Still image (n_frames = 1): x is the same at every step. Event frames (n_frames = T): x of step t
// is that of frame t. A neuron turns x into spikes: the stream neuron, or, for still images, the
// table `first` of the steps at which the neuron first fires. From p, the least step with
// x >= first[p - 1], it then fires at p, 2p, 3p, ..: a constant input and a hard reset to the start
// make the spikes periodic. Or x itself is the output, the first of the stream (op stem_stream).
//
// Shapes: image u8 [n_frames, height, width, n_in] -> spikes [T, out_h, out_w, n_out], packed 64
// per word, or x i32 [T, out_h, out_w, n_out].
// `part` of `n_parts`: see part.h.

#ifndef BST_KERNELS_STEM_NEURON_H_
#define BST_KERNELS_STEM_NEURON_H_

#include <stddef.h>
#include <stdint.h>

/// @param n_frames  1 or n_steps
/// @param constants what `prepare` of the same version made
/// @param bias      int64 [classes, n_out], below 2^60 in size
/// @param shift     e, u8 [n_out], 0..24
/// @param row_class u8 [out_h], @param col_class u8 [out_w]
/// @param first     int32 [T], not increasing, with n_frames = 1; NULL = the neuron
///                  {flags, theta, v_reset, r}
/// @param stream    NULL, or where x goes; then there are no spikes
/// @param scratch   aligned to 64
typedef void bst_stem_neuron_kernel(int part, int n_parts, int n_steps, int n_frames, int height,
                                    int width, int n_in, int n_out, int kh, int kw, int stride,
                                    int pad, int flags, int theta, int v_reset, int r,
                                    const uint8_t* image, const void* constants,
                                    const int64_t* bias, const uint8_t* shift,
                                    const uint8_t* row_class, const uint8_t* col_class,
                                    int n_col_classes, const int32_t* first, uint64_t* spikes,
                                    int32_t* stream, void* scratch);

/// A version of the kernel for one instruction set: its own layout of the constants, made once at
/// load, and the kernel that reads it.
typedef struct bst_stem_neuron {
  /// Below 2^53 for constants that lie in memory.
  uint64_t (*constant_bytes)(int n_out, int kh, int kw, int n_in, int n_classes);
  /// @param weight int32 [n_out, kh, kw, n_in], |w| <= 8355711
  void (*prepare)(int n_out, int kh, int kw, int n_in, int n_classes, const int32_t* weight,
                  const int64_t* bias, const uint8_t* shift, void* constants);
  /// Below 2^30.
  uint64_t (*scratch_bytes)(int n_frames, int width, int n_in, int kh, int kw, int pad);
  bst_stem_neuron_kernel* run;
} bst_stem_neuron;

extern const bst_stem_neuron bst_stem_neuron__scalar, bst_stem_neuron__avx2,
    bst_stem_neuron__avx512, bst_stem_neuron__neon;

#endif  // BST_KERNELS_STEM_NEURON_H_
