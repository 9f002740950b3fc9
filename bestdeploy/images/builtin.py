"""Built-in frames: structured, deterministic, the same on every machine."""

from __future__ import annotations

from typing import Any

import numpy as np

from bestdeploy.images.definition import Frame, Shape

__all__ = ["builtin_images"]


def builtin_images(shape: Shape, n: int = 16) -> Frame:
    """Return deterministic structured frames uint8 `[n, H, W, C]`, or `[n, T, H, W, C]` of events.

    Constants 0 and 255, gradients, checkers, bars, rings and noise: they reach spikes and silences
    that noise alone does not. More than one round repeats the kinds with other parameters. Event
    frames are moving bars, growing rings, flicker and noise, mostly small counts.
    """
    if len(shape) == 4:
        return _event_frames(shape, n)
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


def _event_frames(shape: Shape, n: int) -> Frame:
    n_steps, height, width, channels = shape
    t, y, x, c = np.meshgrid(
        *(np.arange(size) for size in (n_steps, height, width, channels)),
        indexing="ij",
        sparse=True,
    )
    noise = np.random.Generator(np.random.PCG64(2025))
    radius = np.sqrt((y - height / 2) ** 2 + (x - width / 2) ** 2)
    frames = np.zeros((n, *shape), np.uint8)
    for index in range(n):
        kind, turn = index % 8, index // 8 + 1
        if kind == 0:
            value: Any = turn - 1
        elif kind == 1:
            value = 255 - 127 * (turn - 1)
        elif kind == 2:  # a bar from left to right: its front switches on, its back off
            value = (np.abs(x - c - (t + 1) * width // (n_steps + 1)) < turn + 1) * 3 * turn
        elif kind == 3:  # and one from top to bottom
            value = (np.abs(y - c - (t + 1) * height // (n_steps + 1)) < turn + 1) * 2 * turn
        elif kind == 4:
            value = (np.abs(radius - (t + 1) * turn - 2 * c) < 1) * 4
        elif kind == 5:  # the whole field flickers, one polarity per step
            value = ((t + c) % 2) * turn
        elif kind == 6:
            value = (x + y + t) // (2 * turn) % 4 + 8 * c
        else:
            value = noise.poisson(0.4 * turn, shape)
        frames[index] = np.broadcast_to(np.minimum(value, 255), shape)
    return frames
