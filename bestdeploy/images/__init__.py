"""Sources of frames: images, folders, arrays, IDX files, event recordings, raw bytes.

    for batch in images.read_batches("photos/", shape=(32, 32, 3), preprocessing=meta):
        model.run(batch.frames)              # uint8 [B, H, W, C], or [B, T, H, W, C] of events

Sources of a model of still images, shape (H, W, C):

| source              | frames                                           | labels              |
|---------------------|--------------------------------------------------|---------------------|
| image file          | one, prepared as the preprocessing metadata says | -                   |
| folder              | its image files, sorted by name                  | -                   |
| folder of folders   | one sub-folder per class, both sorted            | class of that name  |
| .npy                | uint8 [N, H, W, C], or [N, H, W] when C = 1      | -                   |
| .npz                | the same in `images`                             | `labels`, if there  |
| *-idx3-ubyte[.gz]   | uint8 [N, H, W]                                  | the *-idx1-* file   |
| -                   | raw frames of H*W*C bytes on standard input      | -                   |

Sources of a model of events, shape (T, H, W, 2), see `events` for the binning:

| source              | frames                                           | labels              |
|---------------------|--------------------------------------------------|---------------------|
| .npy, .npz          | counts [N, T, H, W, C] or [T, H, W, C], channel  | `labels`, if there  |
|                     | first too; an .npz in `images` or `frames`       |                     |
| .npy with fields    | one recording: x, y, p and, if there, t          | -                   |
| .npz with x, y, p   | one recording, or several with `offsets`         | `labels`, if there  |
| .bin                | one recording of 40-bit N-MNIST records          | -                   |
| .dat, .raw          | one Prophesee recording (DAT, EVT2, EVT3)        | -                   |
| folder (of folders) | its event files, as above                        | class of that name  |
| -                   | raw frames of T*H*W*C bytes on standard input    | -                   |

Everything is read frame by frame or recording by recording, so memory is bounded by the batch (and
by one file of events). Preprocessing metadata of images: `height`, `width`, `channels`; `resize`:
"short-side" (shorter side to floor(size / crop_pct), then the centre), an integer (shorter side to
that, then the centre), "stretch", or absent (images must have the exact size); `filter`: "nearest",
"bilinear", "bicubic", "lanczos"; `crop_pct`; `color`: "rgb" or "gray" converts images of another
colour mode, without it they are refused.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bestdeploy.errors import BestDeployError, InputError, UsageError
from bestdeploy.images.arrays import count_array, count_idx, from_array, from_idx, from_stream
from bestdeploy.images.builtin import builtin_images
from bestdeploy.images.definition import Frame, Item, Shape
from bestdeploy.images.events import BINNING
from bestdeploy.images.pictures import IMAGE_SUFFIXES, read_image
from bestdeploy.images.recordings import (
    EVENT_SUFFIXES,
    RECORDING_SUFFIXES,
    count_event_file,
    from_event_file,
)

__all__ = [
    "EVENT_SUFFIXES",
    "IMAGE_SUFFIXES",
    "Batch",
    "Shape",
    "Tally",
    "batches_of",
    "builtin_images",
    "check_strict",
    "count_frames",
    "read_batches",
    "read_image",
    "rules_of",
]


@dataclass(frozen=True)
class Batch:
    """Frames that are computed together.

    Attributes:
        frames: uint8 [B, H, W, C], or [B, T, H, W, C] of an event model.
        labels: int64 [B], or None where not every frame has one.
        names: file, or source[index], of every frame.
        is_recording: per frame, whether it was binned from an event recording; bool [B].
        n_saturated: per frame, counts above 255 that became 255; int64 [B].
    """

    frames: Frame
    labels: npt.NDArray[np.int64] | None
    names: tuple[str, ...]
    is_recording: npt.NDArray[np.bool_]
    n_saturated: npt.NDArray[np.int64]


def rules_of(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `read_batches` takes as preprocessing, from a model's metadata.

    Args:
        metadata: with `preprocessing` and `class_names`, parsed (a .bstm) or as JSON text (ONNX);
            what is missing or damaged is left out.
    """
    rules, names = (_parsed(metadata.get(key)) for key in ("preprocessing", "class_names"))
    return {
        **(rules if isinstance(rules, dict) else {}),
        "class_names": [str(name) for name in names] if isinstance(names, list) else [],
    }


