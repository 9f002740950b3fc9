// SPDX-License-Identifier: MIT
// Rivals of the event-driven kernels: dense kernels for the same layer, as good as we can write
// them. All of them
//
//   1 gather the window of every output pixel as one row of bits (a 1x1 window lies there already),
//   2 multiply the four rows of a pixel, one per step, by 64 outputs: n[t][o] as int16,
//   3 run the exact neuron on these 64 outputs x 4 steps while they are in the first-level cache,
//
// for 64 outputs after 64 outputs, all pixels inside: a piece of weights and its thresholds stay in
// the first-level cache. Dense cost does not depend on the rate.

#ifndef BST_TESTS_BENCH_RIVALS_H_
#define BST_TESTS_BENCH_RIVALS_H_

#include "layer.h"
#include "machine.h"

typedef struct rival_state {
  void* weights;
  uint64_t* rows;     // [n_pixels][T][row_words]; NULL where the spikes serve as they are
  int16_t* n_active;  // [n_pixels][T]: S of n = 2P - S
  uint8_t* bytes;     // [n_pixels][T][row_words * 64] spikes as bytes, where the rival wants them
} rival_state;

typedef struct rival {
  const char* name;
  const char* isa;  // instruction set of ours that it is compared with; NULL: any
  const char* needs;
  bool (*is_usable)(void);
  void (*prepare)(const layer* l, rival_state* state);
  void (*run)(const layer* l, const rival_state* state, uint64_t* out);
} rival;

/// Row of pixel p at step t.
typedef struct rival_rows {
  const uint64_t* first;
  size_t pixel_words, step_words;
} rival_rows;

static inline bool rival_reads_in_place(const layer* l) {
  return l->kernel == 1 && l->n_in % 64 == 0;
}

/// OR `n_bits` bits of `from` into `to` at bit `at`.
static inline void rival_insert(uint64_t* to, size_t at, const uint64_t* from, size_t n_bits) {
  const size_t shift = at % 64;
  to += at / 64;
  for (size_t done = 0; done < n_bits; done += 64, ++to, ++from) {
    const size_t left = n_bits - done < 64 ? n_bits - done : 64;
    to[0] |= *from << shift;
    if (shift != 0 && left > 64 - shift) to[1] |= *from >> (64 - shift);
  }
}

/// The windows of all pixels as rows of bits, taps outside of the image zero.
static inline rival_rows rival_gather(const layer* l, const rival_state* state) {
  if (state->rows == NULL) {
    return (rival_rows){l->spikes, l->in_words, l->n_pixels * l->in_words};
  }
  memset(state->rows, 0, l->n_pixels * LAYER_STEPS * l->row_words * 8);
  for (size_t p = 0; p < l->n_pixels; ++p) {
    const int y = (int)p / l->width - l->pad, x = (int)p % l->width - l->pad;
    for (size_t t = 0; t < LAYER_STEPS; ++t) {
      uint64_t* const row = state->rows + (p * LAYER_STEPS + t) * l->row_words;
      for (int tap = 0; tap < l->kernel * l->kernel; ++tap) {
        const int in_y = y + tap / l->kernel, in_x = x + tap % l->kernel;
        if (in_y < 0 || in_y >= l->height || in_x < 0 || in_x >= l->width) continue;
        const size_t cell = t * l->n_pixels + (size_t)(in_y * l->width + in_x);
        rival_insert(row, (size_t)(tap * l->n_in), l->spikes + cell * l->in_words, (size_t)l->n_in);
      }
    }
  }
  return (rival_rows){state->rows, LAYER_STEPS * l->row_words, l->row_words};
}

static inline void rival_prepare_rows(const layer* l, rival_state* state) {
  const size_t n_rows = l->n_pixels * LAYER_STEPS;
  if (!rival_reads_in_place(l)) state->rows = bench_allocate(n_rows * l->row_words * 8);
  state->n_active = bench_allocate(n_rows * sizeof *state->n_active);
}

/// Weights for popcounts: u64 [n_out / 64][groups][row_words][lanes], where group g of 64 outputs
/// holds, in lane q, output 64 block + place(g, lanes, q). Counts of four groups that are put
/// beside each other as 16-bit fields of 64-bit lanes (AVX2, AVX-512) are then in natural order.
static inline void rival_prepare_words(const layer* l, size_t lanes, bool fields,
                                       rival_state* state) {
  rival_prepare_rows(l, state);
  uint64_t* to = bench_allocate(l->out_words * 64 * l->row_words * 8);
  state->weights = to;
  for (size_t block = 0; block < l->out_words; ++block) {
    for (size_t g = 0; g < 64 / lanes; ++g) {
      for (size_t k = 0; k < l->row_words; ++k) {
        for (size_t q = 0; q < lanes; ++q) {
          const size_t at = fields ? g / 4 * 4 * lanes + 4 * q + g % 4 : g * lanes + q;
          *to++ = l->sign[(64 * block + at) * l->row_words + k];
        }
      }
    }
  }
}

static inline void rival_free(rival_state* state) {
  free(state->weights);
  free(state->rows);
  free(state->n_active);
  free(state->bytes);
}

#endif  // BST_TESTS_BENCH_RIVALS_H_
