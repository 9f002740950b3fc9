"""Readers of the standard files of small image sets: uint8 images [N, H, W, C], uint8 labels [N].

fashion-mnist, mnist
    IDX files {train,t10k}-images-idx3-ubyte and -labels-idx1-ubyte, plain or .gz
cifar10
    the official binary files (data_batch_1.bin ...), the official python batches (data_batch_1 ...)
    or lossless WebP sprites (data_batch_1.webp ..., 32x32 tiles, 100 in a row) with labels.npz
"""

from __future__ import annotations

import gzip
import io
import pickle
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np


class DataError(Exception):
    """A data file is missing or is not what its name says."""


@dataclass(frozen=True)
class Dataset:
    """What a trainer needs to know about a set."""

    name: str
    image_size: int
    channels: int
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


DATASETS = {
    d.name: d
    for d in (
        Dataset(
            "fashion-mnist",
            28,
            1,
            (
                "t-shirt/top",
                "trouser",
                "pullover",
                "dress",
                "coat",
                "sandal",
                "shirt",
                "sneaker",
                "bag",
                "ankle boot",
            ),
            (0.2860,),
            (0.3530,),
        ),
        Dataset("mnist", 28, 1, tuple("0123456789"), (0.1307,), (0.3081,)),
        Dataset(
            "cifar10",
            32,
            3,
            (
                "airplane",
                "automobile",
                "bird",
                "cat",
                "deer",
                "dog",
                "frog",
                "horse",
                "ship",
                "truck",
            ),
            (0.4914, 0.4822, 0.4465),
            (0.2470, 0.2435, 0.2616),
        ),
    )
}

IDX_STEMS = {"train": "train", "test": "t10k"}
CIFAR_BATCHES = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}


