"""BatchNorm: y = a x + b with a = gamma / sqrt(var + eps), b = beta - mean a (+ a conv_bias)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bestdeploy import ir
from bestdeploy.ops import fragments
from bestdeploy.ops.definition import Op, Typed, typed


def coefficients(
    gamma: np.ndarray,
    beta: np.ndarray,
    mean: np.ndarray,
    var: np.ndarray,
    conv_bias: np.ndarray,
    epsilon: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Return float64 (a, b) per channel (numerics section 1)."""
    g, be, m, v, c = (z.astype(np.float64) for z in (gamma, beta, mean, var, conv_bias))
    a = g / np.sqrt(v + epsilon)
    b = be - m * a
    return a, b + a * c


def reference(
    x: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    mean: np.ndarray,
    var: np.ndarray,
    conv_bias: np.ndarray,
    epsilon: np.ndarray,
) -> tuple[np.ndarray]:
    """Normalise x [.., C] (counts or float64) in float64."""
    a, b = coefficients(gamma, beta, mean, var, conv_bias, float(epsilon))
    return (x.astype(np.float64) * a + b,)


def body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """The two equations, in float64."""
    y, gamma, beta, mean, var, conv_bias, epsilon = (
        fragments.cast(b, v, fragments.DOUBLE) for v in x
    )
    a = b.op("Div", gamma, b.op("Sqrt", b.op("Add", var, epsilon)))
    shift = b.op("Sub", beta, b.op("Mul", mean, a))
    shift = b.op("Add", shift, b.op("Mul", a, conv_bias))
    return [b.op("Add", b.op("Mul", y, a), shift)]


def shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """[.., C] -> [.., C] float64."""
    return [typed(np.float64, inputs[0][1])]


OP = Op(
    name="BatchNorm",
    summary="Batch normalisation of evaluation mode over the last axis, in float64.",
    inputs=("x", "gamma", "beta", "mean", "var", "conv_bias", "epsilon"),
    outputs=("y",),
    reference=reference,
    body=body,
    shapes=shapes,
)
