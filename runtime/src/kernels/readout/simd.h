// SPDX-License-Identifier: MIT
// Read-out on vectors. Ranges as in scalar.c. A body: included by the file of one instruction set
// after its vocabulary and vector.h, between BST_VECTOR_BEGIN and BST_VECTOR_END.
//
// Sums over positions run down columns of vectors. The spike counts of the hidden channels are
// counted vertically: plane p holds bit p of the count of every channel, sixteen rows enter at a
// time (Harley-Seal, vector.h). They stay planes: with w in bits,
//
//   sum over e with w[d, e] = +1 of cnt[e] = sum over p of 2^p popcount(w[d] & plane p)
//
// The head: f = S >> q is cut in f = 2^32 f1 + f0 with signed digits, so that products of int32
// lanes are enough modulo 2^64; f1 is 0 unless S1 is beyond 32 bits, and then left out.

#ifndef BST_KERNELS_READOUT_SIMD_H_
#define BST_KERNELS_READOUT_SIMD_H_

#include "readout.h"

enum {
  BST_READOUT_VECS = 2,     // columns of vectors that are summed together
  BST_READOUT_PLANES = 29,  // counts up to 2^28
  BST_READOUT_BYTES = 31,   // popcounts of a byte that one byte can add up
};

// ---- Sums ---------------------------------------------------------------------------------------

/// What is summed; unused streams are NULL.
typedef struct bst_readout_streams {
  size_t n_rows, n_dim;
  const int32_t *y, *a, *b;
} bst_readout_streams;

BST_INLINE bst_vec bst_readout_load(const int32_t* from, bool whole, size_t n) {
  return whole ? bst_vec_load(from) : bst_vec_load_some32(from, n);
}

/// Columns d .. d + n - 1 (n = all lanes of `n_vecs` vectors where `whole` is true): *s gets the
/// sum of a, *mean that of (y +) ((a + b) >> 1). s or mean may be NULL.
BST_INLINE void bst_readout_columns(const bst_readout_streams* in, int n_vecs, bool whole, size_t d,
                                    size_t n, int64_t* s, int64_t* mean) {
  bst_vec_sum sum[BST_READOUT_VECS], average[BST_READOUT_VECS];
  memset(sum, 0, sizeof sum);
  memset(average, 0, sizeof average);
  for (size_t row = 0, at = d; row < in->n_rows; ++row, at += in->n_dim) {
    for (int j = 0; j < n_vecs; ++j) {
      const size_t from = at + (size_t)j * BST_VEC_LANES32;
      const bst_vec a = bst_readout_load(in->a + from, whole, n);
      bst_vec x = bst_vec_average32(a, bst_readout_load(in->b + from, whole, n));
      if (in->y != NULL) x = bst_vec_add32(x, bst_readout_load(in->y + from, whole, n));
      if (s != NULL) bst_vec_sum_add(&sum[j], a);
      bst_vec_sum_add(&average[j], x);
    }
  }
  for (int j = 0; j < n_vecs; ++j) {
    const size_t to = d + (size_t)j * BST_VEC_LANES32;
    if (s != NULL) bst_vec_sum_store(&sum[j], in->n_rows, s + to);
    bst_vec_sum_store(&average[j], in->n_rows, mean + to);
  }
}

/// All columns; s and mean have room for whole vectors.
BST_NOINLINE void bst_readout_sums(const bst_readout_streams* in, int64_t* s, int64_t* mean) {
  const size_t both = BST_READOUT_VECS * BST_VEC_LANES32, one = BST_VEC_LANES32;
  size_t d = 0;
  for (; d + both <= in->n_dim; d += both) {
    bst_readout_columns(in, BST_READOUT_VECS, true, d, both, s, mean);
  }
  for (; d + one <= in->n_dim; d += one) bst_readout_columns(in, 1, true, d, one, s, mean);
  if (d < in->n_dim) bst_readout_columns(in, 1, false, d, in->n_dim - d, s, mean);
}

// ---- Counts of the hidden spikes ----------------------------------------------------------------

/// Bit planes of the counts: plane p of vector v at planes[p * n_vecs + v].
typedef struct bst_readout_counts {
  size_t n_vecs;
  int n_planes;
  uint64_t* planes;
} bst_readout_counts;

static inline uint64_t* bst_readout_plane(const bst_readout_counts* c, int p, size_t v) {
  return c->planes + ((size_t)p * c->n_vecs + v) * BST_VEC_WORDS;
}

/// Add a carry of weight 2^p to the counts of vector v.
static inline void bst_readout_carry(const bst_readout_counts* c, int p, size_t v, bst_vec carry) {
  for (; p < c->n_planes; ++p) {
    uint64_t* const at = bst_readout_plane(c, p, v);
    const bst_vec plane = bst_vec_load(at);
    bst_vec_store(at, bst_vec_xor(plane, carry));
    carry = bst_vec_and(plane, carry);
  }
}

