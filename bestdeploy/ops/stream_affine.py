"""StreamAffine: counts into the int32 stream (numerics section 6).

y = n Ai + ((n Af + 2^14) >> 15) + B,     A = a 2^F = Ai + Af 2^-15,  B = rint(b 2^F)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bestdeploy import ir
from bestdeploy.ops import fragments as f
from bestdeploy.ops.definition import Op, Typed, typed

FRACTION_BITS = 15


def apply(n: np.ndarray, whole: np.ndarray, fraction: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Evaluate the equation in int64."""
    n = n.astype(np.int64)
    return n * whole + ((n * fraction + 2 ** (FRACTION_BITS - 1)) >> FRACTION_BITS) + shift


def reference(
    n: np.ndarray, whole: np.ndarray, fraction: np.ndarray, shift: np.ndarray
) -> tuple[np.ndarray]:
    """Counts int32 [.., C], Ai int32, Af int16 and B int32 [C] -> int32 [.., C]."""
    return (apply(n, whole, fraction, shift).astype(np.int32),)


def affine(
    b: ir.Builder, n: ir.Value, whole: ir.Value, fraction: ir.Value, shift: ir.Value
) -> ir.Value:
    """Evaluate the equation in int64 on an int64 n."""
    scaled = b.op("Mul", n, f.cast(b, fraction, f.INT64))
    rounded = b.op("Add", scaled, b.constant(np.int64(2 ** (FRACTION_BITS - 1))))
    small = f.floor_shift(b, rounded, FRACTION_BITS)
    large = b.op("Mul", n, f.cast(b, whole, f.INT64))
    return b.op("Add", b.op("Add", large, small), f.cast(b, shift, f.INT64))


def body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """In int64, cast back."""
    return [f.cast(b, affine(b, f.cast(b, x[0], f.INT64), *x[1:]), f.INT32)]


def shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """As n, int32."""
    return [typed(np.int32, inputs[0][1])]


OP = Op(
    name="StreamAffine",
    summary="Counts to the Q(F) stream: n Ai + ((n Af + 2^14) >> 15) + B.",
    inputs=("n", "whole", "fraction", "shift"),
    outputs=("y",),
    reference=reference,
    body=body,
    shapes=shapes,
)
