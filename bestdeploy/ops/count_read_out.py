"""CountReadOut: raw logits from the mean of spikes over time and tokens, through their counts.

    cnt[c] = sum over t, tokens of s;   raw = V cnt + C                              int64 [B, K]

V int32 = rint(w 2^S / (T N)), C = rint(b 2^S); S is the model's logit_shift. |V cnt| < 2^61: there
are at most 2^14 positions and 2^16 channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bestdeploy import ir
from bestdeploy.ops import arithmetic
from bestdeploy.ops import fragments as f
from bestdeploy.ops.definition import Op, Typed, typed

_TOKENS = (0, 2, 3)


def reference(s: np.ndarray, v: np.ndarray, constant: np.ndarray) -> tuple[np.ndarray]:
    """Spikes uint8 [T, B, H, W, D], V int32 [K, D], C int64 [K] -> raw int64 [B, K]."""
    return (s.sum(axis=_TOKENS, dtype=np.int64) @ v.T.astype(np.int64) + constant,)


def packed_reference(
    s: np.ndarray, v: np.ndarray, constant: np.ndarray, *, in_channels: int
) -> tuple[np.ndarray]:
    """As `reference`, from packed spikes."""
    return reference(arithmetic.unpack_bits(s, in_channels), v, constant)


def body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """ReduceSum, MatMul in int64."""
    cnt = b.op("ReduceSum", f.cast(b, x[0], f.INT64), b.constant(list(_TOKENS)), keepdims=0)
    matrix = b.op("Transpose", f.cast(b, x[1], f.INT64), perm=[1, 0])
    return [b.op("Add", b.op("MatMul", cnt, matrix), x[2])]


def packed_body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Unpack, then `body`."""
    return body(b, [f.unpack(b, x[0], f.int_attribute(b, "in_channels")), *x[1:]], n_steps)


def shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """[B, K] int64."""
    return [typed(np.int64, (inputs[0][1][1], inputs[1][1][0]))]


OP = Op(
    name="CountReadOut",
    summary="Raw logits from spike counts, int64.",
    inputs=("spikes", "v", "constant"),
    outputs=("raw",),
    reference=reference,
    body=body,
    shapes=shapes,
)
PACKED = Op(
    name="SpikeCountReadOut",
    summary="Raw logits from counts of packed spikes, int64.",
    inputs=("spikes", "v", "constant"),
    outputs=("raw",),
    attributes={"in_channels": "INT"},
    reference=packed_reference,
    body=packed_body,
    shapes=shapes,
)
