// SPDX-License-Identifier: MIT
// bst_run: run a .bstm on raw frames, one JSON line per frame.

#include "host.h"

static const char bst_help[] =
    "usage: bst_run MODEL.bstm SOURCE|- [--json] [--golden] [--isa NAME] [--threads N]\n"
    "\n"
    "  SOURCE       raw uint8 frames [height, width, channels] of the model's exact size, one "
    "after\n"
    "               another, events [T, height, width, channels]; - reads standard input\n"
    "  --golden     run the file's own test vectors first and compare bit for bit (SOURCE may be\n"
    "               left out); prints {\"golden\": how many, \"equal\": how many}\n"
    "  --json       accepted; the output is one JSON line per frame in any case:\n"
    "               {\"frame\", \"top\", \"logits\", \"raw\", \"us\"}\n"
    "  --isa NAME   instruction set of the kernels; the best one where it is left out\n"
    "  --threads N  N frames are read, computed side by side and printed in order, then the next "
    "N\n"
    "\n"
    "exit codes: 0 ok, 2 usage, 4 unsupported model or instruction set, 5 golden vectors differ,\n"
    "            7 bad file or data, 8 cannot write\n";

static void bst_print_frame(const bst_loaded* loaded, unsigned long frame, const int64_t* raw,
                            double us) {
  const uint32_t n = loaded->info.n_classes;
  uint32_t top = 0;
  for (uint32_t k = 1; k < n; ++k) {
    if (raw[k] > raw[top]) top = k;
  }
  printf("{\"frame\": %lu, \"top\": %lu, \"logits\": [", frame, (unsigned long)top);
  for (uint32_t k = 0; k < n; ++k) {
    printf("%s%.9g", k == 0 ? "" : ", ", (double)bst_logit(loaded->model, raw[k]));
  }
  printf("], \"raw\": [");
  for (uint32_t k = 0; k < n; ++k) printf("%s%lld", k == 0 ? "" : ", ", (long long)raw[k]);
  printf("], \"us\": %.1f}\n", us);
}

/// Up to one frame per thread on its way through the model.
typedef struct bst_batch {
  const bst_loaded* loaded;
  uint8_t* frames;  // [n_threads, frame_bytes]
  int64_t* raw;     // [n_threads, n_classes]
  double us[BST_MAX_THREADS];
  bst_status statuses[BST_MAX_THREADS];
} bst_batch;

static void bst_run_frame(void* context, int index) {
  bst_batch* const batch = context;
  const bst_model_info* const info = &batch->loaded->info;
  const size_t i = (size_t)index, frame_bytes = (size_t)info->frame_bytes;
  const double start = bst_now_us();
  batch->statuses[i] =
      bst_session_run(batch->loaded->sessions[i], batch->frames + i * frame_bytes, frame_bytes,
                      batch->raw + i * info->n_classes, info->n_classes);
  batch->us[i] = bst_now_us() - start;
}

/// Run the first `n` frames of the batch; print them as frames `first` .. .
static int bst_run_batch(bst_batch* batch, const char* name, unsigned long first, int n) {
  bst_work_side_by_side(n, bst_run_frame, batch);
  for (int i = 0; i < n; ++i) {
    if (batch->statuses[i] != BST_OK) return bst_complain_status(name, batch->statuses[i]);
    bst_print_frame(batch->loaded, first + (unsigned long)i,
                    batch->raw + (size_t)i * batch->loaded->info.n_classes, batch->us[i]);
  }
  return bst_flushed(BST_EXIT_OK);
}

static const char bst_frames_hint[] = "give raw uint8 frames, one after another, no header";

static int bst_complain_frame(const bst_model_info* info, const char* name, unsigned long frame,
                              size_t bytes) {
  return bst_complain(BST_EXIT_BAD_INPUT, bst_frames_hint,
                      "`%s`: frame %lu has %zu bytes, the model takes %zu (%lux%lux%lux%lu)", name,
                      frame, bytes, (size_t)info->frame_bytes, (unsigned long)info->frame_steps,
                      (unsigned long)info->height, (unsigned long)info->width,
                      (unsigned long)info->channels);
}

