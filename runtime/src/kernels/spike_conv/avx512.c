// SPDX-License-Identifier: MIT
// spike_conv with AVX-512: sliced.h on vectors of 512 lanes, narrow blocks on 256 and 128.
// Functions of three bits are one instruction each (vpternlog); its constant is the truth table,
// bit 4a + 2b + c of it the result for a, b, c.
//
// A full adder could be two of these. Where the input of one is the output of another, though, Zen
// 4 starts only half as many per cycle, and a tree of adders is nothing else (measured: 1.97 cycles
// per row of 512 lanes, against 1.72 with the half sum as an XOR of its own, which halves the
// chains). `bst_kept` keeps a compiler from merging the XORs again.

#include "../avx512.h"

#include "spike_conv.h"

#ifdef BST_HAVE_AVX512

BST_VECTOR_BEGIN

#include "../vector.h"

enum {
  BST_TABLE_PARITY = 0x96,
  BST_TABLE_MAJORITY = 0xE8,
  BST_TABLE_SELECT = 0xCA,  // a ? b : c
  BST_TABLE_LESS = 0x8E,    // borrow of a - b - c: majority of ~a, b, c
};

typedef __m512i bst_bits;
enum { BST_BITS_WORDS = 8, BST_NARROWEST_WORDS = 2 };

BST_INLINE __m128i bst_kept2(__m128i a) {
  __asm__("" : "+v"(a));
  return a;
}

BST_INLINE __m256i bst_kept4(__m256i a) {
  __asm__("" : "+v"(a));
  return a;
}

BST_INLINE __m512i bst_kept8(__m512i a) {
  __asm__("" : "+v"(a));
  return a;
}

BST_INLINE bst_bits bst_bits_splat(uint64_t a) { return _mm512_set1_epi64((long long)a); }

/// The first `n_words` words; zeros above.
BST_INLINE bst_bits bst_bits_load(const uint64_t* from, size_t n_words) {
  return _mm512_maskz_loadu_epi64((__mmask8)((1U << n_words) - 1), from);
}

/// `v` with `a` in the `n` words from word k * n on.
BST_INLINE bst_bits bst_bits_put(bst_bits v, size_t k, size_t n, uint64_t a) {
  const __mmask8 words = (__mmask8)(((1U << n) - 1) << (k * n));
  return _mm512_mask_set1_epi64(v, words, (long long)a);
}

BST_INLINE bst_bits bst_bits_select(bst_bits mask, bst_bits yes, bst_bits no) {
  return _mm512_ternarylogic_epi64(mask, yes, no, BST_TABLE_SELECT);
}

/// Borrow of a - b - borrow: b where a and b differ.
BST_INLINE bst_bits bst_bits_less(bst_bits a, bst_bits b, bst_bits borrow) {
  return _mm512_ternarylogic_epi64(a, b, borrow, BST_TABLE_LESS);
}

/// Full adder: *sum += a + b; returns the carry.
BST_INLINE bst_bits bst_bits_add(bst_bits* sum, bst_bits a, bst_bits b) {
  const bst_bits c = *sum;
  *sum = _mm512_ternarylogic_epi64(c, a, b, BST_TABLE_PARITY);
  return _mm512_ternarylogic_epi64(c, a, b, BST_TABLE_MAJORITY);
}

/// Store the first `n_words` words; the last of them cut to the bits of `last`.
BST_INLINE void bst_bits_store(uint64_t* out, size_t n_words, uint64_t last, bst_bits v) {
  const __mmask8 all = (__mmask8)((1U << n_words) - 1), end = (__mmask8)(all & ~(all >> 1));
  const __m512i cut = _mm512_mask_and_epi64(v, end, v, _mm512_set1_epi64((long long)last));
  _mm512_mask_storeu_epi64(out, all, cut);
}

#include "sum_common.h"

