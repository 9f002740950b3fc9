"""`compile`: model.onnx to a folder that a device can use, checked by running it.

DIR/manifest.json             target, compiler, model facts, SHA-256 of every file
DIR/README.txt                how to copy it over and run it
DIR/model.bstm
DIR/bin/bst_run, bst_bench    static executables
DIR/lib/libbst.so, libbst.a   the runtime, for your own program
DIR/include/bst.h
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bestdeploy import __version__, runtime, toolchain
from bestdeploy.errors import (
    ArtifactError,
    OutputError,
    UnsupportedModelError,
    UsageError,
    VerificationError,
)

__all__ = [
    "BACKENDS",
    "CompileReport",
    "compile_bundle",
    "lowered_bytes",
    "read_manifest",
]

BACKENDS = ("c", "tvm")
MANIFEST_KIND = "bestdeploy bundle"
MANIFEST_VERSION = 1
RUN_TIMEOUT_S = 1800


@dataclass(frozen=True)
class CompileReport:
    """What `compile` wrote and how it was checked.

    Attributes:
        golden: "passed", "none" (the model holds no golden vectors) or "not run: <why>".
        emulator: command that ran the golden vectors; "" when this machine did it itself.
    """

    folder: Path
    target: str
    backend: str
    compiler: str
    golden: str
    n_golden: int
    emulator: str
    files: dict[str, int] = field(default_factory=dict)


def lowered_bytes(path: str | Path) -> bytes:
    """Return the `.bstm` bytes of a model: of the file, the bundle, or the lowered `.onnx`.

    Raises:
        ArtifactError: the file cannot be read or is of another kind.
        UnsupportedModelError: the `.onnx` is not a packed graph.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "model.bstm"
    if path.suffix == ".onnx":
        from bestdeploy import ir
        from bestdeploy.emit.bstm import write_bstm
        from bestdeploy.lower import lower

        graph = ir.load(path)
        if not any(node.domain == ir.DOMAIN for node in graph.graph):
            name = path.name.removesuffix(".onnx").removesuffix(".std").removesuffix(".float")
            raise UnsupportedModelError(
                f"`{path}` holds standard ops only, a packed graph is compiled",
                hint=f"give the model.onnx of `bestdeploy export`: {path.with_name(name)}.onnx",
            )
        return write_bstm(lower(graph))
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ArtifactError(
            f"cannot read `{path}`: {error.strerror}",
            hint="give a model.onnx of `bestdeploy export`, a .bstm, or a bundle folder",
        ) from error
    if content[:4] != b"BSTM":
        raise ArtifactError(
            f"`{path}` is not a .bstm file (starts with {content[:4]!r})",
            hint="bestdeploy export makes a model.onnx from a checkpoint",
        )
    return content


