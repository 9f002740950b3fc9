"""Neurons with spikes -1, 0, +1 (A2OS2A's values): float64, integer, packed as two planes of bits.

    u = v beta + x                    s = +1 where u >= theta, -1 where -u >= theta, else 0
    u = v + (x - v) (1 - beta)        with decay_input
    v = 0 where s != 0, else u        v starts at 0

In Q(F): u = x + ((v R + 2^29) >> 30), R = rint(2^30 beta), or u = v + (((x - v) R + 2^29) >> 30),
R = rint(2^30 (1 - beta)); theta = rint(theta 2^F). Packed, a row has the bits of +1, then of -1.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np

from bestdeploy import ir
from bestdeploy.ops import arithmetic, packing
from bestdeploy.ops import fragments as f
from bestdeploy.ops.definition import Op, Typed, typed

RATE_BITS = 30
_HALF = 1 << (RATE_BITS - 1)
REAL_ATTRIBUTES = {"beta": "FLOAT", "v_threshold": "FLOAT", "decay_input": "INT"}
ATTRIBUTES = {"rate": "INT", "v_threshold": "INT", "decay_input": "INT"}


def parameters(*, beta: float, v_threshold: float, decay_input: int, bits: int) -> dict[str, int]:
    """Return the integer parameters in Q(bits) of a neuron, from its real ones."""
    keep = Fraction(float(beta))
    return {
        "rate": round((1 - keep if decay_input else keep) * 2**RATE_BITS),
        "v_threshold": round(Fraction(float(v_threshold)) * 2**bits),
        "decay_input": int(decay_input),
    }


def real(
    x: np.ndarray, *, n_steps: int, beta: float, v_threshold: float, decay_input: int
) -> tuple[np.ndarray]:
    """X float64 [T, ...] -> int8 [T, ...] of -1, 0, +1."""
    beta, v_threshold = float(beta), float(v_threshold)
    v, out = np.zeros(x.shape[1:]), np.empty(x.shape, np.int8)
    for t in range(n_steps):
        u = v + (x[t] - v) * (1 - beta) if decay_input else v * beta + x[t]
        out[t] = (u >= v_threshold).astype(np.int8) - (-u >= v_threshold)
        v = np.where(out[t] != 0, 0.0, u)
    return (out,)


def run(x: np.ndarray, *, rate: int, v_threshold: int, decay_input: int) -> np.ndarray:
    """X int32 [T, ...] -> int8 [T, ...] of -1, 0, +1."""
    v, out = np.zeros(x.shape[1:], np.int64), np.empty(x.shape, np.int8)
    for t in range(x.shape[0]):
        now = x[t].astype(np.int64)
        if decay_input:
            u = v + (((now - v) * rate + _HALF) >> RATE_BITS)
        else:
            u = now + ((v * rate + _HALF) >> RATE_BITS)
        out[t] = (u >= v_threshold).astype(np.int8) - (-u >= v_threshold)
        v = np.where(out[t] != 0, 0, u)
    return out


def pack(signs: np.ndarray) -> np.ndarray:
    """Pack int8 [.., C] of -1, 0, +1 into bytes [.., 2 P]."""
    return np.concatenate([arithmetic.pack_bits(signs == s) for s in (1, -1)], axis=-1)


def unpack(packed: np.ndarray, channels: int) -> np.ndarray:
    """Undo `pack`."""
    planes = np.split(packed, 2, axis=-1)
    one, other = (arithmetic.unpack_bits(p, channels).astype(np.int8) for p in planes)
    return np.asarray(one - other)


def reference(x: np.ndarray, *, n_steps: int, **parameters: int) -> tuple[np.ndarray]:
    """As `run`."""
    return (run(x, **parameters),)


def packed_reference(x: np.ndarray, *, n_steps: int, **parameters: int) -> tuple[np.ndarray]:
    """X int32 [T, B, H, W, C] -> bytes [T, B, H, W, 2 P]."""
    return (pack(run(x, **parameters)),)


def _signs(b: ir.Builder, u: ir.Value, threshold: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Return (u >= threshold, -u >= threshold) as bool."""
    minus = b.op("GreaterOrEqual", b.op("Neg", u), threshold)
    return b.op("GreaterOrEqual", u, threshold), minus


def _stacked(b: ir.Builder, planes: list[tuple[ir.Value, ir.Value]]) -> ir.Value:
    """int8 [T, ...] of pairs of bools, one pair per step."""
    one, other = (f.cast(b, f.stack(b, list(p)), f.INT32) for p in zip(*planes, strict=True))
    return b.op("Cast", b.op("Sub", one, other), to=3)


