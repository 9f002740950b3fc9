"""Means over time and tokens, and the linear head: they may change places.

Nothing is appended before the end: a mean only takes atoms out of the axes. A head on a map that
was flattened is a convolution of the whole map, whose mean over time is the logits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bestdeploy import ir
from bestdeploy.importers.traced import axes as ax
from bestdeploy.importers.traced import layers, weights, windows
from bestdeploy.importers.traced.known import Known

if TYPE_CHECKING:
    from bestdeploy.importers.traced.tracer import Tracer

MEANT = ("T", "H", "W")  # what a mean may run over


def mean(tracer: Tracer, args: Any, kwargs: dict[str, Any], out: Any) -> Known:
    """torch.mean over some of time, rows and columns."""
    x = args[0]
    dims = kwargs.get("dim", args[1] if len(args) > 1 else None)
    if dims is None:
        raise tracer.refuse("a mean", "over all axes: only over T, H and W")
    dims = {d % x.ndim for d in (dims if isinstance(dims, list | tuple) else (dims,))}
    keep = kwargs.get("keepdim", args[2] if len(args) > 2 else False)
    return averaged(tracer, x.known, dims, keep)


def averaged(tracer: Tracer, x: Known, dims: set[int], keep: bool) -> Known:
    """Take the mean over some axes."""
    if x.kind == "linear":
        made = x.be(averaged=True)
    elif x.kind == "features":
        made = x
    elif x.kind in ("spikes", "levels", "averages", "real") and x.steps:
        made = x.be(kind="features", source=x.kind)
    else:
        raise tracer.refuse("a mean", f"of {x.words}: only of maps of spikes or a stream over T")
    over = ax.names([x.axes[i] for i in sorted(dims)])
    if not set(over) <= set(MEANT):
        raise tracer.refuse(
            "a mean", f"of {made.words}: only over T, H and W, not over {', '.join(over)}"
        )
    axes = [() if i in dims else part for i, part in enumerate(x.axes) if keep or i not in dims]
    return made.be(axes=tuple(axes))


def cells(tracer: Tracer, x: Known) -> Known:
    """Return a layer whose neuron or batch norm comes: one that reads a map, not a mean."""
    if x.source:
        raise tracer.refuse("a layer on a mean", "only a linear head follows a mean")
    return x


def logits(tracer: Tracer, out: Any) -> ir.Value:
    """Append the head of a module's output; return logits float64 [B, K]."""
    x: Known = out.known
    if x.kind != "linear" or x.layer is None:
        raise tracer.refuse(f"an output that is {x.words}", "expected logits [B, K]")
    wanted = ax.axis(("B", len(tracer.example))), ax.axis(("C", x.layer.n_out))
    if x.axes != wanted:
        each = "logits of each step" if "T" in ax.names(x.axes) else "logits"
        raise tracer.refuse(
            each, f"expected [B, K], found {ax.words(x.axes)}", "return their mean over T"
        )
    tracer.classes = x.layer.n_out
    if not x.layer.flat:
        return _of_means(tracer, x, x.layer)
    if x.source == "real":
        raise tracer.refuse(
            f"a stream that is flattened for {x.layer.name}", "a head on one reads its mean",
            "put a neuron in front of it, or take the mean over the map",
        )  # fmt: skip
    return _of_sums(tracer, layers.ended(tracer, x.be(source="")), f"{x.layer.name}.logits")


def _of_means(tracer: Tracer, x: Known, layer: layers.Layer) -> ir.Value:
    """Append the head of means."""
    if x.window is not None and not x.window.whole:
        x = windows.held(tracer, x.be(kind="averages"))
    e, value, name = tracer.e, x.value, layer.name
    kind = x.source or "spikes"
    w = weights.deployed(tracer, layer, weights.taken(tracer, layer))[:, :, 0, 0]
    w = w.astype(np.float64) / x.divisor
    if kind != "real":
        value = e.b.op("Cast", value, to=ir.DataType.DOUBLE.value, name=f"head.{kind}")
    elif (node := value.producer()) is not None and node.op_type != "ReversibleMix":
        value, w = _doubled(tracer, value), w / 2
    bias = e.bias(name, layer.n_out)
    shift = np.zeros(layer.n_out) if bias is None else bias.astype(np.float64)
    return e.head(name, e.mean("head.mean", value), w, shift)


def _of_sums(tracer: Tracer, x: Known, name: str) -> ir.Value:
    """Append the mean over time of a stream of one cell, as logits."""
    mean = tracer.e.mean("head.mean", _doubled(tracer, x.value))
    return tracer.e.head(name, mean, np.eye(x.width) / 2, np.zeros(x.width))


def _doubled(tracer: Tracer, stream: ir.Value) -> ir.Value:
    """Append y + (y + y) / 2 of a stream y: what reads the mean of one reads a residual's sum."""
    return tracer.e.op("ReversibleMix", stream, stream, stream, name="head.twice")
