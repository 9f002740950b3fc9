"""Every kind of event source, real recordings among them, and what is said about a wrong one."""

from __future__ import annotations

import builtins
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bestdeploy import images
from bestdeploy.errors import InputError, MissingToolError
from bestdeploy.images.events import Events, bin_by_number

SHAPE = (3, 6, 8, 2)
NMNIST = Path(__file__).resolve().parents[4] / "shared/data/nmnist_small/nmnist_test.npz"


def events(n=100, seed=0, shape=SHAPE) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "x": rng.integers(0, shape[2], n),
        "y": rng.integers(0, shape[1], n),
        "p": rng.integers(0, 2, n),
        "t": np.sort(rng.integers(0, 1000, n)),
    }


def counts(columns, shape=SHAPE) -> np.ndarray:
    return bin_by_number(Events(**columns), shape, "r")


def read(source, shape=SHAPE, **options):
    """All frames, labels and names, recordings and saturated counts of a source."""
    batches = list(images.read_batches(source, shape, **options))
    labels = [b.labels for b in batches]
    return (
        np.concatenate([b.frames for b in batches]),
        None if any(label is None for label in labels) else np.concatenate(labels),
        [name for b in batches for name in b.names],
        int(sum(b.is_recording.sum() for b in batches)),
        int(sum(b.n_saturated.sum() for b in batches)),
    )


# ------------------------------------------------------------------- frames


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint32, np.float32, np.float64])
@pytest.mark.parametrize("channel_first", [False, True])
@pytest.mark.parametrize("single", [False, True])
def test_frames(tmp_path, dtype, channel_first, single):
    stack = np.random.default_rng(1).integers(0, 200, (1 if single else 5, *SHAPE))
    stored = stack.transpose(0, 1, 4, 2, 3) if channel_first else stack
    np.save(tmp_path / "f.npy", stored[0].astype(dtype) if single else stored.astype(dtype))
    frames, labels, names, n_recordings, n_saturated = read(tmp_path / "f.npy", batch_size=2)
    np.testing.assert_array_equal(frames, stack)
    assert frames.dtype == np.uint8 and labels is None
    assert names[0] == str(tmp_path / "f.npy") + ("" if single else "[0]")
    assert (n_recordings, n_saturated) == (0, 0)


@pytest.mark.parametrize("key", ["images", "frames"])
def test_frames_of_an_archive(tmp_path, key):
    stack = np.random.default_rng(2).integers(0, 256, (4, *SHAPE), np.uint8)
    np.savez_compressed(tmp_path / "f.npz", labels=np.arange(4), **{key: stack})
    frames, labels, _, _, _ = read(tmp_path / "f.npz")
    np.testing.assert_array_equal(frames, stack)
    np.testing.assert_array_equal(labels, np.arange(4))


def test_counts_above_255_saturate_or_are_refused(tmp_path):
    stack = np.zeros((2, *SHAPE), np.uint16)
    stack[1, 2, 5, 7, 1] = 256
    stack[1, 0, 0, 0, 0] = 255
    np.save(tmp_path / "f.npy", stack)
    frames, _, _, _, n_saturated = read(tmp_path / "f.npy")
    assert n_saturated == 1 and frames[1, 2, 5, 7, 1] == frames[1, 0, 0, 0, 0] == 255
    with pytest.raises(InputError, match=r"\[1\]` counts 256 events at step 3, x 7, y 5, channel"):
        read(tmp_path / "f.npy", strict_events=True)


def test_raw_event_frames_on_standard_input(monkeypatch):
    import io
    import sys
    import types

    stack = np.random.default_rng(3).integers(0, 256, (2, *SHAPE), np.uint8)
    stream = io.BytesIO(stack.tobytes() + b"xyz")
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=stream))
    found = images.read_batches("-", SHAPE, batch_size=1)
    np.testing.assert_array_equal(next(found).frames[0], stack[0])
    np.testing.assert_array_equal(next(found).frames[0], stack[1])
    with pytest.raises(InputError, match=r"frame 2 ends after 3 bytes, expected 288 \(3x6x8x2\)"):
        next(found)


