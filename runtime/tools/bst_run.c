// SPDX-License-Identifier: MIT
// bst_run: run a .bstm on raw frames, one JSON line per frame.

#include "host.h"

static const char bst_help[] =
    "usage: bst_run MODEL.bstm SOURCE|- [--json] [--golden] [--isa NAME] [--threads N]\n"
    "\n"
    "  SOURCE     raw uint8 frames [height, width, channels] of the model's exact size, one after\n"
    "             another; - reads standard input\n"
    "  --golden   run the file's own test vectors first and compare bit for bit (SOURCE may be "
    "left\n"
    "             out); prints {\"golden\": how many, \"equal\": how many}\n"
    "  --json     accepted; the output is one JSON line per frame in any case:\n"
    "             {\"frame\", \"top\", \"logits\", \"raw\", \"us\"}\n"
    "  --isa      instruction set of the kernels\n"
    "  --threads  number of threads\n"
    "\n"
    "exit codes: 0 ok, 2 usage, 5 golden vectors differ, 7 bad file or data, 8 cannot write\n";

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

/// Run all frames of a stream.
static int bst_run_stream(const bst_loaded* loaded, const char* name, FILE* stream, uint8_t* frame,
                          int64_t* raw) {
  const size_t frame_bytes = (size_t)loaded->info.frame_bytes;
  const char* const hint = "give raw uint8 frames [height, width, channels], no header";
  unsigned long n = 0;
  for (;; ++n) {
    const size_t got = fread(frame, 1, frame_bytes, stream);
    if (ferror(stream)) {
      return bst_complain(BST_EXIT_BAD_INPUT, "check SOURCE", "cannot read `%s`", name);
    }
    if (got == 0) break;
    if (got != frame_bytes) {
      return bst_complain(BST_EXIT_BAD_INPUT, hint,
                          "`%s`: frame %lu has %zu bytes, the model takes %zu (%lux%lux%lu)", name,
                          n, got, frame_bytes, (unsigned long)loaded->info.height,
                          (unsigned long)loaded->info.width, (unsigned long)loaded->info.channels);
    }
    const double start = bst_now_us();
    const bst_status status =
        bst_session_run(loaded->session, frame, frame_bytes, raw, loaded->info.n_classes);
    const double us = bst_now_us() - start;
    if (status != BST_OK) return bst_complain_status(name, status);
    bst_print_frame(loaded, n, raw, us);
    fflush(stdout);
  }
  if (n == 0) return bst_complain(BST_EXIT_BAD_INPUT, hint, "`%s` holds no frame", name);
  return BST_EXIT_OK;
}

static int bst_run_source(const bst_loaded* loaded, const char* name, int64_t* raw) {
  const bool is_stdin = strcmp(name, "-") == 0;
  FILE* const stream = is_stdin ? stdin : fopen(name, "rb");
  if (stream == NULL) {
    return bst_complain(BST_EXIT_BAD_INPUT, "check the path of SOURCE", "cannot read `%s`: %s",
                        name, strerror(errno));
  }
  uint8_t* const frame = malloc((size_t)loaded->info.frame_bytes);
  int code = BST_EXIT_BAD_INPUT;
  if (frame == NULL) {
    code = bst_complain(code, "use a machine with more memory", "no memory for a frame");
  } else {
    code = bst_run_stream(loaded, name, stream, frame, raw);
  }
  free(frame);
  if (!is_stdin) fclose(stream);
  return code;
}

static int bst_golden_line(const bst_options* options, const bst_loaded* loaded, int64_t* raw) {
  const uint32_t n = loaded->info.n_golden;
  if (n == 0) {
    return bst_complain(BST_EXIT_BAD_INPUT, "compile it with golden vectors",
                        "`%s` holds no golden vectors", options->model_path);
  }
  const uint32_t n_equal = bst_run_golden(loaded, raw);
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
  if (options.source_path == NULL && !options.golden) {
    return bst_complain(BST_EXIT_USAGE, "--help shows the usage", "no SOURCE given");
  }
  code = bst_load(options.model_path, &loaded);
  int64_t* raw = NULL;
  if (code == BST_EXIT_OK) {
    raw = malloc(loaded.info.n_classes * sizeof *raw);
    if (raw == NULL) {
      code = bst_complain(BST_EXIT_BAD_INPUT, "use a machine with more memory", "no memory");
    }
  }
  if (code == BST_EXIT_OK && options.golden) code = bst_golden_line(&options, &loaded, raw);
  if (code == BST_EXIT_OK && options.source_path != NULL) {
    code = bst_run_source(&loaded, options.source_path, raw);
  }
  free(raw);
  bst_unload(&loaded);
  if ((fflush(stdout) != 0 || ferror(stdout)) && code == BST_EXIT_OK) {
    code = bst_complain(BST_EXIT_CANNOT_WRITE, "check standard output", "cannot write the result");
  }
  return code;
}
