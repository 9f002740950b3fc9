// SPDX-License-Identifier: MIT
// Limits of one core: how many of the operations that kernels are made of it does per cycle, best
// of many short runs, registers only where not said otherwise. JSON lines:
//
//   {"kind": "machine", "ghz"}   0: unknown, then only per_ns is given
//   {"kind": "limit", "isa", "name", "unit", "per_ns", "per_cycle", "lane_adds", "macs"}
//   {"kind": "skipped", "isa", "why"}
//
// lane_adds, macs: what one unit does for an event-driven or a dense kernel: a full adder adds one
// row of spikes' weights in every one-bit lane, a popcount group multiplies and sums its bits.

#define _GNU_SOURCE  // CLOCK_THREAD_CPUTIME_ID, syscall

#include "bench.h"
#include "machine.h"

enum { N_LOOPS = 20000, N_TRIES = 25, L2_BYTES = 256 << 10 };

typedef struct limit {
  const char *isa, *name, *unit;
  int per_call, lane_adds, macs;  // units per call of `run`; lanes and MACs per unit
  bool (*is_usable)(void);
  void (*run)(const uint8_t* memory);  // N_LOOPS rounds
} limit;

#define EIGHT(x) x(0) x(1) x(2) x(3) x(4) x(5) x(6) x(7)

#if defined(__x86_64__)

#define CLOBBERED                                                                           \
  "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", \
      "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15"

/// A function that executes assembly N_LOOPS times, two at a time; %0 is the memory.
#define LIMIT(name, target, text)                              \
  target static void name(const uint8_t* memory) {             \
    for (int i = 0; i < N_LOOPS; i += 2) {                     \
      __asm__ volatile(text text : : "r"(memory) : CLOBBERED); \
    }                                                          \
  }

// Full adders: two ternary operations, or xor, xor, and, and, or; eight that do not wait for each
// other.
#define SUM_ZMM(i) "vpternlogq $0x96, %%zmm14, %%zmm15, %%zmm" #i "\n\t"
#define CARRY_ZMM(i) "vpternlogq $0xB2, %%zmm14, %%zmm13, %%zmm" #i "\n\t"
#define SUM_YMM(i) "vpternlogq $0x96, %%ymm14, %%ymm15, %%ymm" #i "\n\t"
#define CARRY_YMM(i) "vpternlogq $0xB2, %%ymm14, %%ymm13, %%ymm" #i "\n\t"
#define ADD_YMM5(i)                     \
  "vpxor %%ymm14, %%ymm15, %%ymm8\n\t"  \
  "vpand %%ymm14, %%ymm15, %%ymm9\n\t"  \
  "vpand %%ymm8, %%ymm" #i              \
  ", %%ymm10\n\t"                       \
  "vpxor %%ymm8, %%ymm" #i ", %%ymm" #i \
  "\n\t"                                \
  "vpor %%ymm9, %%ymm10, %%ymm11\n\t"
// The same with a row from the first-level cache per adder, as a kernel reads them.
#define ADD_ROW_ZMM(i)                          \
  "vmovdqu64 64*" #i                            \
  "(%0), %%zmm8\n\t"                            \
  "vpternlogq $0x96, %%zmm14, %%zmm8, %%zmm" #i \
  "\n\t"                                        \
  "vpternlogq $0xB2, %%zmm14, %%zmm" #i ", %%zmm8\n\t"
#define ADD_ROW_YMM(i)                  \
  "vmovdqu 32*" #i                      \
  "(%0), %%ymm12\n\t"                   \
  "vpxor %%ymm14, %%ymm12, %%ymm8\n\t"  \
  "vpand %%ymm14, %%ymm12, %%ymm9\n\t"  \
  "vpand %%ymm8, %%ymm" #i              \
  ", %%ymm10\n\t"                       \
  "vpxor %%ymm8, %%ymm" #i ", %%ymm" #i \
  "\n\t"                                \
  "vpor %%ymm9, %%ymm10, %%ymm11\n\t"
#define POPCOUNT_ZMM(i)                 \
  "vpandq %%zmm14, %%zmm15, %%zmm8\n\t" \
  "vpopcntq %%zmm8, %%zmm8\n\t"         \
  "vpaddq %%zmm8, %%zmm" #i ", %%zmm" #i "\n\t"
#define POPCOUNT_YMM(i)                 \
  "vpand %%ymm14, %%ymm15, %%ymm8\n\t"  \
  "vpand %%ymm8, %%ymm13, %%ymm9\n\t"   \
  "vpsrlw $4, %%ymm8, %%ymm8\n\t"       \
  "vpand %%ymm8, %%ymm13, %%ymm8\n\t"   \
  "vpshufb %%ymm9, %%ymm12, %%ymm9\n\t" \
  "vpshufb %%ymm8, %%ymm12, %%ymm8\n\t" \
  "vpaddb %%ymm9, %%ymm8, %%ymm8\n\t"   \
  "vpaddb %%ymm8, %%ymm" #i ", %%ymm" #i "\n\t"