# ------------------------------------------------------------------- recordings


@pytest.mark.parametrize("polarity", ["int", "bool", "packed"])
@pytest.mark.parametrize("with_times", [True, False])
def test_one_recording_in_an_archive(tmp_path, polarity, with_times):
    columns = events(101)
    stored = dict(columns)
    if polarity == "bool":
        stored["p"] = columns["p"].astype(bool)
    elif polarity == "packed":
        stored["p"] = np.packbits(columns["p"].astype(np.uint8))
    if not with_times:
        del stored["t"]
    np.savez(tmp_path / "r.npz", **stored)
    frames, labels, names, n_recordings, _ = read(tmp_path / "r.npz")
    np.testing.assert_array_equal(frames, counts(columns)[None])
    assert labels is None and names == [str(tmp_path / "r.npz")] and n_recordings == 1


def test_unsorted_times_are_sorted(tmp_path):
    columns = events(50)
    order = np.random.default_rng(5).permutation(50)
    columns["t"] = np.arange(50) / 7  # seconds are as good as microseconds
    np.savez(tmp_path / "r.npz", **{k: v[order] for k, v in columns.items()})
    np.testing.assert_array_equal(read(tmp_path / "r.npz")[0][0], counts(columns))


def test_several_recordings_in_an_archive(tmp_path):
    columns = events(90)
    offsets = [0, 20, 55, 90]
    np.savez(tmp_path / "r.npz", **columns, offsets=offsets, labels=[7, 0, 2])
    frames, labels, names, n_recordings, _ = read(tmp_path / "r.npz", limit=2)
    assert names == [f"{tmp_path / 'r.npz'}[{k}]" for k in range(2)] and n_recordings == 2
    np.testing.assert_array_equal(labels, [7, 0])
    for k in range(2):
        part = {key: v[offsets[k] : offsets[k + 1]] for key, v in columns.items()}
        np.testing.assert_array_equal(frames[k], counts(part))


def test_fields(tmp_path):
    columns = events(40)
    array = np.zeros(40, [("t", "<u8"), ("x", "<u2"), ("y", "<u2"), ("p", "?")])
    for key, values in columns.items():
        array[key] = values
    np.save(tmp_path / "r.npy", array)
    np.testing.assert_array_equal(read(tmp_path / "r.npy")[0][0], counts(columns))


def nmnist_records(columns) -> bytes:
    """The 40-bit records of N-MNIST."""
    t, p = columns["t"], columns["p"]
    rows = [columns["x"], columns["y"], (p << 7) | (t >> 16), (t >> 8) & 255, t & 255]
    return np.stack(rows, 1).astype(np.uint8).tobytes()


def test_nmnist_records(tmp_path):
    columns = events(70)
    columns["t"] = np.sort(np.random.default_rng(6).integers(0, 1 << 23, 70))
    (tmp_path / "00001.bin").write_bytes(nmnist_records(columns))
    frames, _, _, n_recordings, _ = read(tmp_path / "00001.bin")
    np.testing.assert_array_equal(frames[0], counts(columns))
    assert n_recordings == 1


def test_nmnist_clock_overflow_is_no_event(tmp_path):
    columns = events(9)
    columns["t"] = np.array([1, 2, 3, 0, 1, 2, 0, 1, 2])  # the clock starts again twice
    mark = {"x": [0], "y": [240], "p": [0], "t": [0]}
    parts = [{k: v[i : i + 3] for k, v in columns.items()} for i in (0, 3, 6)]
    content = [nmnist_records({k: np.array(v) for k, v in part.items()})
               for part in (parts[0], mark, parts[1], mark, parts[2])]  # fmt: skip
    (tmp_path / "a.bin").write_bytes(b"".join(content))
    columns["t"] = np.arange(9)
    np.testing.assert_array_equal(read(tmp_path / "a.bin")[0][0], counts(columns))


