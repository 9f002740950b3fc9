"""Integer read-out: means, heads and the counted last layer in int64 (numerics section 9).

    q = ceil(log2(T N)), G = 20
    V = rint(w 2^(q+G) / (T N)),  C = rint(b 2^(F+G)),  Bsum = T N rint(b_last 2^F)
    raw = V0 (S0 >> q) + V1 (S1 >> q) + C,   logits = float32(raw 2^-(F+G))

`w` and `b` are the merged head's (the 1/2 of two averaged heads is in them already). One head
reads either a stream as it is (MeanReadOut) or the counted last layer (ReadOut with V0 = 0).

A head on the mean of spikes over time and tokens has no Q(F) values in front of it:

    V = rint(w 2^S / (T N)),  C = rint(b 2^S),  raw = V cnt + C,  logits = float32(raw 2^-S)

with S the largest number up to F+G for which every V fits int32 (CountReadOut).
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
    """The pieces of the real read-out."""

    bias: np.ndarray
    mean: tuple[ir.Value, np.ndarray] | None  # a stream or levels, and the weights on its mean
    counted: tuple[_Counted, np.ndarray] | None  # the last layer, and the weights on its mean


class _Counted(NamedTuple):
    """The last residual in its counted form: mean((x0 + x1)/2) + CountAffine."""

    pair: tuple[ir.Value, ir.Value]
    node: ir.Node


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


def levels_of(value: ir.Value | None) -> ir.Node | None:
    """Return the op behind a value that holds levels, None where there is none."""
    return producer(value, "LevelAdd") or producer(value, "LevelThresholds")


def _stream(value: ir.Value | None) -> ir.Value:
    """Return the fixed-point stream behind a value, or the levels behind a Cast of them."""
    cast = None if value is None else value.producer()
    if cast is not None and cast.op_type == "Cast" and levels_of(cast.inputs[0]) is not None:
        return cast.inputs[0]  # type: ignore[return-value]
    node = producer(value, "FromFixed")
    if node is None or node.inputs[0] is None:
        raise PassError("the read-out does not read a fixed-point stream")
    return node.inputs[0]


def _features(value: ir.Value | None) -> ir.Value | _Counted:
    """Return the stream whose mean a value is, or the counted last layer."""
    node = None if value is None else value.producer()
    if node is not None and node.op_type == "ReduceMean":
        return _stream(node.inputs[0])
    total = _source(value, "Add")
    counted = producer(total.inputs[1], "CountAffine")
    if counted is None:
        raise PassError("the read-out does not read the last layer's spike counts")
    halved = _source(_source(total.inputs[0], "ReduceMean").inputs[0], "Mul")
    first, second = (_stream(v) for v in _source(halved.inputs[0], "Add").inputs)
    return _Counted((first, second), counted)


def _counted_spikes(logits: ir.Value) -> tuple[ir.Value, np.ndarray, np.ndarray] | None:
    """Return (spikes, w [D, K], b [K]) of a head on the mean of spikes, None for any other."""
    add = _source(logits, "Add")
    product = add.inputs[0].producer() if add.inputs[0] is not None else None
    mean = None if product is None or product.inputs[0] is None else product.inputs[0].producer()
    cast = None if mean is None or mean.inputs[0] is None else mean.inputs[0].producer()
    if cast is None or cast.op_type != "Cast" or cast.inputs[0] is None:
        return None
    if levels_of(cast.inputs[0]) is not None:  # levels have a read-out of their own
        return None
    assert product is not None
    return cast.inputs[0], ir.array_of(product.inputs[1]), ir.array_of(add.inputs[1])


def count_weights(w: np.ndarray, positions: int, bits: int) -> tuple[np.ndarray, int]:
    """Return V int32 [K, D] of float64 w [D, K], and the largest S up to `bits` + G it fits."""
    exact = [[Fraction(float(v)) / positions for v in column] for column in w.T]
    largest = max(abs(v) for column in exact for v in column)
    shift = bits + GAIN_BITS
    while shift > 0 and round(largest * 2**shift) >= 2**31:
        shift -= 1
    values = [[round(v * 2**shift) for v in column] for column in exact]
    return np.array(values, np.int32), shift


def _spike_readout(
    b: ir.Builder, found: tuple[ir.Value, np.ndarray, np.ndarray], bits: int
) -> tuple[ir.Value, int]:
    """Emit a CountReadOut; return raw and its S."""
    spikes, w, bias = found
    v, shift = count_weights(w, _positions(spikes)[0], bits)
    constant = [round(Fraction(float(x)) * 2**shift) for x in bias]
    held = [
        b.initializer("readout.v", v),
        b.initializer("readout.constant", np.array(constant, np.int64)),
    ]
    raw = b.op("CountReadOut", spikes, *held, domain=ir.DOMAIN, name="readout",
               output_names=["raw"])  # fmt: skip
    return raw, shift


def _match(logits: ir.Value) -> _Heads:
    add = _source(logits, "Add")
    total = add.inputs[0].producer() if add.inputs[0] is not None else None
    if total is not None and total.op_type == "MatMul":
        products = [total]
    else:
        products = [_source(v, "MatMul") for v in _source(add.inputs[0], "Add").inputs]
    mean: tuple[ir.Value, np.ndarray] | None = None
    counted: tuple[_Counted, np.ndarray] | None = None
    for product in products:
        features, w = _features(product.inputs[0]), ir.array_of(product.inputs[1])
        if isinstance(features, _Counted) and counted is None:
            counted = features, w
        elif isinstance(features, ir.Value) and mean is None:
            mean = features, w
        else:
            raise PassError("the read-out has two heads of the same kind")
    return _Heads(ir.array_of(add.inputs[1]), mean, counted)


def _counted_readout(b: ir.Builder, heads: _Heads, bits: int) -> ir.Value:
    """Emit a ReadOut."""
    assert heads.counted is not None
    (pair, node), w1 = heads.counted
    first, previous = pair
    if heads.mean is not None:  # S0 sums the newer stream of the pair
        first = heads.mean[0]
        if first not in pair:
            raise PassError("the read-out is not two heads on the last two streams")
        previous = pair[0] if pair[1] is first else pair[1]
    positions, q = _positions(first)
    a, shift = (ir.array_of(v) for v in node.inputs[2:])
    whole, fraction, per_position = affine_constants(a, shift, bits)
    w0 = np.zeros_like(w1) if heads.mean is None else heads.mean[1]
    constants = {
        "signs": ir.array_of(node.inputs[1]),
        "whole": whole,
        "fraction": fraction,
        "shift": per_position.astype(np.int64) * positions,
        "v0": weights(w0, positions, q),
        "v1": weights(w1, positions, q),
        "constant": _constant(heads.bias, bits),
    }
    held = [b.initializer(f"readout.{k}", v) for k, v in constants.items()]
    raw = b.op("ReadOut", first, previous, node.inputs[0], *held,
               domain=ir.DOMAIN, name="readout", output_names=["raw"], q=q)  # fmt: skip
    return raw


def _mean_readout(b: ir.Builder, heads: _Heads, bits: int) -> ir.Value:
    """Emit a MeanReadOut, or a LevelReadOut."""
    assert heads.mean is not None
    stream, w = heads.mean
    positions, q = _positions(stream)
    held = [
        b.initializer("readout.v", weights(w, positions, q)),
        b.initializer("readout.constant", _constant(heads.bias, bits)),
    ]
    if levels_of(stream) is not None:
        return b.op("LevelReadOut", stream, *held, domain=ir.DOMAIN, name="readout",
                    output_names=["raw"], q=q, bits=bits)  # fmt: skip
    return b.op("MeanReadOut", stream, *held, domain=ir.DOMAIN, name="readout",
                output_names=["raw"], q=q)  # fmt: skip


def _positions(stream: ir.Value) -> tuple[int, int]:
    """Return T N and q = ceil(log2(T N)) of a stream."""
    positions = ir.size(stream, 0) * ir.size(stream, 2) * ir.size(stream, 3)
    return positions, (positions - 1).bit_length()


def _constant(bias: np.ndarray, bits: int) -> np.ndarray:
    unit = 2 ** (bits + GAIN_BITS)
    return np.array([round(Fraction(float(v)) * unit) for v in bias], np.int64)


def apply(model: ir.Model) -> int:
    """Replace everything between the last streams and the logits."""
    bits = frac_bits(model)
    logits = model.graph.outputs[0]
    b = ir.Builder("readout.integer")
    counted, shift = _counted_spikes(logits), bits + GAIN_BITS
    if counted is not None:
        raw, shift = _spike_readout(b, counted, bits)
        n_classes = len(counted[2])
    else:
        heads = _match(logits)
        make = _mean_readout if heads.counted is None else _counted_readout
        raw, n_classes = make(b, heads, bits), len(heads.bias)
    ir.set_type(raw, np.int64, ["B", n_classes])
    wide = b.op("Cast", raw, to=11, name="logits.wide")
    unit = b.initializer("logits.unit", np.array(2.0**-shift))
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
    model.metadata_props["logit_shift"] = str(shift)
    model.metadata_props["stage"] = "folded"
    return 1


PASS = Pass("integer_readout", "reals", apply)
