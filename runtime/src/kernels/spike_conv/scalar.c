// SPDX-License-Identifier: MIT
// Event-driven binary convolution, plainly: any window, any width; what sliced.h leaves to it, and
// what the custom ops for ONNX Runtime call. Per output pixel and step the
// active weight rows are listed once; per block of outputs the listed rows are added into
// bit-sliced counters (lanes.h).
//
// Accumulator. With S active inputs and P of them under a +1 weight, n = sum s*w = P - (S - P)
// = 2P - S, in -S..S; P needs bit_length(S) planes.
//
// Neuron (numerics.md 4). I_t = (spiked at t-1 ? 0 : I_{t-1}) + 2^(t-1) n_t; with s the step of the
// last spike (0 = none) it fires iff I_t >= Theta[t, s], row t(t-1)/2 + s. |I_t| <= (2^T - 1) S
// < 2^24, so int32 is exact. Padding lanes have threshold INT32_MAX and so never fire.

#include "geometry.h"
#include "spike_conv.h"

size_t bst_spike_conv_rows_bytes(int n_out, int kh, int kw, int n_in) {
  return (bst_conv_fan_in(kh, kw, n_in) + 1) * bst_conv_words(n_out) * sizeof(uint64_t);
}

void bst_spike_conv_prepare_rows(int n_out, int kh, int kw, int n_in, const uint8_t* bits,
                                 uint64_t* rows) {
  memset(rows, 0, bst_spike_conv_rows_bytes(n_out, kh, kw, n_in));
  bst_conv_fill_rows((size_t)n_out, (size_t)kh * (size_t)kw, (size_t)n_in, bits, (size_t)kw,
                     (size_t)kw, 0, bst_conv_words(n_out), rows);
}

size_t bst_spike_conv_theta_bytes(int n_steps, int n_out) {
  const size_t n_rows = (size_t)n_steps * ((size_t)n_steps + 1) / 2;
  return n_rows * bst_conv_words(n_out) * 64 * sizeof(int32_t);
}

static size_t bst_conv_lane(size_t channel) {
  return channel / 64 * 64 + (size_t)bst_transposed_lane((int)(channel % 64));
}

void bst_spike_conv_prepare_theta(int n_steps, int n_out, const int32_t* theta_u,
                                  const int32_t* theta_w, int n_explicit, const int32_t* index,
                                  const int32_t* explicit_theta, int32_t* theta) {
  const size_t n_lanes = bst_conv_words(n_out) * 64;
  const size_t n_rows = (size_t)n_steps * ((size_t)n_steps + 1) / 2;
  for (size_t i = 0; i < n_rows * n_lanes; ++i) theta[i] = INT32_MAX;
  int32_t* row = theta;
  for (int t = 1; t <= n_steps; ++t) {
    for (int s = 0; s < t; ++s, row += n_lanes) {
      for (size_t o = 0; o < (size_t)n_out; ++o) {
        row[bst_conv_lane(o)] = bst_conv_threshold(theta_u[o], theta_w[o], t, s);
      }
    }
  }
  for (int e = 0; e < n_explicit; ++e) {
    for (size_t k = 0; k < n_rows; ++k) {
      theta[k * n_lanes + bst_conv_lane((size_t)index[e])] = *explicit_theta++;
    }
  }
}

size_t bst_spike_conv_scratch_bytes(int n_steps, int kh, int kw, int n_in) {
  return (size_t)n_steps * bst_list_capacity(bst_conv_fan_in(kh, kw, n_in)) * sizeof(uint32_t);
}

/// List the weight rows that meet a spike at output pixel (y, x) of one step; padded.
/// @param n_events out: length before padding
/// @return length after padding
static size_t bst_conv_list(const bst_conv_geometry* g, const uint64_t* spikes, int y, int x,
                            uint32_t* list, size_t* n_events) {
  size_t n = 0;
  for (int ky = 0; ky < g->kh; ++ky) {
    const int in_y = y * g->stride - g->pad + ky;
    if (in_y < 0 || in_y >= g->height) continue;
    for (int kx = 0; kx < g->kw; ++kx) {
      const int in_x = x * g->stride - g->pad + kx;
      if (in_x < 0 || in_x >= g->width) continue;
      const size_t cell = (size_t)in_y * (size_t)g->width + (size_t)in_x;
      const uint32_t first = (uint32_t)((ky * g->kw + kx) * g->n_in);
      n = bst_list_bits(spikes + cell * g->in_words, g->in_words, first, list, n);
    }
  }
  *n_events = n;
  return bst_pad_list((uint32_t)bst_conv_fan_in(g->kh, g->kw, g->n_in), list, n);
}

static void bst_conv_list_steps(const bst_conv_geometry* g, const uint64_t* spikes, int y, int x,
                                uint32_t* scratch, bst_conv_events* events) {
  const size_t frame_words = (size_t)g->height * (size_t)g->width * g->in_words;
  for (int t = 0; t < g->n_steps; ++t) {
    uint32_t* const list = scratch + (size_t)t * g->list_capacity;
    events->list[t] = list;
    events->n_padded[t] =
        bst_conv_list(g, spikes + (size_t)t * frame_words, y, x, list, &events->n_events[t]);
  }
}

