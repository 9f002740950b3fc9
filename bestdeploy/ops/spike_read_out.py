"""SpikeReadOut: ReadOut on packed spikes and weight bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bestdeploy import ir
from bestdeploy.ops import arithmetic, read_out
from bestdeploy.ops import fragments as f
from bestdeploy.ops.definition import Op, Typed


def reference(
    x2: np.ndarray,
    x1: np.ndarray,
    s: np.ndarray,
    w: np.ndarray,
    *rest: np.ndarray,
    q: int,
    in_channels: int,
) -> tuple[np.ndarray]:
    """As ReadOut, spikes packed [T, B, H, W, P] and weights [D, 1, 1, P]."""
    bits = arithmetic.unpack_bits(s, in_channels)
    signs = arithmetic.unpack_signs(w, in_channels)
    return read_out.reference(x2, x1, bits, signs, *rest, q=q)


def body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Unpack and read out."""
    channels = f.int_attribute(b, "in_channels")
    bits, signs = f.unpack(b, x[2], channels), f.unpack(b, x[3], channels, signs=True)
    return [read_out.read(b, [*x[:2], bits, signs, *x[4:]])]


def shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """[B, K] int64."""
    return read_out.shapes(inputs, attrs, n_steps)


OP = Op(
    name="SpikeReadOut",
    summary="Raw logits from the last streams and packed spikes, int64.",
    inputs=read_out.INPUTS,
    outputs=("raw",),
    attributes={"q": "INT", "in_channels": "INT"},
    reference=reference,
    body=body,
    shapes=shapes,
)
