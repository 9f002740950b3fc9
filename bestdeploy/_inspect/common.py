"""What the answers about every kind of file share."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from bestdeploy import images, report
from bestdeploy.errors import UsageError

__all__ = [
    "CHECKPOINTS",
    "Request",
    "Spikes",
    "describe_network",
    "describe_parameters",
    "layer_row",
    "parsed",
    "pruned_of",
    "record",
    "refuse_data",
    "refuse_settings",
    "scales_are_per_head",
    "sentence",
]

CHECKPOINTS = (".pt", ".pth", ".tar", ".safetensors", ".ckpt", ".bin")

Progress = Callable[[int, int | None], None]
Spikes = dict[str, np.ndarray]


@dataclass(frozen=True)
class Request:
    """What is asked about a file.

    Attributes:
        data: frames to record; None = dense work only.
        limit: frames at most.
        strict_events: refuse event counts above 255.
        energy: price of the operations.
        settings: settings of a checkpoint that the caller gives.
        config: TOML file with such settings.
        progress: called with the frames done and the frames there are (None = unknown).
    """

    data: Sequence[str | Path] | None = None
    limit: int | None = None
    strict_events: bool = False
    energy: report.Energy = dataclasses.field(default_factory=report.Energy)
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    config: str | Path | None = None
    progress: Progress = lambda _done, _total: None


def record(
    layers: Sequence[report.Layer],
    request: Request,
    shape: images.Shape,
    rules: Mapping[str, Any],
    run: Callable[[np.ndarray, Sequence[str]], Spikes],
    batch_size: int,
) -> tuple[report.Recorder, dict[str, Any] | None]:
    """Run the frames of `--data` and count their spikes.

    Args:
        layers: whose spike tensors are counted.
        request: names the data.
        shape: of a frame.
        rules: how sources become frames, see `images.rules_of`.
        run: (frames, names of spike tensors) -> {0, 1} in [T, B, ..] by name.
        batch_size: frames that are run at once.

    Returns:
        The counts, and what reading event recordings changed (None for still images).
    """
    data = list(request.data or ())
    recorder, tally = report.Recorder(layers), images.Tally()
    total = images.count_frames(data, shape)
    if total is not None and request.limit is not None:
        total = min(total, request.limit)
    for batch in images.read_batches(
        data,
        shape,
        rules,
        batch_size=batch_size,
        limit=request.limit,
        strict_events=request.strict_events,
    ):
        recorder.add(run(batch.frames, recorder.names), len(batch.frames))
        tally.add(batch.is_recording, batch.n_saturated)
        request.progress(recorder.n_frames, total)
    return recorder, tally.facts(shape)


def describe_network(
    layers: Sequence[report.Layer],
    n_steps: int,
    request: Request,
    recorder: report.Recorder | None = None,
    n_scales: int = 0,
) -> dict[str, Any]:
    """Return the part of the answer that follows from a table of layers."""
    counted = None if recorder is None else [recorder.counted(x) for x in layers]
    n_frames = 0 if recorder is None else recorder.n_frames
    work = report.work_of(layers, n_steps, request.energy, counted, n_frames)
    activity: Sequence[report.Counted | None] = counted or [None] * len(layers)
    parameters = report.parameters_of(layers, n_scales)
    return {
        "time_steps": n_steps,
        "layers": [layer_row(x, c, n_frames) for x, c in zip(layers, activity, strict=True)],
        "work": _numbers(work),
        "energy_constants_pj": {"mac": request.energy.mac_pj, "ac": request.energy.ac_pj},
        "parameters": describe_parameters(parameters),
    }


def describe_parameters(parameters: report.Parameters) -> dict[str, Any]:
    """Return the counts, and the sizes that follow from them."""
    n_bytes = report.paper_bytes(parameters)
    return {
        **dataclasses.asdict(parameters),
        "total": parameters.total,
        "paper_bytes": float(n_bytes) if parameters.binary else None,
        "paper_mib": float(n_bytes / report.MIB) if parameters.binary else None,
        "fp32_bytes": 4 * parameters.total,
        "fp16_bytes": 2 * parameters.total,
    }


def _numbers(record: Any) -> dict[str, Any]:
    """Return a dataclass with its fractions as floats."""
    return {k: _number(v) for k, v in dataclasses.asdict(record).items()}


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, Fraction) else value


def layer_row(layer: report.Layer, counted: report.Counted | None, n_frames: int) -> dict[str, Any]:
    row = {
        "name": layer.name,
        "op": layer.op,
        "kind": layer.kind,
        "input_shape": layer.input_shape,
        "output_shape": layer.output_shape,
        "weight_bits": layer.weight_bits,
        "n_weights": layer.n_weights,
        "times_per_frame": layer.n_steps,
        "macs": layer.macs,
        "total_macs": layer.total_macs,
        "spike_fed": layer.spike_fed,
        "multiplications": layer.multiplications,
    }
    if counted is None:
        return {**row, "activity": None}
    activity: dict[str, Any] = {
        **dataclasses.asdict(counted),
        "firing_rate_in": _number(counted.rate_in),
        "firing_rate_out": _number(counted.rate_out),
    }
    if layer.spike_fed:
        per_frame = Fraction(counted.sops, n_frames)
        activity["sops_per_frame"] = float(per_frame)
        activity["rate_times_macs_per_frame"] = float(report.rate_sops(layer, counted))
        activity["macs_avoided_per_frame"] = float(layer.total_macs - per_frame)
    return {**row, "activity": activity}


def refuse_data(path: Path, request: Request, why: str, hint: str) -> None:
    """Raise where frames were given for a file whose spikes cannot be recorded."""
    if request.data:
        raise UsageError(f"--data: no spikes can be recorded of `{path}`, {why}", hint=hint)


def refuse_settings(path: Path, request: Request) -> None:
    """Raise where settings were given for a file that holds its own, or is not imported."""
    if request.config or request.settings:
        raise UsageError(
            f"--set and --config: settings are for checkpoints, which `{path}` is not",
            hint="leave them away, or export the checkpoint again with them",
        )


def parsed(text: str) -> Any:
    """Return what a text of the metadata says as JSON, or the text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def scales_are_per_head(meta: Mapping[str, Any]) -> bool:
    """Tell whether lambda is a number per step and head, as in the published code."""
    config = meta.get("config")
    return not isinstance(config, dict) or config.get("variant") != "paper"


def pruned_of(meta: Mapping[str, Any]) -> dict[str, int] | None:
    """Count what the metadata `pruned`, neuron -> {axis, cut, of}, says was cut; None = nothing."""
    notes = meta.get("pruned")
    if isinstance(notes, str):
        notes = parsed(notes)
    if not isinstance(notes, dict) or not notes:
        return None
    try:
        return {
            "layers": len(notes),
            "cut": sum(len(note["cut"]) for note in notes.values()),
            "of": sum(int(note["of"]) for note in notes.values()),
        }
    except (KeyError, TypeError, ValueError):  # damaged notes: `verify` refuses them
        return None


def sentence(meta: Mapping[str, Any], what: str) -> str:
    """Say what a file is in a few words, from its metadata."""
    config = meta.get("config")
    parts = [str(meta["family"])] if "family" in meta else []
    if isinstance(config, dict):
        parts += [f"{config[k]}" for k in ("layout",) if k in config]
        if {"depth", "dim"} <= set(config):
            parts.append(f"{config['depth']}-{config['dim']}")
        parts += [f"{k} {config[k]}" for k in ("attention", "variant", "heads") if k in config]
    return f"{what}, {' '.join(parts)}" if parts else what
