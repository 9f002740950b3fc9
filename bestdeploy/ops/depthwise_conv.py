"""Depthwise convolution: every channel with a window of its own, of levels or of whole sums.

    DepthwiseConv:           y[c] = sum over taps of w[c] x[c]          x levels, or a real stream
    IntegerDepthwise:        the same with integer weights and inputs, int32
    DepthwiseLevelsAffine  = unpack, IntegerDepthwise, StreamAffine     packed levels in
    DepthwiseStreamAffine  = IntegerDepthwise, StreamAffine             int32 sums in

A channel keeps to itself, so the scale of its input and of its weights is one factor behind the
sum: behind a convolution with integer weights the sums stay integers. Weights are [1, kh, kw, C].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from bestdeploy import ir
from bestdeploy.ops import arithmetic, levels, spike_conv, stream_affine
from bestdeploy.ops import fragments as f
from bestdeploy.ops.definition import Op, Typed, typed
from bestdeploy.ops.real_conv import CONV_ATTRIBUTES, conv_shape


def convolve(x: np.ndarray, w: np.ndarray, strides: list[int], pads: list[int]) -> np.ndarray:
    """Windows of x [.., H, W, C] times w [1, kh, kw, C], in the type of x."""
    top, left, bottom, right = pads
    lead = [(0, 0)] * (x.ndim - 3)
    padded: np.ndarray = np.pad(x, [*lead, (top, bottom), (left, right), (0, 0)])
    axes = (x.ndim - 3, x.ndim - 2)
    windows = sliding_window_view(padded, w.shape[1:3], axis=axes)
    windows = windows[..., :: strides[0], :: strides[1], :, :, :]
    return np.einsum("...cyx,yxc->...c", windows, w[0].astype(x.dtype))


def reference(
    x: np.ndarray,
    w: np.ndarray,
    scale: np.ndarray,
    *,
    strides: list[int],
    pads: list[int],
    weight_bits: int,
    lowest: int,
) -> tuple[np.ndarray]:
    """Levels uint8 or float64 [T, B, H, W, C] -> float64 [T, B, Ho, Wo, C]."""
    return (convolve(x.astype(np.float64), w, strides, pads),)


def integer_reference(
    x: np.ndarray, w: np.ndarray, *, strides: list[int], pads: list[int], levels: int
) -> tuple[np.ndarray]:
    """Levels uint8 or int32 [T, B, H, W, C], w int8 or int16 -> int32 [T, B, Ho, Wo, C]."""
    return (convolve(x.astype(np.int64), w, strides, pads).astype(np.int32),)


def levels_reference(
    x: np.ndarray,
    w: np.ndarray,
    whole: np.ndarray,
    fraction: np.ndarray,
    shift: np.ndarray,
    *,
    strides: list[int],
    pads: list[int],
    in_channels: int,
) -> tuple[np.ndarray]:
    """Packed levels [T, B, H, W, n P] -> int32 [T, B, Ho, Wo, C]."""
    unpacked = arithmetic.unpack_levels(x, in_channels)
    return stream_reference(
        unpacked, w, whole, fraction, shift, strides=strides, pads=pads, in_channels=in_channels
    )


def stream_reference(
    x: np.ndarray,
    w: np.ndarray,
    whole: np.ndarray,
    fraction: np.ndarray,
    shift: np.ndarray,
    *,
    strides: list[int],
    pads: list[int],
    in_channels: int,
) -> tuple[np.ndarray]:
    """Sums int32 [T, B, H, W, C] -> int32 [T, B, Ho, Wo, C]."""
    q = arithmetic.unpack_weights(w, in_channels)
    n = integer_reference(x, q, strides=strides, pads=pads, levels=0)[0]
    return stream_affine.reference(n, whole, fraction, shift)


def _ints(b: ir.Builder, name: str) -> ir.Value:
    return b.op("Constant", value_ints=ir.reference_attribute("value_ints", name, "INTS"))


def _windows(b: ir.Builder, x: ir.Value, w: ir.Value) -> ir.Value:
    """Windows [M, Ho, kh, Wo, kw, C] of x [M, H, W, C], zero outside."""
    pads, strides = _ints(b, "pads"), _ints(b, "strides")
    ends = [b.op("Slice", pads, b.constant([i]), b.constant([i + 2])) for i in (0, 2)]
    zero = b.constant([0])
    widths = b.op("Concat", zero, ends[0], zero, zero, ends[1], zero, axis=0)
    padded = b.op("CastLike", b.op("Pad", x, widths), x)
    zero_, one = b.constant(np.int64(0)), b.constant(np.int64(1))
    for axis, at in ((1, 0), (3, 1)):  # the first window put an axis in front of the second
        size = b.op("Squeeze", f.dims(b, padded, axis, axis + 1))
        taps = b.op("Squeeze", f.dims(b, w, 1 + at, 2 + at))
        stride = b.op("Gather", strides, b.constant(np.int64(at)), axis=0)
        count = b.op("Add", b.op("Div", b.op("Sub", size, taps), stride), one)
        starts = b.op("Mul", b.op("Range", zero_, count, one), stride)
        index = b.op("Add", b.op("Unsqueeze", starts, b.constant([1])),
                     b.op("Range", zero_, taps, one))  # fmt: skip
        padded = b.op("Gather", padded, index, axis=axis)
    return padded


def sums(b: ir.Builder, x: ir.Value, w: ir.Value) -> ir.Value:
    """Multiply every window of x [T, B, H, W, C] by w [1, kh, kw, C] of its type, and add."""
    image = f.reshape(b, x, -1, b.op("Shape", x, start=-3))
    windows = _windows(b, image, w)
    column = b.op("Unsqueeze", b.op("Squeeze", w, b.constant([0])), b.constant([1]))
    y = b.op("ReduceSum", b.op("Mul", windows, column), b.constant([2, 4]), keepdims=0)
    return f.reshape(b, y, f.dims(b, x, 0, -3), f.dims(b, y, 1, 4))


def body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """In float64; the scale is for the pass that quantises."""
    return [sums(b, f.cast(b, x[0], f.DOUBLE), f.cast(b, x[1], f.DOUBLE))]


def integer_body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """In int32: ConvInteger takes bytes only, Conv no integers."""
    return [sums(b, f.cast(b, x[0], f.INT32), f.cast(b, x[1], f.INT32))]


def levels_body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Unpack, then as on sums."""
    channels = f.int_attribute(b, "in_channels")
    return stream_body(b, [levels.unpack(b, x[0], channels), *x[1:]], n_steps)


