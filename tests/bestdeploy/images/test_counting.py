"""How many frames a source holds, known before it is read: for the progress bar."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest
from PIL import Image

from bestdeploy import images

GRAY, EVENTS = (4, 6, 1), (2, 4, 6, 2)


def write_all(folder) -> dict[str, tuple[tuple[int, ...], int | None]]:
    """Write a source of every kind; return name -> (shape, count)."""
    np.save(folder / "a.npy", np.zeros((7, *GRAY), np.uint8))
    np.savez(folder / "a.npz", images=np.zeros((5, *GRAY[:2]), np.uint8))
    header = bytes((0, 0, 8, 3)) + struct.pack(">3I", 6, 4, 6)
    (folder / "a-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + bytes(144)))
    (folder / "pictures").mkdir()
    for k in range(3):
        Image.new("L", (6, 4)).save(folder / "pictures" / f"{k}.png")
    np.save(folder / "frames.npy", np.zeros((4, *EVENTS), np.uint8))
    np.save(folder / "one.npy", np.zeros(EVENTS, np.uint8))
    np.save(folder / "fields.npy", np.zeros(9, [("x", "u1"), ("y", "u1"), ("p", "u1")]))
    columns = {key: np.zeros(9, int) for key in "xyp"}
    np.savez(folder / "one.npz", **columns)
    np.savez(folder / "three.npz", **columns, offsets=[0, 2, 5, 9])
    (folder / "digit.bin").write_bytes(bytes(10))
    for label in ("0", "1"):
        (folder / "classes" / label).mkdir(parents=True)
        np.savez(folder / "classes" / label / "three.npz", **columns, offsets=[0, 2, 5, 9])
    return {
        "a.npy": (GRAY, 7),
        "a.npz": (GRAY, 5),
        "a-images-idx3-ubyte.gz": (GRAY, 6),
        "pictures": (GRAY, 3),
        "pictures/0.png": (GRAY, 1),
        "frames.npy": (EVENTS, 4),
        "one.npy": (EVENTS, 1),
        "fields.npy": (EVENTS, 1),
        "one.npz": (EVENTS, 1),
        "three.npz": (EVENTS, 3),
        "digit.bin": (EVENTS, 1),
        "classes": (EVENTS, 6),
    }


def test_the_count_is_what_reading_gives(tmp_path):
    for name, (shape, count) in write_all(tmp_path).items():
        assert images.count_frames(tmp_path / name, shape) == count, name
        read = sum(len(b.frames) for b in images.read_batches(tmp_path / name, shape))
        assert read == count, name
    both = [tmp_path / "a.npy", tmp_path / "pictures"]
    assert images.count_frames(both, GRAY) == 10


@pytest.mark.parametrize("content", [b"?", b"PK\x03\x04"])
def test_what_cannot_be_counted_is_left_to_the_reader(tmp_path, content):
    (tmp_path / "bad.npz").write_bytes(content)
    assert images.count_frames(tmp_path / "bad.npz", GRAY) is None
    assert images.count_frames("-", GRAY) is None
    for shape in (GRAY, EVENTS):
        assert images.count_frames(tmp_path / "none.npz", shape) is None
