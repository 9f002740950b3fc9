"""MembraneNeuron: the stream neuron over int32 inputs (numerics section 5), spikes unpacked.

`ConstantMembraneNeuron` is the encoder of a still image: its input is the same at every step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bestdeploy import ir
from bestdeploy.ops import fragments as f
from bestdeploy.ops import lif, neuron
from bestdeploy.ops.definition import Op, Typed, typed


def reference(x: np.ndarray, *, n_steps: int, **parameters: int) -> tuple[np.ndarray]:
    """X int32 [T, ...] -> spikes uint8 [T, ...]."""
    return (neuron.run(x, **parameters),)


def constant_reference(x: np.ndarray, *, n_steps: int, **parameters: int) -> tuple[np.ndarray]:
    """X int32 [B, ...] -> spikes uint8 [T, B, ...]."""
    return (neuron.run(np.broadcast_to(x, (n_steps, *x.shape)), **parameters),)


def fire(b: ir.Builder, x: ir.Value, n_steps: int, *, constant: bool = False) -> ir.Value:
    """Unroll over T; return uint8 spikes [T, ...]."""
    wide = f.cast(b, x, f.INT64)
    steps = [wide if constant else f.step(b, wide, t) for t in range(n_steps)]
    return f.stack(b, [f.cast(b, s, f.UINT8) for s in neuron.body(b, steps)])


def body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Unrolled integer neuron."""
    return [fire(b, x[0], n_steps)]


def constant_body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Unrolled integer neuron on one input."""
    return [fire(b, x[0], n_steps, constant=True)]


def shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """As x, uint8."""
    return [typed(np.uint8, inputs[0][1])]


OP = Op(
    name="MembraneNeuron",
    summary="Stream neuron over int32 inputs, spikes uint8.",
    inputs=("x",),
    outputs=("spikes",),
    attributes=neuron.ATTRIBUTES,
    reference=reference,
    body=body,
    shapes=shapes,
    unrolled=True,
)
CONSTANT_OP = Op(
    name="ConstantMembraneNeuron",
    summary="Stream neuron whose input is the same at every step.",
    inputs=("x",),
    outputs=("spikes",),
    attributes=neuron.ATTRIBUTES,
    reference=constant_reference,
    body=constant_body,
    shapes=lif.constant_shapes,
    unrolled=True,
)
