"""Parts of the channels of a layer: q, k and v of one convolution, split behind it.

A part of the channels of spikes is the neuron, the batch norm and the layer of those channels
alone, so nothing is cut while the network runs: the layer is written down once per part, and its
whole, which nothing reads, is dropped.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from bestdeploy import ir
from bestdeploy.importers.traced import axes as ax
from bestdeploy.importers.traced.known import Known

if TYPE_CHECKING:
    from bestdeploy.importers.traced.tracer import Tracer

CHANNELS = ("p", "h", "d", "C")  # atoms of the channels, from the slowest to the fastest
STEPWISE = (
    "run all steps at once: modules in multi-step mode (step_mode='m', SeqToANNContainer) in place "
    "of a loop over T; parts of a tensor are not taken"
)
_BY_CHANNEL = ("BatchNorm", "ChannelAffine", "WeightConv", "BinaryConv", "RealConv")


def chunks(tracer: Tracer, args: Any, kwargs: dict[str, Any], out: Any) -> list[Known]:
    """torch.chunk, split and tensor_split: parts side by side."""
    x: Known = args[0].known
    dim = kwargs.get("dim", args[2] if len(args) > 2 else 0) % args[0].ndim
    found, first = [], 0
    for part in out:
        size = int(part.shape[dim])
        found.append(_part(tracer, x, dim, first, first + size, keep=True))
        first += size
    return found


def unbound(tracer: Tracer, args: Any, kwargs: dict[str, Any], out: Any) -> list[Known]:
    """torch.unbind: one after the other, without their axis."""
    x: Known = args[0].known
    dim = kwargs.get("dim", args[1] if len(args) > 1 else 0) % args[0].ndim
    return [_part(tracer, x, dim, i, i + 1, keep=False) for i in range(len(out))]


def selected(tracer: Tracer, args: Any, kwargs: dict[str, Any], out: Any) -> Known:
    """torch.select: one of an axis."""
    dim, index = (kwargs.get(k, a) for k, a in zip(("dim", "index"), (*args[1:], None, None),
                                                   strict=False))  # fmt: skip
    return _indexed(tracer, args[0], {int(dim) % args[0].ndim: int(index)})


def narrowed(tracer: Tracer, args: Any, kwargs: dict[str, Any], out: Any) -> Known:
    """torch.narrow: `length` of an axis from `start` on."""
    dim, start, length = (kwargs.get(k, a) for k, a in zip(
        ("dim", "start", "length"), (*args[1:], None, None, None), strict=False))  # fmt: skip
    dim = int(dim) % args[0].ndim
    first = int(start) % int(args[0].shape[dim])
    return _indexed(tracer, args[0], {dim: slice(first, first + int(length))})


def item(tracer: Tracer, args: Any, kwargs: dict[str, Any], out: Any) -> Known:
    """x[..]: numbers and slices of one axis, all of the others."""
    given = args[1] if isinstance(args[1], tuple) else (args[1],)
    if any(not (i is Ellipsis or isinstance(i, int | slice)) for i in given):
        raise tracer.refuse("torch.__getitem__", "only numbers, slices and ...")
    behind = len(args[0].shape) - len(given) + 1
    filled: list[Any] = []
    for i in given:
        filled += [slice(None)] * behind if i is Ellipsis else [i]
    wanted = {d: i for d, i in enumerate(filled) if i != slice(None)}
    return _indexed(tracer, args[0], wanted) if wanted else args[0].known


def _indexed(tracer: Tracer, tensor: Any, wanted: dict[int, Any]) -> Known:
    """Return the part of one axis."""
    if len(wanted) != 1:
        raise tracer.refuse("torch.__getitem__", "parts of several axes: only of one at a time")
    ((dim, index),) = wanted.items()
    size = int(tensor.shape[dim])
    if isinstance(index, int):
        first = index % size
        return _part(tracer, tensor.known, dim, first, first + 1, keep=False)
    first, end, step = index.indices(size)
    if step != 1 or end <= first:
        raise tracer.refuse("torch.__getitem__", f"a slice {index}: only in steps of 1, not empty")
    return _part(tracer, tensor.known, dim, first, end, keep=True)


def _part(tracer: Tracer, x: Known, dim: int, first: int, end: int, *, keep: bool) -> Known:
    """Return entries first .. end - 1 of an axis over the slowest atom of the channels."""
    axis, what = x.axes[dim], f"a part of {x.words} {ax.words(x.axes)}"
    slowest = next((c for c in CHANNELS if c in ax.names(x.axes)), None)
    if keep and (first, end) == (0, math.prod(n for _, n in axis)):
        return x
    if len(axis) != 1 or axis[0][0] != slowest:
        raise tracer.refuse(what, "only of channels, from the first on or behind other parts",
                            STEPWISE)  # fmt: skip
    if x.kind not in ("spikes", "real") or not x.steps:
        raise tracer.refuse(what, "only of spikes or a batch norm")
    width = x.width // axis[0][1]
    low, high = first * width, end * width
    left = ax.axis((slowest, end - first))
    axes = [*x.axes[:dim], *([left] if keep else []), *x.axes[dim + 1 :]]
    value = _cut(tracer, x.value, low, high, what)
    return x.be(value=value, axes=_renamed(tuple(axes)), width=high - low, factors=())


def _renamed(axes: ax.Axes) -> ax.Axes:
    """Give what is left of the channels the names that channels without parts have."""
    names = ax.names(axes)
    if "p" in names or "C" in names or "h" in names:
        return axes
    return tuple(tuple(("C" if a == "d" else a, n) for a, n in part) for part in axes)


def _cut(tracer: Tracer, value: ir.Value, low: int, high: int, what: str) -> ir.Value:
    """Return channels low .. high - 1 of what a neuron, a batch norm or a layer gives."""
    found = tracer.parts.get((value, low, high))
    if found is not None:
        return found
    node = value.producer()
    op = "" if node is None else str(node.op_type).split("_T")[0]
    if node is None or op not in ("Lif", "ConstantLif", *_BY_CHANNEL):
        raise tracer.refuse(what, "only of a neuron, a batch norm or the layer behind them",
                            "give q, k and v layers of their own")  # fmt: skip
    source, *held = node.inputs
    assert source is not None
    if op not in ("WeightConv", "BinaryConv", "RealConv"):
        source = _cut(tracer, source, low, high, what)
    own, part = [], f"{low}_{high}"
    for constant in (v for v in held if v is not None):
        array = ir.array_of(constant)
        cut = array[low:high] if array.ndim else array
        own.append(tracer.e.b.initializer(f"{constant.name}.{part}", cut))
    name = f"{node.name}.{part}"
    made: ir.Value = tracer.e.b.op(
        node.op_type, source, *own, domain=node.domain, name=name, output_names=[name],
        **ir.attributes(node),
    )  # fmt: skip
    tracer.parts[value, low, high] = made
    return made
