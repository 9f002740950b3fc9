"""HeadScale: z = gain[t, head] m, the scaled and lambda-weighted value counts, in float64."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bestdeploy import ir
from bestdeploy.ops import fragments as f
from bestdeploy.ops.definition import Op, Typed, typed


def reference(m: np.ndarray, gain: np.ndarray) -> tuple[np.ndarray]:
    """Counts int32 [T, B, H, W, D], gain float64 [T, heads] -> float64 [T, B, H, W, D]."""
    per_channel = np.repeat(gain, m.shape[-1] // gain.shape[1], axis=1)
    return (m.astype(np.float64) * per_channel[:, None, None, None, :],)


def body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Split the channels into heads, Mul, join."""
    m, gain = x
    heads = f.dims(b, gain, 1, 2)
    width = b.op("Div", f.dims(b, m, 4, 5), heads)
    split = f.reshape(b, f.cast(b, m, f.DOUBLE), f.dims(b, m, 0, 2), -1, heads, width)
    shaped = f.reshape(b, gain, f.dims(b, gain, 0, 1), 1, 1, heads, 1)
    return [b.op("Reshape", b.op("Mul", split, shaped), b.op("Shape", m))]


def shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """As m, float64."""
    return [typed(np.float64, inputs[0][1])]


OP = Op(
    name="HeadScale",
    summary="Value counts times scale * lambda[t, head], float64.",
    inputs=("counts", "gain"),
    outputs=("z",),
    reference=reference,
    body=body,
    shapes=shapes,
)
