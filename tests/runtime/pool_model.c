// SPDX-License-Identifier: MIT
// Pools of threads: pool_model FILE N_THREADS N_RUNS [ISA] runs the golden vectors on two sessions
// that share a pool, while a second caller tries to do the same, with probe and profile, and starts
// and stops more pools. Meant for builds with sanitizers. Prints how many frames were exact.
// `pool_model starve` asks for more threads than there is room for.

#define _POSIX_C_SOURCE 200809L
#include <bst.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#define MUST(condition)                                                             \
  do {                                                                              \
    if (!(condition)) {                                                             \
      fprintf(stderr, "line %d: %s: %s\n", __LINE__, #condition, bst_last_error()); \
      exit(1);                                                                      \
    }                                                                               \
  } while (0)

/// Memory of the exact size, so that a sanitizer sees what lies beyond.
static void* aligned(size_t bytes) {
  void* memory = NULL;
  MUST(posix_memalign(&memory, BST_ALIGN, bytes) == 0);
  return memory;
}

static bst_pool* start(uint32_t n_threads) {
  size_t bytes;
  bst_pool* pool = NULL;
  MUST(bst_pool_bytes(n_threads, &bytes) == BST_OK);
  MUST(bst_pool_init(aligned(bytes), bytes, n_threads, &pool) == BST_OK);
  return pool;
}

static void stop(bst_pool* pool) {
  MUST(bst_pool_stop(pool) == BST_OK);
  free(pool);
}

static uint64_t tick(void* user) { return ++*(uint64_t*)user; }

/// A caller: a session of its own on a pool that others use too.
typedef struct caller {
  const bst_model* model;
  bst_pool* pool;
  uint32_t n_threads;
  bst_model_info info;
  bst_session *session, *other;
  bst_step_profile* profile;
  int64_t* raw;
  uint64_t ticks;
  int n_runs;
  unsigned long n_exact, n_refused, n_probed, n_wrong;
} caller;

static bst_session* session_of(const caller* self) {
  size_t bytes;
  bst_session* session = NULL;
  MUST(bst_arena_bytes(self->model, self->n_threads, &bytes) == BST_OK);
  MUST(bst_session_init(self->model, self->pool, aligned(bytes), bytes, &session) == BST_OK);
  return session;
}

/// Inside of a run its pool is busy: another session of it is refused.
static void probe(void* user, uint32_t step, uint32_t output, const void* data, size_t bytes) {
  caller* const self = user;
  const uint8_t* frame;
  const int64_t* expected;
  (void)output, (void)data, (void)bytes;
  ++self->n_probed;
  if (step != 0 || self->n_threads == 1) return;
  MUST(bst_model_golden(self->model, 0, &frame, &expected) == BST_OK);
  MUST(bst_session_run(self->other, frame, (size_t)self->info.frame_bytes, self->raw,
                       self->info.n_classes) == BST_BAD_ARGUMENT);
  MUST(strstr(bst_last_error(), "state of the pool = 1") != NULL);
  MUST(bst_pool_stop(self->pool) == BST_BAD_ARGUMENT);
}

static void open_caller(caller* self, const bst_model* model, bst_pool* pool, uint32_t n_threads,
                        int n_runs) {
  *self = (caller){.model = model, .pool = pool, .n_threads = n_threads, .n_runs = n_runs};
  MUST(bst_model_describe(model, &self->info) == BST_OK);
  self->session = session_of(self);
  self->other = session_of(self);
  self->raw = aligned(self->info.n_classes * sizeof *self->raw);
  self->profile = calloc(self->info.n_program_steps, sizeof *self->profile);
  MUST(self->profile != NULL);
}

static void close_caller(caller* self) {
  free(self->profile);
  free(self->raw);
  free(self->other);
  free(self->session);
}

static void run_once(caller* self, bst_session* session, uint32_t golden) {
  const uint8_t* frame;
  const int64_t* expected;
  MUST(bst_model_golden(self->model, golden, &frame, &expected) == BST_OK);
  for (;;) {
    const bst_status status = bst_session_run(session, frame, (size_t)self->info.frame_bytes,
                                              self->raw, self->info.n_classes);
    if (status == BST_OK) break;
    MUST(status == BST_BAD_ARGUMENT);
    ++self->n_refused;
    sched_yield();
  }
  const int equal = memcmp(self->raw, expected, self->info.n_classes * sizeof *self->raw) == 0;
  self->n_exact += equal != 0;
  self->n_wrong += equal == 0;
}

static void* call(void* argument) {
  caller* const self = argument;
  for (int i = 0; i < self->n_runs; ++i) {
    const uint32_t golden = (uint32_t)i % self->info.n_golden;
    const int profiled = i % 4 == 1, probed = i % 4 >= 2;
    MUST(bst_session_profile(self->session, profiled ? tick : NULL, &self->ticks, self->profile,
                             self->info.n_program_steps) == BST_OK);
    MUST(bst_session_probe(self->session, probed ? probe : NULL, self) == BST_OK);
    run_once(self, self->session, golden);
    run_once(self, self->other, golden);
  }
  return NULL;
}

static const bst_model* load(const char* path, const char* isa) {
  bst_model* model = NULL;
  size_t model_bytes;
  FILE* const stream = fopen(path, "rb");
  MUST(stream != NULL && fseek(stream, 0, SEEK_END) == 0);
  const size_t n = (size_t)ftell(stream);
  rewind(stream);
  void* const file = aligned(n);
  MUST(fread(file, 1, n, stream) == n);
  fclose(stream);
  MUST(bst_model_bytes(file, n, isa, &model_bytes) == BST_OK);
  MUST(bst_model_init(file, n, isa, aligned(model_bytes), model_bytes, &model) == BST_OK);
  return model;
}

static int starve(void) {
  struct rlimit before, little;
  size_t bytes;
  bst_pool* pool = NULL;
  MUST(getrlimit(RLIMIT_AS, &before) == 0);
  MUST(bst_pool_bytes(BST_MAX_THREADS, &bytes) == BST_OK);
  void* const buffer = aligned(bytes);
  little = before;
  little.rlim_cur = (rlim_t)1 << 27;  // room for a few stacks
  MUST(setrlimit(RLIMIT_AS, &little) == 0);
  for (int i = 0; i < 3; ++i) {
    MUST(bst_pool_init(buffer, bytes, BST_MAX_THREADS, &pool) == BST_NO_THREAD);
    MUST(pool == NULL);
  }
  puts(bst_last_error());
  MUST(setrlimit(RLIMIT_AS, &before) == 0);
  MUST(bst_pool_init(buffer, bytes, 5, &pool) == BST_OK);
  stop(pool);
  return 0;
}

int main(int argc, char** argv) {
  if (argc == 2 && strcmp(argv[1], "starve") == 0) return starve();
  if (argc < 4) return 2;
  const uint32_t n_threads = (uint32_t)atoi(argv[2]);
  const int n_runs = atoi(argv[3]);
  const bst_model* const model = load(argv[1], argc > 4 ? argv[4] : NULL);
  bst_pool* const pool = start(n_threads);
  caller callers[2];
  pthread_t second;
  for (int i = 0; i < 2; ++i) open_caller(&callers[i], model, pool, n_threads, n_runs);
  MUST(pthread_create(&second, NULL, call, &callers[1]) == 0);
  (void)call(&callers[0]);
  MUST(pthread_join(second, NULL) == 0);
  MUST(bst_pool_stop(pool) == BST_OK);
  MUST(bst_pool_stop(pool) == BST_BAD_ARGUMENT);
  MUST(strstr(bst_last_error(), "state of the pool = 2") != NULL);
  for (int i = 0; i < 2; ++i) close_caller(&callers[i]);
  free(pool);
  for (uint32_t i = 0; i < 40; ++i) {  // also stopped before its threads have begun
    bst_pool* const more = start(1 + i % 7);
    caller brief;
    open_caller(&brief, model, more, 1 + i % 7, i % 3 == 0);
    (void)call(&brief);
    close_caller(&brief);
    callers[0].n_exact += brief.n_exact;
    callers[0].n_wrong += brief.n_wrong;
    stop(more);
  }
  printf("%lu\n", callers[0].n_exact + callers[1].n_exact);
  return callers[0].n_wrong + callers[1].n_wrong == 0 ? 0 : 1;
}
