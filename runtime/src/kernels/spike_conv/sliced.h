// SPDX-License-Identifier: MIT
// spike_conv, event-driven and bit-sliced from the packed spikes of the input to those of the
// output. A body: included by the file of one instruction set after its vocabulary,
//   bst_bits              a vector of BST_BITS_WORDS words, one lane a bit; operators & | ^ ~
//   bst_bits_add, bst_bits_select, bst_bits_less   full adder, choice, borrow, lane by lane
//                         (no choice with BST_FIRE_LOOPS, see fire_loops.h)
//   bst_sum_pieces        functions of sum.h per width of rows, narrowest first
//   bst_bits_list, bst_bits_copy                   making lists
//   bst_bits_put(v, k, n, a)                       v with `a` in words k n .. k n + n - 1
//
// Weights lie in blocks of BST_BITS_WORDS words of outputs; the last block is as narrow as a piece
// allows. Per block: one row of bits per input of the window, a row of zeros that pads lists, and
// the planes of `total`, the number of +1 weights of each output.
//
// Lists. Outputs are taken in tiles of neighbouring pixels. A tile's lists of active inputs are
// made once, for all steps and all blocks; then each block runs over the tile while its rows are in
// cache. Where a window is larger than a pixel, image rows are listed once and a window's list is
// put together from one slice per image row. Where more than half of a whole window is active, its
// silent inputs are listed instead: with P_z of them under a +1 weight, P = total - P_z.
//
// Narrow outputs. Several pixels share a vector, so that no lane idles in the neuron. Where their
// windows overlap they are one strip, listed and added up once: a row of weights then holds, for
// each pixel of the strip, the weights of the tap under which it sees that input, or zeros. Else
// the counters of the pixels are added up one after the other, or two at a time (BST_PAIR_SUM), and
// meet in the vector.
//
// Periodic trains. Behind the encoder of a still image an input fires at p, 2p, 3p, .. or never
// (../stem_neuron). Step t then counts the inputs of the periods that divide t: each active input
// is added once, to the counters of its period, and counters are added up per step.
//
// Dense inputs. Where inputs fire at several steps, lists go by the pattern of steps: each active
// input is added once, to the counters of its pattern, and these are added up per step.
//
// Neuron (numerics.md 4), exact on planes. With S active inputs n = 2P - S. Counters begin at
// -ceil(S/2), so that they end as P' = P - ceil(S/2) and n = 2P' + (S odd): its planes are the
// parity of S below those of P'. I_t = (spiked at t-1 ? 0 : I_t-1) + 2^(t-1) n_t is an addition of
// planes shifted by t - 1; it fires iff I_t >= Theta[t, s], whose planes are selected by the spikes
// since, s the last of them, and subtracted for the borrow alone. |P'| < 2^(k-1) for k planes with
// S < 2^k, hence |I_t| <= (2^t - 1)(2^k - 1): k + 1 planes at t = 1, k + t + 1 later. Theta needs
// no more planes than hold every reachable I_t of its channels, and neither does I_t.

#ifndef BST_KERNELS_SPIKE_CONV_SLICED_H_
#define BST_KERNELS_SPIKE_CONV_SLICED_H_

#include "lists.h"

// ---- Sums ---------------------------------------------------------------------------------------

/// A block of outputs.
typedef struct bst_block {
  const uint8_t* rows;
  const uint8_t* total;  // planes, a row each
  size_t first_word, n_words;
  size_t row_words;    // of the rows
  size_t pixel_words;  // of a vector, for one pixel
  int n_pixels;        // that meet in one vector
  int n_places;        // of a tile, that meet in one vector
  bst_sum_function* (*function)(int n_planes);
} bst_block;

static inline bst_block bst_block_at(const bst_conv_work* w, size_t first) {
  const size_t n_rows = bst_block_rows(w->strip.fan_in), left = w->g.out_words - first;
  bst_block b = {.first_word = first,
                 .pixel_words = bst_block_words(BST_WIDTH, w->g.out_words, first)};
  b.row_words = w->strip.n_pixels > 1 ? BST_BITS_WORDS : b.pixel_words;
  b.rows = (const uint8_t*)(w->rows + n_rows * first);
  b.total = b.rows + (w->strip.fan_in + 1) * b.row_words * sizeof(uint64_t);
  b.n_words = left < b.pixel_words ? left : b.pixel_words;
  b.n_pixels = (int)(BST_BITS_WORDS / b.pixel_words);
  b.n_places = b.n_pixels / w->strip.n_pixels;
  b.function = bst_sum_pieces[0];
  for (size_t words = BST_NARROWEST_WORDS, i = 0; words < b.row_words; words *= 2) {
    b.function = bst_sum_pieces[++i];
  }
  return b;
}

/// Counters with room for numbers up to `most`: as many planes as sum.h has functions for.
static inline int bst_sum_planes(uint32_t most) {
  const int n = (bst_bit_length(most) + 1) / 2 * 2;
  if (n > BST_MAX_SUM_PLANES) return BST_MAX_SLICED_PLANES;
  return n < BST_MIN_SUM_PLANES ? BST_MIN_SUM_PLANES : n;
}

