"""Fold batch norm: four vectors, epsilon and a convolution bias become two (numerics section 1).

    BatchNorm(x; gamma, beta, mean, var, conv_bias)  ->  ChannelAffine(x; a, b)
    a = gamma / sqrt(var + eps),   b = (beta - mean a) + a conv_bias

From here on these float64 numbers are the model.
"""

from __future__ import annotations

import numpy as np

from bestdeploy import ir
from bestdeploy.errors import PassError
from bestdeploy.ops.batch_norm import coefficients
from bestdeploy.passes.definition import Pass, find


def apply(model: ir.Model) -> int:
    """Replace every BatchNorm."""
    changes = 0
    for node in find(model, "BatchNorm"):
        gamma, beta, mean, var, bias, epsilon = (ir.array_of(v) for v in node.inputs[1:])
        a, shift = coefficients(gamma, beta, mean, var, bias, float(epsilon))
        if not (np.isfinite(a).all() and np.isfinite(shift).all()):
            channel = int(np.argmin(np.isfinite(a) & np.isfinite(shift)))
            raise PassError(
                f"channel {channel} has gamma/sqrt(var + eps) = {a[channel]}, b = {shift[channel]}",
                where=str(node.name),
            )
        b = ir.Builder(f"{node.name}.affine")
        y = b.op(
            "ChannelAffine",
            node.inputs[0],
            b.initializer(f"{node.name}.a", a),
            b.initializer(f"{node.name}.b", shift),
            domain=ir.DOMAIN,
            name=node.name,
        )
        ir.replace(model.graph, [node], b, {node.outputs[0]: y})
        changes += 1
    return changes


PASS = Pass("fold_batchnorm", "reals", apply)