def compile_bundle(
    model: str | Path,
    target: str = "host",
    backend: str = "c",
    output: str | Path | None = None,
    *,
    force: bool = False,
    progress: Callable[[str], None] | None = None,
) -> CompileReport:
    """Compile a model for a target; see `bestdeploy.deploy.compile`."""
    say = progress or (lambda _text: None)
    row = toolchain.find_target(target)
    if backend not in BACKENDS:
        raise UsageError(
            f"unknown backend `{backend}`, expected one of {', '.join(BACKENDS)}",
            hint="--backend c",
        )
    if backend == "tvm":
        raise UnsupportedModelError(
            "backend `tvm` cannot compile a whole model yet: it has CONV_NEURON and "
            "RESIDUAL_NEURON steps, for targets x86-64 and arm, as an object file",
            hint="use --backend c; bestdeploy.emit.tvm.build_object makes the object of such steps",
        )
    source = Path(model)
    name = source.name.removesuffix(".onnx").removesuffix(".bstm") or "model"
    folder = Path(output) if output else Path("build") / name / row.name
    _check_output(folder, force)

    say(f"lowering {source}")
    content = lowered_bytes(source)
    compiler = toolchain.compiler_for(row)
    work = _work_folder(folder)
    try:
        say(f"building the runtime for {row.name} with {compiler.version}")
        _fill(work, content, row)
        say("running the golden vectors")
        golden, n_golden, emulator = _check_golden(work, row)
        facts = {"golden": golden, "backend": backend, "compiler": compiler.version}
        files = _describe(work, source, row, n_golden, facts)
        _put_in_place(work, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return CompileReport(
        folder=folder,
        target=row.name,
        backend=backend,
        compiler=compiler.version,
        golden=golden,
        n_golden=n_golden,
        emulator=emulator,
        files=files,
    )


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of a bundle, None where the folder is not one of ours."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
    except (OSError, ValueError):
        return None
    ours = isinstance(manifest, dict) and manifest.get("kind") == MANIFEST_KIND
    files = manifest.get("files") if ours else None
    whole = isinstance(files, dict) and all(isinstance(facts, dict) for facts in files.values())
    return manifest if whole else None


# ----------------------------------------------------------------------------- output folder


def _check_output(folder: Path, force: bool) -> None:
    """Refuse to overwrite what is not ours, and places where no folder can be put."""
    try:
        place, here = folder.resolve(), Path.cwd()
        if place.exists() and not place.is_dir():
            raise OutputError(f"`{folder}` is a file, expected a folder", hint="choose another -o")
        if place == here or place in here.parents or place.is_mount():
            raise OutputError(
                f"`{folder}` cannot be replaced: it is in use as the current folder or a mount",
                hint=f"choose a folder in it: -o {folder / 'bundle'}",
            )
        if place.is_dir() and not force:
            _check_replaceable(folder)
        above = next(p for p in place.parents if p.exists())
        if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
            raise OutputError(
                f"cannot write `{folder}`: `{above}` is no folder you may write to",
                hint="choose a folder you may write to with -o",
            )
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
        raise _cannot_write(folder, error) from error


def _check_replaceable(folder: Path) -> None:
    manifest = read_manifest(folder)
    hint = "choose another folder with -o, or add --force to replace it"
    if manifest is None:
        if any(folder.iterdir()):
            raise OutputError(f"`{folder}` is not empty and not a bundle of bestdeploy", hint=hint)
        return
    files = manifest.get("files")
    ours = {"manifest.json", *(files if isinstance(files, dict) else ())}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name not in ours and (path.is_symlink() or not path.is_dir()):
            raise OutputError(f"`{path}` is not of the bundle and would be deleted", hint=hint)


def _cannot_write(folder: Path, error: Exception) -> OutputError:
    return OutputError(
        f"cannot write `{folder}`: {getattr(error, 'strerror', None) or error}",
        hint="choose a folder you may write to with -o",
    )


def _work_folder(folder: Path) -> Path:
    parent = folder.resolve().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=parent))
        work.chmod(0o755)
    except OSError as error:
        raise _cannot_write(folder, error) from error
    return work


def _put_in_place(work: Path, folder: Path) -> None:
    folder = folder.resolve()  # a link stays and leads to the new bundle
    old = work.with_name(work.name + ".old")
    try:
        if folder.exists():
            folder.rename(old)
        try:
            work.rename(folder)
        except OSError:
            with suppress(OSError):
                old.rename(folder)
            raise
    except OSError as error:
        raise _cannot_write(folder, error) from error
    shutil.rmtree(old, ignore_errors=True)


# ----------------------------------------------------------------------------- contents


def _fill(work: Path, content: bytes, row: toolchain.Target) -> None:
    pieces = {
        f"bin/{name}": toolchain.build_program(name, row, static=True)
        for name in toolchain.PROGRAMS
    }
    pieces["lib/libbst.so"] = toolchain.build_library(row)
    pieces["lib/libbst.a"] = toolchain.build_static_library(row)
    pieces["include/bst.h"] = toolchain.find_sources() / "include" / "bst.h"
    try:
        (work / "model.bstm").write_bytes(content)
        for name, source in pieces.items():
            target = work / name
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(source, target)
            target.chmod(0o755 if name.startswith("bin/") or name.endswith(".so") else 0o644)
    except OSError as error:
        raise _cannot_write(work, error) from error