/// Count vector v of the rows, of which n words exist.
BST_INLINE void bst_readout_count_vec(const bst_readout_counts* c, size_t n_rows, size_t row_words,
                                      const uint64_t* rows, size_t v, bool whole, size_t n) {
#define BST_READOUT_ROW(i)                              \
  (whole ? bst_vec_load(rows + (size_t)(i) * row_words) \
         : bst_vec_load_some64(rows + (size_t)(i) * row_words, n))
  const bst_vec zero = bst_vec_zero();
  bst_vec_counter low = {zero, zero, zero, zero};
  size_t left = n_rows;
  for (int p = 0; p < c->n_planes; ++p) bst_vec_store(bst_readout_plane(c, p, v), zero);
  for (; left >= 16; left -= 16, rows += 16 * row_words) {
    bst_vec eights[2];
    for (int half = 0; half < 2; ++half) {
      bst_vec fours[2];
      for (int pair = 0; pair < 2; ++pair) {
        const int i = 8 * half + 4 * pair;
        const bst_vec a = bst_vec_full_add(&low.ones, BST_READOUT_ROW(i), BST_READOUT_ROW(i + 1));
        const bst_vec b =
            bst_vec_full_add(&low.ones, BST_READOUT_ROW(i + 2), BST_READOUT_ROW(i + 3));
        fours[pair] = bst_vec_full_add(&low.twos, a, b);
      }
      eights[half] = bst_vec_full_add(&low.fours, fours[0], fours[1]);
    }
    bst_readout_carry(c, 4, v, bst_vec_full_add(&low.eights, eights[0], eights[1]));
  }
  bst_readout_carry(c, 0, v, low.ones);
  bst_readout_carry(c, 1, v, low.twos);
  bst_readout_carry(c, 2, v, low.fours);
  bst_readout_carry(c, 3, v, low.eights);
  for (; left > 0; --left, rows += row_words) bst_readout_carry(c, 0, v, BST_READOUT_ROW(0));
#undef BST_READOUT_ROW
}

static inline void bst_readout_count_rows(const bst_readout_counts* c, size_t n_rows,
                                          size_t row_words, const uint64_t* rows) {
  for (size_t v = 0; v < c->n_vecs; ++v) {
    const size_t n = row_words - v * BST_VEC_WORDS;
    if (n >= BST_VEC_WORDS) {
      bst_readout_count_vec(c, n_rows, row_words, rows + v * BST_VEC_WORDS, v, true, n);
    } else {
      bst_readout_count_vec(c, n_rows, row_words, rows + v * BST_VEC_WORDS, v, false, n);
    }
  }
}

static inline uint64_t bst_readout_total(bst_vec a) {
  uint64_t lanes[BST_VEC_WORDS], total = 0;
  bst_vec_store(lanes, a);
  for (size_t i = 0; i < BST_VEC_WORDS; ++i) total += lanes[i];
  return total;
}

/// Sum of the counts whose bit in `chosen` is set; NULL: of all.
/// @param n_bytes of `chosen`, more than BST_VEC_BYTES * (n_vecs - 1)
BST_NOINLINE int64_t bst_readout_chosen(const bst_readout_counts* c, const uint8_t* chosen,
                                        size_t n_bytes) {
  bst_vec sum = bst_vec_zero();
  for (size_t first = 0; first < c->n_vecs; first += BST_READOUT_BYTES) {
    const size_t room = first + BST_READOUT_BYTES;
    const size_t end = room < c->n_vecs ? room : c->n_vecs;
    bst_vec mask[BST_READOUT_BYTES];
    for (size_t v = first; v < end; ++v) {
      const size_t done = v * BST_VEC_BYTES, left = n_bytes - done;
      if (chosen == NULL) {
        mask[v - first] = bst_vec_set8(0xFF);
      } else if (left >= BST_VEC_BYTES) {
        mask[v - first] = bst_vec_load(chosen + done);
      } else {
        mask[v - first] = bst_vec_load_some8(chosen + done, left);
      }
    }
    for (int p = 0; p < c->n_planes; ++p) {
      bst_vec bytes = bst_vec_zero();
      for (size_t v = first; v < end; ++v) {
        const bst_vec plane = bst_vec_load(bst_readout_plane(c, p, v));
        bytes = bst_vec_add_popcount(bytes, bst_vec_and(mask[v - first], plane));
      }
      sum = bst_vec_add64(sum, bst_vec_up64(bst_vec_sum_bytes(bytes), p));
    }
  }
  return (int64_t)bst_readout_total(sum);
}

// ---- Head ---------------------------------------------------------------------------------------

