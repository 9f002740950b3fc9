"""Interval bounds of a folded-in-the-reals graph, and the fraction bits F they allow.

Every stream value, and each of the terms it is the sum of, must fit int32 in units of 2^-F. With
P and M the numbers of +1 and -1 weights of a channel, a count lies in [-M, P]. F is 20 unless
a bound needs fewer bits; it is written to the model's metadata as `frac_bits`.
"""

from __future__ import annotations

import json

import numpy as np

from bestdeploy import ir
from bestdeploy.errors import PassError
from bestdeploy.passes.definition import is_op

DEFAULT_BITS = 20
# One part in 2^10 and two units are kept free for the roundings of the terms themselves.
_LIMIT = (2**31 - 2) / (1 + 2**-10)


def frac_bits(model: ir.Model) -> int:
    """Return the F of a model; choose and record it when no pass has done so yet."""
    if "frac_bits" not in model.metadata_props:
        bits = DEFAULT_BITS
        largest = _largest_value(model)
        while bits > 0 and largest * 2.0**bits >= _LIMIT:
            bits -= 1
        if largest * 2.0**bits >= _LIMIT:
            raise PassError(f"stream values reach {largest:.3g}, which no int32 format holds")
        model.metadata_props["frac_bits"] = str(bits)
    return int(model.metadata_props["frac_bits"])


def count_bounds(signs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return per output channel the least and greatest count, int64, of +-1 weights [O, ...]."""
    rows = signs.reshape(signs.shape[0], -1)
    return -(rows < 0).sum(axis=1, dtype=np.int64), (rows > 0).sum(axis=1, dtype=np.int64)


def _largest_value(model: ir.Model) -> float:
    """Return a bound of |value| over everything that becomes Q(F)."""
    bound: dict[ir.Value, float] = {}
    worst = 0.0
    for node in model.graph:
        found = _node_bound(node, bound)
        if found is not None:
            bound[node.outputs[0]] = found
            worst = max(worst, found * _gain(node))
    return worst


def _gain(node: ir.Node) -> float:
    """Neurons without input decay build up to tau times their input."""
    for user in ir.consumers(node.outputs[0]):
        if (is_op(user, "Lif") or is_op(user, "ConstantLif")) and not ir.attribute(
            user, "decay_input"
        ):
            return max(1.0, float(ir.attribute(user, "tau")))
    return 1.0


def _node_bound(node: ir.Node, bound: dict[ir.Value, float]) -> float | None:
    if is_op(node, "ChannelAffine"):
        a, b = (np.abs(ir.array_of(v)) for v in node.inputs[1:])
        inner = node.inputs[0].producer() if node.inputs[0] is not None else None
        assert inner is not None
        weights = ir.array_of(inner.inputs[1])
        if is_op(inner, "RealConv"):
            reach = np.abs(weights).reshape(len(a), -1).sum(axis=1) * _pixel_reach(node)
        else:
            low, high = count_bounds(weights)
            reach = np.maximum(-low, high)
        return float((a * reach + b).max())
    if is_op(node, "ReversibleMix"):
        y, x0, x1 = (bound[v] for v in node.inputs if v is not None)
        return y + max(x0, x1)
    if is_op(node, "Scores"):  # where no integer form fits, the neuron reads A 2^F
        return float(ir.size(node.inputs[0], -1) // ir.attribute(node, "heads"))
    if is_op(node, "HeadScale"):
        counts = node.inputs[0]
        values = None if counts is None else counts.producer()
        assert values is not None
        n_keys = ir.size(values.inputs[0], -1)
        return float(np.abs(ir.array_of(node.inputs[1])).max() * n_keys)
    return None


def _pixel_reach(node: ir.Node) -> float:
    graph = node.graph
    assert graph is not None
    mean = ir.array_of(graph.initializers["image.mean"])
    std = ir.array_of(graph.initializers["image.std"])
    return float((np.maximum(np.abs(mean), np.abs(1 - mean)) / std).max())


def log_pass(model: ir.Model, entry: dict[str, object]) -> None:
    """Append one line to the pass log in the metadata."""
    log = json.loads(model.metadata_props.get("passes", "[]"))
    log.append(entry)
    model.metadata_props["passes"] = json.dumps(log, sort_keys=True)
