// SPDX-License-Identifier: MIT
// A session: the arena of one stream of frames. Layout: bst_session, buffers, scratch of each
// thread, each 64-aligned.

#include <string.h>

#include "internal.h"

struct bst_session {
  const bst_model* model;
  bst_pool* pool;  ///< NULL: the caller's thread alone
  uint8_t* buffers;
  bst_probe* probe;
  void* probe_user;
  bst_clock* clock;  ///< NULL: no profile
  void* clock_user;
  bst_step_profile* profile;
};

static uint64_t bst_session_header_bytes(void) {
  return bst_align_up(sizeof(struct bst_session), BST_ALIGN);
}

bst_status bst_arena_bytes(const bst_model* model, uint32_t n_threads, size_t* bytes) {
  const bst_where where = {"bst_arena_bytes", -1, NULL};
  BST_CHECK(model != NULL && bytes != NULL, BAD_ARGUMENT, where, "model or bytes", 0, "not NULL");
  BST_CHECK(n_threads >= 1 && n_threads <= BST_MAX_THREADS, BAD_ARGUMENT, where, "n_threads",
            n_threads, "in 1..256");
  uint64_t total = model->buffer_bytes;
  for (uint32_t i = 0; i < model->file.n_steps; ++i) {  // 2^40 and 256 times much less at most
    const bst_prepared* const p = &model->prepared[i];
    const uint64_t end = p->scratch_at + n_threads * p->scratch_bytes;
    if (end > total) total = end;
  }
  total += bst_session_header_bytes();
  BST_CHECK(total <= PTRDIFF_MAX, UNSUPPORTED, where, "arena size in bytes", total,
            "what this machine can address");
  *bytes = (size_t)total;
  return BST_OK;
}

bst_status bst_session_init(const bst_model* model, bst_pool* pool, void* arena, size_t bytes,
                            bst_session** session) {
  const bst_where where = {"bst_session_init", -1, NULL};
  size_t needed = 0;
  BST_CHECK(session != NULL, BAD_ARGUMENT, where, "session", 0, "not NULL");
  BST_CHECK(arena != NULL && (uintptr_t)arena % BST_ALIGN == 0, BAD_ARGUMENT, where,
            "arena address modulo 64", (uintptr_t)arena % BST_ALIGN, "0, and not NULL");
  BST_TRY(bst_arena_bytes(model, (uint32_t)bst_pool_size(pool), &needed));
  BST_CHECK(bytes >= needed, NO_MEMORY, where, "bytes", bytes,
            "at least what bst_arena_bytes tells for the threads of the pool");
  bst_session* const made = arena;
  *made = (bst_session){.model = model, .pool = pool};
  made->buffers = (uint8_t*)arena + bst_session_header_bytes();
  *session = made;
  return BST_OK;
}

bst_status bst_session_probe(bst_session* session, bst_probe* fn, void* user) {
  const bst_where where = {"bst_session_probe", -1, NULL};
  BST_CHECK(session != NULL, BAD_ARGUMENT, where, "session", 0, "not NULL");
  session->probe = fn;
  session->probe_user = user;
  return BST_OK;
}

bst_status bst_session_profile(bst_session* session, bst_clock* now, void* user,
                               bst_step_profile* entries, size_t n_entries) {
  const bst_where where = {"bst_session_profile", -1, NULL};
  BST_CHECK(session != NULL, BAD_ARGUMENT, where, "session", 0, "not NULL");
  if (now != NULL) {
    BST_CHECK(entries != NULL, BAD_ARGUMENT, where, "entries", 0, "not NULL");
    BST_CHECK(n_entries == session->model->file.n_steps, BAD_ARGUMENT, where, "n_entries",
              n_entries, "n_program_steps");
  }
  session->clock = now;
  session->clock_user = user;
  session->profile = entries;
  return BST_OK;
}

static uint64_t bst_session_now(const bst_session* session) {
  return session->clock == NULL ? 0 : session->clock(session->clock_user);
}

/// After step `index`, which began at `start`: fill its entry of the profile, show its outputs.
static void bst_session_observe(const bst_session* session, uint32_t index, const bst_call* call,
                                const bst_io* io, uint64_t start) {
  if (session->clock != NULL) {
    session->profile[index].ns += bst_session_now(session) - start;
    bst_profile_count(call, io, &session->profile[index]);
  }
  for (uint32_t i = 0; session->probe != NULL && i < call->op->n_outputs; ++i) {
    session->probe(session->probe_user, index, i, io->outputs[i], (size_t)call->outputs[i]->bytes);
  }
}

/// One thread's way through the steps. Who observes is alone: the others are kept waiting.
static void bst_session_walk(void* context, bst_pool* pool, int part) {
  const bst_session* const session = context;
  const int n_parts = bst_pool_size(pool);
  const bool is_observed = session->probe != NULL || session->clock != NULL;
  const uint32_t n_steps = session->model->file.n_steps;  // not to be read after the last wait
  for (uint32_t i = 0; i < n_steps; ++i) {
    bst_call call;
    bst_io io;
    if (!is_observed && session->model->prepared[i].follows) continue;
    const uint64_t start = part == 0 ? bst_session_now(session) : 0;
    bst_model_open_step(session->model, session->buffers, i, part, n_parts, &call, &io);
    io.together = !is_observed;
    call.op->run(&call, &session->model->prepared[i], &io);
    bst_pool_wait(pool, part);
    if (!is_observed) continue;
    if (part == 0) bst_session_observe(session, i, &call, &io, start);
    bst_pool_wait(pool, part);
  }
}

bst_status bst_session_run(bst_session* session, const uint8_t* frame, size_t frame_bytes,
                           int64_t* raw, size_t n_raw) {
  const bst_where where = {"bst_session_run", -1, NULL};
  BST_CHECK(session != NULL && frame != NULL && raw != NULL, BAD_ARGUMENT, where,
            "session, frame or raw", 0, "not NULL");
  const bst_file* const file = &session->model->file;
  const bst_buffer* const image = &file->buffers[0];
  BST_CHECK(frame_bytes == image->bytes, BAD_ARGUMENT, where, "frame_bytes", frame_bytes,
            "frame_steps * height * width * channels");
  BST_CHECK(n_raw == file->model->n_classes, BAD_ARGUMENT, where, "n_raw", n_raw, "n_classes");
  BST_TRY(bst_pool_enter(session->pool));
  memcpy(session->buffers + image->offset, frame, frame_bytes);
  bst_pool_share(session->pool, bst_session_walk, session);
  const bst_buffer* const out = &file->buffers[file->steps[file->n_steps - 1].outputs[0]];
  memcpy(raw, session->buffers + out->offset, (size_t)out->bytes);
  bst_pool_leave(session->pool);
  return BST_OK;
}
