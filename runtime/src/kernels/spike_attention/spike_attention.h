// SPDX-License-Identifier: MIT
// spike_attention: softmax-free attention on spikes (numerics.md 7), counts and neurons fused.
//
//   score  A[n, j] = popcount(q[n] & k[j]) over the head's channels, then a binarising neuron
//   value  m[n, c] = sum over keys j of Ab[n, j] v[j, c], x = X[t, head, m], then a stream neuron
//
// Shapes, one frame: q, k, v [T, N, channels] packed 64 per word; attention map [T, heads, N, N]
// with row = query and bit = key, each row padded to whole words. Head h owns channels
// h*d .. h*d + d - 1, d = channels / heads. Limits: N <= 1024, d * 2^T < 2^30 for the count form,
// d * 2^F < 2^31 for the stream form.
// `part` of `n_parts`: see part.h.

#ifndef BST_KERNELS_SPIKE_ATTENTION_H_
#define BST_KERNELS_SPIKE_ATTENTION_H_

#include <stddef.h>
#include <stdint.h>

size_t bst_spike_attention_score_scratch_bytes(int n_steps, int n_tokens, int channels, int heads);

/// @param form 0: J += 2^(t-1) A, fires iff J >= thr1 << (t-1), then J -= that (thr1 >= 1)
///             1: stream neuron {flags, theta, v_reset, r} on A << frac_bits
typedef void bst_spike_attention_score_kernel(int part, int n_parts, int n_steps, int n_tokens,
                                              int channels, int heads, int form, int thr1,
                                              int frac_bits, int flags, int theta, int v_reset,
                                              int r, const uint64_t* q, const uint64_t* k,
                                              uint64_t* attention, void* scratch);

/// X[t, head, m] = rint(gain * m * 2^exponent), half to even, exact, m = 0 .. max_count <= 1024.
/// The caller has checked that the last entry of each row fits int32 (bst_spike_attention_scale).
/// @param gain int64 [T, heads], @param exponent int32 [T, heads]
/// @param table out: int32 [T, heads, max_count + 1]
void bst_spike_attention_prepare_table(int n_steps, int heads, int max_count, const int64_t* gain,
                                       const int32_t* exponent, int32_t* table);

/// rint(gain * m * 2^exponent), half to even; |gain| < 2^52, 0 <= m <= 1024. Numbers beyond 2^62
/// give INT64_MAX or -INT64_MAX.
int64_t bst_spike_attention_scale(int64_t gain, int m, int32_t exponent);

size_t bst_spike_attention_value_scratch_bytes(int n_steps, int n_tokens, int channels, int heads);

typedef void bst_spike_attention_value_kernel(int part, int n_parts, int n_steps, int n_tokens,
                                              int channels, int heads, int flags, int theta,
                                              int v_reset, int r, const uint64_t* attention,
                                              const uint64_t* v, const int32_t* table,
                                              uint64_t* out, void* scratch);

bst_spike_attention_score_kernel bst_spike_attention_score__scalar, bst_spike_attention_score__avx2,
    bst_spike_attention_score__avx512, bst_spike_attention_score__neon;
bst_spike_attention_value_kernel bst_spike_attention_value__scalar, bst_spike_attention_value__avx2,
    bst_spike_attention_value__avx512, bst_spike_attention_value__neon;

#endif  // BST_KERNELS_SPIKE_ATTENTION_H_
