"""Event recordings to frames of counts, uint8 [T, H, W, 2]; channel p counts p.

    by number   events in time order are cut into T slices of floor(N/T); the last slice takes the
                remainder as well
    by time     T slices of equal length between the first and the last event

Counts above 255 become 255. Layouts:

    nmnist      nmnist_train.npz, nmnist_test.npz (columns of all recordings and their offsets), or
                the original Train/DIGIT/*.bin and Test/DIGIT/*.bin of 40-bit records
    cifar10-dvs CLASS/*.aedat, or CLASS/*.npz with columns x, y, p, t, or CLASS/*.npz with `frames`
                [T, 2, H, W]; the first ceil(0.9 n) of every class are for training
"""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from training.data.splits import Arrays, Lazy
from training.errors import ConfigError, DataError

MAX_COUNT = 255
TRAIN_SHARE = 0.9
SPLIT_BY = ("number", "time")


@dataclass(frozen=True)
class Recording:
    """Events [N] of one recording, in time order; p is 0 or 1, t in microseconds."""

    x: np.ndarray
    y: np.ndarray
    p: np.ndarray
    t: np.ndarray


def steps_by_number(n: int, n_steps: int) -> np.ndarray:
    """The slice [N] of each of n events in time order."""
    size = n // n_steps
    if not size:
        return np.full(n, n_steps - 1)
    return np.minimum(np.arange(n) // size, n_steps - 1)


def steps_by_time(t: np.ndarray, n_steps: int) -> np.ndarray:
    """The slice [N] of events at times ``t``, ascending."""
    t = t.astype(np.int64)
    length = max(int(t[-1] - t[0]) + 1, 1)
    return np.minimum((t - t[0]) * n_steps // length, n_steps - 1)


def frames(r: Recording, n_steps: int, size: int, by: str, where: str) -> np.ndarray:
    """Counts of a recording, uint8 [T, size, size, 2].

    Raises:
        DataError: no events, or events outside the frame.
        ConfigError: ``by`` is neither number nor time.
    """
    if by not in SPLIT_BY:
        raise ConfigError(f"split_by must be one of {', '.join(SPLIT_BY)}; got {by!r}")
    n = len(r.x)
    if n == 0:
        raise DataError(f"{where} holds no events")
    if max(r.x.max(), r.y.max()) >= size or min(r.x.min(), r.y.min()) < 0 or r.p.max() > 1:
        raise DataError(f"{where}: events outside a {size}x{size} frame with 2 polarities")
    step = steps_by_number(n, n_steps) if by == "number" else steps_by_time(r.t, n_steps)
    x, y, p = (v.astype(np.int64) for v in (r.x, r.y, r.p))
    counts = np.bincount(
        ((step * size + y) * size + x) * 2 + p, minlength=n_steps * size * size * 2
    )
    return np.minimum(counts, MAX_COUNT).astype(np.uint8).reshape(n_steps, size, size, 2)


# -- N-MNIST ---------------------------------------------------------------------------------------


def _nmnist_archive(path: Path) -> tuple[list[Recording], np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as z:
            offsets, labels = z["offsets"].astype(np.int64), z["labels"]
            x, y, dt = z["x"], z["y"], z["dt_us"]
            p = np.unpackbits(z["p"])[: offsets[-1]]
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    if len(labels) + 1 != len(offsets) or len({len(x), len(y), len(p), len(dt), offsets[-1]}) != 1:
        raise DataError(f"{path}: its columns have different lengths")
    pieces = list(itertools.pairwise(offsets))
    times = [np.cumsum(dt[a:b], dtype=np.int64) for a, b in pieces]
    recordings = [
        Recording(x[a:b], y[a:b], p[a:b], t) for (a, b), t in zip(pieces, times, strict=True)
    ]
    return recordings, labels


def read_nmnist_record(path: Path) -> Recording:
    """One original N-MNIST file: 40-bit records x, y, polarity and 23-bit time, big-endian."""
    try:
        raw = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error}") from error
    if raw.size == 0 or raw.size % 5:
        raise DataError(f"{path}: {raw.size} bytes is not a whole number of 5-byte records")
    r = raw.reshape(-1, 5).astype(np.int64)
    t = (r[:, 2] & 127) << 16 | r[:, 3] << 8 | r[:, 4]
    return Recording(r[:, 0], r[:, 1], r[:, 2] >> 7, t)


def _nmnist_sources(folder: Path, split: str) -> tuple[list, np.ndarray, object]:
    archive = folder / f"nmnist_{split}.npz"
    if archive.is_file():
        recordings, labels = _nmnist_archive(archive)
        return recordings, labels, lambda r: r
    root = folder / split.capitalize()
    if not root.is_dir():
        raise DataError(
            f"{folder} has neither {archive.name} nor {root.name}/",
            hint="expected nmnist_train.npz, or Train/DIGIT/*.bin of the original set",
        )
    paths = sorted(root.glob("[0-9]/*.bin"))
    return paths, np.array([int(p.parent.name) for p in paths]), read_nmnist_record


# -- CIFAR10-DVS -----------------------------------------------------------------------------------


def read_aedat(path: Path) -> Recording:
    """One AEDAT 2.0 file of CIFAR10-DVS, turned as the published loaders turn it.

    After header lines that begin with '#': big-endian pairs (address, time in us); address bits
    1..7 are x, 8..14 y, 0 the polarity; x' = 127 - y, y' = 127 - x, p' = 1 - p.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error}") from error
    start = 0
    while raw[start : start + 1] == b"#":
        end = raw.find(b"\n", start)
        if end < 0:
            raise DataError(f"{path} ends inside its header")
        start = end + 1
    body = raw[start:]
    if not body or len(body) % 8:
        raise DataError(f"{path}: {len(body)} bytes is not a whole number of 8-byte events")
    pairs = np.frombuffer(body, ">u4").reshape(-1, 2).astype(np.int64)
    address, t = pairs[:, 0], pairs[:, 1]
    x, y, p = (address & 0xFE) >> 1, (address & 0x7F00) >> 8, address & 1
    order = np.argsort(t, kind="stable")
    return Recording(*(v[order] for v in (127 - y, 127 - x, 1 - p, t)))


def read_columns(path: Path) -> Recording | np.ndarray:
    """An .npz with columns x, y, p, t, or with counts `frames` [T, 2, H, W]."""
    try:
        with np.load(path, allow_pickle=False) as z:
            if "frames" in z:
                return z["frames"].transpose(0, 2, 3, 1)
            return Recording(*(z[k].astype(np.int64) for k in "xypt"))
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"cannot read {path}: {error}") from error


def _number(path: Path) -> tuple[int, str]:
    """Files are numbered without leading zeros: order them by number."""
    digits = re.findall(r"\d+", path.stem)
    return (int(digits[-1]) if digits else -1, path.name)


def _dvs_sources(folder: Path, split: str) -> tuple[list, np.ndarray, tuple[str, ...]]:
    classes = tuple(sorted(p.name for p in folder.iterdir() if p.is_dir()))
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted((p for p in (folder / name).iterdir() if p.suffix in (".aedat", ".npz")),
                       key=_number)  # fmt: skip
        n_train = math.ceil(TRAIN_SHARE * len(found))
        chosen = found[:n_train] if split == "train" else found[n_train:]
        paths += chosen
        labels += [label] * len(chosen)
    if not paths:
        raise DataError(
            f"{folder} holds no recordings for {split}",
            hint="expected CLASS/*.aedat or CLASS/*.npz",
        )
    return paths, np.array(labels), classes


def _read_dvs(path: Path, n_steps: int, size: int, by: str) -> np.ndarray:
    found = read_aedat(path) if path.suffix == ".aedat" else read_columns(path)
    if isinstance(found, Recording):
        return frames(found, n_steps, size, by, str(path))
    if found.shape != (n_steps, size, size, 2):
        raise DataError(
            f"{path}: frames of {found.shape[0]} steps and {found.shape[1:3]} pixels, "
            f"expected T={n_steps}, {size}x{size}",
            hint="set n_steps of the config to the T that the frames were made with",
        )
    return np.minimum(found, MAX_COUNT).astype(np.uint8)


def read(name: str, folder: Path, split: str, n_steps: int, size: int, by: str):
    """Class names (None where the set fixes them) and the frames of a split."""
    if by not in SPLIT_BY:
        raise ConfigError(f"split_by must be one of {', '.join(SPLIT_BY)}; got {by!r}")
    if name == "nmnist":
        sources, labels, opened = _nmnist_sources(folder, split)
        if not len(sources):
            raise DataError(f"{folder}: split {split} is empty")
        made = [frames(opened(s), n_steps, size, by, f"{folder}, recording {i}")
                for i, s in enumerate(sources)]  # fmt: skip
        return None, Arrays(np.stack(made), labels)
    paths, labels, classes = _dvs_sources(folder, split)
    return classes, Lazy(paths, labels, partial(_read_dvs, n_steps=n_steps, size=size, by=by))
