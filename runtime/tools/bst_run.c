// SPDX-License-Identifier: MIT
// bst_run: run a .bstm on raw frames, one JSON line per frame.

#include "host.h"

static const char bst_help[] =
    "usage: bst_run MODEL.bstm SOURCE|- [--json] [--golden] [--isa NAME] [--threads N]\n"
    "                                   [--module NET.so]\n"
    "\n"
    "  SOURCE       raw uint8 frames [height, width, channels] of the model's exact size, one "
    "after\n"
    "               another, events [T, height, width, channels]; - reads standard input\n"
    "  --golden     run the file's own test vectors first and compare bit for bit (SOURCE may be\n"
    "               left out); prints {\"golden\": how many, \"equal\": how many}\n"
    "  --json       accepted; the output is one JSON line per frame in any case:\n"
    "               {\"frame\", \"top\", \"logits\", \"raw\", \"us\"}\n"
    "  --isa NAME   instruction set of the kernels; the best one where it is left out\n"
    "  --threads N  threads that share the work of each frame, 1 where it is left out\n"
    "  --module F   net.so of `bestdeploy compile --backend tvm`: runs the network in its place\n"
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
  bst_put(stdout, "{\"frame\": %lu, \"top\": %lu, \"logits\": [", frame, (unsigned long)top);
  for (uint32_t k = 0; k < n; ++k) {
    bst_put(stdout, "%s%.9g", k == 0 ? "" : ", ", (double)bst_logit(loaded->model, raw[k]));
  }
  bst_put(stdout, "], \"raw\": [");
  for (uint32_t k = 0; k < n; ++k) bst_put(stdout, "%s%lld", k == 0 ? "" : ", ", (long long)raw[k]);
  bst_put(stdout, "], \"us\": %.1f}\n", us);
}

/// Run one frame and print it as number `index`.
static int bst_run_frame(const bst_loaded* loaded, const char* name, unsigned long index,
                         const uint8_t* frame, int64_t* raw) {
  const double start = bst_now_us();
  const bst_status status = bst_run_once(loaded, frame, raw);
  const double us = bst_now_us() - start;
  if (status != BST_OK) return bst_complain_status(name, status);
  bst_print_frame(loaded, index, raw, us);
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

/// Run all frames of a stream, each as it comes.
static int bst_run_stream(const bst_loaded* loaded, const char* name, FILE* stream, uint8_t* frame,
                          int64_t* raw) {
  const bst_model_info* const info = &loaded->info;
  const size_t frame_bytes = (size_t)info->frame_bytes;
  for (unsigned long n_done = 0;; ++n_done) {
    const size_t got = fread(frame, 1, frame_bytes, stream);
    if (ferror(stream) != 0) {
      return bst_complain(BST_EXIT_BAD_INPUT, "check SOURCE", "cannot read `%s`", name);
    }
    if (got == 0 && n_done > 0) return BST_EXIT_OK;
    if (got == 0)
      return bst_complain(BST_EXIT_BAD_INPUT, bst_frames_hint, "`%s` holds no frame", name);
    if (got != frame_bytes) return bst_complain_frame(info, name, n_done, got);
    const int code = bst_run_frame(loaded, name, n_done, frame, raw);
    if (code != BST_EXIT_OK) return code;
  }
}

static int bst_run_source(const bst_loaded* loaded, const char* name) {
  const bool is_stdin = strcmp(name, "-") == 0;
  FILE* const stream = is_stdin ? stdin : fopen(name, "rb");
  if (stream == NULL) {
    return bst_complain(BST_EXIT_BAD_INPUT, "check the path of SOURCE", "cannot read `%s`: %s",
                        name, strerror(errno));
  }
  const size_t frame_bytes = (size_t)loaded->info.frame_bytes;
  int code = is_stdin ? BST_EXIT_OK : bst_check_frames(&loaded->info, name, stream);
  if (code != BST_EXIT_OK) {
    fclose(stream);
    return code;
  }
  uint8_t* const frame = malloc(frame_bytes);
  int64_t* const raw = malloc(loaded->info.n_classes * sizeof *raw);
  code = frame == NULL || raw == NULL ? bst_complain_memory("a frame", frame_bytes)
                                      : bst_run_stream(loaded, name, stream, frame, raw);
  free(raw);
  free(frame);
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
  bst_put(stdout, "{\"golden\": %lu, \"equal\": %lu}\n", (unsigned long)n, (unsigned long)n_equal);
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