/// Replace counters C of one pixel by total - C, modulo 2^n_planes.
static inline void bst_from_total(const bst_block* b, int n_planes, uint64_t* counters) {
  const uint64_t* total = (const uint64_t*)(const void*)b->total;
  for (size_t k = 0; k < b->row_words; ++k) {
    uint64_t borrow = 0;
    for (int p = 0; p < n_planes; ++p) {
      uint64_t* const plane = counters + (size_t)p * BST_BITS_WORDS + k;
      const uint64_t a = total[(size_t)p * b->row_words + k], c = *plane, differ = a ^ c;
      *plane = differ ^ borrow;
      borrow = (~a & c) | (~differ & borrow);
    }
  }
}

BST_INLINE bst_bits bst_load_bits(const void* from) {
  bst_bits v;
  memcpy(&v, from, sizeof v);
  return v;
}

/// Of the pixels of one vector: S of every step, and what the counter of every list begins with,
/// in the words of each pixel.
typedef struct bst_counts {
  bst_bits n_active[BST_MAX_LISTS], start[BST_MAX_LISTS];
} bst_counts;

/// Bit p of each word, in all its lanes.
BST_INLINE bst_bits bst_spread_bit(bst_bits v, int p) {
  return (v ^ v) - (v >> p & bst_bits_splat(1));
}

/// Planes of the number in each word, in all its lanes.
static inline void bst_spread_planes(bst_bits number, int n_planes, uint64_t* planes) {
  for (int p = 0; p < n_planes; ++p, number >>= 1) {
    const bst_bits plane = bst_spread_bit(number, 0);
    memcpy(planes + (size_t)p * BST_BITS_WORDS, &plane, sizeof plane);
  }
}

/// Counters of a place that fills a vector.
static inline void bst_sum_strip(const bst_block* b, const bst_tile* tile, size_t at, int n_planes,
                                 bst_bits start, uint64_t* planes) {
  const bool inverted = tile->is_inverted[at];
  if (inverted) start = (start ^ start) - start;
  bst_spread_planes(start, n_planes, planes);
  BST_WHOLE_SUM(more_function)(n_planes)(n_planes, b->rows, tile->list[at], tile->n_padded[at],
                                         planes);
  if (inverted) bst_from_total(b, n_planes, planes);
}

#ifdef BST_PAIR_SUM
/// Counters of list `at` of one place and, where n = 2, of the same list of the next, half a vector
/// each.
/// @param starts [BST_BITS_WORDS] what they begin with, in the words of each place
static inline void bst_sum_pair(const bst_conv_work* w, const bst_block* b, const bst_tile* tile,
                                int at, int n, int n_planes, uint64_t* starts, uint64_t* planes) {
  const int next = n == 2 ? at + w->plan.n_lists : at;
  for (size_t k = 0; k < BST_BITS_WORDS; ++k) {
    if (tile->is_inverted[k < b->row_words ? at : next]) starts[k] = 0 - starts[k];
  }
  bst_spread_planes(bst_load_bits(starts), n_planes, planes);
  BST_PAIR_SUM(pair)(n_planes, b->rows, tile->list[at], tile->n_padded[at], tile->list[next],
                     n == 2 ? tile->n_padded[next] : 0, (bst_entry)(w->strip.fan_in * BST_ENTRY),
                     planes);
  if (tile->is_inverted[at]) bst_from_total(b, n_planes, planes);
  if (tile->is_inverted[next]) bst_from_total(b, n_planes, planes + b->row_words);
}
#endif

/// Counters of one list of places i .. i + n - 1 of a tile, in one vector.
static inline void bst_sum_places(const bst_conv_work* w, const bst_block* b, const bst_tile* tile,
                                  int which, int i, int n, int n_planes, const bst_bits* start,
                                  uint64_t* planes) {
  if (w->strip.n_pixels > 1) {
    bst_sum_strip(b, tile, (size_t)(i * w->plan.n_lists + which), n_planes, *start, planes);
    return;
  }
  uint64_t starts[BST_BITS_WORDS];
  memcpy(starts, start, sizeof starts);
#ifdef BST_PAIR_SUM
  if (2 * b->row_words == BST_BITS_WORDS) {
    bst_sum_pair(w, b, tile, i * w->plan.n_lists + which, n, n_planes, starts, planes);
    return;
  }
#endif
  for (int k = 0; k < n; ++k) {
    const size_t at = (size_t)((i + k) * w->plan.n_lists + which), word = (size_t)k * b->row_words;
    const uint32_t begin = (uint32_t)starts[word];
    const bool inverted = tile->is_inverted[at];
    b->function(n_planes)(n_planes, b->rows, tile->list[at], tile->n_padded[at],
                          inverted ? 0 - begin : begin, planes + word, BST_BITS_WORDS);
    if (inverted) bst_from_total(b, n_planes, planes + word);
  }
}

/// sums[a] += sums[b]
static inline void bst_add_sums(int n_planes, bst_bits* a, const bst_bits* b) {
  bst_bits carry = *a ^ *a;
  for (int p = 0; p < n_planes; ++p) carry = bst_bits_add(&a[p], b[p], carry);
}

/// Counters of steps from those of periods: descending, so that divisors are still their own.
static inline void bst_add_periods(int n_steps, int n_planes, bst_bits* sums) {
  for (int t = n_steps; t > 1; --t) {
    for (int d = 1; d <= t / 2; ++d) {
      if (t % d == 0) bst_add_sums(n_planes, sums + (t - 1) * n_planes, sums + (d - 1) * n_planes);
    }
  }
}

