"""Addition-only attention (A2OS2A): binary q, ReLU k, ternary v; no scale, no softmax.

    K = max(y, 0),  y the batch-normed projection      z = q (K^T v)   per head

AddAttention    z in float64
AddNeuron       y in Q(F); K' = ((K + 2^(s-1)) >> s) << s, s = k_shift (0: K' = K); z int64, sums of
                K' alone; then the neuron in int64, tau = 2, hard reset to 0:
                h = (v + z) >> 1 with decay_input, (v >> 1) + z without; spike where h >= theta
SpikeAddNeuron  the same on packed q and v, packed
|z| <= N d 2^31 < 2^51 for N, d <= 1024: int64 holds every sum and v.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bestdeploy import ir
from bestdeploy.ops import arithmetic, packing, ternary
from bestdeploy.ops import fragments as f
from bestdeploy.ops.definition import Op, Typed, typed

MAX_SHIFT = 30
ATTRIBUTES = {"heads": "INT", "k_shift": "INT", "decay_input": "INT", "v_threshold": "INT"}


def _mixed(q: np.ndarray, k: np.ndarray, v: np.ndarray, heads: int) -> np.ndarray:
    """Q (k^T v) per head, in the type of k, [T, B, H, W, D]."""
    one, two, three = (arithmetic.to_heads(x.astype(k.dtype), heads) for x in (q, k, v))
    z = one @ (two.swapaxes(-1, -2) @ three)
    return np.asarray(arithmetic.from_heads(z, q.shape))


def real(
    q: np.ndarray, y: np.ndarray, v: np.ndarray, *, heads: int, k_bits: int
) -> tuple[np.ndarray]:
    """Spikes uint8, stream float64, signs int8, all [T, B, H, W, D] -> float64 alike."""
    return (_mixed(q, np.maximum(y, 0.0), v, heads),)


def rounded(y: np.ndarray, k_shift: int) -> np.ndarray:
    """Return K' int64 of a stream int32."""
    k = np.maximum(y, 0).astype(np.int64)
    return np.asarray((k + ((1 << k_shift) >> 1)) >> k_shift << k_shift)


def run(
    q: np.ndarray,
    y: np.ndarray,
    v: np.ndarray,
    *,
    heads: int,
    k_shift: int,
    decay_input: int,
    v_threshold: int,
) -> np.ndarray:
    """Spikes uint8, stream int32, signs int8, all [T, B, H, W, D] -> spikes uint8 alike."""
    z = _mixed(q, rounded(y, k_shift), v, heads)
    state, out = np.zeros(z.shape[1:], np.int64), np.empty(z.shape, np.uint8)
    for t in range(len(z)):
        h = (state + z[t]) >> 1 if decay_input else (state >> 1) + z[t]
        out[t] = h >= v_threshold
        state = np.where(out[t], 0, h)
    return out


def reference(
    q: np.ndarray, y: np.ndarray, v: np.ndarray, *, n_steps: int, **settings: int
) -> tuple[np.ndarray]:
    """As `run`."""
    return (run(q, y, v, **settings),)


def packed_reference(
    q: np.ndarray, y: np.ndarray, v: np.ndarray, *, n_steps: int, **settings: int
) -> tuple[np.ndarray]:
    """As `run`, q [.., P] and v [.., 2 P] packed, packed."""
    channels = y.shape[-1]
    spikes, signs = arithmetic.unpack_bits(q, channels), ternary.unpack(v, channels)
    return (arithmetic.pack_bits(run(spikes, y, signs, **settings)),)


def _mixed_body(b: ir.Builder, q: ir.Value, k: ir.Value, v: ir.Value, to: int) -> ir.Value:
    heads = f.int_attribute(b, "heads")
    one, two, three = (f.to_heads(b, f.cast(b, x, to), heads) for x in (q, k, v))
    products = b.op("MatMul", b.op("Transpose", two, perm=[0, 1, 2, 4, 3]), three)
    return f.from_heads(b, b.op("MatMul", one, products), k)


def real_body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """MatMul of float64."""
    q, y, v = x
    k = b.op("Max", y, b.constant(np.float64(0)))
    return [_mixed_body(b, q, k, v, f.DOUBLE)]


def _fire(b: ir.Builder, q: ir.Value, y: ir.Value, v: ir.Value, n_steps: int) -> ir.Value:
    """All in int64; spikes uint8 [T, ...]."""
    powers = b.constant(2 ** np.arange(MAX_SHIFT + 1, dtype=np.int64))
    unit = b.op("Gather", powers, f.int_attribute(b, "k_shift"), axis=0)
    k = b.op("Max", f.cast(b, y, f.INT64), b.constant(np.int64(0)))
    lifted = b.op("Add", k, b.op("Div", unit, b.constant(np.int64(2))))
    k = b.op("Mul", b.op("Div", lifted, unit), unit)  # not negative: a floor
    z = _mixed_body(b, q, k, v, f.INT64)
    decay, zero = f.int_attribute(b, "decay_input"), b.constant(np.int64(0))
    plain = b.op("Sub", b.constant(np.int64(1)), decay)
    threshold = f.int_attribute(b, "v_threshold")
    state: ir.Value = zero
    spikes = []
    for t in range(n_steps):
        now = f.step(b, z, t)
        halved = f.floor_shift(b, b.op("Add", state, b.op("Mul", decay, now)), 1)
        h = b.op("Add", halved, b.op("Mul", plain, now))
        fired = b.op("GreaterOrEqual", h, threshold)
        spikes.append(f.cast(b, fired, f.UINT8))
        state = b.op("Where", fired, zero, h)
    return f.stack(b, spikes)


def body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Products, then the unrolled neuron."""
    return [_fire(b, x[0], x[1], x[2], n_steps)]


def packed_body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Unpack, `body`, pack."""
    q, y, v = x
    channels = b.op("Reshape", f.dims(b, y, 4, 5), b.constant(np.zeros(0, np.int64)))
    signs = ternary.signs_of(b, v, channels)
    return [f.pack(b, _fire(b, f.unpack(b, q, channels), y, signs, n_steps))]


def real_shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """As y."""
    return [typed(np.float64, inputs[1][1])]


def shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """As q."""
    return [typed(np.uint8, inputs[0][1])]


def packed_shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """As q."""
    shape = inputs[1][1]
    return [typed(np.uint8, (*shape[:-1], packing.packed_bytes(int(shape[-1]))))]


ATTENTION = Op(
    name="AddAttention",
    summary="q (max(y, 0)^T v) per head, spikes q, signs v, float64.",
    inputs=("q", "y", "v"),
    outputs=("z",),
    attributes={"heads": "INT", "k_bits": "INT"},
    reference=real,
    body=real_body,
    shapes=real_shapes,
)
NEURON = Op(
    name="AddNeuron",
    summary="Addition-only attention on an int32 stream of keys, and its neuron.",
    inputs=("q", "y", "v"),
    outputs=("spikes",),
    attributes=ATTRIBUTES,
    reference=reference,
    body=body,
    shapes=shapes,
    unrolled=True,
)
PACKED = Op(
    name="SpikeAddNeuron",
    summary="Addition-only attention on packed queries and values, and its neuron, packed.",
    inputs=("q", "y", "v"),
    outputs=("spikes",),
    attributes=ATTRIBUTES,
    reference=packed_reference,
    body=packed_body,
    shapes=packed_shapes,
    unrolled=True,
)
