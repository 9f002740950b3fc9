"""The wheels: pure and with the library inside, built, installed in a clean place, and used there.

What is installed is the wheel and its four base dependencies, no torch, no onnx. The package index
is needed for hatchling and for them; without it the tests are skipped.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest

from bestdeploy import deploy, runtime, toolchain
from bestdeploy.errors import MissingToolError

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "examples" / "images"
N_FRAMES = 10


def pip(*words: str | Path, python: str | Path = sys.executable, prebuilt: str = "") -> None:
    """Run pip; skip the test where it finds no package index."""
    done = subprocess.run(
        [python, "-m", "pip", "--disable-pip-version-check", "-q", *map(str, words)],
        env={**os.environ, "BESTDEPLOY_PREBUILT": prebuilt},
        capture_output=True,
        text=True,
        check=False,
    )
    text = done.stdout + done.stderr
    if done.returncode != 0 and re.search(
        r"No matching distribution|Temporary failure|Errno", text
    ):
        pytest.skip(f"no package index: {text.splitlines()[-1]}")
    assert done.returncode == 0, text[-3000:]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """wheels(kind) -> path; kind is the value of BESTDEPLOY_PREBUILT."""
    made: dict[str, Path] = {}

    def wheel(kind: str) -> Path:
        if kind not in made:
            folder = tmp_path_factory.mktemp("dist")
            pip("wheel", ROOT, "--no-deps", "-w", folder, prebuilt=kind)
            (made[kind],) = folder.glob("*.whl")
        return made[kind]

    return wheel


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as held:
        return set(held.namelist())


def test_the_pure_wheel_holds_sources_and_no_library(wheels):
    wheel = wheels("")
    assert wheel.name.endswith("-py3-none-any.whl")
    files = names(wheel)
    runtime_files = {
        p.relative_to(ROOT / "runtime").as_posix()
        for folder in ("include", "src", "tools", "ort", "cmake", "firmware")
        for p in (ROOT / "runtime" / folder).rglob("*")
        if p.is_file()
    }
    assert {f"bestdeploy/_runtime/{name}" for name in runtime_files} <= files
    assert not [f for f in files if f.startswith(("bestdeploy/_lib", "training", "tests"))]


@pytest.mark.parametrize("target", ["host", "arm"])
def test_a_prebuilt_wheel_holds_the_library_of_its_platform(wheels, target, tmp_path):
    row = toolchain.find_target(target)
    try:
        toolchain.compiler_for(row)
    except MissingToolError as error:
        pytest.skip(str(error))
    wheel = wheels("1" if target == "host" else target)
    machine = row.machine or toolchain.host_machine()
    assert re.search(rf"-py3-none-\w+_{machine}\.whl$", wheel.name)
    with zipfile.ZipFile(wheel) as held:
        library = Path(held.extract("bestdeploy/_lib/libbst.so", tmp_path))
        custom_ops = Path(held.extract("bestdeploy/_lib/libbst_ort.so", tmp_path))
        record = held.read("bestdeploy/_lib/source.sha256").decode().strip()
    assert record == toolchain.source_hash()
    assert toolchain.machine_of(library) == toolchain.machine_of(custom_ops) == machine


# ---- installed ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sample(tmp_path_factory) -> Path:
    """The shipped checkpoint as a .bstm."""
    from bestdeploy._bundle import lowered_bytes

    checkpoint = ROOT / "examples" / "checkpoints" / "fashion_mnist_2_32.pt"
    folder = tmp_path_factory.mktemp("sample")
    deploy.export(checkpoint, folder / "model.onnx")
    (folder / "model.bstm").write_bytes(lowered_bytes(folder / "model.onnx"))
    return folder / "model.bstm"


@pytest.fixture(scope="module")
def frames(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("frames") / "frames.npy"
    with np.load(IMAGES / "fashion_mnist_200.npz") as held:
        np.save(path, held["images"][:N_FRAMES])
    return path


@pytest.fixture(scope="module")
def places(wheels, tmp_path_factory):
    """place(kind) -> a fresh virtual environment with that wheel."""
    made: dict[str, Path] = {}

    def place(kind: str) -> Path:
        if kind not in made:
            folder = tmp_path_factory.mktemp("venv") / "v"
            venv.create(folder, with_pip=True, symlinks=True)
            python = folder / "bin" / "python"
            pip("install", "-c", ROOT / "constraints.txt", wheels(kind), python=python)
            made[kind] = folder
        return made[kind]

    return place


def call(place: Path, *words: str | Path, path: str, cache: Path):
    """Run the installed command where only `path` and the cache given are to be found."""
    kept = {k: v for k, v in os.environ.items() if k in ("HOME", "LANG", "TMPDIR")}
    return subprocess.run(
        [place / "bin" / "bestdeploy", *map(str, words)],
        cwd=cache.parent,
        env={**kept, "PATH": path, "BESTDEPLOY_CACHE": str(cache)},
        capture_output=True,
        text=True,
        check=False,
    )


def raw_of(done) -> np.ndarray:
    assert done.returncode == 0, done.stderr
    return np.array([f["raw"] for f in json.loads(done.stdout)["result"]["frames"]])


def test_the_prebuilt_wheel_needs_no_compiler(places, sample, frames, tmp_path):
    place, cache = places("1"), tmp_path / "cache"
    nothing = tmp_path / "empty"
    nothing.mkdir()
    listed = subprocess.run(
        [place / "bin" / "python", "-c", "import torch"], capture_output=True, check=False
    )
    assert listed.returncode == 1, "torch is installed"
    found = raw_of(call(place, "run", sample, frames, "--json", path=str(nothing), cache=cache))
    expected = runtime.load(sample).run_raw(np.load(frames))
    np.testing.assert_array_equal(found, expected)
    image = min(IMAGES.glob("*.png"))
    assert call(place, "run", sample, image, path=str(nothing), cache=cache).returncode == 0
    for words in (("inspect", sample), ("targets",), ("doctor",)):
        done = call(place, *words, path=str(nothing), cache=cache)
        assert done.returncode == 0, (words, done.stderr)
    done = call(place, "compile", sample, "--target", "c", "-o", tmp_path / "c",
                path=str(nothing), cache=cache)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "not run: no C compiler" in done.stdout
    assert not list(cache.rglob("*.so")), "something was built"


def test_an_edited_source_makes_the_library_useless(wheels, tmp_path):
    """In a copy of the wheel's files: the recorded hash is of other sources."""
    with zipfile.ZipFile(wheels("1")) as held:
        held.extractall(tmp_path)
    code = "from bestdeploy import toolchain; print(toolchain.prebuilt_library())"
    ask = [sys.executable, "-c", code]

    def answer() -> str:
        done = subprocess.run(ask, cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    assert answer() == str(tmp_path / "bestdeploy" / "_lib" / "libbst.so")
    with (tmp_path / "bestdeploy/_runtime/src/status.c").open("a") as stream:
        stream.write("\n")
    assert answer() == "None"


@pytest.mark.slow
def test_the_pure_wheel_compiles_at_first_use(places, sample, frames, tmp_path):
    place, cache = places(""), tmp_path / "cache"
    nothing = tmp_path / "empty"
    nothing.mkdir()
    done = call(place, "run", sample, frames, path=str(nothing), cache=cache)
    assert done.returncode == 3
    assert "no C compiler found" in done.stderr
    assert "apt install gcc" in done.stderr
    if not toolchain.compilers_for("host"):
        pytest.skip("no C compiler here")
    words = ("run", sample, frames, "--json")
    found = raw_of(call(place, *words, path=os.environ["PATH"], cache=cache))
    expected = runtime.load(sample).run_raw(np.load(frames))
    np.testing.assert_array_equal(found, expected)
    assert len(list(cache.rglob("libbst.so"))) == 1
