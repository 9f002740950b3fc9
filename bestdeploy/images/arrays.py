"""Frames as they are: .npy, .npz, IDX files and raw bytes on standard input, read one by one."""

from __future__ import annotations

import contextlib
import gzip
import math
import struct
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from bestdeploy.errors import InputError
from bestdeploy.images.definition import (
    Frame,
    Item,
    Shape,
    broken_is_an_input_error,
    exactly,
    read_up_to,
)
from bestdeploy.images.events import saturate

__all__ = [
    "array_header",
    "count_array",
    "count_idx",
    "from_array",
    "from_idx",
    "from_stream",
    "open_npy",
    "read_labels",
]

MEMBERS = ("images", "frames")
"""Arrays of an .npz that hold frames, the first one found is read."""


def from_stream(stream: IO[bytes], shape: Shape) -> Iterator[Item]:
    """Yield raw frames of exactly H*W*C (or T*H*W*C) bytes as they come.

    Raises:
        InputError: the stream ends within a frame; the frames before it were given.
    """
    frame_bytes = math.prod(shape)
    index = 0
    while data := read_up_to(stream, frame_bytes):
        if len(data) != frame_bytes:
            raise InputError(
                f"frame {index} ends after {len(data)} bytes, expected {frame_bytes} "
                f"({'x'.join(map(str, shape))})",
                where="standard input",
                hint="a frame is raw uint8, without a header, of exactly this size",
            )
        yield Item(np.frombuffer(data, np.uint8).reshape(shape), f"-[{index}]")
        index += 1


# ----------------------------------------------------------------------------- numpy


def open_npy(stream: IO[bytes], path: Path, key: str) -> tuple[Shape, np.dtype[Any]]:
    """Read an .npy header; afterwards the stream stands at the data, in C order."""
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    else:
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
    if fortran and len(shape) > 1:
        raise InputError(
            f"`{path}` holds {key} in Fortran order", hint="save np.ascontiguousarray(x)"
        )
    return tuple(shape), dtype


def array_header(path: Path) -> tuple[tuple[str, ...], np.dtype[Any] | None]:
    """Return an .npz's members and None, or () and an .npy's dtype: what kind of source it is."""
    with broken_is_an_input_error(path, f"{path.suffix} file"), path.open("rb") as stream:
        if path.suffix == ".npz":
            with zipfile.ZipFile(stream) as archive:
                return tuple(name.removesuffix(".npy") for name in archive.namelist()), None
        return (), open_npy(stream, path, "array")[1]


def from_array(path: Path, shape: Shape, *, strict: bool = False) -> Iterator[Item]:
    """Yield the frames of an .npy, or of `images` or `frames` of an .npz with its `labels`."""
    with _opened_array(path, shape) as (stream, layout, dtype, labels):
        if labels is not None and len(labels) != layout.count:
            raise InputError(
                f"`{path}` has {len(labels)} labels for {layout.count} frames",
                hint="`labels` holds one whole number per frame",
            )
        for index, values in enumerate(_arrays(stream, layout, dtype, path)):
            name = str(path) if layout.is_single else f"{path}[{index}]"
            frame, n_saturated = values, 0
            if values.dtype != np.uint8:
                frame, n_saturated = saturate(_whole(values, name), name, strict=strict)
            label = None if labels is None else labels[index]
            yield Item(frame, name, label, None, n_saturated)


def count_array(path: Path, shape: Shape) -> int:
    """Return the number of frames that `from_array` yields, from the header."""
    with _opened_array(path, shape) as (_, layout, _, _):
        return layout.count


@contextlib.contextmanager
def _opened_array(
    path: Path, shape: Shape
) -> Iterator[tuple[IO[bytes], _Layout, np.dtype[Any], list[int] | None]]:
    """Open an array file: a stream that stands at the frames, their layout and type, labels."""
    with contextlib.ExitStack() as stack, broken_is_an_input_error(path, path.suffix + " file"):
        labels: list[int] | None = None
        stream: IO[bytes] = stack.enter_context(path.open("rb"))
        if path.suffix == ".npz":
            archive = stack.enter_context(zipfile.ZipFile(stream))
            members = [name.removesuffix(".npy") for name in archive.namelist()]
            key = _member(members, shape, path)
            if "labels" in members:
                labels = read_labels(archive, path)
            stream = stack.enter_context(archive.open(f"{key}.npy"))
        got, dtype = open_npy(stream, path, "images")
        _require_dtype(dtype, shape, path)
        yield stream, _Layout(got, shape, path), dtype, labels


def _member(members: Sequence[str], shape: Shape, path: Path) -> str:
    wanted = MEMBERS if len(shape) == 4 else MEMBERS[:1]
    for key in wanted:
        if key in members:
            return key
    if len(shape) == 3 and {"x", "y", "p"} <= set(members):
        raise InputError(
            f"`{path}` is an event recording, the model takes still images",
            hint="export a model with --set input=events, or give images",
        )
    raise InputError(
        f"`{path}` has no array `{'` or `'.join(wanted)}`, only {', '.join(members)}",
        hint="np.savez(path, images=uint8 frames, labels=...)",
    )


def _require_dtype(dtype: np.dtype[Any], shape: Shape, path: Path) -> None:
    if len(shape) == 4 and dtype.kind in "uif":
        return
    if dtype != np.uint8:
        what, hint = "uint8", "give pixels 0..255 as they are; the model normalises them itself"
        if len(shape) == 4:
            what, hint = "uint8 or whole numbers", "event models take numbers of events"
        raise InputError(f"`{path}` has dtype {dtype}, expected {what}", hint=hint)


