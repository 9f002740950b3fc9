// SPDX-License-Identifier: MIT
// weight_conv: the layouts, and the versions on plain arrays.

#include <stdbool.h>

#include "../spike_conv/geometry.h"
#include "weight_conv.h"

// ---- Layouts ------------------------------------------------------------------------------------

static size_t bst_weight_conv_lanes(int n_out) { return 64 * bst_conv_words(n_out); }

size_t bst_weight_conv_rows_bytes(int bits, int n_out, int n_taps, int n_in) {
  const size_t n_items = (size_t)n_taps * (size_t)n_in * bst_weight_conv_lanes(n_out);
  return n_items * (bits > 8 ? sizeof(int16_t) : sizeof(int8_t));
}

/// Bytes 0 or 1: bit k of `bits` in byte k.
static uint64_t bst_spread_bits(uint8_t bits) {
  const uint64_t each = UINT64_C(0x0101010101010101);
  const uint64_t kept = (bits * each) & UINT64_C(0x8040201008040201);
  return ((kept + UINT64_C(0x7F7F7F7F7F7F7F7F)) >> 7) & each;
}

/// Eight weights that share a byte in each of the planes: byte `at` of plane p.
static void bst_weight_conv_eight(int bits, size_t plane_bytes, const uint8_t* at, int32_t* eight) {
  uint64_t low = 0, high = 0;
  for (int p = 0; p < bits; ++p) {
    const uint64_t ones = bst_spread_bits(at[(size_t)p * plane_bytes]);
    if (p < 8) {
      low |= ones << p;
    } else {
      high |= ones << (p - 8);
    }
  }
  for (int k = 0; k < 8; ++k) {
    const int32_t raw = (int32_t)((low >> (8 * k)) & 255) | (int32_t)((high >> (8 * k)) & 255) << 8;
    const int32_t sign = 1 << (bits - 1);  // two's complement of `bits` bits; 1 bit: -1 or +1
    eight[k] = bits == 1 ? 2 * raw - 1 : (raw ^ sign) - sign;
  }
}

void bst_weight_conv_prepare_rows(int bits, int n_out, int n_taps, int n_in, const uint8_t* planes,
                                  void* rows) {
  const size_t n_lanes = bst_weight_conv_lanes(n_out), taps = (size_t)n_taps;
  const size_t row_bytes = ((size_t)n_in + 7) / 8;
  const size_t plane_bytes = (size_t)n_out * taps * row_bytes;
  memset(rows, 0, bst_weight_conv_rows_bytes(bits, n_out, n_taps, n_in));
  for (size_t tap = 0; tap < taps; ++tap) {
    for (size_t byte = 0; byte < row_bytes; ++byte) {
      const size_t first = (tap * (size_t)n_in + 8 * byte) * n_lanes;
      const size_t left = (size_t)n_in - 8 * byte, n_here = left < 8 ? left : 8;
      for (size_t o = 0; o < (size_t)n_out; ++o) {
        int32_t eight[8];
        bst_weight_conv_eight(bits, plane_bytes, planes + (o * taps + tap) * row_bytes + byte,
                              eight);
        for (size_t k = 0; k < n_here; ++k) {
          const size_t place = first + k * n_lanes + o;
          if (bits > 8) {
            ((int16_t*)rows)[place] = (int16_t)eight[k];
          } else {
            ((int8_t*)rows)[place] = (int8_t)eight[k];
          }
        }
      }
    }
  }
}

size_t bst_weight_conv_theta_bytes(int n_steps, int n_out) {
  const size_t n_rows = (size_t)n_steps * ((size_t)n_steps + 1) / 2;
  return n_rows * bst_weight_conv_lanes(n_out) * sizeof(int32_t);
}

void bst_weight_conv_prepare_theta(int n_steps, int n_out, const int32_t* theta_u,
                                   const int32_t* theta_w, int n_explicit, const int32_t* index,
                                   const int32_t* explicit_theta, int32_t* theta) {
  const size_t n_lanes = bst_weight_conv_lanes(n_out);
  const size_t n_rows = (size_t)n_steps * ((size_t)n_steps + 1) / 2;
  for (size_t i = 0; i < n_rows * n_lanes; ++i) theta[i] = INT32_MAX;
  int32_t* row = theta;
  for (int t = 1; t <= n_steps; ++t) {
    for (int s = 0; s < t; ++s, row += n_lanes) {
      for (size_t o = 0; o < (size_t)n_out; ++o) {
        row[o] = bst_conv_threshold(theta_u[o], theta_w[o], t, s);
      }
    }
  }
  for (int e = 0; e < n_explicit; ++e) {
    for (size_t k = 0; k < n_rows; ++k) {
      theta[k * n_lanes + (size_t)index[e]] = *explicit_theta++;
    }
  }
}

size_t bst_weight_conv_scratch_bytes(int n_steps, int n_planes, int kh, int kw, int n_in) {
  const size_t n_lists = (size_t)n_steps * (size_t)n_planes;
  return n_lists * bst_conv_fan_in(kh, kw, n_in) * sizeof(uint32_t);
}

// ---- Kernels ------------------------------------------------------------------------------------

enum { BST_WC_WORDS = 1, BST_WC_RUN = 255 };

static void bst_wc_sum8(const int8_t* rows, size_t stride, const uint32_t* list, size_t n,
                        size_t run, int n_words, int32_t* total) {
  (void)run;
  (void)n_words;  // 1
  for (size_t done = 0; done < n; done += BST_WC_RUN) {
    const size_t end = n - done < BST_WC_RUN ? n : done + BST_WC_RUN;
    int16_t sum[64] = {0};
    for (size_t e = done; e < end; ++e) {
      const int8_t* const row = rows + list[e] * stride;
      for (int i = 0; i < 64; ++i) sum[i] = (int16_t)(sum[i] + row[i]);
    }
    for (int i = 0; i < 64; ++i) total[i] = bst_add32(total[i], sum[i]);
  }
}

static void bst_wc_sum16(const int16_t* rows, size_t stride, const uint32_t* list, size_t n,
                         int n_words, int32_t* total) {
  (void)n_words;  // 1
  for (size_t e = 0; e < n; ++e) {
    const int16_t* const row = rows + list[e] * stride;
    for (int i = 0; i < 64; ++i) total[i] = bst_add32(total[i], row[i]);
  }
}

#include "loops.h"

BST_DEFINE_WEIGHT_CONV_NEURON(bst_weight_conv_neuron__scalar)
BST_DEFINE_WEIGHT_CONV_AFFINE(bst_weight_conv_affine__scalar)
