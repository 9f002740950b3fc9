"""The integer products of binary attention ([bestformer] BSSA), per head h with d channels.

    Scores:      A[t, b, h, n, j] = sum_c q[t, b, n, c] k[t, b, j, c]      c in head h
    Values:      m[t, b, n, c]    = sum_j a[t, b, h(c), n, j] v[t, b, j, c]
and, where the product of keys and values comes first (the published ImageNet code):
    KeyValues:   M[t, b, h, i, j] = sum_n k[t, b, n, i] v[t, b, n, j]      i, j in head h
    QueryValues: m[t, b, n, j]    = sum_i q[t, b, n, i] a[t, b, h(j), i, j]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bestdeploy import ir
from bestdeploy.ops import arithmetic
from bestdeploy.ops import fragments as f
from bestdeploy.ops.definition import Op, Typed, typed


def _heads(x: np.ndarray, heads: int) -> np.ndarray:
    # float32 holds every count: a sum of at most 2^24 ones.
    return arithmetic.to_heads(x, heads).astype(np.float32)


def scores(q: np.ndarray, k: np.ndarray, *, heads: int) -> tuple[np.ndarray]:
    """Spikes uint8 [T, B, H, W, D] twice -> int32 [T, B, heads, N, N]."""
    return ((_heads(q, heads) @ _heads(k, heads).swapaxes(-1, -2)).astype(np.int32),)


def values(a: np.ndarray, v: np.ndarray, *, heads: int) -> tuple[np.ndarray]:
    """Attention bits [T, B, heads, N, N], spikes [T, B, H, W, D] -> int32 [T, B, H, W, D]."""
    m = a.astype(np.float32) @ _heads(v, heads)
    return (arithmetic.from_heads(m, v.shape).astype(np.int32),)


def key_values(k: np.ndarray, v: np.ndarray, *, heads: int) -> tuple[np.ndarray]:
    """Spikes uint8 [T, B, H, W, D] twice -> int32 [T, B, heads, d, d]."""
    return ((_heads(k, heads).swapaxes(-1, -2) @ _heads(v, heads)).astype(np.int32),)


def query_values(q: np.ndarray, a: np.ndarray, *, heads: int) -> tuple[np.ndarray]:
    """Spikes [T, B, H, W, D], attention bits [T, B, heads, d, d] -> int32 [T, B, H, W, D]."""
    m = _heads(q, heads) @ a.astype(np.float32)
    return (arithmetic.from_heads(m, q.shape).astype(np.int32),)


def _heads_body(b: ir.Builder, x: ir.Value) -> ir.Value:
    return f.to_heads(b, f.cast(b, x, f.INT32), f.int_attribute(b, "heads"))


def scores_body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """MatMul of int32."""
    q, k = (_heads_body(b, v) for v in x)
    return [b.op("MatMul", q, b.op("Transpose", k, perm=[0, 1, 2, 4, 3]))]


def values_body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """MatMul of int32."""
    m = b.op("MatMul", f.cast(b, x[0], f.INT32), _heads_body(b, x[1]))
    return [f.from_heads(b, m, x[1])]


def key_values_body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """MatMul of int32."""
    k, v = (_heads_body(b, z) for z in x)
    return [b.op("MatMul", b.op("Transpose", k, perm=[0, 1, 2, 4, 3]), v)]


def query_values_body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """MatMul of int32."""
    m = b.op("MatMul", _heads_body(b, x[0]), f.cast(b, x[1], f.INT32))
    return [f.from_heads(b, m, x[0])]


def scores_shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """[T, B, H, W, D] -> [T, B, heads, N, N]."""
    t, batch, h, w, _ = inputs[0][1]
    n = int(h) * int(w)
    return [typed(np.int32, (t, batch, attrs["heads"], n, n))]


def values_shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """As v."""
    return [typed(np.int32, inputs[1][1])]


def key_values_shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """[T, B, H, W, D] -> [T, B, heads, d, d]."""
    t, batch, _, _, dim = inputs[0][1]
    d = int(dim) // attrs["heads"]
    return [typed(np.int32, (t, batch, attrs["heads"], d, d))]


def query_values_shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """As q."""
    return [typed(np.int32, inputs[0][1])]


SCORES = Op(
    name="Scores",
    summary="Attention counts q k^T per head.",
    inputs=("q", "k"),
    outputs=("counts",),
    attributes={"heads": "INT"},
    reference=scores,
    body=scores_body,
    shapes=scores_shapes,
)
VALUES = Op(
    name="Values",
    summary="Attention bits times values per head, counts.",
    inputs=("attention", "v"),
    outputs=("counts",),
    attributes={"heads": "INT"},
    reference=values,
    body=values_body,
    shapes=values_shapes,
)
KEY_VALUES = Op(
    name="KeyValues",
    summary="Counts k^T v per head.",
    inputs=("k", "v"),
    outputs=("counts",),
    attributes={"heads": "INT"},
    reference=key_values,
    body=key_values_body,
    shapes=key_values_shapes,
)
QUERY_VALUES = Op(
    name="QueryValues",
    summary="Queries times the bits of k^T v per head, counts.",
    inputs=("q", "attention"),
    outputs=("counts",),
    attributes={"heads": "INT"},
    reference=query_values,
    body=query_values_body,
    shapes=query_values_shapes,
)
