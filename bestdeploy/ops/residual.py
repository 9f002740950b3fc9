"""The reversible residual ([bestformer] reversible block), in float64 and in Q(F) integers.

ReversibleMix: out = y + (x0 + x1) / 2            float64
ReversibleAdd: out = y + ((x0 + x1) >> 1)         int32, floor
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bestdeploy import ir
from bestdeploy.ops import fragments as f
from bestdeploy.ops.definition import Op, Typed, typed


def mix(y: np.ndarray, x0: np.ndarray, x1: np.ndarray) -> tuple[np.ndarray]:
    """Mix [T, B, H, W, D] in float64."""
    return (y + (x0 + x1) * 0.5,)


def add(y: np.ndarray, x0: np.ndarray, x1: np.ndarray) -> tuple[np.ndarray]:
    """Add [T, B, H, W, D] in integers."""
    half = (x0.astype(np.int64) + x1) >> 1
    return ((y + half).astype(np.int32),)


def mix_body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Add, Mul, Add."""
    half = b.op("Mul", b.op("Add", x[1], x[2]), b.constant(np.float64(0.5)))
    return [b.op("Add", x[0], half)]


def half_sum(b: ir.Builder, x0: ir.Value, x1: ir.Value) -> ir.Value:
    """(x0 + x1) >> 1 as int64."""
    total = b.op("Add", f.cast(b, x0, f.INT64), f.cast(b, x1, f.INT64))
    return f.floor_shift(b, total, 1)


def add_body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Integer halves by an offset division."""
    total = b.op("Add", f.cast(b, x[0], f.INT64), half_sum(b, x[1], x[2]))
    return [f.cast(b, total, f.INT32)]


def shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """As y."""
    return [typed(*inputs[0])]


MIX = Op(
    name="ReversibleMix",
    summary="y + (x0 + x1)/2 in float64.",
    inputs=("y", "x0", "x1"),
    outputs=("out",),
    reference=mix,
    body=mix_body,
    shapes=shapes,
)
ADD = Op(
    name="ReversibleAdd",
    summary="y + ((x0 + x1) >> 1) in int32.",
    inputs=("y", "x0", "x1"),
    outputs=("out",),
    reference=add,
    body=add_body,
    shapes=shapes,
)
