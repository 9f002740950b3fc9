"""`inspect`: what is in a .bstm, a bundle or an .onnx file, as plain data for a table or JSON."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bestdeploy import images, runtime
from bestdeploy._bundle import lowered_bytes, read_manifest
from bestdeploy.errors import ArtifactError

__all__ = ["inspect_file"]


def inspect_file(path: str | Path, data: Sequence[str | Path] | None = None) -> dict[str, Any]:
    """Describe a file or bundle; see `bestdeploy.deploy.inspect`."""
    path = Path(path)
    if path.is_dir():
        manifest = read_manifest(path)
        if manifest is None:
            raise ArtifactError(
                f"`{path}` is not a bundle (no manifest.json of bestdeploy)",
                hint="bestdeploy compile model.onnx makes one",
            )
        damaged = _damaged(path, manifest)
        inside = _inspect_bstm(path / "model.bstm", data)
        return {**inside, "kind": "bundle", "manifest": manifest, "damaged_files": damaged}
    if path.suffix == ".onnx":
        return _inspect_onnx(path)
    if path.suffix in (".pt", ".pth", ".safetensors"):
        raise ArtifactError(
            f"`{path}` is a checkpoint, inspect takes .bstm, .onnx and bundles",
            hint=f"bestdeploy export {path} -o model.onnx",
        )
    return _inspect_bstm(path, data)


def _damaged(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """Return the files of a bundle that are missing or not what the manifest says."""
    found = []
    for name, facts in manifest.get("files", {}).items():
        file = folder / name
        if not file.is_file() or (
            hashlib.sha256(file.read_bytes()).hexdigest() != facts.get("sha256")
        ):
            found.append(name)
    return found


def _inspect_bstm(path: Path, data: Sequence[str | Path] | None) -> dict[str, Any]:
    from bestdeploy.emit.bstm import read_bstm

    content = lowered_bytes(path)
    program = read_bstm(content)
    model = runtime.load(content)
    rates = _firing_rates(model, data) if data else {}
    infos = model.steps()
    steps = []
    for step, info in zip(program.steps, infos, strict=True):
        constants = [program.constants[c] for c in step.constants if c is not None]
        steps.append(
            {
                "name": step.name,
                "op": info.op,
                "outputs": [
                    {"kind": o.kind, "shape": list(o.shape), "bytes": o.n_bytes}
                    for o in info.outputs
                ],
                "n_constants": len(constants),
                "constant_bytes": sum(c.n_bytes for c in constants),
                "binary_weights": sum(
                    int(np.prod(c.dims)) for c in constants if c.type.name == "BITS"
                ),
                "firing_rate": rates.get(step.name),
            }
        )
    by_type: Counter[str] = Counter()
    for constant in program.constants:
        by_type[constant.type.name.lower()] += constant.n_bytes
    return {
        "kind": "bstm",
        "path": str(path),
        "sha256": hashlib.sha256(content).hexdigest(),
        "model": {
            "input_shape": list(model.input_shape),
            "classes": model.classes,
            "time_steps": model.n_steps,
            "frac_bits": program.frac_bits,
            "logit_shift": model.logit_shift,
            "golden_vectors": model.n_golden,
        },
        "memory": {
            "file_bytes": len(content),
            "model_bytes": model.model_bytes,
            "arena_bytes": model.arena_bytes,
        },
        "constants": {"n": len(program.constants), "bytes_by_type": dict(sorted(by_type.items()))},
        "steps": steps,
        "meta": model.meta,
    }


def _firing_rates(model: runtime.Model, data: Sequence[str | Path]) -> dict[str, float]:
    """Return spikes / (neurons x time steps) of every step that fires."""
    preprocessing = model.meta.get("preprocessing")
    spikes: Counter[str] = Counter()
    places: Counter[str] = Counter()
    for batch in images.read_batches(data, model.input_shape, preprocessing):
        for frame in batch.frames:
            _, taps = model.run_probed(frame)
            for name, outputs in taps.items():
                for tap in outputs:
                    if tap.info.kind == "spikes":
                        spikes[name] += int(tap.values().sum())
                        places[name] += int(np.prod(tap.info.shape))
    return {name: spikes[name] / count for name, count in places.items()}


def _inspect_onnx(path: Path) -> dict[str, Any]:
    from bestdeploy import ir

    model = ir.load(path)
    graph = model.graph
    ops = Counter(f"{node.domain}::{node.op_type}".removeprefix("::") for node in graph)
    weights = sum(int(v.const_value.nbytes) for v in graph.initializers.values() if v.const_value)
    return {
        "kind": "onnx",
        "path": str(path),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "file_bytes": path.stat().st_size,
        "weight_bytes": weights,
        "inputs": [_value(v) for v in graph.inputs],
        "outputs": [_value(v) for v in graph.outputs],
        "opsets": dict(model.opset_imports),
        "ops": dict(sorted(ops.items())),
        "metadata": {k: _parsed(v) for k, v in sorted(model.metadata_props.items())},
    }


def _value(value: Any) -> dict[str, Any]:
    shape = [d if isinstance(d, int) else str(d.value) for d in value.shape or ()]
    return {"name": value.name, "dtype": str(value.dtype), "shape": shape}


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
