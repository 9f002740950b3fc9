"""Addition-only attention in integers: ternary neurons, ReLU keys, sums in int64.

    TernaryLif(FromFixed(x))                   ->  TernaryNeuron(x)
    Lif(AddAttention(q, FromFixed(y), v))      ->  AddNeuron(q, y, v)

k_shift = max(0, bits of the largest K - k_bits): with fewer bits K is rounded to the nearest
multiple of 2^k_shift, halves upwards. The largest K is that of the interval bounds of y.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from bestdeploy import ir
from bestdeploy.ops import stream_affine, ternary
from bestdeploy.passes.definition import (
    Pass,
    convolution,
    count_bounds,
    find,
    n_steps_of,
    producer,
)
from bestdeploy.passes.fixed_point import frac_bits
from bestdeploy.passes.integer_stream import fixed


def _ternary(model: ir.Model, bits: int) -> int:
    changes = 0
    for lif in find(model, "TernaryLif"):
        b = ir.Builder(f"{lif.name}.integer")
        settings: dict[str, Any] = ternary.parameters(bits=bits, **ir.attributes(lif))
        y = b.op(f"TernaryNeuron_T{n_steps_of(lif)}", fixed(lif.inputs[0], lif), domain=ir.DOMAIN,
                 name=lif.name, **settings)  # fmt: skip
        ir.replace(model.graph, [lif], b, {lif.outputs[0]: y})
        changes += 1
    return changes


def largest_key(y: ir.Value) -> int:
    """Return the greatest value of a stream that comes from a convolution of spikes."""
    affine = producer(y, "StreamAffine")
    conv = None if affine is None else convolution(affine.inputs[0])
    if affine is None or conv is None:
        return 2**31 - 1
    constants = [ir.array_of(v) for v in affine.inputs[1:]]
    ends = [stream_affine.apply(n, *constants) for n in count_bounds(conv)]
    return max(int(end.max()) for end in ends)


def apply(model: ir.Model) -> int:
    """Replace every ternary neuron and every addition-only attention."""
    bits = frac_bits(model)
    changes = _ternary(model, bits)
    for attention in find(model, "AddAttention"):
        lif = ir.consumer(attention.outputs[0])
        assert lif is not None
        q, y, v = attention.inputs
        keys = fixed(y, attention)
        held = max(largest_key(keys), 1).bit_length()
        b = ir.Builder(f"{lif.name}.integer")
        threshold = Fraction(float(ir.attribute(lif, "v_threshold")))
        out = b.op(
            f"AddNeuron_T{n_steps_of(lif)}", q, keys, v,
            domain=ir.DOMAIN,
            name=lif.name,
            heads=ir.attribute(attention, "heads"),
            k_shift=max(0, held - ir.attribute(attention, "k_bits")),
            decay_input=ir.attribute(lif, "decay_input"),
            v_threshold=round(threshold * 2**bits),
        )  # fmt: skip
        ir.replace(model.graph, [attention, lif], b, {lif.outputs[0]: out})
        changes += 1
    ir.drop_unused(model.graph)
    return changes


PASS = Pass("integer_addition", "reals", apply)
