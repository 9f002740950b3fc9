"""What a pass is, and the small matchers that passes share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bestdeploy import ir, stages

Kind = Literal["exact", "reals"]


@dataclass(frozen=True)
class Pass:
    """One step of the pipeline.

    Attributes:
        name: as shown in the pass table and in the pass log.
        kind: `exact` keeps every bit; `reals` is equal in exact arithmetic (or a stated rounding).
        apply: changes the model in place; returns how many places it changed.
    """

    name: str
    kind: Kind
    apply: Callable[[ir.Model], int]


def find(model: ir.Model, op_name: str) -> Iterator[ir.Node]:
    """Yield the nodes of one of our ops, in order; safe against changes on the way."""
    for node in list(model.graph):
        if node.graph is not None and is_op(node, op_name):
            yield node


def is_op(node: ir.Node | None, op_name: str) -> bool:
    """Tell whether a node is the given op of ours, whatever its number of steps."""
    if node is None or node.domain != ir.DOMAIN:
        return False
    row = stages.op_of(node)
    return row is not None and row[0].name == op_name


def producer(value: ir.Value | None, op_name: str) -> ir.Node | None:
    """Return the node behind a value when it is the given op, else None."""
    node = None if value is None else value.producer()
    return node if is_op(node, op_name) else None


def convolution(value: ir.Value | None) -> ir.Node | None:
    """Return the convolution of spikes or levels with integer weights behind a value, else None."""
    return producer(value, "SignConv") or producer(value, "IntegerConv")


def depthwise(value: ir.Value | None) -> ir.Node | None:
    """Return the depthwise convolution with integer weights behind a value, else None."""
    return producer(value, "IntegerDepthwise")


def count_bounds(conv: ir.Node) -> tuple[np.ndarray, np.ndarray]:
    """Return per output channel the least and greatest sum, int64, of such a convolution."""
    if is_op(conv, "IntegerDepthwise"):
        return _depthwise_bounds(conv)
    rows = ir.array_of(conv.inputs[1]).astype(np.int64)
    rows = rows.reshape(rows.shape[0], -1) * ir.attribute(conv, "levels", 1)
    return np.minimum(rows, 0).sum(axis=1), np.maximum(rows, 0).sum(axis=1)


def _depthwise_bounds(conv: ir.Node) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of depthwise sums, of levels or of the sums in front."""
    taps = ir.array_of(conv.inputs[1]).astype(np.int64)
    up, down = (f(taps, 0).sum(axis=(0, 1, 2)) for f in (np.maximum, np.minimum))
    affine = producer(conv.inputs[0], "StreamAffine")  # of gain 1
    source = None if affine is None else convolution(affine.inputs[0])
    if source is None:
        levels = ir.attribute(conv, "levels")
        return down * levels, up * levels
    low, high = count_bounds(source)
    return down * high + up * low, up * high + down * low


def n_steps_of(node: ir.Node) -> int:
    """Return the number of steps in a node's op type."""
    row = stages.op_of(node)
    assert row is not None
    return row[1]
