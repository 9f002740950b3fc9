"""Convolutions and linear layers of spikes, and the batch norm behind them.

A layer waits until its batch norm comes, or the neuron or sum that reads it without one:

    Conv2d   on maps [.., C, H, W]               Conv1d, k = 1   on tokens [.., C, N]
    Linear   on tokens [.., C]: a 1x1 convolution; on a flattened map [.., C H W]: one of H x W
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from bestdeploy.errors import UsageError
from bestdeploy.importers.traced import axes as ax
from bestdeploy.importers.traced import weights, windows
from bestdeploy.importers.traced.classes import BINARY, class_name, is_spikingjelly
from bestdeploy.importers.traced.known import Known
from bestdeploy.importers.traced.windows import MAX_KERNEL, MAX_STRIDE, Window

if TYPE_CHECKING:
    from bestdeploy.importers.traced.tracer import Tracer

READ = ("image", "spikes", "levels", "averages")
EPSILON = 1e-5


@dataclasses.dataclass(frozen=True)
class Layer:
    """A convolution, or a linear layer as one.

    Attributes:
        name: of the module.
        n_in: channels that it reads.
        n_out: channels that it gives.
        kernel: rows and columns.
        stride: of both axes.
        pad: on every side.
        groups: of channels that do not read each other's.
        flat: what the input axis of a linear layer runs over: C, or a map in some order.
        is_binary: its weights are signs.
        bits: that its weights were trained with, 0 = real.
        pool: windows that its sums are averaged over, in front of the batch norm.
    """

    name: str
    n_in: int
    n_out: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    pad: int = 0
    groups: int = 1
    flat: ax.Axis = ()
    is_binary: bool = False
    bits: int = 0
    pool: Window | None = None

    @property
    def is_depthwise(self) -> bool:
        """Every channel has a window of its own."""
        return self.groups == self.n_in == self.n_out > 1

    def size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return rows and columns of its output."""
        high, wide = (
            (n + 2 * self.pad - k) // self.stride + 1
            for n, k in zip(size, self.kernel, strict=True)
        )
        return (high, wide) if self.pool is None else self.pool.pooled()


def same(tracer: Tracer, part: Any, x: Known, out: Any) -> Known:
    """A part that changes nothing in evaluation mode."""
    return x


# -- layers --------------------------------------------------------------------------------------


def conv(tracer: Tracer, part: Any, x: Known, out: Any) -> Known:
    """A convolution: Conv2d of maps, Conv1d of tokens."""
    if x.kind not in READ:
        raise tracer.refuse(class_name(part), f"its input is {x.words}, not spikes or the image")
    if x.kind == "image" and class_name(part) in BINARY:
        raise tracer.refuse(class_name(part), "the first convolution is real")
    flat = len(part.kernel_size) == 1
    layer = _tokens_conv(tracer, part) if flat else _map_conv(tracer, part)
    axes = _conv_axes(tracer, part, x, layer, flat)
    return windows.taken_up(tracer, x, layer).be(kind="conv", axes=axes, layer=layer)


def _map_conv(tracer: Tracer, part: Any) -> Layer:
    """Return a Conv2d as a layer."""
    k, pad = part.kernel_size[0], part.padding
    if isinstance(pad, str):
        raise tracer.refuse(class_name(part), f"padding={pad!r}: give a number")
    stride, pad = int(part.stride[0]), int(pad[0])
    squares = part.kernel_size, part.stride, part.padding, part.dilation
    usual = squares == ((k, k), (stride, stride), (pad, pad), (1, 1))
    if not usual or part.padding_mode != "zeros":
        raise tracer.refuse(
            class_name(part), "only square kernels and strides, no dilation, padding with zeros"
        )
    if not (k <= MAX_KERNEL and stride <= MAX_STRIDE and pad < k):
        raise tracer.refuse(
            class_name(part),
            f"kernel {k}, stride {stride}, padding {pad}: at most {MAX_KERNEL}, {MAX_STRIDE} "
            "and less than the kernel",
        )
    return Layer(tracer.name(), part.in_channels, part.out_channels, (k, k), stride, pad,
                 part.groups, is_binary=class_name(part) in BINARY,
                 bits=_trained_bits(tracer, part))  # fmt: skip


def _tokens_conv(tracer: Tracer, part: Any) -> Layer:
    """Return a Conv1d as a layer: tokens are no line, so its kernel reads one of them."""
    window = part.kernel_size, part.stride, part.padding, part.dilation, part.groups
    if window != ((1,), (1,), (0,), (1,), 1):
        raise tracer.refuse(
            class_name(part),
            f"kernel {part.kernel_size[0]}, stride {part.stride[0]}, padding {part.padding}, "
            f"{part.groups} groups: only kernel 1, stride 1, no padding, one group",
            "use a Conv2d on maps [B, C, H, W] where neighbours are to be read",
        )
    return Layer(tracer.name(), part.in_channels, part.out_channels,
                 is_binary=class_name(part) in BINARY,
                 bits=_trained_bits(tracer, part))  # fmt: skip


