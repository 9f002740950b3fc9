"""1x1 convolution of a stream: numbers that are neither spikes nor levels.

    PointwiseConv:    y[o] = sum over i of w[o, i] x[i]                                    float64
    FixedPointwise:   n[o] = sum over i of q[o, i] x[i]  in int64
                      y = ((n M + 2^(s-1)) >> s) + B,  nothing added where s = 0             int32
    StreamPointwise:  FixedPointwise with its weights as planes of bits

x is in Q(F) and so is y: a gain a is M 2^-s, M of up to 25 bits, so that it is rounded no coarser
than a float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bestdeploy import ir
from bestdeploy.ops import arithmetic, levels
from bestdeploy.ops import fragments as f
from bestdeploy.ops.definition import Op, Typed, typed

MAX_SHIFT = 62
GAIN_LIMIT = 2**24  # |M|


def reference(
    x: np.ndarray, w: np.ndarray, scale: np.ndarray, *, weight_bits: int, lowest: int
) -> tuple[np.ndarray]:
    """Float64 [T, B, H, W, I], w [O, 1, 1, I] -> float64 [T, B, H, W, O]."""
    return (x @ w[:, 0, 0].astype(np.float64).T,)


def fixed_reference(
    x: np.ndarray, w: np.ndarray, gain: np.ndarray, shift: np.ndarray, offset: np.ndarray
) -> tuple[np.ndarray]:
    """Int32 [T, B, H, W, I], w int [O, 1, 1, I], M int32, s uint8, B int32 [O] -> int32."""
    n = x.astype(np.int64) @ w[:, 0, 0].astype(np.int64).T
    s = shift.astype(np.int64)
    half = np.where(s > 0, np.int64(1) << np.maximum(s - 1, 0), 0)
    return ((((n * gain + half) >> s) + offset).astype(np.int32),)


def packed_reference(
    x: np.ndarray,
    w: np.ndarray,
    gain: np.ndarray,
    shift: np.ndarray,
    offset: np.ndarray,
    *,
    in_channels: int,
) -> tuple[np.ndarray]:
    """Int32 [T, B, H, W, I] and planes [O, 1, 1, n P] -> int32 [T, B, H, W, O]."""
    return fixed_reference(x, arithmetic.unpack_weights(w, in_channels), gain, shift, offset)


def _matrix(b: ir.Builder, w: ir.Value) -> ir.Value:
    """Turn [O, 1, 1, I] into [I, O]."""
    return b.op("Transpose", b.op("Squeeze", w, b.constant([1, 2])), perm=[1, 0])


def body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """A MatMul; the scale is for the pass that quantises."""
    return [b.op("MatMul", x[0], f.cast(b, _matrix(b, x[1]), f.DOUBLE))]


def fixed_body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """A MatMul of int64, and a floor shift by a table of powers."""
    n = b.op("MatMul", f.cast(b, x[0], f.INT64), f.cast(b, _matrix(b, x[1]), f.INT64))
    one = b.constant(np.int64(1))
    powers = b.constant(np.int64(1) << np.arange(MAX_SHIFT + 1, dtype=np.int64))
    unit = b.op("Gather", powers, f.cast(b, x[3], f.INT64), axis=0)
    half = b.op("Div", unit, b.constant(np.int64(2)))  # of 1: 0
    lifted = b.op("Add", b.op("Mul", n, f.cast(b, x[2], f.INT64)), half)
    # A floor: what the division cut towards 0 from below goes one down.
    quotient = b.op("Div", lifted, unit)
    rest = b.op("Sub", lifted, b.op("Mul", quotient, unit))
    below = b.op("Where", b.op("Less", rest, b.constant(np.int64(0))), one,
                 b.constant(np.int64(0)))  # fmt: skip
    y = b.op("Add", b.op("Sub", quotient, below), f.cast(b, x[4], f.INT64))
    return [f.cast(b, y, f.INT32)]


def packed_body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Compose the parts."""
    w = levels.unpack_weights(b, x[1], f.int_attribute(b, "in_channels"))
    return fixed_body(b, [x[0], w, *x[2:]], n_steps)


def shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """[T, B, H, W, I] -> [T, B, H, W, O] float64."""
    return [typed(np.float64, (*inputs[0][1][:-1], inputs[1][1][0]))]


def fixed_shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """[T, B, H, W, I] -> [T, B, H, W, O] int32."""
    return [typed(np.int32, (*inputs[0][1][:-1], inputs[1][1][0]))]


OP = Op(
    name="PointwiseConv",
    summary="1x1 convolution of a real stream, with real weights that are to become integers.",
    inputs=("x", "w", "scale"),
    outputs=("y",),
    attributes={"weight_bits": "INT", "lowest": "INT"},
    reference=reference,
    body=body,
    shapes=shapes,
)
FIXED = Op(
    name="FixedPointwise",
    summary="1x1 convolution of an int32 stream with integer weights, gain M 2^-s, offset B.",
    inputs=("x", "w", "gain", "shift", "offset"),
    outputs=("y",),
    reference=fixed_reference,
    body=fixed_body,
    shapes=fixed_shapes,
)
PACKED = Op(
    name="StreamPointwise",
    summary="1x1 convolution of an int32 stream with packed integer weights.",
    inputs=("x", "w", "gain", "shift", "offset"),
    outputs=("y",),
    attributes={"in_channels": "INT"},
    reference=packed_reference,
    body=packed_body,
    shapes=fixed_shapes,
)
