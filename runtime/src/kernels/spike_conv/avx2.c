// SPDX-License-Identifier: MIT
// spike_conv with AVX2: sliced.h on vectors of 256 lanes, narrow blocks on 128 and 64.

#include "../avx2.h"

#include "spike_conv.h"

#ifdef BST_HAVE_AVX2

BST_VECTOR_BEGIN

#include "../planes.h"
#include "positions.h"
#include "sum_common.h"

typedef __m256i bst_bits;
enum { BST_BITS_WORDS = 4, BST_NARROWEST_WORDS = 1 };

BST_INLINE bst_bits bst_bits_splat(uint64_t a) { return _mm256_set1_epi64x((long long)a); }

/// The first `n_words` words; zeros above.
BST_INLINE bst_bits bst_bits_load(const uint64_t* from, size_t n_words) {
  const __m256i words = bst_vec_load(bst_vec_spreads[(1U << n_words) - 1]);
  return _mm256_maskload_epi64((const long long*)(const void*)from, words);
}

/// `v` with `a` in the `n` words from word k * n on.
BST_INLINE bst_bits bst_bits_put(bst_bits v, size_t k, size_t n, uint64_t a) {
  const unsigned words = ((1U << n) - 1) << (k * n);
  return _mm256_blendv_epi8(v, bst_bits_splat(a), bst_vec_load(bst_vec_spreads[words]));
}

/// Borrow of a - b - borrow; what waits for the borrow is two operations.
BST_INLINE bst_bits bst_bits_less(bst_bits a, bst_bits b, bst_bits borrow) {
  return (~a & b) | (~(a ^ b) & borrow);
}

/// Full adder: *sum += a + b; returns the carry.
BST_INLINE bst_bits bst_bits_add(bst_bits* sum, bst_bits a, bst_bits b) {
  const bst_bits half = a ^ b, c = *sum;
  *sum = half ^ c;
  return (a & b) | (half & c);
}

/// Store the first `n_words` words; the last of them cut to the bits of `last`.
BST_INLINE void bst_bits_store(uint64_t* out, size_t n_words, uint64_t last, bst_bits v) {
  uint64_t words[BST_BITS_WORDS];
  memcpy(words, &v, sizeof words);
  for (size_t j = 0; j + 1 < n_words; ++j) out[j] = words[j];
  out[n_words - 1] = words[n_words - 1] & last;
}

#define BST_SUM1(name) bst_sum1_##name
#define BST_SUM BST_SUM1
#define BST_SUM_VEC uint64_t
#define BST_SUM_WORDS_OF 1
BST_INLINE uint64_t BST_SUM1(splat)(uint64_t a) { return a; }
BST_INLINE uint64_t BST_SUM1(add)(uint64_t* sum, uint64_t a, uint64_t b) {
  const uint64_t half = a ^ b, c = *sum;
  *sum = half ^ c;
  return (a & b) | (half & c);
}
#include "sum.h"

#define BST_SUM22(name) bst_sum22_##name
#define BST_SUM BST_SUM22
#define BST_SUM_VEC __m256i
#define BST_SUM_WORDS_OF 2
#define BST_SUM_PAIR(row, other) \
  _mm256_loadu2_m128i((const __m128i*)(const void*)(other), (const __m128i*)(const void*)(row))
BST_INLINE __m256i BST_SUM22(add)(__m256i* sum, __m256i a, __m256i b) {
  return bst_bits_add(sum, a, b);
}
#include "sum.h"

#define BST_SUM_IS_WHOLE
#define BST_SUM_FIXED 10
#define BST_SUM4(name) bst_sum4_##name
#define BST_SUM BST_SUM4
#define BST_SUM_VEC __m256i
#define BST_SUM_WORDS_OF 4
BST_INLINE __m256i BST_SUM4(splat)(uint64_t a) { return bst_bits_splat(a); }
BST_INLINE __m256i BST_SUM4(add)(__m256i* sum, __m256i a, __m256i b) {
  return bst_bits_add(sum, a, b);
}
#include "sum.h"

// Rows of half a vector go in pairs.
static bst_sum_piece* const bst_sum_pieces[] = {BST_SUM1(function), NULL, BST_SUM4(function)};

