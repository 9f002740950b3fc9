"""Integer read-out: means, heads and the counted last layer in int64 (numerics section 9).

    q = ceil(log2(T N)), G = 20
    V = rint(w 2^(q+G) / (T N)),  C = rint(b 2^(F+G)),  Bsum = T N rint(b_last 2^F)
    raw = V0 (S0 >> q) + V1 (S1 >> q) + C,   logits = float32(raw 2^-(F+G))

`w` and `b` are the merged head's (the 1/2 of two averaged heads is in them already).
"""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

import numpy as np

from bestdeploy import ir
from bestdeploy.errors import PassError
from bestdeploy.passes.definition import Pass, producer
from bestdeploy.passes.fixed_point import GAIN_BITS, frac_bits
from bestdeploy.passes.integer_stream import affine_constants


class _Heads(NamedTuple):
    """The pieces of the real read-out, and the nodes they came from."""

    first: ir.Value  # stream whose mean the first head reads
    w0: np.ndarray
    w1: np.ndarray | None
    bias: np.ndarray
    counted: ir.Node | None  # CountAffine
    previous: ir.Value | None  # the other stream of the last residual


def weights(w: np.ndarray, positions: int, q: int) -> np.ndarray:
    """Return V int32 [K, D] of float64 w [D, K]."""
    unit = Fraction(2 ** (q + GAIN_BITS), positions)
    values = [[round(Fraction(float(v)) * unit) for v in column] for column in w.T]
    largest = max(abs(v) for column in values for v in column)
    if largest >= 2**31:
        raise PassError(
            f"a head weight needs {largest.bit_length()} bits, at most 31 are held",
            where="head",
            hint="weights of the heads must stay below about 2000",
        )
    return np.array(values, np.int32)


def _source(value: ir.Value | None, op_type: str) -> ir.Node:
    node = None if value is None else value.producer()
    if node is None or node.op_type != op_type:
        name = "an input" if node is None else f"`{node.op_type}`"
        raise PassError(f"the read-out has {name} where `{op_type}` is expected")
    return node


def _stream(value: ir.Value | None) -> ir.Value:
    node = producer(value, "FromFixed")
    if node is None or node.inputs[0] is None:
        raise PassError("the read-out does not read a fixed-point stream")
    return node.inputs[0]


def _match(logits: ir.Value) -> _Heads:
    add = _source(logits, "Add")
    bias = ir.array_of(add.inputs[1])
    total = add.inputs[0].producer() if add.inputs[0] is not None else None
    if total is not None and total.op_type == "MatMul":  # one head
        mean = _source(total.inputs[0], "ReduceMean")
        w0 = ir.array_of(total.inputs[1])
        return _Heads(_stream(mean.inputs[0]), w0, None, bias, None, None)
    both = _source(add.inputs[0], "Add")
    m0, m1 = (_source(v, "MatMul") for v in both.inputs)
    first = _stream(_source(m0.inputs[0], "ReduceMean").inputs[0])
    counted_sum = _source(m1.inputs[0], "Add")
    rest = _source(counted_sum.inputs[0], "ReduceMean")
    halved = _source(rest.inputs[0], "Mul")
    pair = [_stream(v) for v in _source(halved.inputs[0], "Add").inputs]
    counted = producer(counted_sum.inputs[1], "CountAffine")
    if counted is None or first not in pair:
        raise PassError("the read-out is not two heads on the last two streams")
    previous = pair[0] if pair[1] is first else pair[1]
    return _Heads(first, ir.array_of(m0.inputs[1]), ir.array_of(m1.inputs[1]), bias, counted,
                  previous)  # fmt: skip


def _constants(heads: _Heads, positions: int, bits: int, q: int) -> dict[str, np.ndarray]:
    assert heads.counted is not None
    signs = ir.array_of(heads.counted.inputs[1])
    a, b = (ir.array_of(v) for v in heads.counted.inputs[2:])
    whole, fraction, shift = affine_constants(a, b, bits)
    unit = 2 ** (bits + GAIN_BITS)
    w1 = np.zeros_like(heads.w0) if heads.w1 is None else heads.w1
    return {
        "signs": signs,
        "whole": whole,
        "fraction": fraction,
        "shift": shift.astype(np.int64) * positions,
        "v0": weights(heads.w0, positions, q),
        "v1": weights(w1, positions, q),
        "constant": np.array([round(Fraction(float(v)) * unit) for v in heads.bias], np.int64),
    }


def apply(model: ir.Model) -> int:
    """Replace everything between the last streams and the logits."""
    bits = frac_bits(model)
    logits = model.graph.outputs[0]
    heads = _match(logits)
    if heads.counted is None or heads.previous is None:
        raise PassError(
            "a read-out with one head is not supported yet",
            hint="only variant=official exports",
        )
    positions = ir.size(heads.first, 0) * ir.size(heads.first, 2) * ir.size(heads.first, 3)
    q = (positions - 1).bit_length()
    b = ir.Builder("readout.integer")
    constants = _constants(heads, positions, bits, q)
    held = [b.initializer(f"readout.{k}", v) for k, v in constants.items()]
    raw = b.op("ReadOut", heads.first, heads.previous, heads.counted.inputs[0], *held,
               domain=ir.DOMAIN, name="readout", output_names=["raw"], q=q)  # fmt: skip
    n_classes = constants["constant"].shape[0]
    ir.set_type(raw, np.int64, ["B", n_classes])
    wide = b.op("Cast", raw, to=11, name="logits.wide")
    unit = b.initializer("logits.unit", np.array(2.0 ** -(bits + GAIN_BITS)))
    scaled = b.op("Mul", wide, unit, name="logits.scaled")
    out = b.op("Cast", scaled, to=1, name="logits", output_names=["logits"])
    ir.set_type(out, np.float32, ["B", n_classes])
    for value in b.initializers.values():
        model.graph.register_initializer(value)
    logits.name = None
    model.graph.extend(b.nodes)
    model.graph.outputs.clear()
    model.graph.outputs.extend([out, raw])
    ir.drop_unused(model.graph)
    model.graph.sort()
    model.metadata_props["logit_shift"] = str(bits + GAIN_BITS)
    model.metadata_props["stage"] = "folded"
    return 1


PASS = Pass("integer_readout", "reals", apply)
