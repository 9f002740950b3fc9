"""Every kind of source, and what is said about a wrong one."""

from __future__ import annotations

import gzip
import io
import struct
import sys
import types

import numpy as np
import pytest
from PIL import Image

from bestdeploy import images
from bestdeploy.errors import InputError

GRAY, RGB = (4, 6, 1), (4, 6, 3)


def pixels(shape, n=5, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), np.uint8)


def read(source, shape, rules=None, **options):
    """All frames, labels and names of a source."""
    batches = list(images.read_batches(source, shape, rules, **options))
    labels = [b.labels for b in batches]
    return (
        np.concatenate([b.frames for b in batches]),
        None if any(label is None for label in labels) else np.concatenate(labels),
        [name for b in batches for name in b.names],
    )


def save(path, array) -> None:
    Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array).save(path)


@pytest.mark.parametrize("shape", [GRAY, RGB])
def test_image_file(tmp_path, shape):
    frame = pixels(shape, 1)[0]
    save(tmp_path / "a.png", frame)
    frames, labels, names = read(tmp_path / "a.png", shape)
    np.testing.assert_array_equal(frames, frame[None])
    assert labels is None and names == [str(tmp_path / "a.png")]


def test_folder_is_sorted_and_classes_are_labels(tmp_path):
    stack = pixels(RGB, 4)
    for name, frame in zip(("d", "b", "a", "c"), stack, strict=True):
        save(tmp_path / f"{name}.png", frame)
    (tmp_path / "notes.txt").write_text("not an image")
    frames, labels, _ = read(tmp_path, RGB, batch_size=3)
    np.testing.assert_array_equal(frames, stack[[2, 1, 3, 0]])
    assert labels is None

    classes = tmp_path / "classes"
    for name, frame in zip(("dog/1", "cat/2", "cat/1"), stack, strict=False):
        (classes / name).parent.mkdir(parents=True, exist_ok=True)
        save(classes / f"{name}.png", frame)
    frames, labels, _ = read(classes, RGB)
    np.testing.assert_array_equal(frames, stack[[2, 1, 0]])
    assert labels is None, "nothing says which class a cat is"
    named = {"class_names": ["bird", "Dog", "cat"]}
    _, labels, _ = read(classes, RGB, named)
    np.testing.assert_array_equal(labels, [2, 2, 1])
    for name, number in (("cat", "10"), ("dog", "2")):
        (classes / name).rename(classes / number)
    _, labels, _ = read(classes, RGB)
    np.testing.assert_array_equal(labels, [10, 10, 2])
    save(classes / "beside.png", stack[3])
    frames, labels, _ = read(classes, RGB)
    assert len(frames) == 4 and labels is None


def test_npy(tmp_path):
    stack = pixels(RGB, 7)
    np.save(tmp_path / "x.npy", stack)
    batches = list(images.read_batches(tmp_path / "x.npy", RGB, batch_size=3))
    assert [len(b.frames) for b in batches] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate([b.frames for b in batches]), stack)
    assert batches[2].names == (f"{tmp_path / 'x.npy'}[6]",)


@pytest.mark.parametrize("save_npz", [np.savez, np.savez_compressed])
def test_npz_with_labels(tmp_path, save_npz):
    stack = pixels(GRAY, 7)
    save_npz(tmp_path / "x.npz", images=stack[..., 0], labels=np.arange(7))
    frames, labels, _ = read(tmp_path / "x.npz", GRAY)
    np.testing.assert_array_equal(frames, stack)
    np.testing.assert_array_equal(labels, np.arange(7))


def write_idx(path, array) -> None:
    header = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


def test_idx_finds_its_labels(tmp_path):
    stack = pixels(GRAY, 6)
    write_idx(tmp_path / "t10k-images-idx3-ubyte.gz", stack[..., 0])
    frames, labels, _ = read(tmp_path / "t10k-images-idx3-ubyte.gz", GRAY)
    assert labels is None
    write_idx(tmp_path / "t10k-labels-idx1-ubyte.gz", np.arange(6, dtype=np.uint8))
    frames, labels, _ = read(tmp_path / "t10k-images-idx3-ubyte.gz", GRAY)
    np.testing.assert_array_equal(frames, stack)
    np.testing.assert_array_equal(labels, np.arange(6))


class SlowPipe(io.RawIOBase):
    """Gives at most 7 bytes per read, as a pipe may."""

    def __init__(self, data: bytes) -> None:
        self.data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def read(self, n: int = -1) -> bytes:
        return self.data.read(min(n, 7))


def test_raw_frames_on_standard_input(monkeypatch):
    stack = pixels(RGB, 3)
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=SlowPipe(stack.tobytes())))
    frames, _, names = read("-", RGB)
    np.testing.assert_array_equal(frames, stack)
    assert names == ["-[0]", "-[1]", "-[2]"]
    cut = SlowPipe(stack.tobytes()[:-5])
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=cut))
    with pytest.raises(InputError, match="frame 2 ends after 67 bytes, expected 72"):
        read("-", RGB)


def test_limit_and_several_sources(tmp_path):
    stack = pixels(RGB, 5)
    np.save(tmp_path / "x.npy", stack)
    save(tmp_path / "y.png", stack[0])
    frames, _, _ = read([tmp_path / "x.npy", tmp_path / "y.png"], RGB)
    assert len(frames) == 6
    frames, _, _ = read([tmp_path / "x.npy", tmp_path / "y.png"], RGB, limit=4)
    np.testing.assert_array_equal(frames, stack[:4])


