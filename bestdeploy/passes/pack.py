"""Pack: spikes and weights become bits (64 to a word, channel last, lowest bit first).

    s = neuron(..)        ->  bits = neuron(..); s = PackBits(bits); every reader: UnpackBits(s)
    w int8 +-1 constant   ->  UnpackSigns(bits of w)
    v = ternary neuron    ->  planes = PackTernary(v); every reader: UnpackTernary(planes)
    levels = a + b, levels = neuron(..)
                          ->  planes = PackLevels(levels); every reader: UnpackLevels(planes)
    w int8, int16         ->  UnpackWeights(planes of w), as many planes as its numbers need

Exact: packing and unpacking are inverse to each other. The fuse pass draws the pairs into layers.
"""

from __future__ import annotations

import numpy as np

from bestdeploy import ir
from bestdeploy.ops import arithmetic
from bestdeploy.ops.levels import n_planes_of
from bestdeploy.passes.definition import Pass, find, is_op

SPIKE_SOURCES = (
    "Encoder",
    "ThresholdNeuron",
    "MembraneNeuron",
    "CountNeuron",
    "OrPool",
    "KeyValueAny",
    "Gate",
    "AddNeuron",
)
SIGNED = {"SignConv": 1, "ReadOut": 3}
WIDE = {"IntegerConv": 1, "IntegerDepthwise": 1, "FixedPointwise": 1}


def _pack_spikes(model: ir.Model, node: ir.Node) -> None:
    bits = node.outputs[0]
    name = str(bits.name)
    channels = ir.size(bits, -1)
    readers = [(use.node, use.idx) for use in bits.uses()]
    b = ir.Builder(f"{name}.packing")
    packed = b.op("PackBits", bits, domain=ir.DOMAIN, name=f"{name}.pack")
    b.op("UnpackBits", packed, domain=ir.DOMAIN, name=f"{name}.unpack",
                channels=channels)  # fmt: skip
    _put_between(model, node, b, readers)


def _pack_ternary(model: ir.Model, node: ir.Node) -> None:
    signs = node.outputs[0]
    name, channels = str(signs.name), ir.size(signs, -1)
    readers = [(use.node, use.idx) for use in signs.uses()]
    b = ir.Builder(f"{name}.packing")
    packed = b.op("PackTernary", signs, domain=ir.DOMAIN, name=f"{name}.pack")
    b.op("UnpackTernary", packed, domain=ir.DOMAIN, name=f"{name}.unpack", channels=channels)
    _put_between(model, node, b, readers)


def _pack_levels(model: ir.Model, node: ir.Node) -> None:
    levels = node.outputs[0]
    name, channels = str(levels.name), ir.size(levels, -1)
    readers = [(use.node, use.idx) for use in levels.uses()]
    b = ir.Builder(f"{name}.packing")
    packed = b.op("PackLevels", levels, domain=ir.DOMAIN, name=f"{name}.pack",
                  planes=n_planes_of(ir.attribute(node, "levels")))  # fmt: skip
    b.op("UnpackLevels", packed, domain=ir.DOMAIN, name=f"{name}.unpack", channels=channels)
    _put_between(model, node, b, readers)


def _put_between(
    model: ir.Model, node: ir.Node, b: ir.Builder, readers: list[tuple[ir.Node, int]]
) -> None:
    """Put a pair of packing and unpacking between a node and its readers."""
    pack, unpack = b.nodes
    value = node.outputs[0]
    value.name, pack.outputs[0].name = f"{value.name}.bits", value.name
    model.graph.insert_after(node, b.nodes)
    for reader, index in readers:
        reader.replace_input_with(index, unpack.outputs[0])


def _pack_weights(model: ir.Model, node: ir.Node, index: int) -> None:
    value = node.inputs[index]
    signs, wide = ir.array_of(value), any(is_op(node, name) for name in WIDE)
    name = f"{value.name}.packed"  # type: ignore[union-attr]
    held = model.graph.initializers.get(name)
    if held is None:
        pack = arithmetic.pack_weights if wide else lambda w: arithmetic.pack_bits(w > 0)
        held = ir.add_initializer(model.graph, name, pack(signs))
    b = ir.Builder(f"{name}.{node.name}")
    w = b.op("UnpackWeights" if wide else "UnpackSigns", held, domain=ir.DOMAIN,
             name=f"{node.name}.signs", channels=int(np.shape(signs)[-1]))  # fmt: skip
    model.graph.insert_before(node, b.nodes)
    node.replace_input_with(index, w)


def apply(model: ir.Model) -> int:
    """Put bits behind every neuron and pool, and in every binary weight."""
    changes = 0
    for op_name in SPIKE_SOURCES:
        for node in find(model, op_name):
            _pack_spikes(model, node)
            changes += 1
    for node in find(model, "TernaryNeuron"):
        _pack_ternary(model, node)
        changes += 1
    for op_name in ("LevelAdd", "LevelThresholds"):
        for node in find(model, op_name):
            _pack_levels(model, node)
            changes += 1
    for op_name, index in (SIGNED | WIDE).items():
        for node in find(model, op_name):
            _pack_weights(model, node, index)
            changes += 1
    ir.drop_unused(model.graph)
    return changes


PASS = Pass("pack", "exact", apply)
