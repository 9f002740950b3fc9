// SPDX-License-Identifier: MIT
// levels: 64 channels at a time, a ripple of full adders over the planes; see levels.h.

#include "levels.h"

#include "../lanes.h"
#include "../part.h"

void bst_level_add(int part, int n_parts, size_t n_cells, int n_words, int a_planes, int b_planes,
                   int out_planes, const uint64_t* a, const uint64_t* b, uint64_t* out) {
  const size_t words = (size_t)n_words, end = bst_part_begin(part + 1, n_parts, n_cells);
  for (size_t cell = bst_part_begin(part, n_parts, n_cells); cell < end; ++cell) {
    const uint64_t* const one = a + cell * words * (size_t)a_planes;
    const uint64_t* const two = b + cell * words * (size_t)b_planes;
    uint64_t* const to = out + cell * words * (size_t)out_planes;
    for (size_t w = 0; w < words; ++w) {
      uint64_t carry = 0;
      for (int p = 0; p < out_planes; ++p) {
        const uint64_t x = p < a_planes ? one[(size_t)p * words + w] : 0;
        const uint64_t y = p < b_planes ? two[(size_t)p * words + w] : 0;
        const uint64_t half = x ^ y, before = carry;
        carry = (x & y) | (half & before);
        to[(size_t)p * words + w] = half ^ before;
      }
    }
  }
}

size_t bst_level_readout_scratch_bytes(int channels) {
  return ((size_t)channels + 63) / 64 * 64 * sizeof(int64_t);
}

void bst_level_readout(int part, int n_parts, size_t n_cells, int n_planes, int channels,
                       int n_classes, int frac_bits, int q, const uint64_t* levels,
                       const int32_t* v, const int64_t* c, int64_t* raw, void* scratch) {
  (void)n_parts;
  if (part != 0) return;
  const size_t n_channels = (size_t)channels, words = (n_channels + 63) / 64;
  int64_t* const sums = scratch;
  memset(sums, 0, bst_level_readout_scratch_bytes(channels));
  for (size_t cell = 0; cell < n_cells; ++cell) {
    for (int p = 0; p < n_planes; ++p) {
      for (size_t w = 0; w < words; ++w) {
        for (uint64_t bits = *levels++; bits != 0; bits &= bits - 1) {
          sums[64 * w + bst_low_bit(bits)] += INT64_C(1) << p;
        }
      }
    }
  }
  for (size_t i = 0; i < n_channels; ++i) {
    sums[i] = (int64_t)((uint64_t)sums[i] << frac_bits) >> q;
  }
  for (size_t k = 0; k < (size_t)n_classes; ++k) {
    int64_t total = c[k];
    for (size_t i = 0; i < n_channels; ++i) {
      total = bst_add64(total, bst_mul64(v[k * n_channels + i], sums[i]));
    }
    raw[k] = total;
  }
}
