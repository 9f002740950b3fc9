"""Quantise: real weights become integers of b bits, their scale goes into the affine.

    ChannelAffine(WeightConv(s, w, scale), a, b)  ->  ChannelAffine(IntegerConv(s, q), a scale, b)
    q = rint(w / scale), cut to lowest .. 2^(bits-1) - 1;   1 bit: +1 where w >= 0, else -1

`scale` is given per output channel by the importer, `lowest` is -2^(bits-1) or one more; a scale is
one float64 product. This is where the deployed network leaves the trained one, unless its weights
are w = q scale already. Signs on spikes make a SignConv, for which there are faster kernels.
"""

from __future__ import annotations

import numpy as np

from bestdeploy import ir
from bestdeploy.errors import PassError
from bestdeploy.passes.definition import Pass, count_bounds, find, is_op
from bestdeploy.passes.threshold_tables import weight_type


def integers(w: np.ndarray, scale: np.ndarray, bits: int, lowest: int) -> np.ndarray:
    """Return q int64 of real w [O, ...] and scale float64 [O], both as they are in the graph."""
    if bits == 1:
        return np.where(w >= 0, 1, -1).astype(np.int64)
    column = scale.reshape(-1, *[1] * (w.ndim - 1))
    ratio = np.rint(w.astype(np.float64) / column)
    return np.clip(ratio, lowest, 2 ** (bits - 1) - 1).astype(np.int64)


def apply(model: ir.Model) -> int:
    """Replace every WeightConv and the affine behind it."""
    changes = 0
    for conv in find(model, "WeightConv"):
        affine = ir.consumer(conv.outputs[0])
        if affine is None or not is_op(affine, "ChannelAffine"):
            raise PassError("a convolution without a batch norm of its own", where=str(conv.name))
        attrs = ir.attributes(conv)
        scale = ir.array_of(conv.inputs[2])
        bits, lowest = attrs.pop("weight_bits"), attrs.pop("lowest")
        q = integers(ir.array_of(conv.inputs[1]), scale, bits, lowest)
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
