// SPDX-License-Identifier: MIT
// bst_bench: time a .bstm on this machine and check its golden vectors; one pasteable line.

#include "host.h"

static const char bst_help[] =
    "usage: bst_bench MODEL.bstm [--isa NAME] [--threads N]\n"
    "\n"
    "Runs single frames for about 2 seconds after a warm-up (at least 20, at most 2000) on the\n"
    "file's golden frames, or on a fixed pattern where it has none, and prints one line:\n"
    "cpu, isa, threads, p50 and p99 of a frame, number of runs, golden vectors equal.\n"
    "\n"
    "exit codes: 0 ok, 2 usage, 5 golden vectors differ, 7 bad file, 8 cannot write\n";

enum { BST_MIN_RUNS = 20, BST_MAX_RUNS = 2000, BST_WARM_UP_RUNS = 3 };
#define BST_BENCH_US 2e6

/// Name of the processor from /proc/cpuinfo: "model name" on x86, other keys elsewhere.
static void bst_cpu_name(char* name, size_t bytes) {
  static const char* const keys[] = {"model name", "Model", "Hardware", "cpu model", "uarch"};
  char line[512];
  snprintf(name, bytes, "unknown");
  for (size_t k = 0; k < sizeof keys / sizeof *keys; ++k) {
    FILE* const stream = fopen("/proc/cpuinfo", "r");
    if (stream == NULL) return;
    while (fgets(line, sizeof line, stream) != NULL) {
      const char* const colon = strchr(line, ':');
      if (colon == NULL || strncmp(line, keys[k], strlen(keys[k])) != 0) continue;
      line[strcspn(line, "\n")] = '\0';
      snprintf(name, bytes, "%s", colon + 1 + strspn(colon + 1, " \t"));
      fclose(stream);
      return;
    }
    fclose(stream);
  }
}

static int bst_compare_times(const void* a, const void* b) {
  const double x = *(const double*)a, y = *(const double*)b;
  return (x > y) - (x < y);
}

/// Time single frames into `times`; return how many.
static size_t bst_time_frames(const bst_loaded* loaded, const uint8_t* pattern, int64_t* raw,
                              double* times) {
  const bst_model_info* const info = &loaded->info;
  double total = 0;
  size_t n = 0;
  for (size_t run = 0; n < BST_MAX_RUNS && (n < BST_MIN_RUNS || total < BST_BENCH_US); ++run) {
    const uint8_t* frame = pattern;
    const int64_t* expected;
    if (info->n_golden > 0 && bst_model_golden(loaded->model, (uint32_t)(run % info->n_golden),
                                               &frame, &expected) != BST_OK) {
      return 0;
    }
    const double start = bst_now_us();
    const bst_status status =
        bst_session_run(loaded->session, frame, (size_t)info->frame_bytes, raw, info->n_classes);
    const double us = bst_now_us() - start;
    if (status != BST_OK) return 0;
    if (run < BST_WARM_UP_RUNS) continue;
    times[n++] = us;
    total += us;
  }
  return n;
}

static void bst_print_line(const bst_loaded* loaded, double* times, size_t n, uint32_t n_equal) {
  char cpu[256];
  bst_cpu_name(cpu, sizeof cpu);
  qsort(times, n, sizeof *times, bst_compare_times);
  const double p50 = times[n / 2] * 1e-3, p99 = times[(n * 99) / 100] * 1e-3;
  printf("bst_bench %s | cpu %s | isa %s | threads 1 | p50 %.3f ms | p99 %.3f ms | runs %zu | ",
         bst_version(), cpu, bst_isa_name(), p50, p99, n);
  if (loaded->info.n_golden == 0) {
    printf("golden none\n");
  } else {
    printf("golden %s (%lu of %lu)\n", n_equal == loaded->info.n_golden ? "ok" : "DIFFERENT",
           (unsigned long)n_equal, (unsigned long)loaded->info.n_golden);
  }
}

static int bst_bench(const char* path, const bst_loaded* loaded) {
  const size_t frame_bytes = (size_t)loaded->info.frame_bytes;
  uint8_t* const pattern = malloc(frame_bytes);
  int64_t* const raw = malloc(loaded->info.n_classes * sizeof *raw);
  double* const times = malloc(BST_MAX_RUNS * sizeof *times);
  int code = BST_EXIT_BAD_INPUT;
  if (pattern == NULL || raw == NULL || times == NULL) {
    code = bst_complain(code, "use a machine with more memory", "no memory");
  } else {
    for (size_t i = 0; i < frame_bytes; ++i) pattern[i] = (uint8_t)(i * 37 + i / 29);
    const uint32_t n_equal = bst_run_golden(loaded, raw);
    const size_t n = bst_time_frames(loaded, pattern, raw, times);
    if (n == 0) {
      code = bst_complain(code, "run bst_run --golden on it", "`%s`: %s", path, bst_last_error());
    } else {
      bst_print_line(loaded, times, n, n_equal);
      code = n_equal == loaded->info.n_golden ? BST_EXIT_OK : BST_EXIT_DIFFERENT;
    }
  }
  free(times);
  free(raw);
  free(pattern);
  return code;
}

int main(int argc, char** argv) {
  bst_options options;
  bst_loaded loaded;
  int code = bst_parse(argc, argv, bst_help, false, &options);
  if (code != BST_EXIT_OK) return code < 0 ? BST_EXIT_OK : code;
  code = bst_load(options.model_path, &loaded);
  if (code == BST_EXIT_OK) code = bst_bench(options.model_path, &loaded);
  bst_unload(&loaded);
  if ((fflush(stdout) != 0 || ferror(stdout)) && code == BST_EXIT_OK) {
    code = bst_complain(BST_EXIT_CANNOT_WRITE, "check standard output", "cannot write the result");
  }
  return code;
}
