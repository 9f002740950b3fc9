// SPDX-License-Identifier: MIT
// Read-out. Ranges: |S| <= 2^28 * 2^31 = 2^59; |c| <= 2^31, so |c*Ai| <= 2^62 and Y, with a bias
// below 2^60, stays inside int64; S1 then fits too. The products with V wrap modulo 2^64.

#include "../lanes.h"
#include "readout.h"

/// Sums of both streams and two digits of one, in whole vectors; counts of the hidden channels, or
/// planes of them in whole vectors: 29 words per 64 channels.
size_t bst_readout_scratch_bytes(int n_dim, int n_hidden) {
  const size_t dims = ((size_t)n_dim + 63) / 64 * 64, hidden = ((size_t)n_hidden + 511) / 512 * 512;
  return (3 * dims + hidden) * sizeof(int64_t);
}

static void bst_readout_sum(size_t n_rows, size_t n_dim, const int32_t* x, int64_t* s) {
  for (size_t d = 0; d < n_dim; ++d) s[d] = 0;
  for (size_t row = 0; row < n_rows; ++row, x += n_dim) {
    for (size_t d = 0; d < n_dim; ++d) s[d] += x[d];
  }
}

static void bst_readout_sum_residual(size_t n_rows, size_t n_dim, const int32_t* y,
                                     const int32_t* x0, const int32_t* x1, int64_t* s) {
  for (size_t d = 0; d < n_dim; ++d) s[d] = 0;
  for (size_t row = 0; row < n_rows; ++row, y += n_dim, x0 += n_dim, x1 += n_dim) {
    for (size_t d = 0; d < n_dim; ++d) s[d] += bst_add32(y[d], bst_average32(x0[d], x1[d]));
  }
}

static void bst_readout_sum_average(size_t n_rows, size_t n_dim, const int32_t* x2,
                                    const int32_t* x1, int64_t* s) {
  for (size_t d = 0; d < n_dim; ++d) s[d] = 0;
  for (size_t row = 0; row < n_rows; ++row, x2 += n_dim, x1 += n_dim) {
    for (size_t d = 0; d < n_dim; ++d) s[d] += bst_average32(x1[d], x2[d]);
  }
}

static void bst_readout_count(size_t n_rows, size_t n_hidden, const uint64_t* hidden,
                              int64_t* count) {
  const size_t n_words = (n_hidden + 63) / 64;
  for (size_t e = 0; e < n_hidden; ++e) count[e] = 0;
  for (size_t row = 0; row < n_rows; ++row) {
    for (size_t w = 0; w < n_words; ++w, ++hidden) {
      for (uint64_t bits = *hidden; bits != 0; bits &= bits - 1) {
        ++count[64 * w + bst_low_bit(bits)];
      }
    }
  }
}

/// sum over e of w[e] count[e] = 2 (sum over w[e] = +1) - sum of all.
static int64_t bst_readout_project(size_t n_hidden, const uint8_t* weight, const int64_t* count,
                                   int64_t total) {
  int64_t positive = 0;
  for (size_t first = 0; first < n_hidden; first += 64) {
    const size_t left = n_hidden - first;
    uint64_t bits = 0;
    memcpy(&bits, weight + first / 8, left < 64 ? (left + 7) / 8 : 8);
    for (; bits != 0; bits &= bits - 1) positive += count[first + bst_low_bit(bits)];
  }
  return 2 * positive - total;
}

/// raw[k] += sum over d of v[k, d] (s[d] >> q)
static void bst_readout_add_head(size_t n_classes, size_t n_dim, int q, const int32_t* v,
                                 const int64_t* s, int64_t* raw) {
  for (size_t k = 0; k < n_classes; ++k, v += n_dim) {
    for (size_t d = 0; d < n_dim; ++d) raw[k] = bst_add64(raw[k], bst_mul64(v[d], s[d] >> q));
  }
}

void bst_readout__scalar(int part, int n_parts, int n_steps, size_t n_cells, int n_dim,
                         int n_hidden, int n_classes, int q, const int32_t* x2, const int32_t* x1,
                         const uint64_t* hidden, const uint8_t* weight, const int32_t* ai,
                         const int16_t* af, const int32_t* b, const int32_t* v0, const int32_t* v1,
                         const int64_t* c, int64_t* raw, void* scratch) {
  (void)n_parts;
  if (part != 0) return;
  const size_t n_rows = (size_t)n_steps * n_cells, dims = (size_t)n_dim, e = (size_t)n_hidden;
  int64_t *const s = scratch, *const count = s + dims;
  memcpy(raw, c, (size_t)n_classes * sizeof *raw);
  if (v0 != NULL) {
    bst_readout_sum(n_rows, dims, x2, s);
    bst_readout_add_head((size_t)n_classes, dims, q, v0, s, raw);
  }
  bst_readout_sum_average(n_rows, dims, x2, x1, s);
  bst_readout_count(n_rows, e, hidden, count);
  const int64_t positions = (int64_t)n_rows;  // at most 2^28, so positions * b fits
  int64_t total = 0;
  for (size_t i = 0; i < e; ++i) total += count[i];
  for (size_t d = 0; d < dims; ++d) {
    const int64_t n = bst_readout_project(e, weight + d * ((e + 7) / 8), count, total);
    s[d] += n * ai[d] + ((n * af[d] + (1 << 14)) >> 15) + positions * b[d];
  }
  bst_readout_add_head((size_t)n_classes, dims, q, v1, s, raw);
}

size_t bst_residual_readout_scratch_bytes(int n_dim) {
  return 2 * (((size_t)n_dim + 63) / 64 * 64) * sizeof(int64_t);
}

void bst_residual_readout__scalar(int part, int n_parts, int n_steps, size_t n_cells, int n_dim,
                                  int n_classes, int q, const int32_t* y, const int32_t* x0,
                                  const int32_t* x1, const int32_t* v, const int64_t* c,
                                  int64_t* raw, void* scratch) {
  (void)n_parts;
  if (part != 0) return;
  int64_t* const s = scratch;
  memcpy(raw, c, (size_t)n_classes * sizeof *raw);
  bst_readout_sum_residual((size_t)n_steps * n_cells, (size_t)n_dim, y, x0, x1, s);
  bst_readout_add_head((size_t)n_classes, (size_t)n_dim, q, v, s, raw);
}
