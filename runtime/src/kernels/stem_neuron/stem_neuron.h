// SPDX-License-Identifier: MIT
// stem_neuron: the first convolution, uint8 pixels to spikes (numerics.md 3 and 5).
//
//   n = sum over taps inside the image of p * W          int64, exact
//   x = (n + bias[class] + (e ? 2^(e-1) : 0)) >> e       class = row_class * n_col_classes +
//   col_class spikes = stream neuron on x, the same x at every step
//
// Shapes: image u8 [height, width, n_in] -> spikes [T, out_h, out_w, n_out], packed 64 per word.

#ifndef BST_KERNELS_STEM_NEURON_H_
#define BST_KERNELS_STEM_NEURON_H_

#include <stddef.h>
#include <stdint.h>

/// Prepared weights: int32 [kh * kw * n_in][64 ceil(n_out / 64)], zero beyond n_out.
size_t bst_stem_neuron_weight_bytes(int n_out, int kh, int kw, int n_in);

/// @param file_weight int32 [n_out, kh, kw, n_in], |w| <= 8355711
void bst_stem_neuron_prepare_weight(int n_out, int kh, int kw, int n_in, const int32_t* file_weight,
                                    int32_t* weight);

/// @param bias      int64 [classes, n_out], below 2^60 in size
/// @param shift     e, u8 [n_out], 0..24
/// @param row_class u8 [out_h], @param col_class u8 [out_w]
typedef void bst_stem_neuron_kernel(int n_steps, int height, int width, int n_in, int n_out, int kh,
                                    int kw, int stride, int pad, int flags, int theta, int v_reset,
                                    int r, const uint8_t* image, const int32_t* weight,
                                    const int64_t* bias, const uint8_t* shift,
                                    const uint8_t* row_class, const uint8_t* col_class,
                                    int n_col_classes, uint64_t* spikes);

bst_stem_neuron_kernel bst_stem_neuron__scalar;

#endif  // BST_KERNELS_STEM_NEURON_H_