/// Refuse a file, before anything is printed, that is of a known kind or ends within a frame. What
/// cannot be rewound (a pipe) or has no size (a device) is read as it comes.
static int bst_check_frames(const bst_model_info* info, const char* name, FILE* stream) {
  static const struct {
    const char *start, *what;
  } kinds[] = {{"\x93NUMPY", "a .npy array"},
               {"PK\x03\x04", "a .npz or zip archive"},
               {"\x89PNG", "a PNG image"},
               {"\xff\xd8\xff", "a JPEG image"}};
  char start[8] = {0};
  if (fseek(stream, 0, SEEK_END) != 0) return BST_EXIT_OK;
  const long size = ftell(stream);
  rewind(stream);
  if (size <= 0) return BST_EXIT_OK;
  const size_t got = fread(start, 1, sizeof start, stream);
  rewind(stream);
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; ++i) {
    const size_t n = strlen(kinds[i].start);
    if (got >= n && memcmp(start, kinds[i].start, n) == 0) {
      return bst_complain(BST_EXIT_BAD_INPUT,
                          "bestdeploy run reads it; bst_run takes raw uint8 frames, no header",
                          "`%s` is %s, not raw frames", name, kinds[i].what);
    }
  }
  const unsigned long frame_bytes = (unsigned long)info->frame_bytes;
  const unsigned long rest = (unsigned long)size % frame_bytes;
  if (rest == 0) return BST_EXIT_OK;
  return bst_complain_frame(info, name, (unsigned long)size / frame_bytes, (size_t)rest);
}

/// Run all frames of a stream.
static int bst_run_stream(bst_batch* batch, const char* name, FILE* stream) {
  const bst_model_info* const info = &batch->loaded->info;
  const size_t frame_bytes = (size_t)info->frame_bytes;
  const int n_threads = batch->loaded->n_threads;
  unsigned long n_done = 0;
  for (;;) {
    const size_t got = fread(batch->frames, 1, frame_bytes * (size_t)n_threads, stream);
    const bool failed = ferror(stream) != 0;
    const int n = (int)(got / frame_bytes);
    if (n > 0) {
      const int code = bst_run_batch(batch, name, n_done, n);
      if (code != BST_EXIT_OK) return code;
    }
    n_done += (unsigned long)n;
    if (failed) return bst_complain(BST_EXIT_BAD_INPUT, "check SOURCE", "cannot read `%s`", name);
    if (got % frame_bytes != 0) return bst_complain_frame(info, name, n_done, got % frame_bytes);
    if (n < n_threads) break;
  }
  if (n_done > 0) return BST_EXIT_OK;
  return bst_complain(BST_EXIT_BAD_INPUT, bst_frames_hint, "`%s` holds no frame", name);
}

static int bst_run_source(const bst_loaded* loaded, const char* name) {
  const bool is_stdin = strcmp(name, "-") == 0;
  FILE* const stream = is_stdin ? stdin : fopen(name, "rb");
  if (stream == NULL) {
    return bst_complain(BST_EXIT_BAD_INPUT, "check the path of SOURCE", "cannot read `%s`: %s",
                        name, strerror(errno));
  }
  const size_t n = (size_t)loaded->n_threads, frame_bytes = (size_t)loaded->info.frame_bytes;
  bst_batch batch = {.loaded = loaded};
  int code = is_stdin ? BST_EXIT_OK : bst_check_frames(&loaded->info, name, stream);
  if (code != BST_EXIT_OK) {
    fclose(stream);
    return code;
  }
  batch.frames = frame_bytes > SIZE_MAX / n ? NULL : malloc(frame_bytes * n);
  batch.raw = malloc(loaded->info.n_classes * n * sizeof *batch.raw);
  code = batch.frames == NULL || batch.raw == NULL
             ? bst_complain_memory("a frame per thread", frame_bytes)
             : bst_run_stream(&batch, name, stream);
  free(batch.raw);
  free(batch.frames);
  if (!is_stdin) fclose(stream);
  return code;
}

static int bst_golden_line(const bst_options* options, const bst_loaded* loaded) {
  const uint32_t n = loaded->info.n_golden;
  if (n == 0) {
    return bst_complain(BST_EXIT_BAD_INPUT, "compile it with golden vectors",
                        "`%s` holds no golden vectors", options->model_path);
  }
  int64_t* const raw = malloc(loaded->info.n_classes * sizeof *raw);
  if (raw == NULL) return bst_complain_memory("the logits", loaded->info.n_classes * sizeof *raw);
  const uint32_t n_equal = bst_run_golden(loaded, raw);
  free(raw);
  printf("{\"golden\": %lu, \"equal\": %lu}\n", (unsigned long)n, (unsigned long)n_equal);
  if (n_equal == n) return BST_EXIT_OK;
  return bst_complain(BST_EXIT_DIFFERENT, "this machine or build computes wrong: report it",
                      "%lu of %lu golden vectors differ", (unsigned long)(n - n_equal),
                      (unsigned long)n);
}

int main(int argc, char** argv) {
  bst_options options;
  bst_loaded loaded;
  int code = bst_parse(argc, argv, bst_help, true, &options);
  if (code != BST_EXIT_OK) return code < 0 ? BST_EXIT_OK : code;
  code = bst_load(&options, &loaded);
  if (code == BST_EXIT_OK && options.golden) code = bst_golden_line(&options, &loaded);
  if (code == BST_EXIT_OK && options.source_path != NULL) {
    code = bst_run_source(&loaded, options.source_path);
  }
  bst_unload(&loaded);
  return bst_flushed(code);
}
