"""What every reader gives, and the small parts that readers share."""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from bestdeploy.errors import InputError

__all__ = ["BROKEN", "Frame", "Item", "Shape", "broken_is_an_input_error", "exactly", "read_up_to"]

Shape = tuple[int, ...]
"""(H, W, C) of a still image, or (T, H, W, C) of event frames."""

Frame = npt.NDArray[np.uint8]

BROKEN = (OSError, EOFError, ValueError, SyntaxError, zipfile.BadZipFile, zlib.error, KeyError)
"""What the readers of numpy, zipfile, gzip and Pillow raise on a damaged file."""


@dataclass(frozen=True)
class Item:
    """One frame and what is known about it.

    Attributes:
        frame: uint8 [H, W, C], or [T, H, W, C] of an event model.
        name: file, or source[index].
        label: true class, where the source has labels.
        n_events: events of the recording it was binned from; None where it was read as a frame.
        n_saturated: counts above 255 that became 255.
    """

    frame: Frame
    name: str
    label: int | None = None
    n_events: int | None = None
    n_saturated: int = 0


def read_up_to(stream: IO[bytes], n_bytes: int) -> bytes:
    """Read n bytes, fewer only at the end of the stream (a pipe gives short reads)."""
    parts: list[bytes] = []
    missing = n_bytes
    while missing and (part := stream.read(missing)):
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def exactly(stream: IO[bytes], n_bytes: int) -> bytes:
    """Read n bytes; EOFError where the stream is shorter."""
    data = read_up_to(stream, n_bytes)
    if len(data) != n_bytes:
        raise EOFError("the file is too short")
    return data


@contextlib.contextmanager
def broken_is_an_input_error(path: Path, what: str) -> Iterator[None]:
    """Turn what damaged files raise into an InputError that names the file and its kind."""
    try:
        yield
    except BROKEN as error:
        raise InputError(
            f"`{path}` is not a valid {what}: {error}", hint="the file may be damaged"
        ) from error
