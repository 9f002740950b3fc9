"""CountTable: x = table[t, head, m], the Q(F) input of the neuron after the value product.

table[t, head, m] = rint(scale lambda[t, head] m 2^F),  m = 0..max         (numerics section 7)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bestdeploy import ir
from bestdeploy.ops import fragments as f
from bestdeploy.ops.definition import Op, Typed, typed


def reference(m: np.ndarray, table: np.ndarray) -> tuple[np.ndarray]:
    """Counts int32 [T, B, H, W, D], table int32 [T, heads, max+1] -> int32 [T, B, H, W, D]."""
    n_steps, heads, _ = table.shape
    step = np.arange(n_steps)[:, None, None, None, None]
    head = np.repeat(np.arange(heads), m.shape[-1] // heads)
    return (table[step, head, m],)


def look_up(b: ir.Builder, m: ir.Value, table: ir.Value) -> ir.Value:
    """Gather from the flat table at (t heads + head) (max + 1) + m."""
    heads = f.dims(b, table, 1, 2)
    rows = b.op("Mul", f.dims(b, table, 0, 1), heads)
    one, zero = b.constant(np.int64(1)), b.constant(np.int64(0))
    index = b.op("Range", zero, b.op("Squeeze", rows), one)
    start = b.op("Mul", index, f.dims(b, table, 2, 3))
    start = f.reshape(b, start, f.dims(b, table, 0, 1), 1, 1, heads, 1)
    width = b.op("Div", f.dims(b, m, 4, 5), heads)
    split = f.reshape(b, f.cast(b, m, f.INT64), f.dims(b, m, 0, 2), -1, heads, width)
    flat = b.op("Reshape", table, b.constant([-1]))
    found = b.op("Gather", flat, b.op("Add", split, start), axis=0)
    return b.op("Reshape", found, b.op("Shape", m))


def body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Gather."""
    return [look_up(b, x[0], x[1])]


def shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """As m."""
    return [typed(np.int32, inputs[0][1])]


OP = Op(
    name="CountTable",
    summary="Q(F) value of a count, from a table per (step, head).",
    inputs=("counts", "table"),
    outputs=("x",),
    reference=reference,
    body=body,
    shapes=shapes,
)
