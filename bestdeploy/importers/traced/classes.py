"""The classes of torch, `training` and spikingjelly that a traced module may be made of.

Dotted names only: recognising a class imports nothing. Version 2 of spikingjelly keeps each kind of
layer in a file of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_LAYERS = {
    "Conv1d": "conv",
    "Conv2d": "conv",
    "Linear": "linear",
    "MaxPool2d": "pool",
    "AvgPool2d": "average",
    "AdaptiveAvgPool2d": "cells",
}
_NORMS = {"BatchNorm1d": "norm", "BatchNorm2d": "norm"}
_TORCH = {
    "torch.nn.modules.conv": {"Conv1d": "conv", "Conv2d": "conv"},
    "torch.nn.modules.batchnorm": _NORMS,
    "torch.nn.modules.pooling": {k: v for k, v in _LAYERS.items() if "Pool" in k},
    "torch.nn.modules.linear": {"Linear": "linear", "Identity": "same"},
    "torch.nn.modules.dropout": {"Dropout": "same", "Dropout1d": "same", "Dropout2d": "same"},
}
_OURS = {
    "training.layers": {
        "BinaryConv1d": "conv",
        "BinaryConv2d": "conv",
        "QuantConv1d": "conv",
        "QuantConv2d": "conv",
        "QuantLinear": "linear",
    },
    "training.neurons": {"LIF": "lif"},
}
_JELLY = "spikingjelly.activation_based"
_SPIKINGJELLY = {
    "spikingjelly.clock_driven.neuron": dict.fromkeys(
        ("MultiStepLIFNode", "MultiStepIFNode", "MultiStepParametricLIFNode"), "node"
    ),
    f"{_JELLY}.neuron": dict.fromkeys(("LIFNode", "IFNode", "ParametricLIFNode"), "node"),
    f"{_JELLY}.layer": {**_LAYERS, **_NORMS, "Dropout": "same", "Dropout2d": "same"},
    # of version 2
    f"{_JELLY}.neuron.lif": {"LIFNode": "node"},
    f"{_JELLY}.neuron.integrate_and_fire": {"IFNode": "node"},
    f"{_JELLY}.neuron.plif": {"ParametricLIFNode": "node"},
    f"{_JELLY}.layer.stateless_wrapper": _LAYERS,
    f"{_JELLY}.layer.bn": _NORMS,
    f"{_JELLY}.layer.dropout": {"Dropout": "same", "Dropout2d": "same"},
}
PARTS: Mapping[str, str] = {
    f"{place}.{name}": kind
    for table in (_TORCH, _OURS, _SPIKINGJELLY)
    for place, names in table.items()
    for name, kind in names.items()
}
"""Dotted class name -> how it is exported."""
BINARY = ("training.layers.BinaryConv1d", "training.layers.BinaryConv2d")


def class_name(module: Any) -> str:
    """Return the dotted name of a module's class."""
    return f"{type(module).__module__}.{type(module).__qualname__}"


def is_spikingjelly(part: Any) -> bool:
    """Tell whether a layer is one of spikingjelly, whose inputs may have the time axis in front."""
    return class_name(part).startswith(_JELLY)
