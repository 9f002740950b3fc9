"""`inspect` of a checkpoint: what its tensors say, which settings it has and which it lacks."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from bestdeploy import importers, stages
from bestdeploy._inspect.common import (
    Request,
    describe_network,
    describe_parameters,
    refuse_data,
)
from bestdeploy._inspect.graph import describe_graph
from bestdeploy.errors import UnsupportedModelError, UsageError
from bestdeploy.importers import checkpoint, settings, signatures
from bestdeploy.report.of_shapes import (
    Skeleton,
    layers_of_skeleton,
    skeleton_of,
    trained_parameters,
)

__all__ = ["inspect_checkpoint"]

Sources = Mapping[str, Mapping[str, Any]]


def inspect_checkpoint(path: Path, request: Request) -> dict[str, Any]:
    """Describe a checkpoint; see `bestdeploy.deploy.inspect`."""
    stated = settings.read_config(request.config)
    content = checkpoint.read(path, ema=settings.wants_ema(request.settings, stated))
    keys, shapes = set(content.tensors), {k: v.shape for k, v in content.tensors.items()}
    family = next((f for f in importers.FAMILIES if f.recognises(keys)), None)
    foreign = None if family else signatures.recognise(keys)
    net = skeleton_of(shapes) if family else None
    base = {
        "kind": "checkpoint",
        "path": str(path),
        "sha256": content.sha256,
        "what": _what(family, foreign, net),
        "family": family.NAME if family else None,
        "model_of_the_field": foreign,
        "exported": family is not None,
        "has_ema": content.has_ema,
        "n_tensors": len(shapes),
        "skeleton": None if net is None else {**dataclasses.asdict(net), "dim": net.dim},
        "checks": _checks(content.tensors),
        "sizes": {"file_bytes": path.stat().st_size},
    }
    parameters = describe_parameters(trained_parameters(shapes))
    if family is None:
        known = ", ".join(f.NAME for f in importers.FAMILIES)
        refuse_data(path, request, "its family is not imported", f"imported families: {known}")
        if request.config or request.settings:
            raise UsageError(
                f"--set and --config: the family of `{path}` is not imported",
                hint=f"imported families: {known}",
            )
        return {**base, "settings": None, "layers": [], "parameters": parameters}
    sources = _sources(content, net, request)
    _check_names(family, sources)
    found = _survey(family, family.schema(family.layout_of(keys), sources), sources)
    network = _network(path, family, net, found, request)
    return {**base, "settings": found, **network, "parameters": parameters}


def _what(family: ModuleType | None, foreign: str | None, net: Skeleton | None) -> str:
    if family is None:
        known = f"of {foreign}, which is recognised but not exported" if foreign else None
        return f"checkpoint {known or 'of no known model'}"
    if net is None and family.NAME != "bestformer":
        return f"checkpoint of {family.NAME}"
    if net is None:
        return f"checkpoint of {family.NAME}, incomplete or of unusual shapes"
    kind = "event-camera" if net.channels == 2 else net.layout
    return f"checkpoint of {family.NAME} {net.depth}-{net.dim}, {kind} layout"


def _checks(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return what is worth a look before an export."""
    bad = [name for name, values in tensors.items() if not np.isfinite(values).all()]
    scales = [v for k, v in tensors.items() if k.endswith("lambda_attn") and v.size]
    gammas = [v for k, v in tensors.items() if k.endswith("_bn.weight")]
    return {
        "tensors_not_finite": bad,
        "lambda_range": (
            [float(min(v.min() for v in scales)), float(max(v.max() for v in scales))]
            if scales and not bad
            else None
        ),
        "lambda_not_positive": sum(int((v <= 0).sum()) for v in scales),
        "gamma_zero": sum(int((v == 0).sum()) for v in gammas),
        "gamma_negative": sum(int((v < 0).sum()) for v in gammas),
    }


# ----------------------------------------------------------------------------- settings


def _sources(
    content: checkpoint.Checkpoint, net: Skeleton | None, request: Request
) -> dict[str, dict[str, Any]]:
    """Return the sources of settings, strongest first, as the export asks them."""
    stated = settings.read_config(request.config)
    stated.pop("family", None)
    shapes: dict[str, Any] = {}
    if net is not None:
        shapes = {"input": "events" if net.channels == 2 else "image"}
    return {
        "--set": dict(request.settings),
        "--config": stated,
        "checkpoint args": content.args,
        "the weights": shapes,
    }


def _survey(
    family: ModuleType, schema: Sequence[settings.Setting], sources: Sources
) -> dict[str, Any]:
    """Return the settings that are found (value and source), missing, and not usable."""
    found: dict[str, Any] = {}
    missing, unusable = [], {}
    for setting in schema:
        names = (setting.name, *setting.aliases)
        held = {s: {k: v for k, v in t.items() if k in names} for s, t in sources.items()}
        implied = None if setting.implied is None else setting.implied(_values(found))
        alone = dataclasses.replace(setting, implied=None)
        if implied is not None:
            alone = dataclasses.replace(alone, default=implied, required=False)
        try:
            value, origin = settings.resolve((alone,), held, family=family.NAME)
        except UnsupportedModelError as error:
            if any(v not in (None, "") for t in held.values() for v in t.values()):
                unusable[setting.name] = str(error)
            else:
                missing.append(
                    {"name": setting.name, "expected": setting.expected, "usual": setting.usual}
                )
            continue
        found[setting.name] = {"value": value[setting.name], "from": origin[setting.name]}
    return {"found": found, "missing": missing, "unusable": unusable}


def _values(found: Mapping[str, Any]) -> dict[str, Any]:
    return {name: entry["value"] for name, entry in found.items()}


def _check_names(family: ModuleType, sources: Sources) -> None:
    """Refuse settings of the caller that the family does not have."""
    known = [name for s in family.SETTINGS for name in (s.name, *s.aliases)]
    for source in ("--set", "--config"):
        for key in sources[source]:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                guess = f"did you mean {near[0]}? " if near else ""
                raise UsageError(
                    f"{source} {key}: family `{family.NAME}` has no such setting",
                    hint=f"{guess}known settings: {', '.join(s.name for s in family.SETTINGS)}",
                )


# ----------------------------------------------------------------------------- layers


def _network(
    path: Path,
    family: ModuleType,
    net: Skeleton | None,
    found: Mapping[str, Any],
    request: Request,
) -> dict[str, Any]:
    """Return layers and work: from the graph where frames are run or shapes do not say it."""
    ready = not found["missing"] and not found["unusable"]
    if request.data or (net is None and ready and family.NAME != "bestformer"):
        graph = importers.import_checkpoint(
            path, config=request.config, overrides=request.settings, deployed=False
        )
        stages.infer_types(graph)
        return describe_graph(graph, request)
    values = _values(found["found"])
    heads = values.get("heads") if net is None or net.heads is None else net.heads
    needed = {"image_size": values.get("image_size"), "attention": values.get("attention"),
              "heads": heads}  # fmt: skip
    lacking = [name for name, value in needed.items() if value is None]
    if net is None or lacking or net.dim % (heads or 1):
        return {"layers": [], "layers_need": lacking}
    size: Sequence[int] = values["image_size"]
    layers = layers_of_skeleton(net, (size[0], size[1]), values["attention"], int(heads or 1))
    return describe_network(layers, net.n_steps, request)
