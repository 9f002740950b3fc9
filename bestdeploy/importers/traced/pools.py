"""Maxima over windows of spikes, of levels or of a stream; averages over windows or a whole map."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from bestdeploy.importers.traced import axes as ax
from bestdeploy.importers.traced import heads, windows
from bestdeploy.importers.traced.known import Known
from bestdeploy.importers.traced.windows import Window
from bestdeploy.ops.level_neuron import MAX_LEVELS as MAX_POOLED

if TYPE_CHECKING:
    from bestdeploy.importers.traced.tracer import Tracer


def _first(value: Any) -> int:
    """Return a window's number along its first axis."""
    return int(value[0] if isinstance(value, tuple | list) else value)


def _square(*numbers: Any) -> bool:
    """Tell whether each number is the same along both axes."""
    return all(len(set(v)) == 1 for v in numbers if isinstance(v, tuple | list))


def _pooled_axes(tracer: Tracer, x: Known, out: Any) -> tuple[ax.Axes, tuple[int, int]]:
    """Check that a map was pooled; return the axes and the size of the result."""
    width, size = x.width, x.size
    if x.kind == "conv" and x.layer is not None:
        width, size = x.layer.n_out, x.layer.size(x.size)
    wanted = tuple(ax.axis(a) for a in (("C", width), ("H", size[0]), ("W", size[1])))
    if x.axes[-3:] != wanted:
        raise tracer.refuse("a pool", f"its input is {ax.words(x.axes)}, expected [.., C, H, W]")
    high, wide = int(out.shape[-2]), int(out.shape[-1])
    return (*x.axes[:-2], ax.axis(("H", high)), ax.axis(("W", wide))), (high, wide)


def maximum_part(tracer: Tracer, part: Any, x: Known, out: Any) -> Known:
    """A MaxPool2d."""
    sizes = part.kernel_size, part.stride, part.padding, part.dilation
    return _maximum(tracer, x, out, *sizes, part.ceil_mode)


def maximum(tracer: Tracer, args: Any, kwargs: dict[str, Any], out: Any) -> Known:
    """torch.max_pool2d."""
    names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
    usual = {"stride": None, "padding": 0, "dilation": 1, "ceil_mode": False}
    given = usual | dict(zip(names, args[1:], strict=False)) | kwargs
    return _maximum(tracer, args[0].known, out, *(given[n] for n in names))


def _maximum(
    tracer: Tracer, x: Known, out: Any, kernel: Any, stride: Any, pad: Any, dilation: Any,
    ceil: bool,
) -> Known:  # fmt: skip
    """Append a maximum over windows."""
    x = windows.held(tracer, x)
    stride = stride or kernel
    k, s, p, d = (_first(v) for v in (kernel, stride, pad, dilation))
    squares = _square(kernel, stride, pad, dilation)
    if not x.steps and x.norm is not None:
        tracer.wanted.add(x.norm)  # a batch norm of a still image, which is repeated the next time
    elif not x.steps:
        raise tracer.refuse("max_pool2d", f"of {x.words}: only of spikes or of a stream")
    if x.kind not in ("spikes", "levels", "real") or ceil or d != 1 or not squares:
        raise tracer.refuse(
            "max_pool2d", "only of spikes or of a stream, square, no ceil_mode, dilation"
        )
    if x.levels > MAX_POOLED:
        raise tracer.refuse(
            f"a maximum of {x.words}", f"at most 0..{MAX_POOLED}",
            "give the convolution and the shortcut behind it a stride in place of the pool",
        )  # fmt: skip
    axes, size = _pooled_axes(tracer, x, out)
    name, e = tracer.count("pool"), tracer.e
    window = {"kernel_shape": [k, k], "strides": [s, s], "pads": [p] * 4}
    if x.kind == "levels":
        value = e.level_pool(name, x.value, x.width, x.levels, **window)
    else:
        value = e.op("OrPool" if x.kind == "spikes" else "RealMaxPool", x.value, name=name,
                     **window)  # fmt: skip
    return x.be(value=value, axes=axes, size=size)


# -- averages --------------------------------------------------------------------------------------


def average_part(tracer: Tracer, part: Any, x: Known, out: Any) -> Known:
    """An AvgPool2d."""
    counts = part.count_include_pad, part.divisor_override
    return _average(tracer, x, out, part.kernel_size, part.stride, part.padding, *counts)


