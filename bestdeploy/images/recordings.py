"""Event recordings: .npz and structured .npy, N-MNIST .bin, Prophesee .dat and .raw (EVT2, EVT3).

A whole recording is held in memory. Coordinates, polarities and times are checked here; whether
they fit the model's frame is checked where they are binned.
"""

from __future__ import annotations

import itertools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bestdeploy.errors import InputError, MissingToolError
from bestdeploy.images.arrays import array_header, count_array, from_array, read_labels
from bestdeploy.images.definition import Item, Shape, broken_is_an_input_error
from bestdeploy.images.events import Events, bin_by_number, saturate

__all__ = ["EVENT_SUFFIXES", "RECORDING_SUFFIXES", "count_event_file", "from_event_file"]

RECORDING_SUFFIXES = (".bin", ".dat", ".raw")
EVENT_SUFFIXES = (".npy", ".npz", *RECORDING_SUFFIXES)

NMNIST_BYTES = 5  # x, y, then one bit of polarity and 23 bits of time
NMNIST_OVERFLOW_Y = 240  # a record that is no event: the clock has run over
NMNIST_OVERFLOW = 1 << 13

_HEADERS = {b"evt 2.0": "evt2", b"evt 3.0": "evt3", b"format EVT2": "evt2", b"format EVT3": "evt3"}
DAT_BYTES = 2  # type and size of an event, between the text and the events
_WORD_BYTES = {"dat": 8, "evt2": 4, "evt3": 2}

Recording = tuple[Events, int | None, str]  # events, label, name


def from_event_file(path: Path, shape: Shape, *, strict: bool = False) -> Iterator[Item]:
    """Yield the frames of one file for an event model: counts as they are, recordings binned.

    Args:
        path: a file with a suffix of EVENT_SUFFIXES.
        shape: (T, H, W, C) of the model.
        strict: refuse counts above 255.

    Raises:
        InputError: damaged, of the wrong shape, events outside the frame.
        MissingToolError: .dat or .raw without the extra `events`.
    """
    if path.suffix in (".npy", ".npz") and not _is_recording(path):
        yield from from_array(path, shape, strict=strict)
        return
    for events, label, name in _recordings(path):
        counts = bin_by_number(events, shape, name)
        frame, n_saturated = saturate(counts, name, strict=strict)
        yield Item(frame, name, label, len(events.x), n_saturated)


def count_event_file(path: Path, shape: Shape) -> int:
    """Return the number of frames of an .npy or .npz for an event model, from its header."""
    if not _is_recording(path):
        return count_array(path, shape)
    if path.suffix == ".npy":
        return 1
    with broken_is_an_input_error(path, ".npz file"), zipfile.ZipFile(path) as archive:
        if "offsets.npy" not in archive.namelist():
            return 1
        return max(0, _member(archive, "offsets").size - 1)


def _is_recording(path: Path) -> bool:
    members, dtype = array_header(path)
    return {"x", "y", "p"} <= set(members) if dtype is None else dtype.names is not None


def _recordings(path: Path) -> Iterator[Recording]:
    if path.suffix == ".npz":
        yield from _from_npz(path)
    elif path.suffix == ".npy":
        with broken_is_an_input_error(path, ".npy file"):
            array = np.load(path, allow_pickle=False)
        yield _from_fields(array, path), None, str(path)
    elif path.suffix == ".bin":
        yield _from_nmnist(path), None, str(path)
    else:
        yield _from_camera(path), None, str(path)


# ----------------------------------------------------------------------------- checks


def _numbers(values: np.ndarray, key: str, path: Path) -> np.ndarray:
    """Return coordinates, polarities or times [N] as they are stored, whole where they must be."""
    if values.ndim != 1 or values.dtype.kind not in "biuf":
        raise InputError(
            f"`{path}` {key} is {values.dtype} {list(values.shape)}, expected numbers [N]",
            hint="a recording has one number per event in x, y, p and t",
        )
    if values.dtype.kind != "f":
        return values
    if key != "t" and not (np.isfinite(values) & (np.floor(values) == values)).all():
        raise InputError(
            f"`{path}` {key} holds fractions, expected whole numbers",
            hint="pixel coordinates and polarities are whole numbers",
        )
    if not np.isfinite(values).all():
        raise InputError(f"`{path}` t holds a time that is not finite", hint="t orders the events")
    return values if key == "t" else values.astype(np.int64)


def _events(columns: dict[str, np.ndarray], path: Path) -> Events:
    """Check the columns of a file and return them as one long recording."""
    x, y = (_numbers(columns[key], key, path) for key in ("x", "y"))
    t = _numbers(columns["t"], "t", path) if "t" in columns else None
    p = _polarity(columns["p"], len(x), path)
    for key, values in (("y", y), ("p", p), ("t", t)):
        if values is not None and len(values) != len(x):
            raise InputError(
                f"`{path}` has {len(x)} values in x and {len(values)} in {key}",
                hint="a recording has one number per event in x, y, p and t",
            )
    return Events(x, y, p, t)


