// SPDX-License-Identifier: MIT
// Times the event-driven layer (lists, accumulator, neuron) against dense rivals on one thread; see
// rivals.h. Every contender's spikes are compared with those of the scalar kernel before anything
// is timed: what is wrong is not timed, and the program ends with 5. Contenders take turns, so that
// a slow moment of the machine meets all of them. JSON lines on standard output:
//
//   {"kind": "machine", "isa", "ghz"}       ghz 0: unknown
//   {"kind": "skipped", "contender", "why"}
//   {"kind": "layer", "shape", "rate", "contender", "equal", "events", "rows", "us": [p10 p50 p90]}
//       events: weight rows that are added; rows: spike rows = T x pixels; us of thread CPU time
//   {"kind": "accumulate", "n_in", "rate", "events", "us"}
//       time of `events` more rows of 512 lanes, by differences, see time_accumulate
//   {"kind": "counted", "shape", "rate", "contender", "equal", "events"}
//       with --count: one run between two marks, in this order, instead of timing

#define _GNU_SOURCE  // CLOCK_THREAD_CPUTIME_ID, syscall

#include "../../runtime/src/isa.h"
#include "bench.h"
#include "rival_amx.h"
#include "rival_avx2.h"
#include "rival_avx512.h"
#include "rival_neon.h"
#include "rival_words.h"

static const char help[] =
    "usage: kernels_bench [--isa NAME] [--shape H,W,IN,OUT,KERNEL]... [--rate R]... [--reps N]\n"
    "                     [--accumulate] [--count]\n"
    "\n"
    "  --isa NAME    kernels of ours: avx512, avx2, neon or scalar; the best one if left out\n"
    "  --shape ...   a layer: height, width, inputs, outputs, window; --rate its firing rate\n"
    "  --reps N      samples of every contender (default 21); 0: only compare\n"
    "  --accumulate  time the accumulator alone, at the rates given, with 384 inputs\n"
    "  --count       run every contender once between two marks, for an instruction counter\n";

enum { MAX_SHAPES = 32, MAX_RATES = 16, MAX_CONTENDERS = 8, MAX_REPS = 401 };
static const double sample_us = 60;  // a sample runs a contender again until it takes this long

// ---- Ours ---------------------------------------------------------------------------------------

/// A layer laid out for one version of ours.
typedef struct ours {
  const bst_spike_conv* kernels;
  uint64_t* rows;
  void *theta, *scratch;
} ours;

static ours ours_make(const bst_spike_conv* k, const layer* l) {
  const int w = l->kernel;
  ours made = {.kernels = k};
  made.rows = bench_allocate(k->rows_bytes(l->n_out, w, w, l->n_in, 1));
  made.theta = bench_allocate(k->theta_bytes(LAYER_STEPS, l->n_out, l->fan_in));
  made.scratch =
      bench_allocate((size_t)k->scratch_bytes(LAYER_STEPS, l->width, l->n_out, w, w, l->n_in, 1));
  k->prepare_rows(l->n_out, w, w, l->n_in, 1, l->bits, made.rows);
  k->prepare_theta(LAYER_STEPS, l->n_out, w, w, l->n_in, 1, l->bits, l->u, l->w, 0, NULL, NULL,
                   made.theta);
  return made;
}

static void ours_run(const layer* l, const ours* o, uint64_t* out) {
  o->kernels->neuron(0, 1, LAYER_STEPS, l->height, l->width, l->n_in, l->n_out, l->kernel,
                     l->kernel, 1, l->pad, 0, l->spikes, o->rows, o->theta, out, o->scratch);
}

static void ours_free(ours* o) {
  free(o->rows);
  free(o->theta);
  free(o->scratch);
}

// ---- Rivals -------------------------------------------------------------------------------------

static const rival rivals[] = {
#if defined(__x86_64__)
    {"dense vpopcnt", "avx512", "AVX-512 with VPOPCNTDQ", rival_has_avx512, rival_avx512_prepare,
     rival_avx512_run},
    {"vnni int8", "avx512", "AVX-512 with VNNI", rival_has_vnni, rival_vnni_prepare,
     rival_vnni_run},
    {AMX_NAME, "avx512", "AMX with int8", rival_has_amx, rival_amx_prepare, rival_amx_run},
    {"dense pshufb", "avx2", "AVX2", rival_has_avx2, rival_avx2_prepare, rival_avx2_run},
#elif defined(__aarch64__)
    {"dense vcnt", "neon", "NEON", rival_always, rival_neon_prepare, rival_neon_run},
#endif
    {"dense popcnt", NULL, "POPCNT", rival_has_popcnt, rival_words_prepare, rival_words_run},
};

static bool is_wanted(const rival* r, const bst_isa* isa) {
  return r->isa == NULL || strcmp(r->isa, isa->name) == 0;
}

// ---- One layer ----------------------------------------------------------------------------------

