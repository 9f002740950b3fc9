// SPDX-License-Identifier: MIT
// Threads that walk through the steps of a frame together. Everything rests on one barrier: the
// start of a frame, the end of each step and the end of the pool are places where all parts meet.
//
// The barrier. The last part to arrive moves `generation` on; the others wait until it has moved.
// They turn first, since a step takes microseconds and waking a thread takes as long. A part that
// turned in vain turns half as long the next time and then a little longer each time, so that where
// threads outnumber the cores little time goes into turning, and one disturbance is soon forgotten.
// Then it sleeps. Nobody misses the wake: the sleeper counts itself in `n_asleep` and then looks at
// `generation`, the last part moves `generation` and then looks at `n_asleep`; both in the single
// order of sequentially consistent operations, so one of them sees the other. Where it is the last
// part, it takes the mutex, which the sleeper holds from before its look until it sleeps.
//
// A run that finds the pool in use is refused, not queued: `state` says so.

#if !defined(_POSIX_C_SOURCE) && !defined(BST_NO_THREADS)
#define _POSIX_C_SOURCE 200809L  // pthread_sigmask
#endif

#include "internal.h"

#if !defined(BST_NO_THREADS) && (defined(BST_FREESTANDING) || defined(__STDC_NO_ATOMICS__) || \
                                 !(defined(__unix__) || defined(__APPLE__)))
#define BST_NO_THREADS
#endif
#if !defined(BST_NO_THREADS) && defined(__STDC_HOSTED__)
#if __STDC_HOSTED__ == 0
#define BST_NO_THREADS
#endif
#endif

#ifndef BST_NO_THREADS
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#endif

/// What a pool is doing; the numbers stand in messages.
enum { BST_POOL_IDLE = 0, BST_POOL_RUNS = 1, BST_POOL_STOPPED = 2 };
#define BST_POOL_STATES "0, that is idle; 1 is in a run, 2 is stopped"

static bst_status bst_check_n_threads(const char* what, uint32_t n_threads) {
  const bst_where where = {what, -1, NULL};
  BST_CHECK(n_threads >= 1 && n_threads <= BST_MAX_THREADS, BAD_ARGUMENT, where, "n_threads",
            n_threads, "in 1..256");
#ifdef BST_NO_THREADS
  BST_CHECK(n_threads == 1, UNSUPPORTED, where, "n_threads", n_threads,
            "1 in a library built without threads");
#endif
  return BST_OK;
}

static uint64_t bst_pool_size_bytes(uint32_t n_threads);

/// From idle to another state, unless another thread was first.
static bst_status bst_pool_take(bst_pool* pool, const char* what, int state);

bst_status bst_pool_bytes(uint32_t n_threads, size_t* bytes) {
  const bst_where where = {"bst_pool_bytes", -1, NULL};
  BST_CHECK(bytes != NULL, BAD_ARGUMENT, where, "bytes", 0, "not NULL");
  BST_TRY(bst_check_n_threads("bst_pool_bytes", n_threads));
  *bytes = (size_t)bst_pool_size_bytes(n_threads);
  return BST_OK;
}

static bst_status bst_pool_check_init(const void* buffer, size_t bytes, uint32_t n_threads,
                                      bst_pool* const* pool) {
  const bst_where where = {"bst_pool_init", -1, NULL};
  BST_CHECK(pool != NULL, BAD_ARGUMENT, where, "pool", 0, "not NULL");
  BST_CHECK(buffer != NULL && (uintptr_t)buffer % BST_ALIGN == 0, BAD_ARGUMENT, where,
            "buffer address modulo 64", (uintptr_t)buffer % BST_ALIGN, "0, and not NULL");
  BST_TRY(bst_check_n_threads("bst_pool_init", n_threads));
  BST_CHECK(bytes >= bst_pool_size_bytes(n_threads), NO_MEMORY, where, "bytes", bytes,
            "at least what bst_pool_bytes tells");
  return BST_OK;
}

#ifdef BST_NO_THREADS

// ---- One thread, the caller's -------------------------------------------------------------------

struct bst_pool {
  int state;
};

static uint64_t bst_pool_size_bytes(uint32_t n_threads) {
  (void)n_threads;
  return bst_align_up(sizeof(struct bst_pool), BST_ALIGN);
}

bst_status bst_pool_init(void* buffer, size_t bytes, uint32_t n_threads, bst_pool** pool) {
  BST_TRY(bst_pool_check_init(buffer, bytes, n_threads, pool));
  bst_pool* const made = buffer;
  made->state = BST_POOL_IDLE;
  *pool = made;
  return BST_OK;
}

