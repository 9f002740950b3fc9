"""RealConv: convolution of real values with real weights (the first layer of every network)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bestdeploy import ir
from bestdeploy.ops import arithmetic, fragments
from bestdeploy.ops.definition import Op, Typed, typed


def reference(
    x: np.ndarray, w: np.ndarray, *, strides: list[int], pads: list[int]
) -> tuple[np.ndarray]:
    """Convolve x [.., H, W, I] with w [O, kh, kw, I] in float64."""
    return (arithmetic.convolve(x, w, strides, pads, np.float64),)


def body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Conv in float64, channel last."""
    return [fragments.convolve(b, "Conv", x[0], x[1])]


def conv_shape(x: tuple[int | str, ...], w: tuple[int | str, ...], attrs: Mapping[str, Any]) -> Any:
    """Output shape of a channel-last convolution."""
    sizes = [
        arithmetic.out_size(
            int(x[len(x) - 3 + i]),
            int(w[1 + i]),
            attrs["strides"][i],
            attrs["pads"][i],
            attrs["pads"][i + 2],
        )
        for i in range(2)
    ]
    return (*x[:-3], *sizes, w[0])


def shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """[.., H, W, I], [O, kh, kw, I] -> [.., Ho, Wo, O]."""
    return [typed(np.float64, conv_shape(inputs[0][1], inputs[1][1], attrs))]


CONV_ATTRIBUTES = {"strides": "INTS", "pads": "INTS"}

OP = Op(
    name="RealConv",
    summary="Convolution of x [.., H, W, I] with w [O, kh, kw, I], both float64, channel last.",
    inputs=("x", "w"),
    outputs=("y",),
    attributes=CONV_ATTRIBUTES,
    reference=reference,
    body=body,
    shapes=shapes,
)