/// Counters of steps from those of patterns. From the last step on: pattern q + 2^t, q < 2^t,
/// counts for step t, and for the earlier steps as q does. Step t's sum gathers at pattern 2^t.
/// @param lists those that have counters
static inline void bst_add_patterns(int n_steps, int n_planes, uint32_t lists, bst_bits* sums) {
  for (int t = n_steps - 1; t > 0; --t) {
    bst_bits* const at =
        sums + ((1 << t) - 1) * n_planes;  // pattern 2^t; p is at (p - 1) * n_planes
    for (int q = 1; q < 1 << t; ++q) {
      if ((lists >> ((1 << t) + q - 1) & 1) == 0) continue;
      bst_bits *const to = sums + (q - 1) * n_planes, *const from = at + q * n_planes;
      bst_add_sums(n_planes, at, from);
      if ((lists >> (q - 1) & 1) != 0) {
        bst_add_sums(n_planes, to, from);
      } else {
        for (int p = 0; p < n_planes; ++p) to[p] = from[p];
        lists |= UINT32_C(1) << (q - 1);
      }
    }
  }
  for (int t = 2; t < n_steps; ++t) {
    const bst_bits* const from = sums + ((1 << t) - 1) * n_planes;
    for (int p = 0; p < n_planes; ++p) sums[t * n_planes + p] = from[p];
  }
}

/// Counters of steps from those of the planes of levels: each counts twice the one below.
static inline void bst_add_levels(int n_steps, int n_levels, int n_planes, bst_bits* sums) {
  bst_bits total[BST_MAX_SLICED_PLANES];
  for (int t = 0; t < n_steps; ++t) {
    const bst_bits* const from = sums + t * n_levels * n_planes;
    for (int i = 0; i < n_planes; ++i) total[i] = from[(n_levels - 1) * n_planes + i];
    for (int p = n_levels - 2; p >= 0; --p) {
      for (int i = n_planes - 1; i > 0; --i) total[i] = total[i - 1];
      total[0] = total[0] ^ total[0];
      bst_add_sums(n_planes, total, from + p * n_planes);
    }
    for (int i = 0; i < n_planes; ++i) sums[t * n_planes + i] = total[i];
  }
}

/// Planes that the counters of list `which` need. Where they begin with 0 and others do not.
static inline int bst_list_planes(const bst_conv_work* w, const bst_tile* tile, int which, int i,
                                  int n, int n_planes) {
  uint32_t most = 0;
  if (w->plan.kind == BST_BY_PLANE) {
    if (which % w->plan.n_planes == 0) return n_planes;
  } else if (w->plan.kind != BST_BY_PATTERN || bst_is_single((uint32_t)which + 1)) {
    return n_planes;
  }
  for (int k = 0; k < n; ++k) {
    const uint32_t here = tile->n_padded[(i + k) * w->plan.n_lists + which];
    most = here > most ? here : most;
  }
  const int needed = bst_sum_planes(most);
  return needed < n_planes ? needed : n_planes;
}

/// Counters of every step of places i .. i + n - 1 of a tile, in one vector.
static inline void bst_sum_group(const bst_conv_work* w, const bst_block* b, const bst_tile* tile,
                                 int i, int n, int n_planes, const bst_counts* counts,
                                 bst_bits* sums) {
  for (int l = 0; l < w->plan.n_lists; ++l) {
    if (!bst_has_list(&w->plan, l)) continue;
    bst_bits* const planes = sums + l * n_planes;
    const int needed = bst_list_planes(w, tile, l, i, n, n_planes);
    bst_sum_places(w, b, tile, l, i, n, needed, &counts->start[l], (uint64_t*)(void*)planes);
    for (int p = needed; p < n_planes; ++p) planes[p] = bst_bits_splat(0);
  }
  if (w->plan.kind == BST_BY_PLANE) {
    bst_add_levels(w->g.n_steps, w->plan.n_planes, n_planes, sums);
  }
  if (w->plan.kind == BST_BY_PERIOD) bst_add_periods(w->g.n_steps, n_planes, sums);
  if (w->plan.kind == BST_BY_PATTERN) bst_add_patterns(w->g.n_steps, n_planes, w->plan.lists, sums);
}

// ---- Neuron -------------------------------------------------------------------------------------

enum { BST_MAX_CHARGE_PLANES = BST_MAX_SLICED_PLANES + BST_CONV_NEURON_T + 1 };

#ifdef BST_FIRE_LOOPS
#include "fire_loops.h"
#else
#define BST_FIRE_ANY(name) bst_fire_##name
#define BST_FIRE BST_FIRE_ANY
#define BST_FIRE_UNROLL
#include "fire.h"

/// All steps of one vector of neurons, any T and number of planes.
/// @param sums [n_steps][n_planes], @param odd [n_steps], @param spikes out: [n_steps]
static void bst_fire_steps(int n_steps, int n_planes, const bst_theta_head* head,
                           const bst_bits* theta, const bst_bits* sums, const bst_bits* odd,
                           bst_bits* spikes) {
  bst_bits charge[BST_MAX_CHARGE_PLANES];
  int n_before = 0;
  for (int t = 1; t <= n_steps; ++t) {
    const int width = head->widths[t - 1], most = BST_CHARGE_PLANES(n_planes, t);
    const int n_here = width < most ? width : most;
    spikes[t - 1] = BST_FIRE_ANY(step)(t, n_planes, n_before, n_here, width, theta,
                                       sums + (t - 1) * n_planes, odd[t - 1], spikes, charge);
    theta += width * t;
    n_before = n_here;
  }
}
#endif

