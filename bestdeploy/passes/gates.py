"""Gates: the neuron on counts of k & v of Spike-driven Transformer v1 is an OR (no state).

    Lif(KeyValueCounts(k, v))  ->  KeyValueAny(k, v)

Exact where the neuron resets hard to 0, 0 < theta and the charge of 1 from rest, 1/tau (1 without
input decay), reaches theta. Then a count of 0 leaves the membrane at 0, a greater one fires and
resets it to 0: at each step the neuron fires iff the count is at least 1.
"""

from __future__ import annotations

from bestdeploy import ir
from bestdeploy.errors import PassError
from bestdeploy.passes.definition import Pass, find, producer


def is_or(settings: dict) -> bool:
    """Tell whether a neuron on counts fires exactly where they are not 0."""
    charge = 1 / settings["tau"] if settings["decay_input"] else 1.0
    rests = not settings["soft_reset"] and settings["v_reset"] == 0
    return bool(rests and 0 < settings["v_threshold"] <= charge)


def apply(model: ir.Model) -> int:
    """Replace every neuron on counts of k & v."""
    changes = 0
    for lif in find(model, "Lif"):
        counts = producer(lif.inputs[0], "KeyValueCounts")
        if counts is None:
            continue
        settings = ir.attributes(lif)
        if not is_or(settings):
            raise PassError(
                f"the neuron on sums of k v has tau={settings['tau']:g} and threshold "
                f"{settings['v_threshold']:g}: one spike pair must be enough for it to fire",
                where=str(lif.name),
                hint="the published code has tau=2 and threshold 0.5, which is an OR",
            )
        b = ir.Builder(f"{lif.name}.any")
        y = b.op("KeyValueAny", *counts.inputs, domain=ir.DOMAIN, name=lif.name)
        ir.replace(model.graph, [counts, lif], b, {lif.outputs[0]: y})
        changes += 1
    return changes


PASS = Pass("gates", "exact", apply)
