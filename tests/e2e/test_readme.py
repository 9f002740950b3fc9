"""The front page does what it says: its Python example and the commands it shows."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A folder that looks like a checkout, where files may be written."""
    folder = tmp_path_factory.mktemp("checkout")
    (folder / "examples").symlink_to(ROOT / "examples")
    (folder / "training").symlink_to(ROOT / "training")
    return folder


def test_python_example(checkout):
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    numbers = [int(n) for n in re.findall(r"\d+", done.stdout)]
    assert len(numbers) == 10
    assert all(0 <= n < 10 for n in numbers)


def commands():
    """The lines of the command table, with the names of the page's own files."""
    (block,) = re.findall(r"## The commands\n\n(.*?)\n\n", README, flags=re.DOTALL)
    checkpoint = next((ROOT / "examples" / "checkpoints").glob("*.pt")).relative_to(ROOT)
    image = min((ROOT / "examples" / "images").glob("*.png")).relative_to(ROOT)
    for line in block.splitlines():
        words = shlex.split(line, comments=True)
        assert words[0] == "bestdeploy"
        swap = {"ckpt.pt": str(checkpoint), "image.png": str(image)}
        yield [swap.get(w, w) for w in words[1:]]


def test_the_commands_in_order(checkout):
    seen = []
    for words in commands():
        done = subprocess.run(
            [sys.executable, "-m", "bestdeploy.cli", *words],
            cwd=checkout,
            capture_output=True,
            text=True,
            check=False,
        )
        if words[0] == "compile" and done.returncode == 3:
            pytest.skip("no compiler for arm64 here")
        assert done.returncode == 0, (words, done.stderr)
        seen.append(words[0])
    assert seen == ["export", "compile", "run", "verify", "bench", "inspect", "targets", "doctor"]


def test_links_and_shipped_files():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
    assert len(list((ROOT / "examples" / "checkpoints").glob("*.pt"))) == 1
