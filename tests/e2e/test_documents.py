"""Every other page does what it says: the runtime's, the examples', and those inside bundles."""

from __future__ import annotations

import gzip
import json
import math
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from e2e.pages import ROOT, blocks, commands, inline, install, run, shell
from random_nets import Spec, save

from bestdeploy import deploy, runtime, toolchain
from bestdeploy._bundle import lowered_bytes

CONSUMER = ROOT / "tests" / "bestdeploy" / "consumer"
PAGES = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("*.md", "runtime/*.md", "examples/*/*.md")
    for path in ROOT.glob(pattern)
)
SMALL = Spec(seed=41, dim=16, heads=2, depth=1, n_steps=2, size=8, channels=1, classes=5)
ELSEWHERE = ("scp", "ssh", "ffmpeg")
"""Programs of the generated README.txt that need a device or a film."""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """The model.onnx of a small network."""
    folder = tmp_path_factory.mktemp("small")
    deploy.export(save(folder / "ckpt.pt", SMALL), folder / "model.onnx")
    return folder / "model.onnx"


def good(command: str, folder: Path, **options) -> str:
    done = shell(command, folder, **options)
    assert done.returncode == 0, (command, done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout


def need(*tools: str) -> None:
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool}")


def built_with_cmake(snippet: str, prefix: Path, folder: Path) -> Path:
    """Build app.c of a folder as a project that holds the page's lines; return the program."""
    (folder / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.16)\nproject(app LANGUAGES C)\n"
        f"add_executable(app app.c)\n{snippet}"
    )
    good(f"cmake -S . -B app-build -DCMAKE_PREFIX_PATH='{prefix}'", folder)
    good("cmake --build app-build", folder)
    return folder / "app-build" / "app"


def golden_lines(model: Path) -> str:
    """Return what the consumer's program prints for a model."""
    golden = runtime.load(model).golden()
    return "".join("".join(f"{v} " for v in raw) + "\n" for _, raw in golden)


# ---- runtime/README.md --------------------------------------------------------------------------


def test_every_block_of_the_runtime_page(model, tmp_path):
    """The blocks in order, in a folder with runtime/, model.onnx and app.c, as they stand there."""
    need("cmake", "pkg-config", "cc")
    install(tmp_path)
    (tmp_path / "runtime").symlink_to(ROOT / "runtime")
    shutil.copyfile(CONSUMER / "app.c", tmp_path / "app.c")
    shutil.copyfile(model, tmp_path / "model.onnx")
    compiled, installed = tmp_path / "model.bstm", tmp_path / "opt" / "bst"
    compiled.write_bytes(lowered_bytes(model))
    expected = golden_lines(compiled)
    frames = np.stack([frame for frame, _ in runtime.load(compiled).golden()])
    np.savez(tmp_path / "frames.npz", images=frames)
    libraries = f"{installed}/lib"
    path = f"{tmp_path / 'bin'}:{installed / 'bin'}:{os.environ['PATH']}"
    page = (ROOT / "runtime" / "README.md").read_text("utf-8")
    n_run = 0
    for _, text in blocks(page):
        if text.startswith("find_package"):
            app = built_with_cmake(text, installed, tmp_path)
            assert good(f"{app} {compiled}", tmp_path) == expected
            continue
        for command in commands(text):
            good(command, tmp_path, PYTHONPATH=str(ROOT), DESTDIR=str(tmp_path), PATH=path,
                 PKG_CONFIG_PATH=f"{libraries}/pkgconfig")  # fmt: skip
            n_run += 1
            if command.startswith("cc "):
                done = good(f"./app {compiled}", tmp_path, LD_LIBRARY_PATH=libraries)
                assert done == expected
    assert n_run == 6
    assert "`cc -std=c11 -O3 main.c bst.c`" in page
    good("cc -std=c11 -O3 main.c bst.c", tmp_path / "firmware")
    assert good("./a.out", tmp_path / "firmware").endswith(" golden vectors exact\n")


# ---- README.txt of a bundle ---------------------------------------------------------------------


@pytest.mark.parametrize("target", ["host", "c"])
def test_every_block_inside_a_bundle(model, tmp_path, target):
    need("cc")
    bundle = tmp_path / "bundle"
    deploy.compile(model, target, output=bundle)
    (bundle / "frames.raw").write_bytes(bytes(2 * math.prod(SMALL.frame_shape)))
    shutil.copyfile(CONSUMER / "app.c", bundle / "app.c")
    expected = golden_lines(bundle / "model.bstm")
    n_run = 0
    for _, text in blocks((bundle / "README.txt").read_text("utf-8")):
        if text.startswith("find_package"):
            need("cmake")
            app = built_with_cmake(text, bundle, bundle)
            assert good(f"{app} model.bstm", bundle) == expected
            continue
        if re.match(r"\w+\.[ch]\b", text):  # a list of files
            for name in re.findall(r"^(\w+\.[ch])(?:, (\w+\.[ch]))?", text, re.MULTILINE):
                assert all((bundle / part).is_file() for part in name if part)
            continue
        for command in commands(text):
            if command.split()[0] in ELSEWHERE:
                continue
            if "pkg-config" in command:
                need("pkg-config")
            out = good(command, bundle, PKG_CONFIG_PATH=str(bundle / "lib" / "pkgconfig"))
            n_run += 1
            if command.endswith("-o app"):
                done = good("./app model.bstm", bundle, LD_LIBRARY_PATH=str(bundle / "lib"))
                assert done == expected
            elif "bst_run" in command:
                assert [json.loads(line)["frame"] for line in out.splitlines()] == [0, 1]
            else:
                assert "golden" in out, command
    assert n_run == (4 if target == "host" else 1)


