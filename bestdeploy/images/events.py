"""From events to frames: counts per step, pixel and polarity, as event models were trained.

N events in time order are cut into T slices by number: slice t takes floor(N/T) events, the last
one takes the remainder as well. A slice becomes a count image whose channel is the polarity
(0 = off, 1 = on). A frame holds 8 bits: counts above 255 become 255 and are counted, or refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bestdeploy.errors import InputError
from bestdeploy.images.definition import Frame, Shape

__all__ = ["BINNING", "MAX_COUNT", "Events", "bin_by_number", "saturate"]

MAX_COUNT = 255
BINNING = "number"
"""How recordings are cut into steps, as reports name it."""

Numbers = npt.NDArray[Any]


@dataclass(frozen=True)
class Events:
    """One recording: coordinates, polarity 0 or 1, and times (None: they stand in time order).

    All are numbers [N]; x, y and p are whole, times may have any unit.
    """

    x: Numbers
    y: Numbers
    p: Numbers
    t: Numbers | None = None


def bin_by_number(events: Events, shape: Shape, name: str) -> Numbers:
    """Return how many events fell on each step, pixel and polarity, int64 [T, H, W, 2].

    Args:
        events: a recording; sorted by time here (equal times keep their order).
        shape: (T, H, W, C) of the model, C must be 2.
        name: the recording in errors.

    Raises:
        InputError: no event, an event outside the frame, or a model without two polarities.
    """
    n_steps, height, width, channels = shape
    if channels != 2:
        raise InputError(
            f"`{name}` has two polarities, the model takes {channels} channels",
            hint="give frames [N, T, H, W, C] as .npy",
        )
    n = len(events.x)
    if n == 0:
        raise InputError(f"`{name}` holds no events", hint="is the recording empty or damaged?")
    _require_inside(events, height, width, name)
    order = slice(None) if events.t is None else np.argsort(events.t, kind="stable")
    x, y, p = (values[order].astype(np.int64) for values in (events.x, events.y, events.p))
    size = n // n_steps
    step = np.minimum(np.arange(n) // size, n_steps - 1) if size else np.full(n, n_steps - 1)
    index = ((step * height + y) * width + x) * 2 + p
    counts = np.bincount(index, minlength=n_steps * height * width * 2)
    return counts.reshape(shape).astype(np.int64)


def _require_inside(events: Events, height: int, width: int, name: str) -> None:
    outside = (events.x < 0) | (events.x >= width) | (events.y < 0) | (events.y >= height)
    if outside.any():
        k = int(np.argmax(outside))
        raise InputError(
            f"events outside the frame: event {k} of `{name}` is at x {events.x[k]}, "
            f"y {events.y[k]}, the model's frame is {width}x{height}",
            hint="crop or scale the recording to the frame that the model was trained on",
        )


def saturate(counts: Numbers, name: str, *, strict: bool = False) -> tuple[Frame, int]:
    """Return counts >= 0 [T, H, W, C] as a uint8 frame, and how many of them were above 255.

    Raises:
        InputError: with `strict`, names the first count above 255.
    """
    above = counts > MAX_COUNT
    n_above = int(above.sum())
    if n_above and strict:
        place = tuple(int(i) for i in np.argwhere(above)[0])
        step, y, x, channel = place
        raise InputError(
            f"`{name}` counts {counts[place]} events at step {step + 1}, x {x}, y {y}, channel "
            f"{channel}; a frame holds at most {MAX_COUNT}",
            hint="without --strict-events such counts become 255",
        )
    return np.minimum(counts, MAX_COUNT).astype(np.uint8), n_above
