"""Event recordings, folders of images, folds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from training import data
from training.data import events, folders
from training.errors import ConfigError, DataError

SHARED = Path(__file__).parents[3] / "shared" / "data"


def recording(n, size=4, seed=0):
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, size, (2, n))
    return events.Recording(x, y, rng.integers(0, 2, n), np.sort(rng.integers(0, 10_000, n)))


@pytest.mark.parametrize(("n", "n_steps", "sizes"), [(11, 4, [2, 2, 2, 5]), (3, 4, [0, 0, 0, 3])])
def test_slices_by_number(n, n_steps, sizes):
    r = recording(n)
    got = events.frames(r, n_steps, 4, "number", "r")
    assert got.shape == (n_steps, 4, 4, 2)
    assert got.sum((1, 2, 3)).tolist() == sizes
    want = np.zeros_like(got)
    step = np.repeat(np.arange(n_steps), sizes)
    for t, x, y, p in zip(step, r.x, r.y, r.p, strict=True):
        want[t, y, x, p] += 1
    assert np.array_equal(got, want)


def test_slices_by_time_have_equal_length():
    t = np.array([100, 101, 149, 150, 199])
    assert events.steps_by_time(t, 2).tolist() == [0, 0, 0, 1, 1]
    assert events.steps_by_time(np.array([7]), 3).tolist() == [0]


def test_counts_saturate_and_bad_recordings_are_refused():
    many = events.Recording(*np.zeros((4, 300), np.int64))
    assert events.frames(many, 1, 2, "number", "r")[0, 0, 0, 0] == 255
    with pytest.raises(DataError, match="holds no events"):
        events.frames(events.Recording(*np.zeros((4, 0), np.int64)), 1, 2, "number", "r")
    with pytest.raises(DataError, match="outside a 2x2 frame"):
        events.frames(recording(20), 1, 2, "number", "r")
    with pytest.raises(ConfigError, match="split_by"):
        events.frames(many, 1, 2, "colour", "r")


def nmnist_bytes(r):
    t = r.t
    return (
        np.stack([r.x, r.y, r.p << 7 | t >> 16, t >> 8 & 255, t & 255], 1)
        .astype(np.uint8)
        .tobytes()
    )


def test_original_nmnist_records(tmp_path):
    for split in ("Train", "Test"):
        for digit in range(10):
            folder = tmp_path / split / str(digit)
            folder.mkdir(parents=True)
            (folder / "00001.bin").write_bytes(nmnist_bytes(recording(40, 34, digit)))
    info, splits = data.open_split("nmnist", tmp_path, data.DataConfig(split_by="time"), 3)
    assert (info.input, info.channels, info.image_size) == ("events", 2, 34)
    assert splits["train"].labels.tolist() == list(range(10))
    want = events.frames(recording(40, 34, 7), 3, 34, "time", "r")
    assert np.array_equal(splits["test"].take(np.array([7]))[0], want)
    (tmp_path / "Train" / "0" / "00001.bin").write_bytes(b"1234")
    with pytest.raises(DataError, match="5-byte records"):
        data.open_split("nmnist", tmp_path, data.DataConfig(), 3)
    with pytest.raises(DataError, match="has neither"):
        data.open_split("nmnist", tmp_path / "Train", data.DataConfig(), 3)


def aedat_bytes(x, y, p, t):
    address = (127 - y) << 1 & 0xFE | (127 - x) << 8 | (1 - p)
    return b"#!AER-DAT2.0\r\n# made\r\n" + np.stack([address, t], 1).astype(">u4").tobytes()


def test_cifar10_dvs_layout(tmp_path):
    r = recording(60, 128)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for k in range(10):
            (tmp_path / name / f"cifar10_{name}_{k}.aedat").write_bytes(
                aedat_bytes(r.x, r.y, r.p, r.t)
            )
    np.savez(tmp_path / "dog" / "cifar10_dog_9.npz", x=r.x, y=r.y, p=r.p, t=r.t)
    (tmp_path / "dog" / "cifar10_dog_9.aedat").unlink()
    info, splits = data.open_split("cifar10-dvs", tmp_path, data.DataConfig(), 4)
    assert info.class_names == ("cat", "dog")
    assert (len(splits["train"]), len(splits["test"])) == (18, 2)
    want = events.frames(r, 4, 128, "number", "r")
    for split in splits.values():
        got = split.take(np.arange(len(split)))
        assert all(np.array_equal(frame, want) for frame in got)
    made = want.transpose(0, 3, 1, 2).astype(np.float32)
    np.savez(tmp_path / "dog" / "cifar10_dog_9.npz", frames=made)
    _, splits = data.open_split("cifar10-dvs", tmp_path, data.DataConfig(), 4)
    assert np.array_equal(splits["test"].take(np.array([1]))[0], want)
    with pytest.raises(DataError, match="expected T=3"):
        data.open_split("cifar10-dvs", tmp_path, data.DataConfig(), 3)[1]["test"].take([1])


def test_aedat_turns_the_frame_as_the_published_loaders(tmp_path):
    path = tmp_path / "a.aedat"
    x, y, p = np.array([3]), np.array([100]), np.array([1])
    path.write_bytes(aedat_bytes(x, y, p, np.array([9])))
    got = events.read_aedat(path)
    raw_x, raw_y = 127 - y, 127 - x  # address bits 1..7 and 8..14
    address = int.from_bytes(path.read_bytes()[-8:-4], "big")
    assert (address >> 1 & 127, address >> 8 & 127, address & 1) == (raw_x[0], raw_y[0], 0)
    assert (got.x[0], got.y[0], got.p[0], got.t[0]) == (127 - raw_y[0], 127 - raw_x[0], 1, 9)
    for bad in (b"#no end", b"", b"#\n123"):
        path.write_bytes(bad)
        with pytest.raises(DataError, match=r"header|8-byte"):
            events.read_aedat(path)


def image_folders(root, classes=("cat", "dog"), size=(20, 12)):
    image = pytest.importorskip("PIL.Image")
    for split in ("train", "val"):
        for k, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            image.new("RGB", size, (50 * k, 0, 0)).save(root / split / name / "a.png")


def test_image_folders(tmp_path):
    image_folders(tmp_path)
    info, splits = data.open_split("imagenet", tmp_path, data.DataConfig(image_size=8), 4)
    assert (info.class_names, info.image_size) == (("cat", "dog"), 8)
    frames = splits["test"].take(np.array([0, 1]))
    assert frames.shape == (2, 8, 8, 3)
    assert frames[:, 4, 4, 0].tolist() == [0, 50]
    (tmp_path / "val" / "emu").mkdir()
    with pytest.raises(DataError, match="other classes"):
        data.open_split("imagenet", tmp_path, data.DataConfig(), 4)
    with pytest.raises(DataError, match="no folder"):
        data.open_split("imagenet", tmp_path / "train", data.DataConfig(), 4)
    (tmp_path / "train" / "cat" / "a.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="cannot read"):
        folders.read_image(tmp_path / "train" / "cat" / "a.png", 8)


def test_cifar100_binary_has_two_labels(tmp_path):
    rng = np.random.default_rng(0)
    planes = rng.integers(0, 256, (5, 3072), dtype=np.uint8)
    coarse, fine = np.zeros((5, 1), np.uint8), rng.integers(0, 100, (5, 1), dtype=np.uint8)
    (tmp_path / "test.bin").write_bytes(np.concatenate([coarse, fine, planes], 1).tobytes())
    images, labels = data.load("cifar100", tmp_path, "test")
    assert images.shape == (5, 32, 32, 3)
    assert np.array_equal(labels, fine[:, 0])
    assert len(data.DATASETS["cifar100"].class_names) == 100
    with pytest.raises(DataError, match="has none of: train"):
        data.load("cifar100", tmp_path, "train")


def test_folds_cover_every_image_once():
    split = data.Arrays(np.arange(23), np.arange(23) % 3)
    held = []
    for k in range(5):
        train, test = data.fold(split, f"{k}/5")
        assert not set(train.frames) & set(test.frames)
        assert len(train) + len(test) == 23
        held += test.frames.tolist()
    assert sorted(held) == list(range(23))
    for bad in ("5/5", "1", "a/b", "0/1"):
        with pytest.raises(ConfigError, match="expected k/n"):
            data.fold(split, bad)
    with pytest.raises(DataError, match="too few"):
        data.fold(data.Arrays(np.arange(2), np.zeros(2)), "3/5")


def test_real_events_when_present():
    folder = SHARED / "nmnist_small"
    if not folder.is_dir():
        pytest.skip("../shared/data/nmnist_small is absent")
    _, splits = data.open_split("nmnist", folder, data.DataConfig(fold="1/5", limit=40), 4)
    frames = splits["train"].take(np.arange(10))
    assert frames.shape == (10, 4, 34, 34, 2)
    totals = frames.sum((2, 3, 4), dtype=np.int64)
    assert (totals[:, :3] == totals[:, :1]).all()  # equal numbers of events
    assert (totals[:, 3] - totals[:, 0] < 4).all()


def test_real_cifar100_when_present():
    folder = SHARED / "cifar100"
    if not folder.is_dir():
        pytest.skip("../shared/data/cifar100 is absent")
    pytest.importorskip("PIL.Image")
    images, labels = data.load("cifar100", folder, "test")
    assert images.shape == (10_000, 32, 32, 3)
    assert (np.bincount(labels) == 100).all()
