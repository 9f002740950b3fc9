"""OrPool: maximum over a window of spikes, i.e. a bitwise OR; positions outside count as 0."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from bestdeploy import ir
from bestdeploy.ops import arithmetic
from bestdeploy.ops import fragments as f
from bestdeploy.ops.definition import Op, Typed, typed

ATTRIBUTES = {"kernel_shape": "INTS", "strides": "INTS", "pads": "INTS"}


def reference(
    s: np.ndarray, *, kernel_shape: list[int], strides: list[int], pads: list[int]
) -> tuple[np.ndarray]:
    """Spikes [T, B, H, W, C] (bits or packed bytes) -> [T, B, Ho, Wo, C]; OR serves both."""
    top, left, bottom, right = pads
    padded = np.pad(s, ((0, 0), (0, 0), (top, bottom), (left, right), (0, 0)))
    windows = sliding_window_view(padded, tuple(kernel_shape), axis=(2, 3))
    windows = windows[:, :, :: strides[0], :: strides[1]]
    return (np.bitwise_or.reduce(windows, axis=(-2, -1)),)


def pool(b: ir.Builder, bits: ir.Value) -> ir.Value:
    """MaxPool of uint8 {0,1} [T, B, H, W, C] with the op's attributes."""
    image = f.reshape(b, bits, -1, f.dims(b, bits, 2, 5))
    window: dict[str, Any] = {a: ir.reference_attribute(a, a, "INTS") for a in ATTRIBUTES}
    y = b.op(
        "MaxPool",
        b.op("Transpose", image, perm=[0, 3, 1, 2]),
        **window,
    )
    y = b.op("Transpose", y, perm=[0, 2, 3, 1])
    return f.reshape(b, y, f.dims(b, bits, 0, 2), f.dims(b, y, 1, 4))


def body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """MaxPool."""
    return [pool(b, x[0])]


def pooled_shape(x: tuple[int | str, ...], attrs: Mapping[str, Any]) -> tuple[int | str, ...]:
    """[T, B, H, W, C] -> [T, B, Ho, Wo, C]."""
    k, s, p = attrs["kernel_shape"], attrs["strides"], attrs["pads"]
    h, w = (arithmetic.out_size(int(x[2 + i]), k[i], s[i], p[i], p[i + 2]) for i in range(2))
    return (*x[:2], h, w, x[4])


def shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """Same type, pooled size."""
    return [typed(inputs[0][0], pooled_shape(inputs[0][1], attrs))]


OP = Op(
    name="OrPool",
    summary="OR over a window of spikes uint8 [T, B, H, W, C].",
    inputs=("spikes",),
    outputs=("pooled",),
    attributes=ATTRIBUTES,
    reference=reference,
    body=body,
    shapes=shapes,
)
