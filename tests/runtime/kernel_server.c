// SPDX-License-Identifier: MIT
// Calls kernels for a test on another machine: the test writes calls to standard input and reads
// results from standard output, so kernels of ARM are tested under an emulator with the same cases
// as those of this machine. Little-endian on both sides.
//
//   call    u32 bytes of the name, name, u32 number of arguments, arguments
//           argument  u8 0, i64 number | u8 1, u64 bytes, u64 offset, memory |
//                     u8 2, u32 bytes of the name, name of a struct of pointers
//   result  u64 returned value, then every memory of the call as it is now
//
// A memory argument is passed as the address `offset` bytes into a copy that is aligned to 64.
// Every argument of every kernel is an int, a size_t or a pointer. The calling conventions of
// x86-64, arm64 and armv7 Linux pass each of these in one register or one word of the stack, so one
// prototype of many words serves for all of them.

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef void function(void);

#define KERNELS(isa)                      \
  X(bst_or_pool__##isa)                   \
  X(bst_stream_neuron__##isa)             \
  X(bst_residual_neuron__##isa)           \
  X(bst_spike_attention_score__##isa)     \
  X(bst_spike_attention_value__##isa)     \
  X(bst_kv_attention_key_value__##isa)    \
  X(bst_kv_attention_query_value__##isa)  \
  X(bst_readout__##isa)                   \
  X(bst_residual_readout__##isa)          \
  X(bst_key_value_any__##isa)             \
  X(bst_gate__##isa)                      \
  X(bst_max_pool__##isa)                  \
  X(bst_mean_neuron__##isa)               \
  X(bst_count_readout__##isa)             \
  X(bst_ternary_neuron__##isa)            \
  X(bst_add_neuron__##isa)                \
  X(bst_weight_conv_neuron__##isa)        \
  X(bst_weight_conv_affine__##isa)        \
  X(bst_products__##isa)                  \
  Y(bst_spike_conv__##isa, conv_members)  \
  Y(bst_stem_neuron__##isa, stem_members) \
  Y(bst_stream_inner__##isa, inner_members)
#define KERNELS_OF_ALL                          \
  X(bst_spike_attention_score_scratch_bytes)    \
  X(bst_spike_attention_value_scratch_bytes)    \
  X(bst_kv_attention_key_value_scratch_bytes)   \
  X(bst_kv_attention_query_value_scratch_bytes) \
  X(bst_readout_scratch_bytes)                  \
  X(bst_residual_readout_scratch_bytes)         \
  X(bst_count_readout_scratch_bytes)            \
  X(bst_add_neuron_scratch_bytes)               \
  X(bst_weight_conv_rows_bytes)                 \
  X(bst_weight_conv_prepare_rows)               \
  X(bst_weight_conv_theta_bytes)                \
  X(bst_weight_conv_prepare_theta)              \
  X(bst_weight_conv_scratch_bytes)              \
  X(bst_products_scratch_bytes)                 \
  X(bst_level_add)                              \
  X(bst_level_readout_scratch_bytes)            \
  X(bst_level_readout)                          \
  X(bst_stream_add)                             \
  X(bst_stream_mean)                            \
  X(bst_stream_levels)                          \
  X(bst_depthwise_rows_bytes)                   \
  X(bst_depthwise_prepare)                      \
  X(bst_depthwise_scratch_bytes)                \
  X(bst_depthwise_affine)                       \
  X(bst_stream_conv_rows_bytes)                 \
  X(bst_stream_conv_bias_bytes)                 \
  X(bst_stream_conv_prepare)                    \
  X(bst_stream_conv_scratch_bytes)              \
  X(bst_stream_conv)                            \
  X(bst_level_products_scratch_bytes)           \
  X(bst_level_products)
#if defined(__x86_64__)
#define VERSIONS KERNELS(scalar) KERNELS(avx2) KERNELS(avx512)
#else
#define VERSIONS KERNELS(scalar) KERNELS(neon)
#endif

// Some versions are structs of pointers to functions.
enum { MAX_MEMBERS = 8 };
static const char* const conv_members[MAX_MEMBERS] = {
    "rows_bytes",    "prepare_rows", "theta_bytes", "prepare_theta",
    "scratch_bytes", "neuron",       "affine",      "level_neuron"};
static const char* const stem_members[MAX_MEMBERS] = {"constant_bytes", "prepare", "scratch_bytes",
                                                      "run"};
static const char* const inner_members[MAX_MEMBERS] = {"at_least", "multiply_add", "dot"};

#define X(name) function name;
#define Y(name, members) extern function* const name[MAX_MEMBERS];
KERNELS_OF_ALL VERSIONS
#undef X
#undef Y

    /// The pointer `member` of the struct `table` where `name` is "table.member"; NULL else.
    static function* find_member(const char* name, const char* table, const char* const* members,
                                 function* const* pointers) {
  const size_t n = strlen(table);
  if (strncmp(name, table, n) != 0 || name[n] != '.') return NULL;
  for (int i = 0; i < MAX_MEMBERS && members[i] != NULL; ++i) {
    if (strcmp(name + n + 1, members[i]) == 0) return pointers[i];
  }
  return NULL;
}

static function* find(const char* name) {
  function* found = NULL;
#define X(known) \
  if (strcmp(name, #known) == 0) return known;
#define Y(known, members) \
  if ((found = find_member(name, #known, members, known)) != NULL) return found;
  KERNELS_OF_ALL VERSIONS
#undef X
#undef Y
      return NULL;
}

/// The address of a struct of pointers.
static uintptr_t find_table(const char* name) {
#define X(known)
#define Y(known, members) \
  if (strcmp(name, #known) == 0) return (uintptr_t)known;
  KERNELS_OF_ALL VERSIONS
#undef X
#undef Y
      fprintf(stderr, "no struct `%s`\n", name);
  exit(2);
}

static void get(void* to, size_t bytes) {
  if (fread(to, 1, bytes, stdin) != bytes) exit(3);
}

static uint64_t get64(void) {
  uint64_t value;
  get(&value, sizeof value);
  return value;
}

static void put(const void* from, size_t bytes) {
  if (fwrite(from, 1, bytes, stdout) != bytes) exit(4);
}

enum { MAX_ARGUMENTS = 28, MAX_NAME = 64, ALIGNMENT = 64 };

static void get_name(uint32_t n, char* name) {
  if (n >= MAX_NAME) exit(6);
  memset(name, 0, MAX_NAME);
  get(name, n);
}

typedef struct argument {
  uintptr_t value;
  void* piece;  // to free
  uint8_t* memory;
  size_t bytes;
} argument;

static argument get_argument(void) {
  argument made = {0, NULL, NULL, 0};
  uint8_t kind;
  get(&kind, 1);
  if (kind == 0) {
    made.value = (uintptr_t)get64();
    return made;
  }
  if (kind == 2) {
    char name[MAX_NAME];
    uint32_t n;
    get(&n, sizeof n);
    get_name(n, name);
    made.value = find_table(name);
    return made;
  }
  made.bytes = (size_t)get64();
  const size_t offset = (size_t)get64();
  made.piece = malloc(made.bytes + ALIGNMENT);
  if (made.piece == NULL) exit(5);
  const uintptr_t start = (uintptr_t)made.piece;
  made.memory = (uint8_t*)made.piece + (ALIGNMENT - start % ALIGNMENT) % ALIGNMENT;
  get(made.memory, made.bytes);
  made.value = (uintptr_t)(made.memory + offset);
  return made;
}

typedef uintptr_t w;
typedef w wide_function(w, w, w, w, w, w, w, w, w, w, w, w, w, w, w, w, w, w, w, w, w, w, w, w, w,
                        w, w, w);

static void serve(const char* name) {
  argument a[MAX_ARGUMENTS] = {{0, NULL, NULL, 0}};
  uint32_t n;
  get(&n, sizeof n);
  function* const found = find(name);
  if (found == NULL || n > MAX_ARGUMENTS) {
    fprintf(stderr, "no kernel `%s` with %u arguments\n", name, (unsigned)n);
    exit(2);
  }
  for (uint32_t i = 0; i < n; ++i) a[i] = get_argument();
#define V(i) a[i].value, a[i + 1].value, a[i + 2].value, a[i + 3].value
  const uint64_t result = ((wide_function*)found)(V(0), V(4), V(8), V(12), V(16), V(20), V(24));
#undef V
  put(&result, sizeof result);
  for (uint32_t i = 0; i < n; ++i) {
    if (a[i].memory != NULL) put(a[i].memory, a[i].bytes);
    free(a[i].piece);
  }
  fflush(stdout);
}

int main(void) {
  uint32_t n;
  while (fread(&n, 1, sizeof n, stdin) == sizeof n) {
    char name[MAX_NAME];
    get_name(n, name);
    serve(name);
  }
  return 0;
}
