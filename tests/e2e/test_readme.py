"""The front page does what it says: every block of it is executed, in order, in one folder."""

from __future__ import annotations

import importlib.util
import os
import re
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from random_nets import Spec, images_of, save

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")
EVENTS = Spec(seed=43, dim=16, heads=2, depth=1, n_steps=4, size=8, channels=2, classes=3,
              events=True)  # fmt: skip
SHELL = ("bestdeploy", "cat", "bst_run")
PICTURE = "ckpt.pt ──export──>"


def blocks(page: str) -> list[tuple[str, str]]:
    """Return (kind, text) of every code block: "python", or "indented"."""
    found = []
    fenced = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
    either = re.compile(r"^```\w*\n.*?^```$|(?:^ {4}[^\n]*\n)+", re.DOTALL | re.MULTILINE)
    for match in either.finditer(page):
        inside = fenced.fullmatch(match[0])
        if inside:
            found.append((inside[1], inside[2]))
        else:
            found.append(("indented", textwrap.dedent(match[0])))
    return found


def commands(text: str) -> list[str]:
    """Return the shell commands of a block, continued lines joined, comments dropped."""
    joined = text.replace("\\\n", " ")
    return [line.split("  #")[0].strip() for line in joined.splitlines() if line.strip()]


BLOCKS = blocks(README)
PAGES = (
    "CONTRIBUTING.md",
    "docs/benchmarks.md",
    "runtime/README.md",
    "examples/checkpoints/README.md",
)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A folder like a checkout, with the files that the page speaks of, where may be written."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("examples", "training"):
        (folder / name).symlink_to(ROOT / name)
    (checkpoint,) = (ROOT / "examples" / "checkpoints").glob("*.pt")
    (folder / "ckpt.pt").symlink_to(checkpoint)
    (folder / "image.png").symlink_to(min((ROOT / "examples" / "images").glob("*.png")))
    (folder / "model_best.pth.tar").symlink_to(ROOT / "tests/golden/bestformer_qk.pth.tar")
    with np.load(ROOT / "examples" / "images" / "fashion_mnist_200.npz") as held:
        frames, labels = held["images"][:8], held["labels"][:8]
    np.savez(folder / "frames.npz", images=frames, labels=labels)
    (folder / "frames.raw").write_bytes(frames.tobytes())
    save(folder / "events.pt", EVENTS)
    rng = np.random.default_rng(0)
    columns = {key: rng.integers(0, top, 200) for key, top in (("x", 8), ("y", 8), ("p", 2))}
    np.savez(folder / "recording.npz", **columns)
    assert images_of(EVENTS, 1).shape == (1, 4, 8, 8, 2)
    program = folder / "bin" / "bestdeploy"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m bestdeploy.cli "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return folder


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess:
    env = {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_block(checkout, number):
    """The blocks build on one another: they are run in the order of the page."""
    kind, text = BLOCKS[number]
    if PICTURE in text:
        return
    if kind == "python":
        done = run([sys.executable, "-c", text], checkout)
        assert done.returncode == 0, done.stderr
        numbers = [int(n) for n in re.findall(r"\d+", done.stdout)]
        assert len(numbers) == 10
        assert all(0 <= n < 10 for n in numbers)
        return
    for command in commands(text):
        if command.startswith("make "):
            done = run(["make", "-n", "-C", str(ROOT), *command.split()[1:]], checkout)
        else:
            assert command.split()[0] in SHELL, f"who runs `{command}`?"
            for package, word in (("openvino", "openvino"), ("matplotlib", "--plot")):
                if word in command and importlib.util.find_spec(package) is None:
                    pytest.skip(f"{package} is not installed (extra `bench`)")
            done = run(["bash", "-o", "pipefail", "-c", command], checkout)
            if done.returncode == 3 and "--target arm" in command:
                pytest.skip("no compiler for arm64 here")
        assert done.returncode == 0, (command, done.stderr)


def test_every_command_is_on_the_page():
    from bestdeploy import cli

    text = "\n".join(text for _, text in BLOCKS)
    shown = set(re.findall(r"^(?:.*\| )?bestdeploy (\w+)", text, re.MULTILINE))
    names = {c.name or c.callback.__name__ for c in cli.app.registered_commands}
    assert shown == names


def test_options_that_the_page_names_exist(checkout):
    options = set(re.findall(r"`(--[a-z][a-z-]*)", README))
    known = ""
    for command in ("export", "compile", "run", "verify", "bench", "inspect"):
        known += run(["bestdeploy", command, "--help"], checkout).stdout
    known += (ROOT / "runtime" / "tools" / "bst_run.c").read_text()
    assert options and {o for o in options if o not in known} <= {"--help"}


@pytest.mark.parametrize("page", PAGES)
def test_commands_of_other_pages_exist(checkout, page):
    """Their commands are run by other tests; here: the command and its options exist."""
    seen = 0
    for _, text in blocks((ROOT / page).read_text("utf-8")):
        for command in commands(text):
            words = command.split()
            if words[0] == "make":
                done = run(["make", "-n", "-C", str(ROOT), *words[1:2]], checkout)
            elif words[0] == "bestdeploy":
                done = run([*words[:2], "--help"], checkout)
            elif words[:2] == ["python", "-m"]:
                done = run([sys.executable, "-m", words[2], "--help"], checkout)
            else:
                continue
            seen += 1
            assert done.returncode == 0, (command, done.stderr)
            if words[0] != "make":
                options = {w.split("=")[0] for w in words if w.startswith("--")}
                assert all(option in done.stdout for option in options), command
    assert seen, f"{page} shows no command: take it out of PAGES"


def test_links_and_shipped_files():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
    assert len(list((ROOT / "examples" / "checkpoints").glob("*.pt"))) == 1
