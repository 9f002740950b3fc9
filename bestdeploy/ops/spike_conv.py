"""SpikeConvNeuron and SpikeConvAffine: packed spikes through a binary layer, 1x1 or larger.

SpikeConvNeuron  = unpack, SignConv, ThresholdNeuron, pack      spikes in, spikes out
SpikeConvAffine  = unpack, SignConv, StreamAffine               spikes in, int32 stream out
Weights are bits [O, kh, kw, P], 1 for +1. These two carry nearly all the work of a network.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bestdeploy import ir
from bestdeploy.ops import arithmetic, packing, sign_conv, stream_affine, threshold_neuron
from bestdeploy.ops import fragments as f
from bestdeploy.ops.definition import Op, Typed, typed
from bestdeploy.ops.real_conv import CONV_ATTRIBUTES, conv_shape

ATTRIBUTES = {**CONV_ATTRIBUTES, "in_channels": "INT"}


def _counts(
    s: np.ndarray, w: np.ndarray, strides: list[int], pads: list[int], channels: int
) -> np.ndarray:
    bits, signs = arithmetic.unpack_bits(s, channels), arithmetic.unpack_signs(w, channels)
    return arithmetic.counts(bits, signs, strides, pads)


def neuron_reference(
    s: np.ndarray,
    w: np.ndarray,
    theta: np.ndarray,
    *,
    n_steps: int,
    strides: list[int],
    pads: list[int],
    in_channels: int,
) -> tuple[np.ndarray]:
    """Packed [T, B, H, W, P] -> packed [T, B, Ho, Wo, P']."""
    n = _counts(s, w, strides, pads, in_channels)
    return (arithmetic.pack_bits(threshold_neuron.reference(n, theta, n_steps=n_steps)[0]),)


def affine_reference(
    s: np.ndarray,
    w: np.ndarray,
    whole: np.ndarray,
    fraction: np.ndarray,
    shift: np.ndarray,
    *,
    strides: list[int],
    pads: list[int],
    in_channels: int,
) -> tuple[np.ndarray]:
    """Packed [T, B, H, W, P] -> int32 [T, B, Ho, Wo, O]."""
    n = _counts(s, w, strides, pads, in_channels)
    return stream_affine.reference(n, whole, fraction, shift)


def _counts_body(b: ir.Builder, s: ir.Value, w: ir.Value) -> ir.Value:
    channels = f.int_attribute(b, "in_channels")
    bits, signs = f.unpack(b, s, channels), f.unpack(b, w, channels, signs=True)
    return sign_conv.body(b, [bits, signs], 0)[0]


def neuron_body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Compose the parts."""
    n = _counts_body(b, x[0], x[1])
    return [f.pack(b, threshold_neuron.fire(b, n, x[2], n_steps))]


def affine_body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Compose the parts."""
    n = _counts_body(b, x[0], x[1])
    return stream_affine.body(b, [n, *x[2:]], n_steps)


def neuron_shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """[T, B, H, W, P] -> [T, B, Ho, Wo, P']."""
    shape = conv_shape(inputs[0][1], inputs[1][1], attrs)
    return [typed(np.uint8, (*shape[:-1], packing.packed_bytes(int(shape[-1]))))]


def affine_shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """[T, B, H, W, P] -> int32 [T, B, Ho, Wo, O]."""
    return [typed(np.int32, conv_shape(inputs[0][1], inputs[1][1], attrs))]


NEURON = Op(
    name="SpikeConvNeuron",
    summary="Binary convolution or linear layer fused with its neuron; packed spikes in and out.",
    inputs=("spikes", "w", "theta"),
    outputs=("out",),
    attributes=ATTRIBUTES,
    reference=neuron_reference,
    body=neuron_body,
    shapes=neuron_shapes,
    unrolled=True,
)
AFFINE = Op(
    name="SpikeConvAffine",
    summary="Binary convolution or linear layer into the int32 stream; packed spikes in.",
    inputs=("spikes", "w", "whole", "fraction", "shift"),
    outputs=("y",),
    attributes=ATTRIBUTES,
    reference=affine_reference,
    body=affine_body,
    shapes=affine_shapes,
)
