"""Levels: small whole numbers 0 .. L per channel, the integer residual stream of Spikformer.

    LevelAdd       out = a + b                                        spikes are levels 0 and 1
    LevelReadOut   S = (sum over t, tokens of the level) 2^F;  raw = V (S >> q) + C    (section 9)
    PackLevels     level -> planes of bits, plane i holds bit i; each plane a row padded to 64 bits
    UnpackLevels   the inverse
    UnpackWeights  planes of bits -> integer weights: +-1 from one plane, else two's complement
SpikeLevelAdd and SpikeLevelReadOut are the same on packed levels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bestdeploy import ir
from bestdeploy.ops import arithmetic, packing, read_out
from bestdeploy.ops import fragments as f
from bestdeploy.ops.definition import Op, Typed, typed

MAX_PLANES = 8


def n_planes_of(levels: int) -> int:
    """Return how many bits hold 0 .. levels."""
    return levels.bit_length()


# -- adding --------------------------------------------------------------------------------------


def add(a: np.ndarray, b: np.ndarray, *, levels: int) -> tuple[np.ndarray]:
    """Levels uint8 [T, B, H, W, C] twice -> their sum, at most `levels`."""
    return (a + b,)


def add_body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Add in int32: Add of uint8 has no kernel in older runtimes."""
    total = b.op("Add", f.cast(b, x[0], f.INT32), f.cast(b, x[1], f.INT32))
    return [f.cast(b, total, f.UINT8)]


def add_shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """As its inputs."""
    return [typed(*inputs[0])]


# -- packing -------------------------------------------------------------------------------------


def pack_reference(levels: np.ndarray, *, planes: int) -> tuple[np.ndarray]:
    """Uint8 [.., C] -> bytes [.., planes P]."""
    return (arithmetic.pack_levels(levels, planes),)


def unpack_reference(packed: np.ndarray, *, channels: int) -> tuple[np.ndarray]:
    """Bytes [.., n P] -> uint8 [.., C]."""
    return (arithmetic.unpack_levels(packed, channels),)


def weights_reference(packed: np.ndarray, *, channels: int) -> tuple[np.ndarray]:
    """Bytes [O, kh, kw, n P] -> int16 [O, kh, kw, C]."""
    return (arithmetic.unpack_weights(packed, channels),)


def pack(b: ir.Builder, levels: ir.Value, planes: ir.Value) -> ir.Value:
    """Pack uint8 levels of rank 5 as `planes` (int64 scalar) planes, [T, B, H, W, planes P]."""
    powers = b.constant(2 ** np.arange(MAX_PLANES, dtype=np.int32))
    used = b.op("Slice", powers, b.constant([0]), f.vector(b, planes))
    column = b.op("Unsqueeze", used, b.constant([1]))
    wide = b.op("Unsqueeze", f.cast(b, levels, f.INT32), b.constant([-2]))
    digits = b.op("Mod", b.op("Div", wide, column), b.constant(np.int32(2)))
    bits = f.cast(b, digits, f.UINT8)  # [T, B, H, W, planes, C]
    lead = f.dims(b, levels, 0, 3)
    rows = f.pack(b, f.reshape(b, bits, lead, -1, f.dims(b, levels, 4, 5)))
    return f.reshape(b, rows, f.dims(b, levels, 0, 4), -1)


def unpack(b: ir.Builder, packed: ir.Value, channels: ir.Value) -> ir.Value:
    """Undo `pack`: uint8 levels."""
    bits, n_planes = f.unpack_planes(b, packed, channels)
    powers = b.constant(2 ** np.arange(MAX_PLANES, dtype=np.int32))
    used = b.op("Slice", powers, b.constant([0]), n_planes)
    return f.cast(b, f.join_planes(b, bits, used), f.UINT8)


def unpack_weights(b: ir.Builder, packed: ir.Value, channels: ir.Value) -> ir.Value:
    """Unpack [O, kh, kw, n P] bytes to int32 weights.

    The highest of n planes counts -2^(n-1). One plane gives r = 0 or -1 that way, and -2 r - 1 are
    its signs.
    """
    bits, n_planes = f.unpack_planes(b, packed, channels)
    plane = b.constant(np.arange(16, dtype=np.int64))
    powers = b.constant(2 ** np.arange(16, dtype=np.int32))
    one = b.constant(np.int64(1))
    is_top = b.op("Equal", plane, b.op("Sub", n_planes, one))
    signed = b.op("Where", is_top, b.op("Neg", powers), powers)
    raw = f.join_planes(b, bits, b.op("Slice", signed, b.constant([0]), n_planes))
    doubled = b.op("Mul", raw, b.constant(np.int32(-2)))
    signs = b.op("Sub", doubled, b.constant(np.int32(1)))
    return b.op("Where", b.op("Equal", n_planes, one), signs, raw)


def pack_body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Digits by Div and Mod, packed plane by plane."""
    return [pack(b, x[0], f.int_attribute(b, "planes"))]


def unpack_body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Gather from a table of bytes, sum of planes."""
    return [unpack(b, x[0], f.int_attribute(b, "channels"))]


