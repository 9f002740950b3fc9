"""Merge heads: two classifiers and their average become two matrices and one constant.

    ((W0 f0 + b0) + (W1 f1 + b1)) / 2   ->   (W0/2) f0 + (W1/2) f1 + (b0 + b1)/2
    ((W0 f + b0) + (W1 f + b1)) / 2     ->   ((W0 + W1)/2) f + (b0 + b1)/2

Equal in the reals; halving a float is exact, and so is the sum of two float32 in float64 unless
their sizes lie more than 2^29 apart. A single head stays as it is.
"""

from __future__ import annotations

from bestdeploy import ir
from bestdeploy.passes.definition import Pass


def head_of(value: ir.Value | None) -> tuple[ir.Node, ir.Node] | None:
    """Return (MatMul, Add) when the value is a linear head, else None."""
    add = None if value is None else value.producer()
    if add is None or add.op_type != "Add":
        return None
    product = add.inputs[0].producer() if add.inputs[0] is not None else None
    return (product, add) if product is not None and product.op_type == "MatMul" else None


def apply(model: ir.Model) -> int:
    """Merge the two heads in front of the logits."""
    logits = model.graph.outputs[0]
    half = logits.producer()
    if half is None or half.op_type != "Mul":
        return 0
    both = half.inputs[0].producer() if half.inputs[0] is not None else None
    if both is None or both.op_type != "Add":
        return 0
    heads = [head_of(v) for v in both.inputs]
    if heads[0] is None or heads[1] is None:
        return 0
    (m0, a0), (m1, a1) = heads[0], heads[1]
    b = ir.Builder("head.merged")
    w0, w1 = (ir.array_of(m.inputs[1]) / 2 for m in (m0, m1))
    bias = (ir.array_of(a0.inputs[1]) + ir.array_of(a1.inputs[1])) / 2
    if m0.inputs[0] is m1.inputs[0]:
        total = b.op("MatMul", m0.inputs[0], b.initializer("head.merged0", w0 + w1),
                     name="head.merged0")  # fmt: skip
    else:
        y0 = b.op("MatMul", m0.inputs[0], b.initializer("head.merged0", w0), name="head.merged0")
        y1 = b.op("MatMul", m1.inputs[0], b.initializer("head.merged1", w1), name="head.merged1")
        total = b.op("Add", y0, y1, name="head.merged")
    out = b.op("Add", total, b.initializer("head.constant", bias), name="logits")
    out.type, out.shape = logits.type, logits.shape
    ir.replace(model.graph, [m0, a0, m1, a1, both, half], b, {logits: out})
    return 1


PASS = Pass("merge_heads", "reals", apply)
