"""Encoder table: the recursion of a still image's first neuron becomes T comparisons.

    ConstantMembraneNeuron(x)  ->  Encoder(x, first),   first[p-1] = least x that fires by step p

Exact. Let h_t(x) be the potential at step t without any spike. The charge v + floor((x - v) r) and
its rounded relatives never fall when x or v grows (0 <= r <= 1), so h_t is monotone in x, and so is
"some h_t(x), t <= p, reaches the threshold": `first` is found by bisection. A hard reset puts the
neuron back to where it started, hence the period that the Encoder repeats. Neurons with a soft
reset keep their recursion.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bestdeploy import ir
from bestdeploy.ops import neuron
from bestdeploy.passes.definition import Pass, find, n_steps_of

_LEAST, _GREATEST = -(2**31), 2**31 - 1


def fires_by(x: int, step: int, parameters: dict[str, Any]) -> bool:
    """Tell whether a neuron with constant input x has fired within `step` steps."""
    spikes = neuron.run(np.full((step, 1), x, np.int64), **parameters)
    return bool(spikes.any())


def table(n_steps: int, parameters: dict[str, Any]) -> np.ndarray:
    """Return `first` int32 [T].

    An x that would have to be above every int32 is given as the greatest one, which no stream value
    reaches: they stay below 2^31 - 64 (see `fixed_point`).
    """
    found = []
    for step in range(1, n_steps + 1):
        low, high = _LEAST, _GREATEST
        while low < high:  # least x in [low, high] that fires, `high` where none does
            middle = (low + high) // 2
            if fires_by(middle, step, parameters):
                high = middle
            else:
                low = middle + 1
        found.append(low)
    return np.array(found, np.int32)


def apply(model: ir.Model) -> int:
    """Replace every encoder that resets to where it starts."""
    changes = 0
    for node in find(model, "ConstantMembraneNeuron"):
        parameters = ir.attributes(node)
        if parameters["soft_reset"]:
            continue
        steps = n_steps_of(node)
        b = ir.Builder(f"{node.name}.encoder")
        first = b.initializer(f"{node.name}.first", table(steps, parameters))
        y = b.op(f"Encoder_T{steps}", node.inputs[0], first, domain=ir.DOMAIN, name=node.name)
        ir.replace(model.graph, [node], b, {node.outputs[0]: y})
        changes += 1
    return changes


PASS = Pass("encoder_table", "exact", apply)