class _Layout:
    """How an array's axes [N, ..] are the frames of a model.

    Event frames may also stand alone, without N, and channel first as [T, C, H, W].
    """

    def __init__(self, got: Shape, shape: Shape, path: Path) -> None:
        self.shape = shape
        self.stored = got[-len(shape) :]
        self.is_single = len(shape) == 4 and len(got) == 4
        self.count = 1 if self.is_single else (got[0] if got else 0)
        self.channel_first = False
        rest = got if self.is_single else got[1:]
        if rest == shape:
            return
        if len(shape) == 3 and shape[2] == 1 and rest == shape[:2]:
            self.stored = rest
            return
        if len(shape) == 4 and rest == (shape[0], shape[3], shape[1], shape[2]):
            self.channel_first = True
            return
        axes = ", ".join(map(str, shape))
        alone = f" or [{axes}]" if len(shape) == 4 else ""
        raise InputError(
            f"`{path}` has shape {list(got)}, expected [N, {axes}]{alone}",
            hint="arrays hold frames of the exact size, channel last",
        )

    def frame(self, flat: np.ndarray) -> np.ndarray:
        """Return stored values as [H, W, C] or [T, H, W, C]."""
        if self.channel_first:
            return np.ascontiguousarray(flat.reshape(self.stored).transpose(0, 2, 3, 1))
        return flat.reshape(self.shape)


def _arrays(
    stream: IO[bytes], layout: _Layout, dtype: np.dtype[Any], path: Path
) -> Iterator[np.ndarray]:
    frame_bytes = math.prod(layout.shape) * dtype.itemsize
    for index in range(layout.count):
        data = read_up_to(stream, frame_bytes)
        if len(data) != frame_bytes:
            raise InputError(
                f"`{path}` ends within frame {index} of {layout.count}",
                hint="the file may be damaged",
            )
        yield layout.frame(np.frombuffer(data, dtype))


def _whole(values: np.ndarray, name: str) -> np.ndarray:
    """Return event counts of any numeric type as int64 [T, H, W, C], refusing what is no count."""
    with np.errstate(invalid="ignore"):  # what does not fit is found by the comparison
        counts = values.astype(np.int64)
    wrong = (counts != values) | (counts < 0)
    if wrong.any():
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise InputError(
            f"`{name}` holds {values[place]} at [step, y, x, channel] = {list(place)}, expected "
            "a count: a whole number >= 0",
            hint="event models take numbers of events, not normalised values",
        )
    return counts


def read_labels(archive: zipfile.ZipFile, path: Path) -> list[int]:
    """Read `labels` of an .npz: whole numbers [N]."""
    with archive.open("labels.npy") as stream:
        labels = np.lib.format.read_array(stream, allow_pickle=False)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise InputError(
            f"`{path}` labels are {labels.dtype} {list(labels.shape)}, expected integer [N]",
            hint="`labels` holds one whole number per frame",
        )
    return [int(label) for label in labels]


# ----------------------------------------------------------------------------- IDX


def _open_idx(path: Path, stack: contextlib.ExitStack) -> IO[bytes]:
    if path.suffix == ".gz":
        return cast(IO[bytes], stack.enter_context(gzip.open(path, "rb")))
    return stack.enter_context(path.open("rb"))


def _idx_header(stream: IO[bytes], path: Path, n_dims: int) -> Shape:
    magic = read_up_to(stream, 4)
    if magic != bytes((0, 0, 8, n_dims)):
        kind = "images" if n_dims == 3 else "labels"
        raise InputError(
            f"`{path}` starts with {magic.hex()}, expected 000008{n_dims:02x} "
            f"(IDX, uint8, {n_dims} dimensions)",
            hint=f"give the *-{kind}-idx{n_dims}-ubyte.gz file",
        )
    return struct.unpack(f">{n_dims}I", exactly(stream, 4 * n_dims))


def from_idx(path: Path, shape: Shape) -> Iterator[Item]:
    """Yield the images of an IDX file, with the labels of the file beside it."""
    with contextlib.ExitStack() as stack, broken_is_an_input_error(path, "IDX file"):
        stream = _open_idx(path, stack)
        layout = _Layout(_idx_header(stream, path, 3), shape, path)
        labels: bytes | None = None
        sibling = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
        if sibling != path and sibling.is_file():
            label_stream = _open_idx(sibling, stack)
            (n_labels,) = _idx_header(label_stream, sibling, 1)
            if n_labels != layout.count:
                raise InputError(
                    f"`{sibling}` has {n_labels} labels for {layout.count} images",
                    hint="the label file beside an IDX file must belong to it",
                )
            labels = exactly(label_stream, n_labels)
        for index, frame in enumerate(_arrays(stream, layout, np.dtype(np.uint8), path)):
            label = None if labels is None else labels[index]
            yield Item(cast(Frame, frame), f"{path}[{index}]", label)


def count_idx(path: Path, shape: Shape) -> int:
    """Return the number of images that `from_idx` yields, from the header."""
    with contextlib.ExitStack() as stack, broken_is_an_input_error(path, "IDX file"):
        return _Layout(_idx_header(_open_idx(path, stack), path, 3), shape, path).count