def _parsed(value: Any) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return None


def check_strict(strict_events: bool, shape: Shape) -> None:
    """Refuse to be strict about the event counts of a model that takes none.

    Raises:
        UsageError: `strict_events` with frames (H, W, C).
    """
    if strict_events and len(shape) == 3:
        raise UsageError(
            f"--strict-events is for models of events, this one takes images {list(shape)}",
            hint="leave --strict-events away",
        )


def read_batches(
    sources: str | Path | Sequence[str | Path],
    shape: Shape,
    preprocessing: Mapping[str, Any] | None = None,
    *,
    batch_size: int = 64,
    limit: int | None = None,
    strict_events: bool = False,
) -> Iterator[Batch]:
    """Yield the frames of one or several sources in batches.

    Args:
        sources: path(s), or "-" for standard input; see the tables at the top.
        shape: (H, W, C) of the model's input, or (T, H, W, C) of an event model's.
        preprocessing: how image files become frames; None = they must have the exact size. With
            `class_names`, sub-folders of these names give labels.
        batch_size: frames per batch, the last one may be smaller.
        limit: stop after this many frames.
        strict_events: refuse event counts above 255 instead of saturating them.

    Raises:
        InputError: a source is missing, damaged, of the wrong type or of the wrong size.
        MissingToolError: a source needs an extra that is not installed.
    """
    check_strict(strict_events, shape)
    names = [sources] if isinstance(sources, str | Path) else list(sources)
    rules = dict(preprocessing or {})
    items: list[Item] = []
    count = 0
    for source in names:
        if limit is not None and count >= limit:
            break
        before = count
        for item in _items(str(source), shape, rules, strict_events):
            count += 1
            items.append(item)
            if len(items) == batch_size:
                yield _batch(items)
                items = []
            if count == limit:
                break
        if count == before:
            raise InputError(f"`{source}` holds no frames", hint=f"give {_known(shape)}")
    if items:
        yield _batch(items)


@dataclass
class Tally:
    """Adds up what reading changed: see `Batch`."""

    n_recordings: int = 0
    n_saturated: int = 0
    n_frames_saturated: int = 0

    def add(self, is_recording: Any, n_saturated: Any) -> None:
        """Count frames: what `Batch` says of all of its frames, or of one."""
        self.n_recordings += int(np.sum(is_recording))
        self.n_saturated += int(np.sum(n_saturated))
        self.n_frames_saturated += int(np.count_nonzero(n_saturated))

    def facts(self, shape: Shape) -> dict[str, Any] | None:
        """Return the numbers for a report on event frames, None for still images."""
        if len(shape) == 3:
            return None
        return {"binning": BINNING, "n_steps": shape[0], **dataclasses.asdict(self)}


def batches_of(frames: Frame, name: str, *, batch_size: int = 64) -> Iterator[Batch]:
    """Yield frames in memory, uint8 [N, ...], as `read_batches` yields those of a source."""
    items = [Item(frame, f"{name}[{k}]") for k, frame in enumerate(frames)]
    for start in range(0, len(items), batch_size):
        yield _batch(items[start : start + batch_size])


def count_frames(sources: str | Path | Sequence[str | Path], shape: Shape) -> int | None:
    """Return how many frames sources hold, None where only reading them can tell."""
    names = [sources] if isinstance(sources, str | Path) else list(sources)
    total = 0
    try:
        for source in map(str, names):
            path = Path(source)
            if source == "-":
                return None
            if path.is_dir():
                suffixes = EVENT_SUFFIXES if len(shape) == 4 else IMAGE_SUFFIXES
                total += sum(_count(file, shape) for file, _ in _files(path, suffixes))
            else:
                total += _count(path, shape)
    except BestDeployError:  # the reader says what is wrong with it
        return None
    return total


