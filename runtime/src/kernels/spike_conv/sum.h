// SPDX-License-Identifier: MIT
// Adding listed rows into bit-sliced counters that stay in registers, for one type of vector. A
// body: included once for every width of rows, after BST_SUM(name), BST_SUM_VEC, BST_SUM_WORDS_OF
// and the functions BST_SUM(splat) and BST_SUM(add), a full adder; the macros are undefined at the
// end. BST_SUM_FIXED is the largest number of planes that has a function of its own, whose planes
// stay in registers; else one function takes any number, planes above the fourth in memory.
//
// Counters of `n_planes` planes start at any number (modulo 2^n_planes) and take sixteen rows at a
// time through a tree of fifteen full adders (Harley-Seal); the carry of weight 16 ripples through
// the planes above. A full adder is two functions of three bits, so an engine that does two of
// these per cycle adds one row per cycle at best.
//
// With BST_SUM_PAIR(row, other), which loads two rows of half a vector, there is one function
// instead: two lists side by side.

typedef BST_SUM_VEC BST_SUM(vec);

BST_INLINE BST_SUM(vec) BST_SUM(load)(const void* from) {
  BST_SUM(vec) v;
  memcpy(&v, from, sizeof v);
  return v;
}

// Full adders of one level of a tree do not wait for each other, and what the next rows wait for is
// one full adder per plane.
#ifdef BST_SUM_PAIR
#define BST_ROW(i)                                        \
  BST_SUM_PAIR(rows + (size_t)list[i] * BST_SUM_WORDS_OF, \
               rows + (size_t)other[i] * BST_SUM_WORDS_OF)
#else
#define BST_ROW(i) BST_SUM(load)(rows + (size_t)list[i] * BST_SUM_WORDS_OF)
#endif

/// Sixteen rows into planes 0 to 3 by fifteen full adders; returns the carry of weight 16.
/// @param other of a second list, for the upper half of the vector (BST_SUM_PAIR)
BST_INLINE BST_SUM(vec) BST_SUM(add16)(const uint8_t* rows, const bst_entry* list,
                                       const bst_entry* other, BST_SUM(vec) * p) {
  (void)other;
  BST_SUM(vec) a = BST_ROW(0), b = BST_ROW(3), c = BST_ROW(6), d = BST_ROW(9), e = BST_ROW(12);
  BST_SUM(vec) ta = BST_SUM(add)(&a, BST_ROW(1), BST_ROW(2));
  BST_SUM(vec) tb = BST_SUM(add)(&b, BST_ROW(4), BST_ROW(5));
  BST_SUM(vec) tc = BST_SUM(add)(&c, BST_ROW(7), BST_ROW(8));
  BST_SUM(vec) td = BST_SUM(add)(&d, BST_ROW(10), BST_ROW(11));
  BST_SUM(vec) te = BST_SUM(add)(&e, BST_ROW(13), BST_ROW(14));
  BST_SUM(vec) tf = BST_SUM(add)(&a, b, c);
  BST_SUM(vec) tg = BST_SUM(add)(&d, e, BST_ROW(15));
  BST_SUM(vec) th = BST_SUM(add)(&p[0], a, d);
  BST_SUM(vec) fa = BST_SUM(add)(&ta, tb, tc);
  BST_SUM(vec) fb = BST_SUM(add)(&td, te, tf);
  BST_SUM(vec) fc = BST_SUM(add)(&ta, td, tg);
  BST_SUM(vec) fd = BST_SUM(add)(&p[1], ta, th);
  BST_SUM(vec) ea = BST_SUM(add)(&fa, fb, fc);
  return BST_SUM(add)(&p[3], ea, BST_SUM(add)(&p[2], fa, fd));
}

#undef BST_ROW

/// Add a carry of weight 16 to the planes from the fourth on, in memory, `plane_words` apart.
BST_INLINE void BST_SUM(ripple)(BST_SUM(vec) carry, int n_planes, uint64_t* planes,
                                size_t plane_words) {
  for (size_t i = 4; i < (size_t)n_planes; ++i) {
    const BST_SUM(vec) plane = BST_SUM(load)(planes + i * plane_words), sum = plane ^ carry;
    memcpy(planes + i * plane_words, &sum, sizeof sum);
    carry &= plane;
  }
}

