"""Binarise: latent weights become +-1 int8 constants (numerics section 2).

    BinaryConv(s, w)  ->  SignConv(s, sign(w - mean_o(w)))

Exact: the reference of BinaryConv takes the very same signs. A sign of 0 (a weight that equals its
row mean in the official variant) has no bit and is refused.
"""

from __future__ import annotations

from bestdeploy import ir
from bestdeploy.errors import PassError
from bestdeploy.ops.binary_conv import binarise
from bestdeploy.passes.definition import Pass, find


def apply(model: ir.Model) -> int:
    """Replace every BinaryConv."""
    changes = 0
    for node in find(model, "BinaryConv"):
        spikes, latent = node.inputs
        signs = binarise(ir.array_of(latent), ir.attribute(node, "sign_of_zero"))
        if (signs == 0).any():
            raise PassError(f"{int((signs == 0).sum())} weights have sign 0", where=str(node.name))
        b = ir.Builder(f"{node.name}.signs")
        w = b.initializer(f"{node.name}.signs", signs)
        kept = {k: ir.attribute(node, k) for k in ("strides", "pads")}
        y = b.op("SignConv", spikes, w, domain=ir.DOMAIN, name=node.name, **kept)
        ir.replace(model.graph, [node], b, {node.outputs[0]: y})
        changes += 1
    return changes


PASS = Pass("binarise", "exact", apply)
