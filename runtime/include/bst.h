// SPDX-License-Identifier: MIT
/// bst.h: run a deployed binary spiking transformer (`.bstm` file), integers only.
///
/// The whole life of a model, without error handling:
///
///     size_t model_bytes, arena_bytes;
///     bst_model *model;
///     bst_session *session;
///     bst_model_bytes(file, file_bytes, NULL, &model_bytes);         // checks the whole file
///     void *buffer = aligned_alloc(64, model_bytes);
///     bst_model_init(file, file_bytes, NULL, buffer, model_bytes, &model);
///     bst_arena_bytes(model, 1, &arena_bytes);
///     void *arena = aligned_alloc(64, arena_bytes);
///     bst_session_init(model, NULL, arena, arena_bytes, &session);
///     bst_session_run(session, frame, frame_bytes, raw, n_classes);  // as often as you like
///     float logit0 = bst_logit(model, raw[0]);
///
/// The same with four threads on every frame:
///
///     size_t pool_bytes;
///     bst_pool *pool;
///     bst_pool_bytes(4, &pool_bytes);
///     void *threads = aligned_alloc(64, pool_bytes);
///     bst_pool_init(threads, pool_bytes, 4, &pool);                  // starts three threads
///     bst_arena_bytes(model, 4, &arena_bytes);
///     void *arena = aligned_alloc(64, arena_bytes);
///     bst_session_init(model, pool, arena, arena_bytes, &session);
///     bst_session_run(session, frame, frame_bytes, raw, n_classes);  // the caller is the fourth
///     bst_pool_stop(pool);                                           // ends the three threads
///
/// Promises
/// - Memory: the library allocates nothing. The caller gives a buffer per model, per session and,
///   where there is one, per pool, aligned to 64 bytes and sized by a query (always multiples of
///   64). Only a pool has to be stopped: free the buffers when the last pointer into them is gone.
///   What the system allocates for a thread, its stack above all, is the system's.
/// - Safety: whatever bytes the file holds, no call reads or writes outside the file and the given
///   buffers. A file that breaks a rule of FORMAT.md gives a status.
/// - Results: the raw logits are the same integers on every machine, instruction set, number of
///   threads and run.
/// - Speed: the kernels of the best instruction set that the machine and its operating system have
///   are chosen when a model is made; no instruction that the machine lacks is ever executed.
/// - Threads: without a pool the library starts none. A model is never written after
///   `bst_model_init`, any number of threads may share it. A session belongs to one thread at a
///   time. A pool may serve many sessions, one run at a time. The last error is per thread. After
///   fork the child has no pool: the threads stay with the parent.
/// - Errors: every call that can fail returns a `bst_status`; outputs come last in the argument
///   list and are written only on success. Nothing aborts, prints or touches errno.
/// - Hosts: little-endian only, checked when the library is compiled.

#ifndef BST_H_
#define BST_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define BST_VERSION "0.1.0"

#if defined(__GNUC__) || defined(__clang__)
#define BST_API __attribute__((visibility("default")))
#define BST_CHECKED __attribute__((warn_unused_result))
#else
#define BST_API
#define BST_CHECKED
#endif

/// Alignment in bytes of the caller's buffers.
#define BST_ALIGN 64

// ---- Status -------------------------------------------------------------------------------------

/// Name, number (fixed for ever, append only) and meaning of each status.
#define BST_STATUS_LIST(X)                                           \
  X(OK, 0, "success")                                                \
  X(BAD_ARGUMENT, 1, "an argument is NULL, misaligned or too big")   \
  X(BAD_FILE, 2, "not a valid .bstm file")                           \
  X(UNSUPPORTED, 3, "valid, but not in this version of the runtime") \
  X(NO_MEMORY, 4, "the caller's buffer is too small")                \
  X(IO, 5, "a file cannot be read")                                  \
  X(NO_THREAD, 6, "the system does not start another thread")        \
  X(BAD_MODULE, 7, "not a module, or not one of this file and machine")

