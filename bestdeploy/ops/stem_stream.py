"""The first layer where it begins the stream, int32 out.

StemStream       = StemConv, Repeat                  a still image [B, H, W, C]
StemStreamFrames = StemConv of the frame of each step                event frames [B, T, H, W, C]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bestdeploy import ir
from bestdeploy.ops import repeat, stem_conv
from bestdeploy.ops.definition import Op, Typed, typed
from bestdeploy.ops.real_conv import CONV_ATTRIBUTES


def reference(
    *inputs: np.ndarray, n_steps: int, strides: list[int], pads: list[int]
) -> tuple[np.ndarray]:
    """As StemConv, the same at every step: int32 [T, B, Ho, Wo, O]."""
    (x,) = stem_conv.reference(*inputs, strides=strides, pads=pads)
    return repeat.reference(x, n_steps=n_steps)


def frames_reference(
    image: np.ndarray, *rest: np.ndarray, n_steps: int, strides: list[int], pads: list[int]
) -> tuple[np.ndarray]:
    """As StemConv on the frame of every step."""
    return stem_conv.reference(image.swapaxes(0, 1), *rest, strides=strides, pads=pads)


def body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Compose the parts."""
    (y,) = stem_conv.body(b, x, n_steps)
    return [repeat.repeated(b, y, n_steps)]


def frames_body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Compose the parts."""
    frames = b.op("Transpose", x[0], perm=[1, 0, 2, 3, 4])
    return stem_conv.body(b, [frames, *x[1:]], n_steps)


def shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """[B, H, W, C] or [B, T, H, W, C] -> int32 [T, B, Ho, Wo, O]."""
    ((_, shape),) = stem_conv.shapes(inputs, attrs, n_steps)
    return [typed(np.int32, (n_steps, shape[0], *shape[-3:]))]


OP = Op(
    name="StemStream",
    summary="First convolution of a still image into the stream, the same at each of T steps.",
    inputs=stem_conv.OP.inputs,
    outputs=("x",),
    attributes=CONV_ATTRIBUTES,
    reference=reference,
    body=body,
    shapes=shapes,
    unrolled=True,
)
FRAMES = Op(
    name="StemStreamFrames",
    summary="First convolution of event frames into the stream, one frame per step.",
    inputs=stem_conv.OP.inputs,
    outputs=("x",),
    attributes=CONV_ATTRIBUTES,
    reference=frames_reference,
    body=frames_body,
    shapes=shapes,
    unrolled=True,
)
