"""Images in folders, the layout of ImageNet: FOLDER/train/CLASS/*.jpg and FOLDER/val/CLASS/*.jpg.

Classes are the sub-folders of train in alphabetical order. An image is resized so that its shorter
side is ``size`` (bicubic) and cropped in the middle, for training, too: the published recipe has
no random resizing.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from training.data.splits import Lazy
from training.errors import DataError

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
NAMES = {"train": ("train",), "test": ("val", "test")}


def split_folder(folder: Path, split: str) -> Path:
    """Where the classes of a split are."""
    for name in NAMES[split]:
        if (folder / name).is_dir():
            return folder / name
    raise DataError(
        f"{folder} has no folder {' or '.join(NAMES[split])}",
        hint="expected FOLDER/train/CLASS/*.jpg and FOLDER/val/CLASS/*.jpg",
    )


def class_names(folder: Path) -> tuple[str, ...]:
    """The sub-folders of a split, sorted."""
    names = tuple(sorted(p.name for p in folder.iterdir() if p.is_dir()))
    if not names:
        raise DataError(f"{folder} has no class folders", hint="expected one folder per class")
    return names


def read_image(path: Path, size: int) -> np.ndarray:
    """One image, uint8 [size, size, 3]."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            image = image.convert("RGB")
            scale = size / min(image.size)
            wide = (max(size, round(image.width * scale)), max(size, round(image.height * scale)))
            if image.size != wide:
                image = image.resize(wide, Image.Resampling.BICUBIC)
            left, top = (image.width - size) // 2, (image.height - size) // 2
            return np.asarray(image.crop((left, top, left + size, top + size)))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error}") from error


def read(folder: Path, split: str, size: int) -> tuple[tuple[str, ...], Lazy]:
    """Class names and the images of a split."""
    classes = class_names(split_folder(folder, "train"))
    root = split_folder(folder, split)
    if class_names(root) != classes:
        raise DataError(
            f"{root} has other classes than {split_folder(folder, 'train')}",
            hint="every split needs the same class folders",
        )
    paths, labels = [], []
    for label, name in enumerate(classes):
        found = sorted(p for p in (root / name).rglob("*") if p.suffix.lower() in SUFFIXES)
        paths += found
        labels += [label] * len(found)
    if not paths:
        raise DataError(f"{root} holds no images", hint=f"expected {', '.join(sorted(SUFFIXES))}")
    return classes, Lazy(paths, np.array(labels), partial(read_image, size=size))
