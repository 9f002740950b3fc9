"""WeightConvNeuron and WeightConvAffine: packed spikes or levels through b-bit weights.

WeightConvNeuron  = unpack, IntegerConv, ThresholdNeuron, pack     levels in, spikes out
WeightConvAffine  = unpack, IntegerConv, StreamAffine              levels in, int32 stream out
Weights are planes of bits [O, kh, kw, n P]; inputs are packed spikes, or levels of several planes.
"""

from __future__ import annotations

import numpy as np

from bestdeploy import ir
from bestdeploy.ops import (
    arithmetic,
    levels,
    spike_conv,
    stream_affine,
    threshold_neuron,
    weight_conv,
)
from bestdeploy.ops import fragments as f
from bestdeploy.ops.definition import Op


def _sums(
    s: np.ndarray, w: np.ndarray, strides: list[int], pads: list[int], channels: int
) -> np.ndarray:
    unpacked = arithmetic.unpack_levels(s, channels), arithmetic.unpack_weights(w, channels)
    return weight_conv.integer_reference(*unpacked, strides=strides, pads=pads, levels=0)[0]


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
    """Packed [T, B, H, W, n P] -> packed spikes [T, B, Ho, Wo, P']."""
    n = _sums(s, w, strides, pads, in_channels)
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
    """Packed [T, B, H, W, n P] -> int32 [T, B, Ho, Wo, O]."""
    n = _sums(s, w, strides, pads, in_channels)
    return stream_affine.reference(n, whole, fraction, shift)


def _sums_body(b: ir.Builder, s: ir.Value, w: ir.Value) -> ir.Value:
    channels = f.int_attribute(b, "in_channels")
    unpacked = [levels.unpack(b, s, channels), levels.unpack_weights(b, w, channels)]
    return weight_conv.integer_body(b, unpacked, 0)[0]


def neuron_body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Compose the parts."""
    n = _sums_body(b, x[0], x[1])
    return [f.pack(b, threshold_neuron.fire(b, n, x[2], n_steps))]


def affine_body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Compose the parts."""
    return stream_affine.body(b, [_sums_body(b, x[0], x[1]), *x[2:]], n_steps)


NEURON = Op(
    name="WeightConvNeuron",
    summary="Convolution with b-bit weights fused with its neuron; packed levels in, spikes out.",
    inputs=("spikes", "w", "theta"),
    outputs=("out",),
    attributes=spike_conv.ATTRIBUTES,
    reference=neuron_reference,
    body=neuron_body,
    shapes=spike_conv.neuron_shapes,
    unrolled=True,
)
AFFINE = Op(
    name="WeightConvAffine",
    summary="Convolution with b-bit weights into the int32 stream; packed levels in.",
    inputs=("spikes", "w", "whole", "fraction", "shift"),
    outputs=("y",),
    attributes=spike_conv.ATTRIBUTES,
    reference=affine_reference,
    body=affine_body,
    shapes=spike_conv.affine_shapes,
)