def average(tracer: Tracer, args: Any, kwargs: dict[str, Any], out: Any) -> Known:
    """torch.avg_pool2d."""
    names = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad",
             "divisor_override")  # fmt: skip
    usual = {"stride": None, "padding": 0, "ceil_mode": False, "count_include_pad": True,
             "divisor_override": None}  # fmt: skip
    given = usual | dict(zip(names, args[1:], strict=False)) | kwargs
    del given["ceil_mode"]
    return _average(tracer, args[0].known, out, *(given[n] for n in names if n in given))


def _average(
    tracer: Tracer, x: Known, out: Any, kernel: Any, stride: Any, pad: Any, padded: bool,
    divisor: int | None,
) -> Known:  # fmt: skip
    """Take note of averages over windows."""
    stride = stride or kernel
    k, s, p = (_first(v) for v in (kernel, stride, pad))
    if not _square(kernel, stride, pad) or divisor not in (None, k * k) or (p and not padded):
        raise tracer.refuse(
            "avg_pool2d", "only square, divided by the cells of a window, padded ones too"
        )
    size = x.size if x.kind != "conv" or x.layer is None else x.layer.size(x.size)
    window = Window(k, s, p, size)
    if tuple(out.shape[-2:]) != window.pooled():
        raise tracer.refuse(
            "avg_pool2d", f"ceil_mode on {size[0]} x {size[1]}: only whole windows",
            "leave ceil_mode away, or pad the map",
        )  # fmt: skip
    return _averaged(tracer, x, out, window)


def _averaged(tracer: Tracer, x: Known, out: Any, window: Window) -> Known:
    """Return the averages over windows: of spikes, levels, the image or a convolution's sums."""
    axes, size = _pooled_axes(tracer, x, out)
    if window.kernel == window.stride == 1:
        return x
    too_large = x.kind == "real" or window.kernel > windows.MAX_KERNEL
    if size == (1, 1) and window.whole and x.steps and x.kind != "conv" and too_large:
        return _mean(tracer, x)
    if x.kind == "conv" and x.layer is not None:
        return _averaged_sums(tracer, x, axes, window)
    if x.kind == "averages" and x.window is not None:
        joined = window.after(x.window)
        x, window = (x, joined) if joined is not None else (windows.held(tracer, x), window)
    if x.kind not in ("spikes", "levels", "averages", "image"):
        raise tracer.refuse(
            f"an average over windows of {x.words}", "only of spikes, a convolution or the image",
            "put the pool in front of the batch norm, which gives the same numbers, or behind the "
            "neuron",
        )  # fmt: skip
    return x.be(kind="averages", axes=axes, size=size, window=window)


def _averaged_sums(tracer: Tracer, x: Known, axes: ax.Axes, window: Window) -> Known:
    """Give a convolution whose batch norm is to come the averages behind it."""
    assert x.layer is not None
    layer = dataclasses.replace(x.layer, pool=window)
    if x.layer.pool is not None or window.pad or not windows.Joined(layer, x.window).fits():
        raise tracer.refuse(
            f"averages over {window.kernel} x {window.kernel} of a convolution",
            f"they are one kernel with it: at most {windows.MAX_KERNEL}, and no padding",
            "put the pool behind the neuron",
        )  # fmt: skip
    return x.be(axes=axes, layer=layer)


def _mean(tracer: Tracer, x: Known) -> Known:
    """Return the mean of the whole map."""
    n = len(x.axes)
    return heads.averaged(tracer, x, {n - 2, n - 1}, keep=True)


def cells_part(tracer: Tracer, part: Any, x: Known, out: Any) -> Known:
    """An AdaptiveAvgPool2d."""
    return _cells(tracer, x, out)


def cells(tracer: Tracer, args: Any, kwargs: dict[str, Any], out: Any) -> Known:
    """torch.adaptive_avg_pool2d."""
    return _cells(tracer, args[0].known, out)


def _cells(tracer: Tracer, x: Known, out: Any) -> Known:
    """Averages over as many windows as are asked for; of one, the mean of the map."""
    high, wide = (int(n) for n in out.shape[-2:])
    if high == wide == 1 and x.kind not in ("conv", "image"):
        return _mean(tracer, x)
    size = x.size if x.kind != "conv" or x.layer is None else x.layer.size(x.size)
    k = size[0] // high
    if (high * k, wide * k) != size:
        raise tracer.refuse(
            "adaptive_avg_pool2d", f"{size[0]} x {size[1]} to {high} x {wide}: only to one cell, "
            "or of windows that are square and side by side",
            "ask for as many cells as the map has, or a divisor of them",
        )  # fmt: skip
    return _averaged(tracer, x, out, Window(k, k, 0, size))