/// One step t (1-based) of 64 neurons; see the file head.
/// @param theta     row (t, 0) of these lanes; row (t, s) lies `row_lanes * s` further
/// @param potential I_t-1 in, I_t out, @param last step of the last spike, updated
static uint64_t bst_conv_neuron_step(int t, const int32_t* theta, size_t row_lanes,
                                     const int32_t* count, int32_t n_events, int32_t* potential,
                                     int32_t* last) {
  int32_t threshold[64];
  uint8_t spike[64];
  memcpy(threshold, theta, sizeof threshold);
  for (int s = 1; s < t; ++s) {
    const int32_t* const row = theta + row_lanes * (size_t)s;
    for (int i = 0; i < 64; ++i) {
      threshold[i] = bst_select32(-(last[i] == s), row[i], threshold[i]);
    }
  }
  const int32_t just_before = t - 1;  // t = 1: the potential is 0 either way
  for (int i = 0; i < 64; ++i) {
    const int32_t kept = potential[i] & -(last[i] != just_before);
    const int32_t charged = kept + ((2 * count[i] - n_events) * (1 << (t - 1)));
    const int32_t fired = -(charged >= threshold[i]);
    potential[i] = charged;
    last[i] = bst_select32(fired, t, last[i]);
    spike[i] = (uint8_t)(fired & 1);
  }
  return bst_pack_transposed(spike);
}

void bst_spike_conv_neuron__scalar(int part, int n_parts, int n_steps, int height, int width,
                                   int n_in, int n_out, int kh, int kw, int stride, int pad,
                                   int periodic, const uint64_t* spikes, const uint64_t* rows,
                                   const void* theta, uint64_t* out, void* scratch) {
  (void)periodic;
  const bst_conv_geometry g =
      bst_conv_geometry_of(n_steps, height, width, n_in, n_out, kh, kw, stride, pad);
  const size_t out_frame = (size_t)g.out_h * (size_t)g.out_w * g.out_words;
  const size_t row_lanes = g.out_words * 64;
  uint64_t planes[BST_MAX_PLANES][BST_SUM_WORDS];
  int32_t potential[BST_SUM_WORDS][64], last[BST_SUM_WORDS][64], count[64];
  bst_conv_events events;
  const int end = bst_conv_first_row(&g, part + 1, n_parts);
  for (int y = bst_conv_first_row(&g, part, n_parts); y < end; ++y) {
    for (int x = 0; x < g.out_w; ++x) {
      uint64_t* const cell = out + ((size_t)y * (size_t)g.out_w + (size_t)x) * g.out_words;
      bst_conv_list_steps(&g, spikes, y, x, scratch, &events);
      for (size_t w = 0; w < g.out_words; w += BST_SUM_WORDS) {
        const size_t left = g.out_words - w;
        const int n_words = left < BST_SUM_WORDS ? (int)left : BST_SUM_WORDS;
        const int32_t* row = (const int32_t*)theta + w * 64;
        memset(potential, 0, sizeof potential);
        memset(last, 0, sizeof last);
        for (int t = 1; t <= n_steps; row += row_lanes * (size_t)t, ++t) {
          const size_t n_events = events.n_events[t - 1];
          const int n_planes = bst_bit_length(n_events);
          bst_sum_rows(rows + w, g.out_words, n_words, events.list[t - 1], events.n_padded[t - 1],
                       n_planes, 0, planes);
          for (int j = 0; j < n_words; ++j) {
            bst_unpack_counts(planes, n_planes, j, count);
            cell[(size_t)(t - 1) * out_frame + w + (size_t)j] = bst_conv_neuron_step(
                t, row + 64 * j, row_lanes, count, (int32_t)n_events, potential[j], last[j]);
          }
        }
      }
    }
  }
}

void bst_spike_conv_affine__scalar(int part, int n_parts, int n_steps, int height, int width,
                                   int n_in, int n_out, int kh, int kw, int stride, int pad,
                                   const uint64_t* spikes, const uint64_t* rows, const int32_t* ai,
                                   const int16_t* af, const int32_t* b, int32_t* all,
                                   void* scratch) {
  const bst_conv_geometry g =
      bst_conv_geometry_of(n_steps, height, width, n_in, n_out, kh, kw, stride, pad);
  const size_t in_frame = (size_t)height * (size_t)width * g.in_words;
  uint64_t planes[BST_MAX_PLANES][BST_SUM_WORDS];
  int32_t count[64];
  const int first_y = bst_conv_first_row(&g, part, n_parts);
  const int end = bst_conv_first_row(&g, part + 1, n_parts);
  for (int t = 0; t < n_steps; ++t, spikes += in_frame) {
    int32_t* out = all + (size_t)(t * g.out_h + first_y) * (size_t)g.out_w * (size_t)n_out;
    for (int y = first_y; y < end; ++y) {
      for (int x = 0; x < g.out_w; ++x, out += n_out) {
        uint32_t* const list = scratch;
        size_t n_events;
        const size_t n_padded = bst_conv_list(&g, spikes, y, x, list, &n_events);
        const int n_planes = bst_bit_length(n_events);
        for (size_t w = 0; w < g.out_words; w += BST_SUM_WORDS) {
          const size_t left = g.out_words - w;
          const int n_words = left < BST_SUM_WORDS ? (int)left : BST_SUM_WORDS;
          bst_sum_rows(rows + w, g.out_words, n_words, list, n_padded, n_planes, 0, planes);
          for (int j = 0; j < n_words; ++j) {
            const size_t first = (w + (size_t)j) * 64;
            const size_t n_lanes = (size_t)n_out - first < 64 ? (size_t)n_out - first : 64;
            int32_t n[64];
            bst_unpack_counts(planes, n_planes, j, count);
            for (int i = 0; i < 64; ++i) {
              n[i] = 2 * count[bst_transposed_lane(i)] - (int32_t)n_events;
            }
            for (size_t i = 0; i < n_lanes; ++i) {
              const int32_t y_scaled = bst_scale_count32(n[i], ai[first + i], af[first + i]);
              out[first + i] = bst_add32(y_scaled, b[first + i]);
            }
          }
        }
      }
    }
  }
}