typedef enum bst_status {
#define BST_STATUS_ENUM(name, number, text) BST_##name = number,
  BST_STATUS_LIST(BST_STATUS_ENUM)
#undef BST_STATUS_ENUM
} bst_status;

/// Version of the library, e.g. "0.1.0". Static storage.
BST_API const char* bst_version(void);

/// Name of a status without prefix, e.g. "BAD_FILE"; "UNKNOWN" for a number that is none.
BST_API const char* bst_status_name(bst_status status);

/// Sentence about the last failure on this thread: where, what, the value, what is allowed.
/// Empty before the first failure; a success does not clear it. Valid until the next failure on the
/// same thread. Libraries built with BST_NO_ERROR_TEXT always give "".
BST_API const char* bst_last_error(void);

/// Name of an instruction set that this machine, its operating system and this build can use, best
/// first: "avx512" and "avx2" (x86-64), "neon" (ARM), and always "scalar", the last one. Static
/// storage.
/// @param index from 0 on
/// @return NULL after the last
BST_API const char* bst_isa_name(uint32_t index);

/// Work of a known size, for measuring the most that a thread of this machine can do: rows of
/// weight bits that lie in the first-level cache are added to counters by the carry-save adders of
/// an instruction set, and nothing else happens. A lane addition adds one bit to one counter, which
/// is what a synaptic operation is. Lane additions per second by the caller's clock are the
/// roofline that a profile is compared with.
/// @param isa         as for bst_model_bytes
/// @param n_rounds    how much work, some hundred nanoseconds each
/// @param n_additions out: lane additions that were done, proportional to `n_rounds`
/// @return OK; BAD_ARGUMENT (NULL); UNSUPPORTED (an instruction set that cannot be used here)
BST_API BST_CHECKED bst_status bst_isa_additions(const char* isa, uint64_t n_rounds,
                                                 uint64_t* n_additions);

// ---- Model --------------------------------------------------------------------------------------

/// A loaded network: read-only, shareable. Lives in the caller's buffer, borrows the caller's file.
typedef struct bst_model bst_model;

/// Check a whole file (structure, checksum, every step) and tell the size of the model's buffer.
/// @param file        the file's bytes, aligned to 8; may be flash or a read-only map
/// @param file_bytes  exact size of the file
/// @param isa         name of the instruction set to use, NULL = the best one. Sizes differ between
///                    instruction sets, results never
/// @param model_bytes out: bytes that bst_model_init needs for the same `isa`, a multiple of 64
/// @return OK; BAD_ARGUMENT (NULL, alignment); BAD_FILE; UNSUPPORTED (version, section, op or size
///         that this build does not know; an instruction set that cannot be used here)
BST_API BST_CHECKED bst_status bst_model_bytes(const void* file, size_t file_bytes, const char* isa,
                                               size_t* model_bytes);

/// Check a whole file again and make a model of it: weights laid out for this machine's kernels.
/// @param file         as above; borrowed: must stay unchanged as long as the model is used
/// @param isa          as above
/// @param buffer       owned by the caller, aligned to 64, not needed before; the model lives in it
/// @param buffer_bytes at least what bst_model_bytes told
/// @param model        out: the model, at the start of `buffer`
/// @return as bst_model_bytes; NO_MEMORY if `buffer_bytes` is too small
BST_API BST_CHECKED bst_status bst_model_init(const void* file, size_t file_bytes, const char* isa,
                                              void* buffer, size_t buffer_bytes, bst_model** model);

/// Instruction set of a model's kernels; "" when `model` is NULL. Static storage.
BST_API const char* bst_model_isa(const bst_model* model);

