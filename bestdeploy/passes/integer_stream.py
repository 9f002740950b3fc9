"""Integer stream: affines, residuals and the neurons that read them in Q(F) (sections 5, 6, 8).

    ChannelAffine(n, a, b)   ->  FromFixed(StreamAffine(n, Ai, Af, B))
        A = a 2^F,  Ai = rint(A),  Af = rint((A - Ai) 2^15),  B = rint(b 2^F)
    ReversibleMix(y, x0, x1) ->  FromFixed(ReversibleAdd(y, x0, x1))
    RealMaxPool(x)           ->  FromFixed(StreamMaxPool(x))
    TokenMean(x)             ->  FromFixed(StreamTokenMean(x))
    Repeat(x)                ->  FromFixed(Repeat(x))
    Lif(FromFixed(x))        ->  MembraneNeuron(x)
    ChannelAffine(PointwiseConv(FromFixed(x), q), a, b)
                             ->  FromFixed(FixedPointwise(x, q, M, s, B))
        a = M 2^-s with the largest s <= 62 for which |M| < 2^24 and |n| |M| < 2^62

Nodes are visited in order, so every input of a residual is fixed-point when its turn comes.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np

from bestdeploy import ir
from bestdeploy.errors import PassError
from bestdeploy.ops.pointwise_conv import GAIN_LIMIT, MAX_SHIFT
from bestdeploy.passes.definition import Pass, find, is_op, n_steps_of, producer
from bestdeploy.passes.fixed_point import frac_bits
from bestdeploy.passes.integer_attention import neuron_attributes
from bestdeploy.passes.level_thresholds import stream_levels
from bestdeploy.passes.threshold_tables import weight_type


def affine_constants(
    a: np.ndarray, b: np.ndarray, bits: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return Ai int32, Af int16 and B int32 [C] of float64 a, b."""
    exact = [Fraction(float(v)) * 2**bits for v in a]
    whole = [round(v) for v in exact]
    fraction = [round((v - w) * 2**15) for v, w in zip(exact, whole, strict=True)]
    shift = [round(Fraction(float(v)) * 2**bits) for v in b]
    return np.array(whole, np.int32), np.array(fraction, np.int16), np.array(shift, np.int32)


def fixed(value: ir.Value | None, reader: ir.Node) -> ir.Value:
    """Return the integer behind a FromFixed."""
    node = producer(value, "FromFixed")
    if node is None or node.inputs[0] is None:
        raise PassError("an input is not fixed-point yet", where=str(reader.name))
    return node.inputs[0]


def _affine(node: ir.Node, b: ir.Builder, bits: int) -> ir.Value:
    conv = producer(node.inputs[0], "PointwiseConv")
    if conv is not None:
        return _pointwise(node, conv, b, bits)
    a, shift = (ir.array_of(v) for v in node.inputs[1:])
    constants = affine_constants(a, shift, bits)
    names = (f"{node.name}.{p}" for p in ("whole", "fraction", "shift"))
    held = [b.initializer(n, c) for n, c in zip(names, constants, strict=True)]
    x = b.op("StreamAffine", node.inputs[0], *held, domain=ir.DOMAIN, name=node.name)
    return b.op("FromFixed", x, domain=ir.DOMAIN, name=f"{node.name}.real", bits=bits)


