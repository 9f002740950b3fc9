"""ShiftCounts: x = A 2^bits, counts as Q(F) integers, for neurons that no integer form fits."""

from __future__ import annotations

import numpy as np

from bestdeploy import ir
from bestdeploy.ops import fragments as f
from bestdeploy.ops.count_table import shapes
from bestdeploy.ops.definition import Op


def reference(counts: np.ndarray, *, bits: int) -> tuple[np.ndarray]:
    """Int32 -> int32."""
    return (counts << bits,)


def body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Mul by a power of two."""
    powers = b.constant(2 ** np.arange(31, dtype=np.int32))
    return [b.op("Mul", x[0], b.op("Gather", powers, f.int_attribute(b, "bits"), axis=0))]


OP = Op(
    name="ShiftCounts",
    summary="Counts times 2^bits, int32.",
    inputs=("counts",),
    outputs=("x",),
    attributes={"bits": "INT"},
    reference=reference,
    body=body,
    shapes=shapes,
)
