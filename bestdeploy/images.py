"""Sources of frames: image files, folders, arrays, IDX files, raw bytes on standard input.

    for batch in images.read_batches("photos/", shape=(32, 32, 3), preprocessing=meta):
        model.run(batch.frames)              # uint8 [B, H, W, C]

| source              | frames                                           | labels              |
|---------------------|--------------------------------------------------|---------------------|
| image file          | one, prepared as the preprocessing metadata says | -                   |
| folder              | its image files, sorted by name                  | -                   |
| folder of folders   | one sub-folder per class, both sorted            | index of sub-folder |
| .npy                | uint8 [N, H, W, C], or [N, H, W] when C = 1      | -                   |
| .npz                | the same in `images`                             | `labels`, if there  |
| *-idx3-ubyte[.gz]   | uint8 [N, H, W]                                  | the *-idx1-* file   |
| -                   | raw frames of H*W*C bytes on standard input      | -                   |

Everything is read frame by frame, so memory is bounded by the batch. Preprocessing metadata:
`height`, `width`, `channels`; `resize`: "short-side" (shorter side to floor(size / crop_pct), then
the centre), an integer (shorter side to that, then the centre), "stretch", or absent (images must
have the exact size); `filter`: "nearest", "bilinear", "bicubic", "lanczos"; `crop_pct`; `color`:
"rgb" or "gray" converts images of another colour mode, without it they are refused.
"""

from __future__ import annotations

import contextlib
import gzip
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt

from bestdeploy.errors import InputError

__all__ = ["IMAGE_SUFFIXES", "Batch", "builtin_images", "read_batches", "read_image"]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
FILTERS = ("nearest", "bilinear", "bicubic", "lanczos")

Frame = npt.NDArray[np.uint8]
Item = tuple[Frame, int | None, str]

_BROKEN = (OSError, EOFError, ValueError, SyntaxError, zipfile.BadZipFile, zlib.error, KeyError)


@dataclass(frozen=True)
class Batch:
    """Frames uint8 `[B, H, W, C]`, their labels int64 `[B]` (or None) and names."""

    frames: Frame
    labels: npt.NDArray[np.int64] | None
    names: tuple[str, ...]


def read_batches(
    sources: str | Path | Sequence[str | Path],
    shape: tuple[int, int, int],
    preprocessing: Mapping[str, Any] | None = None,
    *,
    batch_size: int = 64,
    limit: int | None = None,
) -> Iterator[Batch]:
    """Yield the frames of one or several sources in batches.

    Args:
        sources: path(s), or "-" for standard input; see the table at the top.
        shape: (H, W, C) of the model's input.
        preprocessing: how image files become frames; None = they must have the exact size.
        batch_size: frames per batch, the last one may be smaller.
        limit: stop after this many frames.

    Raises:
        InputError: a source is missing, damaged, of the wrong type or of the wrong size.
    """
    names = [sources] if isinstance(sources, str | Path) else list(sources)
    items: list[Item] = []
    count = 0
    for source in names:
        before = count
        for item in _items(str(source), shape, dict(preprocessing or {})):
            if limit is not None and count >= limit:
                break
            count += 1
            items.append(item)
            if len(items) == batch_size:
                yield _batch(items)
                items = []
        if count == before and (limit is None or count < limit):
            raise InputError(f"`{source}` holds no frames", hint="give an image, folder or array")
    if items:
        yield _batch(items)


def _batch(items: list[Item]) -> Batch:
    labels = [label for _, label, _ in items if label is not None]
    return Batch(
        frames=np.stack([frame for frame, _, _ in items]),
        labels=np.array(labels, np.int64) if len(labels) == len(items) else None,
        names=tuple(name for _, _, name in items),
    )


