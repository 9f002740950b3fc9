"""FromFixed: the real number x 2^-bits of a fixed-point integer.

It stands only between the passes that turn a model into integers, one part after the other; a
folded graph holds none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bestdeploy import ir
from bestdeploy.ops import fragments as f
from bestdeploy.ops.definition import Op, Typed, typed


def reference(x: np.ndarray, *, bits: int) -> tuple[np.ndarray]:
    """Int32 -> float64, exact."""
    return (x.astype(np.float64) * 2.0**-bits,)


def body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Cast and divide by 2^bits."""
    bits = f.cast(b, f.int_attribute(b, "bits"), f.DOUBLE)
    return [b.op("Div", f.cast(b, x[0], f.DOUBLE), b.op("Pow", b.constant(np.float64(2)), bits))]


def shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """As x, float64."""
    return [typed(np.float64, inputs[0][1])]


OP = Op(
    name="FromFixed",
    summary="x * 2^-bits as float64.",
    inputs=("x",),
    outputs=("y",),
    attributes={"bits": "INT"},
    reference=reference,
    body=body,
    shapes=shapes,
)