def load(name: str, data_dir, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Read one split ("train" or "test") of the set ``name`` from the folder ``data_dir``."""
    if name not in DATASETS:
        raise DataError(f"unknown data set {name!r}; known: {', '.join(DATASETS)}")
    if split not in IDX_STEMS:
        raise DataError(f"unknown split {split!r}; known: train, test")
    folder = Path(data_dir)
    if not folder.is_dir():
        raise DataError(f"data folder {folder} does not exist")
    images, labels = read_cifar10(folder, split) if name == "cifar10" else _idx_split(folder, split)
    info = DATASETS[name]
    expected = (info.image_size, info.image_size, info.channels)
    if images.shape[1:] != expected:
        raise DataError(f"{folder}: images of {name} are {expected}, found {images.shape[1:]}")
    if len(images) != len(labels):
        raise DataError(f"{folder}: {len(images)} images but {len(labels)} labels in split {split}")
    if len(images) == 0:
        raise DataError(f"{folder}: split {split} is empty")
    if labels.max() >= len(info.class_names):
        raise DataError(f"{folder}: label {labels.max()} is outside 0..{len(info.class_names) - 1}")
    return images, labels


def _read(path: Path) -> bytes:
    try:
        raw = path.read_bytes()
        return gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path}: {error}") from error


def read_idx(path) -> np.ndarray:
    """Read one IDX file of unsigned bytes, gzip-compressed when its name ends in .gz."""
    path = Path(path)
    raw = _read(path)
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] != 8 or not 1 <= raw[3] <= 4:
        raise DataError(
            f"{path} is not an IDX file of unsigned bytes (starts with {raw[:4].hex()})"
        )
    header = 4 + 4 * raw[3]
    if len(raw) < header:
        raise DataError(f"{path} ends inside its header")
    shape = tuple(int(n) for n in np.frombuffer(raw, ">u4", count=raw[3], offset=4))
    expected = 1
    for n in shape:
        expected *= n
    if len(raw) != header + expected:
        raise DataError(
            f"{path}: {expected} bytes expected for shape {shape}, found {len(raw) - header}"
        )
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)


def _find(folder: Path, names: list[str]) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"{folder} has none of: {', '.join(names)}")


def _idx_split(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    stem = IDX_STEMS[split]
    arrays = []
    for what, rank in (("images", 3), ("labels", 1)):
        name = f"{stem}-{what}-idx{rank}-ubyte"
        path = _find(folder, [f"{name}.gz", name])
        array = read_idx(path)
        if array.ndim != rank:
            raise DataError(f"{path} has {array.ndim} dimensions, {rank} expected")
        arrays.append(array)
    return arrays[0][..., None], arrays[1]


class _BatchUnpickler(pickle.Unpickler):
    """Admits only what the official python batches hold: containers, bytes and uint8 arrays."""

    ALLOWED = frozenset(
        (module, name)
        for module, name in (
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
        )
    )

    def find_class(self, module: str, name: str):
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a CIFAR batch")
        if name == "_reconstruct":
            return np.ndarray([], dtype=np.uint8).__reduce__()[0]
        return super().find_class(module, name)


def _cifar_pickle(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        batch = _BatchUnpickler(io.BytesIO(_read(path)), encoding="bytes").load()
    except DataError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise DataError(f"{path} is not a CIFAR-10 python batch: {error}") from error
    data = batch.get(b"data") if isinstance(batch, dict) else None
    labels = batch.get(b"labels") if isinstance(batch, dict) else None
    if (
        not isinstance(data, np.ndarray)
        or data.dtype != np.uint8
        or data.ndim != 2
        or data.shape[1] != 3072
    ):
        raise DataError(f"{path}: b'data' must be a uint8 array [N, 3072]")
    if not isinstance(labels, list) or len(labels) != len(data):
        raise DataError(f"{path}: b'labels' must be a list of {len(data)} numbers")
    if not all(isinstance(n, int) and 0 <= n < 256 for n in labels):
        raise DataError(f"{path}: b'labels' must hold integers 0..9")
    return data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), np.array(labels, np.uint8)


def _cifar_binary(path: Path) -> tuple[np.ndarray, np.ndarray]:
    raw = np.frombuffer(_read(path), np.uint8)
    if raw.size == 0 or raw.size % 3073:
        raise DataError(f"{path}: {raw.size} bytes is not a whole number of 3073-byte records")
    raw = raw.reshape(-1, 3073)
    return raw[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), raw[:, 0]


def _sprite(path: Path) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(path) as image:
            if image.width != 3200 or image.height % 32 or image.height > 32 * 1000:
                raise DataError(
                    f"{path}: a sprite is 3200 pixels wide, found {image.width}x{image.height}"
                )
            pixels = np.asarray(image.convert("RGB"))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error}") from error
    rows = pixels.shape[0] // 32
    return pixels.reshape(rows, 32, 100, 32, 3).swapaxes(1, 2).reshape(rows * 100, 32, 32, 3)


def _sprite_labels(folder: Path, split: str) -> np.ndarray:
    path = folder / "labels.npz"
    try:
        with np.load(path, allow_pickle=False) as archive:
            labels = archive[split]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"cannot read the labels of {split} from {path}: {error}") from error
    if labels.dtype != np.uint8 or labels.ndim != 1:
        raise DataError(f"{path}: {split} must be uint8 [N], found {labels.dtype} {labels.shape}")
    return labels


def read_cifar10(folder, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Read a CIFAR-10 split in whichever of the three formats ``folder`` holds."""
    folder = Path(folder)
    stems = CIFAR_BATCHES[split]
    paths = [_find(folder, [f"{stem}.bin", stem, f"{stem}.webp"]) for stem in stems]
    if any(p.suffix == ".webp" for p in paths):
        return np.concatenate([_sprite(p) for p in paths]), _sprite_labels(folder, split)
    pairs = [_cifar_binary(p) if p.suffix == ".bin" else _cifar_pickle(p) for p in paths]
    return np.concatenate([x for x, _ in pairs]), np.concatenate([y for _, y in pairs])
