// SPDX-License-Identifier: MIT
// Rival with AMX: int8 tiles, 8 pixels x 4 steps by 32 outputs at a time in four accumulators, so
// that four tile loads feed four multiplications. Weights and spikes lie as for VNNI.
//
// With BENCH_EMULATE_AMX the four tile operations are plain C: the same kernel, checked on machines
// that have no AMX; its time means nothing.

#ifndef BST_TESTS_BENCH_RIVAL_AMX_H_
#define BST_TESTS_BENCH_RIVAL_AMX_H_

#include "rival_avx512.h"

#if defined(__x86_64__)

enum { AMX_PIXELS = 8, AMX_ROWS = AMX_PIXELS * LAYER_STEPS };

#ifdef BENCH_EMULATE_AMX

#undef AMX_TARGET
#define AMX_TARGET AVX512_TARGET
#define rival_has_amx rival_has_avx512
#define AMX_NAME "amx int8 (emulated)"

typedef struct amx_tile {
  uint8_t bytes[16][64];
} amx_tile;
static amx_tile amx_tiles[8];

static inline void amx_load(amx_tile* tile, const void* from, size_t stride) {
  for (size_t r = 0; r < 16; ++r) memcpy(tile->bytes[r], (const uint8_t*)from + r * stride, 64);
}
static inline void amx_store(const amx_tile* tile, void* to, size_t stride) {
  for (size_t r = 0; r < 16; ++r) memcpy((uint8_t*)to + r * stride, tile->bytes[r], 64);
}
static inline void amx_multiply(amx_tile* sum, const amx_tile* a, const amx_tile* b) {
  for (size_t m = 0; m < 16; ++m) {
    int32_t row[16];
    memcpy(row, sum->bytes[m], sizeof row);
    for (size_t k = 0; k < 64; ++k) {
      for (size_t n = 0; n < 16; ++n) {
        row[n] += a->bytes[m][k] * (int8_t)b->bytes[k / 4][4 * n + k % 4];
      }
    }
    memcpy(sum->bytes[m], row, sizeof row);
  }
}
#define AMX_BEGIN() (void)0
#define AMX_END() (void)0
#define AMX_ZERO(i) memset(&amx_tiles[i], 0, sizeof amx_tiles[i])
#define AMX_LOAD(i, from, stride) amx_load(&amx_tiles[i], (from), (stride))
#define AMX_STORE(i, to, stride) amx_store(&amx_tiles[i], (to), (stride))
#define AMX_MULTIPLY(sum, a, b) amx_multiply(&amx_tiles[sum], &amx_tiles[a], &amx_tiles[b])

#else

#define AMX_NAME "amx int8"

// Numbers of tiles become text: no parentheses around them.
#define AMX_BEGIN() amx_begin()
#define AMX_END() _tile_release()
#define AMX_ZERO(i) _tile_zero(i)
#define AMX_LOAD(i, from, stride) _tile_loadd(i, (from), (stride))
#define AMX_STORE(i, to, stride) _tile_stored(i, (to), (stride))
#define AMX_MULTIPLY(sum, a, b) _tile_dpbusd(sum, a, b)  // unsigned bytes by signed bytes

#endif

static inline void rival_amx_prepare(const layer* l, rival_state* state) {
  rival_vnni_prepare(l, state);
  free(state->bytes);  // whole groups of pixels
  const size_t n_groups = (l->n_pixels + AMX_PIXELS - 1) / AMX_PIXELS;
  state->bytes = bench_allocate(n_groups * AMX_ROWS * l->row_words * 64);
}

/// Sums of 32 rows by 32 outputs. @param weights first of two vectors of columns
AMX_TARGET static inline void rival_amx_sums(const uint8_t* bytes, size_t n_in,
                                             const int8_t* weights, int32_t* sums) {
  AMX_ZERO(0);
  AMX_ZERO(1);
  AMX_ZERO(2);
  AMX_ZERO(3);
  for (size_t k = 0; k < n_in; k += 64) {
    const int8_t* const w = weights + k * 64;
    AMX_LOAD(4, bytes + k, n_in);
    AMX_LOAD(6, w, 256);
    AMX_MULTIPLY(0, 4, 6);
    AMX_LOAD(5, bytes + 16 * n_in + k, n_in);
    AMX_MULTIPLY(2, 5, 6);
    AMX_LOAD(7, w + 64, 256);
    AMX_MULTIPLY(1, 4, 7);
    AMX_MULTIPLY(3, 5, 7);
  }
  AMX_STORE(0, sums, 256);
  AMX_STORE(1, sums + 16, 256);
  AMX_STORE(2, sums + 16 * 64, 256);
  AMX_STORE(3, sums + 16 * 64 + 16, 256);
}

AMX_TARGET BENCH_NOINLINE static void rival_amx_run(const layer* l, const rival_state* state,
                                                    uint64_t* out) {
  const rival_rows rows = rival_gather(l, state);
  const size_t n_in = l->row_words * 64;
  int32_t sums[AMX_ROWS][64] __attribute__((aligned(64)));
  rival_unpack_bytes(l, &rows, state->bytes);
  AMX_BEGIN();
  for (size_t block = 0; block < l->out_words; ++block) {
    const int8_t* const weights = (const int8_t*)state->weights + block * 64 * n_in;
    for (size_t first = 0; first < l->n_pixels; first += AMX_PIXELS) {
      const uint8_t* const bytes = state->bytes + first * LAYER_STEPS * n_in;
      rival_amx_sums(bytes, n_in, weights, sums[0]);
      rival_amx_sums(bytes, n_in, weights + 128, sums[0] + 32);
      for (size_t p = first; p < first + AMX_PIXELS && p < l->n_pixels; ++p) {
        int16_t n[LAYER_STEPS][64];
        for (size_t t = 0; t < LAYER_STEPS; ++t) {
          const int32_t* const row = sums[(p - first) * LAYER_STEPS + t];
          const __m512i packed[4] = {_mm512_load_si512(row), _mm512_load_si512(row + 16),
                                     _mm512_load_si512(row + 32), _mm512_load_si512(row + 48)};
          rival_pack_sums(packed, n[t]);
        }
        rival_fire_avx512(l, block, n[0], out + p * l->out_words + block);
      }
    }
  }
  AMX_END();
}

#endif  // __x86_64__
#endif  // BST_TESTS_BENCH_RIVAL_AMX_H_
