"""QueryKeyValues: the whole product of attention without a binariser, in integers.

    m[t, b, n, c] = sum over j, i of q[t, b, n, i] k[t, b, j, i] v[t, b, j, c]     i, c in head h

(q k^T) v and q (k^T v) are the same integers, at most N d of spikes, N d L^3 of levels 0 .. L.
SpikeProducts is this product with the neuron behind it, on x = m 2^bits: the scale of attention is
a power of two. LevelProducts is the product of levels alone; its neuron compares the integers.

SpikeProducts = unpack q, k and v, QueryKeyValues, ShiftCounts, MembraneNeuron, pack
LevelProducts = unpack q, k and v, QueryKeyValues
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bestdeploy import ir
from bestdeploy.ops import (
    arithmetic,
    attention_counts,
    levels,
    membrane_neuron,
    neuron,
    shift_counts,
)
from bestdeploy.ops import fragments as f
from bestdeploy.ops.definition import Op, Typed, typed


def reference(q: np.ndarray, k: np.ndarray, v: np.ndarray, *, heads: int) -> tuple[np.ndarray]:
    """Spikes or levels uint8 [T, B, H, W, D] three times -> int32 [T, B, H, W, D]."""
    (products,) = attention_counts.key_values(k, v, heads=heads)
    # float64: products of levels can pass 2^24
    m = arithmetic.to_heads(q, heads).astype(np.float64) @ products
    return (arithmetic.from_heads(m, q.shape).astype(np.int32),)


def body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Two MatMul of int32."""
    (products,) = attention_counts.key_values_body(b, x[1:], n_steps)
    return attention_counts.query_values_body(b, [x[0], products], n_steps)


def shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """As q, int32."""
    return [typed(np.int32, inputs[0][1])]


def packed_reference(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    n_steps: int,
    heads: int,
    channels: int,
    bits: int,
    **parameters: int,
) -> tuple[np.ndarray]:
    """Packed spikes [T, B, H, W, P] three times -> packed spikes."""
    unpacked = [arithmetic.unpack_bits(z, channels) for z in (q, k, v)]
    (x,) = shift_counts.reference(*reference(*unpacked, heads=heads), bits=bits)
    return (arithmetic.pack_bits(neuron.run(x, **parameters)),)


def packed_body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Compose the parts."""
    channels = f.int_attribute(b, "channels")
    m = body(b, [f.unpack(b, z, channels) for z in x], n_steps)
    (shifted,) = shift_counts.body(b, m, n_steps)
    return [f.pack(b, membrane_neuron.fire(b, shifted, n_steps))]


def packed_shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """As q."""
    return [typed(np.uint8, inputs[0][1])]


def levels_reference(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, *, heads: int, channels: int
) -> tuple[np.ndarray]:
    """Packed levels [T, B, H, W, n P] three times -> int32 [T, B, H, W, C]."""
    return reference(*(arithmetic.unpack_levels(z, channels) for z in (q, k, v)), heads=heads)


def levels_body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Unpack and multiply."""
    channels = f.int_attribute(b, "channels")
    return body(b, [levels.unpack(b, z, channels) for z in x], n_steps)


def levels_shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """[T, B, H, W, n P] -> [T, B, H, W, C] int32."""
    return [typed(np.int32, (*inputs[0][1][:-1], attrs["channels"]))]


OP = Op(
    name="QueryKeyValues",
    summary="Products q k^T v of spikes or levels per head, int32.",
    inputs=("q", "k", "v"),
    outputs=("counts",),
    attributes={"heads": "INT"},
    reference=reference,
    body=body,
    shapes=shapes,
)
PACKED = Op(
    name="SpikeProducts",
    summary="Products q k^T v of packed spikes, times a power of two, with their neuron; packed.",
    inputs=("q", "k", "v"),
    outputs=("spikes",),
    attributes={"heads": "INT", "channels": "INT", "bits": "INT", **neuron.ATTRIBUTES},
    reference=packed_reference,
    body=packed_body,
    shapes=packed_shapes,
    unrolled=True,
)
LEVELS = Op(
    name="LevelProducts",
    summary="Products q k^T v of packed levels per head, int32.",
    inputs=("q", "k", "v"),
    outputs=("counts",),
    attributes={"heads": "INT", "channels": "INT"},
    reference=levels_reference,
    body=levels_body,
    shapes=levels_shapes,
)
