// SPDX-License-Identifier: MIT
// kv_attention: attention that binarises k^T v instead of q k^T (numerics.md 7), so that its cost
// grows with the number of tokens, not with its square.
//
//   key_value    M[i, j] = sum over tokens n of k[n, i] v[n, j], then a binarising neuron
//   query_value  m[n, j] = sum over channels i of q[n, i] Mb[i, j], x = X[t, head, m], then a
//   stream
//                neuron
//
// Shapes, one frame: q, k, v [T, N, channels] packed 64 per word; map [T, heads, d, d] with row = i
// (channel of k and q) and bit = j (channel of v), each row padded to whole words. Head h owns
// channels h*d .. h*d + d - 1, d = channels / heads. Limits: N <= 1024, d <= 1024, N * 2^F < 2^31
// for the stream form of key_value.
// `part` of `n_parts`: see part.h.

#ifndef BST_KERNELS_KV_ATTENTION_H_
#define BST_KERNELS_KV_ATTENTION_H_

#include <stddef.h>
#include <stdint.h>

size_t bst_kv_attention_key_value_scratch_bytes(int n_steps, int n_tokens, int channels, int heads);

/// @param form 0: J += 2^(t-1) M, fires iff J >= thr1 << (t-1), then J -= that (thr1 >= 1)
///             1: stream neuron {flags, theta, v_reset, r} on M << frac_bits
typedef void bst_kv_attention_key_value_kernel(int part, int n_parts, int n_steps, int n_tokens,
                                               int channels, int heads, int form, int thr1,
                                               int frac_bits, int flags, int theta, int v_reset,
                                               int r, const uint64_t* k, const uint64_t* v,
                                               uint64_t* map, void* scratch);

size_t bst_kv_attention_query_value_scratch_bytes(int n_steps, int n_tokens, int channels,
                                                  int heads);

/// @param table X, int32 [T, heads, d + 1]
typedef void bst_kv_attention_query_value_kernel(int part, int n_parts, int n_steps, int n_tokens,
                                                 int channels, int heads, int flags, int theta,
                                                 int v_reset, int r, const uint64_t* q,
                                                 const uint64_t* map, const int32_t* table,
                                                 uint64_t* out, void* scratch);

bst_kv_attention_key_value_kernel bst_kv_attention_key_value__scalar,
    bst_kv_attention_key_value__avx2, bst_kv_attention_key_value__avx512,
    bst_kv_attention_key_value__neon;
bst_kv_attention_query_value_kernel bst_kv_attention_query_value__scalar,
    bst_kv_attention_query_value__avx2, bst_kv_attention_query_value__avx512,
    bst_kv_attention_query_value__neon;

#endif  // BST_KERNELS_KV_ATTENTION_H_
