"""Encoder: the first neuron of a still image, from a table instead of a recursion.

With a hard reset to the potential it starts from, a neuron with the same input x at every step
starts anew after each spike: it fires at steps p, 2p, 3p, ... where p is the first step at which it
fires at all. Whether it has fired by step p is monotone in x, so p follows from T constants:

    first[p-1] = least x that has fired by step p                    (non-increasing in p)
    p = 1 + #{i : x < first[i]},   S[t] = p divides t   (t = 1 .. T)
"""

from __future__ import annotations

import numpy as np

from bestdeploy import ir
from bestdeploy.ops import fragments as f
from bestdeploy.ops.definition import Op
from bestdeploy.ops.lif import constant_shapes


def run(x: np.ndarray, first: np.ndarray, n_steps: int) -> np.ndarray:
    """X int32 [B, ...], first int32 [T] -> spikes uint8 [T, B, ...]."""
    period = 1 + (x[..., None] < first).sum(axis=-1)
    steps = np.arange(1, n_steps + 1).reshape(-1, *[1] * x.ndim)
    return (steps % period == 0).astype(np.uint8)


def reference(x: np.ndarray, first: np.ndarray, *, n_steps: int) -> tuple[np.ndarray]:
    """Compare and look up."""
    return (run(x, first, n_steps),)


def fire(b: ir.Builder, x: ir.Value, first: ir.Value, n_steps: int) -> ir.Value:
    """Return uint8 spikes [T, ...] of int32 x."""
    period = b.constant(np.int64(1))
    for t in range(n_steps):
        below = f.cast(b, b.op("Less", x, f.step(b, first, t)), f.INT64)
        period = b.op("Add", period, below)
    zero = b.constant(np.int64(0))
    return f.stack(
        b,
        [
            f.cast(
                b,
                b.op("Equal", b.op("Mod", b.constant(np.int64(t)), period), zero),
                f.UINT8,
            )
            for t in range(1, n_steps + 1)
        ],
    )


def body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """T comparisons and a remainder per step."""
    return [fire(b, x[0], x[1], n_steps)]


OP = Op(
    name="Encoder",
    summary="First neuron of a still image by a table of T thresholds, spikes uint8.",
    inputs=("x", "first"),
    outputs=("spikes",),
    reference=reference,
    body=body,
    shapes=constant_shapes,
    unrolled=True,
)
