// SPDX-License-Identifier: MIT
// stem_neuron: the version that needs no instruction set.

#include "loops.h"

static uint64_t bst_stem_scalar_bytes(int n_out, int kh, int kw, int n_in, int n_classes) {
  (void)n_classes;
  return bst_stem_plain_bytes(n_out, kh, kw, n_in);
}

static void bst_stem_scalar_prepare(int n_out, int kh, int kw, int n_in, int n_classes,
                                    const int32_t* weight, const int64_t* bias,
                                    const uint8_t* shift, void* constants) {
  (void)n_classes;
  (void)bias;
  (void)shift;
  bst_stem_prepare_plain(n_out, kh, kw, n_in, weight, constants);
}

static uint64_t bst_stem_scalar_scratch_bytes(int n_frames, int width, int n_in, int kh, int kw,
                                              int pad) {
  (void)n_frames;
  (void)width;
  (void)n_in;
  (void)kh;
  (void)kw;
  (void)pad;
  return 0;
}

static void bst_stem_scalar_run(int part, int n_parts, int n_steps, int n_frames, int height,
                                int width, int n_in, int n_out, int kh, int kw, int stride, int pad,
                                int flags, int theta, int v_reset, int r, const uint8_t* image,
                                const void* constants, const int64_t* bias, const uint8_t* shift,
                                const uint8_t* row_class, const uint8_t* col_class,
                                int n_col_classes, const int32_t* first, uint64_t* spikes,
                                int32_t* stream, void* scratch) {
  (void)scratch;
  bst_stem_neuron_run(part, n_parts, n_steps, n_frames, height, width, n_in, n_out, kh, kw, stride,
                      pad, flags, theta, v_reset, r, image, constants, bias, shift, row_class,
                      col_class, n_col_classes, first, spikes, stream);
}

const bst_stem_neuron bst_stem_neuron__scalar = {
    .constant_bytes = bst_stem_scalar_bytes,
    .prepare = bst_stem_scalar_prepare,
    .scratch_bytes = bst_stem_scalar_scratch_bytes,
    .run = bst_stem_scalar_run,
};