#define BST_SUM_FIXED 10
#define BST_SUM2(name) bst_sum2_##name
#define BST_SUM BST_SUM2
#define BST_SUM_VEC __m128i
#define BST_SUM_WORDS_OF 2
BST_INLINE __m128i BST_SUM2(splat)(uint64_t a) { return _mm_set1_epi64x((long long)a); }
BST_INLINE __m128i BST_SUM2(add)(__m128i* sum, __m128i a, __m128i b) {
  const __m128i half = bst_kept2(a ^ b), c = *sum;
  *sum = half ^ c;
  return _mm_ternarylogic_epi64(half, c, a, BST_TABLE_SELECT);
}
#include "sum.h"

#define BST_SUM_FIXED 10
#define BST_SUM4(name) bst_sum4_##name
#define BST_SUM BST_SUM4
#define BST_SUM_VEC __m256i
#define BST_SUM_WORDS_OF 4
BST_INLINE __m256i BST_SUM4(splat)(uint64_t a) { return _mm256_set1_epi64x((long long)a); }
BST_INLINE __m256i BST_SUM4(add)(__m256i* sum, __m256i a, __m256i b) {
  const __m256i half = bst_kept4(a ^ b), c = *sum;
  *sum = half ^ c;
  return _mm256_ternarylogic_epi64(half, c, a, BST_TABLE_SELECT);
}
#include "sum.h"

#define BST_SUM_IS_WHOLE
#define BST_SUM_FIXED 13
#define BST_SUM8(name) bst_sum8_##name
#define BST_SUM BST_SUM8
#define BST_SUM_VEC __m512i
#define BST_SUM_WORDS_OF 8
BST_INLINE __m512i BST_SUM8(splat)(uint64_t a) { return _mm512_set1_epi64((long long)a); }
BST_INLINE __m512i BST_SUM8(add)(__m512i* sum, __m512i a, __m512i b) {
  const __m512i half = bst_kept8(a ^ b), c = *sum;
  *sum = half ^ c;
  return _mm512_ternarylogic_epi64(half, c, a, BST_TABLE_SELECT);
}
#include "sum.h"

static bst_sum_piece* const bst_sum_pieces[] = {BST_SUM2(function), BST_SUM4(function),
                                                BST_SUM8(function)};

/// Append the positions of the set bits of `n_words` words, times 8, to `first`. May write 32
/// entries beyond the new length.
static inline size_t bst_bits_list(const uint64_t* words, size_t n_words, bst_entry first,
                                   bst_entry* list, size_t n) {
  const __m512i places = _mm512_set_epi64(
      0x3F3E3D3C3B3A3938, 0x3736353433323130, 0x2F2E2D2C2B2A2928, 0x2726252423222120,
      0x1F1E1D1C1B1A1918, 0x1716151413121110, 0x0F0E0D0C0B0A0908, 0x0706050403020100);
  const __m512i next = _mm512_set1_epi16(64 * BST_ENTRY);
  // A register that is known to be zero would make it the form that zeroes; that one waits for what
  // its result's register held before (Zen 5: 8 cycles per word in place of 3).
  const __m512i zero = bst_kept8(_mm512_setzero_si512());
  __m512i base = _mm512_set1_epi16((short)first);  // from a general register: not per word
  for (size_t w = 0; w < n_words; ++w, base = _mm512_add_epi16(base, next)) {
    const uint64_t bits = words[w];
    const __m512i packed = _mm512_mask_compress_epi8(zero, bits, places);
    const size_t count = (size_t)_mm_popcnt_u64(bits);
    const __m256i few = _mm256_cvtepu8_epi16(_mm512_castsi512_si128(packed));
    _mm256_storeu_si256((__m256i*)(void*)(list + n),
                        _mm256_add_epi16(_mm512_castsi512_si256(base), _mm256_slli_epi16(few, 3)));
    if (count > 16) {
      const __m512i low = _mm512_cvtepu8_epi16(_mm512_castsi512_si256(packed));
      const __m512i high = _mm512_cvtepu8_epi16(_mm512_extracti64x4_epi64(packed, 1));
      _mm512_storeu_si512(list + n, _mm512_add_epi16(base, _mm512_slli_epi16(low, 3)));
      if (count > 32) {
        _mm512_storeu_si512(list + n + 32, _mm512_add_epi16(base, _mm512_slli_epi16(high, 3)));
      }
    }
    n += count;
  }
  return n;
}

