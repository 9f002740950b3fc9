"""PackBits, UnpackBits, UnpackSigns: between one byte per spike or weight and one bit.

Bits lie along the last axis, lowest bit first, each row padded with zeros to 64 bits. The pack
pass puts these ops around every spike; the fuse pass draws them into the layer that uses them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bestdeploy import ir
from bestdeploy.ops import arithmetic
from bestdeploy.ops import fragments as f
from bestdeploy.ops.definition import Op, Typed, typed


def packed_bytes(channels: int) -> int:
    """Bytes of a packed row of `channels` bits."""
    return -(-channels // f.WORD_BITS) * f.WORD_BITS // 8


def pack_reference(bits: np.ndarray) -> tuple[np.ndarray]:
    """Uint8 {0,1} [.., C] -> bytes [.., P]."""
    return (arithmetic.pack_bits(bits),)


def unpack_reference(packed: np.ndarray, *, channels: int) -> tuple[np.ndarray]:
    """Bytes [.., P] -> uint8 {0,1} [.., C]."""
    return (arithmetic.unpack_bits(packed, channels),)


def signs_reference(packed: np.ndarray, *, channels: int) -> tuple[np.ndarray]:
    """Bytes [O, kh, kw, P] -> int8 +-1 [O, kh, kw, C]."""
    return (arithmetic.unpack_signs(packed, channels),)


def pack_body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Pad, weigh by powers of two, sum."""
    return [f.pack(b, x[0])]


def unpack_body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Gather from a table of bytes."""
    return [f.unpack(b, x[0], f.int_attribute(b, "channels"))]


def signs_body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Gather from a table of bytes."""
    return [f.unpack(b, x[0], f.int_attribute(b, "channels"), signs=True)]


def pack_shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """[.., C] -> [.., P]."""
    shape = inputs[0][1]
    return [typed(np.uint8, (*shape[:-1], packed_bytes(int(shape[-1]))))]


def unpack_shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """[.., P] -> [.., C] uint8."""
    return [typed(np.uint8, (*inputs[0][1][:-1], attrs["channels"]))]


def signs_shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """[.., P] -> [.., C] int8."""
    return [typed(np.int8, (*inputs[0][1][:-1], attrs["channels"]))]


PACK = Op(
    name="PackBits",
    summary="Spikes uint8 {0,1} to bits, padded to 64.",
    inputs=("bits",),
    outputs=("packed",),
    reference=pack_reference,
    body=pack_body,
    shapes=pack_shapes,
)
UNPACK = Op(
    name="UnpackBits",
    summary="Bits to spikes uint8 {0,1}.",
    inputs=("packed",),
    outputs=("bits",),
    attributes={"channels": "INT"},
    reference=unpack_reference,
    body=unpack_body,
    shapes=unpack_shapes,
)
SIGNS = Op(
    name="UnpackSigns",
    summary="Weight bits to int8 +-1.",
    inputs=("packed",),
    outputs=("signs",),
    attributes={"channels": "INT"},
    reference=signs_reference,
    body=signs_body,
    shapes=signs_shapes,
)
