"""What `export` says about the network it made: settings, neuron rules, what is not a bit and why.

Everything is read from the packed graph and its metadata.
"""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Any

import numpy as np

from bestdeploy import ir, stages
from bestdeploy.ops.neuron import RATE_BITS
from bestdeploy.ops.packing import packed_bytes
from bestdeploy.passes.threshold_tables import MAX_STEPS as MAX_EXACT_STEPS

__all__ = ["neuron_rule", "neuron_rules", "settings_of", "unpacked"]

THRESHOLDS = "exact integer thresholds"
COUNTS = "exact integer counts"
FIRST_STEPS = "exact table of first steps"
SUMS = "int64 sums of keys in Q{bits}"
ANY = "exact OR of spike pairs"
STREAM = "stream neuron in Q{bits}, rounded"
LEVELS = "levels of a stream in Q{bits}, rounded"

# packed op -> rule of its neuron
_RULES = {
    "StemNeuron": FIRST_STEPS,
    "StemFrames": STREAM,
    "SpikeConvNeuron": THRESHOLDS,
    "WeightConvNeuron": THRESHOLDS,
    "SpikeProducts": STREAM,
    "StreamNeuron": STREAM,
    "ResidualNeuron": STREAM,
    "SpikeScores": COUNTS,
    "SpikeScoresStream": STREAM,
    "SpikeValues": STREAM,
    "SpikeKeyValues": COUNTS,
    "SpikeKeyValuesStream": STREAM,
    "SpikeQueryValues": STREAM,
    "SpikeKeyValueAny": ANY,
    "SpikeAddNeuron": SUMS,
    "ResidualMeanNeuron": STREAM,
}
_ON_COUNTS = ("SpikeScoresStream", "SpikeKeyValuesStream", "SpikeProducts")
_CONV_NEURONS = ("SpikeConvNeuron", "WeightConvNeuron")
_CONV_AFFINES = ("SpikeConvAffine", "WeightConvAffine")
_WEIGHTED = (
    "WeightConvNeuron",
    "WeightConvAffine",
    "DepthwiseLevelsAffine",
    "DepthwiseStreamAffine",
    "StreamPointwise",
)
_FRAMES = ("StemFrames", "StemStreamFrames")
_STEMS = ("StemNeuron", "StemStream", *_FRAMES)
_READ_OUTS = ("SpikeReadOut", "ResidualReadOut", "SpikeCountReadOut", "SpikeLevelReadOut")


def _name(node: ir.Node) -> str:
    row = stages.op_of(node)
    return node.op_type if row is None else row[0].name


def _bits(model: ir.Model) -> str:
    return model.metadata_props["frac_bits"]


def settings_of(model: ir.Model) -> list[dict[str, Any]]:
    """Return every setting of the importer: name, value, source ("--set", "--config", ...)."""
    values = json.loads(model.metadata_props.get("config", "{}"))
    origins = json.loads(model.metadata_props.get("settings_from", "{}"))
    return [
        {"name": name, "value": value, "source": origins.get(name, "tensor shapes")}
        for name, value in sorted(values.items())
    ]


def neuron_rules(model: ir.Model) -> dict[str, str]:
    """Return how each neuron is computed, by its name, in order."""
    found = {}
    for value in stages.neuron_values(model):
        node = value.producer()
        assert node is not None
        if _name(node) == "StreamLevels":
            rule = _levels_rule(node)
        else:
            rule = COUNTS if _is_exact_on_counts(node, model) else _RULES[_name(node)]
        found[str(value.name)] = rule.format(bits=_bits(model))
    return found


def _levels_rule(node: ir.Node) -> str:
    """Return the rule of a neuron of levels: of sums, of products of attention, of the stream."""
    source = node.inputs[0].producer() if node.inputs[0] is not None else None
    if source is not None and _name(source) == "LevelProducts":
        return COUNTS
    return THRESHOLDS if _is_by_channel(node) else LEVELS


def _is_by_channel(node: ir.Node) -> bool:
    """Tell whether a neuron of levels has thresholds of each channel: it compares plain sums."""
    return _name(node) == "StreamLevels" and ir.size(node.inputs[1], 1) > 1