/// list[n + i] = from[i] + add for i < count. May read and write 32 entries beyond.
static inline size_t bst_bits_copy(const bst_entry* from, size_t count, bst_entry add,
                                   bst_entry* list, size_t n) {
  const __m512i offset = _mm512_set1_epi16((short)add);
  for (size_t i = 0; i < count; i += 32) {
    _mm512_storeu_si512(list + n + i, _mm512_add_epi16(_mm512_loadu_si512(from + i), offset));
  }
  return n + count;
}

/// Pad with `zero_row` to a multiple of BST_SUM_ROWS. May write 32 entries beyond the old length.
static inline size_t bst_bits_pad(bst_entry zero_row, bst_entry* list, size_t n) {
  _mm256_storeu_si256((__m256i*)(void*)(list + n), _mm256_set1_epi16((short)zero_row));
  return (n + BST_SUM_ROWS - 1) / BST_SUM_ROWS * BST_SUM_ROWS;
}

#define BST_FIRE_FIXED
#define BST_WHOLE_SUM BST_SUM8

/// Counts of 512 lanes in natural order; `planes` holds whole groups of eight.
static inline void bst_bits_unpack(const bst_bits* planes, int n_planes, uint16_t* counts) {
  bst_vec_unpack(planes, n_planes, counts);
}

/// y of 16 outputs. |n| and |Af| stay below 2^14, so (n Af + 2^14) >> 15 is what vpmulhrsw
/// computes.
BST_INLINE __m512i bst_bits_scale16(__m256i count, __m256i offset, __m512i ai, __m256i af,
                                    __m512i b) {
  const __m256i n = _mm256_sub_epi16(_mm256_add_epi16(count, count), offset);
  const __m512i part = _mm512_cvtepi16_epi32(_mm256_mulhrs_epi16(n, af));
  const __m512i whole = _mm512_mullo_epi32(_mm512_cvtepi16_epi32(n), ai);
  return _mm512_add_epi32(_mm512_add_epi32(whole, part), b);
}

/// y of `n_lanes` outputs from their counts; whole vectors of counts may be read.
BST_NOINLINE void bst_bits_scale(const uint16_t* count, int32_t n_events, size_t n_lanes,
                                 const int32_t* ai, const int16_t* af, const int32_t* b,
                                 int32_t* out) {
  const __m256i offset = _mm256_set1_epi16((short)n_events);
  size_t i = 0;
  for (; i + 16 <= n_lanes; i += 16) {
    const __m256i c = _mm256_loadu_si256((const __m256i*)(const void*)(count + i));
    const __m256i f = _mm256_loadu_si256((const __m256i*)(const void*)(af + i));
    const __m512i y =
        bst_bits_scale16(c, offset, _mm512_loadu_si512(ai + i), f, _mm512_loadu_si512(b + i));
    _mm512_storeu_si512(out + i, y);
  }
  if (i == n_lanes) return;
  const __mmask16 lanes = (__mmask16)((1U << (n_lanes - i)) - 1);
  const __m256i c = _mm256_loadu_si256((const __m256i*)(const void*)(count + i));
  const __m512i y = bst_bits_scale16(c, offset, _mm512_maskz_loadu_epi32(lanes, ai + i),
                                     _mm256_maskz_loadu_epi16(lanes, af + i),
                                     _mm512_maskz_loadu_epi32(lanes, b + i));
  _mm512_mask_storeu_epi32(out + i, lanes, y);
}

#include "sliced.h"

const bst_spike_conv bst_spike_conv__avx512 = BST_SLICED_VERSION;

BST_VECTOR_END

#endif  // BST_HAVE_AVX512
