"""Averages over windows: the layer behind them takes them up, or sums that are levels hold them.

Both are linear, so an average of k x k in steps of s and a convolution of K x K are one:

    average, then convolution    kernel k + (K - 1) s, a weight repeated over its window
    convolution, then average    kernel K + (k - 1) t with t the convolution's stride

divided by k^2, which goes into the scale of the weights. Windows that neither overlap nor leave
gaps keep the weights as they are, so signs stay signs; others add them up.
Zeros around a padded convolution must be zeros around the map too. Where windows reach over its
border, or it is no whole number of them, and where the kernel is too large, the sums of the windows
become levels 0 .. k^2 L instead, which the divisor k^2 follows.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from bestdeploy.ops.level_neuron import MAX_LEVELS as MAX_SUMMED

if TYPE_CHECKING:
    from bestdeploy.importers.traced.known import Known
    from bestdeploy.importers.traced.layers import Layer
    from bestdeploy.importers.traced.tracer import Tracer

MAX_KERNEL, MAX_STRIDE = 15, 16  # of the file format


@dataclasses.dataclass(frozen=True)
class Window:
    """Windows that a map is averaged over.

    Attributes:
        kernel: rows and columns of a window.
        stride: from one window to the next.
        pad: zeros on every side, which count.
        size: rows and columns of the map.
    """

    kernel: int
    stride: int
    pad: int
    size: tuple[int, int]

    @property
    def cells(self) -> int:
        """How many cells a window has, the padded ones too."""
        return self.kernel**2

    @property
    def apart(self) -> bool:
        """Every cell lies in one window, but for those left over behind the last."""
        return self.kernel == self.stride and self.pad == 0

    @property
    def whole(self) -> bool:
        """Every cell lies in one window, so that the mean of the averages is that of the map."""
        return self.apart and all(n % self.kernel == 0 for n in self.size)

    def after(self, first: Window) -> Window | None:
        """Return these windows and those in front of them as one, None where they are none."""
        if not (self.apart and first.apart):
            return None
        k = self.kernel * first.kernel
        return Window(k, k, 0, first.size)

    def pooled(self) -> tuple[int, int]:
        """Return the rows and columns of the averages."""
        high, wide = ((n + 2 * self.pad - self.kernel) // self.stride + 1 for n in self.size)
        return high, wide

    def leads(self, pad: int) -> bool:
        """Tell whether zeros around the averages are averages of zeros around the map."""
        if pad == 0:
            return True
        ends = zip(self.pooled(), self.size, strict=True)
        return self.kernel <= self.stride + self.pad and all(
            n * self.stride - self.pad >= size for n, size in ends
        )


def composed(first: np.ndarray, second: np.ndarray, stride: int) -> np.ndarray:
    """Return the kernel [O, I, ..] of two convolutions one after another, one of one channel.

    Args:
        first: [O, I, kh, kw] or [1, 1, kh, kw].
        second: likewise, on what the first gives.
        stride: of the first.
    """
    (kh, kw), (rows, columns) = first.shape[2:], second.shape[2:]
    lead = np.broadcast_shapes(first.shape[:2], second.shape[:2])
    out = np.zeros((*lead, kh + (rows - 1) * stride, kw + (columns - 1) * stride))
    for y in range(rows):
        for x in range(columns):
            at_y, at_x = y * stride, x * stride
            tap = second[:, :, y : y + 1, x : x + 1]
            out[:, :, at_y : at_y + kh, at_x : at_x + kw] += first * tap
    return out


@dataclasses.dataclass(frozen=True)
class Joined:
    """A layer and the averages in front of it and behind it as one convolution.

    Attributes:
        layer: the layer.
        window: the averages that it reads.
    """

    layer: Layer
    window: Window | None

    @property
    def cells(self) -> int:
        """What the sums are divided by."""
        found = (self.window, self.layer.pool)
        return int(np.prod([w.cells for w in found if w is not None], dtype=np.int64))

    @property
    def stride(self) -> int:
        """From one output to the next."""
        found = (self.window, self.layer.pool)
        return self.layer.stride * int(np.prod([w.stride for w in found if w is not None],
                                               dtype=np.int64))  # fmt: skip

    @property
    def pad(self) -> int:
        """Zeros on every side."""
        w = self.window
        return self.layer.pad if w is None else self.layer.pad * w.stride + w.pad

    def weights(self, w: np.ndarray) -> np.ndarray:
        """Return the kernel from the layer's own, [O, I, kh, kw] both."""
        if self.window is self.layer.pool is None:
            return w
        stride = self.layer.stride
        if self.window is not None:
            w = composed(_ones(self.window), w, self.window.stride)
            stride *= self.window.stride
        if self.layer.pool is not None:
            w = composed(w, _ones(self.layer.pool), stride)
        return w

    def fits(self) -> bool:
        """Tell whether it is the same numbers, within the limits of the file format."""
        shape = self.weights(np.zeros((1, 1, *self.layer.kernel))).shape
        exact = self.window is None or self.window.leads(self.layer.pad)
        return exact and max(shape) <= MAX_KERNEL and self.stride <= MAX_STRIDE


def _ones(window: Window) -> np.ndarray:
    return np.ones((1, 1, window.kernel, window.kernel))


def held(tracer: Tracer, x: Known) -> Known:
    """Append the sums of the windows, as levels that a divisor follows; others stay as they are."""
    w = x.window
    if x.kind != "averages" or w is None:
        return x
    levels, k = x.levels * w.cells, w.kernel
    if not x.steps or levels > MAX_SUMMED:
        reach = "of the image" if not x.steps else f"are sums 0..{levels} here"
        raise tracer.refuse(
            f"averages over {k} x {k}",
            f"{reach}, and {MAX_SUMMED} is the largest that is held" if x.steps else
            f"{reach}: only a convolution reads them, without padding or of whole windows",
            "let the pool's windows lie side by side, on a map of a whole number of them, in front "
            "of a convolution: kernel times window at most 15",
        )  # fmt: skip
    value = tracer.e.level_sum(tracer.count("pool"), x.value, x.width, levels,
                               k=k, stride=w.stride, pad=w.pad)  # fmt: skip
    return x.be(value=value, kind="levels", levels=levels, divisor=x.divisor * w.cells,
                window=None)  # fmt: skip


def taken_up(tracer: Tracer, x: Known, layer: Layer) -> Known:
    """Return the input of a layer: averages where it can take them up, else their sums."""
    if x.window is None or Joined(layer, x.window).fits():
        return x
    return held(tracer, x.be(kind="averages"))
