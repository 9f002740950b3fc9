// SPDX-License-Identifier: MIT
// What the functions of sum.h share, whatever the vector.

#ifndef BST_KERNELS_SPIKE_CONV_SUM_COMMON_H_
#define BST_KERNELS_SPIKE_CONV_SUM_COMMON_H_

#include "../lanes.h"

/// Unroll the loop that follows: its bounds are constants after inlining.
#if defined(__clang__)
#define BST_UNROLL _Pragma("clang loop unroll(enable)")
#elif defined(__GNUC__)
#define BST_UNROLL _Pragma("GCC unroll 32")
#else
#define BST_UNROLL
#endif

/// Planes of counters that have functions of their own: every second number; more than the last
/// take BST_MAX_SLICED_PLANES.
enum { BST_MIN_SUM_PLANES = 8, BST_MAX_SUM_PLANES = 10, BST_MAX_SLICED_PLANES = 13 };

/// Which function takes `n_planes`.
#define BST_SUM_NUMBER(n_planes) (((n_planes) - BST_MIN_SUM_PLANES) / 2)

static const uint64_t bst_all_or_none[2] = {0, UINT64_MAX};

/// Entries of lists are row numbers times 8.
typedef uint16_t bst_entry;

enum {
  BST_SUM_ROWS = 16,  // added at a time: lists are padded to a multiple
  BST_ENTRY = 8,
  BST_MAX_ENTRY_ROWS = UINT16_MAX / BST_ENTRY,  // with the row of zeros
};

/// See `rows` of sum.h.
typedef void bst_sum_function(int n_planes, const uint8_t* rows, const bst_entry* list,
                              size_t n_padded, uint32_t start, uint64_t* out, size_t out_words);

/// See `more` of sum.h.
typedef void bst_more_function(int n_planes, const uint8_t* rows, const bst_entry* list,
                               size_t n_padded, uint64_t* planes);

/// `function` of sum.h for one width of rows.
typedef bst_sum_function* bst_sum_piece(int n_planes);

#endif  // BST_KERNELS_SPIKE_CONV_SUM_COMMON_H_
