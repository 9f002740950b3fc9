"""The two attention layers on packed spikes, in both orders of the product.

SpikeScores           = unpack q and k, Scores, CountNeuron, pack              (soft reset, tau = 2)
SpikeScoresStream     = unpack q and k, Scores, shift to Q(F), MembraneNeuron, pack     (any other)
SpikeValues           = unpack, Values, CountTable, MembraneNeuron, pack
SpikeKeyValues        = unpack k and v, KeyValues, CountNeuron, pack
SpikeKeyValuesStream  = unpack k and v, KeyValues, shift to Q(F), MembraneNeuron, pack
SpikeQueryValues      = unpack, QueryValues, CountTable, MembraneNeuron, pack
Attention bits are [T, B, heads, N, P] with one row per query and one bit per key token, or
[T, B, heads, d, P] with one row per channel of k and one bit per channel of v.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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

Counts = Callable[..., tuple[np.ndarray]]
Body = Callable[[ir.Builder, list[ir.Value], int], list[ir.Value]]


def _binarised(counts: Counts) -> Counts:
    """Reference: packed [T, B, H, W, P] twice -> packed attention bits."""

    def reference(
        x: np.ndarray, y: np.ndarray, *, n_steps: int, heads: int, channels: int, first: int
    ) -> tuple[np.ndarray]:
        (n,) = counts(*_unpacked((x, y), channels), heads=heads)
        return (arithmetic.pack_bits(count_neuron.run(n, first)),)

    return reference


def _binarised_stream(counts: Counts) -> Counts:
    """As `_binarised`, through the stream neuron."""

    def reference(
        x: np.ndarray,
        y: np.ndarray,
        *,
        n_steps: int,
        heads: int,
        channels: int,
        bits: int,
        **parameters: int,
    ) -> tuple[np.ndarray]:
        (n,) = counts(*_unpacked((x, y), channels), heads=heads)
        (shifted,) = shift_counts.reference(n, bits=bits)
        return (arithmetic.pack_bits(neuron.run(shifted, **parameters)),)

    return reference


def _unpacked(packed: tuple[np.ndarray, ...], channels: int) -> list[np.ndarray]:
    return [arithmetic.unpack_bits(z, channels) for z in packed]


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
    attention = arithmetic.unpack_bits(a, v.shape[2] * v.shape[3])
    spikes = arithmetic.unpack_bits(v, channels)
    (m,) = attention_counts.values(attention, spikes, heads=heads)
    return _mixed(m, table, parameters)


def query_values_reference(
    q: np.ndarray,
    a: np.ndarray,
    table: np.ndarray,
    *,
    n_steps: int,
    heads: int,
    channels: int,
    **parameters: int,
) -> tuple[np.ndarray]:
    """Packed q and attention bits -> packed [T, B, H, W, P]."""
    attention = arithmetic.unpack_bits(a, channels // heads)
    spikes = arithmetic.unpack_bits(q, channels)
    (m,) = attention_counts.query_values(spikes, attention, heads=heads)
    return _mixed(m, table, parameters)


def _mixed(m: np.ndarray, table: np.ndarray, parameters: dict[str, int]) -> tuple[np.ndarray]:
    """Counts -> scaled by the table -> spikes, packed."""
    (x,) = count_table.reference(m, table)
    return (arithmetic.pack_bits(neuron.run(x, **parameters)),)


def _counts_body(b: ir.Builder, x: list[ir.Value], counts: Body) -> ir.Value:
    channels = f.int_attribute(b, "channels")
    return counts(b, [f.unpack(b, v, channels) for v in x], 0)[0]


def _binarised_body(counts: Body) -> Body:
    def body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
        return [f.pack(b, count_neuron.fire(b, _counts_body(b, x, counts), n_steps))]

    return body


def _binarised_stream_body(counts: Body) -> Body:
    def body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
        (shifted,) = shift_counts.body(b, [_counts_body(b, x, counts)], n_steps)
        return [f.pack(b, membrane_neuron.fire(b, shifted, n_steps))]

    return body


def values_body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Compose the parts."""
    v = f.unpack(b, x[1], f.int_attribute(b, "channels"))
    n_tokens = b.op("ReduceProd", f.dims(b, x[1], 2, 4), keepdims=1)
    attention = f.unpack(b, x[0], n_tokens)
    (m,) = attention_counts.values_body(b, [attention, v], n_steps)
    return _mixed_body(b, m, x[2], n_steps)


