"""Integer stem: normalisation, first convolution and its affine in integers (numerics section 3).

    W~[o, tap, i] = a_o w / (white sigma_i)        white = 255 of images, 1 of event counts
    e_o  = largest e in 0..24 with max |rint(W~ 2^(F+e))| <= 8355711       (three int8 limbs)
    W    = rint(W~ 2^(F+e_o))
    Bias = rint((b_o - sum over inside taps of a_o w mu_i / sigma_i) 2^(F+e_o))     per border class

    ChannelAffine(RealConv((image/white - mu)/sigma, w), a, b)  ->  FromFixed(StemConv(image, ...))

Each constant is an exact rational number, rounded once.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from bestdeploy import ir
from bestdeploy.errors import PassError
from bestdeploy.ops.stem_conv import LIMIT, to_limbs
from bestdeploy.passes.definition import Pass, find, producer
from bestdeploy.passes.fixed_point import frac_bits

MAX_SHIFT = 24


def border_classes(
    size: int, kernel: int, stride: int, before: int, after: int
) -> tuple[list[tuple[int, ...]], np.ndarray]:
    """Group output positions of one axis by which taps lie inside.

    Returns:
        The taps inside, one tuple per class, and the class of every output position (int64).
    """
    classes: dict[tuple[int, ...], int] = {}
    index = []
    for position in range((size + before + after - kernel) // stride + 1):
        start = position * stride - before
        inside = tuple(k for k in range(kernel) if 0 <= start + k < size)
        index.append(classes.setdefault(inside, len(classes)))
    return list(classes), np.array(index, np.int64)


def quantise_channel(
    weights: np.ndarray, scale: list[Fraction], bits: int
) -> tuple[np.ndarray, int]:
    """Round one channel [kh, kw, I]; return int64 weights and the channel's extra bits e.

    Args:
        weights: float64 weights of the channel.
        scale: a_o / (white sigma_i) per input channel.
        bits: F.
    """
    exact = [
        [Fraction(float(w)) * scale[i] for i, w in enumerate(tap)]
        for tap in weights.reshape(-1, weights.shape[-1])
    ]
    for e in range(MAX_SHIFT, -1, -1):
        rounded = [[round(v * 2 ** (bits + e)) for v in tap] for tap in exact]
        if max(abs(v) for tap in rounded for v in tap) <= LIMIT:
            return np.array(rounded, np.int64).reshape(weights.shape), e
    raise PassError("a weight of the first convolution is too large for three int8 limbs")


def _constants(
    conv: ir.Node,
    affine: ir.Node,
    mean: np.ndarray,
    std: np.ndarray,
    white: Fraction,
    bits: int,
) -> dict[str, np.ndarray]:
    w = ir.array_of(conv.inputs[1])
    a, b = (ir.array_of(v) for v in affine.inputs[1:])
    n_out, kh, kw, n_in = w.shape
    strides, pads = ir.attribute(conv, "strides"), ir.attribute(conv, "pads")
    sizes = [ir.size(conv.inputs[0], axis) for axis in (-3, -2)]
    rows, row_class = border_classes(sizes[0], kh, strides[0], pads[0], pads[2])
    cols, col_class = border_classes(sizes[1], kw, strides[1], pads[1], pads[3])
    mu = [Fraction(float(m)) for m in np.broadcast_to(mean, n_in)]
    sigma = [Fraction(float(v)) for v in np.broadcast_to(std, n_in)]
    weights = np.empty(w.shape, np.int64)
    shift = np.empty(n_out, np.int64)
    bias = np.empty((len(rows), len(cols), n_out), np.int64)
    for o in range(n_out):
        gain = Fraction(float(a[o]))
        scale = [gain / (white * s) for s in sigma]
        weights[o], shift[o] = quantise_channel(w[o], scale, bits)
        unit = 2 ** (bits + int(shift[o]))
        # What a tap contributes at pixel 0, subtracted once per tap inside the image.
        drop = [
            [
                sum(Fraction(float(w[o, y, x, i])) * mu[i] / sigma[i] for i in range(n_in)) * gain
                for x in range(kw)
            ]
            for y in range(kh)
        ]
        for r, ys in enumerate(rows):
            for c, xs in enumerate(cols):
                inside = sum((drop[y][x] for y in ys for x in xs), Fraction(0))
                bias[r, c, o] = round((Fraction(float(b[o])) - inside) * unit)
    return {
        "limbs": to_limbs(weights),
        "bias": bias,
        "row_class": row_class,
        "col_class": col_class,
        "shift": shift,
    }


def _pixels(conv: ir.Node) -> ir.Value:
    """Return the uint8 pixels behind the normalisation in front of a convolution."""
    value = conv.inputs[0]
    while value is not None and value.dtype != ir.DataType.UINT8:
        node = value.producer()
        value = None if node is None else node.inputs[0]
    if value is None:
        raise PassError("the first convolution does not read an image", where=str(conv.name))
    return value


def apply(model: ir.Model) -> int:
    """Replace the first convolution and everything in front of it."""
    bits = frac_bits(model)
    changes = 0
    for affine in find(model, "ChannelAffine"):
        conv = producer(affine.inputs[0], "RealConv")
        if conv is None:
            continue
        image = _pixels(conv)
        held = model.graph.initializers
        mean, std, white = (ir.array_of(held[f"image.{n}"]) for n in ("mean", "std", "white"))
        b = ir.Builder(f"{conv.name}.integer")
        constants = _constants(conv, affine, mean, std, Fraction(float(white)), bits)
        x = b.op(
            "StemConv",
            image,
            *(b.initializer(f"{conv.name}.{k}", v) for k, v in constants.items()),
            domain=ir.DOMAIN,
            name=conv.name,
            strides=ir.attribute(conv, "strides"),
            pads=ir.attribute(conv, "pads"),
        )
        y = b.op("FromFixed", x, domain=ir.DOMAIN, name=f"{conv.name}.real", bits=bits)
        ir.replace(model.graph, [conv, affine], b, {affine.outputs[0]: y})
        changes += 1
    ir.drop_unused(model.graph)
    return changes


PASS = Pass("integer_stem", "reals", apply)
