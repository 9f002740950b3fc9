// SPDX-License-Identifier: MIT
// The same work on several threads at once, where the system has POSIX threads.

#ifndef BST_TOOLS_THREADS_H_
#define BST_TOOLS_THREADS_H_

#include <stdbool.h>

enum { BST_MAX_THREADS = 256 };

/// Work number `index`, on its own thread.
typedef void bst_work(void* context, int index);

#if defined(__unix__) || defined(__APPLE__)

#include <pthread.h>

static inline bool bst_has_threads(void) { return true; }

typedef struct bst_thread {
  pthread_t thread;
  bool is_running;
  bst_work* work;
  void* context;
  int index;
} bst_thread;

static void* bst_thread_main(void* argument) {
  const bst_thread* const self = argument;
  self->work(self->context, self->index);
  return NULL;
}

/// Do work 0 .. n-1 (n <= BST_MAX_THREADS) side by side, 0 on this thread; return when all is done.
/// Where no thread can be started, this one does its work too.
static inline void bst_work_side_by_side(int n, bst_work* work, void* context) {
  bst_thread threads[BST_MAX_THREADS];
  for (int i = 1; i < n; ++i) {
    bst_thread* const t = &threads[i];
    *t = (bst_thread){.work = work, .context = context, .index = i};
    t->is_running = pthread_create(&t->thread, NULL, bst_thread_main, t) == 0;
  }
  work(context, 0);
  for (int i = 1; i < n; ++i) {
    if (threads[i].is_running) {
      (void)pthread_join(threads[i].thread, NULL);
    } else {
      work(context, i);
    }
  }
}

#else

static inline bool bst_has_threads(void) { return false; }

static inline void bst_work_side_by_side(int n, bst_work* work, void* context) {
  for (int i = 0; i < n; ++i) work(context, i);
}

#endif

#endif  // BST_TOOLS_THREADS_H_