/// Append the positions of the set bits of `n_words` words, times 8, to `first`. May write 8
/// entries beyond the new length.
BST_NOINLINE size_t bst_bits_list(const uint64_t* words, size_t n_words, bst_entry first,
                                  bst_entry* list, size_t n) {
  const __m128i next = _mm_set1_epi16(8 * BST_ENTRY);
  __m128i base = _mm_set1_epi16((short)first);
  for (size_t w = 0; w < n_words; ++w) {
    uint64_t bits = words[w];
    for (int i = 0; i < 8; ++i, bits >>= 8, base = _mm_add_epi16(base, next)) {
      const __m128i places = _mm_cvtsi64_si128((long long)bst_positions[bits & 0xFF]);
      const __m128i entries = _mm_add_epi16(base, _mm_cvtepu8_epi16(places));
      _mm_storeu_si128((__m128i*)(void*)(list + n), entries);
      n += bst_n_positions[bits & 0xFF];
    }
  }
  return n;
}

/// list[n + i] = from[i] + add for i < count. May read and write 16 entries beyond.
static inline size_t bst_bits_copy(const bst_entry* from, size_t count, bst_entry add,
                                   bst_entry* list, size_t n) {
  const __m256i offset = _mm256_set1_epi16((short)add);
  for (size_t i = 0; i < count; i += 16) {
    bst_vec_store(list + n + i, _mm256_add_epi16(bst_vec_load(from + i), offset));
  }
  return n + count;
}

/// Pad with `zero_row` to a multiple of BST_SUM_ROWS. May write 16 entries beyond the old length.
static inline size_t bst_bits_pad(bst_entry zero_row, bst_entry* list, size_t n) {
  bst_vec_store(list + n, _mm256_set1_epi16((short)zero_row));
  return (n + BST_SUM_ROWS - 1) / BST_SUM_ROWS * BST_SUM_ROWS;
}

/// Counts of 256 lanes in natural order; `planes` holds whole groups of eight.
static inline void bst_bits_unpack(const bst_bits* planes, int n_planes, uint16_t* counts) {
  bst_vec_unpack(planes, n_planes, counts);
}

/// y of eight outputs from n and (n Af + 2^14) >> 15.
BST_INLINE __m256i bst_bits_scale8(__m128i n, __m128i part, const int32_t* ai, const int32_t* b) {
  const __m256i whole = _mm256_mullo_epi32(_mm256_cvtepi16_epi32(n), bst_vec_load(ai));
  const __m256i shift = _mm256_add_epi32(_mm256_cvtepi16_epi32(part), bst_vec_load(b));
  return _mm256_add_epi32(whole, shift);
}

/// y of `n_lanes` outputs from their counts. |n| and |Af| stay below 2^14, so (n Af + 2^14) >> 15
/// is what vpmulhrsw computes.
BST_NOINLINE void bst_bits_scale(const uint16_t* count, int32_t n_events, size_t n_lanes,
                                 const int32_t* ai, const int16_t* af, const int32_t* b,
                                 int32_t* out) {
  const __m256i offset = _mm256_set1_epi16((short)n_events);
  size_t i = 0;
  for (; i + 16 <= n_lanes; i += 16) {
    const __m256i c = bst_vec_load(count + i);
    const __m256i n = _mm256_sub_epi16(_mm256_add_epi16(c, c), offset);
    const __m256i part = _mm256_mulhrs_epi16(n, bst_vec_load(af + i));
    bst_vec_store(out + i, bst_bits_scale8(_mm256_castsi256_si128(n), _mm256_castsi256_si128(part),
                                           ai + i, b + i));
    bst_vec_store(out + i + 8,
                  bst_bits_scale8(_mm256_extracti128_si256(n, 1), _mm256_extracti128_si256(part, 1),
                                  ai + i + 8, b + i + 8));
  }
  for (; i < n_lanes; ++i) {
    out[i] = bst_add32(bst_scale_count32(2 * count[i] - n_events, ai[i], af[i]), b[i]);
  }
}

#define BST_FIRE_LOOPS
#define BST_PAIR_SUM BST_SUM22
#define BST_WHOLE_SUM BST_SUM4
#include "sliced.h"

const bst_spike_conv bst_spike_conv__avx2 = BST_SLICED_VERSION;

BST_VECTOR_END

#endif  // BST_HAVE_AVX2