def gain_and_shift(a: float, reach: int) -> tuple[int, int]:
    """Return M and s of a gain a on integers up to `reach`: a = M 2^-s, s as large as it may be."""
    exact = Fraction(a)
    limit = min(GAIN_LIMIT, 2**62 // max(reach, 1))
    for s in range(MAX_SHIFT, -1, -1):
        m = round(exact * 2**s)
        if abs(m) < limit:
            return m, s
    raise PassError(f"a gain of {a:g} on values up to 2^{reach.bit_length()} leaves int64")


def _pointwise(node: ir.Node, conv: ir.Node, b: ir.Builder, bits: int) -> ir.Value:
    a, shift = (ir.array_of(v) for v in node.inputs[1:])
    q = ir.array_of(conv.inputs[1]).astype(np.int64)
    reach = [int(row) << 31 for row in np.abs(q).sum(axis=(1, 2, 3))]  # x is an int32
    pairs = [gain_and_shift(float(v), n) for v, n in zip(a, reach, strict=True)]
    held = (
        ("integers", weight_type(q)),
        ("gain", np.array([m for m, _ in pairs], np.int32)),
        ("shift", np.array([s for _, s in pairs], np.uint8)),
        ("offset", np.array([round(Fraction(float(v)) * 2**bits) for v in shift], np.int32)),
    )
    constants = [b.initializer(f"{conv.name}.fixed.{p}", v) for p, v in held]
    x = b.op("FixedPointwise", fixed(conv.inputs[0], conv), *constants, domain=ir.DOMAIN,
             name=conv.name)  # fmt: skip
    return b.op("FromFixed", x, domain=ir.DOMAIN, name=f"{node.name}.real", bits=bits)


def _residual(node: ir.Node, b: ir.Builder, bits: int) -> ir.Value:
    inputs = [fixed(v, node) for v in node.inputs]
    x = b.op("ReversibleAdd", *inputs, domain=ir.DOMAIN, name=node.name)
    return b.op("FromFixed", x, domain=ir.DOMAIN, name=f"{node.name}.real", bits=bits)


def _same(op_type: str) -> Callable[[ir.Node, ir.Builder, int], ir.Value]:
    """Return the rewrite to an integer op with the attributes of the real one."""

    def rewrite(node: ir.Node, b: ir.Builder, bits: int) -> ir.Value:
        x = b.op(op_type, fixed(node.inputs[0], node), domain=ir.DOMAIN, name=node.name,
                 **ir.attributes(node))  # fmt: skip
        return b.op("FromFixed", x, domain=ir.DOMAIN, name=f"{node.name}.real", bits=bits)

    return rewrite


def _repeat(node: ir.Node, b: ir.Builder, bits: int) -> ir.Value:
    x = b.op(node.op_type, fixed(node.inputs[0], node), domain=ir.DOMAIN, name=node.name)
    return b.op("FromFixed", x, domain=ir.DOMAIN, name=f"{node.name}.real", bits=bits)


def _neuron(node: ir.Node, b: ir.Builder, bits: int) -> ir.Value:
    kind = "ConstantMembraneNeuron" if is_op(node, "ConstantLif") else "MembraneNeuron"
    x = fixed(node.inputs[0], node)
    return b.op(f"{kind}_T{n_steps_of(node)}", x, domain=ir.DOMAIN, name=node.name,
                **neuron_attributes(node, bits))  # fmt: skip


def _levels(node: ir.Node, b: ir.Builder, bits: int) -> ir.Value:
    return stream_levels(node, fixed(node.inputs[0], node), b, bits)


_REWRITES: dict[str, Callable[[ir.Node, ir.Builder, int], ir.Value]] = {
    "ChannelAffine": _affine,
    "ReversibleMix": _residual,
    "RealMaxPool": _same("StreamMaxPool"),
    "TokenMean": _same("StreamTokenMean"),
    "Repeat": _repeat,
    "Lif": _neuron,
    "ConstantLif": _neuron,
    "LevelNeuron": _levels,
}


def apply(model: ir.Model) -> int:
    """Rewrite everything between the convolutions and the read-out."""
    bits = frac_bits(model)
    changes = 0
    for node in list(model.graph):
        if producer(node.inputs[0] if node.inputs else None, "AddAttention") is not None:
            continue  # its sums do not lie in the stream: see integer_addition
        if is_op(node, "Repeat") and producer(node.inputs[0], "FromFixed") is None:
            continue  # the same op repeats integers
        for name, rewrite in _REWRITES.items():
            if is_op(node, name):
                b = ir.Builder(f"{node.name}.fixed")
                y = rewrite(node, b, bits)
                ir.replace(model.graph, [node], b, {node.outputs[0]: y})
                changes += 1
    ir.drop_unused(model.graph)
    for node in find(model, "FromFixed"):
        if not node.outputs[0].uses():
            model.graph.remove([node], safe=True)
    return changes


PASS = Pass("integer_stream", "reals", apply)
