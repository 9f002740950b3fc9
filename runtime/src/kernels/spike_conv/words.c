// SPDX-License-Identifier: MIT
// spike_conv without an instruction set: sliced.h on words of 64 lanes.

#include "spike_conv.h"
#include "sum_common.h"

typedef uint64_t bst_bits;
enum { BST_BITS_WORDS = 1, BST_NARROWEST_WORDS = 1 };

BST_INLINE bst_bits bst_bits_splat(uint64_t a) { return a; }

/// The word.
BST_INLINE bst_bits bst_bits_load(const uint64_t* from, size_t n_words) {
  (void)n_words;
  return *from;
}

/// `v` with `a` in the `n` words from word k * n on: there is one.
BST_INLINE bst_bits bst_bits_put(bst_bits v, size_t k, size_t n, uint64_t a) {
  (void)v;
  (void)k;
  (void)n;
  return a;
}

BST_INLINE bst_bits bst_bits_select(bst_bits mask, bst_bits yes, bst_bits no) {
  return ((yes ^ no) & mask) ^ no;
}

/// Borrow of a - b - borrow: b where a and b differ.
BST_INLINE bst_bits bst_bits_less(bst_bits a, bst_bits b, bst_bits borrow) {
  return ((b ^ borrow) & (a ^ b)) ^ borrow;
}

/// Full adder: *sum += a + b; returns the carry.
BST_INLINE bst_bits bst_bits_add(bst_bits* sum, bst_bits a, bst_bits b) {
  const bst_bits half = a ^ b, c = *sum;
  *sum = half ^ c;
  return (a & b) | (half & c);
}

/// Store the word, cut to the bits of `last`.
BST_INLINE void bst_bits_store(uint64_t* out, size_t n_words, uint64_t last, bst_bits v) {
  (void)n_words;
  *out = v & last;
}

#define BST_SUM_IS_WHOLE
#if !defined(__x86_64__) && !defined(__aarch64__)
#define BST_SUM_FIXED 13  // elsewhere it is what machines run
#endif
#define BST_SUM1(name) bst_sum1_##name
#define BST_SUM BST_SUM1
#define BST_SUM_VEC uint64_t
#define BST_SUM_WORDS_OF 1
BST_INLINE uint64_t BST_SUM1(splat)(uint64_t a) { return a; }
BST_INLINE uint64_t BST_SUM1(add)(uint64_t* sum, uint64_t a, uint64_t b) {
  return bst_bits_add(sum, a, b);
}
#include "sum.h"

static bst_sum_piece* const bst_sum_pieces[] = {BST_SUM1(function)};

/// Append the positions of the set bits of `n_words` words, times 8, to `first`.
static inline size_t bst_bits_list(const uint64_t* words, size_t n_words, bst_entry first,
                                   bst_entry* list, size_t n) {
  for (size_t w = 0; w < n_words; ++w) {
    for (uint64_t bits = words[w]; bits != 0; bits &= bits - 1) {
      list[n++] = (bst_entry)(first + (64 * w + bst_low_bit(bits)) * BST_ENTRY);
    }
  }
  return n;
}

/// list[n + i] = from[i] + add for i < count.
static inline size_t bst_bits_copy(const bst_entry* from, size_t count, bst_entry add,
                                   bst_entry* list, size_t n) {
  for (size_t i = 0; i < count; ++i) list[n + i] = (bst_entry)(from[i] + add);
  return n + count;
}

/// Pad with `zero_row` to a multiple of BST_SUM_ROWS.
static inline size_t bst_bits_pad(bst_entry zero_row, bst_entry* list, size_t n) {
  while (n % BST_SUM_ROWS != 0) list[n++] = zero_row;
  return n;
}

/// Counts of 64 lanes in natural order; `planes` holds whole groups of eight.
static inline void bst_bits_unpack(const bst_bits* planes, int n_planes, uint16_t* counts) {
  for (int done = 0; done < n_planes; done += 8) {
    uint64_t m[8];
    uint8_t bytes[64];
    for (int p = 0; p < 8; ++p) m[p] = planes[done + p];
    bst_transpose_planes(m);
    memcpy(bytes, m, sizeof bytes);
    for (int i = 0; i < 64; ++i) {
      const unsigned piece = (unsigned)bytes[bst_transposed_lane(i)] << done;
      counts[i] = (uint16_t)(done == 0 ? piece : counts[i] | piece);
    }
  }
}

/// y of `n_lanes` outputs from their counts.
BST_NOINLINE void bst_bits_scale(const uint16_t* count, int32_t n_events, size_t n_lanes,
                                 const int32_t* ai, const int16_t* af, const int32_t* b,
                                 int32_t* out) {
  for (size_t i = 0; i < n_lanes; ++i) {
    out[i] = bst_add32(bst_scale_count32(2 * count[i] - n_events, ai[i], af[i]), b[i]);
  }
}

#define BST_WHOLE_SUM BST_SUM1
#include "sliced.h"

const bst_spike_conv bst_spike_conv__scalar = BST_SLICED_VERSION;
