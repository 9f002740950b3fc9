// SPDX-License-Identifier: MIT
// bst_bench: time a .bstm on this machine and check its golden vectors; one pasteable line.

#include "host.h"

static const char bst_help[] =
    "usage: bst_bench MODEL.bstm [--isa NAME] [--threads N] [--module NET.so]\n"
    "\n"
    "Runs single frames for about 2 seconds after a warm-up (at least 20, at most 2000) on the\n"
    "file's golden frames, or on a fixed pattern where it has none, and prints one line: cpu, "
    "isa,\n"
    "threads, p50 and p99 of the time that one frame takes, frames per second, number of runs,\n"
    "golden vectors equal.\n"
    "\n"
    "  --isa NAME   instruction set of the kernels; the best one where it is left out\n"
    "  --threads N  threads that share the work of each frame, 1 where it is left out\n"
    "  --module F   net.so of `bestdeploy compile --backend tvm`: runs the network in its place\n"
    "\n"
    "exit codes: 0 ok, 2 usage, 4 unsupported model or instruction set, 5 golden vectors differ,\n"
    "            7 bad file, 8 cannot write\n";

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

typedef struct bst_bench {
  const bst_loaded* loaded;
  const uint8_t* pattern;  // a frame, where the file has none
  int64_t* raw;            // [n_classes]
  double* times;           // [BST_MAX_RUNS], microseconds
  size_t n_runs;
  double total_us;
} bst_bench;

/// Time single frames. @return whether all could be run
static bool bst_time_frames(bst_bench* bench) {
  const bst_loaded* const loaded = bench->loaded;
  const bst_model_info* const info = &loaded->info;
  double total = 0;
  size_t n = 0;
  for (size_t run = 0; n < BST_MAX_RUNS && (n < BST_MIN_RUNS || total < BST_BENCH_US); ++run) {
    const uint8_t* frame = bench->pattern;
    const int64_t* expected;
    if (info->n_golden > 0) {
      const uint32_t which = (uint32_t)(run % info->n_golden);
      if (bst_model_golden(loaded->model, which, &frame, &expected) != BST_OK) return false;
    }
    const double start = bst_now_us();
    const bst_status status = bst_run_once(loaded, frame, bench->raw);
    const double us = bst_now_us() - start;
    if (status != BST_OK) return false;
    if (run < BST_WARM_UP_RUNS) continue;
    bench->times[n++] = us;
    total += us;
  }
  bench->n_runs = n;
  bench->total_us = total;
  return true;
}

static void bst_print_line(const bst_bench* bench, uint32_t n_equal) {
  const bst_loaded* const loaded = bench->loaded;
  const size_t n = bench->n_runs;
  char cpu[256];
  bst_cpu_name(cpu, sizeof cpu);
  qsort(bench->times, n, sizeof(double), bst_compare_times);
  const double p50 = bench->times[n / 2] * 1e-3, p99 = bench->times[(n * 99) / 100] * 1e-3;
  printf("bst_bench %s | cpu %s | isa %s | threads %lu | p50 %.3f ms | p99 %.3f ms | ",
         bst_version(), cpu, loaded->module != NULL ? "module" : bst_model_isa(loaded->model),
         (unsigned long)loaded->n_threads, p50, p99);
  printf("frames/s %.1f | runs %zu | ", (double)n * 1e6 / bench->total_us, n);
  if (loaded->info.n_golden == 0) {
    printf("golden none\n");
  } else {
    printf("golden %s (%lu of %lu)\n", n_equal == loaded->info.n_golden ? "ok" : "DIFFERENT",
           (unsigned long)n_equal, (unsigned long)loaded->info.n_golden);
  }
}

/// Measure and print; the buffers are large enough.
static int bst_measure(bst_bench* bench, uint8_t* pattern) {
  const bst_loaded* const loaded = bench->loaded;
  for (size_t i = 0; i < loaded->info.frame_bytes; ++i) pattern[i] = (uint8_t)(i * 37 + i / 29);
  const uint32_t n_equal = bst_run_golden(loaded, bench->raw);
  if (!bst_time_frames(bench)) {
    return bst_complain(BST_EXIT_BAD_INPUT, "run bst_run --golden on it", "a frame cannot be run");
  }
  bst_print_line(bench, n_equal);
  return n_equal == loaded->info.n_golden ? BST_EXIT_OK : BST_EXIT_DIFFERENT;
}

static int bst_run_bench(const bst_loaded* loaded) {
  uint8_t* const pattern = malloc((size_t)loaded->info.frame_bytes);
  int64_t* const raw = malloc(loaded->info.n_classes * sizeof *raw);
  double* const times = malloc(BST_MAX_RUNS * sizeof *times);
  bst_bench bench = {.loaded = loaded, .pattern = pattern, .raw = raw, .times = times};
  const int code = pattern == NULL || raw == NULL || times == NULL
                       ? bst_complain_memory("a frame", (size_t)loaded->info.frame_bytes)
                       : bst_measure(&bench, pattern);
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
  code = bst_load(&options, &loaded);
  if (code == BST_EXIT_OK) code = bst_run_bench(&loaded);
  bst_unload(&loaded);
  return bst_flushed(code);
}
