"""`inspect` of a `.bstm` file and of a bundle."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bestdeploy import images, runtime, toolchain
from bestdeploy._bundle import read_manifest
from bestdeploy._inspect.common import (
    CHECKPOINTS,
    Request,
    Spikes,
    describe_network,
    parsed,
    pruned_of,
    record,
    scales_are_per_head,
    sentence,
)
from bestdeploy.emit import bstm
from bestdeploy.errors import ArtifactError, MissingToolError, UnsupportedModelError
from bestdeploy.program import BufferKind, Program, written_levels
from bestdeploy.report.of_program import layers_of_program, n_scales_of_program

__all__ = ["describe_bstm", "inspect_bstm", "inspect_bundle"]

MAX_BATCH = 16
SPIKES_AT_ONCE = 1 << 25  # bytes of spikes, a byte each, that a batch may hold
SECTIONS = ("model", "buffers", "steps", "constants", "data", "meta", "golden", "names")


def inspect_bundle(path: Path, request: Request) -> dict[str, Any]:
    """Describe a bundle folder: its program, its files, and which of these are damaged."""
    manifest = read_manifest(path)
    if manifest is None:
        raise ArtifactError(
            f"`{path}` is not a bundle (no manifest.json of bestdeploy)",
            hint="bestdeploy compile model.onnx makes one",
        )
    damaged = _damaged(path, manifest)
    inside = inspect_bstm(path / "model.bstm", request)
    sizes = {**inside["sizes"], **_sizes_elsewhere(manifest)}
    files = {str(name): facts.get("bytes") for name, facts in manifest["files"].items()}
    return {
        **inside,
        "kind": "bundle",
        "what": f"bundle for target {manifest.get('target')}: {inside['what']}",
        "sizes": sizes,
        "manifest": manifest,
        "files": files,
        "damaged_files": damaged,
    }


def _sizes_elsewhere(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return the buffers that the manifest states, where its target is not this machine.

    They are those of the portable kernels; how many bytes others lay out, a device knows itself.
    """
    name, stated = manifest.get("target"), manifest.get("model")
    row = next((t for t in toolchain.TARGETS if t.name == name), None)
    runs_here = row is not None and not row.is_source and toolchain.runs_natively(row)
    if runs_here or not isinstance(stated, dict):
        return {}
    found = {key: stated.get(key) for key in ("model_bytes", "arena_bytes")}
    whole = all(isinstance(value, int) for value in found.values())
    return {**found, "kernels": "portable"} if whole else {}


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


