// SPDX-License-Identifier: MIT
// What this machine has, asked at run time, and the attributes that compile one function for it.

#ifndef BST_TESTS_BENCH_MACHINE_H_
#define BST_TESTS_BENCH_MACHINE_H_

#include <stdbool.h>
#include <stdint.h>

static inline bool rival_always(void) { return true; }

#if defined(__x86_64__)

#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#define WORDS_TARGET __attribute__((target("popcnt")))
#define AVX2_TARGET __attribute__((target("avx2,bmi,bmi2,popcnt")))
#define AVX512_TARGET                                                   \
  __attribute__((                                                       \
      target("avx2,bmi,bmi2,popcnt,avx512f,avx512bw,avx512dq,avx512vl," \
             "avx512vpopcntdq,avx512vnni")))
#define AMX_TARGET                                                      \
  __attribute__((                                                       \
      target("avx2,bmi,bmi2,popcnt,avx512f,avx512bw,avx512dq,avx512vl," \
             "avx512vpopcntdq,avx512vnni,amx-tile,amx-int8")))

static inline bool rival_has_popcnt(void) { return __builtin_cpu_supports("popcnt") != 0; }

static inline bool rival_has_avx2(void) { return __builtin_cpu_supports("avx2") != 0; }

static inline bool rival_has_avx512(void) {
  return __builtin_cpu_supports("avx512bw") != 0 && __builtin_cpu_supports("avx512dq") != 0 &&
         __builtin_cpu_supports("avx512vl") != 0 && __builtin_cpu_supports("avx512vpopcntdq") != 0;
}

static inline bool rival_has_vnni(void) {
  return rival_has_avx512() && __builtin_cpu_supports("avx512vnni") != 0;
}

/// Tiles in the processor, and the kernel's permission to use them.
static inline bool rival_has_amx(void) {
  enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
  unsigned a, b, c, d;
  if (!rival_has_vnni() || __get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
  if ((d >> 24 & 3) != 3) return false;  // AMX-TILE, AMX-INT8
  return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

/// All eight tiles: 16 rows of 64 bytes.
typedef struct amx_config {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
} amx_config;

AMX_TARGET static inline void amx_begin(void) {
  amx_config config = {.palette = 1};
  for (int i = 0; i < 8; ++i) {
    config.row_bytes[i] = 64;
    config.rows[i] = 16;
  }
  _tile_loadconfig(&config);
}

#else

#define WORDS_TARGET

static inline bool rival_has_popcnt(void) { return true; }

#endif

#endif  // BST_TESTS_BENCH_MACHINE_H_
