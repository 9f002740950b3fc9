// SPDX-License-Identifier: MIT
// See module_calls.h. A module has its own copy of this file and of all below it, so no layout ever
// crosses from one version of the runtime to another: a host only sees tensors of bytes.

#include "module_calls.h"

#include <string.h>

#include "internal.h"
#include "kernels/spike_conv/geometry.h"

/// First bytes of `weights`.
typedef struct bst_module_state {
  const struct bst_module_state*
      self;  ///< its own address: moved or unprepared weights are noticed
  const bst_model* model;
  uint64_t weights_bytes, arena_bytes;
} bst_module_state;

_Static_assert(sizeof(bst_module_state) <= BST_ALIGN, "emit/tvm/layout.py leaves 64 bytes for it");

int64_t bst_module_sizes(const void* file, int64_t file_bytes, int64_t crc, const char* isa,
                         int64_t own_weights, int64_t own_arena, int64_t* sizes) {
  size_t model_bytes;
  uint64_t run_bytes;
  if (bst_find_isa(isa) == NULL) return BST_MODULE_BAD_ISA;
  if (bst_model_sizes(file, (size_t)file_bytes, NULL, &model_bytes, &run_bytes) != BST_OK ||
      ((const bst_header*)file)->crc32 != (uint32_t)crc) {
    return BST_MODULE_BAD_FILE;
  }
  sizes[0] = own_weights + (int64_t)model_bytes;
  sizes[1] = (int64_t)run_bytes > own_arena ? (int64_t)run_bytes : own_arena;
  return BST_MODULE_OK;
}

int64_t bst_module_prepare(const void* file, int64_t file_bytes, int64_t crc, const char* isa,
                           int64_t own_weights, int64_t own_arena, void* weights,
                           int64_t weights_bytes) {
  int64_t sizes[2];
  bst_model* model;
  const int64_t outcome =
      bst_module_sizes(file, file_bytes, crc, isa, own_weights, own_arena, sizes);
  if (outcome != BST_MODULE_OK) return outcome;
  if (weights_bytes < sizes[0]) return BST_MODULE_BAD_WEIGHTS;
  uint8_t* const place = (uint8_t*)weights + own_weights;
  if (bst_model_init(file, (size_t)file_bytes, NULL, place, (size_t)(sizes[0] - own_weights),
                     &model) != BST_OK) {
    return BST_MODULE_BAD_WEIGHTS;
  }
  bst_module_state* const state = weights;
  *state = (bst_module_state){state, model, (uint64_t)weights_bytes, (uint64_t)sizes[1]};
  return BST_MODULE_OK;
}

int64_t bst_module_begin(void* weights, int64_t weights_bytes, void* arena, int64_t arena_bytes,
                         const void* frame) {
  const bst_module_state* const state = weights;
  if (weights_bytes < BST_ALIGN || state->self != state ||
      state->weights_bytes != (uint64_t)weights_bytes) {
    return BST_MODULE_BAD_WEIGHTS;
  }
  if (arena_bytes < 0 || (uint64_t)arena_bytes < state->arena_bytes ||
      (uintptr_t)arena % BST_ALIGN != 0) {
    return BST_MODULE_BAD_ARENA;
  }
  const bst_buffer* const image = &state->model->file.buffers[0];
  memcpy((uint8_t*)arena + image->offset, frame, (size_t)image->bytes);
  return BST_MODULE_OK;
}

void bst_module_step(void* weights, void* arena, int64_t index) {
  const bst_model* const model = ((const bst_module_state*)weights)->model;
  bst_call call;
  bst_io io;
  bst_model_open_step(model, arena, (uint32_t)index, 0, 1, &call, &io);
  call.op->run(&call, &model->prepared[index], &io);
}

void bst_module_end(void* weights, void* arena, void* raw) {
  const bst_file* const file = &((const bst_module_state*)weights)->model->file;
  const bst_buffer* const out = &file->buffers[file->steps[file->n_steps - 1].outputs[0]];
  memcpy(raw, (const uint8_t*)arena + out->offset, (size_t)out->bytes);
}

// ---- Layouts ------------------------------------------------------------------------------------

void bst_module_rows(int64_t lanes, int64_t n_out, int64_t taps, int64_t n_in, const void* bits,
                     void* rows) {
  const int64_t row_bytes = (n_in + 7) / 8, row_words = (n_in + 31) / 32;
  const uint8_t* row = bits;
  memset(rows, 0, (size_t)((n_out + lanes - 1) / lanes * lanes * taps * row_words) * 4);
  for (int64_t o = 0; o < n_out; ++o) {
    uint32_t* const column = (uint32_t*)rows + o / lanes * lanes * taps * row_words + o % lanes;
    for (int64_t tap = 0; tap < taps; ++tap, row += row_bytes) {
      for (int64_t i = 0; i < row_bytes; ++i) {
        column[(tap * row_words + i / 4) * lanes] |= (uint32_t)row[i] << (i % 4 * 8);
      }
    }
  }
}

void bst_module_theta(int64_t n_padded, int64_t n_steps, int64_t n_out, const void* theta_u,
                      const void* theta_w, int64_t n_explicit, const void* index,
                      const void* explicit_theta, void* theta) {
  const int32_t *const u = theta_u, *const w = theta_w, *const channel = index;
  const int32_t* given = explicit_theta;
  const int64_t n_rows = n_steps * (n_steps + 1) / 2;
  int32_t* row = theta;
  for (int t = 1; t <= (int)n_steps; ++t) {
    for (int s = 0; s < t; ++s, row += n_padded) {
      for (int64_t o = 0; o < n_padded; ++o) {
        row[o] = o < n_out ? bst_conv_threshold(u[o], w[o], t, s) : INT32_MAX;
      }
    }
  }
  for (int64_t e = 0; e < n_explicit; ++e) {
    for (int64_t k = 0; k < n_rows; ++k) ((int32_t*)theta)[k * n_padded + channel[e]] = *given++;
  }
}

void bst_module_affine(int64_t n_padded, int64_t n_out, const void* ai, const void* af,
                       const void* b, void* table) {
  const int16_t* const fraction = af;
  int32_t* const rows = table;
  memset(table, 0, (size_t)n_padded * 12);
  memcpy(rows, ai, (size_t)n_out * 4);
  for (int64_t o = 0; o < n_out; ++o) rows[n_padded + o] = fraction[o];
  memcpy(rows + 2 * n_padded, b, (size_t)n_out * 4);
}
