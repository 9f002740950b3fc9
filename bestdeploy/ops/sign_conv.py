"""SignConv: convolution of spikes with +-1 weights held as int8; also 1x1, i.e. a linear layer."""

from __future__ import annotations

import numpy as np

from bestdeploy import ir
from bestdeploy.ops import arithmetic, fragments
from bestdeploy.ops.binary_conv import shapes
from bestdeploy.ops.definition import Op
from bestdeploy.ops.real_conv import CONV_ATTRIBUTES


def count_bounds(signs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return per output channel the least and greatest count, int64, of +-1 weights [O, ...]."""
    rows = signs.reshape(signs.shape[0], -1)
    return -(rows < 0).sum(axis=1, dtype=np.int64), (rows > 0).sum(axis=1, dtype=np.int64)


def reference(
    s: np.ndarray, w: np.ndarray, *, strides: list[int], pads: list[int]
) -> tuple[np.ndarray]:
    """Spikes uint8 [T, B, H, W, I], signs int8 [O, kh, kw, I] -> int32 counts."""
    return (arithmetic.counts(s, w, strides, pads),)


def body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """ConvInteger."""
    return [fragments.convolve(b, "ConvInteger", x[0], x[1])]


OP = Op(
    name="SignConv",
    summary="Counts n[o] = sum w[o] * spikes with w in {-1, +1} (int8).",
    inputs=("spikes", "w"),
    outputs=("n",),
    attributes=CONV_ATTRIBUTES,
    reference=reference,
    body=body,
    shapes=shapes,
)
