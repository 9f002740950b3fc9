"""Neurons: the LIF of `training`, and LIF, PLIF (1/tau = sigmoid w) and IF of spikingjelly."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from bestdeploy.importers.traced import attention, heads, layers
from bestdeploy.importers.traced import axes as ax
from bestdeploy.importers.traced.classes import class_name
from bestdeploy.importers.traced.known import Known

if TYPE_CHECKING:
    from bestdeploy.importers.traced.tracer import Tracer


def ours(tracer: Tracer, part: Any, x: Known, out: Any) -> Known:
    """A neuron of `training`."""
    p = part.parameters_
    reset = None if p.reset == "soft" else p.v_reset
    return _neuron(tracer, x, p.tau, p.v_threshold, reset, p.decay_input)


def spikingjelly(tracer: Tracer, part: Any, x: Known, out: Any) -> Known:
    """A neuron of spikingjelly."""
    if getattr(part, "step_mode", "m") != "m":
        raise tracer.refuse(class_name(part), "only the multi-step mode, step_mode='m'")
    if hasattr(part, "w"):
        tau = 1 + math.exp(-float(part.w))
    else:
        tau = float(getattr(part, "tau", math.inf))
    decay = bool(getattr(part, "decay_input", False)) and math.isfinite(tau)
    return _neuron(tracer, x, tau, float(part.v_threshold), part.v_reset, decay)


def _neuron(
    tracer: Tracer, x: Known, tau: float, threshold: float, reset: float | None, decay: bool
) -> Known:
    """Append a neuron."""
    e = tracer.e
    if x.kind in ("conv", "linear") and not x.averaged:
        x = layers.ended(tracer, heads.cells(tracer, x))
    if x.kind == "features" and x.source == "real" and x.window is None:
        x = _mean_of_tokens(tracer, x)
    if (x.kind != "real" and x.product is None) or not e.n_steps:
        raise tracer.refuse("a neuron", f"its input is {x.words}, expected a batch norm over T")
    if x.axes[0] != ax.axis(("T", e.n_steps)):
        raise tracer.refuse(
            "a neuron", f"its input is {ax.words(x.axes)}, expected the time axis in front",
            "reshape to [T, B, ..] in front of it",
        )  # fmt: skip
    neuron = {
        "threshold": threshold,
        "tau": float(np.float32(tau)),
        "v_reset": 0.0 if reset is None else float(np.float32(reset)),
        "soft_reset": int(reset is None),
        "decay_input": int(decay),
    }
    if x.product is not None:
        return attention.fired(tracer, x, neuron)
    value = e.neuron(tracer.name(), x.value, constant=not x.steps, **neuron)
    return Known(value, "spikes", x.axes, True, x.width, x.size)


def _mean_of_tokens(tracer: Tracer, x: Known) -> Known:
    """Append the mean over the cells of a stream, at every step."""
    left = set(ax.names(x.axes)) - {"B", "C"}
    if left - {"T"} or (tracer.e.n_steps > 1 and not left):
        words = f"its input is a mean {ax.words(x.axes)}"
        raise tracer.refuse("a neuron", f"{words}: expected that of all cells at every step")
    value = tracer.e.op("TokenMean", x.value, name=tracer.count("mean"))
    return x.be(value=value, kind="real", source="", size=(1, 1))
