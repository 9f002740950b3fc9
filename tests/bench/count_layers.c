// SPDX-License-Identifier: MIT
// Runs a .bstm once with a mark after every step of its program, for ../../runtime/tools/
// insn_count.c: region 1 + k is step k. Then once more without marks, to see the firing rates.
// JSON lines: {"step", "name", "op", "rate"}, rate -1 where the step gives no spikes.

#include "../../runtime/tools/host.h"

void bench_mark(void);
__attribute__((noinline)) void bench_mark(void) { __asm__ volatile("" ::: "memory"); }

static const char help[] =
    "usage: count_layers MODEL.bstm [--isa NAME]\n"
    "\n"
    "Runs the first golden frame of the file, or a fixed pattern, with marks between the layers.\n";

static void mark_step(void* user, uint32_t step, uint32_t output, const void* data, size_t bytes) {
  (void)user;
  (void)step;
  (void)data;
  (void)bytes;
  if (output == 0) bench_mark();
}

/// Print a step and the share of its neurons that fired.
static void print_step(void* user, uint32_t step, uint32_t output, const void* data, size_t bytes) {
  const bst_model* const model = user;
  bst_step_info info;
  if (bst_model_step(model, step, &info) != BST_OK || output + 1 != info.n_outputs) return;
  const bst_tensor_info* const tensor = &info.outputs[output];
  double rate = -1;
  if (tensor->kind == BST_KIND_SPIKES) {
    uint64_t n = 0;
    for (size_t i = 0; i < bytes; ++i) {
      for (unsigned byte = ((const uint8_t*)data)[i]; byte != 0; byte &= byte - 1) ++n;
    }
    rate = (double)n / ((double)tensor->t * tensor->h * tensor->w * tensor->c);
  }
  printf("{\"step\": %lu, \"name\": \"%s\", \"op\": \"%s\", \"rate\": %.4f}\n", (unsigned long)step,
         info.name, info.op_name, rate);
}

/// The first golden frame, or a fixed pattern in memory of the caller's to free.
static const uint8_t* frame_of(const bst_loaded* loaded, uint8_t** made) {
  const uint8_t* frame = NULL;
  const int64_t* raw;
  if (loaded->info.n_golden > 0 && bst_model_golden(loaded->model, 0, &frame, &raw) == BST_OK) {
    return frame;
  }
  const size_t bytes = (size_t)loaded->info.frame_bytes;
  *made = malloc(bytes);
  if (*made != NULL) {
    for (size_t i = 0; i < bytes; ++i) (*made)[i] = (uint8_t)(i * 37 + i / 97 * 11);
  }
  return *made;
}

static int run_twice(const bst_loaded* loaded) {
  const size_t bytes = (size_t)loaded->info.frame_bytes;
  const uint32_t n = loaded->info.n_classes;
  uint8_t* made = NULL;
  const uint8_t* const frame = frame_of(loaded, &made);
  int64_t* const raw = malloc(n * sizeof *raw);
  if (frame == NULL || raw == NULL) return bst_complain_memory("a frame", bytes);
  bst_session* const session = loaded->session;
  bst_status status = bst_session_probe(session, mark_step, NULL);
  bench_mark();
  if (status == BST_OK) status = bst_session_run(session, frame, bytes, raw, n);
  bench_mark();
  if (status == BST_OK) status = bst_session_probe(session, print_step, loaded->model);
  if (status == BST_OK) status = bst_session_run(session, frame, bytes, raw, n);
  free(raw);
  free(made);
  return status == BST_OK ? BST_EXIT_OK : bst_complain_status("count_layers", status);
}

int main(int argc, char** argv) {
  bst_options options;
  bst_loaded loaded;
  int code = bst_parse(argc, argv, help, false, &options);
  if (code != BST_EXIT_OK) return code < 0 ? BST_EXIT_OK : code;
  code = bst_load(&options, &loaded);
  if (code == BST_EXIT_OK) code = run_twice(&loaded);
  bst_unload(&loaded);
  return bst_flushed(code);
}
