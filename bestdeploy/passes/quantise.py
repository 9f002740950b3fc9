"""Quantise: real weights become integers of b bits, their scale goes into the affine.

    ChannelAffine(WeightConv(s, w, scale), a, b)  ->  ChannelAffine(IntegerConv(s, q), a scale, b)
    q = rint(w / scale), cut to lowest .. 2^(bits-1) - 1;   1 bit: +1 where w >= 0, else -1

`scale` is given per output channel by the importer, `lowest` is -2^(bits-1) or one more; a scale is
one float64 product. A depthwise convolution takes its scale, and that of the sums it reads, into
the affine behind it alike; sums that it reads become int32 numbers (a StreamAffine of gain 1).

    DepthwiseConv(WeightConv(s, w, scale1), v, scale2) -> IntegerDepthwise(StreamAffine(n, 1, 0, 0))
    PointwiseConv(x, w, scale)  ->  PointwiseConv(x, q, 1), q integers in float64

This is where the deployed network leaves the trained one, unless its weights
are w = q scale already. Signs on spikes make a SignConv, for which there are faster kernels.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bestdeploy import ir
from bestdeploy.errors import PassError
from bestdeploy.passes.definition import Pass, count_bounds, find, is_op, producer
from bestdeploy.passes.threshold_tables import weight_type


def integers(w: np.ndarray, scale: np.ndarray, bits: int, lowest: int) -> np.ndarray:
    """Return q int64 of real w [O, ...] and scale float64 [O], both as they are in the graph."""
    if bits == 1:
        return np.where(w >= 0, 1, -1).astype(np.int64)
    column = scale.reshape(-1, *[1] * (w.ndim - 1))
    ratio = np.rint(w.astype(np.float64) / column)
    return np.clip(ratio, lowest, 2 ** (bits - 1) - 1).astype(np.int64)


def identity(b: ir.Builder, name: str, n: ir.Value, width: int) -> ir.Value:
    """Append a StreamAffine that keeps whole numbers as they are, [.., C]."""
    parts = (("whole", np.ones(width, np.int32)), ("fraction", np.zeros(width, np.int16)),
             ("shift", np.zeros(width, np.int32)))  # fmt: skip
    held = [b.initializer(f"{name}.{p}", v) for p, v in parts]
    return b.op("StreamAffine", n, *held, domain=ir.DOMAIN, name=name)


def _settings(conv: ir.Node) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Return the integers, the scale and the other attributes of a layer."""
    attrs = ir.attributes(conv)
    scale = ir.array_of(conv.inputs[2])
    bits, lowest = attrs.pop("weight_bits"), attrs.pop("lowest")
    w = ir.array_of(conv.inputs[1])
    if is_op(conv, "DepthwiseConv"):  # [1, kh, kw, C]: the channel comes last
        return integers(w.T, scale, bits, lowest).T, scale, attrs
    return integers(w, scale, bits, lowest), scale, attrs


def _affine_of(conv: ir.Node) -> ir.Node:
    affine = ir.consumer(conv.outputs[0])
    if affine is None or not is_op(affine, "ChannelAffine"):
        raise PassError("a convolution without a batch norm of its own", where=str(conv.name))
    return affine


def _depthwise(model: ir.Model) -> int:
    """Replace every DepthwiseConv, the convolution that it reads, and the affine behind it."""
    changes = 0
    for conv in find(model, "DepthwiseConv"):
        affine, source = _affine_of(conv), producer(conv.inputs[0], "WeightConv")
        old, x, levels = [conv, affine], conv.inputs[0], 0
        q, scale, attrs = _settings(conv)
        b = ir.Builder(f"{conv.name}.quantised")
        if source is not None:
            sums, one, more = _settings(source)
            w = b.initializer(f"{source.name}.integers", weight_type(sums))
            n = b.op("IntegerConv", source.inputs[0], w, domain=ir.DOMAIN, name=source.name, **more)
            x = identity(b, f"{source.name}.sums", n, len(sums))
            old, scale = [source, *old], scale * one
        else:
            neuron = None if x is None else x.producer()
            levels = 1 if neuron is None else ir.attribute(neuron, "levels", 1)
        w = b.initializer(f"{conv.name}.integers", weight_type(q))
        n = b.op("IntegerDepthwise", x, w, domain=ir.DOMAIN, name=conv.name, levels=levels,
                 **attrs)  # fmt: skip
        _check(conv, n.producer())
        gain = b.initializer(f"{affine.name}.scaled", ir.array_of(affine.inputs[1]) * scale)
        y = b.op("ChannelAffine", n, gain, affine.inputs[2], domain=ir.DOMAIN, name=affine.name)
        ir.replace(model.graph, old, b, {affine.outputs[0]: y})
        changes += 1
    return changes


def _pointwise(model: ir.Model) -> int:
    """Give every PointwiseConv integers, and its scale to the affine behind it."""
    changes = 0
    for conv in find(model, "PointwiseConv"):
        affine = _affine_of(conv)
        q, scale, attrs = _settings(conv)
        if (scale == 1).all() and (ir.array_of(conv.inputs[1]) == q).all():
            continue  # it has them already
        attrs |= {"weight_bits": ir.attribute(conv, "weight_bits"),
                  "lowest": ir.attribute(conv, "lowest")}  # fmt: skip
        b = ir.Builder(f"{conv.name}.quantised")
        held = (b.initializer(f"{conv.name}.integers", q.astype(np.float64)),
                b.initializer(f"{conv.name}.ones", np.ones(len(scale))))  # fmt: skip
        n = b.op("PointwiseConv", conv.inputs[0], *held, domain=ir.DOMAIN, name=conv.name, **attrs)
        gain = b.initializer(f"{affine.name}.scaled", ir.array_of(affine.inputs[1]) * scale)
        y = b.op("ChannelAffine", n, gain, affine.inputs[2], domain=ir.DOMAIN, name=affine.name)
        ir.replace(model.graph, [conv, affine], b, {affine.outputs[0]: y})
        changes += 1
    return changes


def apply(model: ir.Model) -> int:
    """Replace every layer of real weights and the affine behind it."""
    return _depthwise(model) + _pointwise(model) + _convolutions(model)


def _convolutions(model: ir.Model) -> int:
    changes = 0
    for conv in find(model, "WeightConv"):
        affine = _affine_of(conv)
        q, scale, attrs = _settings(conv)
        signs = attrs["levels"] == 1 and bool((np.abs(q) == 1).all())
        if signs:
            del attrs["levels"]
        b = ir.Builder(f"{conv.name}.quantised")
        w = b.initializer(f"{conv.name}.integers", weight_type(q))
        n = b.op("SignConv" if signs else "IntegerConv", conv.inputs[0], w,
                 domain=ir.DOMAIN, name=conv.name, **attrs)  # fmt: skip
        gain = b.initializer(f"{affine.name}.scaled", ir.array_of(affine.inputs[1]) * scale)
        y = b.op("ChannelAffine", n, gain, affine.inputs[2], domain=ir.DOMAIN, name=affine.name)
        _check(conv, b.nodes[0])
        ir.replace(model.graph, [conv, affine], b, {affine.outputs[0]: y})
        changes += 1
    return changes


def _check(conv: ir.Node, made: ir.Node) -> None:
    low, high = count_bounds(made)
    if max(int(high.max()), -int(low.min())) >= 2**31:
        raise PassError(
            "sums of its weights leave int32",
            where=str(conv.name),
            hint="fewer bits: --weight-bits 8",
        )


PASS = Pass("quantise", "reals", apply)