def _polarity(p: np.ndarray, n_events: int, path: Path) -> np.ndarray:
    """Return polarities 0 or 1; one bit per event, first in the highest bit, is unpacked."""
    if p.dtype == np.uint8 and p.ndim == 1 and len(p) != n_events and len(p) == -(-n_events // 8):
        p = np.unpackbits(p)[:n_events]
    values = _numbers(p, "p", path)
    wrong = (values != 0) & (values != 1)
    if wrong.any():
        k = int(np.argmax(wrong))
        raise InputError(
            f"`{path}` p[{k}] is {values[k]}, expected 0 (off) or 1 (on)",
            hint="p = (p > 0) where off is written as -1",
        )
    return values


# ----------------------------------------------------------------------------- numpy


def _from_npz(path: Path) -> Iterator[Recording]:
    with broken_is_an_input_error(path, ".npz file"), zipfile.ZipFile(path) as archive:
        members = {name.removesuffix(".npy") for name in archive.namelist()}
        keys = members & {"x", "y", "p", "t", "offsets"}
        columns = {key: _member(archive, key) for key in sorted(keys)}
        labels = read_labels(archive, path) if "labels" in members else None
    events = _events(columns, path)
    n = len(events.x)
    offsets = _offsets(columns["offsets"], n, path) if "offsets" in columns else [0, n]
    if labels is not None and len(labels) != len(offsets) - 1:
        raise InputError(
            f"`{path}` has {len(labels)} labels for {len(offsets) - 1} recordings",
            hint="`labels` holds one whole number per recording",
        )
    for index, (start, end) in enumerate(itertools.pairwise(offsets)):
        part = Events(
            events.x[start:end],
            events.y[start:end],
            events.p[start:end],
            None if events.t is None else events.t[start:end],
        )
        name = f"{path}[{index}]" if "offsets" in columns else str(path)
        yield part, None if labels is None else labels[index], name


def _member(archive: zipfile.ZipFile, key: str) -> np.ndarray:
    with archive.open(f"{key}.npy") as stream:
        return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))


def _offsets(values: np.ndarray, n_events: int, path: Path) -> list[int]:
    offsets = [int(v) for v in _numbers(values, "offsets", path)]
    rising = all(a <= b for a, b in itertools.pairwise(offsets))
    if len(offsets) < 2 or offsets[0] != 0 or offsets[-1] != n_events or not rising:
        raise InputError(
            f"`{path}` offsets must rise from 0 to {n_events}, found {len(offsets)} of them "
            f"from {offsets[0] if offsets else '-'} to {offsets[-1] if offsets else '-'}",
            hint="recording k holds the events offsets[k] .. offsets[k+1] - 1",
        )
    return offsets


def _from_fields(array: np.ndarray, path: Path) -> Events:
    names = array.dtype.names or ()
    missing = [key for key in ("x", "y", "p") if key not in names]
    if missing or array.ndim != 1:
        raise InputError(
            f"`{path}` has fields {', '.join(names)} and shape {list(array.shape)}, expected "
            "fields x, y, p (and t) and shape [N]",
            hint="rename the fields, or save x, y, p as an .npz",
        )
    return _events({key: array[key] for key in ("x", "y", "p", "t") if key in names}, path)


# ----------------------------------------------------------------------------- cameras


def _from_nmnist(path: Path) -> Events:
    """Read 40-bit records: x 8, y 8, polarity 1, time 23 bits (microseconds), big-endian."""
    data = np.fromfile(path, np.uint8)
    if not len(data) or len(data) % NMNIST_BYTES:
        raise InputError(
            f"`{path}` has {len(data)} bytes, expected a multiple of {NMNIST_BYTES} (N-MNIST)",
            hint="a .bin file holds 40-bit N-MNIST records; raw frames are read from -",
        )
    record = data.reshape(-1, NMNIST_BYTES).astype(np.int64)
    x, y, high = record[:, 0], record[:, 1], record[:, 2]
    t = ((high & 0x7F) << 16) | (record[:, 3] << 8) | record[:, 4]
    overflow = y == NMNIST_OVERFLOW_Y
    t = t + np.cumsum(overflow) * NMNIST_OVERFLOW
    kept = ~overflow
    return Events(x[kept], y[kept], high[kept] >> 7, t[kept])


def _encoding(path: Path) -> tuple[str, int]:
    """Return the encoding of a .dat or .raw file and the number of bytes its events take."""
    encoding, header_bytes = "dat" if path.suffix == ".dat" else "", 0
    with path.open("rb") as stream:
        while stream.read(1) == b"%":
            line = stream.readline()
            encoding = next((e for words, e in _HEADERS.items() if words in line), encoding)
            header_bytes = stream.tell()
    if not encoding:
        raise InputError(
            f"`{path}` has no header line that says EVT2 or EVT3",
            hint="a .raw file is a Prophesee recording; raw frames are read from -",
        )
    if path.suffix == ".dat":
        encoding, header_bytes = "dat", header_bytes + DAT_BYTES
    return encoding, path.stat().st_size - header_bytes


def _from_camera(path: Path) -> Events:
    """Read a Prophesee file with expelliarmus."""
    encoding, n_bytes = _encoding(path)
    if n_bytes <= 0 or n_bytes % _WORD_BYTES[encoding]:
        raise InputError(
            f"`{path}` has {max(0, n_bytes)} bytes of {encoding} events, expected a multiple of "
            f"{_WORD_BYTES[encoding]}",
            hint="the file may be cut off",
        )
    try:
        from expelliarmus import Wizard
    except ImportError as error:
        raise MissingToolError(
            f"reading `{path}` needs expelliarmus", hint="pip install 'bestdeploy[events]'"
        ) from error
    with broken_is_an_input_error(path, f"{encoding} file"):
        found: Any = Wizard(encoding=encoding).read(path)
    if found is None:
        raise InputError(f"`{path}` is not a valid {encoding} file", hint="the file may be damaged")
    return _events({key: found[key] for key in ("x", "y", "p", "t")}, path)