#ifdef BST_SUM_PAIR
/// Two lists at once, of any lengths, onto planes in memory that hold numbers of their own for
/// each.
/// @param zero_row entry of the row of zeros, which goes on where a list has ended
BST_NOINLINE void BST_SUM(pair)(int n_planes, const uint8_t* rows, const bst_entry* list,
                                size_t n_padded, const bst_entry* other, size_t n_other,
                                bst_entry zero_row, uint64_t* planes) {
  enum { WORDS = sizeof(BST_SUM(vec)) / sizeof(uint64_t) };
  bst_entry zeros[BST_SUM_ROWS];
  for (int i = 0; i < BST_SUM_ROWS; ++i) zeros[i] = zero_row;
  BST_SUM(vec) low[4];
  memcpy(low, planes, sizeof low);
  for (size_t done = 0; done < n_padded || done < n_other; done += BST_SUM_ROWS) {
    const bst_entry* const a = done < n_padded ? list + done : zeros;
    const bst_entry* const b = done < n_other ? other + done : zeros;
    BST_SUM(ripple)(BST_SUM(add16)(rows, a, b, low), n_planes, planes, WORDS);
  }
  memcpy(planes, low, sizeof low);
}
#else

// `rows` is the first word wanted of row 0; a row lies entry * BST_SUM_WORDS_OF bytes further. The
// length of a list is a multiple of BST_SUM_ROWS, there are four planes or more.

#if !defined BST_SUM_FIXED || BST_SUM_FIXED <= 10
/// Onto planes in memory, `plane_words` apart.
BST_NOINLINE void BST_SUM(any)(int n_planes, const uint8_t* rows, const bst_entry* list,
                               size_t n_padded, uint64_t* planes, size_t plane_words) {
  BST_SUM(vec) low[4];
  for (size_t i = 0; i < 4; ++i) low[i] = BST_SUM(load)(planes + i * plane_words);
  for (; n_padded != 0; n_padded -= BST_SUM_ROWS, list += BST_SUM_ROWS) {
    BST_SUM(ripple)(BST_SUM(add16)(rows, list, list, low), n_planes, planes, plane_words);
  }
  for (size_t i = 0; i < 4; ++i) memcpy(planes + i * plane_words, &low[i], sizeof low[i]);
}

/// From a number, the same in every lane, into memory: plane i at out + i * out_words.
static void BST_SUM(rows_any)(int n_planes, const uint8_t* rows, const bst_entry* list,
                              size_t n_padded, uint32_t start, uint64_t* out, size_t out_words) {
  for (int i = 0; i < n_planes; ++i) {
    const BST_SUM(vec) plane = BST_SUM(splat)(bst_all_or_none[start >> i & 1]);
    memcpy(out + (size_t)i * out_words, &plane, sizeof plane);
  }
  BST_SUM(any)(n_planes, rows, list, n_padded, out, out_words);
}
#endif

#ifdef BST_SUM_FIXED
/// @param n_planes a constant
BST_INLINE void BST_SUM(planes)(int n_planes, const uint8_t* rows, const bst_entry* list,
                                size_t n_padded, BST_SUM(vec) * p) {
  for (; n_padded != 0; n_padded -= BST_SUM_ROWS, list += BST_SUM_ROWS) {
    BST_SUM(vec) carry = BST_SUM(add16)(rows, list, list, p);
    BST_UNROLL
    for (int i = 4; i < n_planes; ++i) {
      const BST_SUM(vec) plane = p[i];
      p[i] = plane ^ carry;
      carry &= plane;
    }
  }
}

BST_INLINE void BST_SUM(rows)(int n_planes, const uint8_t* rows, const bst_entry* list,
                              size_t n_padded, uint32_t start, uint64_t* out, size_t out_words) {
  BST_SUM(vec) p[BST_MAX_SLICED_PLANES];
  BST_UNROLL
  for (int i = 0; i < n_planes; ++i) p[i] = BST_SUM(splat)(bst_all_or_none[start >> i & 1]);
  BST_SUM(planes)(n_planes, rows, list, n_padded, p);
  BST_UNROLL
  for (int i = 0; i < n_planes; ++i) memcpy(out + (size_t)i * out_words, &p[i], sizeof p[i]);
}

