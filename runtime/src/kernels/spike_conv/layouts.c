// SPDX-License-Identifier: MIT
// Laying out weights and thresholds, once per model.

#include "layouts.h"

#include <string.h>

static uint32_t bst_ones(const uint8_t* bytes, size_t n) {
  uint32_t ones = 0;
  for (size_t i = 0; i < n; i += 8) {
    uint64_t word = 0;
    memcpy(&word, bytes + i, n - i < 8 ? n - i : 8);
    ones += bst_set_bits(word);
  }
  return ones;
}

/// Outputs `n_here` of one pixel of a block: weights and planes of `total`, from the first of its
/// words in the rows on.
/// @param at place of the pixel in the strip
static void bst_fill_block(const bst_strip* strip, size_t n_here, int kh, int kw, int n_in,
                           int stride, int at, const uint8_t* bits, size_t row_words,
                           uint64_t* rows) {
  const size_t n_taps = (size_t)kh * (size_t)kw, out_bytes = n_taps * (((size_t)n_in + 7) / 8);
  uint64_t* const total = rows + (strip->fan_in + 1) * row_words;
  bst_conv_fill_rows(n_here, n_taps, (size_t)n_in, bits, (size_t)kw, (size_t)strip->columns,
                     (size_t)(at * stride), row_words, rows);
  for (size_t o = 0; o < n_here; ++o, bits += out_bytes) {
    const uint64_t ones = bst_ones(bits, out_bytes);
    for (int p = 0; p < BST_MAX_SLICED_PLANES; ++p) {
      total[(size_t)p * row_words + o / 64] |= (ones >> p & 1) << (o % 64);
    }
  }
}

void bst_sliced_prepare_rows(bst_width v, int n_out, int kh, int kw, int n_in, int stride,
                             const uint8_t* bits, uint64_t* rows) {
  const bst_strip strip = bst_strip_of(v, n_out, kh, kw, n_in, stride);
  const size_t words = bst_conv_words(n_out), narrow = bst_block_words(v, words, 0);
  const size_t out_bytes = (size_t)kh * (size_t)kw * (((size_t)n_in + 7) / 8);
  memset(rows, 0, bst_sliced_rows_bytes(v, n_out, kh, kw, n_in, stride));
  for (int at = 0; at < strip.n_pixels && strip.n_pixels > 1; ++at) {
    bst_fill_block(&strip, (size_t)n_out, kh, kw, n_in, stride, at, bits, v.words,
                   rows + (size_t)at * narrow);
  }
  if (strip.n_pixels > 1) return;
  for (size_t first = 0; first < words; first += v.words) {
    const size_t left = (size_t)n_out - 64 * first, row = bst_block_words(v, words, first);
    const size_t n_here = left < 64 * row ? left : 64 * row;
    bst_fill_block(&strip, n_here, kh, kw, n_in, stride, 0, bits, row, rows);
    bits += n_here * out_bytes;
    rows += bst_block_rows(strip.fan_in) * row;
  }
}

/// Theta of one output as bits of the planes of its block, in every copy of its lane. Planes are
/// [t][plane][s].
static void bst_sliced_put_theta(bst_width v, const bst_theta_head* head, int n_steps,
                                 size_t row_words, size_t lane, const int32_t* theta,
                                 uint64_t* planes) {
  for (int t = 1; t <= n_steps; ++t, theta += t - 1) {
    const int width = head->widths[t - 1];
    const int32_t top = (int32_t)((UINT32_C(1) << (width - 1)) - 1);
    int32_t other = 0;  // what the planes differ from
    for (int s = 0; s < t; ++s) {
      const int32_t cut = theta[s] > top ? top : theta[s] < -top - 1 ? -top - 1 : theta[s];
      const uint32_t planes_of = (uint32_t)(cut ^ other);
#ifdef BST_HAVE_AVX2
      if (s == 0 && v.theta_by_difference) other = cut;
#endif
      for (int p = 0; p < width; ++p) {
        const uint64_t bit = (uint64_t)(planes_of >> p & 1) << (lane % 64);
        uint64_t* const words = planes + (size_t)(p * t + s) * v.words + lane / 64;
        for (size_t k = 0; k < v.words; k += row_words) words[k] |= bit;
      }
    }
    planes += (size_t)(width * t) * v.words;
  }
}

void bst_sliced_prepare_theta(bst_width v, int n_steps, int n_out, int kh, int kw, int n_in,
                              int most_level, const uint8_t* bits, const int32_t* theta_u,
                              const int32_t* theta_w, int n_explicit, const int32_t* index,
                              const int32_t* explicit_theta, void* memory) {
  const size_t out_bytes = (size_t)kh * (size_t)kw * (((size_t)n_in + 7) / 8);
  const uint32_t fan_in = (uint32_t)bst_conv_fan_in(kh, kw, n_in);
  uint32_t most = 0;  // the largest |n| of any channel: that many weights of one sign
  for (size_t o = 0; o < (size_t)n_out; ++o) {
    const uint32_t ones = bst_ones(bits + o * out_bytes, out_bytes);
    const uint32_t larger = ones > fan_in - ones ? ones : fan_in - ones;
    most = larger > most ? larger : most;
  }
  most *= (uint32_t)most_level;
  bst_theta_head head = {{0}, 0};
  for (int t = 1; t <= n_steps; ++t) {
    head.widths[t - 1] = bst_theta_planes(most, t);
    head.block_planes += (uint64_t)(t * head.widths[t - 1]);
  }
  memset(memory, 0, bst_sliced_theta_bytes(v, n_steps, n_out, (int)fan_in * most_level));
  memcpy(memory, &head, sizeof head);
  uint64_t* const planes = (uint64_t*)memory + BST_THETA_HEAD_BYTES / 8;
  const size_t words = bst_conv_words(n_out);
  int e = 0;
  for (int o = 0; o < n_out; ++o) {
    int32_t theta[BST_CONV_NEURON_T * (BST_CONV_NEURON_T + 1) / 2], n = 0;
    const bool is_explicit = e < n_explicit && index[e] == o;
    for (int t = 1; t <= n_steps; ++t) {
      for (int s = 0; s < t; ++s, ++n) {
        theta[n] =
            is_explicit ? *explicit_theta++ : bst_conv_threshold(theta_u[o], theta_w[o], t, s);
      }
    }
    e += is_explicit;
    const size_t block = (size_t)o / 64 / v.words, first = block * v.words;
    bst_sliced_put_theta(v, &head, n_steps, bst_block_words(v, words, first),
                         (size_t)o - 64 * first, theta,
                         planes + block * (size_t)head.block_planes * v.words);
  }
}
