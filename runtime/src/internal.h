// SPDX-License-Identifier: MIT
// What the files of src/ share: file records, the decoded call of a step, errors, integer helpers.
// Layers: bst.h <- internal.h <- kernels/ <- ops*.c <- model.c, session.c. Kernels never include
// this file: they know pointers, sizes and parameters only.

#ifndef BST_INTERNAL_H_
#define BST_INTERNAL_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../include/bst.h"
#include "isa.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "bestdeploy reads .bstm files in place: little-endian hosts only"
#endif

// ---- Records of the file, byte for byte (FORMAT.md) ---------------------------------------------

enum {
  BST_NONE = -1,  // as uint32: 0xFFFFFFFF, "no buffer" or "no constant"
  BST_MAX_INPUTS = 4,
  BST_MAX_CONSTANTS = 8,
  BST_MAX_PARAMS = 8,
  BST_MAX_T = 16,
  BST_MAX_CONV_NEURON_T = 8,
  BST_MAX_SIDE = 4096,
  BST_MAX_CHANNELS = 65536,
  BST_MAX_FAN_IN = 65536,
  BST_MAX_HEADS = 256,
  BST_MAX_TOKENS = 1024,
  BST_MAX_KERNEL = 15,
  BST_MAX_STRIDE = 16,
  BST_MAX_RECORDS = 1024,
  BST_MAX_FILE_CONSTANTS = 8192,
  BST_MAX_SECTIONS = 64,
};
#define BST_MAX_ARENA_BYTES (UINT64_C(1) << 40)

typedef enum bst_const_type {
  BST_CONST_BITS = 1,
  BST_CONST_U8 = 2,
  BST_CONST_I16 = 3,
  BST_CONST_I32 = 4,
  BST_CONST_I64 = 5,
} bst_const_type;

typedef struct bst_header {
  uint8_t magic[4];
  uint16_t major, minor;
  uint32_t header_bytes, n_sections;
  uint64_t total_bytes;
  uint32_t crc32, reserved;
  uint8_t zero[32];
} bst_header;

typedef struct bst_section {
  uint32_t kind, reserved;
  uint64_t offset, bytes, count;
} bst_section;

typedef struct bst_model_record {
  uint32_t height, width, channels, n_classes, n_steps, frac_bits, logit_shift, reserved;
  uint64_t arena_bytes;
  uint8_t zero[24];
} bst_model_record;

typedef struct bst_buffer {
  uint64_t offset, bytes;
  uint32_t kind, t, h, w, c, reserved;
} bst_buffer;

typedef struct bst_step {
  uint32_t op, name;
  uint32_t inputs[BST_MAX_INPUTS], outputs[BST_MAX_OUTPUTS], constants[BST_MAX_CONSTANTS];
  int32_t params[BST_MAX_PARAMS];
} bst_step;

typedef struct bst_constant {
  uint32_t type, n_dims, dims[4];
  uint64_t offset, bytes, reserved;
} bst_constant;

_Static_assert(sizeof(bst_header) == 64, "header record");
_Static_assert(sizeof(bst_section) == 32, "section record");
_Static_assert(sizeof(bst_model_record) == 64, "model record");
_Static_assert(sizeof(bst_buffer) == 40, "buffer record");
_Static_assert(sizeof(bst_step) == 96, "step record");
_Static_assert(sizeof(bst_constant) == 48, "constant record");

/// A file whose structure was checked: pointers into the caller's bytes.
typedef struct bst_file {
  const void* bytes;  ///< all of it
  size_t n_bytes;
  const bst_model_record* model;
  const bst_buffer* buffers;
  const bst_step* steps;
  const bst_constant* constants;
  const uint8_t *data, *golden;
  const char* names;
  uint32_t n_buffers, n_steps, n_constants, n_golden;
  size_t data_bytes, names_bytes, golden_bytes;
} bst_file;

// ---- Errors -------------------------------------------------------------------------------------

/// Where a message points: `what[index]` or `what "name"`; index < 0 and name NULL are left out.
typedef struct bst_where {
  const char* what;
  int64_t index;
  const char* name;
} bst_where;

/// Set the last error of this thread to "where: message = value, allowed" and return `status`.
bst_status bst_fail(bst_status status, bst_where where, const char* message, int64_t value,
                    const char* allowed);

/// Set the last error to "where: text" and return `status`.
bst_status bst_fail_text(bst_status status, bst_where where, const char* text);

/// Set the last error to a sentence that `name` is no instruction set of this machine, and which
/// ones are.
bst_status bst_fail_isa(const char* name);

