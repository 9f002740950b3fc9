"""ReadOut and MeanReadOut: from the last streams to raw logits (numerics section 9).

ReadOut takes the last two streams and the last hidden spikes; MeanReadOut one stream, where a
single head reads a stream that exists as such; ResidualReadOut is MeanReadOut on the stream
y + ((x0 + x1) >> 1), which is then never stored.

S0 = sum over t, tokens of x2                                             int64 [B, D]
c  = w cnt,  Y = c Ai + ((c Af + 2^14) >> 15) + T N rint(b 2^F)
S1 = sum over t, tokens of ((x1 + x2) >> 1), plus Y
f  = S >> q;   raw = V0 f0 + V1 f1 + C                                    int64 [B, K]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bestdeploy import ir
from bestdeploy.ops import fragments as f
from bestdeploy.ops import residual, stream_affine
from bestdeploy.ops.count_affine import weighted_counts, weighted_counts_body
from bestdeploy.ops.definition import Op, Typed, typed

_TOKENS = (0, 2, 3)


def reference(
    x2: np.ndarray,
    x1: np.ndarray,
    s: np.ndarray,
    w: np.ndarray,
    whole: np.ndarray,
    fraction: np.ndarray,
    shift: np.ndarray,
    v0: np.ndarray,
    v1: np.ndarray,
    constant: np.ndarray,
    *,
    q: int,
) -> tuple[np.ndarray]:
    """Streams int32 [T, B, H, W, D], spikes uint8 [T, B, H, W, E] -> raw int64 [B, K]."""
    s0 = x2.sum(axis=_TOKENS, dtype=np.int64)
    half = (x1.astype(np.int64) + x2) >> 1
    y = stream_affine.apply(weighted_counts(s, w), whole, fraction, shift)
    s1 = half.sum(axis=_TOKENS) + y
    raw = (s0 >> q) @ v0.T.astype(np.int64) + (s1 >> q) @ v1.T.astype(np.int64) + constant
    return (raw,)


def read(b: ir.Builder, x: list[ir.Value]) -> ir.Value:
    """Evaluate the equations in int64; spikes and weights unpacked."""
    x2, x1, s, w, whole, fraction, shift, v0, v1, constant = x
    axes = b.constant(list(_TOKENS))
    s0 = b.op("ReduceSum", f.cast(b, x2, f.INT64), axes, keepdims=0)
    y = stream_affine.affine(b, weighted_counts_body(b, s, w), whole, fraction, shift)
    s1 = b.op("Add", b.op("ReduceSum", residual.half_sum(b, x1, x2), axes, keepdims=0), y)
    return b.op("Add", _product(b, s1, v1), b.op("Add", _product(b, s0, v0), constant))


def _product(b: ir.Builder, total: ir.Value, v: ir.Value) -> ir.Value:
    """V (S >> q) for S int64 [B, D] and V int32 [K, D]."""
    # 2^q: q is at most 62, and floor_divide wants it as a tensor.
    powers = b.constant(2 ** np.arange(63, dtype=np.int64))
    divisor = b.op("Gather", powers, f.int_attribute(b, "q"), axis=0)
    matrix = b.op("Transpose", f.cast(b, v, f.INT64), perm=[1, 0])
    return b.op("MatMul", f.floor_divide(b, total, divisor), matrix)


def body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """All in int64."""
    return [read(b, x)]


def shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """[B, K] int64."""
    return [typed(np.int64, (inputs[0][1][1], inputs[7][1][0]))]


def mean_reference(
    x: np.ndarray, v: np.ndarray, constant: np.ndarray, *, q: int
) -> tuple[np.ndarray]:
    """Stream int32 [T, B, H, W, D] -> raw int64 [B, K] = V (S >> q) + C, S = sum x."""
    s = x.sum(axis=_TOKENS, dtype=np.int64)
    return ((s >> q) @ v.T.astype(np.int64) + constant,)


def mean_body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """All in int64."""
    stream, v, constant = x
    s = b.op("ReduceSum", f.cast(b, stream, f.INT64), b.constant(list(_TOKENS)), keepdims=0)
    return [b.op("Add", _product(b, s, v), constant)]


def mean_shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """[B, K] int64."""
    return [typed(np.int64, (inputs[0][1][1], inputs[1][1][0]))]


def residual_reference(
    y: np.ndarray,
    x0: np.ndarray,
    x1: np.ndarray,
    v: np.ndarray,
    constant: np.ndarray,
    *,
    q: int,
) -> tuple[np.ndarray]:
    """Streams int32 [T, B, H, W, D] -> raw int64 [B, K]."""
    return mean_reference(*residual.add(y, x0, x1), v, constant, q=q)


def residual_body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Compose the parts."""
    return mean_body(b, [*residual.add_body(b, x[:3], n_steps), *x[3:]], n_steps)


def residual_shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """[B, K] int64."""
    return mean_shapes(inputs[2:], attrs, n_steps)


INPUTS = (
    "x2",
    "x1",
    "spikes",
    "w",
    "whole",
    "fraction",
    "shift",
    "v0",
    "v1",
    "constant",
)

OP = Op(
    name="ReadOut",
    summary="Raw logits from the last streams and spike counts, int64.",
    inputs=INPUTS,
    outputs=("raw",),
    attributes={"q": "INT"},
    reference=reference,
    body=body,
    shapes=shapes,
)
MEAN = Op(
    name="MeanReadOut",
    summary="Raw logits from the mean of one stream, int64.",
    inputs=("x", "v", "constant"),
    outputs=("raw",),
    attributes={"q": "INT"},
    reference=mean_reference,
    body=mean_body,
    shapes=mean_shapes,
)
RESIDUAL = Op(
    name="ResidualReadOut",
    summary="Raw logits from the mean of the stream y + ((x0 + x1) >> 1), int64.",
    inputs=("y", "x0", "x1", "v", "constant"),
    outputs=("raw",),
    attributes={"q": "INT"},
    reference=residual_reference,
    body=residual_body,
    shapes=residual_shapes,
)