def query_values_body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Compose the parts."""
    q = f.unpack(b, x[0], f.int_attribute(b, "channels"))
    attention = f.unpack(b, x[1], f.dims(b, x[1], 3, 4))  # as many rows as columns: d
    (m,) = attention_counts.query_values_body(b, [q, attention], n_steps)
    return _mixed_body(b, m, x[2], n_steps)


def _mixed_body(b: ir.Builder, m: ir.Value, table: ir.Value, n_steps: int) -> list[ir.Value]:
    looked_up = count_table.look_up(b, m, table)
    return [f.pack(b, membrane_neuron.fire(b, looked_up, n_steps))]


def scores_shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """[T, B, H, W, P] -> [T, B, heads, N, P']."""
    t, batch, h, w, _ = inputs[0][1]
    n = int(h) * int(w)
    return [typed(np.uint8, (t, batch, attrs["heads"], n, packing.packed_bytes(n)))]


def key_values_shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """[T, B, H, W, P] -> [T, B, heads, d, P']."""
    t, batch = inputs[0][1][:2]
    d = attrs["channels"] // attrs["heads"]
    return [typed(np.uint8, (t, batch, attrs["heads"], d, packing.packed_bytes(d)))]


def values_shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """As v."""
    return [typed(np.uint8, inputs[1][1])]


def query_values_shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """As q."""
    return [typed(np.uint8, inputs[0][1])]


HEADS = {"heads": "INT", "channels": "INT"}

SCORES = Op(
    name="SpikeScores",
    summary="Binary attention scores with their soft-reset neuron (tau = 2), packed.",
    inputs=("q", "k"),
    outputs=("attention",),
    attributes={**HEADS, "first": "INT"},
    reference=_binarised(attention_counts.scores),
    body=_binarised_body(attention_counts.scores_body),
    shapes=scores_shapes,
    unrolled=True,
)
STREAM_SCORES = Op(
    name="SpikeScoresStream",
    summary="Binary attention scores with a stream neuron on the shifted counts, packed.",
    inputs=("q", "k"),
    outputs=("attention",),
    attributes={**HEADS, "bits": "INT", **neuron.ATTRIBUTES},
    reference=_binarised_stream(attention_counts.scores),
    body=_binarised_stream_body(attention_counts.scores_body),
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
KEY_VALUES = Op(
    name="SpikeKeyValues",
    summary="Binary products of keys and values with their soft-reset neuron (tau = 2), packed.",
    inputs=("k", "v"),
    outputs=("attention",),
    attributes={**HEADS, "first": "INT"},
    reference=_binarised(attention_counts.key_values),
    body=_binarised_body(attention_counts.key_values_body),
    shapes=key_values_shapes,
    unrolled=True,
)
STREAM_KEY_VALUES = Op(
    name="SpikeKeyValuesStream",
    summary="Binary products of keys and values with a stream neuron on shifted counts, packed.",
    inputs=("k", "v"),
    outputs=("attention",),
    attributes={**HEADS, "bits": "INT", **neuron.ATTRIBUTES},
    reference=_binarised_stream(attention_counts.key_values),
    body=_binarised_stream_body(attention_counts.key_values_body),
    shapes=key_values_shapes,
    unrolled=True,
)
QUERY_VALUES = Op(
    name="SpikeQueryValues",
    summary="Queries times bits of k^T v, table of scale and lambda, neuron; packed.",
    inputs=("q", "attention", "table"),
    outputs=("spikes",),
    attributes={**HEADS, **neuron.ATTRIBUTES},
    reference=query_values_reference,
    body=query_values_body,
    shapes=query_values_shapes,
    unrolled=True,
)
