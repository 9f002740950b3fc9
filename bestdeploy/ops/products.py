"""QueryKeyValues: the whole product of attention without a binariser, in integers.

    m[t, b, n, c] = sum over j, i of q[t, b, n, i] k[t, b, j, i] v[t, b, j, c]     i, c in head h

(q k^T) v and q (k^T v) are the same integers, at most N d. SpikeProducts is this product with the
neuron behind it, on x = m 2^bits: the scale of attention is a power of two.

SpikeProducts = unpack q, k and v, QueryKeyValues, ShiftCounts, MembraneNeuron, pack
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bestdeploy import ir
from bestdeploy.ops import arithmetic, attention_counts, membrane_neuron, neuron, shift_counts
from bestdeploy.ops import fragments as f
from bestdeploy.ops.definition import Op, Typed, typed


def reference(q: np.ndarray, k: np.ndarray, v: np.ndarray, *, heads: int) -> tuple[np.ndarray]:
    """Spikes uint8 [T, B, H, W, D] three times -> int32 [T, B, H, W, D]."""
    (products,) = attention_counts.key_values(k, v, heads=heads)
    return attention_counts.query_values(q, products, heads=heads)


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


OP = Op(
    name="QueryKeyValues",
    summary="Products q k^T v of spikes per head, int32.",
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
