"""Maxima over windows of spikes, of levels or of a stream; means of a whole map."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bestdeploy.importers.traced import axes as ax
from bestdeploy.importers.traced import heads
from bestdeploy.importers.traced.classes import class_name
from bestdeploy.importers.traced.known import Known
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
    wanted = tuple(ax.axis(a) for a in (("C", x.width), ("H", x.size[0]), ("W", x.size[1])))
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
    stride = stride or kernel
    k, s, p, d = (_first(v) for v in (kernel, stride, pad, dilation))
    squares = _square(kernel, stride, pad, dilation)
    if x.kind not in ("spikes", "levels", "real") or not x.steps or ceil or d != 1 or not squares:
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


def cell_part(tracer: Tracer, part: Any, x: Known, out: Any) -> Known:
    """An AdaptiveAvgPool2d to one cell."""
    if part.output_size not in (1, (1, 1)):
        raise tracer.refuse(class_name(part), f"to {part.output_size}: only to one cell")
    return _cell(tracer, x)


def cell(tracer: Tracer, args: Any, kwargs: dict[str, Any], out: Any) -> Known:
    """torch.adaptive_avg_pool2d to one cell."""
    if tuple(out.shape[-2:]) != (1, 1):
        raise tracer.refuse("adaptive_avg_pool2d", f"to {list(out.shape[-2:])}: only to one cell")
    return _cell(tracer, args[0].known)


def _cell(tracer: Tracer, x: Known) -> Known:
    n = len(x.axes)
    return heads.averaged(tracer, x, {n - 2, n - 1}, keep=True)
