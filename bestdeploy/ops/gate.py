"""Attention of bits alone (Spike-driven Transformer v1), and spikes that gate spikes.

    KeyValueCounts:  n[t, b, c]       = sum over tokens of k[t, b, n, c] v[t, b, n, c]
    KeyValueAny:     g[t, b, c]       = OR over tokens of k & v      (n >= 1)
    Gate:            out[t, b, n, c]  = a & g, or a & ~g with `invert`; g [T, B, 1, 1, D] serves
                                        every token
    SpikeKeyValueAny, SpikeGate       the same on packed spikes: bytes of bits

A neuron on the counts that fires for 1 alone from rest and stays at rest for 0 is KeyValueAny,
see `passes/gates.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bestdeploy import ir
from bestdeploy.ops import fragments as f
from bestdeploy.ops.definition import Op, Typed, typed

_TOKENS = (2, 3)


def counts(k: np.ndarray, v: np.ndarray) -> tuple[np.ndarray]:
    """Spikes uint8 [T, B, H, W, D] twice -> int32 [T, B, 1, 1, D]."""
    return ((k & v).sum(axis=_TOKENS, keepdims=True, dtype=np.int32),)


def any_reference(k: np.ndarray, v: np.ndarray) -> tuple[np.ndarray]:
    """Spikes (bits or packed bytes) [T, B, H, W, D] twice -> [T, B, 1, 1, D]; OR serves both."""
    return (np.bitwise_or.reduce(k & v, axis=_TOKENS, keepdims=True),)


def gate(a: np.ndarray, g: np.ndarray, *, invert: int) -> tuple[np.ndarray]:
    """Spikes [T, B, H, W, D] and gates of this shape or [T, B, 1, 1, D] -> as a."""
    return (a & (1 - g if invert else g),)


def packed_gate(a: np.ndarray, g: np.ndarray, *, invert: int) -> tuple[np.ndarray]:
    """As `gate` on packed bytes."""
    return (a & (~g if invert else g),)


def _both(b: ir.Builder, k: ir.Value, v: ir.Value) -> ir.Value:
    """K & v as bool."""
    return b.op("And", f.cast(b, k, f.BOOL), f.cast(b, v, f.BOOL))


def counts_body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """ReduceSum of int32."""
    both = f.cast(b, _both(b, *x), f.INT32)
    return [b.op("ReduceSum", both, b.constant(list(_TOKENS)), keepdims=1)]


def any_body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """ReduceMax of int32."""
    both = f.cast(b, _both(b, *x), f.INT32)
    return [f.cast(b, b.op("ReduceMax", both, axes=list(_TOKENS), keepdims=1), f.UINT8)]


def gate_body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """And, Xor of bool."""
    invert = f.cast(b, f.int_attribute(b, "invert"), f.BOOL)
    g = b.op("Xor", f.cast(b, x[1], f.BOOL), invert)
    return [f.cast(b, b.op("And", f.cast(b, x[0], f.BOOL), g), f.UINT8)]


def _unpacked(b: ir.Builder, x: list[ir.Value]) -> list[ir.Value]:
    """All 8 P bits of each; padding is zero and stays so."""
    n_bits = b.op("Mul", f.dims(b, x[0], 4, 5), b.constant([8]))
    return [f.unpack(b, v, n_bits) for v in x]


def packed_any_body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Unpack, any, pack."""
    return [f.pack(b, v) for v in any_body(b, _unpacked(b, x), n_steps)]


def packed_gate_body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Unpack, gate, pack."""
    return [f.pack(b, v) for v in gate_body(b, _unpacked(b, x), n_steps)]


def _per_channel(dtype: type) -> Any:
    def shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
        t, batch, _, _, d = inputs[0][1]
        return [typed(dtype, (t, batch, 1, 1, d))]

    return shapes


def as_first(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """As the first input."""
    return [typed(*inputs[0])]


COUNTS = Op(
    name="KeyValueCounts",
    summary="Number of tokens per channel at which both k and v spike.",
    inputs=("k", "v"),
    outputs=("counts",),
    reference=counts,
    body=counts_body,
    shapes=_per_channel(np.int32),
)
ANY = Op(
    name="KeyValueAny",
    summary="Whether k and v both spike at some token, per channel.",
    inputs=("k", "v"),
    outputs=("spikes",),
    reference=any_reference,
    body=any_body,
    shapes=_per_channel(np.uint8),
)
GATE = Op(
    name="Gate",
    summary="Spikes where their gate is set (or is not, with invert).",
    inputs=("spikes", "gate"),
    outputs=("gated",),
    attributes={"invert": "INT"},
    reference=gate,
    body=gate_body,
    shapes=as_first,
)
PACKED_ANY = Op(
    name="SpikeKeyValueAny",
    summary="Whether k and v both spike at some token, per channel, packed.",
    inputs=("k", "v"),
    outputs=("spikes",),
    reference=any_reference,
    body=packed_any_body,
    shapes=_per_channel(np.uint8),
)
PACKED_GATE = Op(
    name="SpikeGate",
    summary="Packed spikes where their gate is set (or is not, with invert).",
    inputs=("spikes", "gate"),
    outputs=("gated",),
    attributes={"invert": "INT"},
    reference=packed_gate,
    body=packed_gate_body,
    shapes=as_first,
)
