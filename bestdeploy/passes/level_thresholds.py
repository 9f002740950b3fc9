"""Level thresholds: a neuron of several levels becomes comparisons of integers (numerics_qsd.md).

    LevelNeuron(ChannelAffine(n, a, b))        ->  LevelThresholds(n, theta, falling)
        gain (a n + b) >= k - 1/2   <=>   n >= ceil(r_k)    with r_k = ((k - 1/2) / gain - b) / a,
        for a < 0                   <=>   not n >= floor(r_k) + 1:  falling
        for a = 0 the level is what b gives, whatever n is
    LevelNeuron(HeadScale(QueryKeyValues, g))  ->  LevelThresholds(m, ceil((k - 1/2) / (gain g)))
    LevelNeuron(FromFixed(x))                  ->  LevelThresholds(x, ceil((k - 1/2) 2^F / gain))
        this one by `integer_stream`, which makes the stream's other neurons

The first where a convolution feeds this neuron only; every theta is clamped to [lo, hi + 1] of what
its sums reach, which changes no level. Exact in the reals.
"""

from __future__ import annotations

from fractions import Fraction
from math import ceil, floor

import numpy as np

from bestdeploy import ir
from bestdeploy.errors import PassError
from bestdeploy.passes.attention_counts import whole
from bestdeploy.passes.definition import Pass, convolution, count_bounds, find, is_op, producer
from bestdeploy.passes.quantise import identity

MAX_DENOMINATOR = 10**6
_HALF = Fraction(1, 2)


def steps_of(neuron: ir.Node) -> list[Fraction]:
    """Return what the input of a LevelNeuron must reach for level 1, 2, .. n."""
    gain = Fraction(float(ir.attribute(neuron, "gain")))
    return [(k - _HALF) / gain for k in range(1, ir.attribute(neuron, "levels") + 1)]


def channel_thresholds(
    steps: list[Fraction], a: Fraction, b: Fraction, low: int, high: int
) -> tuple[list[int], bool]:
    """Return the thresholds on n in low .. high of one channel, and whether it is falling."""
    if a == 0:
        return [low if b >= x else high + 1 for x in steps], False
    reached = [(x - b) / a for x in steps]
    found = [ceil(r) for r in reached] if a > 0 else [floor(r) + 1 for r in reached]
    return [min(max(v, low), high + 1) for v in found], a < 0


def level_source(node: ir.Node) -> tuple[ir.Node, ir.Node] | None:
    """Return (convolution, affine) whose sums a LevelNeuron compares as integers, else None."""
    if not is_op(node, "LevelNeuron"):
        return None
    affine = producer(node.inputs[0], "ChannelAffine")
    conv = None if affine is None else convolution(affine.inputs[0])
    if affine is None or conv is None or not is_op(conv, "IntegerConv"):
        return None
    alone = ir.consumer(affine.outputs[0]) is node and ir.consumer(conv.outputs[0]) is affine
    return (conv, affine) if alone else None


def _emit(
    b: ir.Builder, neuron: ir.Node, x: ir.Value | None, theta: np.ndarray, falling: np.ndarray
) -> ir.Value:
    held = (b.initializer(f"{neuron.name}.theta", theta.astype(np.int32)),
            b.initializer(f"{neuron.name}.falling", falling.astype(np.uint8)))  # fmt: skip
    return b.op("LevelThresholds", x, *held, domain=ir.DOMAIN, name=neuron.name,
                levels=ir.attribute(neuron, "levels"))  # fmt: skip


def stream_levels(neuron: ir.Node, x: ir.Value, b: ir.Builder, bits: int) -> ir.Value:
    """Emit a neuron on a stream of Q(bits): its thresholds are those of every channel."""
    theta = np.array([[ceil(v * 2**bits)] for v in steps_of(neuron)])
    return _emit(b, neuron, x, theta, np.zeros(1))


def _of_sums(neuron: ir.Node, b: ir.Builder, conv: ir.Node, affine: ir.Node) -> ir.Value:
    a, shift = (ir.array_of(v) for v in affine.inputs[1:])
    steps = steps_of(neuron)
    rows = [
        channel_thresholds(steps, Fraction(float(g)), Fraction(float(s)), int(low), int(high))
        for g, s, low, high in zip(a, shift, *count_bounds(conv), strict=True)
    ]
    theta = np.array([thresholds for thresholds, _ in rows], np.int64).T
    falling = np.array([is_falling for _, is_falling in rows])
    n = identity(b, affine.name or "", conv.outputs[0], len(a))
    return _emit(b, neuron, n, theta, falling)


def meant(value: float) -> Fraction:
    """Return the fraction of small denominator that a float stands for, else the float itself.

    A scale is written as a decimal: 0.03 is 3/100, so 4 m 0.03 / 64 reaches 3/2 at m = 800, as the
    trained network has it, where the float next to 3/100 falls short.
    """
    simple = Fraction(value).limit_denominator(MAX_DENOMINATOR)
    return simple if float(simple) == value else Fraction(value)


def _of_products(neuron: ir.Node, b: ir.Builder, scaled: ir.Node) -> ir.Value:
    found = whole(scaled.inputs[0])
    gain = ir.array_of(scaled.inputs[1])
    assert found is not None
    if float(gain.min()) <= 0 or not (gain == gain.flat[0]).all() or found[1] >= 2**31 - 1:
        raise PassError(
            f"products up to {found[1]} with scale {float(gain.flat[0]):g}: expected one positive "
            "scale, and products below 2^31",
            where=str(scaled.name),
        )
    each = meant(float(gain.flat[0]))
    theta = np.array([[min(ceil(v / each), found[1] + 1)] for v in steps_of(neuron)])
    return _emit(b, neuron, scaled.inputs[0], theta, np.zeros(1))


def apply(model: ir.Model) -> int:
    """Replace every neuron of several levels that does not read the stream."""
    changes = 0
    for neuron in find(model, "LevelNeuron"):
        source, scaled = level_source(neuron), producer(neuron.inputs[0], "HeadScale")
        b = ir.Builder(f"{neuron.name}.integer")
        if source is not None:
            y, old = _of_sums(neuron, b, *source), [source[1], neuron]
        elif scaled is not None:
            y, old = _of_products(neuron, b, scaled), [scaled, neuron]
        else:
            continue
        ir.replace(model.graph, old, b, {neuron.outputs[0]: y})
        changes += 1
    return changes


PASS = Pass("level_thresholds", "reals", apply)
