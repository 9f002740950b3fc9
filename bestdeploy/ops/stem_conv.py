"""StemConv: the first convolution, from uint8 pixels to the int32 stream (numerics section 3).

    n = sum over taps inside the image of p W,   W = L0 + 256 L1 + 65536 L2 (balanced int8 limbs)
    x = (n + bias[row class, column class] + (e ? 2^(e-1) : 0)) >> e

A border class says which taps of a position lie inside the image; the pixel mean is subtracted in
the bias of each class, so padding with 0 is padding of the normalised image with 0. Event frames
come as [T, B, H, W, C], one per step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bestdeploy import ir
from bestdeploy.ops import arithmetic
from bestdeploy.ops import fragments as f
from bestdeploy.ops.definition import Op, Typed, typed
from bestdeploy.ops.real_conv import CONV_ATTRIBUTES, conv_shape

N_LIMBS = 3
LIMIT = 127 * (1 + 256 + 65536)  # the largest |W| three balanced limbs can hold


def to_limbs(w: np.ndarray) -> np.ndarray:
    """Split int64 weights |W| <= LIMIT into int8 digits [3, ...] of base 256, lowest first."""
    digits, rest = [], w.astype(np.int64)
    for _ in range(N_LIMBS):
        digit = ((rest + 128) & 255) - 128
        digits.append(digit)
        rest = (rest - digit) >> 8
    if np.any(rest):
        raise ValueError("weight exceeds three balanced limbs")
    return np.stack(digits).astype(np.int8)


def from_limbs(limbs: np.ndarray) -> np.ndarray:
    """Undo `to_limbs`: int64 weights."""
    scale = 256 ** np.arange(N_LIMBS, dtype=np.int64)
    return np.tensordot(scale, limbs.astype(np.int64), axes=1)


def reference(
    image: np.ndarray,
    limbs: np.ndarray,
    bias: np.ndarray,
    row_class: np.ndarray,
    col_class: np.ndarray,
    shift: np.ndarray,
    *,
    strides: list[int],
    pads: list[int],
) -> tuple[np.ndarray]:
    """Image uint8 [.., H, W, C], limbs int8 [3, O, kh, kw, C] -> int32 [.., Ho, Wo, O]."""
    # float64 holds every sum: |n| <= taps * 255 * 2^23 < 2^53 for fewer than 2^22 taps.
    n = arithmetic.convolve(image, from_limbs(limbs), strides, pads, np.float64).astype(np.int64)
    n += bias[row_class][:, col_class]
    half = np.where(shift > 0, np.int64(1) << np.maximum(shift - 1, 0), 0)
    return (((n + half) >> shift).astype(np.int32),)


def body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Three ConvInteger, joined in int64."""
    image, limbs, bias, row_class, col_class, shift = x
    total = None
    for i in range(N_LIMBS):
        limb = f.step(b, limbs, i)
        part = f.cast(b, f.convolve(b, "ConvInteger", image, limb), f.INT64)
        scaled = b.op("Mul", part, b.constant(np.int64(256**i)))
        total = scaled if total is None else b.op("Add", total, scaled)
    rows = b.op("Gather", bias, row_class, axis=0)
    total = b.op("Add", total, b.op("Gather", rows, col_class, axis=1))
    # 2^e through int64 doubling: [1, 2, 4, .., 2^24][e], and its half (0 for e = 0).
    divisor = b.op("Gather", b.constant(2 ** np.arange(25, dtype=np.int64)), shift, axis=0)
    half = b.op("Div", divisor, b.constant(np.int64(2)))
    shifted = f.floor_divide(b, b.op("Add", total, half), divisor)
    return [f.cast(b, shifted, f.INT32)]


def shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """[.., H, W, C] -> int32 [.., Ho, Wo, O]."""
    return [typed(np.int32, conv_shape(inputs[0][1], inputs[1][1][1:], attrs))]


OP = Op(
    name="StemConv",
    summary="First convolution from uint8 pixels to Q(F) int32, exact integers.",
    inputs=("image", "limbs", "bias", "row_class", "col_class", "shift"),
    outputs=("x",),
    attributes=CONV_ATTRIBUTES,
    reference=reference,
    body=body,
    shapes=shapes,
)
