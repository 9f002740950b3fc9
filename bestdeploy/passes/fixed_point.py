"""Interval bounds of the trained network, and the fraction bits F that they allow.

Every value that becomes a Q(F) integer is bounded per channel: with M and P the numbers of -1 and
+1 weights a count lies in [-M, P], a pixel in [0, 255], a spike in {0, 1}; intervals are carried
through affines, residuals, means and heads. F is 20, or the largest smaller number for which

    |value| 2^F       < 2^31     stream values, their terms, membranes, thresholds, table entries
    |W~| 2^F         <= 8355711  first convolution (three int8 limbs, e = 0)
    |logit| 2^(F+G)   < 2^62     read-out, its sums included (half of int64 is kept free)

Neurons that become integer thresholds are exact without F and are left out. F is written to the
model's metadata as `frac_bits`, with the layer that decided it where F < 20.
"""

from __future__ import annotations

import json
from typing import NamedTuple

import numpy as np

from bestdeploy import ir
from bestdeploy.errors import PassError
from bestdeploy.ops.stem_conv import LIMIT
from bestdeploy.passes.attention_counts import binarised, mixed, whole
from bestdeploy.passes.definition import (
    convolution,
    count_bounds,
    depthwise,
    is_op,
    n_steps_of,
    producer,
)
from bestdeploy.passes.level_thresholds import level_source
from bestdeploy.passes.threshold_tables import count_threshold, table_source

DEFAULT_BITS = 20
GAIN_BITS = 20  # G of the read-out

_INT32 = 2.0**31
# Roundings add a few units to a value; bounds are float64 sums, good to one part in 2^40.
_UNITS, _SLACK = 64.0, 1 + 2.0**-40


class _Claim(NamedTuple):
    """`largest` 2^F must stay below `limit`; `where` names the layer."""

    where: str
    largest: float
    limit: float

    def holds(self, bits: int) -> bool:
        return self.largest * 2.0**bits * _SLACK + _UNITS < self.limit


class _Interval(NamedTuple):
    """Least and greatest value per channel."""

    low: np.ndarray
    high: np.ndarray

    @property
    def largest(self) -> float:
        return float(max(np.abs(self.low).max(), np.abs(self.high).max()))

    def plus(self, other: _Interval) -> _Interval:
        return _Interval(self.low + other.low, self.high + other.high)

    def times(self, a: np.ndarray) -> _Interval:
        ends = np.stack([self.low * a, self.high * a])
        return _Interval(ends.min(axis=0), ends.max(axis=0))


def frac_bits(model: ir.Model) -> int:
    """Return the F of a model; choose and record it when no pass has done so yet.

    Raises:
        PassError: no F from 0 to 20 holds every value.
    """
    if "frac_bits" not in model.metadata_props:
        claims = _Bounds(model).claims
        bits, decisive = DEFAULT_BITS, None
        while broken := [c for c in claims if not c.holds(bits)]:
            decisive = broken[0]  # the earliest: what follows only carries it on
            bits -= 1
            if bits < 0:
                raise PassError(
                    f"values reach {decisive.largest:.3g}, which no integer format here holds",
                    where=decisive.where,
                    hint="are the weights and batch norm statistics of this layer sound?",
                )
        model.metadata_props["frac_bits"] = str(bits)
        if decisive is not None:
            model.metadata_props["frac_bits_decided_by"] = decisive.where
    return int(model.metadata_props["frac_bits"])


