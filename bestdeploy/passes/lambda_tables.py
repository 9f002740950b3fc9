"""Lambda tables: scale and lambda of the value product in a table (numerics section 7).

    Lif(HeadScale(m, gain))  ->  MembraneNeuron(CountTable(m, X)),
    X[t, head, m] = rint(gain[t, head] m 2^F),   m = 0..N, or 0..d where k^T v comes first

`gain` = scale * lambda is exact in float64 (a product of two float32), so X is rounded once, half
to even. Zero, negative and varying lambda need no special case.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from bestdeploy import ir
from bestdeploy.passes.attention_counts import mixed
from bestdeploy.passes.definition import Pass, find, n_steps_of, producer
from bestdeploy.passes.fixed_point import frac_bits
from bestdeploy.passes.integer_attention import neuron_attributes


def table(gain: np.ndarray, largest: int, bits: int) -> np.ndarray:
    """Return X int32 [T, heads, largest + 1] for gain float64 [T, heads]."""
    out = np.empty((*gain.shape, largest + 1), np.int64)
    for index in np.ndindex(*gain.shape):
        unit = Fraction(float(gain[index])) * 2**bits
        out[index] = [round(unit * m) for m in range(largest + 1)]
    return out.astype(np.int32)


def apply(model: ir.Model) -> int:
    """Replace every neuron behind a HeadScale."""
    bits = frac_bits(model)
    changes = 0
    for lif in find(model, "Lif"):
        scaled = producer(lif.inputs[0], "HeadScale")
        if scaled is None:
            continue
        counted = mixed(scaled.inputs[0])
        if counted is None:
            continue
        constant = table(ir.array_of(scaled.inputs[1]), counted[1], bits)
        b = ir.Builder(f"{lif.name}.integer")
        name = f"{lif.name}.table"
        x = b.op("CountTable", scaled.inputs[0], b.initializer(name, constant),
                 domain=ir.DOMAIN, name=scaled.name)  # fmt: skip
        y = b.op(f"MembraneNeuron_T{n_steps_of(lif)}", x, domain=ir.DOMAIN, name=lif.name,
                 **neuron_attributes(lif, bits))  # fmt: skip
        gain = ir.array_of(scaled.inputs[1])
        b.nodes[-1].metadata_props["gain"] = ",".join(float(g).hex() for g in gain.ravel())
        ir.replace(model.graph, [scaled, lif], b, {lif.outputs[0]: y})
        changes += 1
    return changes


PASS = Pass("lambda_tables", "reals", apply)
