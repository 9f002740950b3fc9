"""StemNeuron: StemConv and the encoder neuron in one, packed spikes out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bestdeploy import ir
from bestdeploy.ops import arithmetic, membrane_neuron, neuron, packing, stem_conv
from bestdeploy.ops import fragments as f
from bestdeploy.ops.definition import Op, Typed, typed
from bestdeploy.ops.real_conv import CONV_ATTRIBUTES


def reference(
    *inputs: np.ndarray, n_steps: int, strides: list[int], pads: list[int], **parameters: int
) -> tuple[np.ndarray]:
    """As StemConv, then the neuron: packed [T, B, Ho, Wo, P]."""
    (x,) = stem_conv.reference(*inputs, strides=strides, pads=pads)
    (s,) = membrane_neuron.constant_reference(x, n_steps=n_steps, **parameters)
    return (arithmetic.pack_bits(s),)


def body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Compose the parts."""
    (y,) = stem_conv.body(b, x, n_steps)
    return [f.pack(b, membrane_neuron.fire(b, y, n_steps, constant=True))]


def shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """[B, H, W, C] -> [T, B, Ho, Wo, P]."""
    ((_, shape),) = stem_conv.shapes(inputs, attrs, n_steps)
    return [typed(np.uint8, (n_steps, *shape[:-1], packing.packed_bytes(int(shape[-1]))))]


OP = Op(
    name="StemNeuron",
    summary="First convolution from pixels and its neuron over T steps, packed spikes.",
    inputs=stem_conv.OP.inputs,
    outputs=("spikes",),
    attributes={**CONV_ATTRIBUTES, **neuron.ATTRIBUTES},
    reference=reference,
    body=body,
    shapes=shapes,
    unrolled=True,
)
