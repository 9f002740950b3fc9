"""Repeat: what is the same at every step gets its axis of time, [B, ..] -> [T, B, ..]."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bestdeploy import ir
from bestdeploy.ops.definition import Op, Typed, typed


def reference(x: np.ndarray, *, n_steps: int) -> tuple[np.ndarray]:
    """Values of any type [B, ..] -> [T, B, ..]."""
    return (np.broadcast_to(x, (n_steps, *x.shape)).copy(),)


def repeated(b: ir.Builder, x: ir.Value, n_steps: int) -> ir.Value:
    """Concatenate copies along a new first axis."""
    step = b.op("Unsqueeze", x, b.constant([0]))
    return b.op("Concat", *[step] * n_steps, axis=0) if n_steps > 1 else step


def body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Copies, T of them."""
    return [repeated(b, x[0], n_steps)]


def shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """Same type, T in front."""
    return [typed(inputs[0][0], (n_steps, *inputs[0][1]))]


OP = Op(
    name="Repeat",
    summary="The same values at each of T steps.",
    inputs=("x",),
    outputs=("y",),
    reference=reference,
    body=body,
    shapes=shapes,
    unrolled=True,
)
