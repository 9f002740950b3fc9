"""ChannelAffine: y = a x + b per channel in float64, what remains of a folded BatchNorm."""

from __future__ import annotations

import numpy as np

from bestdeploy import ir
from bestdeploy.ops import fragments
from bestdeploy.ops.batch_norm import shapes
from bestdeploy.ops.definition import Op


def reference(x: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray]:
    """X [.., C] (counts or float64), a and b float64 [C]."""
    return (x.astype(np.float64) * a + b,)


def body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Cast, Mul, Add."""
    return [b.op("Add", b.op("Mul", fragments.cast(b, x[0], fragments.DOUBLE), x[1]), x[2])]


OP = Op(
    name="ChannelAffine",
    summary="y = a x + b over the last axis, in float64.",
    inputs=("x", "a", "b"),
    outputs=("y",),
    reference=reference,
    body=body,
    shapes=shapes,
)
