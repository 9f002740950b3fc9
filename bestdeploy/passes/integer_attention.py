"""Integer attention: the neuron on attention counts works on integers (numerics section 7).

    tau = 2, soft reset, theta 2^t an integer at t = 1:   Lif(A)  ->  CountNeuron(A)
    anything else:                                        Lif(A)  ->  MembraneNeuron(A 2^F)

The first form is exact; the second rounds the state to Q(F).
"""

from __future__ import annotations

from typing import Any

from bestdeploy import ir
from bestdeploy.ops import neuron
from bestdeploy.passes.attention_counts import binarised
from bestdeploy.passes.definition import Pass, find, n_steps_of
from bestdeploy.passes.fixed_point import frac_bits
from bestdeploy.passes.threshold_tables import count_threshold


def neuron_attributes(lif: ir.Node, bits: int) -> dict[str, Any]:
    """Return the integer parameters of a Lif node in Q(bits)."""
    given = ir.attributes(lif)
    return neuron.parameters(
        tau=given["tau"],
        v_threshold=given["v_threshold"],
        v_reset=given["v_reset"],
        soft_reset=bool(given["soft_reset"]),
        decay_input=bool(given["decay_input"]),
        bits=bits,
    )


def apply(model: ir.Model) -> int:
    """Replace every neuron on attention counts."""
    bits = frac_bits(model)
    changes = 0
    for lif in find(model, "Lif"):
        counts = lif.inputs[0]
        if binarised(counts) is None:
            continue
        b = ir.Builder(f"{lif.name}.integer")
        steps = n_steps_of(lif)
        first = count_threshold(lif)
        if first is not None:
            y = b.op(f"CountNeuron_T{steps}", counts, domain=ir.DOMAIN, name=lif.name,
                     first=first)  # fmt: skip
        else:
            x = b.op("ShiftCounts", counts, domain=ir.DOMAIN, name=f"{lif.name}.x", bits=bits)
            y = b.op(f"MembraneNeuron_T{steps}", x, domain=ir.DOMAIN, name=lif.name,
                     **neuron_attributes(lif, bits))  # fmt: skip
        ir.replace(model.graph, [lif], b, {lif.outputs[0]: y})
        changes += 1
    return changes


PASS = Pass("integer_attention", "reals", apply)
