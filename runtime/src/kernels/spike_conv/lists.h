// SPDX-License-Identifier: MIT
// Lists of active inputs as sliced.h adds them up. A part of it.

#ifndef BST_KERNELS_SPIKE_CONV_LISTS_H_
#define BST_KERNELS_SPIKE_CONV_LISTS_H_

#include "layouts.h"
#include "plan.h"

enum {
  BST_TILE_PLACES = 32,
  BST_TILE_ENTRIES = 8192,  // of lists, beyond those of one pixel
  BST_LIST_SLACK = 64,      // entries that may be written beyond the end of a list
  BST_MAX_KERNEL_ROWS = 15,
};

/// The vectors of this instruction set.
#ifdef BST_FIRE_LOOPS
#define BST_WIDTH ((bst_width){BST_BITS_WORDS, BST_NARROWEST_WORDS, true})
#else
#define BST_WIDTH ((bst_width){.words = BST_BITS_WORDS, .narrowest = BST_NARROWEST_WORDS})
#endif

enum { BST_BITS_BYTES = BST_BITS_WORDS * 8 };

// ---- Listing -----------------------------------------------------------------------------------

/// Spikes of some words that follow one of the patterns of `truth`, a function of the steps: its
/// values for the first step's two, then chosen by the others.
/// @param steps the words at every step
static inline bst_bits bst_truth_bits(const bst_bits* steps, uint32_t truth) {
  const bst_bits zero = bst_bits_splat(0), leaves[4] = {zero, ~steps[0], steps[0], ~zero};
#define BST_LEAF(i) leaves[truth >> (2 * (i)) & 3]
#define BST_CHOOSE(bit, zero, one) ((zero) ^ (((zero) ^ (one)) & (bit)))
  const bst_bits f = BST_CHOOSE(steps[1], BST_LEAF(0), BST_LEAF(1));
  const bst_bits g = BST_CHOOSE(steps[1], BST_LEAF(2), BST_LEAF(3));
  const bst_bits h = BST_CHOOSE(steps[1], BST_LEAF(4), BST_LEAF(5));
  const bst_bits i = BST_CHOOSE(steps[1], BST_LEAF(6), BST_LEAF(7));
  const bst_bits low = BST_CHOOSE(steps[2], f, g), high = BST_CHOOSE(steps[2], h, i);
  return BST_CHOOSE(steps[3], low, high);
#undef BST_LEAF
#undef BST_CHOOSE
}

/// Spikes of `n_words` words that belong to a list.
/// @param spikes the words at the first step
static inline bst_bits bst_listed_bits(const bst_list_plan* plan, const uint64_t* spikes,
                                       size_t n_words, size_t frame_words, int list) {
  bst_bits steps[BST_PATTERN_STEPS];
  if (plan->kind == BST_BY_PATTERN) {
    for (int t = 0; t < BST_PATTERN_STEPS; ++t, spikes += frame_words) {
      steps[t] = t < plan->n_steps ? bst_bits_load(spikes, n_words) : bst_bits_splat(0);
    }
    return bst_truth_bits(steps, plan->truth[list]);
  }
  bst_bits found = bst_bits_load(spikes + (size_t)list * frame_words, n_words);
  for (int d = 1; d <= (list + 1) / 2; ++d, spikes += frame_words) {
    if ((list + 1) % d == 0) found &= ~bst_bits_load(spikes, n_words);
  }
  return found;
}

/// Append one list of one pixel, which is not that of a step, entries from `first` on.
BST_NOINLINE size_t bst_list_some(const bst_conv_geometry* g, const bst_list_plan* plan,
                                  const uint64_t* pixel, size_t frame_words, int which,
                                  bst_entry first, bst_entry* list, size_t n) {
  for (size_t w = 0; w < g->in_words;
       w += BST_BITS_WORDS, first += 64 * BST_BITS_WORDS * BST_ENTRY) {
    const size_t left = g->in_words - w, n_words = left < BST_BITS_WORDS ? left : BST_BITS_WORDS;
    const bst_bits found = bst_listed_bits(plan, pixel + w, n_words, frame_words, which);
    uint64_t words[BST_BITS_WORDS];
    memcpy(words, &found, sizeof words);
    n = bst_bits_list(words, n_words, first, list, n);
  }
  return n;
}

/// Append one list of one pixel, entries from `first` on.
BST_NOINLINE size_t bst_list_pixel(const bst_conv_geometry* g, const bst_list_plan* plan,
                                   const uint64_t* pixel, size_t frame_words, int which,
                                   bst_entry first, bst_entry* list, size_t n) {
  if (plan->kind == BST_BY_STEP) {
    return bst_bits_list(pixel + (size_t)which * frame_words, g->in_words, first, list, n);
  }
  return bst_list_some(g, plan, pixel, frame_words, which, first, list, n);
}