static bst_status bst_pool_take(bst_pool* pool, const char* what, int state) {
  const bst_where where = {what, -1, NULL};
  BST_CHECK(pool->state == BST_POOL_IDLE, BAD_ARGUMENT, where, "state of the pool", pool->state,
            BST_POOL_STATES);
  pool->state = state;
  return BST_OK;
}

bst_status bst_pool_stop(bst_pool* pool) {
  const bst_where where = {"bst_pool_stop", -1, NULL};
  BST_CHECK(pool != NULL, BAD_ARGUMENT, where, "pool", 0, "not NULL");
  return bst_pool_take(pool, "bst_pool_stop", BST_POOL_STOPPED);
}

int bst_pool_size(const bst_pool* pool) {
  (void)pool;
  return 1;
}

void bst_pool_wait(bst_pool* pool, int part) { (void)pool, (void)part; }

void bst_pool_share(bst_pool* pool, bst_pool_work* work, void* context) { work(context, pool, 0); }

void bst_pool_leave(bst_pool* pool) {
  if (pool != NULL) pool->state = BST_POOL_IDLE;
}

#else

// ---- POSIX threads ------------------------------------------------------------------------------

enum {
  BST_MOST_TURNS = 4096,  // of waiting before sleep: tens of microseconds
  BST_MORE_TURNS = BST_MOST_TURNS / 32,
};

/// One thread of a pool, on cache lines of its own.
typedef struct bst_member {
  _Alignas(BST_ALIGN) pthread_t thread;
  bst_pool* pool;
  int part, turns;  ///< how often the next wait turns before it sleeps
} bst_member;

struct bst_pool {
  _Alignas(BST_ALIGN) atomic_int n_arrived;
  _Alignas(BST_ALIGN) atomic_uint generation;
  atomic_int n_asleep;
  _Alignas(BST_ALIGN) pthread_mutex_t mutex;
  pthread_cond_t moved;  ///< `generation` has
  atomic_int state;
  atomic_int n_parts;  ///< that meet; changed only when not every thread could be started
  int n_threads;
  bst_pool_work* work;  ///< of this frame; NULL: end
  void* context;
  bst_member members[];  ///< [n_threads]; the caller is number 0
};

static uint64_t bst_pool_size_bytes(uint32_t n_threads) {
  return bst_align_up(sizeof(struct bst_pool) + n_threads * sizeof(bst_member), BST_ALIGN);
}

int bst_pool_size(const bst_pool* pool) { return pool == NULL ? 1 : pool->n_threads; }

/// Tell the processor that this thread only waits.
static inline void bst_relax(void) {
#if defined(__GNUC__) && (defined(__x86_64__) || defined(__i386__))
  __builtin_ia32_pause();
#elif defined(__GNUC__) && (defined(__aarch64__) || (defined(__ARM_ARCH) && __ARM_ARCH >= 7))
  __asm__ volatile("yield");
#endif
}

static bool bst_has_moved(bst_pool* pool, unsigned from, memory_order order) {
  return atomic_load_explicit(&pool->generation, order) != from;
}

static void bst_sleep_until_moved(bst_pool* pool, unsigned from) {
  (void)pthread_mutex_lock(&pool->mutex);
  atomic_fetch_add(&pool->n_asleep, 1);
  while (!bst_has_moved(pool, from, memory_order_seq_cst)) {
    (void)pthread_cond_wait(&pool->moved, &pool->mutex);
  }
  atomic_fetch_sub(&pool->n_asleep, 1);
  (void)pthread_mutex_unlock(&pool->mutex);
}

static void bst_move_on(bst_pool* pool, unsigned from) {
  atomic_store_explicit(&pool->n_arrived, 0, memory_order_relaxed);
  atomic_store(&pool->generation, from + 1);
  if (atomic_load(&pool->n_asleep) == 0) return;
  (void)pthread_mutex_lock(&pool->mutex);
  (void)pthread_cond_broadcast(&pool->moved);
  (void)pthread_mutex_unlock(&pool->mutex);
}

void bst_pool_wait(bst_pool* pool, int part) {
  if (pool == NULL) return;
  bst_member* const self = &pool->members[part];
  const unsigned from = atomic_load_explicit(&pool->generation, memory_order_relaxed);
  const int n = atomic_fetch_add_explicit(&pool->n_arrived, 1, memory_order_acq_rel) + 1;
  if (n == atomic_load_explicit(&pool->n_parts, memory_order_relaxed)) {
    bst_move_on(pool, from);
    return;
  }
  for (int i = 0; i < self->turns; ++i) {
    if (bst_has_moved(pool, from, memory_order_acquire)) {
      self->turns += self->turns <= BST_MOST_TURNS - BST_MORE_TURNS ? BST_MORE_TURNS : 0;
      return;
    }
    bst_relax();
  }
  self->turns = self->turns / 2 + BST_MORE_TURNS;
  bst_sleep_until_moved(pool, from);
}

