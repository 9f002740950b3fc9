// SPDX-License-Identifier: MIT
// What a module of TVM (bestdeploy/emit/tvm) calls. Integers are int64_t, so that no ABI extends
// them; nothing but addresses inside the module's four tensors is passed.
//
//   weights  bst_module_state, what the module laid out for its own kernels, then a bst_model
//   arena    the buffers at the program's offsets; behind those that are alive, scratch

#ifndef BST_MODULE_CALLS_H_
#define BST_MODULE_CALLS_H_

#include <stdint.h>

/// Outcomes of bst_module_sizes, bst_module_prepare and bst_module_begin.
enum {
  BST_MODULE_OK = 0,
  BST_MODULE_BAD_FILE = 1,     ///< not the file that the module was compiled from
  BST_MODULE_BAD_ISA = 2,      ///< this machine cannot run the module's code
  BST_MODULE_BAD_WEIGHTS = 3,  ///< too small, misaligned, moved, or never prepared
  BST_MODULE_BAD_ARENA = 4,    ///< too small or misaligned
};

/// @param crc           checksum in the header of the file that the module was compiled from
/// @param isa           instruction set of the module's own code
/// @param own_weights   bytes of weights that the module needs for itself, state included
/// @param own_arena     bytes of arena that the module needs at least
/// @param sizes         out: int64 [2], bytes of weights and of the arena
int64_t bst_module_sizes(const void* file, int64_t file_bytes, int64_t crc, const char* isa,
                         int64_t own_weights, int64_t own_arena, int64_t* sizes);

/// Check the file and lay its weights out behind the module's own; the file stays borrowed.
int64_t bst_module_prepare(const void* file, int64_t file_bytes, int64_t crc, const char* isa,
                           int64_t own_weights, int64_t own_arena, void* weights,
                           int64_t weights_bytes);

/// Start a frame: check what was prepared and copy the frame into the arena.
int64_t bst_module_begin(void* weights, int64_t weights_bytes, void* arena, int64_t arena_bytes,
                         const void* frame);

/// Run step `index` with the C kernels of the best instruction set here.
void bst_module_step(void* weights, void* arena, int64_t index);

/// End a frame: copy the raw logits out.
void bst_module_end(void* weights, void* arena, void* raw);

// Layouts of the module's own kernels, made once. Channels come in blocks of `lanes`, padded.

/// @param bits as in the file: [n_out, taps] rows of ceil(n_in / 8) bytes
/// @param rows out: uint32 [ceil(n_out / lanes)][taps * ceil(n_in / 32)][lanes]
void bst_module_rows(int64_t lanes, int64_t n_out, int64_t taps, int64_t n_in, const void* bits,
                     void* rows);

/// @param theta out: int32 [T(T+1)/2][n_padded], row t(t-1)/2 + s; INT32_MAX where padded
void bst_module_theta(int64_t n_padded, int64_t n_steps, int64_t n_out, const void* theta_u,
                      const void* theta_w, int64_t n_explicit, const void* index,
                      const void* explicit_theta, void* theta);

/// @param table out: int32 [3][n_padded]: Ai, Af, B; 0 where padded
void bst_module_affine(int64_t n_padded, int64_t n_out, const void* ai, const void* af,
                       const void* b, void* table);

#endif  // BST_MODULE_CALLS_H_
