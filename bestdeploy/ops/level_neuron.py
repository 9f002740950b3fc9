"""Neurons of several levels without memory: IE-LIF of QSD-Transformer (docs/numerics_qsd.md).

    LevelNeuron:      L = floor(clip(gain x, 0, n) + 1/2)                      x float64
    LevelThresholds:  L = #{k : x >= theta[k, c]},  n less that where falling[c]    x int32
    StreamLevels:     LevelThresholds, packed as planes of bits

gain x >= k - 1/2 is an integer comparison where x is an integer times a positive number, plus a
constant: of a sum of weights with its own batch norm, of a stream, of a product of attention. Where
the number is negative, L counts the thresholds that x stays below: the channel is falling.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bestdeploy import ir
from bestdeploy.ops import arithmetic, levels
from bestdeploy.ops import fragments as f
from bestdeploy.ops.definition import Op, Typed, typed

MAX_LEVELS = 15


def real(x: np.ndarray, *, levels: int, gain: float) -> tuple[np.ndarray]:
    """Float64 [..] -> levels uint8 [..]."""
    return (np.floor(np.clip(x * gain, 0, levels) + 0.5).astype(np.uint8),)


def reference(
    x: np.ndarray, theta: np.ndarray, falling: np.ndarray, *, levels: int
) -> tuple[np.ndarray]:
    """Int32 [.., C], theta int32 [n, C] or [n, 1], falling uint8 [C] or [1] -> uint8 [.., C]."""
    count = sum((x >= row).astype(np.uint8) for row in theta)
    return (np.where(falling.astype(bool), levels - count, count).astype(np.uint8),)


def packed_reference(
    x: np.ndarray, theta: np.ndarray, falling: np.ndarray, *, levels: int
) -> tuple[np.ndarray]:
    """Int32 [.., C] -> planes of bits [.., n P]."""
    (found,) = reference(x, theta, falling, levels=levels)
    return (arithmetic.pack_levels(found, levels.bit_length()),)


def real_body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Clip by Max and Min: Clip takes its bounds as inputs of its own type."""
    scaled = b.op("Mul", x[0], f.float_attribute(b, "gain"))
    top = f.cast(b, f.int_attribute(b, "levels"), f.DOUBLE)
    cut = b.op("Min", b.op("Max", scaled, b.constant(np.float64(0))), top)
    return [f.cast(b, b.op("Floor", b.op("Add", cut, b.constant(np.float64(0.5)))), f.UINT8)]


def body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Compare with every threshold along an axis of its own, count."""
    wide = b.op("Unsqueeze", x[0], b.constant([-2]))  # [.., 1, C] against [n, C]
    above = f.cast(b, b.op("GreaterOrEqual", wide, x[1]), f.INT32)
    count = b.op("ReduceSum", above, b.constant([-2]), keepdims=0)
    top = f.cast(b, f.int_attribute(b, "levels"), f.INT32)
    falling = f.cast(b, x[2], f.BOOL)
    return [f.cast(b, b.op("Where", falling, b.op("Sub", top, count), count), f.UINT8)]


def packed_body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Levels, packed: as many planes as the number of levels has bits."""
    (found,) = body(b, x, n_steps)
    powers = b.constant(2 ** np.arange(levels.MAX_PLANES, dtype=np.int64))
    reached = f.cast(b, b.op("GreaterOrEqual", f.int_attribute(b, "levels"), powers), f.INT64)
    return [levels.pack(b, found, b.op("ReduceSum", reached, keepdims=0))]


def shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """As x, uint8."""
    return [typed(np.uint8, inputs[0][1])]


def packed_shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """[.., C] -> [.., n P]."""
    shape = inputs[0][1]
    planes = attrs["levels"].bit_length()
    return [typed(np.uint8, levels.packed_shape(shape, int(shape[-1]), planes))]


REAL = Op(
    name="LevelNeuron",
    summary="floor(clip(gain x, 0, levels) + 1/2), a neuron of several levels without memory.",
    inputs=("x",),
    outputs=("levels",),
    attributes={"levels": "INT", "gain": "FLOAT"},
    reference=real,
    body=real_body,
    shapes=shapes,
)
OP = Op(
    name="LevelThresholds",
    summary="Number of thresholds that an int32 reaches, per channel, uint8.",
    inputs=("x", "theta", "falling"),
    outputs=("levels",),
    attributes={"levels": "INT"},
    reference=reference,
    body=body,
    shapes=shapes,
)
PACKED = Op(
    name="StreamLevels",
    summary="Number of thresholds that an int32 reaches, per channel, as planes of bits.",
    inputs=("x", "theta", "falling"),
    outputs=("levels",),
    attributes={"levels": "INT"},
    reference=packed_reference,
    body=packed_body,
    shapes=packed_shapes,
)
