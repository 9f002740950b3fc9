"""Tensor functions between the parts: moving axes, sums, products of spikes.

Sums of spikes are levels: whole numbers from 0 to the number of spikes added, at most 255. They are
added, convolved (the sums stay integers, so neurons behind them stay exact), pooled, averaged and
added to streams.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bestdeploy.importers.traced import attention, heads, layers, parts, pools, windows
from bestdeploy.importers.traced import axes as ax
from bestdeploy.importers.traced.known import Known
from bestdeploy.ops.levels import MAX_PLANES

if TYPE_CHECKING:
    from bestdeploy.importers.traced.tracer import Tracer

MAX_LEVELS = 2**MAX_PLANES - 1  # that planes of bits hold
Args = tuple[Any, ...]
Function = Callable[["Tracer", Args, dict[str, Any], Any], Known | list[Known]]


def _first(tracer: Tracer, args: Args, kwargs: dict[str, Any], out: Any) -> Known:
    """Nothing but the type changes."""
    x = args[0]
    if not isinstance(x, tracer.tracked):
        raise tracer.refuse("a change of type", "of what does not come from the image")
    known: Known = x.known
    exact = str(out.dtype) in _REAL or (known.kind in ("spikes", "levels") and _holds(x, out))
    if out.dtype != x.dtype and not exact:
        raise tracer.refuse(f"{known.words} as {out.dtype}", "only as float32 or float64")
    return known


_REAL = ("torch.float32", "torch.float64")


def _holds(x: Any, out: Any) -> bool:
    """Tell whether another type holds the same whole numbers."""
    return bool((out.double() == x.as_subclass(type(out)).double()).all())


# -- axes ----------------------------------------------------------------------------------------


def _reshaped(tracer: Tracer, args: Args, kwargs: dict[str, Any], out: Any) -> Known:
    """Axes are joined, parted, come or go."""
    x: Known = args[0].known
    axes = ax.regrouped(x.axes, out.shape)
    what = f"a reshape {list(args[0].shape)} -> {list(out.shape)}"
    if axes is None:
        raise tracer.refuse(what, f"it tears {ax.words(x.axes)} apart")
    if x.kind in ("features", "linear") and not _apart(axes):
        raise tracer.refuse(what, "features stay apart")
    return x.be(axes=axes)


def _apart(axes: ax.Axes) -> bool:
    """Tell whether no axis holds channels together with steps or images."""
    return not any({"T", "B"} & (found := set(ax.names([part]))) and "C" in found for part in axes)


def _transposed(tracer: Tracer, args: Args, kwargs: dict[str, Any], out: Any) -> Known:
    """Two axes change places."""
    x: Known = args[0].known
    given = (*args[1:], *kwargs.values())
    one, two = (int(d) % len(x.axes) for d in given)
    order = list(range(len(x.axes)))
    order[one], order[two] = two, one
    return x.be(axes=ax.permuted(x.axes, order))


def _turned(tracer: Tracer, args: Args, kwargs: dict[str, Any], out: Any) -> Known:
    """The last two axes change places."""
    return _transposed(tracer, (args[0], -2, -1), {}, out)


def _permuted(tracer: Tracer, args: Args, kwargs: dict[str, Any], out: Any) -> Known:
    """All axes in another order."""
    x: Known = args[0].known
    given = kwargs.get("dims", args[1] if isinstance(args[1], list | tuple) else args[1:])
    return x.be(axes=ax.permuted(x.axes, [int(d) for d in given]))


def _repeated(tracer: Tracer, args: Args, kwargs: dict[str, Any], out: Any) -> Known:
    """An image, or what is made of it alone, becomes the same at every step."""
    x: Known = args[0].known
    old = (1,) * (out.ndim - args[0].ndim) + tuple(args[0].shape)
    axes = ((),) * (out.ndim - args[0].ndim) + x.axes
    fits = out.ndim >= 3 and tuple(out.shape[1:]) == old[1:] and "T" not in ax.names(x.axes)
    if (x.steps and x.norm not in tracer.streams) or not fits:
        raise tracer.refuse(f"a repetition to {list(out.shape)}", "only over T, of the image")
    n_steps = int(out.shape[0]) // old[0]
    tracer.steps(n_steps)
    return x.be(axes=(ax.axis(("T", n_steps), *axes[0]), *axes[1:]))


# -- sums and products ---------------------------------------------------------------------------


def _together(one: ax.Axes, two: ax.Axes, out: ax.Axes) -> bool:
    """Tell whether two tensors have the same axes, but for steps that one may not have."""
    usual = tuple(tuple(a for a in part if a[0] != "T") for part in out)
    return {one, two} <= {out, usual}


def _joined(tracer: Tracer, known: list[Known], what: str) -> ax.Axes:
    """Return the axes of a sum or a product of two tensors."""
    one, two = (k.axes for k in known)
    out = one if len(ax.names(one)) >= len(ax.names(two)) else two
    if not _together(one, two, out):
        raise tracer.refuse(what, f"{known[0].words} and {known[1].words} of other shapes: "
                            f"{ax.words(one)} and {ax.words(two)}")  # fmt: skip
    return out


def _added(tracer: Tracer, args: Args, kwargs: dict[str, Any], out: Any) -> Known:
    """A residual: the sum of two streams, or of spikes or levels, or of one and the other."""
    known = [k for a in args[:2] if (k := getattr(a, "known", None)) is not None]
    if kwargs.get("alpha", 1) != 1 or len(known) < 2 or not tracer.e.n_steps:
        raise tracer.refuse("a sum", "only of two that are streams, spikes or levels")
    known = [layers.ended(tracer, k) if k.kind in ("conv", "linear") and not k.averaged
             and not k.source else windows.held(tracer, k) for k in known]  # fmt: skip
    if {k.kind for k in known} <= {"spikes", "levels"}:
        return _level_sum(tracer, known)
    known = [_in_stream(tracer, k) if k.kind in ("spikes", "levels") else k for k in known]
    known.sort(key=lambda k: k.kind == "half")
    if [k.kind for k in known] not in (["real", "real"], ["real", "half"]):
        raise tracer.refuse(
            f"a sum of {known[0].words} and {known[1].words}",
            "only of streams (batch norms, or sums of them), spikes and levels",
        )
    axes = _joined(tracer, known, "a sum")
    tracer.wanted |= {k.norm for k in known if k.norm and not k.steps}
    y, x = (k.value for k in known)
    half = known[1].kind == "half"
    pair = known[1].factors if half else (x, x)
    value = tracer.e.op("ReversibleMix", y, *pair, name=tracer.count("residual"))
    return Known(value, "real", axes, True, known[0].width, known[0].size,
                 factors=() if half else (y, x))  # fmt: skip


def _is_number(value: Any, number: float) -> bool:
    return isinstance(value, int | float) and value == number


def _is_sum(x: Known) -> bool:
    """Tell whether a stream is the sum of two."""
    return x.kind == "real" and len(x.factors) == 2


def _is_half(x: Known, factor: Any) -> bool:
    return _is_sum(x) and _is_number(factor, 0.5)


def _halved(x: Known) -> Known:
    """Half the sum of two streams, which a reversible block adds to a third."""
    return x.be(kind="half", factors=x.factors)


def _divided(tracer: Tracer, args: Args, kwargs: dict[str, Any], out: Any) -> Known:
    """A sum of two streams by 2; a product of attention by a number."""
    x = getattr(args[0], "known", None)
    if x is not None and _is_sum(x) and _is_number(args[1], 2):
        return _halved(x)
    return attention.divided(tracer, args, kwargs, out)


def _in_stream(tracer: Tracer, x: Known) -> Known:
    """Spikes or levels as a stream, as spiking ResNets add them to a batch norm."""
    value = tracer.e.in_stream(tracer.count("shortcut"), x.value, x.width, divisor=x.divisor)
    return x.be(value=value, kind="real", levels=1, divisor=1)


def _level_sum(tracer: Tracer, known: list[Known]) -> Known:
    """Spikes plus spikes, as SEW-ResNet adds them: levels up to the sum of the largest."""
    levels = sum(k.levels for k in known)
    axes = _joined(tracer, known, "a sum")
    if len({k.divisor for k in known}) > 1:
        raise tracer.refuse(
            f"a sum of {known[0].words} and {known[1].words}", "only of the same divisor",
            "put a convolution, batch norm and neuron behind the average pool",
        )  # fmt: skip
    if levels > MAX_LEVELS:
        raise tracer.refuse(
            f"a sum of {known[0].words} and {known[1].words}",
            f"levels 0..{levels}, and {MAX_LEVELS} is the largest that is held",
            "begin again with spikes: a convolution, batch norm and neuron on the shortcut",
        )
    value = tracer.e.op("LevelAdd", *(k.value for k in known), name=tracer.count("sum"),
                        levels=levels)  # fmt: skip
    return Known(value, "levels", axes, True, known[0].width, known[0].size, levels=levels,
                 divisor=known[0].divisor)  # fmt: skip


def _opposite(tracer: Tracer, args: Args, kwargs: dict[str, Any], out: Any) -> Known:
    """1 - spikes."""
    known: Known = next(a.known for a in args if isinstance(a, tracer.tracked))
    others = [a for a in args if not isinstance(a, tracer.tracked)]
    is_one = len(others) == 1 and isinstance(others[0], int | float) and others[0] == 1
    if known.kind != "spikes" or not is_one or kwargs.get("alpha", 1) != 1:
        raise tracer.refuse(f"a difference with {known.words}", "only 1 - spikes")
    return known.be(kind="not")


def _subtracted(tracer: Tracer, args: Args, kwargs: dict[str, Any], out: Any) -> Known:
    """torch.sub(1, spikes), the other way round than rsub."""
    if isinstance(args[0], tracer.tracked):
        raise tracer.refuse(f"a difference with {args[0].known.words}", "only 1 - spikes")
    return _opposite(tracer, args, kwargs, out)


def _multiplied(tracer: Tracer, args: Args, kwargs: dict[str, Any], out: Any) -> Known:
    """A product of spikes, one of them perhaps 1 - spikes; a scale of a product of attention."""
    known = [getattr(a, "known", None) for a in args[:2]]
    x = known[0] or known[1]
    if None in known and x is not None and x.product is not None:
        return attention.multiplied(tracer, x, args[known.index(None)])
    if None in known and x is not None and _is_half(x, args[known.index(None)]):
        return _halved(x)
    kinds = sorted("number" if k is None else k.kind for k in known)
    if kinds not in (["spikes", "spikes"], ["not", "spikes"]):
        words = " and ".join("a number" if k is None else k.words for k in known)
        raise tracer.refuse(
            f"a product of {words}",
            "only of spikes with spikes or with 1 - spikes, or of a product of attention with a "
            "number",
        )
    one, two = sorted(
        (k for k in known if k is not None), key=lambda k: (k.kind == "not", k.size == (1, 1))
    )
    axes = one.axes if _is_gate(one, two) else _joined(tracer, [one, two], "a product")
    value = tracer.e.op("Gate", one.value, two.value, name=tracer.count("gate"),
                        invert=int(two.kind == "not"))  # fmt: skip
    factors = (one.value, two.value) if kinds == ["spikes", "spikes"] else ()
    return one.be(value=value, axes=axes, factors=factors)


def _is_gate(spikes: Known, gate: Known) -> bool:
    """Tell whether one row of channels, the same for all tokens, gates spikes."""
    one = tuple(tuple(a for a in part if a[0] not in "HW") for part in spikes.axes)
    return gate.size == (1, 1) and gate.axes == one


KEYWORDS = {
    "dim", "dims", "dim0", "dim1", "keepdim", "alpha", "chunks", "split_size", "split_sizes",
    "split_size_or_sections", "indices_or_sections", "sections", "indices", "index", "start",
    "length", "start_dim", "end_dim", "sizes", "shape", "size", "repeats", "memory_format",
    "dtype", "device", "copy", "non_blocking", "kernel_size", "stride", "padding", "dilation",
    "ceil_mode", "return_indices", "count_include_pad", "divisor_override", "output_size",
}  # fmt: skip
"""Keyword arguments that functions below look at, or that change nothing."""

FUNCTIONS: dict[str, Function] = {
    **dict.fromkeys(("to", "float", "double", "contiguous", "clone", "detach", "type_as"), _first),
    **dict.fromkeys(
        (
            "flatten",
            "unflatten",
            "reshape",
            "reshape_as",
            "view",
            "view_as",
            "squeeze",
            "unsqueeze",
        ),
        _reshaped,
    ),
    **dict.fromkeys(("transpose", "swapaxes", "swapdims"), _transposed),
    "permute": _permuted,
    "mT": _turned,
    **dict.fromkeys(("expand", "repeat"), _repeated),
    **dict.fromkeys(("add", "__add__", "__radd__", "add_", "__iadd__"), _added),
    **dict.fromkeys(("rsub", "__rsub__"), _opposite),
    **dict.fromkeys(("sub", "__sub__"), _subtracted),
    **dict.fromkeys(("mul", "__mul__", "__rmul__", "mul_", "__imul__"), _multiplied),
    **dict.fromkeys(("matmul", "__matmul__", "__rmatmul__", "bmm"), attention.matmul),
    "einsum": attention.einsum,
    **dict.fromkeys(("chunk", "split", "split_with_sizes", "tensor_split"), parts.chunks),
    "unbind": parts.unbound,
    "select": parts.selected,
    "narrow": parts.narrowed,
    "__getitem__": parts.item,
    **dict.fromkeys(("div", "__truediv__", "true_divide"), _divided),
    "sum": attention.sums,
    "max_pool2d": pools.maximum,
    "mean": heads.mean,
    "avg_pool2d": pools.average,
    "adaptive_avg_pool2d": pools.cells,
}
"""Name of a tensor function -> what is known of its result."""