static void* bst_member_main(void* argument) {
  const bst_member* const self = argument;
  bst_pool* const pool = self->pool;
  for (;;) {
    bst_pool_wait(pool, self->part);
    if (pool->work == NULL) return NULL;
    pool->work(pool->context, pool, self->part);
  }
}

/// Let members 1 .. n - 1 end; every one of them waits for a frame, or soon will.
static void bst_end_members(bst_pool* pool, int n) {
  pool->work = NULL;
  bst_pool_wait(pool, 0);
  for (int i = 1; i < n; ++i) (void)pthread_join(pool->members[i].thread, NULL);
  (void)pthread_cond_destroy(&pool->moved);
  (void)pthread_mutex_destroy(&pool->mutex);
}

/// Start members 1 .. n_threads - 1; return how many members there are then, the caller included.
/// They inherit the caller's mask of signals.
static int bst_start_members(bst_pool* pool) {
  int n = 1;
  sigset_t all, before;
  (void)sigfillset(&all);
  (void)pthread_sigmask(SIG_SETMASK, &all, &before);
  for (; n < pool->n_threads; ++n) {
    bst_member* const member = &pool->members[n];
    if (pthread_create(&member->thread, NULL, bst_member_main, member) != 0) break;
  }
  (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
  return n;
}

bst_status bst_pool_init(void* buffer, size_t bytes, uint32_t n_threads, bst_pool** pool) {
  const bst_where where = {"bst_pool_init", -1, NULL};
  BST_TRY(bst_pool_check_init(buffer, bytes, n_threads, pool));
  bst_pool* const made = buffer;
  made->n_threads = (int)n_threads;
  made->work = NULL;
  made->context = NULL;
  atomic_init(&made->n_arrived, 0);
  atomic_init(&made->generation, 0);
  atomic_init(&made->n_asleep, 0);
  atomic_init(&made->state, BST_POOL_IDLE);
  atomic_init(&made->n_parts, (int)n_threads);
  for (int i = 0; i < (int)n_threads; ++i) {
    made->members[i].pool = made;
    made->members[i].part = i;
    made->members[i].turns = BST_MOST_TURNS;
  }
  BST_CHECK(pthread_mutex_init(&made->mutex, NULL) == 0, NO_THREAD, where, "mutexes", 0, "1");
  if (pthread_cond_init(&made->moved, NULL) != 0) {
    (void)pthread_mutex_destroy(&made->mutex);
    return bst_fail(BST_NO_THREAD, where, "condition variables", 0, "1");
  }
  const int n = bst_start_members(made);
  if (n != made->n_threads) {
    atomic_store_explicit(&made->n_parts, n, memory_order_relaxed);
    bst_end_members(made, n);
    return bst_fail(BST_NO_THREAD, where, "threads that the system gives", n,
                    "n_threads, the caller's included");
  }
  *pool = made;
  return BST_OK;
}

static bst_status bst_pool_take(bst_pool* pool, const char* what, int state) {
  const bst_where where = {what, -1, NULL};
  int found = BST_POOL_IDLE;
  BST_CHECK(atomic_compare_exchange_strong(&pool->state, &found, state), BAD_ARGUMENT, where,
            "state of the pool", found, BST_POOL_STATES);
  return BST_OK;
}

bst_status bst_pool_stop(bst_pool* pool) {
  const bst_where where = {"bst_pool_stop", -1, NULL};
  BST_CHECK(pool != NULL, BAD_ARGUMENT, where, "pool", 0, "not NULL");
  BST_TRY(bst_pool_take(pool, "bst_pool_stop", BST_POOL_STOPPED));
  bst_end_members(pool, pool->n_threads);
  return BST_OK;
}

void bst_pool_share(bst_pool* pool, bst_pool_work* work, void* context) {
  if (pool != NULL) {
    pool->work = work;
    pool->context = context;
    bst_pool_wait(pool, 0);
  }
  work(context, pool, 0);
}

void bst_pool_leave(bst_pool* pool) {
  if (pool != NULL) atomic_store(&pool->state, BST_POOL_IDLE);
}

#endif  // BST_NO_THREADS

bst_status bst_pool_enter(bst_pool* pool) {
  return pool == NULL ? BST_OK : bst_pool_take(pool, "bst_session_run", BST_POOL_RUNS);
}
