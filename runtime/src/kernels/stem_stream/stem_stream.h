// SPDX-License-Identifier: MIT
// stem_stream: the first convolution, uint8 pixels to the stream (numerics.md 3): x of
// ../stem_neuron/stem_neuron.h without a neuron behind it.
//
// Still image (n_frames = 1): the same x at every step. Event frames (n_frames = T): x of step t is
// that of frame t.
//
// Shapes: image u8 [n_frames, height, width, n_in] -> stream i32 [T, out_h, out_w, n_out].
// `part` of `n_parts`: see part.h.

#ifndef BST_KERNELS_STEM_STREAM_H_
#define BST_KERNELS_STEM_STREAM_H_

#include <stdint.h>

/// Bytes of the prepared weights, below 2^53.
uint64_t bst_stem_stream_bytes(int n_out, int kh, int kw, int n_in);

/// Lay out the weights: int32 [n_out, kh, kw, n_in], |w| <= 8355711.
void bst_stem_stream_prepare(int n_out, int kh, int kw, int n_in, const int32_t* weight,
                             void* prepared);

/// @param n_frames  1 or n_steps
/// @param prepared  what bst_stem_stream_prepare made
/// @param bias      int64 [classes, n_out], below 2^60 in size
/// @param shift     u8 [n_out], 0..24
/// @param row_class u8 [out_h], @param col_class u8 [out_w]
typedef void bst_stem_stream_kernel(int part, int n_parts, int n_steps, int n_frames, int height,
                                    int width, int n_in, int n_out, int kh, int kw, int stride,
                                    int pad, const uint8_t* image, const void* prepared,
                                    const int64_t* bias, const uint8_t* shift,
                                    const uint8_t* row_class, const uint8_t* col_class,
                                    int n_col_classes, int32_t* stream);

bst_stem_stream_kernel bst_stem_stream__scalar, bst_stem_stream__avx2, bst_stem_stream__avx512,
    bst_stem_stream__neon;

#endif  // BST_KERNELS_STEM_STREAM_H_