def weights_body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Gather from a table of bytes, signed sum of planes."""
    return [f.cast(b, unpack_weights(b, x[0], f.int_attribute(b, "channels")), 5)]


def packed_shape(shape: Any, channels: int, planes: int) -> Any:
    """[.., C] -> [.., planes P]."""
    return (*shape[:-1], planes * packing.packed_bytes(channels))


def pack_shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """[.., C] -> [.., planes P]."""
    shape = inputs[0][1]
    return [typed(np.uint8, packed_shape(shape, int(shape[-1]), attrs["planes"]))]


def unpack_shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """[.., n P] -> [.., C] uint8."""
    return [typed(np.uint8, (*inputs[0][1][:-1], attrs["channels"]))]


def weights_shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """[.., n P] -> [.., C] int16."""
    return [typed(np.int16, (*inputs[0][1][:-1], attrs["channels"]))]


# -- adding on packed levels -----------------------------------------------------------------------


def packed_add_reference(
    x: np.ndarray, y: np.ndarray, *, channels: int, planes: int
) -> tuple[np.ndarray]:
    """Packed levels twice -> their packed sum."""
    total = arithmetic.unpack_levels(x, channels) + arithmetic.unpack_levels(y, channels)
    return (arithmetic.pack_levels(total, planes),)


def packed_add_body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Unpack, add, pack."""
    channels = f.int_attribute(b, "channels")
    (total,) = add_body(b, [unpack(b, v, channels) for v in x], n_steps)
    return [pack(b, total, f.int_attribute(b, "planes"))]


def packed_add_shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """[T, B, H, W, n P] -> [T, B, H, W, planes P]."""
    return [typed(np.uint8, packed_shape(inputs[0][1], attrs["channels"], attrs["planes"]))]


# -- reading out -----------------------------------------------------------------------------------


def read_reference(
    levels: np.ndarray, v: np.ndarray, constant: np.ndarray, *, q: int, bits: int
) -> tuple[np.ndarray]:
    """Levels uint8 [T, B, H, W, D] -> raw int64 [B, K] = V (S >> q) + C."""
    return read_out.mean_reference(levels.astype(np.int64) << bits, v, constant, q=q)


def read_body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """All in int64."""
    powers = b.constant(2 ** np.arange(31, dtype=np.int64))
    unit = b.op("Gather", powers, f.int_attribute(b, "bits"), axis=0)
    stream = b.op("Mul", f.cast(b, x[0], f.INT64), unit)
    return read_out.mean_body(b, [stream, *x[1:]], n_steps)


def packed_read_reference(
    packed: np.ndarray,
    v: np.ndarray,
    constant: np.ndarray,
    *,
    q: int,
    bits: int,
    in_channels: int,
) -> tuple[np.ndarray]:
    """Packed levels -> raw int64 [B, K]."""
    return read_reference(
        arithmetic.unpack_levels(packed, in_channels), v, constant, q=q, bits=bits
    )


def packed_read_body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Unpack and read out."""
    levels = unpack(b, x[0], f.int_attribute(b, "in_channels"))
    return read_body(b, [levels, *x[1:]], n_steps)


ADD = Op(
    name="LevelAdd",
    summary="Sum of levels or spikes uint8, at most `levels`.",
    inputs=("a", "b"),
    outputs=("out",),
    attributes={"levels": "INT"},
    reference=add,
    body=add_body,
    shapes=add_shapes,
)
READ = Op(
    name="LevelReadOut",
    summary="Raw logits from the mean of levels, int64.",
    inputs=("levels", "v", "constant"),
    outputs=("raw",),
    attributes={"q": "INT", "bits": "INT"},
    reference=read_reference,
    body=read_body,
    shapes=read_out.mean_shapes,
)
PACK = Op(
    name="PackLevels",
    summary="Levels uint8 to planes of bits, each padded to 64.",
    inputs=("levels",),
    outputs=("packed",),
    attributes={"planes": "INT"},
    reference=pack_reference,
    body=pack_body,
    shapes=pack_shapes,
)
UNPACK = Op(
    name="UnpackLevels",
    summary="Planes of bits to levels uint8.",
    inputs=("packed",),
    outputs=("levels",),
    attributes={"channels": "INT"},
    reference=unpack_reference,
    body=unpack_body,
    shapes=unpack_shapes,
)
WEIGHTS = Op(
    name="UnpackWeights",
    summary="Planes of bits to integer weights int16.",
    inputs=("packed",),
    outputs=("w",),
    attributes={"channels": "INT"},
    reference=weights_reference,
    body=weights_body,
    shapes=weights_shapes,
)
PACKED_ADD = Op(
    name="SpikeLevelAdd",
    summary="Sum of packed levels or spikes.",
    inputs=("a", "b"),
    outputs=("out",),
    attributes={"channels": "INT", "planes": "INT"},
    reference=packed_add_reference,
    body=packed_add_body,
    shapes=packed_add_shapes,
)
PACKED_READ = Op(
    name="SpikeLevelReadOut",
    summary="Raw logits from the mean of packed levels, int64.",
    inputs=("levels", "v", "constant"),
    outputs=("raw",),
    attributes={"q": "INT", "bits": "INT", "in_channels": "INT"},
    reference=packed_read_reference,
    body=packed_read_body,
    shapes=read_out.mean_shapes,
)
