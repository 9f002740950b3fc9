// SPDX-License-Identifier: MIT
// bst_bench: time a .bstm on this machine and check its golden vectors; one pasteable line.

#include "host.h"

static const char bst_help[] =
    "usage: bst_bench MODEL.bstm [--isa NAME] [--threads N]\n"
    "\n"
    "Runs single frames for about 2 seconds after a warm-up (at least 20, at most 2000 on each\n"
    "thread) on the file's golden frames, or on a fixed pattern where it has none, and prints one\n"
    "line: cpu, isa, threads, p50 and p99 of the time that one frame takes, frames per second of\n"
    "all threads together, number of runs, golden vectors equal.\n"
    "\n"
    "  --isa NAME   instruction set of the kernels; the best one where it is left out\n"
    "  --threads N  N sessions of the model run at the same time\n"
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

/// What the threads share, and what each of them measured.
typedef struct bst_bench {
  const bst_loaded* loaded;
  const uint8_t* pattern;  // a frame, where the file has none
  double* times;           // [n_threads, BST_MAX_RUNS], microseconds
  size_t n_runs[BST_MAX_THREADS];
  double total_us[BST_MAX_THREADS];
  bool failed[BST_MAX_THREADS];
} bst_bench;

/// Time single frames on session `index`.
static void bst_time_frames(void* context, int index) {
  bst_bench* const bench = context;
  const bst_loaded* const loaded = bench->loaded;
  const bst_model_info* const info = &loaded->info;
  double* const times = bench->times + (size_t)index * BST_MAX_RUNS;
  int64_t* const raw = malloc(info->n_classes * sizeof *raw);
  double total = 0;
  size_t n = 0;
  bool ok = raw != NULL;
  for (size_t run = 0; ok && n < BST_MAX_RUNS && (n < BST_MIN_RUNS || total < BST_BENCH_US);
       ++run) {
    const uint8_t* frame = bench->pattern;
    const int64_t* expected;
    if (info->n_golden > 0) {
      const uint32_t which = (uint32_t)(run % info->n_golden);
      ok = bst_model_golden(loaded->model, which, &frame, &expected) == BST_OK;
    }
    const double start = bst_now_us();
    ok = ok && bst_session_run(loaded->sessions[index], frame, (size_t)info->frame_bytes, raw,
                               info->n_classes) == BST_OK;
    const double us = bst_now_us() - start;
    if (run < BST_WARM_UP_RUNS) continue;
    times[n++] = us;
    total += us;
  }
  bench->n_runs[index] = n;
  bench->total_us[index] = total;
  bench->failed[index] = !ok;
  free(raw);
}

static void bst_print_line(bst_bench* bench, uint32_t n_equal) {
  const bst_loaded* const loaded = bench->loaded;
  char cpu[256];
  size_t n = 0;
  double per_second = 0;
  for (int i = 0; i < loaded->n_threads; ++i) {
    const size_t n_here = bench->n_runs[i];
    memmove(bench->times + n, bench->times + (size_t)i * BST_MAX_RUNS, n_here * sizeof(double));
    per_second += (double)n_here * 1e6 / bench->total_us[i];
    n += n_here;
  }
  bst_cpu_name(cpu, sizeof cpu);
  qsort(bench->times, n, sizeof(double), bst_compare_times);
  const double p50 = bench->times[n / 2] * 1e-3, p99 = bench->times[(n * 99) / 100] * 1e-3;
  printf("bst_bench %s | cpu %s | isa %s | threads %d | p50 %.3f ms | p99 %.3f ms | ",
         bst_version(), cpu, bst_model_isa(loaded->model), loaded->n_threads, p50, p99);
  printf("frames/s %.1f | runs %zu | ", per_second, n);
  if (loaded->info.n_golden == 0) {
    printf("golden none\n");
  } else {
    printf("golden %s (%lu of %lu)\n", n_equal == loaded->info.n_golden ? "ok" : "DIFFERENT",
           (unsigned long)n_equal, (unsigned long)loaded->info.n_golden);
  }
}

/// Measure and print; the buffers are large enough.
static int bst_measure(bst_bench* bench, uint8_t* pattern, int64_t* raw) {
  const bst_loaded* const loaded = bench->loaded;
  for (size_t i = 0; i < loaded->info.frame_bytes; ++i) pattern[i] = (uint8_t)(i * 37 + i / 29);
  const uint32_t n_equal = bst_run_golden(loaded, raw);
  bst_work_side_by_side(loaded->n_threads, bst_time_frames, bench);
  for (int i = 0; i < loaded->n_threads; ++i) {
    if (bench->failed[i]) {
      return bst_complain(BST_EXIT_BAD_INPUT, "run bst_run --golden on it",
                          "a frame cannot be run");
    }
  }
  bst_print_line(bench, n_equal);
  return n_equal == loaded->info.n_golden ? BST_EXIT_OK : BST_EXIT_DIFFERENT;
}

static int bst_run_bench(const bst_loaded* loaded) {
  uint8_t* const pattern = malloc((size_t)loaded->info.frame_bytes);
  int64_t* const raw = malloc(loaded->info.n_classes * sizeof *raw);
  double* const times = malloc((size_t)loaded->n_threads * BST_MAX_RUNS * sizeof *times);
  bst_bench bench = {.loaded = loaded, .pattern = pattern, .times = times};
  const int code = pattern == NULL || raw == NULL || times == NULL
                       ? bst_complain_memory("a frame", (size_t)loaded->info.frame_bytes)
                       : bst_measure(&bench, pattern, raw);
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