#define VNNI_ZMM(i) "vpdpbusd %%zmm14, %%zmm15, %%zmm" #i "\n\t"
#define FMA_ZMM(i) "vfmadd231ps %%zmm14, %%zmm15, %%zmm" #i "\n\t"
#define FMA_YMM(i) "vfmadd231ps %%ymm14, %%ymm15, %%ymm" #i "\n\t"
#define LOAD_ZMM(i) "vmovdqu64 64*" #i "(%0), %%zmm" #i "\n\t"
#define LOAD_YMM(i) "vmovdqu 32*" #i "(%0), %%ymm" #i "\n\t"

LIMIT(add_zmm, AVX512_TARGET, EIGHT(SUM_ZMM) EIGHT(CARRY_ZMM))
LIMIT(add_ymm3, AVX512_TARGET, EIGHT(SUM_YMM) EIGHT(CARRY_YMM))
LIMIT(add_ymm5, AVX2_TARGET, EIGHT(ADD_YMM5))
LIMIT(add_row_zmm, AVX512_TARGET, EIGHT(ADD_ROW_ZMM))
LIMIT(add_row_ymm, AVX2_TARGET, EIGHT(ADD_ROW_YMM))
LIMIT(popcount_zmm, AVX512_TARGET, EIGHT(POPCOUNT_ZMM))
LIMIT(popcount_ymm, AVX2_TARGET, EIGHT(POPCOUNT_YMM))
LIMIT(vnni_zmm, AVX512_TARGET, EIGHT(VNNI_ZMM))
LIMIT(fma_zmm, AVX512_TARGET, EIGHT(FMA_ZMM))
LIMIT(fma_ymm, __attribute__((target("avx2,fma"))), EIGHT(FMA_YMM))
LIMIT(load_zmm, AVX512_TARGET, EIGHT(LOAD_ZMM))
LIMIT(load_ymm, AVX2_TARGET, EIGHT(LOAD_YMM))

static void popcount_word(const uint8_t* memory) {
  for (int i = 0; i < N_LOOPS; ++i) {
    uint64_t a, b, c, d;  // the result is said to depend on its register: four of them
    __asm__ volatile(
        "popcnt %4, %0\n\tpopcnt %4, %1\n\tpopcnt %4, %2\n\tpopcnt %4, %3\n\t"
        "popcnt %4, %0\n\tpopcnt %4, %1\n\tpopcnt %4, %2\n\tpopcnt %4, %3"
        : "=&r"(a), "=&r"(b), "=&r"(c), "=&r"(d)
        : "r"(memory));
  }
}

/// All of the second-level buffer, 64 bytes at a time, N_LOOPS * 8 loads.
AVX512_TARGET static void load_l2_zmm(const uint8_t* memory) {
  for (size_t i = 0; i < N_LOOPS; ++i) {
    const uint8_t* const at = memory + i * 512 % L2_BYTES;
    __asm__ volatile(EIGHT(LOAD_ZMM) : : "r"(at) : CLOBBERED);
  }
}
AVX2_TARGET static void load_l2_ymm(const uint8_t* memory) {
  for (size_t i = 0; i < N_LOOPS; ++i) {
    const uint8_t* const at = memory + i * 256 % L2_BYTES;
    __asm__ volatile(EIGHT(LOAD_YMM) : : "r"(at) : CLOBBERED);
  }
}

AMX_TARGET static void amx_tiles_run(const uint8_t* memory) {
  (void)memory;
  amx_begin();
  for (int i = 0; i < N_LOOPS; ++i) {
    _tile_dpbusd(0, 4, 6);
    _tile_dpbusd(1, 4, 7);
    _tile_dpbusd(2, 5, 6);
    _tile_dpbusd(3, 5, 7);
  }
  _tile_release();
}

static bool has_fma(void) { return rival_has_avx2() && __builtin_cpu_supports("fma") != 0; }

static const limit limits[] = {
    {"avx512", "full adder, 2 vpternlogq zmm", "adder", 8, 512, 0, rival_has_avx512, add_zmm},
    {"avx512", "full adder and its load, zmm", "adder", 8, 512, 0, rival_has_avx512, add_row_zmm},
    {"avx512", "full adder, 2 vpternlogq ymm", "adder", 8, 256, 0, rival_has_avx512, add_ymm3},
    {"avx512", "vpandq vpopcntq vpaddq zmm", "group", 8, 0, 512, rival_has_avx512, popcount_zmm},
    {"avx512", "vpdpbusd zmm", "op", 8, 0, 64, rival_has_vnni, vnni_zmm},
    {"avx512", "tdpbusd (AMX int8)", "op", 4, 0, 16384, rival_has_amx, amx_tiles_run},
    {"avx512", "vfmadd231ps zmm", "op", 8, 0, 16, rival_has_avx512, fma_zmm},
    {"avx512", "load zmm, first-level cache", "byte", 8 * 64, 0, 0, rival_has_avx512, load_zmm},
    {"avx512", "load zmm, second-level cache", "byte", 8 * 64, 0, 0, rival_has_avx512, load_l2_zmm},
    {"avx2", "full adder, 5 operations ymm", "adder", 8, 256, 0, rival_has_avx2, add_ymm5},
    {"avx2", "full adder and its load, ymm", "adder", 8, 256, 0, rival_has_avx2, add_row_ymm},
    {"avx2", "popcount by vpshufb, 8 operations", "group", 8, 0, 256, rival_has_avx2, popcount_ymm},
    {"avx2", "vfmadd231ps ymm", "op", 8, 0, 8, has_fma, fma_ymm},
    {"avx2", "load ymm, first-level cache", "byte", 8 * 32, 0, 0, rival_has_avx2, load_ymm},
    {"avx2", "load ymm, second-level cache", "byte", 8 * 32, 0, 0, rival_has_avx2, load_l2_ymm},
    {"scalar", "popcnt r64", "op", 8, 0, 64, rival_has_popcnt, popcount_word},
};