def inspect_bstm(path: Path, request: Request) -> dict[str, Any]:
    """Describe a `.bstm` file."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ArtifactError(
            f"cannot read `{path}`: {error.strerror}",
            hint="give a checkpoint, an .onnx, a .bstm or a bundle folder",
        ) from error
    if content[:4] != b"BSTM":
        raise ArtifactError(
            f"`{path}` is of no known kind (starts with {content[:4]!r})",
            hint=f"give a checkpoint ({' '.join(CHECKPOINTS)}), an .onnx, a .bstm or a bundle",
        )
    return {
        "kind": "bstm",
        "path": str(path),
        "sha256": hashlib.sha256(content).hexdigest(),
        **describe_bstm(content, request, path),
    }


def _read(content: bytes, path: Path) -> Program:
    try:
        return bstm.read_bstm(content)
    except ArtifactError as error:
        raise ArtifactError(
            str(error),
            where=str(path),
            hint="write the file again: bestdeploy compile model.onnx",
        ) from error
    except UnsupportedModelError as error:
        error.where = str(path)
        raise


def describe_bstm(content: bytes, request: Request, path: Path) -> dict[str, Any]:
    """Describe the bytes of a `.bstm`; `path` names them in errors."""
    program = _read(content, path)
    layers = layers_of_program(program)
    model = _load(content, needed=bool(request.data))
    recorder, events = None, None
    if request.data and model is not None:
        runs = _in_runtime(model, program)
        rules = images.rules_of(model.meta)
        recorder, events = record(
            layers, request, model.input_shape, rules, runs, _batch_size(program)
        )
    held = parsed(program.meta)
    meta = held if isinstance(held, dict) else {}
    n_scales = n_scales_of_program(program, per_head=scales_are_per_head(meta))
    network = describe_network(layers, program.n_steps, request, recorder, n_scales)
    return {
        "what": sentence(meta, "program"),
        "model": {
            "input_shape": program.frame_shape,
            "classes": program.n_classes,
            "time_steps": program.n_steps,
            "frac_bits": program.frac_bits,
            "logit_shift": program.logit_shift,
            "golden_vectors": len(program.golden),
        },
        **network,
        "sizes": _bstm_sizes(content, program, model),
        "steps": _steps(program),
        "pruned": pruned_of(meta),
        "events": events,
        "meta": meta,
    }


def _load(content: bytes, *, needed: bool) -> runtime.Model | None:
    """Load a program; None where this machine cannot (no compiler) and nothing has to run."""
    try:
        return runtime.load(content)
    except MissingToolError:
        if needed:
            raise
        return None


def _batch_size(program: Program) -> int:
    """Return how many frames' spikes are held at once."""
    spikes = (b for b in program.buffers if b.kind == BufferKind.SPIKES)
    n_places = sum(b.t * b.h * b.w * b.c for b in spikes)
    return min(MAX_BATCH, max(1, SPIKES_AT_ONCE // max(1, n_places)))


def _in_runtime(
    model: runtime.Model, program: Program
) -> Callable[[np.ndarray, Sequence[str]], Spikes]:
    """Return a function that runs frames one by one and keeps their spikes, bits of levels."""
    written = {step.name: written_levels(program, step) for step in program.steps}
    widths = {name: channels for name, channels in written.items() if channels is not None}

    def run(frames: np.ndarray, names: Sequence[str]) -> Spikes:
        kept: dict[str, list[np.ndarray]] = {name: [] for name in names}
        for frame in frames:
            _, taps = model.run_probed(frame)
            for name in names:
                spikes = next(tap for tap in taps[name] if tap.info.kind == "spikes")
                values = spikes.values()
                kept[name].append(_events(values, widths[name]) if name in widths else values)
        return {name: np.stack(arrays, axis=1) for name, arrays in kept.items()}

    return run


def _events(bits: np.ndarray, channels: int) -> np.ndarray:
    """Return the bits set per channel, uint8 [T, H, W, channels], of planes of whole words."""
    planes = bits.reshape(*bits.shape[:-1], -1, 64 * -(-channels // 64))
    return np.asarray(planes[..., :channels].sum(axis=-2, dtype=np.uint8))


def _bstm_sizes(content: bytes, program: Program, model: runtime.Model | None) -> dict[str, Any]:
    by_type: Counter[str] = Counter()
    for constant in program.constants:
        by_type[constant.type.name.lower()] += constant.n_bytes
    return {
        "file_bytes": len(content),
        "section_bytes": _section_bytes(content),
        "n_constants": len(program.constants),
        "constant_bytes_by_type": dict(sorted(by_type.items())),
        "model_bytes": None if model is None else model.model_bytes,
        "arena_bytes": None if model is None else model.arena_bytes,
        "kernels": None if model is None else model.isa,
    }


def _section_bytes(content: bytes) -> dict[str, int]:
    """Return the bytes of each section of a valid file; `framing` is header, table and padding."""
    n_sections = bstm.HEADER.unpack_from(content)[4]
    table = content[bstm.HEADER.size : bstm.HEADER.size + n_sections * bstm.SECTION.size]
    found = {}
    for kind, _, _, n_bytes, _ in bstm.SECTION.iter_unpack(table):
        known = 1 <= kind <= len(SECTIONS)
        found[SECTIONS[kind - 1] if known else f"section {kind}"] = int(n_bytes)
    return {**found, "framing": len(content) - sum(found.values())}


def _steps(program: Program) -> list[dict[str, Any]]:
    """Return what each step writes and what its constants take."""
    rows = []
    for step in program.steps:
        constants = [program.constants[c] for c in step.constants if c is not None]
        outputs = [program.buffers[b] for b in step.outputs]
        rows.append(
            {
                "name": step.name,
                "op": step.op.name.lower(),
                "outputs": [
                    {
                        "kind": b.kind.name.lower(),
                        "shape": [b.t, b.h, b.w, b.c],
                        "bytes": b.n_bytes,
                    }
                    for b in outputs
                ],
                "constant_bytes": sum(c.n_bytes for c in constants),
            }
        )
    return rows
