"""The table over families: the script runs on checkpoints, and says what it cannot deploy."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("family_table.py")


def idx(path: Path, array: np.ndarray) -> None:
    """Write an official file of Fashion-MNIST's form."""
    header = bytes((0, 0, 8, array.ndim)) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


def test_the_script(tmp_path):
    pytest.importorskip("onnxruntime")
    with np.load(ROOT / "examples" / "images" / "fashion_mnist_200.npz") as held:
        idx(tmp_path / "t10k-images-idx3-ubyte.gz", held["images"][:, :, :, 0])
        idx(tmp_path / "t10k-labels-idx1-ubyte.gz", held["labels"].astype(np.uint8))
    (tmp_path / "broken.pt").write_bytes(b"no checkpoint")
    good = ROOT / "examples" / "checkpoints" / "fashion_mnist_2_32.pt"
    words = ["--data", "fashion-mnist", "--data-dir", str(tmp_path), "--seconds", "0.1"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(good), str(tmp_path / "broken.pt"), *words, "--images=4"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    header, rule, first, second = done.stdout.splitlines()
    assert [line.count("|") for line in (header, rule, first, second)] == [10] * 4
    cells = [cell.strip() for cell in first.split("|")[1:-1]]
    assert cells[0] == "fashion_mnist_2_32"
    assert 0.8 < float(cells[2].removesuffix("%")) / 100 < 0.95
    assert float(cells[4].removesuffix(" M")) > 1
    assert "not deployed" in second
