"""Lif: the leaky integrate-and-fire neuron of the trained model, in float64.

    H[t] = V[t-1] + (X[t] - V[t-1]) / tau      decay_input      |  V[t-1] (1 - 1/tau) + X[t]
    S[t] = H[t] >= v_threshold
    V[t] = H[t] - S[t] v_threshold   soft reset  |  S[t] ? v_reset : H[t]   hard reset
V[0] = v_reset (0 for soft reset). An input without a time axis (rank 4) is constant over T.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bestdeploy import ir
from bestdeploy.ops import fragments as f
from bestdeploy.ops.definition import Op, Typed, typed

ATTRIBUTES = {
    "tau": "FLOAT",
    "v_threshold": "FLOAT",
    "v_reset": "FLOAT",
    "soft_reset": "INT",
    "decay_input": "INT",
}


def membrane(
    x: np.ndarray,
    *,
    n_steps: int,
    tau: float,
    v_threshold: float,
    v_reset: float,
    soft_reset: int,
    decay_input: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return spikes uint8 [T, ...] and H - v_threshold float64 [T, ...] (the margin)."""
    tau, v_threshold, v_reset = (float(z) for z in (tau, v_threshold, v_reset))
    shape = x.shape if x.ndim == 5 else (n_steps, *x.shape)
    v = np.full(shape[1:], 0.0 if soft_reset else v_reset)
    spikes, margin = np.empty(shape, np.uint8), np.empty(shape)
    for t in range(n_steps):
        now = (x[t] if x.ndim == 5 else x).astype(np.float64)
        h = v + (now - v) / tau if decay_input else v * (1 - 1 / tau) + now
        fired = h >= v_threshold
        spikes[t], margin[t] = fired, h - v_threshold
        v = h - fired * v_threshold if soft_reset else np.where(fired, v_reset, h)
    return spikes, margin


def reference(x: np.ndarray, **settings: Any) -> tuple[np.ndarray]:
    """X [T, ...] counts or float64 -> spikes uint8 [T, ...]."""
    return (membrane(x, **settings)[0],)


def _unrolled(constant_input: bool) -> Any:
    def body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
        """Unroll the three equations; the kinds enter as numbers 0 and 1."""
        real = f.cast(b, x[0], f.DOUBLE)
        k = f.cast(b, f.int_attribute(b, "decay_input"), f.DOUBLE)
        m = f.cast(b, f.int_attribute(b, "soft_reset"), f.DOUBLE)
        one = b.constant(np.float64(1))
        tau, threshold = f.float_attribute(b, "tau"), f.float_attribute(b, "v_threshold")
        keep = b.op("Sub", one, m)
        reset = b.op("Mul", keep, f.float_attribute(b, "v_reset"))
        plain = b.op("Sub", one, k)
        v, spikes = reset, []
        for t in range(n_steps):
            now = real if constant_input else f.step(b, real, t)
            decayed = b.op("Add", v, b.op("Div", b.op("Sub", now, v), tau))
            leak = b.op("Sub", one, b.op("Div", one, tau))
            added = b.op("Add", b.op("Mul", v, leak), now)
            h = b.op("Add", b.op("Mul", k, decayed), b.op("Mul", plain, added))
            fired = b.op("GreaterOrEqual", h, threshold)
            spikes.append(f.cast(b, fired, f.UINT8))
            soft = b.op("Mul", m, b.op("Sub", h, threshold))
            after = b.op("Add", soft, b.op("Mul", keep, reset))
            v = b.op("Where", fired, after, h)
        return [f.stack(b, spikes)]

    return body


def shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """[T, ...] -> [T, ...] uint8."""
    return [typed(np.uint8, inputs[0][1])]


def constant_shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """[B, ...] -> [T, B, ...] uint8."""
    return [typed(np.uint8, (n_steps, *inputs[0][1]))]


OP = Op(
    name="Lif",
    summary="Leaky integrate-and-fire neuron over T steps, float64, spikes uint8.",
    inputs=("x",),
    outputs=("spikes",),
    attributes=ATTRIBUTES,
    reference=reference,
    body=_unrolled(constant_input=False),
    shapes=shapes,
    unrolled=True,
)

CONSTANT_OP = Op(
    name="ConstantLif",
    summary="Lif whose input x [B, ...] is the same at every step (the encoder of an image).",
    inputs=("x",),
    outputs=("spikes",),
    attributes=ATTRIBUTES,
    reference=reference,
    body=_unrolled(constant_input=True),
    shapes=constant_shapes,
    unrolled=True,
)