/// Ours (`kernel` NULL) or a rival, ready to run a layer.
typedef struct contender {
  const char* name;
  const rival* kernel;
  rival_state state;
  ours own;
  int n_runs;  // per sample
  double us[MAX_REPS];
} contender;

static void run(const layer* l, contender* c) {
  if (c->kernel == NULL) {
    ours_run(l, &c->own, l->out);
  } else {
    c->kernel->run(l, &c->state, l->out);
  }
}

/// Compare a contender's spikes with those of the scalar kernel.
static bool is_equal(const layer* l, contender* c, const uint64_t* expected) {
  const size_t bytes = layer_out_count(l) * 8;
  memset(l->out, 0xA5, bytes);
  run(l, c);
  return memcmp(l->out, expected, bytes) == 0;
}

static double time_once(const layer* l, contender* c) {
  const double start = bench_now_us();
  for (int i = 0; i < c->n_runs; ++i) run(l, c);
  return (bench_now_us() - start) / c->n_runs;
}

/// Runs per sample that make a sample long enough for the clock.
static void choose_runs(const layer* l, contender* c) {
  c->n_runs = 1;
  double us = time_once(l, c);
  if (us < 0.1) us = 0.1;
  if (us < sample_us) c->n_runs = (int)(sample_us / us) + 1;
}

static void time_in_turn(const layer* l, contender* all, int n, int reps) {
  for (int i = 0; i < n; ++i) choose_runs(l, &all[i]);
  for (int rep = 0; rep < reps; ++rep) {
    for (int i = 0; i < n; ++i) all[i].us[rep] = time_once(l, &all[i]);
  }
  for (int i = 0; i < n; ++i) bench_sort(all[i].us, reps);
}

static int make_contenders(const layer* l, const bst_isa* isa, contender* all) {
  int n = 1;
  all[0] = (contender){.name = "ours", .own = ours_make(isa->spike_conv, l)};
  for (size_t i = 0; i < sizeof rivals / sizeof *rivals; ++i) {
    const rival* const r = &rivals[i];
    if (!is_wanted(r, isa) || !r->is_usable()) continue;
    all[n] = (contender){.name = r->name, .kernel = r};
    r->prepare(l, &all[n++].state);
  }
  return n;
}

static void free_contenders(contender* all, int n) {
  for (int i = 0; i < n; ++i) {
    if (all[i].kernel == NULL) {
      ours_free(&all[i].own);
    } else {
      rival_free(&all[i].state);
    }
  }
}

static void print_head(const char* kind, const layer* l, const contender* c, bool equal) {
  printf(
      "{\"kind\": \"%s\", \"shape\": [%d, %d, %d, %d, %d], \"rate\": %g, \"contender\": \"%s\", "
      "\"equal\": %s, \"events\": %llu, \"rows\": %zu",
      kind, l->height, l->width, l->n_in, l->n_out, l->kernel, l->rate, c->name,
      equal ? "true" : "false", (unsigned long long)l->n_events, LAYER_STEPS * l->n_pixels);
}

typedef struct options {
  const bst_isa* isa;
  int shapes[MAX_SHAPES][5], n_shapes, n_rates, reps;
  double rates[MAX_RATES];
  bool accumulate, count;
} options;

/// @return whether all contenders gave the spikes of the scalar kernel
static bool compete(const options* o, const int* shape, double rate) {
  static contender all[MAX_CONTENDERS];
  layer l = layer_make(shape[0], shape[1], shape[2], shape[3], shape[4], rate, 1);
  const size_t bytes = layer_out_count(&l) * 8;
  uint64_t* const expected = bench_allocate(bytes);
  ours scalar = ours_make(&bst_spike_conv__scalar, &l);
  ours_run(&l, &scalar, expected);
  ours_free(&scalar);
  const int n = make_contenders(&l, o->isa, all);
  bool equal[MAX_CONTENDERS], all_equal = true;
  for (int i = 0; i < n; ++i) {
    equal[i] = is_equal(&l, &all[i], expected);
    all_equal = all_equal && equal[i];
  }
  if (o->count) {
    for (int i = 0; i < n; ++i) {
      bench_mark();
      run(&l, &all[i]);
      bench_mark();
      print_head("counted", &l, &all[i], equal[i]);
      printf("}\n");
    }
  } else {
    if (all_equal && o->reps > 0) time_in_turn(&l, all, n, o->reps);
    for (int i = 0; i < n; ++i) {
      print_head("layer", &l, &all[i], equal[i]);
      if (all_equal && o->reps > 0) {
        printf(", \"us\": [%.3f, %.3f, %.3f]", bench_quantile(all[i].us, o->reps, 0.1),
               bench_quantile(all[i].us, o->reps, 0.5), bench_quantile(all[i].us, o->reps, 0.9));
      }
      printf("}\n");
    }
  }
  fflush(stdout);
  free_contenders(all, n);
  free(expected);
  layer_free(&l);
  return all_equal;
}

