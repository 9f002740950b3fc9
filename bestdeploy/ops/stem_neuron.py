"""The first layer with its neuron, packed spikes out.

StemNeuron = StemConv, Encoder, pack                    a still image [B, H, W, C]
StemFrames = StemConv, MembraneNeuron, pack             event frames [B, T, H, W, C], one per step
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bestdeploy import ir
from bestdeploy.ops import arithmetic, encoder, membrane_neuron, neuron, packing, stem_conv
from bestdeploy.ops import fragments as f
from bestdeploy.ops.definition import Op, Typed, typed
from bestdeploy.ops.real_conv import CONV_ATTRIBUTES


def reference(
    *inputs: np.ndarray, n_steps: int, strides: list[int], pads: list[int]
) -> tuple[np.ndarray]:
    """As StemConv, then the encoder: packed [T, B, Ho, Wo, P]."""
    *convolution, first = inputs
    (x,) = stem_conv.reference(*convolution, strides=strides, pads=pads)
    return (arithmetic.pack_bits(encoder.run(x, first, n_steps)),)


def frames_reference(
    image: np.ndarray,
    *rest: np.ndarray,
    n_steps: int,
    strides: list[int],
    pads: list[int],
    **parameters: int,
) -> tuple[np.ndarray]:
    """As StemConv on the frame of every step, then the neuron."""
    (x,) = stem_conv.reference(image.swapaxes(0, 1), *rest, strides=strides, pads=pads)
    return (arithmetic.pack_bits(neuron.run(x, **parameters)),)


def body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Compose the parts."""
    (y,) = stem_conv.body(b, x[:-1], n_steps)
    return [f.pack(b, encoder.fire(b, y, x[-1], n_steps))]


def frames_body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Compose the parts."""
    frames = b.op("Transpose", x[0], perm=[1, 0, 2, 3, 4])
    (y,) = stem_conv.body(b, [frames, *x[1:]], n_steps)
    return [f.pack(b, membrane_neuron.fire(b, y, n_steps))]


def shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """[B, H, W, C] or [B, T, H, W, C] -> [T, B, Ho, Wo, P]."""
    ((_, shape),) = stem_conv.shapes(inputs, attrs, n_steps)
    batch, sizes, channels = shape[0], shape[-3:-1], int(shape[-1])
    return [typed(np.uint8, (n_steps, batch, *sizes, packing.packed_bytes(channels)))]


OP = Op(
    name="StemNeuron",
    summary="First convolution of a still image and its encoder over T steps, packed spikes.",
    inputs=(*stem_conv.OP.inputs, "first"),
    outputs=("spikes",),
    attributes=CONV_ATTRIBUTES,
    reference=reference,
    body=body,
    shapes=shapes,
    unrolled=True,
)
FRAMES = Op(
    name="StemFrames",
    summary="First convolution of event frames, one per step, and its neuron, packed spikes.",
    inputs=stem_conv.OP.inputs,
    outputs=("spikes",),
    attributes={**CONV_ATTRIBUTES, **neuron.ATTRIBUTES},
    reference=frames_reference,
    body=frames_body,
    shapes=shapes,
    unrolled=True,
)
