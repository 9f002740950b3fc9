"""ReadOut: from the last two streams and the last spikes to raw logits (numerics section 9).

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
    # 2^q: q is at most 62, and floor_divide wants it as a tensor.
    powers = b.constant(2 ** np.arange(63, dtype=np.int64))
    divisor = b.op("Gather", powers, f.int_attribute(b, "q"), axis=0)
    raw = constant
    for total, v in ((s0, v0), (s1, v1)):
        matrix = b.op("Transpose", f.cast(b, v, f.INT64), perm=[1, 0])
        raw = b.op("Add", b.op("MatMul", f.floor_divide(b, total, divisor), matrix), raw)
    return raw


def body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """All in int64."""
    return [read(b, x)]


def shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """[B, K] int64."""
    return [typed(np.int64, (inputs[0][1][1], inputs[7][1][0]))]


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