// ---- Accumulator --------------------------------------------------------------------------------

/// Time of the accumulator alone, through the kernel's interface. Layers of 1024 and 512 outputs
/// differ by one block of 512 lanes (its sums and neurons; the lists are the same), and that
/// difference at two rates differs by the rows that are added in the block:
///   [t(1024, rate) - t(512, rate)] - [t(1024, low) - t(512, low)], with events(rate) - events(low)
/// A difference of differences is sensitive: it takes the best times, because a busy machine only
/// adds to them.
static void time_accumulate(const options* o, double rate) {
  enum { N = 4, N_IN = 384, SIDE = 8, SAMPLES_PER_REP = 4 };
  const double low = 0.02;
  static contender all[N];
  layer layers[N];
  double best[N] = {1e12, 1e12, 1e12, 1e12};
  for (int i = 0; i < N; ++i) {
    layers[i] = layer_make(SIDE, SIDE, N_IN, i % 2 == 0 ? 1024 : 512, 1, i < 2 ? rate : low, 1);
    all[i] = (contender){.name = "ours", .own = ours_make(o->isa->spike_conv, &layers[i])};
    choose_runs(&layers[i], &all[i]);
  }
  for (int rep = 0; rep < SAMPLES_PER_REP * o->reps; ++rep) {
    for (int i = 0; i < N; ++i) {
      const double us = time_once(&layers[i], &all[i]);
      if (us < best[i]) best[i] = us;
    }
  }
  printf(
      "{\"kind\": \"accumulate\", \"n_in\": %d, \"rate\": %g, \"events\": %llu, "
      "\"us\": %.3f}\n",
      N_IN, rate, (unsigned long long)(layers[0].n_events - layers[2].n_events),
      (best[0] - best[1]) - (best[2] - best[3]));
  fflush(stdout);
  for (int i = 0; i < N; ++i) {
    ours_free(&all[i].own);
    layer_free(&layers[i]);
  }
}

// ---- Arguments ----------------------------------------------------------------------------------

static bool parse_shape(const char* text, int* shape) {
  const int n =
      sscanf(text, "%d,%d,%d,%d,%d", &shape[0], &shape[1], &shape[2], &shape[3], &shape[4]);
  bool good = n == 5 && (shape[4] == 1 || shape[4] == 3 || shape[4] == 5);
  for (int i = 0; i < 4 && good; ++i) good = shape[i] > 0 && shape[i] <= 4096;
  return good && shape[2] * shape[4] * shape[4] <= 32767;
}

static bool parse(int argc, char** argv, options* o) {
  const char* isa = NULL;
  *o = (options){.reps = 21};
  for (int i = 1; i < argc; ++i) {
    const char* const word = argv[i];
    if (strcmp(word, "--accumulate") == 0) {
      o->accumulate = true;
    } else if (strcmp(word, "--count") == 0) {
      o->count = true;
    } else if (i + 1 == argc) {
      return false;
    } else if (strcmp(word, "--isa") == 0) {
      isa = argv[++i];
    } else if (strcmp(word, "--reps") == 0) {
      o->reps = atoi(argv[++i]);
    } else if (strcmp(word, "--shape") == 0 && o->n_shapes < MAX_SHAPES) {
      if (!parse_shape(argv[++i], o->shapes[o->n_shapes++])) return false;
    } else if (strcmp(word, "--rate") == 0 && o->n_rates < MAX_RATES) {
      o->rates[o->n_rates++] = atof(argv[++i]);
    } else {
      return false;
    }
  }
  o->isa = bst_find_isa(isa);
  return o->isa != NULL && o->reps >= 0 && o->reps < MAX_REPS;
}

int main(int argc, char** argv) {
  options o;
  if (!parse(argc, argv, &o)) {
    fputs(help, stderr);
    return 2;
  }
  printf("{\"kind\": \"machine\", \"isa\": \"%s\", \"ghz\": %.3f}\n", o.isa->name,
         o.count ? 0.0 : bench_ghz());
  for (size_t i = 0; i < sizeof rivals / sizeof *rivals; ++i) {
    if (!is_wanted(&rivals[i], o.isa) || rivals[i].is_usable()) continue;
    printf("{\"kind\": \"skipped\", \"contender\": \"%s\", \"why\": \"this machine has no %s\"}\n",
           rivals[i].name, rivals[i].needs);
  }
  bool equal = true;
  for (int s = 0; s < o.n_shapes; ++s) {
    for (int r = 0; r < o.n_rates; ++r) equal = compete(&o, o.shapes[s], o.rates[r]) && equal;
  }
  if (o.accumulate && o.reps > 0) {
    for (int r = 0; r < o.n_rates; ++r) time_accumulate(&o, o.rates[r]);
  }
  if (!equal) fputs("error: a contender's spikes differ\n", stderr);
  return equal ? 0 : 5;
}