# ---- examples -----------------------------------------------------------------------------------


def test_quick_start_is_what_make_demo_runs(tmp_path):
    install(tmp_path)
    recipe = run(["make", "-n", "-C", str(ROOT), "demo"], tmp_path).stdout
    assert "/python examples/01_quickstart.py" in recipe
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    done = run(["python", "examples/01_quickstart.py"], tmp_path, PYTHONPATH=str(ROOT))
    if done.returncode == 3 and not toolchain.compilers_for("arm"):
        pytest.skip("no compiler for arm64 here")
    assert done.returncode == 0, done.stderr
    assert "every form gives the same integers: yes" in done.stdout
    assert (tmp_path / "build" / "quickstart" / "arm" / "bin" / "bst_run").is_file()


def idx(path: Path, array: np.ndarray) -> None:
    """Write an official file of Fashion-MNIST's form."""
    header = bytes((0, 0, 8, array.ndim)) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


def recordings(path: Path, n: int, n_events: int) -> None:
    """Write random recordings in the columns of an N-MNIST subset."""
    rng = np.random.default_rng(1)
    shape = n * n_events
    np.savez(
        path,
        x=rng.integers(0, 34, shape, np.uint8),
        y=rng.integers(0, 34, shape, np.uint8),
        p=np.packbits(rng.integers(0, 2, shape, np.uint8)),
        dt_us=rng.integers(0, 50, shape, np.uint16),
        offsets=np.arange(n + 1, dtype=np.int64) * n_events,
        labels=np.arange(n, dtype=np.uint8) % 10,
    )


def test_the_training_commands(tmp_path):
    """As the page shows them, on 100 random images or recordings and for one epoch."""
    install(tmp_path)
    (tmp_path / "training").symlink_to(ROOT / "training")
    (tmp_path / "DIR").mkdir()
    rng = np.random.default_rng(0)
    for split, n in (("train", 100), ("t10k", 20)):
        pixels = rng.integers(0, 256, (n, 28, 28), np.uint8)
        idx(tmp_path / "DIR" / f"{split}-images-idx3-ubyte.gz", pixels)
        idx(tmp_path / "DIR" / f"{split}-labels-idx1-ubyte.gz", rng.integers(0, 10, n, np.uint8))
    recordings(tmp_path / "DIR" / "nmnist_train.npz", 100, 200)
    page = (ROOT / "examples" / "checkpoints" / "README.md").read_text("utf-8")
    lines = [c for _, text in blocks(page) for c in commands(text)]
    trainings = [line for line in lines if "training.train" in line]
    assert len(trainings) == 3, lines
    for line in lines:
        epochs = " --epochs 1" if line in trainings else ""
        good(line + epochs, tmp_path, PYTHONPATH=str(ROOT))
    for name in ("nmnist_1_48.pt", "fashion_mnist_1_64.pt", "fashion_mnist_2_32.pt"):
        assert (tmp_path / name).is_file()


# ---- all pages ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def helps(tmp_path_factory):
    """help_of(words) -> the --help text of a command line's program, asked once each."""
    folder = tmp_path_factory.mktemp("helps")
    install(folder)
    known: dict[tuple[str, ...], str] = {}

    def help_of(*words: str) -> str:
        if words not in known:
            done = run([*words, "--help"], folder, PYTHONPATH=str(ROOT))
            assert done.returncode == 0, (words, done.stderr)
            known[words] = done.stdout
        return known[words]

    return help_of


COMMANDS = ("export", "compile", "run", "verify", "bench", "inspect", "targets", "doctor")


def program_of(words: list[str]) -> tuple[str, ...] | None:
    """Return the words that name the program of a command line of ours; None for others."""
    if words[0] == "bestdeploy" and len(words) > 1:
        return ("bestdeploy", words[1])
    if words[0] in COMMANDS and len(words) > 1 and words[1].startswith("--"):
        return ("bestdeploy", words[0])  # "`run --json` prints .."
    if words[:2] == ["python", "-m"] and words[2].startswith("training"):
        return ("python", "-m", words[2])
    return None


@pytest.mark.parametrize("page", PAGES)
def test_commands_of_every_page_exist(page, helps):
    """In blocks and in the text: the command, its options, the make target."""
    text = (ROOT / page).read_text("utf-8")
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for command in [c for _, block in blocks(text) for c in commands(block)] + inline(text):
        words = command.split()
        if words[0] == "make" and len(words) > 1:
            assert re.search(rf"^{re.escape(words[1])}:", makefile, re.MULTILINE), command
        program = program_of(words)
        if program is not None:
            shown = helps(*program)
            options = {w.split("=")[0].rstrip(",.;") for w in words if w.startswith("--")}
            assert all(option in shown for option in options), command


def test_pages_are_found():
    assert {"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "runtime/README.md"} <= set(PAGES)
    assert sum(page.startswith("examples/") for page in PAGES) == 2