#define BST_CHECK(condition, status, where, message, value, allowed)                  \
  do {                                                                                \
    if (!(condition)) {                                                               \
      return bst_fail(BST_##status, (where), (message), (int64_t)(value), (allowed)); \
    }                                                                                 \
  } while (0)

#define BST_TRY(expression)                              \
  do {                                                   \
    const bst_status bst_try_status = (expression);      \
    if (bst_try_status != BST_OK) return bst_try_status; \
  } while (0)

// ---- Sizes --------------------------------------------------------------------------------------

/// Product of two sizes; `*overflow` is set, never cleared, when it leaves 64 bits.
static inline uint64_t bst_mul(uint64_t a, uint64_t b, bool* overflow) {
  if (a != 0 && b > UINT64_MAX / a) *overflow = true;
  return a * b;
}

static inline uint64_t bst_add(uint64_t a, uint64_t b, bool* overflow) {
  if (b > UINT64_MAX - a) *overflow = true;
  return a + b;
}

/// `bytes` rounded up to a multiple of `to` (a power of two); wraps near 2^64, so cap it before.
static inline uint64_t bst_align_up(uint64_t bytes, uint64_t to) {
  return (bytes + to - 1) & ~(to - 1);
}

static inline uint32_t bst_n_words(uint32_t channels) { return (channels + 63) / 64; }

/// Hands out 64-byte aligned pieces of the model's buffer. With `base` NULL it only counts.
typedef struct bst_bump {
  uint8_t* base;
  uint64_t used;
  bool overflow;
} bst_bump;

/// @return NULL while counting, and after an overflow
void* bst_take(bst_bump* bump, uint64_t count, uint64_t item_bytes);

// ---- One step, looked up ------------------------------------------------------------------------

/// Layouts made at load for one step; which one is used by what is said in ops_<family>.c.
typedef struct bst_prepared {
  const uint64_t* rows;
  const void* table;
  int periodic;                        ///< input trains are periodic, see kernels/spike_conv
  uint8_t n_followers;                 ///< steps behind this one that can run with it
  uint8_t follows;                     ///< is one of them
  uint64_t scratch_at, scratch_bytes;  ///< of one part: behind the buffers alive at the step
} bst_prepared;

typedef struct bst_call {
  const bst_file* file;
  const bst_step* step;
  const struct bst_op* op;
  bst_where where;
  const bst_buffer *inputs[BST_MAX_INPUTS], *outputs[BST_MAX_OUTPUTS];
  const bst_constant* constants[BST_MAX_CONSTANTS];  ///< NULL = absent
  const void* data[BST_MAX_CONSTANTS];               ///< values of the constants, NULL = absent
  int n_t;                                           ///< T
  const bst_isa* isa;                                ///< kernels to use; NULL while only checking
} bst_call;

typedef struct bst_io {
  const void* inputs[BST_MAX_INPUTS];
  void* outputs[BST_MAX_OUTPUTS];
  void* scratch;
  int part, n_parts;  ///< share of the work, see kernels/part.h
  bool together;      ///< run the step's followers with it
} bst_io;

typedef struct bst_const_rule {
  uint8_t type, n_dims, needed;
} bst_const_rule;

/// Row of the op table.
typedef struct bst_op {
  uint32_t code;
  char name[20];  ///< in place: a pointer costs a relocation
  uint8_t n_inputs, n_outputs, n_constants;
  uint8_t n_params;        ///< params 0 .. n_params-1 may be non-zero
  uint8_t has_neuron;      ///< and params 4 .. 7 {flags, theta, v_reset, r}
  uint8_t neuron_by_form;  ///< ... but not in every form: `check` looks at these params itself
  uint8_t input_kinds[BST_MAX_INPUTS], output_kinds[BST_MAX_OUTPUTS];
  bst_const_rule constants[BST_MAX_CONSTANTS];
  /// Check shapes and values that the generic rules do not cover.
  bst_status (*check)(const bst_call* call);
  /// Take the step's pieces from `bump` and, unless it only counts, fill them. May be NULL.
  void (*prepare)(const bst_call* call, bst_bump* bump, bst_prepared* prepared);
  /// Bytes of scratch for one run. May be NULL: none.
  uint64_t (*scratch_bytes)(const bst_call* call, bool* overflow);
  void (*run)(const bst_call* call, const bst_prepared* prepared, const bst_io* io);
} bst_op;

/// @return NULL when there is no such op
const bst_op* bst_find_op(uint32_t code);

/// Check one step of a structurally valid file and look up its buffers and constants.
bst_status bst_call_check(const bst_file* file, uint32_t index, bst_call* call);

/// The same look-up for a step that was checked before, for the kernels of `isa`.
void bst_call_open(const bst_file* file, const bst_isa* isa, uint32_t index, bst_call* call);

// ---- Pool ---------------------------------------------------------------------------------------

/// Work of one thread; part 0 is the thread that called bst_pool_share. All parts call
/// bst_pool_wait equally often, and last of all: after that no part but 0 may touch what belongs to
/// the caller.
typedef void bst_pool_work(void* context, bst_pool* pool, int part);

/// Threads of a pool; 1 for NULL.
int bst_pool_size(const bst_pool* pool);

/// Take a pool for one run, and give it back; NULL: nothing to take.
/// @return OK; BAD_ARGUMENT: it is in another run or was stopped
bst_status bst_pool_enter(bst_pool* pool);
void bst_pool_leave(bst_pool* pool);

/// Do `work` on all threads of a pool that was taken; return when part 0 is done. NULL: as part 0
/// of 1, here.
void bst_pool_share(bst_pool* pool, bst_pool_work* work, void* context);

/// Wait until every part is here. What a part wrote before is what every part reads behind.
void bst_pool_wait(bst_pool* pool, int part);

// ---- Profile ------------------------------------------------------------------------------------

/// Add the spikes and synaptic operations of a step that has just run; `ns` is not touched.
void bst_profile_count(const bst_call* call, const bst_io* io, bst_step_profile* entry);

// ---- Model --------------------------------------------------------------------------------------

struct bst_model {
  bst_file file;
  const bst_isa* isa;
  const bst_prepared* prepared;  ///< one per step
  uint64_t model_bytes;
  uint64_t buffer_bytes;  ///< end of the last buffer
};

/// bst_model_bytes, and where the buffers and one thread's scratch end.
bst_status bst_model_sizes(const void* file, size_t file_bytes, const char* isa,
                           size_t* model_bytes, uint64_t* run_bytes);

/// Look up step `index` for one part of it: its buffers and scratch lie in `buffers`.
void bst_model_open_step(const bst_model* model, uint8_t* buffers, uint32_t index, int part,
                         int n_parts, bst_call* call, bst_io* io);

#endif  // BST_INTERNAL_H_