def _check_golden(work: Path, row: toolchain.Target) -> tuple[str, int, str]:
    """Run the golden vectors as the device would; return outcome, their number, emulator."""
    n_golden = runtime.load(work / "model.bstm").n_golden
    if n_golden == 0:
        return "none", 0, ""
    emulator = toolchain.find_emulator(row)
    if emulator is None:
        return "not run: no emulator", n_golden, ""
    command = [*emulator, str(work / "bin" / "bst_run"), str(work / "model.bstm"), "--golden"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"not run: {error}", n_golden, ""
    if done.returncode != 0:
        text = (done.stderr or done.stdout).strip().splitlines()
        raise VerificationError(
            f"the golden vectors fail on target {row.name} (exit {done.returncode}): "
            f"{text[-1] if text else 'no text'}",
            where=" ".join(command),
            hint="nothing was written; report this with the output of `bestdeploy doctor --json`",
        )
    if toolchain.runs_natively(row):
        runtime.load(work / "model.bstm", library=work / "lib" / "libbst.so").verify_golden()
    return "passed", n_golden, Path(emulator[0]).name if emulator else ""


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _describe(
    work: Path, source: Path, row: toolchain.Target, n_golden: int, facts: dict[str, str]
) -> dict[str, int]:
    """Write README.txt and manifest.json; return the size of every file."""
    model = runtime.load(work / "model.bstm")
    height, width, channels = model.input_shape
    (work / "README.txt").write_text(_readme(model, row, facts["golden"]))
    paths = sorted(p for p in work.rglob("*") if p.is_file())
    files = {p.relative_to(work).as_posix(): p for p in paths}
    manifest = {
        "kind": MANIFEST_KIND,
        "schema_version": MANIFEST_VERSION,
        "bestdeploy": __version__,
        "target": row.name,
        "source": {
            "name": source.name,
            "sha256": _sha256(source) if source.is_file() else None,
        },
        "model": {
            "height": height,
            "width": width,
            "channels": channels,
            "classes": model.classes,
            "time_steps": model.n_steps,
            "logit_shift": model.logit_shift,
            "golden_vectors": n_golden,
            "model_bytes": model.model_bytes,
            "arena_bytes": model.arena_bytes,
        },
        **facts,
        "files": {
            name: {"sha256": _sha256(path), "bytes": path.stat().st_size}
            for name, path in files.items()
        },
    }
    (work / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    return {name: path.stat().st_size for name, path in files.items()}


def _readme(model: runtime.Model, row: toolchain.Target, golden: str) -> str:
    height, width, channels = model.input_shape
    pixels = {1: "gray", 3: "rgb24"}.get(channels, "rgb24")
    n_bytes = height * width * channels
    return f"""\
bestdeploy {__version__}: a binary spiking transformer for {row.summary} (target {row.name})

Copy this folder to the device and prove that it computes the right numbers there:

    scp -r . user@device:bst
    ssh user@device bst/bin/bst_run bst/model.bstm --golden

Golden vectors on the machine that made this bundle: {golden}.

Run frames (raw uint8, {height} x {width} x {channels}, channel last, {n_bytes} bytes each):

    ./bin/bst_run model.bstm frames.raw
    ffmpeg -i clip.mp4 -vf scale={width}:{height} -f rawvideo -pix_fmt {pixels} - \\
        | ssh user@device bst/bin/bst_run bst/model.bstm - --json

Measure it:

    ./bin/bst_bench model.bstm

Memory of a run: {model.model_bytes} bytes for the prepared model, {model.arena_bytes} bytes
per session, and the file itself. Nothing is allocated while frames run.

Your own program: #include "bst.h", link lib/libbst.a (or lib/libbst.so); the header starts with
the complete life of a model. manifest.json lists the SHA-256 of every file.
"""
