"""BinaryConv: convolution of spikes with binarised latent weights ([bestformer] weight quantiser).

    mean_o = sum(w_o) / len(w_o)          per output channel, correctly rounded float64
    s_o    = +1 where w_o - mean_o > 0, -1 where < 0, and at an exact zero `sign_of_zero`
    n[o]   = sum s_o * spikes             an integer

The standard deviation that training divides by is positive and changes no sign.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from bestdeploy import ir
from bestdeploy.ops import arithmetic, fragments
from bestdeploy.ops.definition import Op, Typed, typed
from bestdeploy.ops.real_conv import CONV_ATTRIBUTES, conv_shape


def deviations(w: np.ndarray) -> np.ndarray:
    """Return w - row mean in float64; the mean is the correctly rounded sum over its length."""
    rows = w.reshape(w.shape[0], -1).astype(np.float64)
    means = np.array([math.fsum(row) / len(row) for row in rows])
    return (rows - means[:, None]).reshape(w.shape)


def binarise(w: np.ndarray, sign_of_zero: int) -> np.ndarray:
    """Return int8 signs of w [O, kh, kw, I]; `sign_of_zero` is 1 (paper) or 0 (official code)."""
    centred = deviations(w)
    signs = np.sign(centred)
    return np.where(centred == 0, sign_of_zero, signs).astype(np.int8)


def reference(
    s: np.ndarray, w: np.ndarray, *, strides: list[int], pads: list[int], sign_of_zero: int
) -> tuple[np.ndarray]:
    """Spikes uint8 [T, B, H, W, I], latent w float32 [O, kh, kw, I] -> int32 counts."""
    return (arithmetic.counts(s, binarise(w, sign_of_zero), strides, pads),)


def body(b: ir.Builder, x: list[ir.Value], n_steps: int) -> list[ir.Value]:
    """Centre, take signs, ConvInteger."""
    w = fragments.cast(b, x[1], fragments.DOUBLE)
    centred = b.op("Sub", w, b.op("ReduceMean", w, axes=[1, 2, 3], keepdims=1))
    zero = b.op("Equal", centred, b.constant(np.float64(0)))
    at_zero = fragments.cast(b, fragments.int_attribute(b, "sign_of_zero"), fragments.DOUBLE)
    signs = b.op("Where", zero, at_zero, b.op("Sign", centred))
    w8 = fragments.cast(b, signs, 3)
    return [fragments.convolve(b, "ConvInteger", x[0], w8)]


def shapes(inputs: list[Typed], attrs: Mapping[str, Any], n_steps: int) -> list[Typed]:
    """[T, B, H, W, I], [O, kh, kw, I] -> [T, B, Ho, Wo, O] int32."""
    return [typed(np.int32, conv_shape(inputs[0][1], inputs[1][1], attrs))]


OP = Op(
    name="BinaryConv",
    summary="Counts n = sum sign(w - mean(w)) * spikes; latent float weights.",
    inputs=("spikes", "w"),
    outputs=("n",),
    attributes={**CONV_ATTRIBUTES, "sign_of_zero": "INT"},
    reference=reference,
    body=body,
    shapes=shapes,
)