def _items(source: str, shape: tuple[int, int, int], rules: dict[str, Any]) -> Iterator[Item]:
    if source == "-":
        yield from _from_stream(sys.stdin.buffer, shape)
        return
    path = Path(source)
    if path.is_dir():
        yield from _from_folder(path, shape, rules)
    elif not path.is_file():
        raise InputError(
            f"`{source}` does not exist", hint="give an image, folder, .npy, .npz, IDX file or -"
        )
    elif path.suffix.lower() in IMAGE_SUFFIXES:
        yield read_image(path, shape, rules), None, str(path)
    elif path.suffix in (".npy", ".npz"):
        yield from _from_array(path, shape)
    elif "idx" in path.name or path.suffix == ".gz":
        yield from _from_idx(path, shape)
    else:
        raise InputError(
            f"`{source}` is of no known type ({path.suffix or 'no suffix'})",
            hint=f"known: {' '.join(IMAGE_SUFFIXES)} .npy .npz *-idx3-ubyte.gz, a folder, or -",
        )


# ----------------------------------------------------------------------------- image files


def read_image(path: Path, shape: tuple[int, int, int], rules: Mapping[str, Any]) -> Frame:
    """Read one image file and prepare it as the preprocessing metadata says."""
    from PIL import Image

    height, width, channels = shape
    try:
        with Image.open(path) as opened:
            image = _to_color(opened, channels, rules.get("color"), path)
            image = _to_size(image, height, width, rules, path)
            frame = np.array(image, np.uint8)
    except Image.DecompressionBombError as error:
        raise InputError(f"`{path}` is too large: {error}") from error
    except _BROKEN as error:
        raise InputError(
            f"`{path}` cannot be read as an image: {error}", hint="the file may be damaged"
        ) from error
    return frame.reshape(height, width, channels)


def _to_color(image: Any, channels: int, color: str | None, path: Path) -> Any:
    wanted = {1: "L", 3: "RGB"}.get(channels)
    if wanted is None:
        raise InputError(
            f"the model takes {channels} channels, image files have 1 or 3",
            hint="give the frames as .npy",
        )
    if color not in (None, "rgb", "gray"):
        raise InputError(f"preprocessing color is `{color}`, expected rgb or gray")
    if image.mode == "P" and "transparency" not in image.info:
        image = image.convert("RGB")  # a palette is only a coding of RGB
    if image.mode == "1":
        image = image.convert("L")
    if image.mode == wanted:
        return image
    if color is None or image.mode.startswith(("I", "F")):
        raise InputError(
            f"`{path}` has colour mode {image.mode}, expected {wanted} ({channels} channels)",
            hint="convert the file, or set preprocessing color in the export config",
        )
    return image.convert(wanted)


def _to_size(image: Any, height: int, width: int, rules: Mapping[str, Any], path: Path) -> Any:
    from PIL import Image

    resize = rules.get("resize")
    name = str(rules.get("filter", "bicubic"))
    if name not in FILTERS:
        raise InputError(f"preprocessing filter is `{name}`, expected one of {', '.join(FILTERS)}")
    method = Image.Resampling[name.upper()]
    if resize == "stretch":
        return image.resize((width, height), method)
    if resize is None:
        if image.size != (width, height):
            raise InputError(
                f"`{path}` is {image.width}x{image.height} pixels, expected {width}x{height}",
                hint="the model names no resizing: resize the file, or export with --set resize=..",
            )
        return image
    if resize == "short-side":
        side = int(min(height, width) / float(rules.get("crop_pct") or 1.0))
    elif isinstance(resize, int) and resize > 0:
        side = resize
    else:
        raise InputError(
            f"preprocessing resize is `{resize}`, expected short-side, stretch or a size"
        )
    scale = side / min(image.size)
    size = (max(side, round(image.width * scale)), max(side, round(image.height * scale)))
    if size != image.size:
        image = image.resize(size, method)
    left, top = round((size[0] - width) / 2), round((size[1] - height) / 2)
    if left < 0 or top < 0:
        raise InputError(f"resized to {size[0]}x{size[1]}, smaller than the crop {width}x{height}")
    return image.crop((left, top, left + width, top + height))