/// Facts about a model. Counts are plain numbers, sizes are bytes.
typedef struct bst_model_info {
  uint32_t height, width, channels;  ///< of a frame: uint8 [frame_steps, height, width, channels]
  uint32_t n_classes;                ///< number of raw logits
  uint32_t n_steps;                  ///< T, time steps
  uint32_t logit_shift;              ///< logit = raw * 2^-logit_shift
  uint32_t n_golden;                 ///< test vectors in the file
  uint32_t n_program_steps;          ///< operations, see bst_model_step
  uint64_t arena_bytes;              ///< what bst_arena_bytes tells for one thread
  uint64_t model_bytes;              ///< what bst_model_bytes tells
  uint64_t frame_bytes;              ///< frame_steps * height * width * channels
  uint32_t frac_bits;                ///< F: stream values are in units of 2^-F
  uint32_t frame_steps;              ///< 1: still images; n_steps: event frames, one per time step
} bst_model_info;

/// @return OK; BAD_ARGUMENT (NULL)
BST_API BST_CHECKED bst_status bst_model_describe(const bst_model* model, bst_model_info* info);

/// What a buffer of the program holds.
typedef enum bst_kind {
  BST_KIND_IMAGE = 1,   ///< uint8 [t, h, w, c], t = frame_steps
  BST_KIND_SPIKES = 2,  ///< bits [t, h, w, c]: channel i is bit i%64 of little-endian word i/64;
                        ///< each row of c bits padded with zeros to whole 64-bit words
  BST_KIND_STREAM = 3,  ///< int32 [t, h, w, c], units of 2^-F
  BST_KIND_RAW = 4      ///< int64 [c], the raw logits
} bst_kind;

/// Kind, shape [t, h, w, c] and exact size of one tensor.
typedef struct bst_tensor_info {
  uint32_t kind;  ///< a bst_kind
  uint32_t t, h, w, c;
  uint32_t reserved;  ///< 0
  uint64_t bytes;
} bst_tensor_info;

#define BST_MAX_OUTPUTS 2

/// One operation of the program.
typedef struct bst_step_info {
  const char* name;                          ///< layer name, in the file
  uint32_t op;                               ///< op code of FORMAT.md
  const char* op_name;                       ///< e.g. "conv_neuron"; static storage
  uint32_t n_outputs;                        ///< 1 or 2
  bst_tensor_info outputs[BST_MAX_OUTPUTS];  ///< unused ones are all zero
} bst_step_info;

/// @param index 0 .. n_program_steps - 1
/// @return OK; BAD_ARGUMENT (NULL, index)
BST_API BST_CHECKED bst_status bst_model_step(const bst_model* model, uint32_t index,
                                              bst_step_info* info);

/// Test vector of the file: a frame and the raw logits it must give.
/// @param index 0 .. n_golden - 1
/// @param frame out: frame_bytes bytes, inside the file
/// @param raw   out: n_classes values, inside the file
/// @return OK; BAD_ARGUMENT (NULL, index)
BST_API BST_CHECKED bst_status bst_model_golden(const bst_model* model, uint32_t index,
                                                const uint8_t** frame, const int64_t** raw);

/// Logit of a raw logit: float32(float64(raw) * 2^-logit_shift). 0 when `model` is NULL.
BST_API float bst_logit(const bst_model* model, int64_t raw);

// ---- Module -------------------------------------------------------------------------------------

/// A network compiled by TVM: `net.so` or `net.o` of `bestdeploy compile --backend tvm`. It gives
/// the same raw logits as a session, by its own code, and belongs to exactly the file it was
/// compiled from. Nothing of TVM is needed. It has weights and an arena of its own in the caller's
/// buffer and belongs to one thread at a time:
///
///     void *handle = dlopen("./net.so", RTLD_NOW | RTLD_LOCAL);
///     size_t module_bytes;
///     bst_module *module;
///     bst_module_bytes(model, dlsym, handle, &module_bytes);
///     void *place = aligned_alloc(64, module_bytes);
///     bst_model_open_module(model, dlsym, handle, place, module_bytes, &module);
///     bst_module_run(module, frame, frame_bytes, raw, n_classes);
typedef struct bst_module bst_module;