#ifdef BST_FIRE_FIXED
#include "fire_fixed.h"
#endif

// ---- conv_neuron --------------------------------------------------------------------------------

/// Counters, parities and spikes of the neurons of one vector.
typedef struct bst_group {
  bst_bits sums[BST_MAX_LISTS * BST_MAX_SLICED_PLANES];  // [lists, then steps][n_planes]
  bst_bits odd[BST_CONV_NEURON_T], spikes[BST_CONV_NEURON_T];
  bst_counts counts;
} bst_group;

/// S of every step of one pixel from the lengths of its lists, and what each list's counter begins
/// with, so that the counters of step t end up below P by ceil(S/2).
/// @param lengths those of list l at l * n_apart
static inline void bst_starts(const bst_conv_work* w, const uint32_t* lengths, size_t n_apart,
                              uint32_t* n_active, uint32_t* start) {
  for (int l = 0; l < w->plan.n_lists && w->plan.kind == BST_BY_PATTERN; ++l) {
    start[l] = 0;
    for (int t = 0; t < w->g.n_steps; ++t) {
      if ((l + 1) >> t & 1) n_active[t] += lengths[(size_t)l * n_apart];
    }
  }
  if (w->plan.kind == BST_BY_PLANE) {
    const int n_planes = w->plan.n_planes;
    for (int l = 0; l < w->plan.n_lists; ++l) {
      n_active[l / n_planes] += lengths[(size_t)l * n_apart] << (l % n_planes);
    }
    for (int t = 0; t < w->g.n_steps; ++t) start[t * n_planes] = 0 - (n_active[t] + 1) / 2;
    return;
  }
  for (int t = 1; t <= w->g.n_steps; ++t) {
    if (w->plan.kind == BST_BY_PATTERN) {  // only step t counts those that fire at step t alone
      start[(1 << (t - 1)) - 1] = 0 - (n_active[t - 1] + 1) / 2;
      continue;
    }
    uint32_t active = lengths[(size_t)(t - 1) * n_apart], begun = 0;
    for (int d = 1; w->plan.kind == BST_BY_PERIOD && d <= t / 2; ++d) {
      if (t % d != 0) continue;
      active += lengths[(size_t)(d - 1) * n_apart];
      begun += start[d - 1];
    }
    n_active[t - 1] = active;
    start[t - 1] = 0 - (active + 1) / 2 - begun;
  }
}

/// bst_counts of places i .. i + n - 1; returns the largest S.
static inline uint32_t bst_count_group(const bst_conv_work* w, const bst_block* b,
                                       const bst_tile* tile, int i, int n, bst_counts* counts) {
  const size_t strip = (size_t)w->strip.n_pixels, n_lists = (size_t)w->plan.n_lists;
  const bst_bits zero = bst_bits_splat(0);
  uint32_t most = 0;
  for (size_t pixel = 0; pixel < (size_t)n * strip; ++pixel) {
    uint32_t active[BST_MAX_LISTS] = {0}, start[BST_MAX_LISTS] = {0};
    const size_t place = (size_t)i + pixel / strip;
    bst_starts(w, tile->n_active + place * n_lists * strip + pixel % strip, strip, active, start);
    for (size_t l = 0; l < n_lists; ++l) {
      bst_bits* const all = &counts->n_active[l];
      most = active[l] > most ? active[l] : most;
      *all = bst_bits_put(pixel == 0 ? zero : *all, pixel, b->pixel_words, active[l]);
      counts->start[l] =
          bst_bits_put(pixel == 0 ? zero : counts->start[l], pixel, b->pixel_words, start[l]);
    }
  }
  return most;
}

#if defined BST_FIRE_FIXED || defined BST_FIRE_LOOPS
/// Whether a place fills a vector and has a list for each of `n_steps` steps, none inverted.
/// @param first of its lists in the tile
static inline bool bst_is_simple(const bst_conv_work* w, const bst_block* b, const bst_tile* tile,
                                 int first, int n_steps) {
  bool inverted = false;
  for (int t = 0; t < n_steps; ++t) inverted |= tile->is_inverted[first + t];
  return b->n_pixels == 1 && w->plan.kind == BST_BY_STEP && !inverted;
}

/// The largest S of such a place.
static inline uint32_t bst_most_active(const bst_tile* tile, int first, int n_steps) {
  uint32_t most = 0;
  for (int t = 0; t < n_steps; ++t) {
    most = tile->n_active[first + t] > most ? tile->n_active[first + t] : most;
  }
  return most;
}

/// Sum it up.
static inline void bst_sum_simple(const bst_block* b, const bst_tile* tile, int first, int n_steps,
                                  int n_planes, bst_group* group) {
  bst_sum_function* const sum = BST_WHOLE_SUM(function)(n_planes);
  for (int t = 0; t < n_steps; ++t) {
    const uint32_t active = tile->n_active[first + t];
    sum(n_planes, b->rows, tile->list[first + t], tile->n_padded[first + t], 0 - (active + 1) / 2,
        (uint64_t*)(void*)(group->sums + t * n_planes), BST_BITS_WORDS);
    group->odd[t] = bst_bits_splat(bst_all_or_none[active & 1]);
  }
}
#endif

