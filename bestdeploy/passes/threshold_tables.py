"""Threshold tables: a conv-fed neuron becomes an integer comparison (numerics section 4).

    Lif(ChannelAffine(n, a, b))  ->  ThresholdNeuron(n', Theta)
    Theta(t, s) = ceil((2^t theta - b (2^t - 2^s)) / a)        for a > 0
Rows with a < 0 have their weights negated (n' = -n) and use |a|. For a = 0 the neuron fires iff
b (2^t - 2^s) >= 2^t theta, whatever n is. Every Theta is clamped to [lo - 1, hi + 1], with
[lo, hi] = (2^t - 2^s) [n_min, n_max] the reachable states, which changes no spike.

Applies to tau = 2, hard reset to 0, T <= 8, and a convolution whose affine feeds this neuron only
and whose states (2^T - 1) n fit int32 (those of 16-bit weights may not). Without input decay the
same holds with theta/2. Exact in the reals.
"""

from __future__ import annotations

from fractions import Fraction
from math import ceil

import numpy as np

from bestdeploy import ir
from bestdeploy.ops.threshold_neuron import n_rows, row
from bestdeploy.passes.definition import (
    Pass,
    convolution,
    count_bounds,
    find,
    is_op,
    n_steps_of,
    producer,
)

MAX_STEPS = 8


def table(
    a: np.ndarray, b: np.ndarray, low: np.ndarray, high: np.ndarray, theta: Fraction, n_steps: int
) -> np.ndarray:
    """Return Theta int32 [T (T+1)/2, C], clamped to the reachable states.

    Args:
        a: non-negative float64 gains [C].
        b: float64 shifts [C].
        low: least count per channel, int64 [C].
        high: greatest count per channel, int64 [C].
        theta: threshold of the neuron (halved already without input decay).
        n_steps: T.
    """
    out = np.empty((n_rows(n_steps), len(a)), np.int64)
    for c in range(len(a)):
        gain, shift = Fraction(float(a[c])), Fraction(float(b[c]))
        for t in range(1, n_steps + 1):
            for s in range(t):
                reach = 2**t - 2**s
                first, last = int(low[c]) * reach, int(high[c]) * reach
                wanted = 2**t * theta - shift * reach
                if gain == 0:
                    value = first - 1 if wanted <= 0 else last + 1
                else:
                    value = ceil(wanted / gain)
                out[row(t, s), c] = min(max(value, first - 1), last + 1)
    return out.astype(np.int32)


def is_eligible(lif: ir.Node) -> bool:
    """Tell whether the integer form is exact for a neuron's kind."""
    return (
        n_steps_of(lif) <= MAX_STEPS
        and ir.attribute(lif, "tau") == 2.0
        and not ir.attribute(lif, "soft_reset")
        and ir.attribute(lif, "v_reset") == 0.0
    )


def neuron_threshold(lif: ir.Node) -> Fraction:
    """Return theta, or theta/2 without input decay."""
    theta = Fraction(float(ir.attribute(lif, "v_threshold")))
    return theta if ir.attribute(lif, "decay_input") else theta / 2


def count_threshold(lif: ir.Node) -> int | None:
    """Return the integer threshold at t = 1 of a neuron on counts, None where there is none.

    With tau = 2 and soft reset, J_t = J_{t-1} + 2^(t-1) A_t compares with first 2^(t-1), where
    first = 2 theta (theta without input decay) must be a whole number.
    """
    first = 2 * neuron_threshold(lif)
    soft = ir.attribute(lif, "soft_reset") and ir.attribute(lif, "tau") == 2.0
    return int(first) if soft and first.denominator == 1 else None


def states_fit(conv: ir.Node, n_steps: int) -> bool:
    """Tell whether the states (2^T - 1) n of a neuron behind a convolution are int32."""
    low, high = count_bounds(conv)
    largest = max(int(high.max()), -int(low.min()))
    return (2**n_steps - 1) * largest < 2**31 - 1


def table_source(node: ir.Node) -> tuple[ir.Node, ir.Node] | None:
    """Return (convolution, affine) of a neuron that becomes a ThresholdNeuron, else None.

    Not where the stream reads the convolution too: then its weights must keep their signs.
    """
    if not is_op(node, "Lif") or not is_eligible(node):
        return None
    affine = producer(node.inputs[0], "ChannelAffine")
    conv = None if affine is None else convolution(affine.inputs[0])
    if affine is None or conv is None or not states_fit(conv, n_steps_of(node)):
        return None
    alone = ir.consumer(affine.outputs[0]) is node and ir.consumer(conv.outputs[0]) is affine
    return (conv, affine) if alone else None


def _negated(w: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return weights with some rows negated: int8, or int16 where a number needs it."""
    wide = w.astype(np.int16)
    wide[rows] = -wide[rows]
    return weight_type(wide)


def weight_type(w: np.ndarray) -> np.ndarray:
    """Return integer weights as int8 where they are within +-127, else as int16."""
    return w.astype(np.int8 if np.abs(w.astype(np.int64)).max() <= 127 else np.int16)


def apply(model: ir.Model) -> int:
    """Replace every eligible neuron with its affine."""
    changes = 0
    for lif in find(model, "Lif"):
        source = table_source(lif)
        if source is None:
            continue
        conv, affine = source
        a, shift = (ir.array_of(v) for v in affine.inputs[1:])
        n_steps = n_steps_of(lif)
        low, high = count_bounds(conv)
        bounds = np.where(a < 0, -high, low), np.where(a < 0, -low, high)
        theta = table(np.abs(a), shift, *bounds, neuron_threshold(lif), n_steps)
        b = ir.Builder(f"{lif.name}.integer")
        n = b.op(
            conv.op_type,
            conv.inputs[0],
            b.initializer(f"{conv.name}.rows", _negated(ir.array_of(conv.inputs[1]), a < 0)),
            domain=ir.DOMAIN,
            name=conv.name,
            **ir.attributes(conv),
        )
        y = b.op(
            f"ThresholdNeuron_T{n_steps}",
            n,
            b.initializer(f"{lif.name}.theta", theta),
            domain=ir.DOMAIN,
            name=lif.name,
        )
        ir.replace(model.graph, [conv, affine, lif], b, {lif.outputs[0]: y})
        changes += 1
    return changes


PASS = Pass("threshold_tables", "reals", apply)