/// Finds a function by name, NULL where there is none: `dlsym`, `user` then being what dlopen gave.
/// For a net.o that is linked into the program, a function that knows the addresses of
/// `__tvm_ffi_sizes`, `__tvm_ffi_prepare` and `__tvm_ffi_main`.
typedef void* bst_module_lookup(void* user, const char* name);

/// Size of a module's buffer.
/// @param model  of the file that the module was compiled from
/// @param lookup called during the call only, `user` is passed to it
/// @param bytes  out: bytes that bst_model_open_module needs, a multiple of 64
/// @return OK; BAD_ARGUMENT (NULL); BAD_MODULE (a function is missing; another file; code for a
///         processor that this one is not)
BST_API BST_CHECKED bst_status bst_module_bytes(const bst_model* model, bst_module_lookup* lookup,
                                                void* user, size_t* bytes);

/// Open a module: its weights are laid out from the file that the model was made of.
/// @param model  borrowed: it and its file must outlive the module
/// @param buffer owned by the caller, aligned to 64; the module lives in it
/// @param bytes  at least what bst_module_bytes told
/// @param module out: the module, at the start of `buffer`; its code must stay loaded
/// @return as bst_module_bytes; NO_MEMORY
BST_API BST_CHECKED bst_status bst_model_open_module(const bst_model* model,
                                                     bst_module_lookup* lookup, void* user,
                                                     void* buffer, size_t bytes,
                                                     bst_module** module);

/// Run one frame, as bst_session_run does.
/// @return OK; BAD_ARGUMENT (NULL); BAD_MODULE (the module refuses a size, the last error says
/// which)
BST_API BST_CHECKED bst_status bst_module_run(bst_module* module, const uint8_t* frame,
                                              size_t frame_bytes, int64_t* raw, size_t n_raw);

// ---- Pool ---------------------------------------------------------------------------------------

/// Threads that share the work of a frame: the one that calls bst_session_run and n_threads - 1 of
/// the pool's own. They walk through the steps together and wait for each other after each one:
/// first turning, for some microseconds, then asleep. Between frames the pool's threads sleep.
/// Lives in the caller's buffer. POSIX threads; libraries built with BST_NO_THREADS, and those for
/// systems without, know pools of one thread only, which is the caller's.
typedef struct bst_pool bst_pool;

/// Most threads of a pool.
#define BST_MAX_THREADS 256

/// Size of a pool.
/// @param n_threads 1 .. BST_MAX_THREADS, the caller's thread included; more than there are cores
///                  is allowed and of no use
/// @param bytes     out: bytes that bst_pool_init needs, a multiple of 64
/// @return OK; BAD_ARGUMENT (NULL, number); UNSUPPORTED (more than one thread in a build without)
BST_API BST_CHECKED bst_status bst_pool_bytes(uint32_t n_threads, size_t* bytes);

/// Make a pool: start n_threads - 1 threads, which sleep until there is work. Signals are blocked
/// in them: handlers keep running on the caller's threads.
/// @param buffer owned by the caller, aligned to 64; the pool lives in it until bst_pool_stop
/// @param bytes  at least what bst_pool_bytes told
/// @param pool   out: the pool, at the start of `buffer`
/// @return as bst_pool_bytes; NO_MEMORY if `bytes` is too small; NO_THREAD where the system refuses
///         a thread (none is left running then)
BST_API BST_CHECKED bst_status bst_pool_init(void* buffer, size_t bytes, uint32_t n_threads,
                                             bst_pool** pool);

/// End the threads of a pool and wait until they are gone; the buffer is free then. Sessions of the
/// pool cannot run any more.
/// @return OK; BAD_ARGUMENT (NULL, a run in progress, stopped before)
BST_API BST_CHECKED bst_status bst_pool_stop(bst_pool* pool);

// ---- Session ------------------------------------------------------------------------------------

/// One stream of frames through a model: activations and scratch. Lives in the caller's arena.
typedef struct bst_session bst_session;