/// Sum up places i .. i + n - 1 of a tile in one vector; returns the largest S.
static inline uint32_t bst_sum_some(const bst_conv_work* w, const bst_block* b,
                                    const bst_tile* tile, int i, int n, bst_group* group) {
  const uint32_t most = bst_count_group(w, b, tile, i, n, &group->counts);
  bst_sum_group(w, b, tile, i, n, bst_sum_planes(most), &group->counts, group->sums);
  for (int t = 0; t < w->g.n_steps; ++t) {
    group->odd[t] = bst_spread_bit(group->counts.n_active[t], 0);
  }
  return most;
}

#ifdef BST_FIRE_FIXED
/// Sum up and fire a place that fills a vector, for four steps; false where that cannot be.
static inline bool bst_run_whole(const bst_conv_work* w, const bst_block* b,
                                 const bst_theta_head* head, const bst_bits* theta,
                                 const bst_tile* tile, int i, bst_group* group) {
  if (w->g.n_steps != 4 || !bst_is_simple(w, b, tile, i * 4, 4)) return false;
  const int n_planes = bst_sum_planes(bst_most_active(tile, i * 4, 4));
  if (!bst_is_fixed(4, n_planes, head)) return false;
  bst_sum_simple(b, tile, i * 4, 4, n_planes, group);
  bst_fire_4_table[BST_SUM_NUMBER(n_planes)](head, theta, group->sums, group->odd, group->spikes);
  return true;
}
#endif

/// Sum up and fire places i .. i + n - 1 of a tile in one vector.
#ifdef BST_FIRE_LOOPS
static inline void bst_run_group(const bst_conv_work* w, const bst_block* b,
                                 const bst_theta_head* head, const bst_bits* theta,
                                 const bst_tile* tile, int i, int n, bst_group* group) {
  const int n_steps = w->g.n_steps, first = i * n_steps;
  uint32_t most = 0;
  if (bst_is_simple(w, b, tile, first, n_steps)) {
    most = bst_most_active(tile, first, n_steps);
    bst_sum_simple(b, tile, first, n_steps, bst_sum_planes(most), group);
  } else {
    most = bst_sum_some(w, b, tile, i, n, group);
  }
  bst_fire_steps(n_steps, most == 0 ? 1 : bst_bit_length(most), bst_sum_planes(most), head, theta,
                 group->sums, group->odd, group->spikes);
}
#else
static inline void bst_run_group(const bst_conv_work* w, const bst_block* b,
                                 const bst_theta_head* head, const bst_bits* theta,
                                 const bst_tile* tile, int i, int n, bst_group* group) {
#ifdef BST_FIRE_FIXED
  if (bst_run_whole(w, b, head, theta, tile, i, group)) return;
#endif
  const int n_steps = w->g.n_steps;
  const int n_planes = bst_sum_planes(bst_sum_some(w, b, tile, i, n, group));
#ifdef BST_FIRE_FIXED
  if (bst_is_fixed(n_steps, n_planes, head)) {
    bst_fire_4_table[BST_SUM_NUMBER(n_planes)](head, theta, group->sums, group->odd, group->spikes);
    return;
  }
#endif
  bst_fire_steps(n_steps, n_planes, head, theta, group->sums, group->odd, group->spikes);
}
#endif

/// Write the spikes of pixel `k` of a group; bits beyond the outputs are zero.
static inline void bst_put_spikes(const bst_conv_work* w, const bst_block* b,
                                  const bst_group* group, int k, uint64_t* pixel,
                                  size_t out_frame) {
  const size_t end = 64 * (b->first_word + b->n_words), n_out = (size_t)w->g.n_out;
  const uint64_t last = end > n_out ? UINT64_MAX >> (end - n_out) : UINT64_MAX;
  if (b->n_pixels == 1) {
    for (int t = 0; t < w->g.n_steps; ++t) {
      bst_bits_store(pixel + (size_t)t * out_frame + b->first_word, b->n_words, last,
                     group->spikes[t]);
    }
    return;
  }
  for (int t = 0; t < w->g.n_steps; ++t) {
    uint64_t words[BST_BITS_WORDS];
    memcpy(words, &group->spikes[t], sizeof words);
    const uint64_t* const mine = words + (size_t)k * b->pixel_words;
    uint64_t* const out = pixel + (size_t)t * out_frame + b->first_word;
    for (size_t j = 0; j + 1 < b->n_words; ++j) out[j] = mine[j];
    out[b->n_words - 1] = mine[b->n_words - 1] & last;
  }
}

/// @param n_pixels from the first of the tile to the end of the row
/// @param out      of the first pixel of the tile
static inline void bst_neuron_tile(const bst_conv_work* w, const bst_tile* tile, const void* theta,
                                   int n_pixels, uint64_t* out, size_t out_frame,
                                   bst_group* group) {
  const bst_theta_head* const head = theta;
  const bst_bits* planes =
      (const bst_bits*)(const void*)((const uint8_t*)theta + BST_THETA_HEAD_BYTES);
  for (size_t first = 0; first < w->g.out_words; first += BST_BITS_WORDS) {
    const bst_block b = bst_block_at(w, first);
    for (int i = 0; i < tile->n_places; i += b.n_places) {
      const int left = tile->n_places - i, n = left < b.n_places ? left : b.n_places;
      const int pixel = i * w->strip.n_pixels;
      bst_run_group(w, &b, head, planes, tile, i, n, group);
      for (int k = 0; k < n * w->strip.n_pixels && pixel + k < n_pixels; ++k) {
        bst_put_spikes(w, &b, group, k, out + (size_t)(pixel + k) * w->g.out_words, out_frame);
      }
    }
    planes += head->block_planes;
  }
}

