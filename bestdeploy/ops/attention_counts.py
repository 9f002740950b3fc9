"""Scores and Values: the two integer products of binary attention ([bestformer] BSSA).

Scores: A[t, b, h, n, j] = sum_c q[t, b, n, c] k[t, b, j, c]      over the d channels of head h
Values: m[t, b, n, c]    = sum_j a[t, b, h(c), n, j] v[t, b, j, c]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bestdeploy import ir
from bestdeploy.ops import arithmetic
from bestdeploy.ops import fragments as f
from bestdeploy.ops.definition import Op, Typed, typed


def scores(q: np.ndarray, k: np.ndarray, *, heads: int) -> tuple[np.ndarray]:
    """Spikes uint8 [T, B, H, W, D] twice -> int32 [T, B, heads, N, N]."""
    qh = arithmetic.to_heads(q, heads).astype(np.float32)
    kh = arithmetic.to_heads(k, heads).astype(np.float32)
    return ((qh @ kh.swapaxes(-1, -2)).astype(np.int32),)


def values(a: np.ndarray, v: np.ndarray, *, heads: int) -> tuple[np.ndarray]:
    """Attention bits [T, B, heads, N, N], spikes [T, B, H, W, D] -> int32 [T, B, H, W, D]."""
    m = a.astype(np.float32) @ arithmetic.to_heads(v, heads).astype(np.float32)
    return (arithmetic.from_heads(m, v.shape).astype(np.int32),)


def scores_body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """MatMul of int32."""
    heads = f.int_attribute(b, "heads")
    q, k = (f.to_heads(b, f.cast(b, v, f.INT32), heads) for v in x)
    return [b.op("MatMul", q, b.op("Transpose", k, perm=[0, 1, 2, 4, 3]))]


def values_body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """MatMul of int32."""
    v = f.to_heads(b, f.cast(b, x[1], f.INT32), f.int_attribute(b, "heads"))
    return [f.from_heads(b, b.op("MatMul", f.cast(b, x[0], f.INT32), v), x[1])]


def scores_shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """[T, B, H, W, D] -> [T, B, heads, N, N]."""
    t, batch, h, w, _ = inputs[0][1]
    n = int(h) * int(w)
    return [typed(np.int32, (t, batch, attrs["heads"], n, n))]


def values_shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """As v."""
    return [typed(np.int32, inputs[1][1])]


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