/// Size of one session's arena.
/// @param n_threads those of the session's pool, 1 without a pool: each has scratch of its own
/// @param bytes     out: bytes that bst_session_init needs, a multiple of 64
/// @return OK; BAD_ARGUMENT (NULL, number)
BST_API BST_CHECKED bst_status bst_arena_bytes(const bst_model* model, uint32_t n_threads,
                                               size_t* bytes);

/// Make a session. Frames are independent: no state is carried from one run to the next.
/// @param model   borrowed: must outlive the session
/// @param pool    borrowed: its threads share the work of every frame; NULL: the caller's thread
///                alone
/// @param arena   owned by the caller, aligned to 64; the session lives in it
/// @param bytes   at least what bst_arena_bytes told
/// @param session out: the session, at the start of `arena`
/// @return OK; BAD_ARGUMENT (NULL, alignment); NO_MEMORY
BST_API BST_CHECKED bst_status bst_session_init(const bst_model* model, bst_pool* pool, void* arena,
                                                size_t bytes, bst_session** session);

/// Run one frame.
/// @param frame       uint8 [frame_steps, height, width, channels], preprocessed; read only during
///                    the call. Event frames are the counts of each time step, cut to 255
/// @param frame_bytes exactly frame_bytes of bst_model_info
/// @param raw         out: the raw logits
/// @param n_raw       exactly n_classes
/// @return OK; BAD_ARGUMENT (NULL, a size that does not match, a pool that is in another run or was
///         stopped)
BST_API BST_CHECKED bst_status bst_session_run(bst_session* session, const uint8_t* frame,
                                               size_t frame_bytes, int64_t* raw, size_t n_raw);

/// Called after each step, once per output, in order, on the thread that runs the session; the
/// threads of a pool wait meanwhile. `data` is valid during the call only. Without a probe a run
/// costs nothing more.
/// @param step   index for bst_model_step
/// @param output index into bst_step_info.outputs, which gives kind, shape and `bytes`
typedef void bst_probe(void* user, uint32_t step, uint32_t output, const void* data, size_t bytes);

/// Set the probe of a session; NULL turns it off.
/// @param user passed to `fn`, never read by the library
/// @return OK; BAD_ARGUMENT (NULL session)
BST_API BST_CHECKED bst_status bst_session_probe(bst_session* session, bst_probe* fn, void* user);

/// A clock of the caller's: nanoseconds since a moment of its choice, never less than before.
typedef uint64_t bst_clock(void* user);

/// What one step has done in all profiled runs together. A synaptic operation (SOP) is a spike that
/// meets a weight, or a row of the other operand in a product of spikes: in a convolution an input
/// spike counts once per output position that it reaches and output channel, in attention once per
/// token or channel of its head. The spikes that come in are those that drive: the input of a
/// convolution or pool, the first operand of a product, the hidden spikes of a read-out.
typedef struct bst_step_profile {
  uint64_t ns;          ///< time, from the end of the step before to when all threads are done
  uint64_t spikes_in;   ///< 0 where no spikes drive the step
  uint64_t spikes_out;  ///< in its outputs
  uint64_t sops;        ///< synaptic operations; 0 for steps that only compare, pool or sum
} bst_step_profile;

/// Set the profile of a session; a NULL clock turns it off. Every run adds to the entries. Spikes
/// are counted outside of the time, by one thread, so profiled runs take longer than others. Steps
/// that run together otherwise (layers that read the same spikes) run one by one then.
/// @param now       called on the thread that runs the session, twice per step
/// @param user      passed to `now`, never read by the library
/// @param entries   owned by the caller, who sets them to 0 at first; written by runs until the
///                  profile is turned off
/// @param n_entries exactly n_program_steps of bst_model_info
/// @return OK; BAD_ARGUMENT (NULL, a number that does not match)
BST_API BST_CHECKED bst_status bst_session_profile(bst_session* session, bst_clock* now, void* user,
                                                   bst_step_profile* entries, size_t n_entries);

#ifdef __cplusplus
}
#endif

#endif  // BST_H_
