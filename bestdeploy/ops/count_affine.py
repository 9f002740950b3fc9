"""CountAffine: mean over time and tokens of a x + b with x = SignConv(s, w), from spike counts.

    cnt[e] = sum over t, tokens of s[e];  c = w cnt;  out = a c / (T N) + b

By linearity this equals the mean of the full 1x1 convolution (exact in the reals).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bestdeploy import ir
from bestdeploy.ops import fragments as f
from bestdeploy.ops.definition import Op, Typed, typed


def weighted_counts(s: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Spikes [T, B, H, W, E], signs [D, 1, 1, E] -> int64 [B, D]."""
    cnt = s.sum(axis=(0, 2, 3), dtype=np.int64)
    return cnt @ w.reshape(w.shape[0], -1).T.astype(np.int64)


def reference(s: np.ndarray, w: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray]:
    """Return float64 [B, D]."""
    positions = s.shape[0] * s.shape[2] * s.shape[3]
    return (weighted_counts(s, w) / positions * a + b,)


def weighted_counts_body(b: ir.Builder, s: ir.Value, w: ir.Value) -> ir.Value:
    """int64 counts [B, D] of spikes uint8 [T, B, H, W, E] and signs int8 [D, 1, 1, E]."""
    cnt = b.op("ReduceSum", f.cast(b, s, f.INT64), b.constant([0, 2, 3]), keepdims=0)
    matrix = b.op("Reshape", f.cast(b, w, f.INT64), b.constant([0, -1]))
    return b.op("MatMul", cnt, b.op("Transpose", matrix, perm=[1, 0]))


def body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """ReduceSum, MatMul in int64, then the affine in float64."""
    c = f.cast(b, weighted_counts_body(b, x[0], x[1]), f.DOUBLE)
    spatial = b.op("ReduceProd", f.dims(b, x[0], 2, 4), keepdims=0)
    positions = b.op("Mul", b.op("ReduceProd", f.dims(b, x[0], 0, 1), keepdims=0), spatial)
    mean = b.op("Div", c, f.cast(b, positions, f.DOUBLE))
    return [b.op("Add", b.op("Mul", mean, x[2]), x[3])]


def shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """[B, D] float64."""
    return [typed(np.float64, (inputs[0][1][1], inputs[1][1][0]))]


OP = Op(
    name="CountAffine",
    summary="Mean over T and tokens of a SignConv(s, w) + b, by spike counts.",
    inputs=("spikes", "w", "a", "b"),
    outputs=("mean",),
    reference=reference,
    body=body,
    shapes=shapes,
)