def _is_exact_on_counts(node: ir.Node, model: ir.Model) -> bool:
    """Tell whether a stream neuron that reads attention counts A 2^s rounds nothing; s <= F.

    Its threshold must be a whole number in Q(F). With tau = 1 the state is the input. With tau = 2
    a state is halved once per step: a multiple of 2^s stays whole for s steps, and so does what is
    added to it, v_reset or the threshold of a soft reset, where 2^T divides it.
    """
    config = json.loads(model.metadata_props.get("config", "{}"))
    if _name(node) not in _ON_COUNTS or "v_threshold" not in config:
        return False
    a, bits, n_steps = ir.attributes(node), int(_bits(model)), int(config["n_steps"])
    key = "attn_v_threshold" if _name(node) == "SpikeProducts" else "v_threshold"
    if Fraction(float(np.float32(config[key]))) * 2**bits != a["v_threshold"]:
        return False
    if a["rate"] == (1 << RATE_BITS if a["decay_input"] else 0):
        return True
    added = a["v_threshold"] if a["soft_reset"] else a["v_reset"]
    return a["rounding"] == 0 and n_steps <= a["bits"] and added % 2**n_steps == 0


def _is_conv_fed_stream(node: ir.Node) -> bool:
    """Tell whether a stream neuron reads one convolution and nothing else does."""
    source = node.inputs[0]
    return (
        _name(node) == "StreamNeuron"
        and source is not None
        and source.producer() is not None
        and _name(source.producer()) in _CONV_AFFINES  # type: ignore[arg-type]
        and ir.consumer(source) is not None
    )


def neuron_rule(model: ir.Model) -> str:
    """Return one line: the rule of the conv-fed neurons, the ones that an exact rule exists for."""
    exact = sum(_name(node) in _CONV_NEURONS or _is_by_channel(node) for node in model.graph)
    rounded = sum(_is_conv_fed_stream(node) for node in model.graph)
    config = json.loads(model.metadata_props.get("config", "{}"))
    tau, n_steps = config.get("tau"), config.get("n_steps")
    if any(_name(node) == "StreamLevels" for node in model.graph):
        return f"{THRESHOLDS} for all {exact} neurons of levels that read sums"
    rule = STREAM.format(bits=_bits(model))
    if not rounded:
        return f"{THRESHOLDS} for all {exact} conv-fed neurons (T={n_steps}, tau={tau})"
    why = f"an exact integer rule needs T <= {MAX_EXACT_STEPS} and tau = 2; T={n_steps}, tau={tau}"
    if exact:
        return f"{THRESHOLDS} for {exact} conv-fed neurons, {rule} for {rounded} ({why})"
    return f"{rule} for all {rounded} conv-fed neurons ({why})"


def unpacked(model: ir.Model) -> list[dict[str, str]]:
    """Return what is not packed into bits: layer, how it is stored, why."""
    found = []
    streams = []
    weighted: dict[str, list[str]] = {}
    for node in model.graph:
        name = _name(node)
        if name in _STEMS:
            layer = str(node.inputs[1].name).removesuffix(".limbs")  # type: ignore[union-attr]
            what = "event counts" if name in _FRAMES else "real pixels"
            found.append(_row(layer, "24-bit weights", f"its input is {what}, not spikes"))
        elif name in _WEIGHTED:
            n = ir.size(node.inputs[1], -1) // packed_bytes(ir.attribute(node, "in_channels"))
            kind = "signs" if n == 1 else f"{n} planes of bits"
            weighted.setdefault(kind, []).append(str(node.name))
        elif name in _READ_OUTS:
            found.append(
                _row(
                    "classification heads",
                    "int32 weights, int64 sums",
                    "real weights on the mean of the stream",
                )
            )
        streams += [v for v in node.outputs if v.dtype == ir.DataType.INT32]
    for kind, names in weighted.items():
        layers = f"{names[0]} .. {names[-1]} ({len(names)} layers)"
        found.append(_row(layers, kind, "real weights, rounded to integers per channel"))
    if streams:
        found.insert(
            min(1, len(found)),
            _row(
                f"residual stream ({len(streams)} tensors)",
                f"int32, 2^-{_bits(model)}",
                "sums of branches are numbers, not spikes",
            ),
        )
    return found


def _row(layer: str, stored_as: str, why: str) -> dict[str, str]:
    return {"layer": layer, "stored_as": stored_as, "why": why}