@pytest.mark.parametrize(
    ("rules", "size"),
    [
        ({"resize": "stretch"}, (17, 9)),
        ({"resize": "short-side", "crop_pct": 0.9, "filter": "bilinear"}, (17, 9)),
        ({"resize": 8, "filter": "bicubic"}, (9, 30)),
        ({"resize": "short-side"}, (6, 6)),
    ],
)
def test_resizing_gives_the_exact_size(tmp_path, rules, size):
    Image.new("RGB", size, (10, 20, 30)).save(tmp_path / "a.png")
    frames, _, _ = read(tmp_path / "a.png", (6, 6, 3), rules)
    np.testing.assert_array_equal(frames, np.broadcast_to([10, 20, 30], (1, 6, 6, 3)))


def test_short_side_is_the_usual_evaluation_transform(tmp_path):
    frame = pixels((40, 60, 3), 1)[0]
    save(tmp_path / "a.png", frame)
    frames, _, _ = read(tmp_path / "a.png", (16, 16, 3), {"resize": "short-side", "crop_pct": 0.8})
    resized = Image.fromarray(frame).resize((30, 20), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(frames[0], np.array(resized.crop((7, 2, 23, 18))))


def test_colour_is_converted_only_when_the_metadata_says_so(tmp_path):
    save(tmp_path / "rgb.png", pixels(RGB, 1)[0])
    save(tmp_path / "gray.png", pixels(GRAY, 1)[0])
    with pytest.raises(InputError, match="colour mode RGB, expected L"):
        read(tmp_path / "rgb.png", GRAY)
    with pytest.raises(InputError, match="colour mode L, expected RGB"):
        read(tmp_path / "gray.png", RGB)
    assert read(tmp_path / "rgb.png", GRAY, {"color": "gray"})[0].shape == (1, *GRAY)
    frames, _, _ = read(tmp_path / "gray.png", RGB, {"color": "rgb"})
    assert (frames[..., 0] == frames[..., 2]).all()


def bad_sources(folder):
    """(path, shape, what is said)."""
    np.save(folder / "float.npy", np.zeros((2, *RGB), np.float32))
    np.save(folder / "size.npy", np.zeros((2, 5, 6, 3), np.uint8))
    np.save(folder / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez(folder / "nokey.npz", x=np.zeros((2, *RGB), np.uint8))
    np.savez(folder / "labels.npz", images=np.zeros((2, *RGB), np.uint8), labels=np.arange(3))
    good = pixels(RGB, 3)
    np.save(folder / "good.npy", good)
    (folder / "cut.npy").write_bytes((folder / "good.npy").read_bytes()[:-9])
    (folder / "text.npy").write_text("not numpy")
    (folder / "text.npz").write_text("not a zip")
    (folder / "text.png").write_text("not a png")
    save(folder / "big.png", pixels((8, 8, 3), 1)[0])
    save(folder / "whole.png", pixels(RGB, 1)[0])
    (folder / "cut.png").write_bytes((folder / "whole.png").read_bytes()[:60])
    (folder / "a-idx3-ubyte.gz").write_bytes(b"not gzip")
    write_idx(folder / "b-idx1-ubyte.gz", np.arange(4, dtype=np.uint8))
    (folder / "model.txt").write_text("?")
    (folder / "empty").mkdir()
    return [
        ("float.npy", "dtype float32, expected uint8"),
        ("size.npy", r"has shape \[2, 5, 6, 3\], expected \[N, 4, 6, 3\]"),
        ("objects.npy", "dtype object, expected uint8"),
        ("nokey.npz", "no array `images`, only x"),
        ("labels.npz", "3 labels for 2 frames"),
        ("cut.npy", "ends within frame 2 of 3"),
        ("text.npy", "not a valid .npy file"),
        ("text.npz", "not a valid .npz file"),
        ("text.png", "cannot be read as an image"),
        ("big.png", "is 8x8 pixels, expected 6x4"),
        ("cut.png", "cannot be read as an image"),
        ("a-idx3-ubyte.gz", "not a valid IDX file"),
        ("b-idx1-ubyte.gz", "starts with 00000801, expected 00000803"),
        ("model.txt", "of no known type"),
        ("empty", "holds no frames"),
        ("nowhere.png", "does not exist"),
    ]


def test_bad_sources_are_named(tmp_path):
    for name, says in bad_sources(tmp_path):
        with pytest.raises(InputError, match=says) as caught:
            read(tmp_path / name, RGB)
        assert caught.value.exit_code == 7
        assert name in str(caught.value)


@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3), (1, 1, 1)])
def test_builtin_images_are_fixed_and_varied(shape):
    frames = images.builtin_images(shape)
    assert frames.shape == (16, *shape) and frames.dtype == np.uint8
    np.testing.assert_array_equal(frames, images.builtin_images(shape))
    np.testing.assert_array_equal(frames[:5], images.builtin_images(shape, 5))
    assert (frames[0] == 0).all() and (frames[1] == 255).all()
    if shape[0] > 1:
        assert len({frame.tobytes() for frame in frames}) >= 14