#define BST_SUM_PLANES(n)                                                                 \
  static void BST_SUM(rows_##n)(int n_planes, const uint8_t* rows, const bst_entry* list, \
                                size_t n_padded, uint32_t start, uint64_t* out,           \
                                size_t out_words) {                                       \
    (void)n_planes;                                                                       \
    BST_SUM(rows)(n, rows, list, n_padded, start, out, out_words);                        \
  }
BST_SUM_PLANES(8)
BST_SUM_PLANES(10)
#if defined BST_SUM_FIXED && BST_SUM_FIXED > 10
BST_SUM_PLANES(13)
#define BST_SUM_MOST BST_SUM(rows_13)
#else
#define BST_SUM_MOST BST_SUM(rows_any)
#endif
#undef BST_SUM_PLANES

/// The function for `n_planes`, one of those that bst_sum_planes gives.
static inline bst_sum_function* BST_SUM(function)(int n_planes) {
  static bst_sum_function* const functions[] = {BST_SUM(rows_8), BST_SUM(rows_10)};
  return n_planes > BST_MAX_SUM_PLANES ? BST_SUM_MOST : functions[BST_SUM_NUMBER(n_planes)];
}
#undef BST_SUM_MOST
#else
static inline bst_sum_function* BST_SUM(function)(int n_planes) {
  (void)n_planes;
  return BST_SUM(rows_any);
}
#endif

#ifdef BST_SUM_IS_WHOLE
#if defined BST_SUM_FIXED && BST_SUM_FIXED > 10
BST_INLINE void BST_SUM(more)(int n_planes, const uint8_t* rows, const bst_entry* list,
                              size_t n_padded, uint64_t* planes) {
  BST_SUM(vec) p[BST_MAX_SLICED_PLANES];
  BST_UNROLL
  for (int i = 0; i < n_planes; ++i) p[i] = BST_SUM(load)(planes + (size_t)i * BST_SUM_WORDS_OF);
  BST_SUM(planes)(n_planes, rows, list, n_padded, p);
  BST_UNROLL
  for (int i = 0; i < n_planes; ++i) {
    memcpy(planes + (size_t)i * BST_SUM_WORDS_OF, &p[i], sizeof p[i]);
  }
}

#define BST_MORE_PLANES(n)                                                                \
  static void BST_SUM(more_##n)(int n_planes, const uint8_t* rows, const bst_entry* list, \
                                size_t n_padded, uint64_t* planes) {                      \
    (void)n_planes;                                                                       \
    BST_SUM(more)(n, rows, list, n_padded, planes);                                       \
  }
BST_MORE_PLANES(8)
BST_MORE_PLANES(10)
BST_MORE_PLANES(13)
#undef BST_MORE_PLANES

/// The function onto `n_planes` planes, one after the other.
static inline bst_more_function* BST_SUM(more_function)(int n_planes) {
  static bst_more_function* const functions[] = {BST_SUM(more_8), BST_SUM(more_10)};
  return n_planes > BST_MAX_SUM_PLANES ? BST_SUM(more_13) : functions[BST_SUM_NUMBER(n_planes)];
}
#else
static void BST_SUM(more_any)(int n_planes, const uint8_t* rows, const bst_entry* list,
                              size_t n_padded, uint64_t* planes) {
  BST_SUM(any)(n_planes, rows, list, n_padded, planes, BST_SUM_WORDS_OF);
}

static inline bst_more_function* BST_SUM(more_function)(int n_planes) {
  (void)n_planes;
  return BST_SUM(more_any);
}
#endif
#endif

#endif  // BST_SUM_PAIR

#undef BST_SUM_FIXED
#undef BST_SUM_IS_WHOLE
#undef BST_SUM_PAIR
#undef BST_SUM
#undef BST_SUM_VEC
#undef BST_SUM_WORDS_OF
