"""Data sets by name. Frames are uint8: images [N, H, W, C], events [N, T, H, W, 2] of counts.

`load` reads a small image set into arrays; `open_split` reads any set, as the [data] table says.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from training.data import events, folders, images
from training.data.images import read_idx
from training.data.splits import Arrays, Lazy, Split, fold
from training.errors import ConfigError, DataError

__all__ = ["DATASETS", "Arrays", "DataConfig", "DataError", "Dataset", "Lazy", "Split", "fold",
           "load", "open_split", "read_idx"]  # fmt: skip


@dataclass(frozen=True)
class Dataset:
    """What a trainer needs to know about a set; no class names: they come from the folder."""

    name: str
    image_size: int
    channels: int
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    input: str = "image"


DIGITS = tuple("0123456789")
FASHION = ("t-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker",
           "bag", "ankle boot")  # fmt: skip
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship",
           "truck")  # fmt: skip
CIFAR100 = tuple(
    """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
    butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab
    crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard
    lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom
    oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
    possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake
    spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor
    train trout tulip turtle wardrobe whale willow_tree wolf woman worm""".split()  # noqa: SIM905
)
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of both, as published
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RAW = (0.0, 0.0), (1.0, 1.0)  # event counts are fed as they are

DATASETS = {
    d.name: d
    for d in (
        Dataset("fashion-mnist", 28, 1, FASHION, (0.2860,), (0.3530,)),
        Dataset("mnist", 28, 1, DIGITS, (0.1307,), (0.3081,)),
        Dataset("cifar10", 32, 3, CIFAR10, CIFAR_MEAN, CIFAR_STD),
        Dataset("cifar100", 32, 3, CIFAR100, CIFAR_MEAN, CIFAR_STD),
        Dataset("imagenet", 224, 3, (), IMAGENET_MEAN, IMAGENET_STD),
        Dataset("nmnist", 34, 2, DIGITS, *RAW, "events"),
        Dataset("cifar10-dvs", 128, 2, (), *RAW, "events"),
    )
}


@dataclass(frozen=True)
class DataConfig:
    """The [data] table of a config file."""

    limit: int = 0  # only the first N images of each split
    fold: str = ""  # "k/n": train and test on parts of the training split
    split_by: str = "number"  # how events are cut into steps
    image_size: int = 0  # of image folders; 0 is the usual size

    def __post_init__(self) -> None:
        if self.limit < 0 or self.image_size < 0:
            raise ConfigError("limit >= 0 and image_size >= 0 are required")
        if self.split_by not in events.SPLIT_BY:
            raise ConfigError(
                f"split_by must be one of {', '.join(events.SPLIT_BY)}; got {self.split_by!r}"
            )


def load(name: str, data_dir, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Read one split ("train" or "test") of a small image set from the folder ``data_dir``.

    Returns uint8 images [N, H, W, C] and uint8 labels [N].

    Raises:
        DataError: unknown names, missing or damaged files, labels without a class.
    """
    folder = _folder(name, data_dir, split)
    if name in images.CIFAR_BATCHES:
        frames, labels = images.read_cifar(name, folder, split)
    else:
        frames, labels = images.read_idx_split(folder, split)
    info = DATASETS[name]
    expected = (info.image_size, info.image_size, info.channels)
    if frames.shape[1:] != expected:
        raise DataError(f"{folder}: images of {name} are {expected}, found {frames.shape[1:]}")
    if len(frames) != len(labels):
        raise DataError(f"{folder}: {len(frames)} images but {len(labels)} labels in split {split}")
    if len(frames) == 0:
        raise DataError(f"{folder}: split {split} is empty")
    if labels.max() >= len(info.class_names):
        raise DataError(f"{folder}: label {labels.max()} is outside 0..{len(info.class_names) - 1}")
    return frames, labels


def _folder(name: str, data_dir, split: str) -> Path:
    if name not in DATASETS:
        raise DataError(f"unknown data set {name!r}; known: {', '.join(DATASETS)}")
    if split not in images.IDX_STEMS:
        raise DataError(f"unknown split {split!r}; known: train, test")
    folder = Path(data_dir)
    if not folder.is_dir():
        raise DataError(
            f"data folder {folder} does not exist", where="--data-dir", hint="check the path"
        )
    return folder


def _open_one(
    name: str, data_dir, split: str, c: DataConfig, n_steps: int
) -> tuple[Dataset, Split]:
    info = DATASETS[name]
    if name in images.CIFAR_BATCHES or (info.input == "image" and info.class_names):
        return info, Arrays(*load(name, data_dir, split))
    folder = _folder(name, data_dir, split)
    size = c.image_size or info.image_size
    if info.input == "events":
        classes, found = events.read(name, folder, split, n_steps, size, c.split_by)
    else:
        classes, found = folders.read(folder, split, size)
    if classes is not None:
        info = replace(info, class_names=classes)
    if found.labels.max() >= len(info.class_names):
        raise DataError(f"{folder}: label {found.labels.max()} has no class")
    return replace(info, image_size=size), found


def open_split(
    name: str, data_dir, c: DataConfig, n_steps: int
) -> tuple[Dataset, dict[str, Split]]:
    """The set as it is in its folder, and its splits "train" and "test".

    Args:
        name: a key of DATASETS.
        data_dir: its folder.
        c: what is taken of it.
        n_steps: T, into which events are cut.

    Raises:
        DataError: see ``load``.
        ConfigError: a fold that makes no sense.
    """
    if name not in DATASETS:
        raise DataError(f"unknown data set {name!r}; known: {', '.join(DATASETS)}")
    info, train = _open_one(name, data_dir, "train", c, n_steps)
    if c.fold:
        train, test = fold(train, c.fold)
    else:
        _, test = _open_one(name, data_dir, "test", c, n_steps)
    splits = {"train": train, "test": test}
    if c.limit:
        splits = {k: s.subset(slice(0, c.limit)) for k, s in splits.items()}
    return info, splits