// ---- Lists of image rows ------------------------------------------------------------------------

/// Lists of the image rows that the windows of one row of outputs see; image row y is in slot
/// y % kh. Where the window is one pixel, none are kept.
typedef struct bst_row_lists {
  bst_entry* entries;  // [kh][slot_entries], list after list
  uint32_t* starts;    // [kh][lists][width + 1], within the slot
  size_t slot_entries;
  int n_lists;
  int n_listed;          // image rows below this have been listed
  int first_ky, end_ky;  // rows of the window that lie inside the image, and their slots
  int slot[BST_MAX_KERNEL_ROWS];
} bst_row_lists;

/// An input is in one list at most, or, BY_STEP, in one per step.
static inline uint64_t bst_slot_entries(int n_steps, int width, int n_in) {
  return (uint64_t)n_steps * (uint64_t)width * (uint64_t)n_in + BST_LIST_SLACK;
}

static inline uint64_t bst_slot_starts(int n_steps, int width) {
  return (uint64_t)bst_most_lists(n_steps) * ((uint64_t)width + 1);
}

/// Entries of one pixel's lists.
static inline uint64_t bst_pixel_entries(int n_steps, uint64_t fan_in) {
  const uint64_t n_lists = (uint64_t)bst_most_lists(n_steps);
  return (uint64_t)n_steps * fan_in + n_lists * BST_SUM_ROWS + BST_LIST_SLACK;
}

static inline uint64_t bst_tile_entries(int n_steps, uint64_t fan_in) {
  const uint64_t pixel = bst_pixel_entries(n_steps, fan_in);
  const uint64_t others = (BST_TILE_PLACES - 1) * pixel;
  return pixel + (others < BST_TILE_ENTRIES ? others : BST_TILE_ENTRIES);
}

/// Bytes of starts, lists of a tile, lists of rows; below 2^50 for any sizes that the caller lets
/// through.
static inline uint64_t bst_sliced_scratch_bytes(int n_steps, int width, int n_out, int kh, int kw,
                                                int n_in, int stride) {
  uint64_t entries =
      bst_tile_entries(n_steps, bst_strip_of(BST_WIDTH, n_out, kh, kw, n_in, stride).fan_in);
  if (kh * kw > 1) {
    entries += (uint64_t)kh *
               (bst_slot_entries(n_steps, width, n_in) + 2 * bst_slot_starts(n_steps, width));
  }
  return entries * sizeof(bst_entry);
}

/// Number of the lists of slot `slot`, list `which`, in `starts`.
static inline uint32_t* bst_row_starts(const bst_row_lists* rows, const bst_conv_geometry* g,
                                       int slot, int which) {
  return rows->starts + (size_t)(slot * rows->n_lists + which) * ((size_t)g->width + 1);
}

/// List the image rows up to `end` (excluded) that have not been listed. Lists follow each other:
/// what is written beyond the end of one is written over by the next.
static inline void bst_list_rows(const bst_conv_geometry* g, const bst_list_plan* plan,
                                 const uint64_t* spikes, int end, bst_row_lists* rows) {
  const size_t row_words = (size_t)g->width * g->in_words;
  const size_t frame_words = (size_t)g->height * row_words;
  for (; rows->n_listed < end; ++rows->n_listed) {
    const int slot = rows->n_listed % g->kh;
    bst_entry* const list = rows->entries + (size_t)slot * rows->slot_entries;
    size_t n = 0;
    for (int which = 0; which < rows->n_lists; ++which) {
      if (!bst_has_list(plan, which)) continue;
      uint32_t* const starts = bst_row_starts(rows, g, slot, which);
      const uint64_t* pixel = spikes + (size_t)rows->n_listed * row_words;
      for (int x = 0; x < g->width; ++x, pixel += g->in_words) {
        starts[x] = (uint32_t)n;
        n = bst_list_pixel(g, plan, pixel, frame_words, which, (bst_entry)(x * g->n_in * BST_ENTRY),
                           list, n);
      }
      starts[g->width] = (uint32_t)n;
    }
  }
}

/// Image columns first .. end - 1 from column `from` on, as many as `columns`, that exist.
typedef struct bst_columns {
  int first, end;
} bst_columns;

static inline bst_columns bst_columns_of(const bst_conv_geometry* g, int from, int columns) {
  const int end = from + columns < g->width ? from + columns : g->width;
  const bst_columns found = {from < 0 ? 0 : from, end};
  return found;
}

