"""RealMaxPool and StreamMaxPool: maximum over a window of values; positions outside do not count.

Rounding to Q(F) keeps order, so the maximum of rounded values is the rounded maximum.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from bestdeploy import ir
from bestdeploy.ops import fragments as f
from bestdeploy.ops import or_pool
from bestdeploy.ops.definition import Op, Typed, typed


def reference(
    x: np.ndarray, *, kernel_shape: list[int], strides: list[int], pads: list[int]
) -> tuple[np.ndarray]:
    """Values [T, B, H, W, C], float64 or int32 -> [T, B, Ho, Wo, C] of the same type."""
    top, left, bottom, right = pads
    least = np.iinfo(np.int32).min if x.dtype == np.int32 else -np.inf
    padded = np.pad(
        x, ((0, 0), (0, 0), (top, bottom), (left, right), (0, 0)), constant_values=least
    )
    windows = sliding_window_view(padded, tuple(kernel_shape), axis=(2, 3))
    windows = windows[:, :, :: strides[0], :: strides[1]]
    return (windows.max(axis=(-2, -1)),)


def body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """MaxPool in float64, which holds every int32."""
    return [b.op("CastLike", or_pool.pool(b, f.cast(b, x[0], f.DOUBLE)), x[0])]


def shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """Same type, pooled size."""
    return [typed(inputs[0][0], or_pool.pooled_shape(inputs[0][1], attrs))]


def _row(name: str, summary: str) -> Op:
    return Op(
        name=name,
        summary=summary,
        inputs=("x",),
        outputs=("pooled",),
        attributes=or_pool.ATTRIBUTES,
        reference=reference,
        body=body,
        shapes=shapes,
    )


REAL = _row("RealMaxPool", "Maximum over a window, float64.")
STREAM = _row("StreamMaxPool", "Maximum over a window of an int32 stream.")