/// sum over d of v[d] f[d] modulo 2^64
static inline uint64_t bst_readout_dot(size_t n_dim, const int32_t* v, const int32_t* f) {
  bst_vec sum = bst_vec_zero();
  size_t d = 0;
  for (; d + BST_VEC_LANES32 <= n_dim; d += BST_VEC_LANES32) {
    sum = bst_vec_add_products(sum, bst_vec_load(v + d), bst_vec_load(f + d));
  }
  if (d < n_dim) {
    sum = bst_vec_add_products(sum, bst_vec_load_some32(v + d, n_dim - d),
                               bst_vec_load_some32(f + d, n_dim - d));
  }
  return bst_readout_total(sum);
}

/// raw[k] += sum over d of v[k, d] (s[d] >> q)
/// @param f0 room for the digits: int32 [2 n_dim]
BST_NOINLINE void bst_readout_head(size_t n_classes, size_t n_dim, int q, const int32_t* v,
                                   const int64_t* s, int32_t* f0, int64_t* raw) {
  int32_t* const f1 = f0 + n_dim;
  int32_t any = 0;
  for (size_t d = 0; d < n_dim; ++d) {
    const int64_t f = s[d] >> q;
    f0[d] = bst_wrap32(f);
    f1[d] = bst_wrap32((f - f0[d]) >> 32);
    any |= f1[d];
  }
  for (size_t k = 0; k < n_classes; ++k, v += n_dim) {
    uint64_t sum = bst_readout_dot(n_dim, v, f0);
    if (any != 0) sum += bst_readout_dot(n_dim, v, f1) << 32;
    raw[k] = bst_add64(raw[k], (int64_t)sum);
  }
}

// ---- Kernels ------------------------------------------------------------------------------------

static inline size_t bst_readout_room(int n_dim) { return ((size_t)n_dim + 63) / 64 * 64; }

static inline void bst_readout_vector(int part, int n_parts, int n_steps, size_t n_cells, int n_dim,
                                      int n_hidden, int n_classes, int q, const int32_t* x2,
                                      const int32_t* x1, const uint64_t* hidden,
                                      const uint8_t* weight, const int32_t* ai, const int16_t* af,
                                      const int32_t* b, const int32_t* v0, const int32_t* v1,
                                      const int64_t* c, int64_t* raw, void* scratch) {
  (void)n_parts;
  if (part != 0) return;
  const size_t n_rows = (size_t)n_steps * n_cells, dims = (size_t)n_dim;
  const size_t row_words = ((size_t)n_hidden + 63) / 64, row_bytes = ((size_t)n_hidden + 7) / 8;
  int64_t *const s0 = scratch, *const s1 = s0 + bst_readout_room(n_dim);
  int32_t* const digits = (int32_t*)(s1 + bst_readout_room(n_dim));
  const bst_readout_counts counts = {(row_words + BST_VEC_WORDS - 1) / BST_VEC_WORDS,
                                     bst_bit_length(n_rows),
                                     (uint64_t*)(void*)(digits + 2 * bst_readout_room(n_dim))};
  const bst_readout_streams streams = {n_rows, dims, NULL, x2, x1};
  memcpy(raw, c, (size_t)n_classes * sizeof *raw);
  if (v0 != NULL) {
    bst_readout_sums(&streams, s0, s1);
    bst_readout_head((size_t)n_classes, dims, q, v0, s0, digits, raw);
  } else {
    bst_readout_sums(&streams, NULL, s1);
  }
  bst_readout_count_rows(&counts, n_rows, row_words, hidden);
  const int64_t positions = (int64_t)n_rows;  // at most 2^28, so positions * b fits
  const int64_t total = bst_readout_chosen(&counts, NULL, row_bytes);
  for (size_t d = 0; d < dims; ++d) {
    const int64_t n = 2 * bst_readout_chosen(&counts, weight + d * row_bytes, row_bytes) - total;
    s1[d] += n * ai[d] + ((n * af[d] + (1 << 14)) >> 15) + positions * b[d];
  }
  bst_readout_head((size_t)n_classes, dims, q, v1, s1, digits, raw);
}

static inline void bst_residual_readout_vector(int part, int n_parts, int n_steps, size_t n_cells,
                                               int n_dim, int n_classes, int q, const int32_t* y,
                                               const int32_t* x0, const int32_t* x1,
                                               const int32_t* v, const int64_t* c, int64_t* raw,
                                               void* scratch) {
  (void)n_parts;
  if (part != 0) return;
  int64_t* const s = scratch;
  int32_t* const digits = (int32_t*)(s + bst_readout_room(n_dim));
  const bst_readout_streams streams = {(size_t)n_steps * n_cells, (size_t)n_dim, y, x0, x1};
  memcpy(raw, c, (size_t)n_classes * sizeof *raw);
  bst_readout_sums(&streams, NULL, s);
  bst_readout_head((size_t)n_classes, (size_t)n_dim, q, v, s, digits, raw);
}

#endif  // BST_KERNELS_READOUT_SIMD_H_