/// Rows of outputs as the parts share them: a pointwise layer is one long row of cells.
typedef struct bst_conv_share {
  int first_y, end_y, first_x, end_x;
} bst_conv_share;

static inline bst_conv_share bst_share_of(const bst_conv_work* w, int part, int n_parts) {
  const size_t n = (size_t)(w->pointwise ? w->g.out_w : w->g.out_h);
  const int first = (int)bst_part_begin(part, n_parts, n);
  const int end = (int)bst_part_begin(part + 1, n_parts, n);
  const bst_conv_share cells = {0, 1, first, end}, rows = {first, end, 0, w->g.out_w};
  return w->pointwise ? cells : rows;
}

/// A pointwise layer is an image of one row.
static inline bst_conv_geometry bst_sliced_geometry(int n_steps, int height, int width, int n_in,
                                                    int n_out, int kh, int kw, int stride,
                                                    int pad) {
  const bool pointwise = kh * kw == 1 && stride == 1 && pad == 0;
  return bst_conv_geometry_of(n_steps, pointwise ? 1 : height, pointwise ? height * width : width,
                              n_in, n_out, kh, kw, stride, pad);
}

static inline void bst_list_for(bst_conv_work* w, int y) {
  const bst_conv_geometry* const g = &w->g;
  const int first = y * g->stride - g->pad, end = first + g->kh;
  if (g->kh * g->kw == 1) return;
  bst_row_lists* const rows = &w->row_lists;
  if (rows->n_listed < first) rows->n_listed = first;
  bst_list_rows(g, &w->plan, w->spikes, end < g->height ? end : g->height, rows);
  rows->first_ky = first < 0 ? -first : 0;
  rows->end_ky = end > g->height ? g->height - first : g->kh;
  for (int ky = rows->first_ky; ky < rows->end_ky; ++ky) rows->slot[ky] = (first + ky) % g->kh;
}

/// What the lists of a call hold.
static inline bst_list_plan bst_sliced_plan(const bst_conv_geometry* g, bool periodic,
                                            const uint64_t* spikes) {
  const bst_strip strip = bst_strip_of(BST_WIDTH, g->n_out, g->kh, g->kw, g->n_in, g->stride);
  return bst_plan_lists(g, &strip, periodic, spikes);
}

/// What is done with a tile.
/// @param n_pixels from its first pixel to the end of the row, @param pixel number of the first
typedef void bst_tile_work(bst_conv_work* w, const bst_tile* tile, int n_pixels, size_t pixel,
                           const void* context);

/// Make the tiles of a part one after the other.
BST_NOINLINE void bst_walk_tiles(int part, int n_parts, bst_conv_geometry g,
                                 const bst_list_plan* plan, const uint64_t* spikes,
                                 const uint64_t* rows, void* scratch, bst_tile_work* work,
                                 const void* context) {
  bst_conv_work w = bst_conv_work_of(g, plan, spikes, rows, scratch);
  const bst_conv_share share = bst_share_of(&w, part, n_parts);
  bst_tile tile;
  for (int y = share.first_y; y < share.end_y; ++y) {
    bst_list_for(&w, y);
    for (int x = share.first_x; x < share.end_x; x += tile.n_places * w.strip.n_pixels) {
      bst_make_tile(&w, y, x, share.end_x, &tile);
      work(&w, &tile, share.end_x - x, (size_t)y * (size_t)g.out_w + (size_t)x, context);
    }
  }
}

/// Layers of neurons that read the same spikes; several only where they are pointwise: without
/// strips the lists are the same for all.
typedef struct bst_neuron_layers {
  int n;
  const bst_conv_layer* layers;
  bst_group* group;
} bst_neuron_layers;

static void bst_neuron_tiles(bst_conv_work* w, const bst_tile* tile, int n_pixels, size_t pixel,
                             const void* context) {
  const bst_neuron_layers* const all = context;
  const size_t out_cells = (size_t)w->g.out_h * (size_t)w->g.out_w;
  for (const bst_conv_layer* l = all->layers; l < all->layers + all->n; ++l) {
    w->g.n_out = l->n_out;
    w->g.out_words = bst_conv_words(l->n_out);
    w->rows = l->rows;
    bst_neuron_tile(w, tile, l->theta, n_pixels, l->out + pixel * w->g.out_words,
                    out_cells * w->g.out_words, all->group);
  }
}

static inline void bst_neuron_share(int part, int n_parts, bst_conv_geometry g,
                                    const bst_list_plan* plan, const uint64_t* spikes, int n_layers,
                                    const bst_conv_layer* layers, void* scratch) {
  bst_group group;
  const bst_neuron_layers all = {n_layers, layers, &group};
  memset(&group, 0, sizeof group);
  bst_walk_tiles(part, n_parts, g, plan, spikes, layers->rows, scratch, bst_neuron_tiles, &all);
}

