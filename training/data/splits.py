"""A split of a data set: labels, and frames by index. Frames are uint8, [H, W, C] or [T, H, W, C].

`Arrays` holds everything in memory; `Lazy` reads each frame when it is asked for, on threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from training.errors import ConfigError, DataError


class Arrays:
    """Frames [N, ...] and labels [N] in memory."""

    def __init__(self, frames: np.ndarray, labels: np.ndarray) -> None:
        self.frames = frames
        self.labels = np.asarray(labels).astype(np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index) -> np.ndarray:
        """Frames at these positions."""
        return self.frames[index]

    def subset(self, index) -> Arrays:
        """The split of these positions alone."""
        return Arrays(self.frames[index], self.labels[index])


class Lazy:
    """Frames that ``read(source)`` makes from files."""

    def __init__(
        self,
        sources: Sequence,
        labels: np.ndarray,
        read: Callable[[object], np.ndarray],
        workers: int = 4,
    ) -> None:
        self.sources = np.array([*sources, None], dtype=object)[:-1]  # whatever they are
        self.labels = np.asarray(labels).astype(np.int64)
        self.read = read
        self.workers = workers

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index) -> np.ndarray:
        """Frames at these positions, read now."""
        chosen = list(self.sources[index])
        with ThreadPoolExecutor(self.workers) as pool:
            return np.stack(list(pool.map(self.read, chosen)))

    def subset(self, index) -> Lazy:
        """The split of these positions alone."""
        return Lazy(self.sources[index], self.labels[index], self.read, self.workers)


Split = Arrays | Lazy


def fold(split: Split, text: str) -> tuple[Split, Split]:
    """Training and held-out part of fold ``k/n``: of every class, each n-th image from the k-th.

    Raises:
        ConfigError: not of the form k/n with 0 <= k < n.
        DataError: fewer images than folds.
    """
    try:
        k, n = (int(part) for part in text.split("/"))
    except ValueError:
        k, n = 0, 0
    if not (n >= 2 and 0 <= k < n):
        raise ConfigError(f"fold is {text!r}, expected k/n with 0 <= k < n, such as 0/5")
    held = np.zeros(len(split), bool)
    for label in np.unique(split.labels):
        held[np.flatnonzero(split.labels == label)[k::n]] = True
    if not held.any() or held.all():
        raise DataError(f"{len(split)} images are too few for {n} folds")
    return split.subset(np.flatnonzero(~held)), split.subset(np.flatnonzero(held))
