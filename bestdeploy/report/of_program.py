"""The layers of a Program, that is of a `.bstm`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

from bestdeploy.program import OPS, BufferKind, Constant, Op, Program, Step
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

__all__ = ["layers_of_program", "n_scales_of_program"]

STEM_BITS = 24  # three balanced int8 limbs
HEAD_BITS = 32


@dataclass(frozen=True)
class _At:
    """A step with what it touches: shapes without time, and the names of spike tensors."""

    program: Program
    step: Step
    writers: dict[int, str]

    @property
    def name(self) -> str:
        return self.step.name

    @property
    def op(self) -> str:
        return self.step.op.name.lower()

    @property
    def writes(self) -> str | None:
        found = [b for b in self.step.outputs if self.program.buffers[b].kind == BufferKind.SPIKES]
        return self.name if found else None

    def shape(self, buffer: int) -> Shape:
        held = self.program.buffers[buffer]
        return (held.h, held.w, held.c)

    def source(self, port: int = 0) -> Shape:
        return self.shape(self.step.inputs[port])

    def out(self) -> Shape:
        return self.shape(self.step.outputs[-1])

    def spikes(self, port: int) -> str:
        return self.writers[self.step.inputs[port]]

    def constant(self, slot: int) -> Constant | None:
        number = self.step.constant(slot)
        return None if number is None else self.program.constants[number]

    def dims(self, slot: int) -> Shape:
        held = self.constant(slot)
        assert held is not None  # `validate` has seen to it
        return held.dims


def _stem(at: _At) -> list[Layer]:
    n_steps = at.program.buffers[at.step.inputs[0]].t
    return [
        pixel_layer(
            at.name,
            at.op,
            at.source(),
            at.out(),
            at.dims(0),
            n_steps=n_steps,
            weight_bits=STEM_BITS,
            writes=at.writes,
        )
    ]


def _pool(at: _At) -> list[Layer]:
    return [
        plain_layer(
            at.name,
            at.op,
            "pool",
            at.source(),
            at.out(),
            n_steps=at.program.n_steps,
            reads=(at.spikes(0),),
            writes=at.writes,
        )
    ]


def _conv(at: _At) -> list[Layer]:
    stride, pad = at.step.param(0), at.step.param(1)
    return [
        conv_layer(
            at.name,
            at.op,
            at.source(),
            at.out(),
            at.dims(0),
            n_steps=at.program.n_steps,
            reads=at.spikes(0),
            writes=at.writes,
            strides=(stride, stride),
            pads=(pad, pad),
        )
    ]


def _weight_conv(at: _At) -> list[Layer]:
    """Return a convolution with integer weights; its input is spikes, or planes of levels."""
    stride, pad, kh, kw = (at.step.param(i) for i in range(4))
    bits, o, _, i = at.dims(0)
    height, width, held = at.source()
    n_planes = -(-held // 64) // -(-i // 64)
    return [
        conv_layer(
            at.name,
            at.op,
            (height, width, i),
            at.out(),
            (o, kh, kw, i),
            n_steps=at.program.n_steps,
            reads=at.spikes(0),
            writes=at.writes,
            strides=(stride, stride),
            pads=(pad, pad),
            weight_bits=bits,
            levels=2**n_planes - 1,
        )
    ]


def _products(at: _At) -> list[Layer]:
    """Return the two halves of q (k^T v): the second has the neuron."""
    common = (at.source(0), at.step.param(0))
    n_steps = at.program.n_steps
    keys, values = at.spikes(1), at.spikes(2)
    return [
        product_layer(f"{at.name}.map", at.op, "k^T v", *common, n_steps=n_steps,
                      reads=(keys, values)),
        product_layer(at.name, at.op, "q m", *common, n_steps=n_steps, reads=(at.spikes(0),),
                      writes=at.writes),
    ]  # fmt: skip


def _level_add(at: _At) -> list[Layer]:
    shape = (*at.out()[:2], at.step.param(0))
    return [
        plain_layer(
            at.name,
            at.op,
            "level add",
            shape,
            shape,
            n_steps=at.program.n_steps,
            reads=(at.spikes(0),),
            writes=at.writes,
        )
    ]


def _level_read_out(at: _At) -> list[Layer]:
    return [
        linear_layer(
            f"{at.name}.heads", at.op, at.step.param(1), at.program.n_classes, weight_bits=HEAD_BITS
        )
    ]


def _neuron(at: _At) -> list[Layer]:
    return [
        plain_layer(
            at.name,
            at.op,
            "neuron",
            at.source(),
            at.out(),
            n_steps=at.program.n_steps,
            writes=at.writes,
        )
    ]


def _product(kind: Kind, tokens: int) -> Callable[[_At], list[Layer]]:
    """Return the reader of an attention product; port `tokens` holds spikes [H, W, D]."""

    def read(at: _At) -> list[Layer]:
        return [
            product_layer(
                at.name,
                at.op,
                kind,
                at.source(tokens),
                at.step.param(0),
                n_steps=at.program.n_steps,
                reads=(at.spikes(0), at.spikes(1)),
                writes=at.writes,
            )
        ]

    return read


def _read_out(at: _At) -> list[Layer]:
    """Return the last layer of the last MLP, which runs on spike counts, and the classifiers."""
    height, width, dim = at.source(0)
    n_heads = sum(at.constant(slot) is not None for slot in (4, 5))
    hidden = conv_layer(
        f"{at.name}.hidden",
        at.op,
        at.source(2),
        (height, width, dim),
        at.dims(0),
        n_steps=at.program.n_steps,
        reads=at.spikes(2),
    )
    classes = at.program.n_classes
    return [
        hidden,
        linear_layer(f"{at.name}.heads", at.op, dim, classes, weight_bits=HEAD_BITS, n=n_heads),
    ]


def _stream_read_out(at: _At) -> list[Layer]:
    dim = at.source(0)[-1]
    return [
        linear_layer(f"{at.name}.heads", at.op, dim, at.program.n_classes, weight_bits=HEAD_BITS)
    ]


def _addition(at: _At) -> list[Layer]:
    return [
        addition_layer(
            at.name,
            at.op,
            at.source(),
            at.step.param(0),
            n_steps=at.program.n_steps,
            reads=at.spikes(0),
            writes=at.writes,
        )
    ]


def _gate(at: _At) -> list[Layer]:
    """Return a row of spikes combined with spikes, bit by bit."""
    return [
        plain_layer(
            at.name,
            at.op,
            "gate",
            at.source(),
            at.out(),
            n_steps=at.program.n_steps,
            reads=(at.spikes(0), at.spikes(1)),
            writes=at.writes,
        )
    ]


def _max_pool(at: _At) -> list[Layer]:
    return [plain_layer(at.name, at.op, "pool", at.source(), at.out(), n_steps=at.program.n_steps)]


def _depthwise(at: _At) -> list[Layer]:
    stride, pad, kh, kw = (at.step.param(i) for i in range(4))
    bits, _, _, channels = at.dims(0)
    fed = at.step.op == Op.DEPTHWISE_LEVELS
    return [
        depthwise_layer(
            at.name,
            at.op,
            (*at.source()[:2], channels),
            at.out(),
            (1, kh, kw, channels),
            n_steps=at.program.n_steps,
            weight_bits=bits,
            reads=at.spikes(0) if fed else None,
            strides=(stride, stride),
            pads=(pad, pad),
        )
    ]


def _stream_conv(at: _At) -> list[Layer]:
    return [
        stream_conv_layer(
            at.name,
            at.op,
            at.source(),
            at.out(),
            n_steps=at.program.n_steps,
            weight_bits=at.dims(0)[0],
        )
    ]


def _level_products(at: _At) -> list[Layer]:
    """Return the two halves of q (k^T v) on levels; the neuron is a step of its own."""
    shape, n_steps = at.out(), at.program.n_steps
    q, k, v = (at.spikes(i) for i in range(3))
    heads = at.step.param(0)
    return [
        product_layer(f"{at.name}.map", at.op, "k^T v", shape, heads, n_steps=n_steps,
                      reads=(k, v)),
        product_layer(at.name, at.op, "q m", shape, heads, n_steps=n_steps, reads=(q,)),
    ]  # fmt: skip


def _between(at: _At) -> list[Layer]:
    """Return a row of a step from stream to stream without weights."""
    n_steps = at.program.n_steps
    return [plain_layer(at.name, at.op, "other", at.source(), at.out(), n_steps=n_steps)]


def _levels(at: _At) -> list[Layer]:
    """Return a row of a neuron of several levels; its shape is that of its channels."""
    return [
        plain_layer(
            at.name,
            at.op,
            "neuron",
            at.source(),
            at.source(),
            n_steps=at.program.n_steps,
            writes=at.writes,
        )
    ]


_READERS: dict[Op, Callable[[_At], list[Layer]]] = {
    Op.STEM_NEURON: _stem,
    Op.STEM_STREAM: _stem,
    Op.OR_POOL: _pool,
    Op.CONV_NEURON: _conv,
    Op.CONV_AFFINE: _conv,
    Op.STREAM_NEURON: _neuron,
    Op.RESIDUAL_NEURON: _neuron,
    Op.SCORE_NEURON: _product("q k^T", 0),
    Op.VALUE_NEURON: _product("a v", 1),
    Op.READOUT: _read_out,
    Op.KEY_VALUE_NEURON: _product("k^T v", 0),
    Op.QUERY_VALUE_NEURON: _product("q a", 0),
    Op.RESIDUAL_READOUT: _stream_read_out,
    Op.KEY_VALUE_ANY: _gate,
    Op.TERNARY_NEURON: _neuron,
    Op.ADD_NEURON: _addition,
    Op.GATE: _gate,
    Op.MAX_POOL: _max_pool,
    Op.MEAN_NEURON: _neuron,
    Op.COUNT_READOUT: _stream_read_out,
    Op.WEIGHT_CONV_NEURON: _weight_conv,
    Op.WEIGHT_CONV_AFFINE: _weight_conv,
    Op.PRODUCT_NEURON: _products,
    Op.LEVEL_ADD: _level_add,
    Op.LEVEL_READOUT: _level_read_out,
    Op.STREAM_ADD: _between,
    Op.STREAM_MEAN: _between,
    Op.STREAM_LEVELS: _levels,
    Op.DEPTHWISE_LEVELS: _depthwise,
    Op.DEPTHWISE_STREAM: _depthwise,
    Op.STREAM_CONV: _stream_conv,
    Op.LEVEL_PRODUCTS: _level_products,
}


_STEMS = (Op.STEM_NEURON, Op.STEM_STREAM)
_STREAMS = (Op.CONV_AFFINE, Op.WEIGHT_CONV_AFFINE, Op.DEPTHWISE_LEVELS, Op.DEPTHWISE_STREAM)
_DENSE = (*_STEMS, Op.DEPTHWISE_STREAM, Op.STREAM_CONV)  # whole numbers times weights


def _multiplications(at: _At, layer: Layer) -> int:
    """Return the multiplications of one frame: pixels, affines, leaks, means, classifiers.

    An affine into the stream has two per value where its gain is not 1, that of a stream's 1x1
    convolution one; a neuron whose leak is no shift one per step; sums
    of weights and of keys, thresholds, gates and tables have none.
    """
    if layer.kind == "linear":
        return layer.total_macs + (2 * at.dims(1)[0] if at.step.op == Op.READOUT else 0)
    values = math.prod(at.out()) * at.program.n_steps
    found = layer.total_macs if at.step.op in _DENSE else 0
    if at.step.op == Op.LEVEL_PRODUCTS:  # levels times the numbers of k^T v
        found += layer.total_macs
    elif at.step.op == Op.STREAM_CONV:
        found += values
    elif at.step.op in _STREAMS and not _is_plain(at):
        found += 2 * values
    elif OPS[at.step.op].neuron and not _is_shift(at.step):
        found += math.prod(at.source()) * at.program.n_steps
    return found + (values if at.step.op in (Op.MEAN_NEURON, Op.STREAM_MEAN) else 0)


def _is_plain(at: _At) -> bool:
    """Tell whether the affine of a step leaves its sums as they are."""
    whole, fraction = at.constant(1), at.constant(2)
    assert whole is not None and fraction is not None
    return bool((whole.data == 1).all()) and not fraction.data.any()


def _is_shift(step: Step) -> bool:
    """Tell whether the leak of a step's neuron, if it has one, is a shift: r a power of two."""
    rate = abs(step.param(7))
    return rate & (rate - 1) == 0


def _at_steps(program: Program) -> list[_At]:
    writers = {b: step.name for step in program.steps for b in step.outputs}
    return [_At(program, step, writers) for step in program.steps]


def layers_of_program(program: Program) -> list[Layer]:
    """Return the table of layers in order of execution; spike tensors go by their step's name."""
    found = []
    for at in _at_steps(program):
        *others, last = _READERS[at.step.op](at)
        found += [*others, dataclasses.replace(last, multiplications=_multiplications(at, last))]
    return found


def n_scales_of_program(program: Program, *, per_head: bool) -> int:
    """Return the number of scales (lambda) of the attention, per step, or per step and head."""
    mixing = (Op.VALUE_NEURON, Op.QUERY_VALUE_NEURON)
    steps = [step for step in program.steps if step.op in mixing]
    return program.n_steps * sum(step.param(0) if per_head else 1 for step in steps)