BST_NOINLINE void bst_sliced_neuron(int part, int n_parts, int n_steps, int height, int width,
                                    int n_in, int n_out, int kh, int kw, int stride, int pad,
                                    int periodic, const uint64_t* spikes, int n_layers,
                                    const bst_conv_layer* layers, void* scratch) {
  const bst_conv_geometry g =
      bst_sliced_geometry(n_steps, height, width, n_in, n_out, kh, kw, stride, pad);
  const bst_list_plan plan = bst_sliced_plan(&g, periodic != 0, spikes);
  bst_neuron_share(part, n_parts, g, &plan, spikes, n_layers, layers, scratch);
}

/// Levels: a row of cells, a list per step and plane.
static inline void bst_sliced_level_neuron(int part, int n_parts, int n_steps, int n_cells,
                                           int n_planes, int n_in, int n_out,
                                           const uint64_t* spikes, const uint64_t* rows,
                                           const void* theta, uint64_t* out, void* scratch) {
  const bst_conv_geometry g = bst_sliced_geometry(n_steps, 1, n_cells, n_in, n_out, 1, 1, 1, 0);
  const bst_list_plan plan = {BST_BY_PLANE, n_steps, n_steps * n_planes, n_planes, UINT32_MAX, {0}};
  const bst_conv_layer layer = {n_out, rows, theta, out};
  bst_neuron_share(part, n_parts, g, &plan, spikes, 1, &layer, scratch);
}

// ---- conv_affine --------------------------------------------------------------------------------

/// Counters of one vector at every step and at one, and their numbers in natural order.
typedef struct bst_affine_group {
  bst_bits sums[BST_MAX_LISTS * BST_MAX_SLICED_PLANES];
  bst_bits planes[(BST_MAX_SLICED_PLANES + 7) / 8 * 8];
  uint16_t counts[BST_BITS_BYTES * 8];
  bst_counts begun;
} bst_affine_group;

/// Places i .. i + n - 1 of a tile, `n_pixels` of which exist, at every step.
/// @param out of the first pixel
static inline void bst_affine_group_run(const bst_conv_work* w, const bst_block* b,
                                        const bst_tile* tile, int i, int n, int n_pixels,
                                        const int32_t* ai, const int16_t* af, const int32_t* bias,
                                        int32_t* out, size_t out_frame, bst_affine_group* group) {
  const size_t first = 64 * b->first_word, left = (size_t)w->g.n_out - first;
  const size_t n_lanes = left < 64 * b->n_words ? left : 64 * b->n_words;
  const int n_planes = bst_sum_planes(bst_count_group(w, b, tile, i, n, &group->begun));
  for (int l = 0; l < w->plan.n_lists; ++l) group->begun.start[l] = bst_bits_splat(0);
  bst_sum_group(w, b, tile, i, n, n_planes, &group->begun, group->sums);
  for (int p = n_planes; p % 8 != 0; ++p) group->planes[p] = group->sums[0] ^ group->sums[0];
  for (int t = 0; t < w->g.n_steps; ++t, out += out_frame) {
    for (int p = 0; p < n_planes; ++p) group->planes[p] = group->sums[t * n_planes + p];
    bst_bits_unpack(group->planes, n_planes, group->counts);
    uint64_t active[BST_BITS_WORDS];
    memcpy(active, &group->begun.n_active[t], sizeof active);
    for (size_t k = 0; k < (size_t)n_pixels; ++k) {
      bst_bits_scale(group->counts + k * b->pixel_words * 64, (int32_t)active[k * b->pixel_words],
                     n_lanes, ai + first, af + first, bias + first,
                     out + k * (size_t)w->g.n_out + first);
    }
  }
}

/// What follows the counts, for all outputs.
typedef struct bst_affine_layer {
  const int32_t *ai, *bias;
  const int16_t* af;
  int32_t* out;
  bst_affine_group* group;
} bst_affine_layer;

static void bst_affine_tile(bst_conv_work* w, const bst_tile* tile, int n_pixels, size_t first,
                            const void* context) {
  const bst_affine_layer* const l = context;
  const size_t n_out = (size_t)w->g.n_out, out_cells = (size_t)w->g.out_h * (size_t)w->g.out_w;
  int32_t* const out = l->out + first * n_out;
  for (size_t word = 0; word < w->g.out_words; word += BST_BITS_WORDS) {
    const bst_block b = bst_block_at(w, word);
    for (int i = 0; i < tile->n_places; i += b.n_places) {
      const int left = tile->n_places - i, n = left < b.n_places ? left : b.n_places;
      const int pixel = i * w->strip.n_pixels, here = n * w->strip.n_pixels;
      const int exist = here < n_pixels - pixel ? here : n_pixels - pixel;
      bst_affine_group_run(w, &b, tile, i, n, exist, l->ai, l->af, l->bias,
                           out + (size_t)pixel * n_out, out_cells * n_out, l->group);
    }
  }
}

static inline void bst_sliced_affine(int part, int n_parts, int n_steps, int height, int width,
                                     int n_in, int n_out, int kh, int kw, int stride, int pad,
                                     const uint64_t* spikes, const uint64_t* rows,
                                     const int32_t* ai, const int16_t* af, const int32_t* b,
                                     int32_t* out, void* scratch) {
  const bst_conv_geometry g =
      bst_sliced_geometry(n_steps, height, width, n_in, n_out, kh, kw, stride, pad);
  const bst_list_plan plan = bst_sliced_plan(&g, false, spikes);
  bst_affine_group group;
  const bst_affine_layer layer = {ai, b, af, out, &group};
  memset(&group, 0, sizeof group);
  bst_walk_tiles(part, n_parts, g, &plan, spikes, rows, scratch, bst_affine_tile, &layer);
}

