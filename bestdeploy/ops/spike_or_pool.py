"""SpikeOrPool: OrPool on packed spikes; the OR of bytes is the OR of their bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bestdeploy import ir
from bestdeploy.ops import fragments as f
from bestdeploy.ops import or_pool
from bestdeploy.ops.definition import Op, Typed, typed


def body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Unpack to all 8 P bits (padding stays zero), MaxPool, pack."""
    n_bits = b.op("Mul", f.dims(b, x[0], 4, 5), b.constant([8]))
    return [f.pack(b, or_pool.pool(b, f.unpack(b, x[0], n_bits)))]


def shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """[T, B, H, W, P] -> [T, B, Ho, Wo, P]."""
    return [typed(np.uint8, or_pool.pooled_shape(inputs[0][1], attrs))]


OP = Op(
    name="SpikeOrPool",
    summary="OR over a window of packed spikes.",
    inputs=("spikes",),
    outputs=("pooled",),
    attributes=or_pool.ATTRIBUTES,
    reference=or_pool.reference,
    body=body,
    shapes=shapes,
)