def real_body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Unroll over T; the kind enters as a number 0 or 1."""
    k = f.cast(b, f.int_attribute(b, "decay_input"), f.DOUBLE)
    beta, threshold = f.float_attribute(b, "beta"), f.float_attribute(b, "v_threshold")
    one = b.constant(np.float64(1))
    plain, rest = b.op("Sub", one, k), b.op("Sub", one, beta)
    v: ir.Value = b.constant(np.float64(0))
    planes = []
    for t in range(n_steps):
        now = f.step(b, x[0], t)
        decayed = b.op("Add", v, b.op("Mul", b.op("Sub", now, v), rest))
        added = b.op("Add", b.op("Mul", v, beta), now)
        u = b.op("Add", b.op("Mul", k, decayed), b.op("Mul", plain, added))
        planes.append(_signs(b, u, threshold))
        v = b.op("Where", b.op("Or", *planes[-1]), b.constant(np.float64(0)), u)
    return [_stacked(b, planes)]


def fire(b: ir.Builder, x: ir.Value, n_steps: int) -> list[tuple[ir.Value, ir.Value]]:
    """Unroll the integer neuron; return (+1, -1) as bool, one pair per step."""
    k, rate = f.int_attribute(b, "decay_input"), f.int_attribute(b, "rate")
    threshold, zero = f.int_attribute(b, "v_threshold"), b.constant(np.int64(0))
    wide = f.cast(b, x, f.INT64)
    v: ir.Value = zero
    planes = []
    for t in range(n_steps):
        now = f.step(b, wide, t)
        difference = b.op("Sub", now, v)
        d = b.op("Add", v, b.op("Mul", k, b.op("Sub", difference, v)))
        base = b.op("Sub", now, b.op("Mul", k, difference))
        scaled = b.op("Add", b.op("Mul", d, rate), b.constant(np.int64(_HALF)))
        u = b.op("Add", base, f.floor_shift(b, scaled, RATE_BITS))
        planes.append(_signs(b, u, threshold))
        v = b.op("Where", b.op("Or", *planes[-1]), zero, u)
    return planes


def body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Unrolled integer neuron."""
    return [_stacked(b, fire(b, x[0], n_steps))]


def packed_body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Unrolled integer neuron, each plane packed."""
    planes = zip(*fire(b, x[0], n_steps), strict=True)
    packed = [f.pack(b, f.cast(b, f.stack(b, list(p)), f.UINT8)) for p in planes]
    return [b.op("Concat", *packed, axis=-1)]


def pack_body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Pack the bits of +1 and those of -1."""
    wide = f.cast(b, x[0], f.INT32)
    planes = [b.op("Equal", wide, b.constant(np.int32(s))) for s in (1, -1)]
    return [b.op("Concat", *(f.pack(b, f.cast(b, p, f.UINT8)) for p in planes), axis=-1)]


def signs_of(b: ir.Builder, packed: ir.Value, channels: ir.Value) -> ir.Value:
    """Unpack to int32 of -1, 0, +1."""
    one, other = b.op("Split", packed, n_outputs=2, axis=-1)
    planes = [f.cast(b, f.unpack(b, p, channels), f.INT32) for p in (one, other)]
    return b.op("Sub", *planes)


def unpack_body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Difference of the planes."""
    return [b.op("Cast", signs_of(b, x[0], f.int_attribute(b, "channels")), to=3)]


def shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """As x, int8."""
    return [typed(np.int8, inputs[0][1])]


def pack_shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """[.., C] -> [.., 2 P]."""
    shape = inputs[0][1]
    return [typed(np.uint8, (*shape[:-1], 2 * packing.packed_bytes(int(shape[-1]))))]


def unpack_shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """[.., 2 P] -> [.., C]."""
    return [typed(np.int8, (*inputs[0][1][:-1], attrs["channels"]))]


LIF = Op(
    name="TernaryLif",
    summary="Neuron with spikes -1, 0, +1 over T steps, float64.",
    inputs=("x",),
    outputs=("signs",),
    attributes=REAL_ATTRIBUTES,
    reference=real,
    body=real_body,
    shapes=shapes,
    unrolled=True,
)
NEURON = Op(
    name="TernaryNeuron",
    summary="Neuron with spikes -1, 0, +1 over int32 inputs.",
    inputs=("x",),
    outputs=("signs",),
    attributes=ATTRIBUTES,
    reference=reference,
    body=body,
    shapes=shapes,
    unrolled=True,
)
PACK = Op(
    name="PackTernary",
    summary="Spikes -1, 0, +1 to two planes of bits.",
    inputs=("signs",),
    outputs=("packed",),
    reference=lambda signs: (pack(signs),),
    body=pack_body,
    shapes=pack_shapes,
)
UNPACK = Op(
    name="UnpackTernary",
    summary="Two planes of bits to spikes -1, 0, +1.",
    inputs=("packed",),
    outputs=("signs",),
    attributes={"channels": "INT"},
    reference=lambda packed, *, channels: (unpack(packed, channels),),
    body=unpack_body,
    shapes=unpack_shapes,
)
PACKED = Op(
    name="SpikeTernaryNeuron",
    summary="Neuron with spikes -1, 0, +1 over int32 inputs, packed as two planes of bits.",
    inputs=("x",),
    outputs=("spikes",),
    attributes=ATTRIBUTES,
    reference=packed_reference,
    body=packed_body,
    shapes=pack_shapes,
    unrolled=True,
)