// ---- The version --------------------------------------------------------------------------------

// Windows of more inputs than entries of lists can name are left to the plain kernels of scalar.c.

BST_COLD size_t bst_version_rows_bytes(int n_out, int kh, int kw, int n_in, int stride) {
  return bst_fits_lists(bst_conv_fan_in(kh, kw, n_in))
             ? bst_sliced_rows_bytes(BST_WIDTH, n_out, kh, kw, n_in, stride)
             : bst_spike_conv_rows_bytes(n_out, kh, kw, n_in);
}

BST_COLD void bst_version_prepare_rows(int n_out, int kh, int kw, int n_in, int stride,
                                       const uint8_t* bits, uint64_t* rows) {
  if (bst_fits_lists(bst_conv_fan_in(kh, kw, n_in))) {
    bst_sliced_prepare_rows(BST_WIDTH, n_out, kh, kw, n_in, stride, bits, rows);
  } else {
    bst_spike_conv_prepare_rows(n_out, kh, kw, n_in, bits, rows);
  }
}

BST_COLD size_t bst_version_theta_bytes(int n_steps, int n_out, int fan_in) {
  return bst_fits_lists((size_t)fan_in) ? bst_sliced_theta_bytes(BST_WIDTH, n_steps, n_out, fan_in)
                                        : bst_spike_conv_theta_bytes(n_steps, n_out);
}

BST_COLD void bst_version_prepare_theta(int n_steps, int n_out, int kh, int kw, int n_in,
                                        int most_level, const uint8_t* bits, const int32_t* theta_u,
                                        const int32_t* theta_w, int n_explicit,
                                        const int32_t* index, const int32_t* explicit_theta,
                                        void* theta) {
  if (bst_fits_lists(bst_conv_fan_in(kh, kw, n_in))) {
    bst_sliced_prepare_theta(BST_WIDTH, n_steps, n_out, kh, kw, n_in, most_level, bits, theta_u,
                             theta_w, n_explicit, index, explicit_theta, theta);
  } else {
    bst_spike_conv_prepare_theta(n_steps, n_out, theta_u, theta_w, n_explicit, index,
                                 explicit_theta, theta);
  }
}

BST_COLD uint64_t bst_version_scratch_bytes(int n_steps, int width, int n_out, int kh, int kw,
                                            int n_in, int stride) {
  return bst_fits_lists(bst_conv_fan_in(kh, kw, n_in))
             ? bst_sliced_scratch_bytes(n_steps, width, n_out, kh, kw, n_in, stride)
             : bst_spike_conv_scratch_bytes(n_steps, kh, kw, n_in);
}

static void bst_version_neuron(int part, int n_parts, int n_steps, int height, int width, int n_in,
                               int n_out, int kh, int kw, int stride, int pad, int periodic,
                               const uint64_t* spikes, const uint64_t* rows, const void* theta,
                               uint64_t* out, void* scratch) {
  if (bst_fits_lists(bst_conv_fan_in(kh, kw, n_in))) {
    const bst_conv_layer layer = {n_out, rows, theta, out};
    bst_sliced_neuron(part, n_parts, n_steps, height, width, n_in, n_out, kh, kw, stride, pad,
                      periodic, spikes, 1, &layer, scratch);
  } else {
    bst_spike_conv_neuron__scalar(part, n_parts, n_steps, height, width, n_in, n_out, kh, kw,
                                  stride, pad, periodic, spikes, rows, theta, out, scratch);
  }
}

static void bst_version_layers(int part, int n_parts, int n_steps, int n_cells, int n_in,
                               const uint64_t* spikes, int n_layers, const bst_conv_layer* layers,
                               void* scratch) {
  bst_sliced_neuron(part, n_parts, n_steps, 1, n_cells, n_in, 1, 1, 1, 1, 0, 0, spikes, n_layers,
                    layers, scratch);
}

static void bst_version_affine(int part, int n_parts, int n_steps, int height, int width, int n_in,
                               int n_out, int kh, int kw, int stride, int pad,
                               const uint64_t* spikes, const uint64_t* rows, const int32_t* ai,
                               const int16_t* af, const int32_t* b, int32_t* out, void* scratch) {
  if (bst_fits_lists(bst_conv_fan_in(kh, kw, n_in))) {
    bst_sliced_affine(part, n_parts, n_steps, height, width, n_in, n_out, kh, kw, stride, pad,
                      spikes, rows, ai, af, b, out, scratch);
  } else {
    bst_spike_conv_affine__scalar(part, n_parts, n_steps, height, width, n_in, n_out, kh, kw,
                                  stride, pad, spikes, rows, ai, af, b, out, scratch);
  }
}

#define BST_SLICED_VERSION                        \
  {                                               \
      .rows_bytes = bst_version_rows_bytes,       \
      .prepare_rows = bst_version_prepare_rows,   \
      .theta_bytes = bst_version_theta_bytes,     \
      .prepare_theta = bst_version_prepare_theta, \
      .scratch_bytes = bst_version_scratch_bytes, \
      .neuron = bst_version_neuron,               \
      .affine = bst_version_affine,               \
      .level_neuron = bst_sliced_level_neuron,    \
      .layers = bst_version_layers,               \
  }

#endif  // BST_KERNELS_SPIKE_CONV_SLICED_H_
