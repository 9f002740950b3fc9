"""Readers of the standard files of small image sets: uint8 images [N, H, W, C], uint8 labels [N].

fashion-mnist, mnist
    IDX files {train,t10k}-images-idx3-ubyte and -labels-idx1-ubyte, plain or .gz
cifar10, cifar100
    the official binary files (data_batch_1.bin ..; train.bin, test.bin), the official python
    batches (data_batch_1 ..; train, test) or lossless WebP sprites (data_batch_1.webp ..;
    train.webp, test.webp; 32x32 tiles, 100 in a row) with labels.npz. CIFAR-100's labels are the
    fine ones.
"""

from __future__ import annotations

import gzip
import io
import pickle
import zlib
from pathlib import Path

import numpy as np

from training.errors import DataError

IDX_STEMS = {"train": "train", "test": "t10k"}
CIFAR_BATCHES = {
    "cifar10": {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]},
    "cifar100": {"train": ["train"], "test": ["test"]},
}
LABEL_BYTES = {"cifar10": 1, "cifar100": 2}  # of a binary record; the last one is the fine label
LABEL_KEYS = {"cifar10": b"labels", "cifar100": b"fine_labels"}


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
    raise DataError(
        f"{folder} has none of: {', '.join(names)}", hint="is this the folder of that data set?"
    )


def read_idx_split(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images [N, H, W, 1] and labels [N] of a set in IDX files."""
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


def _cifar_pickle(path: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        batch = _BatchUnpickler(io.BytesIO(_read(path)), encoding="bytes").load()
    except DataError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise DataError(f"{path} is not a CIFAR python batch: {error}") from error
    key = LABEL_KEYS[name]
    data = batch.get(b"data") if isinstance(batch, dict) else None
    labels = batch.get(key) if isinstance(batch, dict) else None
    if (
        not isinstance(data, np.ndarray)
        or data.dtype != np.uint8
        or data.ndim != 2
        or data.shape[1] != 3072
    ):
        raise DataError(f"{path}: b'data' must be a uint8 array [N, 3072]")
    if not isinstance(labels, list) or len(labels) != len(data):
        raise DataError(f"{path}: {key} must be a list of {len(data)} numbers")
    if not all(isinstance(n, int) and 0 <= n < 256 for n in labels):
        raise DataError(f"{path}: {key} must hold integers 0..255")
    return data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), np.array(labels, np.uint8)


def _cifar_binary(path: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    raw = np.frombuffer(_read(path), np.uint8)
    before = LABEL_BYTES[name]
    record = before + 3072
    if raw.size == 0 or raw.size % record:
        raise DataError(f"{path}: {raw.size} bytes is not a whole number of {record}-byte records")
    raw = raw.reshape(-1, record)
    return raw[:, before:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), raw[:, before - 1]


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


def _sprite_labels(folder: Path, name: str, split: str) -> np.ndarray:
    path = folder / "labels.npz"
    key = split if name == "cifar10" else f"{split}_fine"
    try:
        with np.load(path, allow_pickle=False) as archive:
            labels = archive[key]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"cannot read the labels of {split} from {path}: {error}") from error
    if labels.dtype != np.uint8 or labels.ndim != 1:
        raise DataError(f"{path}: {key} must be uint8 [N], found {labels.dtype} {labels.shape}")
    return labels


def read_cifar(name: str, folder, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Read a split of cifar10 or cifar100 in whichever of the three formats ``folder`` holds."""
    folder = Path(folder)
    stems = CIFAR_BATCHES[name][split]
    paths = [_find(folder, [f"{stem}.bin", stem, f"{stem}.webp"]) for stem in stems]
    if any(p.suffix == ".webp" for p in paths):
        return np.concatenate([_sprite(p) for p in paths]), _sprite_labels(folder, name, split)
    pairs = [
        _cifar_binary(p, name) if p.suffix == ".bin" else _cifar_pickle(p, name) for p in paths
    ]
    return np.concatenate([x for x, _ in pairs]), np.concatenate([y for _, y in pairs])
