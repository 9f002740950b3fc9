"""The front page does what it says: every block of it is executed, in order, in one folder."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import sys

import numpy as np
import pytest
from e2e.pages import ROOT, blocks, commands, install, run, shell
from random_nets import Spec, images_of, save

README = (ROOT / "README.md").read_text("utf-8")
EVENTS = Spec(seed=43, dim=16, heads=2, depth=1, n_steps=4, size=8, channels=2, classes=3,
              events=True)  # fmt: skip
SHELL = ("bestdeploy", "cat", "bst_run")
PICTURE = "ckpt.pt ──export──>"


BLOCKS = blocks(README)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A folder like a checkout, with the files that the page speaks of, where may be written."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("examples", "training"):
        (folder / name).symlink_to(ROOT / name)
    checkpoint = ROOT / "examples" / "checkpoints" / "fashion_mnist_2_32.pt"
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
    install(folder)
    return folder


@pytest.fixture(scope="module")
def tried():
    """Numbers of the blocks that were run in this process."""
    return set()


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_block(checkout, tried, number):
    """The blocks build on one another: those before it are run first where another process did."""
    for earlier in sorted(set(range(number)) - tried):
        with contextlib.suppress(pytest.skip.Exception):
            execute(earlier, checkout)
        tried.add(earlier)
    tried.add(number)
    execute(number, checkout)


def execute(number, checkout):
    """Run one block of the page, as its kind says."""
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
            for package, word in (
                ("openvino", "openvino"),
                ("matplotlib", "--plot"),
                ("tvm", "tvm"),
            ):
                if word in command and importlib.util.find_spec(package) is None:
                    pytest.skip(f"{package} is not installed (extra `bench` or `tvm`)")
            done = shell(command, checkout)
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


def test_links_and_shipped_files():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
    card = (ROOT / "examples" / "checkpoints" / "README.md").read_text("utf-8")
    shipped = {path.name for path in (ROOT / "examples" / "checkpoints").glob("*.pt")}
    assert shipped == set(re.findall(r"^## (\S+\.pt)$", card, re.MULTILINE))