def _from_folder(
    folder: Path, shape: tuple[int, int, int], rules: Mapping[str, Any]
) -> Iterator[Item]:
    def images_in(where: Path) -> list[Path]:
        return sorted(p for p in where.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)

    files: list[tuple[Path, int | None]] = [(path, None) for path in images_in(folder)]
    if not files:
        classes = [p for p in sorted(folder.iterdir()) if p.is_dir() and images_in(p)]
        files = [(path, i) for i, where in enumerate(classes) for path in images_in(where)]
    for path, label in files:
        yield read_image(path, shape, rules), label, str(path)


# ----------------------------------------------------------------------------- arrays


def _from_stream(stream: IO[bytes], shape: tuple[int, int, int]) -> Iterator[Item]:
    frame_bytes = shape[0] * shape[1] * shape[2]
    index = 0
    while data := _read_up_to(stream, frame_bytes):
        if len(data) != frame_bytes:
            raise InputError(
                f"frame {index} ends after {len(data)} bytes, expected {frame_bytes} "
                f"({shape[0]}x{shape[1]}x{shape[2]})",
                where="standard input",
            )
        yield np.frombuffer(data, np.uint8).reshape(shape), None, f"-[{index}]"
        index += 1


def _read_up_to(stream: IO[bytes], n_bytes: int) -> bytes:
    """Read n bytes, fewer only at the end of the stream (a pipe gives short reads)."""
    parts: list[bytes] = []
    missing = n_bytes
    while missing and (part := stream.read(missing)):
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def _frames(
    stream: IO[bytes], count: int, shape: tuple[int, int, int], path: Path
) -> Iterator[Frame]:
    frame_bytes = shape[0] * shape[1] * shape[2]
    for index in range(count):
        data = _read_up_to(stream, frame_bytes)
        if len(data) != frame_bytes:
            raise InputError(f"`{path}` ends within frame {index} of {count}", hint="damaged file")
        yield np.frombuffer(data, np.uint8).reshape(shape)


def _require_frames(got: tuple[int, ...], shape: tuple[int, int, int], path: Path) -> None:
    allowed = [shape] if shape[2] != 1 else [shape, shape[:2]]
    if got[1:] not in allowed:
        raise InputError(
            f"`{path}` has shape {list(got)}, expected [N, {', '.join(map(str, shape))}]",
            hint="arrays hold frames of the exact size, channel last",
        )