def stream_body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Compose the parts."""
    w = levels.unpack_weights(b, x[1], f.int_attribute(b, "in_channels"))
    return stream_affine.body(b, [*integer_body(b, [x[0], w], n_steps), *x[2:]], n_steps)


def _shape(x: Any, channels: Any, w: Any, attrs: Mapping[str, Any]) -> Any:
    return conv_shape((*x[:-1], channels), (channels, *w[1:3], channels), attrs)


def shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """[T, B, H, W, C] -> [T, B, Ho, Wo, C] float64."""
    x, w = inputs[0][1], inputs[1][1]
    return [typed(np.float64, _shape(x, x[-1], w, attrs))]


def integer_shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """[T, B, H, W, C] -> [T, B, Ho, Wo, C] int32."""
    x, w = inputs[0][1], inputs[1][1]
    return [typed(np.int32, _shape(x, x[-1], w, attrs))]


def packed_shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """[T, B, H, W, ..] -> [T, B, Ho, Wo, C] int32."""
    x, w = inputs[0][1], inputs[1][1]
    return [typed(np.int32, _shape(x, attrs["in_channels"], w, attrs))]


OP = Op(
    name="DepthwiseConv",
    summary="Depthwise convolution with real weights that are to become integers.",
    inputs=("x", "w", "scale"),
    outputs=("y",),
    attributes={**CONV_ATTRIBUTES, "weight_bits": "INT", "lowest": "INT"},
    reference=reference,
    body=body,
    shapes=shapes,
)
INTEGER = Op(
    name="IntegerDepthwise",
    summary="Depthwise sums n[c] = sum w[c] x[c] of levels or int32 with integer weights.",
    inputs=("x", "w"),
    outputs=("n",),
    attributes={**CONV_ATTRIBUTES, "levels": "INT"},
    reference=integer_reference,
    body=integer_body,
    shapes=integer_shapes,
)
LEVELS = Op(
    name="DepthwiseLevelsAffine",
    summary="Depthwise convolution of packed levels into the int32 stream.",
    inputs=("levels", "w", "whole", "fraction", "shift"),
    outputs=("y",),
    attributes=spike_conv.ATTRIBUTES,
    reference=levels_reference,
    body=levels_body,
    shapes=packed_shapes,
)
STREAM = Op(
    name="DepthwiseStreamAffine",
    summary="Depthwise convolution of int32 sums into the int32 stream.",
    inputs=("x", "w", "whole", "fraction", "shift"),
    outputs=("y",),
    attributes=spike_conv.ATTRIBUTES,
    reference=stream_reference,
    body=stream_body,
    shapes=packed_shapes,
)
