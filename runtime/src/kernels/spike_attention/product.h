// SPDX-License-Identifier: MIT
// The product of two spike matrices with the neurons that end it: what it works on, and the layouts
// it takes. A body: included by the file of one instruction set after its vocabulary (../words.h,
// ../avx2.h, ..), in its target. multiply.h has the product itself, which spike_attention and
// kv_attention share.
//
//   count[i, l] = sum over events e of x[e, i] y[e, l],   i = item, l = lane

#ifndef BST_KERNELS_SPIKE_ATTENTION_PRODUCT_H_
#define BST_KERNELS_SPIKE_ATTENTION_PRODUCT_H_

#include "../lanes.h"
#include "rule.h"

enum {
  BST_ATTENTION_ITEMS = BST_VEC_BYTES / 8,
  BST_ATTENTION_DENSE = BST_ATTENTION_ITEMS == 8,
};

/// Rows of bits at every step: word w of row r at step t is
/// words[t * step + r * stride + w * word_stride]; the first bit that counts is number `first` of a
/// row, 0 unless word_stride is 1.
typedef struct bst_attention_bits {
  const uint64_t* words;
  size_t stride, word_stride, step, first;
} bst_attention_bits;

typedef struct bst_attention_product {
  /// [event][item] where dense (`first` a multiple of 8), else [item][event].
  bst_attention_bits x;
  bst_attention_bits y;  ///< [event][lane], `first` = 0
  size_t n_events, n_items, n_lanes;
  uint64_t* out;  ///< [item][words of lanes]
  size_t out_stride, out_word_stride, out_step;
  uint32_t* lists;  ///< scratch: bst_attention_list_words(n_steps, n_events)
} bst_attention_product;

/// All items and lanes at all steps.
typedef void bst_attention_product_kernel(int n_steps, const bst_attention_product* p,
                                          const bst_attention_rule* rule);

bst_attention_product_kernel bst_attention_product__scalar, bst_attention_product__avx2,
    bst_attention_product__avx512, bst_attention_product__neon;

// ---- Layouts ------------------------------------------------------------------------------------

/// Transpose word columns first .. end - 1 of [T][n_rows][in_stride words] into
/// [T][words of n_rows][64 (end - first)]: word w of column bit i is at 64 (end - first) w + i.
static inline void bst_attention_columns(int n_steps, size_t n_rows, size_t in_stride,
                                         size_t in_step, size_t first, size_t end,
                                         const uint64_t* in, uint64_t* out) {
  for (size_t t = 0; t < (size_t)n_steps; ++t, in += in_step) {
    for (size_t row = 0; row < n_rows; row += 64) {
      for (size_t c = first; c < end; ++c, out += 64) {
        const uint64_t* const from = in + row * in_stride + c;
        const size_t n_here = n_rows - row < 64 ? n_rows - row : 64;
        for (size_t r = 0; r < n_here; ++r) out[r] = from[r * in_stride];
        for (size_t r = n_here; r < 64; ++r) out[r] = 0;
        bst_vec_transpose_square(out);
      }
    }
  }
}

/// Cut bits first .. first + n_bits - 1 out of [T][n_rows][in_stride words] into
/// [T][n_rows][words of n_bits].
static inline void bst_attention_cut(int n_steps, size_t n_rows, size_t in_stride, size_t in_step,
                                     size_t first, size_t n_bits, const uint64_t* in,
                                     uint64_t* out) {
  const size_t n_words = (n_bits + 63) / 64;
  for (size_t t = 0; t < (size_t)n_steps; ++t, in += in_step) {
    for (size_t r = 0; r < n_rows; ++r, out += n_words) {
      bst_slice_bits(in + r * in_stride, first, n_bits, out);
    }
  }
}

/// [event][item] for a dense product from rows in which an event's items are contiguous bits: where
/// they lie if they begin at a byte, else cut into `space`, [T][n_rows][words of n_bits].
static inline bst_attention_bits bst_attention_mask_rows(int n_steps, size_t n_rows,
                                                         bst_attention_bits in, size_t n_bits,
                                                         uint64_t* space) {
  if (in.first % 8 == 0) return in;
  const size_t n_words = (n_bits + 63) / 64;
  bst_attention_cut(n_steps, n_rows, in.stride, in.step, in.first, n_bits, in.words, space);
  return (bst_attention_bits){space, n_words, 1, n_rows * n_words, 0};
}

#endif  // BST_KERNELS_SPIKE_ATTENTION_PRODUCT_H_
