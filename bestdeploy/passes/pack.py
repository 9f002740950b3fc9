"""Pack: spikes and weights become bits (64 to a word, channel last, lowest bit first).

    s = neuron(..)        ->  bits = neuron(..); s = PackBits(bits); every reader: UnpackBits(s)
    w int8 +-1 constant   ->  UnpackSigns(bits of w)

Exact: packing and unpacking are inverse to each other. The fuse pass draws the pairs into layers.
"""

from __future__ import annotations

import numpy as np

from bestdeploy import ir
from bestdeploy.ops import arithmetic
from bestdeploy.passes.definition import Pass, find

SPIKE_SOURCES = (
    "Encoder",
    "ThresholdNeuron",
    "MembraneNeuron",
    "CountNeuron",
    "OrPool",
    "KeyValueAny",
    "Gate",
)
WEIGHT_INPUT = {"SignConv": 1, "ReadOut": 3}


def _pack_spikes(model: ir.Model, node: ir.Node) -> None:
    bits = node.outputs[0]
    name = str(bits.name)
    channels = ir.size(bits, -1)
    readers = [(use.node, use.idx) for use in bits.uses()]
    b = ir.Builder(f"{name}.packing")
    packed = b.op("PackBits", bits, domain=ir.DOMAIN, name=f"{name}.pack")
    unpacked = b.op("UnpackBits", packed, domain=ir.DOMAIN, name=f"{name}.unpack",
                    channels=channels)  # fmt: skip
    bits.name, packed.name = f"{name}.bits", name
    model.graph.insert_after(node, b.nodes)
    for reader, index in readers:
        reader.replace_input_with(index, unpacked)


def _pack_weights(model: ir.Model, node: ir.Node, index: int) -> None:
    value = node.inputs[index]
    signs = ir.array_of(value)
    name = f"{value.name}.packed"  # type: ignore[union-attr]
    held = model.graph.initializers.get(name)
    if held is None:
        held = ir.add_initializer(model.graph, name, arithmetic.pack_bits(signs > 0))
    b = ir.Builder(f"{name}.{node.name}")
    w = b.op("UnpackSigns", held, domain=ir.DOMAIN, name=f"{node.name}.signs",
             channels=int(np.shape(signs)[-1]))  # fmt: skip
    model.graph.insert_before(node, b.nodes)
    node.replace_input_with(index, w)


def apply(model: ir.Model) -> int:
    """Put bits behind every neuron and pool, and in every binary weight."""
    changes = 0
    for op_name in SPIKE_SOURCES:
        for node in find(model, op_name):
            _pack_spikes(model, node)
            changes += 1
    for op_name, index in WEIGHT_INPUT.items():
        for node in find(model, op_name):
            _pack_weights(model, node, index)
            changes += 1
    ir.drop_unused(model.graph)
    return changes


PASS = Pass("pack", "exact", apply)