def _count(path: Path, shape: Shape) -> int:
    if path.suffix in (".npy", ".npz"):
        return count_event_file(path, shape) if len(shape) == 4 else count_array(path, shape)
    return count_idx(path, shape) if "idx" in path.name else 1


def _batch(items: list[Item]) -> Batch:
    labels = [item.label for item in items if item.label is not None]
    return Batch(
        frames=np.stack([item.frame for item in items]),
        labels=np.array(labels, np.int64) if len(labels) == len(items) else None,
        names=tuple(item.name for item in items),
        is_recording=np.array([item.n_events is not None for item in items]),
        n_saturated=np.array([item.n_saturated for item in items], np.int64),
    )


def _known(shape: Shape) -> str:
    if len(shape) == 4:
        return f"an event file ({' '.join(EVENT_SUFFIXES)}), a folder of them, or - for raw frames"
    return "an image, a folder, .npy, .npz, *-idx3-ubyte.gz, or - for raw frames"


def _items(source: str, shape: Shape, rules: dict[str, Any], strict: bool) -> Iterator[Item]:
    if source == "-":
        yield from from_stream(sys.stdin.buffer, shape)
        return
    path = Path(source)
    if path.is_dir():
        suffixes = EVENT_SUFFIXES if len(shape) == 4 else IMAGE_SUFFIXES
        for file, label in _files(path, suffixes, rules.get("class_names")):
            for item in _from_file(file, shape, rules, strict):
                yield item if item.label is not None else dataclasses.replace(item, label=label)
    elif path.is_file():
        yield from _from_file(path, shape, rules, strict)
    else:
        raise InputError(f"`{source}` does not exist", hint=f"give {_known(shape)}")


def _label(folder: str, class_names: Sequence[str] | None) -> int | None:
    """Return the class that a folder's name says: a class name or number, None where neither."""
    for label, name in enumerate(class_names or ()):
        if folder.casefold() == name.casefold():
            return label
    return int(folder) if folder.isdecimal() else None


def _files(
    folder: Path, suffixes: Sequence[str], class_names: Sequence[str] | None = None
) -> Iterator[tuple[Path, int | None]]:
    """Yield the files of a folder, then those of its sub-folders with the class of that name."""

    def usable(where: Path) -> list[Path]:
        return sorted(p for p in where.iterdir() if p.suffix.lower() in suffixes and p.is_file())

    yield from ((path, None) for path in usable(folder))
    for where in sorted(p for p in folder.iterdir() if p.is_dir()):
        label = _label(where.name, class_names)
        yield from ((path, label) for path in usable(where))


def _from_file(path: Path, shape: Shape, rules: dict[str, Any], strict: bool) -> Iterator[Item]:
    suffix, takes_events = path.suffix.lower(), len(shape) == 4
    if suffix in EVENT_SUFFIXES if takes_events else suffix in (".npy", ".npz"):
        read = from_event_file if takes_events else from_array
        yield from read(path, shape, strict=strict)
    elif takes_events and (suffix in IMAGE_SUFFIXES or "idx" in path.name):
        raise InputError(
            f"`{path}` is a still image, the model takes events {list(shape)}",
            hint=f"give {_known(shape)}",
        )
    elif suffix in IMAGE_SUFFIXES:
        yield Item(read_image(path, shape, rules), str(path))
    elif suffix in RECORDING_SUFFIXES and not takes_events:
        raise InputError(
            f"`{path}` is an event recording, the model takes still images {list(shape)}",
            hint=f"give {_known(shape)}",
        )
    elif "idx" in path.name or suffix == ".gz":
        yield from from_idx(path, shape)
    else:
        raise InputError(
            f"`{path}` is of no known type ({path.suffix or 'no suffix'})",
            hint=f"give {_known(shape)}",
        )
