"""WeightConv and IntegerConv: convolution of spikes or levels with weights of several bits.

WeightConv is the trained layer: y = sum w s with real weights w, and what the deployed one needs
beside it: a scale per output channel and the number of bits. The pass `quantise` takes

    q = +1 where w >= 0, else -1                                      1 bit
    q = rint(w / scale), cut to `lowest` .. 2^(bits-1) - 1            2 bits and more

IntegerConv has these integers: n = sum q s. Inputs are spikes {0, 1} or levels 0 .. `levels`.
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

MAX_BITS = 16


def reference(
    s: np.ndarray,
    w: np.ndarray,
    scale: np.ndarray,
    *,
    strides: list[int],
    pads: list[int],
    weight_bits: int,
    lowest: int,
    levels: int,
) -> tuple[np.ndarray]:
    """Levels uint8 [T, B, H, W, I], w real [O, kh, kw, I] -> float64 [T, B, Ho, Wo, O]."""
    return (arithmetic.convolve(s, w, strides, pads, np.float64),)


def body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Conv in float64; the scale is for the pass that quantises."""
    spikes, w = f.cast(b, x[0], f.DOUBLE), f.cast(b, x[1], f.DOUBLE)
    return [f.convolve(b, "Conv", spikes, w)]


def shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """[T, B, H, W, I], [O, kh, kw, I] -> [T, B, Ho, Wo, O]."""
    return [typed(np.float64, conv_shape(inputs[0][1], inputs[1][1], attrs))]


def integer_reference(
    s: np.ndarray, w: np.ndarray, *, strides: list[int], pads: list[int], levels: int
) -> tuple[np.ndarray]:
    """Spikes or levels uint8, w int8 or int16 [O, kh, kw, I] -> int32 sums."""
    return (arithmetic.convolve(s, w, strides, pads, np.float64).astype(np.int32),)


def integer_body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Two ConvInteger, on the high and the low byte of the weights: w = 256 high + low."""
    lifted = b.op("Add", f.cast(b, x[1], f.INT32), b.constant(np.int32(2**15)))
    digit = b.constant(np.int32(256))
    high = b.op("Div", lifted, digit)
    low = b.op("Sub", lifted, b.op("Mul", high, digit))
    centred = b.op("Sub", high, b.constant(np.int32(128)))
    upper = b.op("Mul", f.convolve(b, "ConvInteger", x[0], centred), digit)
    return [b.op("Add", upper, f.convolve(b, "ConvInteger", x[0], low, zero_point=0))]


def integer_shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """[T, B, H, W, I], [O, kh, kw, I] -> [T, B, Ho, Wo, O] int32."""
    return [typed(np.int32, conv_shape(inputs[0][1], inputs[1][1], attrs))]


OP = Op(
    name="WeightConv",
    summary="Convolution of spikes or levels with real weights that are to become integers.",
    inputs=("spikes", "w", "scale"),
    outputs=("y",),
    attributes={**CONV_ATTRIBUTES, "weight_bits": "INT", "lowest": "INT", "levels": "INT"},
    reference=reference,
    body=body,
    shapes=shapes,
)
INTEGER = Op(
    name="IntegerConv",
    summary="Sums n[o] = sum w[o] s of spikes or levels s with integer weights (int8 or int16).",
    inputs=("spikes", "w"),
    outputs=("n",),
    attributes={**CONV_ATTRIBUTES, "levels": "INT"},
    reference=integer_reference,
    body=integer_body,
    shapes=integer_shapes,
)
