"""Prune: neurons that cannot fire, whatever the input, go, and every weight that reads them.

Exact: a spike that is always 0 adds 0 to every sum. What cannot fire follows from bounds:

    threshold neuron     dead if (2^t - 1) n_max < Theta(t, 0) for every t, n_max = number of +1
    stream neuron        its charge never falls when its input grows, so if it keeps silent at the
                         greatest input of each step, it always does
    mixing neuron        the same for a whole head, with the greatest entry of the head's table at
                         each step (a head with lambda <= 0 is the common case)

A dead channel of a convolution that feeds convolutions, pools or the read-out is cut out. A dead
head takes its channels of q, k, v and of the projection with it. One channel, one head always
stays. The metadata `pruned` says what went: neuron -> {axis, cut, of}.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

import numpy as np

from bestdeploy import ir
from bestdeploy.ops import neuron as stream
from bestdeploy.ops import stream_affine
from bestdeploy.ops.stem_conv import from_limbs
from bestdeploy.ops.threshold_neuron import row
from bestdeploy.passes.attention_counts import mixed
from bestdeploy.passes.definition import (
    Pass,
    convolution,
    count_bounds,
    find,
    is_op,
    n_steps_of,
    producer,
)

# op -> inputs that have a value per output channel, and their axis
_ROWS: dict[str, dict[int, int]] = {
    "SignConv": {1: 0},
    "IntegerConv": {1: 0},
    "ThresholdNeuron": {1: 1},
    "StreamAffine": {1: 0, 2: 0, 3: 0},
    "StemConv": {1: 1, 2: 2, 5: 0},
    "Encoder": {},
    "MembraneNeuron": {},
}
# op -> inputs that have a value per channel of its input spikes (the last axis)
_COLUMNS: dict[str, int] = {"SignConv": 1, "IntegerConv": 1, "ReadOut": 3, "CountReadOut": 1}


def _take(node: ir.Node, index: int, kept: np.ndarray, axis: int) -> None:
    ir.set_constant(node, index, np.take(ir.array_of(node.inputs[index]), kept, axis=axis))


def _source(neuron: ir.Node) -> list[ir.Node]:
    """Return a neuron and the nodes in front of it that have its channels, down to the weights."""
    nodes = [neuron]
    while not any(is_op(nodes[-1], n) for n in ("SignConv", "IntegerConv", "StemConv")):
        value = nodes[-1].inputs[0]
        node = None if value is None else value.producer()
        if node is None or not any(is_op(node, name) for name in _ROWS):
            return []
        nodes.append(node)
    return nodes


def _cut_rows(nodes: Iterable[ir.Node], kept: np.ndarray) -> None:
    for node in nodes:
        for name, axes in _ROWS.items():
            if is_op(node, name):
                for index, axis in axes.items():
                    _take(node, index, kept, axis)


def _readers(spikes: ir.Value) -> list[tuple[ir.Node, int]] | None:
    """Return the weights (node, input) that read spikes by channel; None if something else does."""
    found: list[tuple[ir.Node, int]] = []
    for node in ir.consumers(spikes):
        if is_op(node, "OrPool"):
            behind = _readers(node.outputs[0])
            if behind is None:
                return None
            found += behind
            continue
        index = next((i for name, i in _COLUMNS.items() if is_op(node, name)), None)
        if index is None:
            return None
        found.append((node, index))
    return found


def _note(model: ir.Model, neuron: ir.Node, axis: int, kept: np.ndarray, of: int) -> None:
    """Write down which of `of` channels (or heads) went; numbers are those of the trained model."""
    notes = json.loads(model.metadata_props.get("pruned", "{}"))
    name = str(neuron.outputs[0].name)
    before = notes.get(name, {"cut": [], "of": of})
    there = np.delete(np.arange(before["of"]), before["cut"])
    cut = sorted({*before["cut"], *(int(c) for c in np.delete(there, kept))})
    notes[name] = {"axis": axis, "cut": cut, "of": before["of"]}
    model.metadata_props["pruned"] = json.dumps(notes, sort_keys=True)


# -- channels ------------------------------------------------------------------------------------


def _greatest(node: ir.Node) -> np.ndarray:
    """Return the greatest input that each channel of a stream neuron or encoder can get, int64."""
    affine, stem = producer(node.inputs[0], "StreamAffine"), producer(node.inputs[0], "StemConv")
    if stem is not None:
        limbs, bias, _, _, shift = (ir.array_of(v) for v in stem.inputs[1:])
        positive = np.maximum(from_limbs(limbs), 0).reshape(limbs.shape[1], -1).sum(axis=1) * 255
        n = positive + bias.reshape(-1, bias.shape[-1]).max(axis=0)
        half = np.where(shift > 0, np.int64(1) << np.maximum(shift - 1, 0), 0)
        return np.asarray((n + half) >> shift)
    assert affine is not None
    conv = convolution(affine.inputs[0])
    assert conv is not None
    low, high = count_bounds(conv)
    constants = [ir.array_of(v) for v in affine.inputs[1:]]
    return np.maximum(stream_affine.apply(low, *constants), stream_affine.apply(high, *constants))


def _alive(nodes: list[ir.Node]) -> np.ndarray:
    """Return which channels of a neuron can fire, bool [C]."""
    neuron = nodes[0]
    if is_op(neuron, "ThresholdNeuron"):
        theta = ir.array_of(neuron.inputs[1])
        _, high = count_bounds(nodes[-1])
        reach = [(2**t - 1) * high >= theta[row(t, 0)] for t in range(1, n_steps_of(neuron) + 1)]
        return np.asarray(np.any(reach, axis=0))
    greatest = _greatest(neuron)
    if is_op(neuron, "Encoder"):
        return np.asarray(greatest >= ir.array_of(neuron.inputs[1])[-1])
    steps = np.broadcast_to(greatest, (n_steps_of(neuron), len(greatest)))
    return np.asarray(stream.run(steps, **ir.attributes(neuron)).any(axis=0))


def _prune_channels(model: ir.Model) -> int:
    changes = 0
    for neuron in list(model.graph):
        if not any(is_op(neuron, n) for n in ("ThresholdNeuron", "MembraneNeuron", "Encoder")):
            continue
        nodes = _source(neuron)
        alone = all(ir.consumer(node.outputs[0]) is not None for node in nodes[1:])
        readers = _readers(neuron.outputs[0]) if nodes and alone else None
        if not readers:
            continue
        alive = _alive(nodes)
        kept = np.flatnonzero(alive) if alive.any() else np.array([0])
        if len(kept) == len(alive):
            continue
        _cut_rows(nodes, kept)
        for reader, index in readers:
            _take(reader, index, kept, -1)
        _note(model, neuron, -1, kept, len(alive))
        changes += len(alive) - len(kept)
    return changes


# -- heads ---------------------------------------------------------------------------------------


def _heads_alive(neuron: ir.Node, table: np.ndarray) -> np.ndarray:
    """Return which heads of a mixing neuron can fire, bool [heads]; table int32 [T, heads, M]."""
    return np.asarray(stream.run(table.max(axis=2), **ir.attributes(neuron)).any(axis=0))


def _prune_heads(model: ir.Model) -> int:
    changes = 0
    for neuron in find(model, "MembraneNeuron"):
        look_up = producer(neuron.inputs[0], "CountTable")
        found = None if look_up is None else mixed(look_up.inputs[0])
        if look_up is None or found is None:
            continue
        table = ir.array_of(look_up.inputs[1])
        alive = _heads_alive(neuron, table)
        kept = np.flatnonzero(alive) if alive.any() else np.array([0])
        if len(kept) < len(alive) and _cut_heads(model, neuron, look_up, found[0], kept):
            changes += len(alive) - len(kept)
    return changes


def _cut_heads(
    model: ir.Model, neuron: ir.Node, look_up: ir.Node, product: ir.Node, kept: np.ndarray
) -> bool:
    """Cut heads out of one attention layer; False where its surroundings are not the usual ones."""
    heads = ir.attribute(product, "heads")
    attention_input = 0 if is_op(product, "Values") else 1
    bits, other = product.inputs[attention_input], product.inputs[1 - attention_input]
    binariser = None if bits is None else bits.producer()
    first = None if binariser is None else binariser.inputs[0].producer()  # type: ignore[union-attr]
    if first is not None and is_op(first, "ShiftCounts"):
        first = first.inputs[0].producer()  # type: ignore[union-attr]
    readers = _readers(neuron.outputs[0])
    if binariser is None or first is None or other is None or not readers:
        return False
    values = [*first.inputs, other]
    sources = [_source(v.producer()) if v is not None else [] for v in values]
    alone = all(ir.consumer(v) in (first, product) for v in values if v is not None)
    if not all(sources) or not alone:
        return False
    width = ir.size(neuron.outputs[0], -1) // heads
    channels = (kept[:, None] * width + np.arange(width)).ravel()
    for nodes in sources:
        _cut_rows(nodes, channels)
        _note(model, nodes[0], -1, channels, heads * width)
    for node in (first, product):
        ir.set_attribute(node, "heads", len(kept))
    _note(model, binariser, 2, kept, heads)
    _take(look_up, 1, kept, 1)
    gains = np.array(neuron.metadata_props["gain"].split(",")).reshape(-1, heads)
    neuron.metadata_props["gain"] = ",".join(gains[:, kept].ravel())
    for reader, index in readers:
        _take(reader, index, channels, -1)
    _note(model, neuron, -1, channels, heads * width)
    return True


def apply(model: ir.Model) -> int:
    """Cut dead heads, then dead channels in the order of the network; return how many."""
    return _prune_heads(model) + _prune_channels(model)


PASS = Pass("prune", "exact", apply)
