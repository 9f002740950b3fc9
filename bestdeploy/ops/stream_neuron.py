"""StreamNeuron and ResidualNeuron: neurons that read the int32 stream, packed spikes out.

StreamNeuron   = MembraneNeuron, pack
ResidualNeuron = ReversibleAdd, MembraneNeuron, pack: the new stream and its spikes at once
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bestdeploy import ir
from bestdeploy.ops import arithmetic, membrane_neuron, neuron, packing, residual
from bestdeploy.ops import fragments as f
from bestdeploy.ops.definition import Op, Typed, typed


def reference(x: np.ndarray, *, n_steps: int, **parameters: int) -> tuple[np.ndarray]:
    """X int32 [T, B, H, W, C] -> packed [T, B, H, W, P]."""
    return (arithmetic.pack_bits(neuron.run(x, **parameters)),)


def residual_reference(
    y: np.ndarray, x0: np.ndarray, x1: np.ndarray, *, n_steps: int, **parameters: int
) -> tuple[np.ndarray, np.ndarray]:
    """Three streams -> the next stream int32 and its packed spikes."""
    (out,) = residual.add(y, x0, x1)
    return out, arithmetic.pack_bits(neuron.run(out, **parameters))


def body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Compose the parts."""
    return [f.pack(b, membrane_neuron.fire(b, x[0], n_steps))]


def residual_body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Compose the parts."""
    (out,) = residual.add_body(b, x, n_steps)
    return [out, f.pack(b, membrane_neuron.fire(b, out, n_steps))]


def shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """[T, B, H, W, C] -> [T, B, H, W, P]."""
    shape = inputs[0][1]
    return [typed(np.uint8, (*shape[:-1], packing.packed_bytes(int(shape[-1]))))]


def residual_shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """Stream and packed spikes."""
    return [typed(np.int32, inputs[0][1]), *shapes(inputs, attrs, n_steps)]


STREAM = Op(
    name="StreamNeuron",
    summary="Stream neuron over int32 inputs, packed spikes.",
    inputs=("x",),
    outputs=("spikes",),
    attributes=neuron.ATTRIBUTES,
    reference=reference,
    body=body,
    shapes=shapes,
    unrolled=True,
)
RESIDUAL = Op(
    name="ResidualNeuron",
    summary="x2 = y + ((x0 + x1) >> 1) and the stream neuron on it, packed spikes.",
    inputs=("y", "x0", "x1"),
    outputs=("x2", "spikes"),
    attributes=neuron.ATTRIBUTES,
    reference=residual_reference,
    body=residual_body,
    shapes=residual_shapes,
    unrolled=True,
)