class _Bounds:
    """Walks a graph between `count_readout` and `integer_stem`, collecting claims."""

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self.claims: list[_Claim] = []
        self.known: dict[ir.Value, _Interval] = {}
        for node in model.graph:
            self._visit(node)

    def _visit(self, node: ir.Node) -> None:
        if is_op(node, "ChannelAffine"):
            self._affine(node)
        elif is_op(node, "CountAffine"):
            self._count_affine(node)
        elif is_op(node, "ReversibleMix"):
            y, x0, x1 = (self.known[v] for v in node.inputs if v is not None)
            self._stream(node, y.plus(x0.plus(x1).times(np.array(0.5))))
        elif any(is_op(node, name) for name in ("RealMaxPool", "TokenMean", "Repeat")):
            (x,) = (self.known[v] for v in node.inputs if v is not None)
            self._stream(node, x)  # none leaves the interval
        elif is_op(node, "LevelAdd") or is_op(node, "LevelNeuron"):
            width = ir.size(node.outputs[0], -1)
            levels = np.full(width, float(ir.attribute(node, "levels")))
            self.known[node.outputs[0]] = _Interval(np.zeros(width), levels)
        elif is_op(node, "TernaryLif"):  # between spikes the membrane stays below the threshold
            (x,) = (self.known[v] for v in node.inputs if v is not None)
            self._claim(node, x.largest + ir.attribute(node, "v_threshold"))
        elif producer(node.inputs[0] if node.inputs else None, "AddAttention") is not None:
            self._claim(node, ir.attribute(node, "v_threshold"))  # its sums are int64
        elif is_op(node, "Lif") or is_op(node, "ConstantLif"):
            self._neuron(node)
        elif _is_cast_of_spikes(node) and node.inputs[0] not in self.known:
            ones = np.ones(ir.size(node.outputs[0], -1))
            self.known[node.outputs[0]] = _Interval(0 * ones, ones)
        elif node.domain == "" and any(v in self.known for v in node.inputs):
            self._standard(node)

    def _claim(self, node: ir.Node, largest: float, limit: float = _INT32) -> None:
        self.claims.append(_Claim(str(node.name), largest, limit))

    def _stream(self, node: ir.Node, found: _Interval) -> None:
        self.known[node.outputs[0]] = found
        self._claim(node, found.largest)

    def _affine(self, node: ir.Node) -> None:
        a, b = (ir.array_of(v) for v in node.inputs[1:])
        shift = _Interval(b, b)
        stem = producer(node.inputs[0], "RealConv")
        if stem is not None:
            self._claim(stem, self._limb_reach(stem, a), LIMIT + _UNITS)
            self._stream(node, self._pixels(stem).times(a).plus(shift))
            return
        pointwise = producer(node.inputs[0], "PointwiseConv")
        if pointwise is not None:
            self._pointwise(node, pointwise, a, shift)
            return
        conv = convolution(node.inputs[0]) or depthwise(node.inputs[0])
        assert conv is not None
        reader = ir.consumer(node.outputs[0])
        if reader is not None and (table_source(reader) or level_source(reader)) is not None:
            return
        low, high = count_bounds(conv)
        products = _Interval(low.astype(np.float64), high.astype(np.float64)).times(a)
        self._claim(node, max(products.largest, float(np.abs(b).max()), float(np.abs(a).max())))
        self._stream(node, products.plus(shift))

    def _pointwise(self, node: ir.Node, conv: ir.Node, a: np.ndarray, shift: _Interval) -> None:
        """A 1x1 convolution of what a depthwise one gave: bounds of the two and the one in front.

        Every input counts once in the dense product, where cancellation is seen.
        """
        q = ir.array_of(conv.inputs[1])[:, 0, 0]
        inner = producer(conv.inputs[0], "ChannelAffine")
        window = None if inner is None else depthwise(inner.inputs[0])
        assert inner is not None and window is not None
        gain, offset = (ir.array_of(v) for v in inner.inputs[1:])
        taps = ir.array_of(window.inputs[1])[0].astype(np.float64) * gain
        sums = producer(window.inputs[0], "StreamAffine")
        source = None if sums is None else convolution(sums.inputs[0])
        if source is None:
            levels = ir.attribute(window, "levels")
            up, down = (f(taps, 0).sum(axis=(0, 1)) * levels for f in (np.maximum, np.minimum))
            high = np.maximum(q, 0) @ up + np.minimum(q, 0) @ down
            low = np.maximum(q, 0) @ down + np.minimum(q, 0) @ up
        else:
            first = ir.array_of(source.inputs[1])[:, 0, 0].astype(np.float64)
            levels = ir.attribute(source, "levels")
            high, low = np.zeros(len(q)), np.zeros(len(q))
            for tap in taps.reshape(-1, taps.shape[-1]):
                dense = (q * tap) @ first
                high += np.maximum(dense, 0).sum(axis=1) * levels
                low += np.minimum(dense, 0).sum(axis=1) * levels
        constant = q @ offset
        found = _Interval(low + constant, high + constant).times(a).plus(shift)
        self._claim(node, max(float(np.abs(shift.low).max()), found.largest))
        self._stream(node, found)

    def _count_affine(self, node: ir.Node) -> None:
        a, b = (ir.array_of(v) for v in node.inputs[2:])
        self._claim(node, float(max(np.abs(a).max(), np.abs(b).max())))
        low, high = count_bounds(node)
        counts = _Interval(low.astype(np.float64), high.astype(np.float64))
        self.known[node.outputs[0]] = counts.times(a).plus(_Interval(b, b))

    def _scaled_pixel(self) -> tuple[np.ndarray, np.ndarray]:
        """Normalised value of the pixels 0 and 255 per channel."""
        mean, std, white = self._image()
        return -mean / std, (255 / white - mean) / std

    def _image(self) -> list[np.ndarray]:
        held = self.model.graph.initializers
        return [ir.array_of(held[f"image.{n}"]) for n in ("mean", "std", "white")]

    def _pixels(self, conv: ir.Node) -> _Interval:
        """Reach of the first convolution; a tap outside the image adds 0."""
        w = ir.array_of(conv.inputs[1])
        ends = np.stack([w * p for p in (*self._scaled_pixel(), np.zeros(1))])
        axes = (1, 2, 3)
        return _Interval(ends.min(axis=0).sum(axis=axes), ends.max(axis=0).sum(axis=axes))

    def _limb_reach(self, conv: ir.Node, a: np.ndarray) -> float:
        _, std, white = self._image()
        w = ir.array_of(conv.inputs[1]) * a[:, None, None, None] / (white * std)
        return float(np.abs(w).max())

    def _neuron(self, node: ir.Node) -> None:
        if table_source(node) is not None:
            return
        value = node.inputs[0]
        scaled, counted = producer(value, "HeadScale"), binarised(value)
        if counted is not None:
            if count_threshold(node) is not None:
                return
            reach = float(counted[1])
        elif scaled is not None:
            found = mixed(scaled.inputs[0]) or whole(scaled.inputs[0])
            assert found is not None
            reach = float(np.abs(ir.array_of(scaled.inputs[1])).max()) * found[1]
        else:
            assert value is not None
            reach = self.known[value].largest
        settings = ir.attributes(node)
        if not settings["decay_input"]:  # |h| <= |x| (1 + r + .. + r^(T-1)), r = 1 - 1/tau
            leak = 1 - 1 / settings["tau"]
            reach *= sum(leak**k for k in range(n_steps_of(node)))
        self._claim(node, max(reach, abs(settings["v_threshold"]), abs(settings["v_reset"])))

    def _standard(self, node: ir.Node) -> None:
        """Carry intervals through the read-out: means, heads, halves, biases."""
        inputs = [self.known[v] if v in self.known else ir.array_of(v) for v in node.inputs]
        first = inputs[0]
        assert isinstance(first, _Interval)
        if node.op_type in ("ReduceMean", "Cast"):
            found = first
        elif node.op_type == "MatMul":
            w = inputs[1]
            assert isinstance(w, np.ndarray)
            up, down = np.maximum(w, 0).T, np.minimum(w, 0).T
            found = _Interval(
                up @ first.low + down @ first.high, up @ first.high + down @ first.low
            )
            # The sums S and every partial sum of V (S >> q) in front of the logit.
            partial = np.abs(w).T @ np.maximum(np.abs(first.low), np.abs(first.high))
            self._claim(node, float(partial.max()), 2.0 ** (62 - GAIN_BITS))
        elif isinstance(inputs[1], _Interval):
            found = first.plus(inputs[1])
        elif node.op_type == "Mul":
            found = first.times(inputs[1])
        else:
            found = first.plus(_Interval(inputs[1], inputs[1]))
            self._claim(node, float(np.abs(inputs[1]).max()), 2.0 ** (62 - GAIN_BITS))
        self.known[node.outputs[0]] = found
        if node.outputs[0].is_graph_output():
            self._claim(node, found.largest, 2.0 ** (62 - GAIN_BITS))


def _is_cast_of_spikes(node: ir.Node) -> bool:
    """Tell whether a node makes numbers of the spikes that the read-out counts."""
    source = node.inputs[0].producer() if node.op_type == "Cast" and node.inputs[0] else None
    return source is not None and source.domain == ir.DOMAIN


def log_pass(model: ir.Model, entry: dict[str, object]) -> None:
    """Append one line to the pass log in the metadata."""
    log = json.loads(model.metadata_props.get("passes", "[]"))
    log.append(entry)
    model.metadata_props["passes"] = json.dumps(log, sort_keys=True)
