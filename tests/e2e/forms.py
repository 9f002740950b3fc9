"""What several end-to-end suites share: the matrix of forms, and how each engine runs frames."""

from __future__ import annotations

import functools
import importlib.util
import itertools
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from e2e import arm64_python
from random_nets import Spec

from bestdeploy import ir, onnxruntime, runtime, stages, toolchain
from bestdeploy._bundle import host_module
from bestdeploy.errors import MissingToolError

EMULATED = ("arm64", "armv7")
OLDEST = ("onnxruntime==1.17.3", "numpy<2")
OLDEST_PLACE = Path(__file__).parents[2] / "build" / "onnxruntime-oldest"  # made by `make test`
NO_WHEEL_FROM = (3, 13)  # Python versions that OLDEST has no wheel for


def matrix() -> list[Spec]:
    """{qk, kv} x T {1, 2, 4, 10, 16} x tau {2, 1.5} x {official, paper}, D <= 130, all layouts."""
    rng = np.random.default_rng(11)
    found = []
    products = itertools.product(("qk", "kv"), (1, 2, 4, 10, 16), (2.0, 1.5), ("official", "paper"))
    for i, (attention, n_steps, tau, variant) in enumerate(products):
        heads = int(rng.integers(1, 9))
        layout = ("cifar", "imagenet")[i // 2 % 2]
        events = i % 4 == 3
        found.append(
            Spec(
                seed=3000 + i,
                dim=heads * int(rng.integers(2, 130 // heads + 1)),
                heads=heads,
                depth=int(rng.integers(1, 4)),
                n_steps=n_steps,
                size=int(rng.choice([8, 12, 16])) * (2 if layout == "imagenet" else 1),
                channels=2 if events else int(rng.integers(1, 4)),
                classes=int(rng.integers(1, 12)),
                tau=tau,
                decay_input=variant == "official",
                attention=attention,
                layout=layout,
                variant=variant,
                binariser=("soft", "hard", "boolean")[i % 3] if variant == "paper" else "soft",
                residual="plain" if i % 5 == 4 else "reversible",
                biased=i % 5 == 4,
                events=events,
                lambda_scale=float(rng.uniform(4, 16)),
            )
        )
    return found


@functools.cache
def why_not(target: str) -> str | None:
    """Return why nothing can be run for a target here, None where it can."""
    if toolchain.find_emulator(target) is None:
        return f"no emulator for {target} (apt install qemu-user-static)"
    try:
        toolchain.compiler_for(target)
    except MissingToolError as error:
        return str(error)
    return None


def missing() -> str | None:
    """Say which emulated targets cannot be run here, None where all can."""
    reasons = [reason for target in EMULATED if (reason := why_not(target)) is not None]
    return "; ".join(reasons) or None


def on_device(target: str, isa: str, model: Path, frames: np.ndarray, folder: Path) -> np.ndarray:
    """Raw logits of a target's bst_run under emulation."""
    emulator = toolchain.find_emulator(target)
    assert emulator is not None
    program = toolchain.build_program("bst_run", target)
    (folder / "frames.raw").write_bytes(frames.tobytes())
    command = [*emulator, program, model, folder / "frames.raw", "--json", "--isa", isa]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return np.array([json.loads(line)["raw"] for line in done.stdout.splitlines()], np.int64)


def raw_of_every_form(
    folder: Path, frames: np.ndarray, *, numpy_bodies: bool = True, modules: bool = False
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (form, raw logits [B, K]) of the files of an export; the reference comes first.

    Args:
        folder: holds model.onnx, model.std.onnx and model.bstm.
        frames: uint8 [B, ...].
        numpy_bodies: also the function bodies in onnx.reference, slow on large networks.
        modules: also what TVM makes of the .bstm, where it is installed.
    """
    graph = ir.load(folder / "model.onnx")
    yield "reference", stages.run(graph, frames)["raw"]
    if numpy_bodies:
        yield "bodies in onnx.reference", stages.run(graph, frames, bodies=True)["raw"]
    yield "bodies in onnxruntime", onnxruntime.load(folder / "model.onnx").infer(frames)[0]
    yield "std file in onnxruntime", onnxruntime.load(folder / "model.std.onnx").infer(frames)[0]
    with_kernels = onnxruntime.load(folder / "model.onnx", custom_ops=True)
    yield "custom ops in onnxruntime", with_kernels.infer(frames)[0]
    for isa in runtime.isa_names():
        yield f"C {isa}", runtime.load(folder / "model.bstm", isa=isa).run_raw(frames)
    for kernels in ("tir", "extern") if modules and importlib.util.find_spec("tvm") else ():
        path = host_module((folder / "model.bstm").read_bytes(), kernels)
        module = runtime.load_module(folder / "model.bstm", path)
        yield f"TVM, {kernels}", module.run_raw(frames)
    for target in EMULATED:
        if why_not(target) is None:
            for isa in ("neon", "scalar"):
                found = on_device(target, isa, folder / "model.bstm", frames, folder)
                yield f"C {isa}, {target}", found


# -- ONNX Runtime in other places --------------------------------------------------------------

FORMS = ("library", "bodies", "std")
ELSEWHERE = """
import pathlib, sys, numpy as np, onnxruntime
library, forms, *folders = sys.argv[1:]
found = dict.fromkeys(forms.split(","), 0)
for folder in map(pathlib.Path, folders):
    held = np.load(folder / "held.npz")
    frames, wanted = held["frames"], held["raw"]
    for form in found:
        options = onnxruntime.SessionOptions()
        if form == "library":
            options.register_custom_ops_library(library)
        name = folder / ("model.std.onnx" if form == "std" else "model.onnx")
        session = onnxruntime.InferenceSession(str(name), options)
        for n in {1, len(frames)}:
            (raw,) = session.run(["raw"], {"image": frames[:n]})
            assert np.array_equal(raw, wanted[:n]), (folder, form, n)
        found[form] += 1
print(", ".join(f"{n} files by {form}" for form, n in found.items()), end=" ")
print("in onnxruntime", onnxruntime.__version__)
"""
ARM64_PYTHON = Path(
    os.environ.get("BESTDEPLOY_ARM64_PYTHON")
    or Path(__file__).resolve().parents[2] / "build" / "arm64-python"
)


def hold(folder: Path, frames: np.ndarray) -> None:
    """Keep frames and the raw logits of the reference for `elsewhere`."""
    raw = stages.run(ir.load(folder / "model.onnx"), frames)["raw"]
    np.savez(folder / "held.npz", frames=frames, raw=raw)


EMULATORS = ("qemu-x86_64-static", "qemu-x86_64")


def _haswell() -> list[str] | None:
    """Return the words before a Python script that runs on an emulated Haswell."""
    emulator = next(filter(None, map(shutil.which, EMULATORS)), None)
    if emulator is None or platform.machine() != "x86_64":
        return None
    return [emulator, "-cpu", "Haswell", sys.executable]


def missing_elsewhere() -> str | None:
    """Say what `elsewhere` leaves out here, None where it does all."""
    reasons = []
    if _haswell() is None:
        reasons.append(f"nothing on a Haswell: no {' or '.join(EMULATORS)} on an x86-64 machine")
    if sys.version_info >= NO_WHEEL_FROM:
        version = ".".join(map(str, sys.version_info[:2]))
        reasons.append(f"nothing in {OLDEST[0]}: it has no wheel for Python {version}")
    if (reason := why_no_arm64()) is not None:
        reasons.append(reason)
    return "; ".join(reasons) or None


def why_no_arm64() -> str | None:
    """Return why ONNX Runtime for arm64 cannot be run here, None where it can."""
    if not (ARM64_PYTHON / arm64_python.DONE).exists():
        return "nothing in onnxruntime for arm64: `make ort-arm` gets it, 190 MB in build/"
    return why_not("arm64")


def elsewhere(
    folders: list[Path], environment: Path, emulated: list[Path] | None = None
) -> Iterator[tuple[str, str]]:
    """Run model.onnx with and without the custom ops, and model.std.onnx, in other places.

    What cannot be done here is left out: `missing_elsewhere` says it.

    An emulated Haswell has AVX2 and no VNNI: a saturating int8 kernel would show; onnxruntime
    1.17.3 is the oldest that is promised; arm64 is emulated.

    Args:
        folders: exports with `held.npz` of `hold`.
        environment: where an environment is made for the old onnxruntime.
        emulated: the folders for emulators, where loading a graph of 16 steps takes minutes;
            all of them if not given.
    """
    library = toolchain.build_ort_library()
    command = _haswell()
    if command is not None:
        yield "on an emulated Haswell", run_elsewhere(command, library, emulated or folders)
    if sys.version_info < NO_WHEEL_FROM:
        python = [str(old_python(environment, OLDEST))]
        yield "in the oldest onnxruntime", run_elsewhere(python, library, folders)
    if why_no_arm64() is None:
        yield "on an emulated arm64", run_on_arm64(emulated or folders)


def old_python(environment: Path, packages: tuple[str, ...]) -> Path:
    """Return the Python of an environment with these packages, made where there is none."""
    if not environment.is_dir():
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
        subprocess.run([environment / "bin" / "pip", "install", "-q", *packages], check=True)
    return environment / "bin" / "python"


def run_on_arm64(folders: list[Path]) -> str:
    """Run all forms in ONNX Runtime for arm64, with our kernels for arm64."""
    emulator = toolchain.find_emulator("arm64")
    assert emulator
    python = arm64_python.command(ARM64_PYTHON, emulator[0])
    return run_elsewhere(python, toolchain.build_ort_library("arm64"), folders)


def run_elsewhere(python: list[str], library: Path, folders: list[Path]) -> str:
    """Run all forms of the exports in another Python; return what it did."""
    command = [*python, "-c", ELSEWHERE, str(library), ",".join(FORMS), *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()
