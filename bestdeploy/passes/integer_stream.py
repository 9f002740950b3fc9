"""Integer stream: affines, residuals and the neurons that read them in Q(F) (sections 5, 6, 8).

    ChannelAffine(n, a, b)   ->  FromFixed(StreamAffine(n, Ai, Af, B))
        A = a 2^F,  Ai = rint(A),  Af = rint((A - Ai) 2^15),  B = rint(b 2^F)
    ReversibleMix(y, x0, x1) ->  FromFixed(ReversibleAdd(y, x0, x1))
    RealMaxPool(x)           ->  FromFixed(StreamMaxPool(x))
    TokenMean(x)             ->  FromFixed(StreamTokenMean(x))
    Repeat(x)                ->  FromFixed(Repeat(x))
    Lif(FromFixed(x))        ->  MembraneNeuron(x)

Nodes are visited in order, so every input of a residual is fixed-point when its turn comes.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np

from bestdeploy import ir
from bestdeploy.errors import PassError
from bestdeploy.passes.definition import Pass, find, is_op, n_steps_of, producer
from bestdeploy.passes.fixed_point import frac_bits
from bestdeploy.passes.integer_attention import neuron_attributes


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
    a, shift = (ir.array_of(v) for v in node.inputs[1:])
    constants = affine_constants(a, shift, bits)
    names = (f"{node.name}.{p}" for p in ("whole", "fraction", "shift"))
    held = [b.initializer(n, c) for n, c in zip(names, constants, strict=True)]
    x = b.op("StreamAffine", node.inputs[0], *held, domain=ir.DOMAIN, name=node.name)
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


_REWRITES: dict[str, Callable[[ir.Node, ir.Builder, int], ir.Value]] = {
    "ChannelAffine": _affine,
    "ReversibleMix": _residual,
    "RealMaxPool": _same("StreamMaxPool"),
    "TokenMean": _same("StreamTokenMean"),
    "Repeat": _repeat,
    "Lif": _neuron,
    "ConstantLif": _neuron,
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
    for node in find(model, "FromFixed"):
        if not node.outputs[0].uses():
            model.graph.remove([node], safe=True)
    return changes


PASS = Pass("integer_stream", "reals", apply)
