// SPDX-License-Identifier: MIT
// Several threads over one model: share_model FILE N_THREADS N_ROUNDS [ISA]. Each thread has a
// session of its own, runs the golden vectors and also asks questions, fails calls and loads the
// file again, all at the same time. Meant for builds with a thread sanitizer. Prints the number of
// frames whose logits were exact.

#include <bst.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct shared {
  const void* file;
  size_t file_bytes;
  const char* isa;
  const bst_model* model;
  int n_rounds;
} shared;

typedef struct worker {
  pthread_t thread;
  const shared* shared;
  int number;
  unsigned long n_exact, n_failed;
} worker;

static void* aligned(size_t bytes) {
  void* memory = NULL;
  return posix_memalign(&memory, BST_ALIGN, bytes) == 0 ? memory : NULL;
}

/// Run every golden vector once.
static void run_golden(worker* self, bst_session* session, const bst_model_info* info,
                       int64_t* raw) {
  for (uint32_t i = 0; i < info->n_golden; ++i) {
    const uint8_t* frame;
    const int64_t* expected;
    if (bst_model_golden(self->shared->model, i, &frame, &expected) != BST_OK ||
        bst_session_run(session, frame, (size_t)info->frame_bytes, raw, info->n_classes) !=
            BST_OK) {
      ++self->n_failed;
      continue;
    }
    self->n_exact += memcmp(raw, expected, info->n_classes * sizeof *raw) == 0;
  }
}

/// The last error belongs to this thread: it must hold the number that this thread gave.
static void check_error(worker* self) {
  char number[32];
  bst_step_info step;
  const uint32_t index = 1000U + (uint32_t)self->number;
  snprintf(number, sizeof number, "index = %u", (unsigned)index);
  if (bst_model_step(self->shared->model, index, &step) != BST_BAD_ARGUMENT ||
      strstr(bst_last_error(), number) == NULL) {
    ++self->n_failed;
  }
}

static void* work(void* argument) {
  worker* const self = argument;
  const shared* const s = self->shared;
  bst_model_info info;
  bst_session* session;
  size_t arena_bytes = 0, model_bytes = 0;
  if (bst_model_describe(s->model, &info) != BST_OK ||
      bst_arena_bytes(s->model, 1, &arena_bytes) != BST_OK) {
    ++self->n_failed;
    return NULL;
  }
  void* const arena = aligned(arena_bytes);
  int64_t* const raw = malloc(info.n_classes * sizeof *raw);
  if (arena == NULL || raw == NULL ||
      bst_session_init(s->model, NULL, arena, arena_bytes, &session) != BST_OK) {
    ++self->n_failed;
  } else {
    for (int round = 0; round < s->n_rounds; ++round) {
      run_golden(self, session, &info, raw);
      check_error(self);
      if (bst_model_bytes(s->file, s->file_bytes, s->isa, &model_bytes) != BST_OK) {
        ++self->n_failed;
      }
    }
  }
  free(raw);
  free(arena);
  return NULL;
}

static bst_model* load(shared* s, const char* path) {
  bst_model* model = NULL;
  size_t model_bytes = 0;
  FILE* const stream = fopen(path, "rb");
  if (stream == NULL || fseek(stream, 0, SEEK_END) != 0) return NULL;
  s->file_bytes = (size_t)ftell(stream);
  rewind(stream);
  void* const file = aligned(s->file_bytes);
  if (file == NULL || fread(file, 1, s->file_bytes, stream) != s->file_bytes) return NULL;
  fclose(stream);
  s->file = file;
  if (bst_model_bytes(file, s->file_bytes, s->isa, &model_bytes) != BST_OK) return NULL;
  void* const buffer = aligned(model_bytes);
  if (buffer == NULL) return NULL;
  const bst_status status =
      bst_model_init(file, s->file_bytes, s->isa, buffer, model_bytes, &model);
  return status == BST_OK ? model : NULL;
}

int main(int argc, char** argv) {
  enum { MAX_THREADS = 64 };
  worker workers[MAX_THREADS] = {{.number = 0}};
  if (argc < 4) return 2;
  const int n = atoi(argv[2]);
  shared s = {.isa = argc > 4 ? argv[4] : NULL, .n_rounds = atoi(argv[3])};
  bst_model* const model = load(&s, argv[1]);
  s.model = model;
  if (model == NULL || n < 1 || n > MAX_THREADS) {
    fprintf(stderr, "%s\n", bst_last_error());
    return 3;
  }
  unsigned long n_exact = 0, n_failed = 0;
  for (int i = 0; i < n; ++i) {
    workers[i].shared = &s;
    workers[i].number = i;
    if (pthread_create(&workers[i].thread, NULL, work, &workers[i]) != 0) return 4;
  }
  for (int i = 0; i < n; ++i) {
    pthread_join(workers[i].thread, NULL);
    n_exact += workers[i].n_exact;
    n_failed += workers[i].n_failed;
  }
  free((void*)model);
  free((void*)s.file);
  printf("%lu\n", n_exact);
  return n_failed == 0 ? 0 : 1;
}
