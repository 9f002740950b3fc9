"""ThresholdNeuron: the conv-fed neuron as an integer comparison (numerics section 4).

    I_t = (spiked at t-1 ? 0 : I_{t-1}) + 2^(t-1) n_t
    S_t = I_t >= theta[t, s]          s = step of the last spike, 0 where there was none

`theta` has T (T + 1) / 2 rows: row t (t - 1) / 2 + s for t = 1..T and s = 0..t-1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bestdeploy import ir
from bestdeploy.ops import fragments as f
from bestdeploy.ops.definition import Op, Typed, typed


def n_rows(n_steps: int) -> int:
    """Number of thresholds per channel."""
    return n_steps * (n_steps + 1) // 2


def row(t: int, s: int) -> int:
    """Row of (t, s) in the table; t counts from 1."""
    return t * (t - 1) // 2 + s


def reference(n: np.ndarray, theta: np.ndarray, *, n_steps: int) -> tuple[np.ndarray]:
    """Counts int32 [T, ..., C], theta int32 [T(T+1)/2, C] -> spikes uint8 [T, ..., C]."""
    spikes = np.empty(n.shape, np.uint8)
    total = np.zeros(n.shape[1:], np.int64)
    last = np.zeros(n.shape[1:], np.int64)
    channel = np.arange(n.shape[-1])
    for t in range(1, n_steps + 1):
        total = np.where(last == t - 1, 0, total) + (n[t - 1].astype(np.int64) << (t - 1))
        spikes[t - 1] = total >= theta[row(t, 0) + last, channel]
        last = np.where(spikes[t - 1], t, last)
    return (spikes,)


def fire(b: ir.Builder, n: ir.Value, theta: ir.Value, n_steps: int) -> ir.Value:
    """Unroll the equations over int32 counts; return uint8 spikes [T, ...]."""
    fired: list[ir.Value] = []
    total: ir.Value | None = None
    for t in range(1, n_steps + 1):
        charge = b.op("Mul", f.step(b, n, t - 1), b.constant(np.int32(2 ** (t - 1))))
        if total is None:
            total = charge
        else:
            zero = b.constant(np.int32(0))
            total = b.op("Add", b.op("Where", fired[-1], zero, total), charge)
        threshold = f.step(b, theta, row(t, 0))
        for s, spiked in enumerate(fired, start=1):  # a later spike overrides an earlier one
            threshold = b.op("Where", spiked, f.step(b, theta, row(t, s)), threshold)
        fired.append(b.op("GreaterOrEqual", total, threshold))
    return f.stack(b, [f.cast(b, s, f.UINT8) for s in fired])


def body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Compare and select."""
    return [fire(b, x[0], x[1], n_steps)]


def shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """As n, uint8."""
    return [typed(np.uint8, inputs[0][1])]


OP = Op(
    name="ThresholdNeuron",
    summary="Conv-fed neuron: integer state against thresholds per (channel, step, last spike).",
    inputs=("n", "theta"),
    outputs=("spikes",),
    reference=reference,
    body=body,
    shapes=shapes,
    unrolled=True,
)