@pytest.mark.parametrize(
    ("encoding", "name"), [("dat", "a.dat"), ("evt2", "a.raw"), ("evt3", "b.raw")]
)
def test_camera_files(tmp_path, encoding, name):
    expelliarmus = pytest.importorskip("expelliarmus", reason="the extra `events` is missing")
    columns = events(200)
    array = np.zeros(200, [("t", "<i8"), ("x", "<i2"), ("y", "<i2"), ("p", "u1")])
    for key, values in columns.items():
        array[key] = values
    expelliarmus.Wizard(encoding=encoding).save(fpath=tmp_path / name, arr=array)
    np.testing.assert_array_equal(read(tmp_path / name)[0][0], counts(columns))
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[:-1])
    with pytest.raises(InputError, match="expected a multiple of"):
        read(tmp_path / name)


def test_camera_files_without_the_extra(tmp_path, monkeypatch):
    (tmp_path / "a.dat").write_bytes(b"% Version 2\n" + bytes(2 + 16))
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "expelliarmus":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingToolError, match="needs expelliarmus") as caught:
        read(tmp_path / "a.dat")
    assert caught.value.hint == "pip install 'bestdeploy[events]'"


def test_folders(tmp_path):
    columns = [events(30, seed) for seed in range(3)]
    for name, part in zip(("1/b.npz", "1/a.npz", "0/c.npz"), columns, strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        np.savez(tmp_path / name, **part)
    (tmp_path / "1" / "notes.txt").write_text("no events")
    frames, labels, names, _, _ = read(tmp_path)
    expected = [counts(columns[k]) for k in (2, 1, 0)]
    np.testing.assert_array_equal(frames, expected)
    np.testing.assert_array_equal(labels, [0, 1, 1])
    assert names == [str(tmp_path / n) for n in ("0/c.npz", "1/a.npz", "1/b.npz")]
    assert read(tmp_path / "1")[1] is None


@pytest.mark.skipif(not NMNIST.is_file(), reason=f"{NMNIST} is not there")
def test_real_recordings(tmp_path):
    """N-MNIST, 100 recordings: every event is counted, and the frames are digits."""
    shape = (4, 34, 34, 2)
    frames, labels, _, n_recordings, n_saturated = read(NMNIST, shape, batch_size=32)
    assert frames.shape == (100, *shape) and (n_recordings, n_saturated) == (100, 0)
    with np.load(NMNIST) as held:
        offsets, x, y = held["offsets"], held["x"], held["y"]
        p = np.unpackbits(held["p"])[: len(x)]
        np.testing.assert_array_equal(labels, held["labels"])
        t = np.concatenate([np.cumsum(part, dtype=np.int64)
                            for part in np.split(held["dt_us"], offsets[1:-1])])  # fmt: skip
    n = np.diff(offsets)
    np.testing.assert_array_equal(frames.sum(axis=(1, 2, 3, 4), dtype=np.int64), n)
    np.testing.assert_array_equal(frames[:, 0].sum(axis=(1, 2, 3), dtype=np.int64), n // 4)
    for k in (0, 57, 99):  # the original records of the same recording give the same frame
        part = slice(offsets[k], offsets[k + 1])
        columns = {"x": x[part], "y": y[part], "p": p[part].astype(np.int64), "t": t[part]}
        (tmp_path / "r.bin").write_bytes(nmnist_records(columns))
        np.testing.assert_array_equal(read(tmp_path / "r.bin", shape)[0][0], frames[k])


# ------------------------------------------------------------------- wrong sources


def wrong_sources(folder):
    """(name, what is said)."""
    good = events(20)

    def save(name, **changes):
        columns = {k: v for k, v in {**good, **changes}.items() if v is not None}
        np.savez(folder / name, **columns)

    save("outside.npz", x=np.where(np.arange(20) >= 4, 8, 0))
    save("length.npz", y=good["y"][:-1])
    save("minus.npz", p=np.where(good["p"] > 0, 1, -1))
    save("fraction.npz", x=good["x"] + 0.5)
    save("text.npz", x=np.array(["a"] * 20))
    save("time.npz", t=np.full(20, np.nan))
    save("offsets.npz", offsets=[0, 25])
    save("falling.npz", offsets=[0, 15, 5, 20])
    save("labels.npz", offsets=[0, 10, 20], labels=[1, 2, 3])
    save("empty.npz", offsets=[0, 0, 20])
    np.save(folder / "fields.npy", np.zeros(3, [("x", "u1"), ("y", "u1")]))
    np.save(folder / "size.npy", np.zeros((2, 3, 6, 9, 2), np.uint8))
    np.save(folder / "negative.npy", np.full(SHAPE, -1, np.int8))
    np.save(folder / "normal.npy", np.full(SHAPE, 0.5))
    np.save(folder / "nan.npy", np.full(SHAPE, np.nan, np.float32))
    np.save(folder / "complex.npy", np.zeros(SHAPE, np.complex64))
    np.savez(folder / "nothing.npz", a=np.zeros(2))
    (folder / "cut.bin").write_bytes(bytes(9))
    (folder / "cut.dat").write_bytes(b"% Version 2\n" + bytes(2 + 7))
    (folder / "frames.raw").write_bytes(bytes(288))
    (folder / "broken.npz").write_text("?")
    (folder / "broken.npy").write_text("?")
    Image.new("L", (8, 6)).save(folder / "still.png")
    (folder / "t10k-images-idx3-ubyte").write_bytes(bytes(20))
    (folder / "notes.txt").write_text("?")
    return {
        "outside.npz": "events outside the frame: event 4 of .* is at x 8, y",
        "length.npz": "has 20 values in x and 19 in y",
        "minus.npz": r"p\[\d+\] is -1, expected 0 \(off\) or 1 \(on\)",
        "fraction.npz": "x holds fractions",
        "text.npz": r"x is <U1 \[20\], expected numbers",
        "time.npz": "t holds a time that is not finite",
        "offsets.npz": "offsets must rise from 0 to 20, found 2 of them from 0 to 25",
        "falling.npz": "offsets must rise from 0 to 20",
        "labels.npz": "has 3 labels for 2 recordings",
        "empty.npz": r"\[0\]` holds no events",
        "fields.npy": "has fields x, y and shape",
        "size.npy": r"has shape \[2, 3, 6, 9, 2\], expected \[N, 3, 6, 8, 2\] or \[3, 6, 8, 2\]",
        "negative.npy": r"holds -1 at \[step, y, x, channel\] = \[0, 0, 0, 0\]",
        "normal.npy": "holds 0.5 at",
        "nan.npy": "holds nan at",
        "complex.npy": "has dtype complex64",
        "nothing.npz": "has no array `images` or `frames`, only a",
        "cut.bin": "has 9 bytes, expected a multiple of 5",
        "cut.dat": "has 7 bytes of dat events, expected a multiple of 8",
        "frames.raw": "has no header line that says EVT2 or EVT3",
        "broken.npz": "not a valid .npz file",
        "broken.npy": "not a valid .npy file",
        "still.png": r"is a still image, the model takes events \[3, 6, 8, 2\]",
        "t10k-images-idx3-ubyte": "is a still image, the model takes events",
        "notes.txt": "of no known type",
        "nowhere.npz": "does not exist",
    }


def test_wrong_sources_are_named(tmp_path):
    for name, says in wrong_sources(tmp_path).items():
        with pytest.raises(InputError, match=says) as caught:
            read(tmp_path / name)
        assert caught.value.exit_code == 7 and caught.value.hint
        assert name in str(caught.value)


def test_recordings_are_no_still_images(tmp_path):
    np.savez(tmp_path / "r.npz", **events(20))
    (tmp_path / "r.bin").write_bytes(bytes(10))
    for name in ("r.npz", "r.bin"):
        with pytest.raises(InputError, match="is an event recording, the model takes still images"):
            read(tmp_path / name, (6, 8, 2))