#elif defined(__aarch64__)

#define CLOBBERED                                                                              \
  "memory", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v16", "v17", "v18", "v19", "v20", \
      "v21", "v22", "v23", "v24", "v25"

#define LIMIT(name, text)                                      \
  static void name(const uint8_t* memory) {                    \
    for (int i = 0; i < N_LOOPS; i += 2) {                     \
      __asm__ volatile(text text : : "r"(memory) : CLOBBERED); \
    }                                                          \
  }
#define ADD_NEON(i)                   \
  "eor v16.16b, v20.16b, v21.16b\n\t" \
  "eor v17.16b, v16.16b, v" #i        \
  ".16b\n\t"                          \
  "bsl v16.16b, v" #i ".16b, v20.16b\n\t"
#define POPCOUNT_NEON(i)              \
  "and v16.16b, v20.16b, v21.16b\n\t" \
  "cnt v16.16b, v16.16b\n\t"          \
  "add v" #i ".16b, v" #i ".16b, v16.16b\n\t"
#define FMA_NEON(i) "fmla v" #i ".4s, v20.4s, v21.4s\n\t"
#define LOAD_NEON(i) "ldr q" #i ", [%0, 16*" #i "]\n\t"

LIMIT(add_neon, EIGHT(ADD_NEON))
LIMIT(popcount_neon, EIGHT(POPCOUNT_NEON))
LIMIT(fma_neon, EIGHT(FMA_NEON))
LIMIT(load_neon, EIGHT(LOAD_NEON))

static void load_l2_neon(const uint8_t* memory) {
  for (size_t i = 0; i < N_LOOPS; ++i) {
    const uint8_t* const at = memory + i * 128 % L2_BYTES;
    __asm__ volatile(EIGHT(LOAD_NEON) : : "r"(at) : CLOBBERED);
  }
}

static const limit limits[] = {
    {"neon", "full adder, eor eor bsl", "adder", 8, 128, 0, rival_always, add_neon},
    {"neon", "and cnt add", "group", 8, 0, 128, rival_always, popcount_neon},
    {"neon", "fmla", "op", 8, 0, 4, rival_always, fma_neon},
    {"neon", "load q, first-level cache", "byte", 8 * 16, 0, 0, rival_always, load_neon},
    {"neon", "load q, second-level cache", "byte", 8 * 16, 0, 0, rival_always, load_l2_neon},
};

#else

static const limit limits[] = {{"scalar", "", "", 0, 0, 0, NULL, NULL}};

#endif

/// Units per nanosecond, best of the tries.
static double measure(const limit* l, const uint8_t* memory) {
  double best_us = 1e9;
  for (int i = 0; i < N_TRIES; ++i) {
    const double start = bench_now_us();
    l->run(memory);
    const double us = bench_now_us() - start;
    if (us < best_us) best_us = us;
  }
  return (double)l->per_call * N_LOOPS / best_us * 1e-3;
}

int main(void) {
  const double ghz = bench_ghz();
  uint8_t* const memory = bench_allocate(L2_BYTES + 4096);
  printf("{\"kind\": \"machine\", \"ghz\": %.3f}\n", ghz);
  for (size_t i = 0; i < sizeof limits / sizeof *limits; ++i) {
    const limit* const l = &limits[i];
    if (l->run == NULL) continue;
    if (!l->is_usable()) {
      printf("{\"kind\": \"skipped\", \"isa\": \"%s\", \"why\": \"this machine cannot do: %s\"}\n",
             l->isa, l->name);
      continue;
    }
    const double per_ns = measure(l, memory);
    printf(
        "{\"kind\": \"limit\", \"isa\": \"%s\", \"name\": \"%s\", \"unit\": \"%s\", "
        "\"per_ns\": %.4f, \"per_cycle\": %.4f, \"lane_adds\": %d, \"macs\": %d}\n",
        l->isa, l->name, l->unit, per_ns, ghz > 0 ? per_ns / ghz : 0.0, l->lane_adds, l->macs);
    fflush(stdout);
  }
  free(memory);
  return 0;
}
