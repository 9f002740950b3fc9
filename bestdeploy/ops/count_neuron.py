"""CountNeuron: the soft-reset binariser of attention counts, tau = 2 (numerics section 7).

    J_t = J_{t-1} + 2^(t-1) A_t;   S_t = J_t >= first 2^(t-1);   J_t -= S_t first 2^(t-1)

`first` is the threshold at t = 1: 2 theta with decay_input, theta without. The state J is the
membrane potential in units of 2^-t, so nothing is rounded.
"""

from __future__ import annotations

import numpy as np

from bestdeploy import ir
from bestdeploy.ops import fragments as f
from bestdeploy.ops.definition import Op
from bestdeploy.ops.membrane_neuron import shapes


def run(counts: np.ndarray, first: int) -> np.ndarray:
    """Counts int32 [T, ...] -> spikes uint8 [T, ...]."""
    spikes = np.empty(counts.shape, np.uint8)
    total = np.zeros(counts.shape[1:], np.int64)
    for t in range(counts.shape[0]):
        total = total + (counts[t].astype(np.int64) << t)
        spikes[t] = total >= (first << t)
        total = total - (spikes[t].astype(np.int64) * (first << t))
    return spikes


def reference(counts: np.ndarray, *, n_steps: int, first: int) -> tuple[np.ndarray]:
    """Evaluate the equations."""
    return (run(counts, first),)


def fire(b: ir.Builder, counts: ir.Value, n_steps: int) -> ir.Value:
    """Unroll over T; return uint8 spikes [T, ...]."""
    wide, first = f.cast(b, counts, f.INT64), f.int_attribute(b, "first")
    total, spikes = None, []
    for t in range(n_steps):
        weight = b.constant(np.int64(2**t))
        charge = b.op("Mul", f.step(b, wide, t), weight)
        total = charge if total is None else b.op("Add", total, charge)
        threshold = b.op("Mul", first, weight)
        fired = b.op("GreaterOrEqual", total, threshold)
        spikes.append(f.cast(b, fired, f.UINT8))
        total = b.op("Where", fired, b.op("Sub", total, threshold), total)
    return f.stack(b, spikes)


def body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Add, compare, subtract."""
    return [fire(b, x[0], n_steps)]


OP = Op(
    name="CountNeuron",
    summary="Soft-reset neuron with tau = 2 over integer counts.",
    inputs=("counts",),
    outputs=("spikes",),
    attributes={"first": "INT"},
    reference=reference,
    body=body,
    shapes=shapes,
    unrolled=True,
)