def _conv_axes(tracer: Tracer, part: Any, x: Known, layer: Layer, flat: bool) -> ax.Axes:
    """Check the axes of a convolution's input; return those of its output."""
    rows, columns = ax.axis(("H", x.size[0])), ax.axis(("W", x.size[1]))
    channels, n = ax.axis(("C", x.width)), 2 if flat else 3
    wanted = (channels, rows + columns) if flat else (channels, rows, columns)
    if x.axes[-n:] != wanted:
        usual = "[.., C, N]" if flat else "[.., C, H, W]"
        raise tracer.refuse(class_name(part), f"its input is {ax.words(x.axes)}, expected {usual}")
    high, wide = layer.size(x.size)
    tail = ax.axis(("H", high)), ax.axis(("W", wide))
    after = (tail[0] + tail[1],) if flat else tail
    return (*x.axes[:-n], ax.axis(("C", layer.n_out)), *after)


def linear(tracer: Tracer, part: Any, x: Known, out: Any) -> Known:
    """A linear layer of tokens, of a flattened map or of means; what reads it tells which."""
    source = x.source if x.kind == "features" else x.kind
    if source not in ("spikes", "levels", "averages") and x.kind != "features":
        raise tracer.refuse(
            class_name(part), f"its input is {x.words}, not spikes",
            "begin with a Conv2d of the image, and put a neuron in front of the layer",
        )  # fmt: skip
    last, map_axes = x.axes[-1], {"C": x.width, "H": x.size[0], "W": x.size[1]}
    flat = last != ax.axis(("C", x.width))
    if flat and sorted(last) != sorted(a for a in map_axes.items() if a[1] > 1):
        raise tracer.refuse(
            class_name(part),
            f"its input is {ax.words(x.axes)}, expected tokens [.., C] or maps [.., C H W]",
        )
    if flat and max(x.size) > MAX_KERNEL:
        raise tracer.refuse(
            class_name(part), f"a flattened map of {x.size[0]} x {x.size[1]}: at most {MAX_KERNEL}",
            "pool the map, or take its mean, in front of the layer",
        )  # fmt: skip
    layer = Layer(tracer.name(), x.width, part.out_features, x.size if flat else (1, 1),
                  flat=last if flat else (), bits=_trained_bits(tracer, part))  # fmt: skip
    axes = (*x.axes[:-1], ax.axis(("C", part.out_features)))
    if flat or x.kind != "features":  # a head of means takes averages as they are
        x = windows.taken_up(tracer, x, layer)
    return x.be(kind="linear", axes=axes, layer=layer)


def _trained_bits(tracer: Tracer, part: Any) -> int:
    """Return the bits that a layer of `training` has quantised its weights to, 0 = none."""
    bits = int(getattr(part, "weight_bits", 0) or 0)
    if bits and bits != tracer.settings.get("weight_bits", bits):
        raise UsageError(
            f"weight_bits={tracer.settings['weight_bits']}: layer {tracer.name()} was trained with "
            f"{bits}-bit weights",
            hint=f'give settings={{"weight_bits": {bits}}}, or none',
        )
    return bits


# -- what they become ----------------------------------------------------------------------------


def norm(tracer: Tracer, part: Any, x: Known, out: Any) -> Known:
    """A batch norm: it ends the layer in front of it."""
    if x.layer is None or x.averaged or x.source:
        raise tracer.refuse(class_name(part), "it must follow a convolution or a linear layer")
    if part.eps != EPSILON or not part.affine or part.running_mean is None:
        raise tracer.refuse(class_name(part), "only eps = 1e-5, affine, with running statistics")
    channels = ax.axis(("C", x.layer.n_out))
    modes = {"m": (2,), "s": (1,)}  # where spikingjelly's have the channels
    where = modes.get(getattr(part, "step_mode", ""), (1, 2)) if is_spikingjelly(part) else (1,)
    if channels and not any(x.axes[i : i + 1] == (channels,) for i in where):
        raise tracer.refuse(
            class_name(part),
            f"its input is {ax.words(x.axes)}, expected the channels in axis {where[-1]}",
            "transpose in front of it and behind it: norm(x.transpose(1, 2)).transpose(1, 2)",
        )
    return ended(tracer, x, tracer.name())


def ended(tracer: Tracer, x: Known, bn: str | None = None) -> Known:
    """Append a layer with its batch norm, None where it has none; the stream that it gives."""
    e, layer = tracer.e, x.layer
    assert layer is not None
    y = weights.sums(tracer, x)
    bias = e.bias(layer.name, layer.n_out)
    if bn is not None:
        y = e.batch_norm(bn, y, layer.n_out, bias)
    else:
        shift = np.zeros(layer.n_out) if bias is None else bias.astype(np.float64)
        y = e.affine(f"{layer.name}.whole", y, np.ones(layer.n_out), shift)
    made = x.be(value=y, kind="real", width=layer.n_out, size=layer.size(x.size), layer=None,
                levels=1, divisor=1, window=None, source="")  # fmt: skip
    if x.steps:
        return made
    name = bn or layer.name
    if name not in tracer.streams:
        return made.be(norm=name)
    y = e.op(f"Repeat_T{e.n_steps}", y, name=f"{name}.steps")
    return made.be(value=y, norm=name, steps=True)
