"""The layers of a graph of ours that is not packed yet: any stage up to "packed", any dumped pass.

Whatever the passes have done so far, a network keeps its layers: the table has the same rows after
each of them, but for channels and heads that were pruned.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import numpy as np

from bestdeploy import ir, stages
from bestdeploy.ops import arithmetic
from bestdeploy.report.layers import (
    Kind,
    Layer,
    Shape,
    addition_layer,
    conv_layer,
    depthwise_layer,
    linear_layer,
    pixel_layer,
    plain_layer,
    product_layer,
    stream_conv_layer,
)

__all__ = ["layers_of_graph", "n_scales_of_graph", "steps_of_graph"]

REAL_BITS, STEM_BITS, HEAD_BITS = 32, 24, 32

_NEURONS = (
    "Lif",
    "ConstantLif",
    "ThresholdNeuron",
    "MembraneNeuron",
    "ConstantMembraneNeuron",
    "Encoder",
    "CountNeuron",
    "LevelNeuron",
    "LevelThresholds",
)
_GATES = ("KeyValueCounts", "KeyValueAny", "Gate")  # spikes combined with spikes
_BETWEEN = (  # what may stand between a layer and its neuron
    "BatchNorm",
    "ChannelAffine",
    "StreamAffine",
    "FromFixed",
    "HeadScale",
    "ShiftCounts",
    "CountTable",
)
_PACKING = ("PackBits", "UnpackBits", "PackLevels", "UnpackLevels")
_PRODUCTS: dict[str, Kind] = {
    "Scores": "q k^T",
    "Values": "a v",
    "KeyValues": "k^T v",
    "QueryValues": "q a",
}


def _name_of(node: ir.Node) -> str:
    row = stages.op_of(node)
    return node.op_type if row is None else row[0].name


def _shape(value: ir.Value | None) -> Shape:
    """Return the last three axes: no time, no batch."""
    return tuple(ir.size(value, axis) for axis in (-3, -2, -1))


def _source(value: ir.Value | None) -> str:
    """Return the name of the spikes behind a value, through bits and back."""
    while value is not None and (node := value.producer()) is not None:
        if _name_of(node) not in _PACKING:
            break
        value = node.inputs[0]
    assert value is not None
    return str(value.name)


def _neuron_behind(value: ir.Value) -> ir.Node | None:
    """Return the neuron that alone reads what a layer gives, None where the stream does."""
    node = ir.consumer(value)
    while node is not None and _name_of(node) in _BETWEEN:
        node = ir.consumer(node.outputs[0])
    return node if node is not None and _name_of(node) in _NEURONS else None


def _writes(node: ir.Node) -> str | None:
    neuron = _neuron_behind(node.outputs[0])
    return None if neuron is None else str(neuron.outputs[-1].name)


class _Reader:
    """Reads the rows of one graph."""

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self.n_steps = steps_of_graph(model)
        self.readers: dict[str, Callable[[ir.Node], list[Layer]]] = {
            "RealConv": functools.partial(self.pixels, bits=REAL_BITS),
            "StemConv": functools.partial(self.pixels, bits=STEM_BITS),
            "BinaryConv": self.conv,
            "SignConv": self.conv,
            "WeightConv": self.weight_conv,
            "IntegerConv": self.weight_conv,
            "QueryKeyValues": self.products,
            "LevelAdd": self.level_add,
            "DepthwiseConv": self.depthwise,
            "IntegerDepthwise": self.depthwise,
            "PointwiseConv": self.pointwise,
            "FixedPointwise": self.pointwise,
            "LevelReadOut": self.mean_read_out,
            "CountAffine": self.counts,
            "OrPool": self.pool,
            "RealMaxPool": self.max_pool,
            "StreamMaxPool": self.max_pool,
            **dict.fromkeys(_GATES, self.gate),
            "TernaryLif": self.unread,
            "TernaryNeuron": self.unread,
            "AddAttention": self.addition,
            "AddNeuron": self.addition,
            "CountReadOut": self.mean_read_out,
            "ReadOut": self.read_out,
            "MeanReadOut": self.mean_read_out,
            "MatMul": self.head,
            **dict.fromkeys(_PRODUCTS, self.product),
        }

    def rows(self) -> Iterator[Layer]:
        claimed = set()
        for node in self.model.graph:
            reader = self.readers.get(_name_of(node))
            if reader is not None:
                behind = _neuron_behind(node.outputs[0])
                claimed.add(behind)
                yield from reader(node)
            elif _name_of(node) in _NEURONS and node not in claimed:
                yield self.neuron(node)

    def pixels(self, node: ir.Node, bits: int) -> list[Layer]:
        image, w = node.inputs[0], ir.shape_of(node.inputs[1])
        weight = tuple(int(d) for d in w[-4:])
        n_steps = self.n_steps if len(ir.shape_of(image)) == 5 else 1
        return [
            pixel_layer(
                str(node.name),
                node.op_type,
                _shape(image),
                _shape(node.outputs[0]),
                weight,
                n_steps=n_steps,
                weight_bits=bits,
                writes=_writes(node),
            )
        ]

    def _weight(self, node: ir.Node, index: int) -> Shape:
        return tuple(ir.size(node.inputs[index], axis) for axis in range(4))

    def conv(self, node: ir.Node, **of_weights: int) -> list[Layer]:
        return [
            conv_layer(
                str(node.name),
                node.op_type,
                _shape(node.inputs[0]),
                _shape(node.outputs[0]),
                self._weight(node, 1),
                n_steps=self.n_steps,
                reads=_source(node.inputs[0]),
                writes=_writes(node),
                strides=ir.attribute(node, "strides"),
                pads=ir.attribute(node, "pads"),
                **of_weights,
            )
        ]

    def weight_conv(self, node: ir.Node) -> list[Layer]:
        """Return a layer of real weights, or of the integers that they have become."""
        if _name_of(node) == "WeightConv":
            bits = self._trained_bits(node)
        else:
            bits = arithmetic.weight_bits(self._integers(node))
        return self.conv(node, weight_bits=bits, levels=ir.attribute(node, "levels"))

    def _bits(self, node: ir.Node) -> int:
        """Return the bits of a layer's weights, trained or what they have become."""
        if _name_of(node) in ("DepthwiseConv", "PointwiseConv"):
            return self._trained_bits(node)
        return arithmetic.weight_bits(self._integers(node))

    def depthwise(self, node: ir.Node) -> list[Layer]:
        """Return a depthwise convolution of levels, or of the sums in front of it."""
        source = node.inputs[0].producer() if node.inputs[0] is not None else None
        while source is not None and _name_of(source) in _PACKING:
            source = source.inputs[0].producer() if source.inputs[0] is not None else None
        fed = source is not None and _name_of(source) in _NEURONS
        return [
            depthwise_layer(
                str(node.name),
                node.op_type,
                _shape(node.inputs[0]),
                _shape(node.outputs[0]),
                self._weight(node, 1),
                n_steps=self.n_steps,
                weight_bits=self._bits(node),
                reads=_source(node.inputs[0]) if fed else None,
                strides=ir.attribute(node, "strides"),
                pads=ir.attribute(node, "pads"),
            )
        ]

    def pointwise(self, node: ir.Node) -> list[Layer]:
        return [
            stream_conv_layer(
                str(node.name),
                node.op_type,
                _shape(node.inputs[0]),
                _shape(node.outputs[0]),
                n_steps=self.n_steps,
                weight_bits=self._bits(node),
            )
        ]

    @staticmethod
    def _trained_bits(node: ir.Node) -> int:
        """Return the bits of a layer whose weights are multiples of their scale as they come.

        Such a network was trained with so few bits. Else its weights are real: their bits here are
        what the export will make of them.
        """
        w, scale = ir.array_of(node.inputs[1]), ir.array_of(node.inputs[2])
        scale = np.where(scale == 0, 1, scale)
        scale = scale if _name_of(node) == "DepthwiseConv" else scale.reshape(-1, 1, 1, 1)
        grid = np.asarray(w, np.float64) / scale
        on_it = np.allclose(grid, np.rint(grid), rtol=0, atol=1e-6)
        return int(ir.attribute(node, "weight_bits")) if on_it else REAL_BITS

    @staticmethod
    def _integers(node: ir.Node) -> np.ndarray:
        """Return the integer weights of a layer, unpacked where they are packed."""
        unpack = node.inputs[1].producer() if node.inputs[1] is not None else None
        if unpack is None:
            return ir.array_of(node.inputs[1])
        packed = ir.array_of(unpack.inputs[0])
        return arithmetic.unpack_weights(packed, ir.attribute(unpack, "channels"))

    def products(self, node: ir.Node) -> list[Layer]:
        """Return the two halves of q (k^T v)."""
        q, k, v = (_source(x) for x in node.inputs)
        common = (_shape(node.inputs[0]), ir.attribute(node, "heads"))
        name = str(node.name)
        return [
            product_layer(f"{name}.map", node.op_type, "k^T v", *common, n_steps=self.n_steps,
                          reads=(k, v)),
            product_layer(name, node.op_type, "q m", *common, n_steps=self.n_steps, reads=(q,),
                          writes=_writes(node)),
        ]  # fmt: skip

    def level_add(self, node: ir.Node) -> list[Layer]:
        return [
            plain_layer(
                str(node.name),
                node.op_type,
                "level add",
                _shape(node.inputs[0]),
                _shape(node.outputs[0]),
                n_steps=self.n_steps,
                reads=(_source(node.inputs[0]),),
                writes=str(node.outputs[0].name),
            )
        ]

    def _on_counts(self, node: ir.Node, name: str, spikes: int) -> Layer:
        """Return a 1x1 layer that runs on spike counts, as the layer that it stands for."""
        source, weight = _shape(node.inputs[spikes]), self._weight(node, spikes + 1)
        return conv_layer(
            name,
            node.op_type,
            source,
            (*source[:2], weight[0]),
            weight,
            n_steps=self.n_steps,
            reads=_source(node.inputs[spikes]),
        )

    def counts(self, node: ir.Node) -> list[Layer]:
        return [self._on_counts(node, str(node.name), 0)]

    def read_out(self, node: ir.Node) -> list[Layer]:
        n_heads = sum(bool(ir.array_of(v).any()) for v in node.inputs[7:9])
        hidden = self._on_counts(node, f"{node.name}.hidden", 2)
        return [hidden, self._heads(node, node.inputs[8], n_heads)]

    def mean_read_out(self, node: ir.Node) -> list[Layer]:
        return [self._heads(node, node.inputs[1], 1)]

    def _heads(self, node: ir.Node, v: ir.Value | None, n: int) -> Layer:
        classes, width = ir.size(v, 0), ir.size(v, 1)
        name = f"{node.name}.heads"
        return linear_layer(name, node.op_type, width, classes, weight_bits=HEAD_BITS, n=n)

    def head(self, node: ir.Node) -> list[Layer]:
        width, classes = (ir.size(node.inputs[1], axis) for axis in (0, 1))
        name = str(node.name).removesuffix(".matmul")
        return [linear_layer(name, node.op_type, width, classes, weight_bits=REAL_BITS)]

    def pool(self, node: ir.Node) -> list[Layer]:
        return [
            plain_layer(
                str(node.name),
                node.op_type,
                "pool",
                _shape(node.inputs[0]),
                _shape(node.outputs[0]),
                n_steps=self.n_steps,
                reads=(_source(node.inputs[0]),),
                writes=str(node.outputs[0].name),
            )
        ]

    def max_pool(self, node: ir.Node) -> list[Layer]:
        source, out = _shape(node.inputs[0]), _shape(node.outputs[0])
        name = str(node.name)
        return [plain_layer(name, node.op_type, "pool", source, out, n_steps=self.n_steps)]

    def unread(self, node: ir.Node) -> list[Layer]:
        """Return a row of a neuron whose output is not {0, 1}."""
        source, out = _shape(node.inputs[0]), _shape(node.outputs[0])
        name = str(node.name)
        return [plain_layer(name, node.op_type, "neuron", source, out, n_steps=self.n_steps)]

    def addition(self, node: ir.Node) -> list[Layer]:
        inner = _name_of(node) == "AddAttention"
        return [
            addition_layer(
                str(node.name),
                node.op_type,
                _shape(node.inputs[0]),
                ir.attribute(node, "heads"),
                n_steps=self.n_steps,
                reads=_source(node.inputs[0]),
                writes=_writes(node) if inner else str(node.outputs[0].name),
            )
        ]

    def gate(self, node: ir.Node) -> list[Layer]:
        writes = node.outputs[0].name if _name_of(node) != "KeyValueCounts" else _writes(node)
        return [
            plain_layer(
                str(node.name),
                node.op_type,
                "gate",
                _shape(node.inputs[0]),
                _shape(node.outputs[0]),
                n_steps=self.n_steps,
                reads=tuple(_source(v) for v in node.inputs),
                writes=None if writes is None else str(writes),
            )
        ]

    def product(self, node: ir.Node) -> list[Layer]:
        kind = _PRODUCTS[_name_of(node)]
        tokens = node.inputs[1 if kind == "a v" else 0]
        one, two = (_source(v) for v in node.inputs)
        return [
            product_layer(
                str(node.name),
                node.op_type,
                kind,
                _shape(tokens),
                ir.attribute(node, "heads"),
                n_steps=self.n_steps,
                reads=(one, two),
                writes=_writes(node),
            )
        ]

    def neuron(self, node: ir.Node) -> Layer:
        return plain_layer(
            str(node.name),
            node.op_type,
            "neuron",
            _shape(node.inputs[0]),
            _shape(node.outputs[-1]),
            n_steps=self.n_steps,
            writes=str(node.outputs[-1].name),
        )


def steps_of_graph(model: ir.Model) -> int:
    """Return T, 1 where no op of the graph has time steps."""
    rows = (stages.op_of(node) for node in model.graph)
    return next((row[1] for row in rows if row is not None and row[0].unrolled), 1)


def layers_of_graph(model: ir.Model) -> list[Layer]:
    """Return the table of layers in order; shapes must be inferred.

    Spike tensors go by the names of the graph's values, {0, 1} in [T, B, ..] each.
    """
    return list(_Reader(model).rows())


def n_scales_of_graph(model: ir.Model, *, per_head: bool) -> int:
    """Return the number of scales (lambda) of the attention, per step, or per step and head."""
    second = [n for n in model.graph if _name_of(n) in ("Values", "QueryValues")]
    heads = [ir.attribute(node, "heads") if per_head else 1 for node in second]
    return steps_of_graph(model) * sum(heads)
