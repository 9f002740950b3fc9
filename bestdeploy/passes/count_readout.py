"""Count form of the last MLP: the mean of a 1x1 convolution needs only spike counts.

    mean_{t,n}(y + (x0 + x1)/2),  y = a SignConv(s, w) + b
        ->  CountAffine(s, w, a, b) + mean_{t,n}((x0 + x1)/2)

Equal in the reals by linearity. Applies to the last MLP: a ReversibleMix whose only reader is a
mean over time and tokens and whose y comes from a 1x1 convolution of a hidden layer's spikes that
nothing else reads. (After the last attention the stream is summed as it is: numerics, section 9.)
"""

from __future__ import annotations

import numpy as np

from bestdeploy import ir
from bestdeploy.passes.definition import Pass, find, producer


def _is_hidden(spikes: ir.Value | None) -> bool:
    """Tell whether spikes come from the neuron between the two layers of an MLP."""
    neuron = producer(spikes, "Lif")
    return neuron is not None and producer(neuron.inputs[0], "ChannelAffine") is not None


def apply(model: ir.Model) -> int:
    """Rewrite every mean of a last residual."""
    changes = 0
    for mix in find(model, "ReversibleMix"):
        mean = ir.consumer(mix.outputs[0])
        affine = producer(mix.inputs[0], "ChannelAffine")
        if mean is None or mean.op_type != "ReduceMean" or affine is None:
            continue
        conv = producer(affine.inputs[0], "SignConv")
        if conv is None or ir.consumer(affine.outputs[0]) is not mix:
            continue
        if ir.array_of(conv.inputs[1]).shape[1:3] != (1, 1) or not _is_hidden(conv.inputs[0]):
            continue
        b = ir.Builder(f"{mix.name}.mean")
        counted = b.op(
            "CountAffine",
            conv.inputs[0],
            conv.inputs[1],
            *affine.inputs[1:],
            domain=ir.DOMAIN,
            name=conv.name,
        )
        total = b.op("Add", mix.inputs[1], mix.inputs[2], name=f"{mix.name}.sum")
        half = b.initializer(f"{mix.name}.half", np.array(0.5))
        halved = b.op("Mul", total, half, name=f"{mix.name}.halved")
        rest = b.op("ReduceMean", halved, axes=[0, 2, 3], keepdims=0, name=f"{mix.name}.mean")
        out = b.op("Add", rest, counted, name=f"{mix.name}.counted")
        ir.replace(model.graph, [conv, affine, mix, mean], b, {mean.outputs[0]: out})
        changes += 1
    return changes


PASS = Pass("count_readout", "reals", apply)
