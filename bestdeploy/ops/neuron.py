"""The stream neuron in Q(F) integers (numerics section 5): numpy, ONNX fragment, parameters.

    d    = x - v  (decay_input)  |  v                                            int64
    h    = (v | x) + ((d * rate + rounding) >> 30)                               charge
    S[t] = h >= v_threshold                                                      fire
    v    = h - S v_threshold  (soft)  |  S ? v_reset : h  (hard)                 reset

For tau = 2 the page asks for h = (v + x) >> 1 and h = (v >> 1) + x; with rate = 2^29 and
rounding = 0 the charge above is the same integer, since floor((v + x)/2) = v + floor((x - v)/2).
Any other tau has rate = rint(2^30/tau) or rint(2^30 (1 - 1/tau)) and rounding = 2^29.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from bestdeploy import ir
from bestdeploy.ops import fragments as f

RATE_BITS = 30

ATTRIBUTES = {
    "decay_input": "INT",
    "soft_reset": "INT",
    "rate": "INT",
    "rounding": "INT",
    "v_threshold": "INT",
    "v_reset": "INT",
}


def parameters(
    *,
    tau: float,
    v_threshold: float,
    v_reset: float,
    soft_reset: bool,
    decay_input: bool,
    bits: int,
) -> dict[str, int]:
    """Return the integer parameters of a neuron in Q(bits), from its real ones."""
    leak = Fraction(0) if math.isinf(tau) else 1 / Fraction(tau)  # tau = inf: no leak at all
    rate = leak if decay_input else 1 - leak
    halving = tau == 2
    return {
        "decay_input": int(decay_input),
        "soft_reset": int(soft_reset),
        "rate": round(rate * 2**RATE_BITS),
        "rounding": 0 if halving else 2 ** (RATE_BITS - 1),
        "v_threshold": round(Fraction(v_threshold) * 2**bits),
        "v_reset": 0 if soft_reset else round(Fraction(v_reset) * 2**bits),
    }


def run(
    x: np.ndarray,
    *,
    decay_input: int,
    soft_reset: int,
    rate: int,
    rounding: int,
    v_threshold: int,
    v_reset: int,
) -> np.ndarray:
    """Run the neuron over x int32 [T, ...]; return spikes uint8 [T, ...]."""
    v = np.full(x.shape[1:], v_reset, np.int64)
    spikes = np.empty(x.shape, np.uint8)
    for t in range(x.shape[0]):
        now = x[t].astype(np.int64)
        if decay_input:
            h = v + (((now - v) * rate + rounding) >> RATE_BITS)
        else:
            h = now + ((v * rate + rounding) >> RATE_BITS)
        spikes[t] = h >= v_threshold
        v = h - spikes[t] * np.int64(v_threshold) if soft_reset else np.where(spikes[t], v_reset, h)
    return spikes


def body(b: ir.Builder, steps: list[ir.Value]) -> list[ir.Value]:
    """Unroll the neuron over int64 inputs, one per step; return bool spikes, one per step.

    decay_input (k) and soft_reset (m) enter as integers 0 or 1, so one body serves all kinds:
    d = v + k (x - 2 v) is x - v or v, and the base is x + k (v - x).
    """
    k, m = f.int_attribute(b, "decay_input"), f.int_attribute(b, "soft_reset")
    rate, rounding = f.int_attribute(b, "rate"), f.int_attribute(b, "rounding")
    threshold, reset = f.int_attribute(b, "v_threshold"), f.int_attribute(b, "v_reset")
    soft_drop = b.op("Mul", m, threshold)
    hard = b.op("Sub", b.constant(np.int64(1)), m)
    v: ir.Value = reset
    spikes: list[ir.Value] = []
    for t, x in enumerate(steps):
        difference = b.op("Sub", x, v)
        d = b.op("Add", v, b.op("Mul", k, b.op("Sub", difference, v)))
        base = b.op("Sub", x, b.op("Mul", k, difference))
        scaled = b.op("Add", b.op("Mul", d, rate), rounding)
        h = b.op("Add", base, f.floor_shift(b, scaled, RATE_BITS))
        fired = b.op("GreaterOrEqual", h, threshold)
        spikes.append(fired)
        if t + 1 < len(steps):
            to_reset = b.op("Mul", hard, b.op("Sub", h, reset))
            v = b.op("Where", fired, b.op("Sub", h, b.op("Add", to_reset, soft_drop)), h)
    return spikes