/// One list of a row of outputs, the events in `columns` image columns from `from` on, put together
/// from the lists of rows.
static inline size_t bst_join_rows(const bst_conv_geometry* g, const bst_row_lists* rows, int which,
                                   int from, int columns, bst_entry* list) {
  const bst_columns c = bst_columns_of(g, from, columns);
  size_t n = 0;
  if (c.first >= c.end) return 0;
  for (int ky = rows->first_ky; ky < rows->end_ky; ++ky) {
    const uint32_t* const starts = bst_row_starts(rows, g, rows->slot[ky], which);
    const bst_entry shift = (bst_entry)((ky * columns - from) * g->n_in * BST_ENTRY);
    n = bst_bits_copy(rows->entries + (size_t)rows->slot[ky] * rows->slot_entries + starts[c.first],
                      starts[c.end] - starts[c.first], shift, list, n);
  }
  return n;
}

/// Their number.
static inline uint32_t bst_count_rows(const bst_conv_geometry* g, const bst_row_lists* rows,
                                      int which, int from, int columns) {
  const bst_columns c = bst_columns_of(g, from, columns);
  uint32_t n = 0;
  if (c.first >= c.end) return 0;
  for (int ky = rows->first_ky; ky < rows->end_ky; ++ky) {
    const uint32_t* const starts = bst_row_starts(rows, g, rows->slot[ky], which);
    n += starts[c.end] - starts[c.first];
  }
  return n;
}

// ---- Tiles --------------------------------------------------------------------------------------

/// Lists of the places of a tile, a pixel or strip of pixels each: list l of place i at
/// i * n_lists + l.
typedef struct bst_tile {
  int n_places;
  const bst_entry* list[BST_TILE_PLACES * BST_MAX_LISTS];
  uint32_t n_padded[BST_TILE_PLACES * BST_MAX_LISTS];
  bool is_inverted[BST_TILE_PLACES * BST_MAX_LISTS];  // the silent inputs are listed
  /// Inputs of pixel k of a strip at (i * n_lists + l) * strip + k.
  uint32_t n_active[BST_TILE_PLACES * BST_MAX_LISTS * BST_BITS_WORDS];
} bst_tile;

/// What a call works on.
typedef struct bst_conv_work {
  bst_conv_geometry g;
  bst_strip strip;
  bool pointwise;  // a window of one pixel that never leaves the image: cells in a row
  bst_list_plan plan;
  const uint64_t *spikes, *rows;
  bst_entry* lists;  // of a tile
  size_t n_list_entries;
  bst_row_lists row_lists;
} bst_conv_work;

static inline bst_conv_work bst_conv_work_of(bst_conv_geometry g, const bst_list_plan* plan,
                                             const uint64_t* spikes, const uint64_t* rows,
                                             void* scratch) {
  bst_conv_work w = {.g = g, .plan = *plan, .spikes = spikes, .rows = rows};
  w.pointwise = g.kh * g.kw == 1 && g.stride == 1 && g.pad == 0;
  w.strip = bst_strip_of(BST_WIDTH, g.n_out, g.kh, g.kw, g.n_in, g.stride);
  w.row_lists.n_lists = w.plan.n_lists;
  w.n_list_entries = (size_t)bst_tile_entries(g.n_steps * plan->n_planes, w.strip.fan_in);
  w.row_lists.slot_entries = (size_t)bst_slot_entries(g.n_steps, g.width, g.n_in);
  w.row_lists.starts = scratch;
  w.lists = (bst_entry*)scratch;
  if (g.kh * g.kw > 1) {
    w.lists += 2 * (size_t)g.kh * (size_t)bst_slot_starts(g.n_steps, g.width);
  }
  w.row_lists.entries = w.lists + w.n_list_entries;
  return w;
}

/// The windows of a place lie inside the image.
static inline bool bst_is_whole(const bst_conv_work* w, int y, int x) {
  const bst_conv_geometry* const g = &w->g;
  const int in_y = y * g->stride - g->pad, in_x = x * g->stride - g->pad;
  return in_y >= 0 && in_x >= 0 && in_y + g->kh <= g->height && in_x + w->strip.columns <= g->width;
}

