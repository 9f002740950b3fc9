// SPDX-License-Identifier: MIT
// A session: the arena of one stream of frames. Layout: bst_session, buffers, scratch, each
// 64-aligned.

#include <string.h>

#include "internal.h"

struct bst_session {
  const bst_model* model;
  uint8_t* buffers;
  void* scratch;
  bst_probe* probe;
  void* probe_user;
};

static uint64_t bst_session_header_bytes(void) {
  return bst_align_up(sizeof(struct bst_session), BST_ALIGN);
}

bst_status bst_arena_bytes(const bst_model* model, size_t* bytes) {
  const bst_where where = {"bst_arena_bytes", -1, NULL};
  BST_CHECK(model != NULL && bytes != NULL, BAD_ARGUMENT, where, "model or bytes", 0, "not NULL");
  const uint64_t total = bst_session_header_bytes() + model->arena_bytes + model->scratch_bytes;
  BST_CHECK(total <= PTRDIFF_MAX, UNSUPPORTED, where, "arena size in bytes", total,
            "what this machine can address");
  *bytes = (size_t)total;
  return BST_OK;
}

bst_status bst_session_init(const bst_model* model, void* arena, size_t bytes,
                            bst_session** session) {
  const bst_where where = {"bst_session_init", -1, NULL};
  size_t needed = 0;
  BST_CHECK(session != NULL, BAD_ARGUMENT, where, "session", 0, "not NULL");
  BST_CHECK(arena != NULL && (uintptr_t)arena % BST_ALIGN == 0, BAD_ARGUMENT, where,
            "arena address modulo 64", (uintptr_t)arena % BST_ALIGN, "0, and not NULL");
  BST_TRY(bst_arena_bytes(model, &needed));
  BST_CHECK(bytes >= needed, NO_MEMORY, where, "bytes", bytes,
            "at least what bst_arena_bytes tells");
  bst_session* const made = arena;
  made->model = model;
  made->buffers = (uint8_t*)arena + bst_session_header_bytes();
  made->scratch = made->buffers + model->arena_bytes;
  made->probe = NULL;
  made->probe_user = NULL;
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

static void bst_session_step(bst_session* session, uint32_t index) {
  bst_call call;
  bst_io io = {.scratch = session->scratch, .part = 0, .n_parts = 1};
  bst_call_open(&session->model->file, session->model->isa, index, &call);
  for (int i = 0; i < call.op->n_inputs; ++i) {
    io.inputs[i] = session->buffers + call.inputs[i]->offset;
  }
  for (int i = 0; i < call.op->n_outputs; ++i) {
    io.outputs[i] = session->buffers + call.outputs[i]->offset;
  }
  call.op->run(&call, &session->model->prepared[index], &io);
  if (session->probe == NULL) return;
  for (uint32_t i = 0; i < call.op->n_outputs; ++i) {
    session->probe(session->probe_user, index, i, io.outputs[i], (size_t)call.outputs[i]->bytes);
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
  memcpy(session->buffers + image->offset, frame, frame_bytes);
  for (uint32_t i = 0; i < file->n_steps; ++i) bst_session_step(session, i);
  const bst_buffer* const out = &file->buffers[file->steps[file->n_steps - 1].outputs[0]];
  memcpy(raw, session->buffers + out->offset, (size_t)out->bytes);
  return BST_OK;
}