def _open_npy(stream: IO[bytes], path: Path, key: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Read an .npy header; afterwards the stream stands at the data, in C order."""
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    else:
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
    if fortran and len(shape) > 1:
        raise InputError(f"`{path}` {key} is in Fortran order", hint="np.ascontiguousarray(x)")
    return tuple(shape), dtype


@contextlib.contextmanager
def _broken_is_an_input_error(path: Path, what: str) -> Iterator[None]:
    try:
        yield
    except _BROKEN as error:
        raise InputError(f"`{path}` is not a valid {what}: {error}") from error


def _from_array(path: Path, shape: tuple[int, int, int]) -> Iterator[Item]:
    with contextlib.ExitStack() as stack, _broken_is_an_input_error(path, path.suffix + " file"):
        labels: list[int] | None = None
        stream: IO[bytes] = stack.enter_context(path.open("rb"))
        if path.suffix == ".npz":
            archive = stack.enter_context(zipfile.ZipFile(stream))
            members = [name.removesuffix(".npy") for name in archive.namelist()]
            if "images" not in members:
                raise InputError(f"`{path}` has no array `images`, only {', '.join(members)}")
            if "labels" in members:
                labels = _read_label_member(archive, path)
            stream = stack.enter_context(archive.open("images.npy"))
        got, dtype = _open_npy(stream, path, "images")
        if dtype != np.uint8:
            raise InputError(
                f"`{path}` has dtype {dtype}, expected uint8",
                hint="give pixels 0..255 as they are; the model normalises them itself",
            )
        _require_frames(got, shape, path)
        if labels is not None and len(labels) != got[0]:
            raise InputError(f"`{path}` has {len(labels)} labels for {got[0]} images")
        for index, frame in enumerate(_frames(stream, got[0], shape, path)):
            yield frame, None if labels is None else labels[index], f"{path}[{index}]"


def _read_label_member(archive: zipfile.ZipFile, path: Path) -> list[int]:
    with archive.open("labels.npy") as stream:
        labels = np.lib.format.read_array(stream, allow_pickle=False)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise InputError(f"`{path}` labels are {labels.dtype} {labels.shape}, expected integer [N]")
    return [int(label) for label in labels]


def _open_idx(path: Path, stack: contextlib.ExitStack) -> IO[bytes]:
    if path.suffix == ".gz":
        return cast(IO[bytes], stack.enter_context(gzip.open(path, "rb")))
    return stack.enter_context(path.open("rb"))


def _idx_header(stream: IO[bytes], path: Path, n_dims: int) -> tuple[int, ...]:
    magic = _read_up_to(stream, 4)
    if magic != bytes((0, 0, 8, n_dims)):
        raise InputError(
            f"`{path}` starts with {magic.hex()}, expected 000008{n_dims:02x} "
            f"(IDX, uint8, {n_dims} dimensions)",
            hint="give the *-images-idx3-ubyte.gz file",
        )
    return struct.unpack(f">{n_dims}I", _exactly(stream, 4 * n_dims))


def _exactly(stream: IO[bytes], n_bytes: int) -> bytes:
    data = _read_up_to(stream, n_bytes)
    if len(data) != n_bytes:
        raise EOFError("the file is too short")
    return data


def _from_idx(path: Path, shape: tuple[int, int, int]) -> Iterator[Item]:
    with contextlib.ExitStack() as stack, _broken_is_an_input_error(path, "IDX file"):
        stream = _open_idx(path, stack)
        got = _idx_header(stream, path, 3)
        _require_frames(got, shape, path)
        labels: bytes | None = None
        sibling = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
        if sibling != path and sibling.is_file():
            label_stream = _open_idx(sibling, stack)
            (n_labels,) = _idx_header(label_stream, sibling, 1)
            if n_labels != got[0]:
                raise InputError(f"`{sibling}` has {n_labels} labels for {got[0]} images")
            labels = _exactly(label_stream, n_labels)
        for index, frame in enumerate(_frames(stream, got[0], shape, path)):
            yield frame, None if labels is None else labels[index], f"{path}[{index}]"


# ----------------------------------------------------------------------------- built-in images


def builtin_images(shape: tuple[int, int, int], n: int = 16) -> Frame:
    """Return deterministic structured images uint8 `[n, H, W, C]`.

    Constants 0 and 255, gradients, checkers, bars, rings and noise: they reach spikes and silences
    that noise alone does not. More than one round repeats the kinds with other parameters.
    """
    height, width, channels = shape
    y, x, c = np.meshgrid(
        np.arange(height), np.arange(width), np.arange(channels), indexing="ij", sparse=True
    )
    noise = np.random.Generator(np.random.PCG64(2024))
    radius = (y - height / 2) ** 2 + (x - width / 2) ** 2
    frames = np.zeros((n, height, width, channels), np.uint8)
    for index in range(n):
        kind, turn = index % 8, index // 8 + 1
        phase = 37 * c * turn + 64 * (turn - 1)
        if kind == 0:
            value: Any = 60 * (turn - 1)
        elif kind == 1:
            value = 255 - 45 * (turn - 1)
        elif kind == 2:
            value = x * 255 // max(1, width - 1) + phase
        elif kind == 3:
            value = y * 255 // max(1, height - 1) + phase
        elif kind == 4:
            value = ((x // (2 * turn) + y // (2 * turn) + c) % 2) * 255
        elif kind == 5:
            value = ((x + turn * y + 5 * c) // 3 % 2) * 200 + 20
        elif kind == 6:
            value = (np.sqrt(radius) * 8 * turn).astype(np.int64) + phase
        else:
            value = noise.integers(0, 256, shape)
        frames[index] = np.broadcast_to(np.asarray(value) % 256, shape)
    return frames
