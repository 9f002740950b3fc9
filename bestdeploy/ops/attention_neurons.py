"""The two attention layers on packed spikes.

SpikeScores        = unpack q and k, Scores, CountNeuron, pack              (tau = 2)
SpikeScoresStream  = unpack q and k, Scores, shift to Q(F), MembraneNeuron, pack   (any other)
SpikeValues        = unpack, Values, CountTable, MembraneNeuron, pack
Attention bits are [T, B, heads, N, P] with one row per query and one bit per key token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bestdeploy import ir
from bestdeploy.ops import (
    arithmetic,
    attention_counts,
    count_neuron,
    count_table,
    membrane_neuron,
    neuron,
    packing,
    shift_counts,
)
from bestdeploy.ops import fragments as f
from bestdeploy.ops.definition import Op, Typed, typed


def _counts(q: np.ndarray, k: np.ndarray, heads: int, channels: int) -> np.ndarray:
    bits = (arithmetic.unpack_bits(z, channels) for z in (q, k))
    return attention_counts.scores(*bits, heads=heads)[0]


def scores_reference(
    q: np.ndarray, k: np.ndarray, *, n_steps: int, heads: int, channels: int, first: int
) -> tuple[np.ndarray]:
    """Packed [T, B, H, W, P] twice -> packed [T, B, heads, N, P']."""
    return (arithmetic.pack_bits(count_neuron.run(_counts(q, k, heads, channels), first)),)


def stream_scores_reference(
    q: np.ndarray,
    k: np.ndarray,
    *,
    n_steps: int,
    heads: int,
    channels: int,
    bits: int,
    **parameters: int,
) -> tuple[np.ndarray]:
    """As `scores_reference`, through the stream neuron."""
    (x,) = shift_counts.reference(_counts(q, k, heads, channels), bits=bits)
    return (arithmetic.pack_bits(neuron.run(x, **parameters)),)


def values_reference(
    a: np.ndarray,
    v: np.ndarray,
    table: np.ndarray,
    *,
    n_steps: int,
    heads: int,
    channels: int,
    **parameters: int,
) -> tuple[np.ndarray]:
    """Attention bits and packed v -> packed [T, B, H, W, P]."""
    spikes = arithmetic.unpack_bits(v, channels)
    attention = arithmetic.unpack_bits(a, v.shape[2] * v.shape[3])
    (m,) = attention_counts.values(attention, spikes, heads=heads)
    (x,) = count_table.reference(m, table)
    return (arithmetic.pack_bits(neuron.run(x, **parameters)),)


def _counts_body(b: ir.Builder, x: list[ir.Value]) -> ir.Value:
    channels = f.int_attribute(b, "channels")
    return attention_counts.scores_body(b, [f.unpack(b, v, channels) for v in x], 0)[0]


def scores_body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Compose the parts."""
    return [f.pack(b, count_neuron.fire(b, _counts_body(b, x), n_steps))]


def stream_scores_body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Compose the parts."""
    (shifted,) = shift_counts.body(b, [_counts_body(b, x)], n_steps)
    return [f.pack(b, membrane_neuron.fire(b, shifted, n_steps))]


def values_body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Compose the parts."""
    v = f.unpack(b, x[1], f.int_attribute(b, "channels"))
    n_tokens = b.op("ReduceProd", f.dims(b, x[1], 2, 4), keepdims=1)
    attention = f.unpack(b, x[0], n_tokens)
    (m,) = attention_counts.values_body(b, [attention, v], n_steps)
    looked_up = count_table.look_up(b, m, x[2])
    return [f.pack(b, membrane_neuron.fire(b, looked_up, n_steps))]


def scores_shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """[T, B, H, W, P] -> [T, B, heads, N, P']."""
    t, batch, h, w, _ = inputs[0][1]
    n = int(h) * int(w)
    return [typed(np.uint8, (t, batch, attrs["heads"], n, packing.packed_bytes(n)))]


def values_shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """As v."""
    return [typed(np.uint8, inputs[1][1])]


HEADS = {"heads": "INT", "channels": "INT"}

SCORES = Op(
    name="SpikeScores",
    summary="Binary attention scores with their soft-reset neuron (tau = 2), packed.",
    inputs=("q", "k"),
    outputs=("attention",),
    attributes={**HEADS, "first": "INT"},
    reference=scores_reference,
    body=scores_body,
    shapes=scores_shapes,
    unrolled=True,
)
STREAM_SCORES = Op(
    name="SpikeScoresStream",
    summary="Binary attention scores with a stream neuron on the shifted counts, packed.",
    inputs=("q", "k"),
    outputs=("attention",),
    attributes={**HEADS, "bits": "INT", **neuron.ATTRIBUTES},
    reference=stream_scores_reference,
    body=stream_scores_body,
    shapes=scores_shapes,
    unrolled=True,
)
VALUES = Op(
    name="SpikeValues",
    summary="Attention bits times values, table of scale and lambda, neuron; packed.",
    inputs=("attention", "v", "table"),
    outputs=("spikes",),
    attributes={**HEADS, **neuron.ATTRIBUTES},
    reference=values_reference,
    body=values_body,
    shapes=values_shapes,
    unrolled=True,
)
