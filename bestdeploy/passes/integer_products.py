"""Integer products: attention without a binariser, its scale a shift (docs/numerics.md).

    Lif(HeadScale(QueryKeyValues(q, k, v), gain))  ->  MembraneNeuron(ShiftCounts(m, bits)),
    gain = 2^(bits - F)

m is an integer, so x = gain m is exact in Q(F) where gain is a power of two of at least 2^-F, and
the neuron rounds nothing as long as T halvings leave it whole.
"""

from __future__ import annotations

import math

import numpy as np

from bestdeploy import ir
from bestdeploy.errors import PassError
from bestdeploy.passes.attention_counts import whole
from bestdeploy.passes.definition import Pass, find, n_steps_of, producer
from bestdeploy.passes.fixed_point import frac_bits
from bestdeploy.passes.integer_attention import neuron_attributes


def shift_of(gain: np.ndarray, bits: int) -> int | None:
    """Return s with gain = 2^(s - bits) everywhere, None where there is none in 0..30."""
    value = float(gain.flat[0])
    if value <= 0 or not (gain == value).all() or math.frexp(value)[0] != 0.5:
        return None
    shift = math.frexp(value)[1] - 1 + bits
    return shift if 0 <= shift <= 30 else None


def apply(model: ir.Model) -> int:
    """Replace every neuron behind a scaled product."""
    bits = frac_bits(model)
    changes = 0
    for lif in find(model, "Lif"):
        scaled = producer(lif.inputs[0], "HeadScale")
        if scaled is None or whole(scaled.inputs[0]) is None:
            continue
        shift = shift_of(ir.array_of(scaled.inputs[1]), bits)
        if shift is None:
            raise PassError(
                f"the scale of attention {float(ir.array_of(scaled.inputs[1]).flat[0]):g} is not a "
                f"power of two that a stream of {bits} fraction bits holds",
                where=str(scaled.name),
                hint="where `inspect` shows few fraction bits, batch norms have variances near 0",
            )
        b = ir.Builder(f"{lif.name}.integer")
        x = b.op("ShiftCounts", scaled.inputs[0], domain=ir.DOMAIN, name=scaled.name, bits=shift)
        y = b.op(f"MembraneNeuron_T{n_steps_of(lif)}", x, domain=ir.DOMAIN, name=lif.name,
                 **neuron_attributes(lif, bits))  # fmt: skip
        ir.replace(model.graph, [scaled, lif], b, {lif.outputs[0]: y})
        changes += 1
    return changes


PASS = Pass("integer_products", "reals", apply)
