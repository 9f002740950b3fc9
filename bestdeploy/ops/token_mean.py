"""Mean over tokens of each step, in front of a neuron: TokenMean, its integer form, the fused op.

    TokenMean:           m[t, b, c] = sum over tokens of x / N                          float64
    StreamTokenMean:     m = floor((2 S + N) / (2 N)),  S = sum over tokens of x, int64: S / N to
                         the nearest, halves upwards                                    int32
    ResidualMeanNeuron:  StreamTokenMean of y + ((x0 + x1) >> 1), stream neuron, pack

The mean is [T, B, 1, 1, C]. |S| < 2^31 N, so the mean is an int32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bestdeploy import ir
from bestdeploy.ops import arithmetic, membrane_neuron, neuron, packing, residual
from bestdeploy.ops import fragments as f
from bestdeploy.ops.definition import Op, Typed, typed

_TOKENS = (2, 3)
# Makes the dividend positive: |2 S + N| < 2^32 N + N, and N < 2^24.
_LIFT = 2**33


def real(x: np.ndarray) -> tuple[np.ndarray]:
    """Stream float64 [T, B, H, W, C] -> [T, B, 1, 1, C]."""
    return (x.mean(axis=_TOKENS, keepdims=True),)


def reference(x: np.ndarray) -> tuple[np.ndarray]:
    """Stream int32 [T, B, H, W, C] -> int32 [T, B, 1, 1, C]."""
    n = x.shape[2] * x.shape[3]
    total = x.sum(axis=_TOKENS, keepdims=True, dtype=np.int64)
    return (((2 * total + n) // (2 * n)).astype(np.int32),)


def fused_reference(
    y: np.ndarray, x0: np.ndarray, x1: np.ndarray, *, n_steps: int, **parameters: int
) -> tuple[np.ndarray]:
    """Three streams -> packed spikes [T, B, 1, 1, P]."""
    (mean,) = reference(*residual.add(y, x0, x1))
    return (arithmetic.pack_bits(neuron.run(mean, **parameters)),)


def real_body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """ReduceMean of float64."""
    return [b.op("ReduceMean", x[0], axes=list(_TOKENS), keepdims=1)]


def body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Division of a lifted, hence positive, int64."""
    total = b.op("ReduceSum", f.cast(b, x[0], f.INT64), b.constant(list(_TOKENS)), keepdims=1)
    n = b.op("ReduceProd", f.dims(b, x[0], 2, 4), keepdims=1)
    twice = b.op("Add", n, n)
    lift = b.constant(np.int64(_LIFT))
    doubled = b.op("Add", b.op("Add", total, total), n)
    lifted = b.op("Add", doubled, b.op("Mul", twice, lift))
    return [f.cast(b, b.op("Sub", b.op("Div", lifted, twice), lift), f.INT32)]


def fused_body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Compose the parts."""
    (mean,) = body(b, residual.add_body(b, x, n_steps), n_steps)
    return [f.pack(b, membrane_neuron.fire(b, mean, n_steps))]


def shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """[T, B, H, W, C] -> [T, B, 1, 1, C]."""
    dtype, (t, batch, _, _, c) = inputs[0]
    return [typed(dtype, (t, batch, 1, 1, c))]


def fused_shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """[T, B, H, W, C] -> [T, B, 1, 1, P]."""
    t, batch, _, _, c = inputs[0][1]
    return [typed(np.uint8, (t, batch, 1, 1, packing.packed_bytes(int(c))))]


REAL = Op(
    name="TokenMean",
    summary="Mean over tokens of each step, float64.",
    inputs=("x",),
    outputs=("mean",),
    reference=real,
    body=real_body,
    shapes=shapes,
)
STREAM = Op(
    name="StreamTokenMean",
    summary="Mean over tokens of each step of an int32 stream, to the nearest integer.",
    inputs=("x",),
    outputs=("mean",),
    reference=reference,
    body=body,
    shapes=shapes,
)
RESIDUAL = Op(
    name="ResidualMeanNeuron",
    summary="Mean over tokens of y + ((x0 + x1) >> 1) and the stream neuron on it, packed spikes.",
    inputs=("y", "x0", "x1"),
    outputs=("spikes",),
    attributes=neuron.ATTRIBUTES,
    reference=fused_reference,
    body=fused_body,
    shapes=fused_shapes,
    unrolled=True,
)