/// The silent inputs of whole windows.
static inline size_t bst_list_silent(const bst_conv_work* w, int t, int y, int x, bst_entry* list) {
  const bst_conv_geometry* const g = &w->g;
  const size_t frame_words = (size_t)g->height * (size_t)g->width * g->in_words;
  const int columns = w->strip.columns;
  size_t n = 0;
  for (int ky = 0; ky < g->kh; ++ky) {
    for (int kx = 0; kx < columns; ++kx) {
      const size_t cell = (size_t)(y * g->stride - g->pad + ky) * (size_t)g->width +
                          (size_t)(x * g->stride - g->pad + kx);
      const size_t first = (size_t)((ky * columns + kx) * g->n_in);
      for (size_t i = 0; i < g->in_words; ++i) {
        const size_t left = (size_t)g->n_in - 64 * i;
        const uint64_t lanes = left < 64 ? (UINT64_C(1) << left) - 1 : UINT64_MAX;
        const uint64_t silent =
            ~w->spikes[(size_t)t * frame_words + cell * g->in_words + i] & lanes;
        n = bst_bits_list(&silent, 1, (bst_entry)((first + 64 * i) * BST_ENTRY), list, n);
      }
    }
  }
  return n;
}

/// One plane of one step of a cell of levels.
static inline size_t bst_list_plane(const bst_conv_work* w, int which, size_t cell,
                                    bst_entry* list) {
  const size_t n_planes = (size_t)w->plan.n_planes, step = (size_t)which / n_planes;
  const size_t cells = (size_t)w->g.height * (size_t)w->g.width;
  const size_t plane = (step * cells + cell) * n_planes + (size_t)which % n_planes;
  return bst_bits_list(w->spikes + plane * w->g.in_words, w->g.in_words, 0, list, 0);
}

/// One list of the place at (y, x).
static inline size_t bst_list_window(const bst_conv_work* w, int which, int y, int x,
                                     bst_entry* list) {
  const bst_conv_geometry* const g = &w->g;
  const size_t frame_words = (size_t)g->height * (size_t)g->width * g->in_words;
  const int in_y = y * g->stride - g->pad, in_x = x * g->stride - g->pad;
  if (g->kh * g->kw > 1)
    return bst_join_rows(g, &w->row_lists, which, in_x, w->strip.columns, list);
  if (in_y < 0 || in_y >= g->height || in_x < 0 || in_x >= g->width) return 0;
  const size_t cell = (size_t)in_y * (size_t)g->width + (size_t)in_x;
  if (w->plan.kind == BST_BY_PLANE) return bst_list_plane(w, which, cell, list);
  return bst_list_pixel(g, &w->plan, w->spikes + cell * g->in_words, frame_words, which, 0, list,
                        0);
}

/// Inputs of the pixels of a place whose list has `n` entries.
static inline void bst_count_pixels(const bst_conv_work* w, int which, int x, size_t n,
                                    uint32_t* n_active) {
  const bst_conv_geometry* const g = &w->g;
  n_active[0] = (uint32_t)n;
  for (int k = 0; k < w->strip.n_pixels && w->strip.n_pixels > 1; ++k) {
    n_active[k] = bst_count_rows(g, &w->row_lists, which, (x + k) * g->stride - g->pad, g->kw);
  }
}

/// Make the lists of the places from x on of output row y, as many as have room; at least one.
static inline void bst_make_tile(const bst_conv_work* w, int y, int x, int end, bst_tile* tile) {
  const size_t fan_in = w->strip.fan_in;
  const size_t most = (size_t)bst_pixel_entries(w->g.n_steps * w->plan.n_planes, fan_in);
  const bst_entry zero_row = (bst_entry)(fan_in * BST_ENTRY);
  bst_entry* list = w->lists;
  int i = 0;
  tile->n_places = 0;
  for (; x < end && tile->n_places < BST_TILE_PLACES; x += w->strip.n_pixels, ++tile->n_places) {
    if ((size_t)(w->lists + w->n_list_entries - list) < most) break;
    for (int l = 0; l < w->plan.n_lists; ++l, ++i) {
      const size_t strip = (size_t)w->strip.n_pixels;
      uint32_t* const n_active = tile->n_active + (size_t)i * strip;
      size_t n = bst_has_list(&w->plan, l) ? bst_list_window(w, l, y, x, list) : 0;
      tile->list[i] = list;
      tile->n_padded[i] = 0;
      tile->is_inverted[i] = false;
      if (n == 0) {
        memset(n_active, 0, strip * sizeof *n_active);
        continue;
      }
      bst_count_pixels(w, l, x, n, n_active);
      tile->is_inverted[i] = 2 * n > fan_in && w->plan.kind == BST_BY_STEP && bst_is_whole(w, y, x);
      if (tile->is_inverted[i]) n = bst_list_silent(w, l, y, x, list);
      tile->n_padded[i] = (uint32_t)bst_bits_pad(zero_row, list, n);
      list += tile->n_padded[i];
    }
  }
}

#endif  // BST_KERNELS_SPIKE_CONV_LISTS_H_
