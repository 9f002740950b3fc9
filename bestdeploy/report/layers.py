"""A layer as a report sees it: shapes, weights, dense work, and how far a spike reaches.

Everything here is plain data about one frame (B = 1). Shapes have no time axis: [H, W, C] of spikes
or of a stream, [heads, rows, columns] of an attention map, [K] of logits.

MACs are those of the literature: k k I O positions for a convolution, with the zeros of its padding
counted. The reach of a spike is exact: a spike at a border meets fewer weights than one inside.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = [
    "Kind",
    "Layer",
    "Reach",
    "addition_layer",
    "conv_layer",
    "conv_reach",
    "depthwise_layer",
    "linear_layer",
    "pixel_layer",
    "plain_layer",
    "product_layer",
    "stream_conv_layer",
]

Kind = Literal[
    "real conv",  # pixels or event counts, real weights
    "binary conv",  # spikes, weights of 1 bit; also 1x1, that is a linear layer
    "b-bit conv",  # spikes, integer weights of several bits (real ones before they are quantised)
    "level conv",  # small whole numbers, weights of any number of bits
    "depthwise conv",  # every channel for itself, spikes or levels
    "stream conv",  # sums or fixed-point numbers that are neither spikes nor levels
    "q k^T",  # queries times keys, both spikes
    "a v",  # attention bits times values
    "k^T v",  # keys times values, both spikes
    "q a",  # queries times attention bits
    "q m",  # queries times the numbers of k^T v
    "level add",  # the integer residual
    "linear",  # classifier on real features
    "neuron",  # a neuron that reads the residual stream
    "pool",  # OR over a window of spikes, maximum over one of the stream
    "add",  # queries times sums of keys with the signs of ternary values
    "gate",  # spikes combined with spikes, bit by bit
    "other",
]
_SPIKE_FED = (
    "binary conv",
    "b-bit conv",
    "level conv",
    "depthwise conv",
    "q k^T",
    "a v",
    "k^T v",
    "q a",
    "q m",
)

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Reach:
    """How many weights a spike meets: rows[y] * columns[x] * width at position (y, x).

    `rows` and `columns` are None where every position is alike.
    """

    width: int
    rows: tuple[int, ...] | None = None
    columns: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Layer:
    """One row of the table of layers.

    Attributes:
        name: published name, or the name of the step.
        op: what the file calls it.
        kind: what it computes, see `Kind`.
        input_shape: without time.
        output_shape: without time.
        n_steps: how often it is computed per frame: 1 or T.
        macs: dense multiply-accumulates each time.
        weight_bits: bits of a weight as it is held here, 0 where it has none.
        n_weights: number of weights.
        n_norm: gamma and beta of the batch norm behind it.
        n_bias: its own bias.
        reads: spike tensors that it reads; the first one drives it.
        writes: spike tensor that it gives, by the name under which it is recorded.
        reach: of a spike of the driving tensor.
        heads: of an attention product.
        multiplications: what is left of one frame's, shifts aside; None where the form of the
            network does not say it (before it is packed).
    """

    name: str
    op: str
    kind: Kind
    input_shape: Shape
    output_shape: Shape
    n_steps: int
    macs: int = 0
    weight_bits: int = 0
    n_weights: int = 0
    n_norm: int = 0
    n_bias: int = 0
    reads: tuple[str, ...] = ()
    writes: str | None = None
    reach: Reach | None = None
    heads: int = 0
    multiplications: int | None = None

    @property
    def spike_fed(self) -> bool:
        """Whether work is additions, where bits of its input are set.

        Its input is strictly {0, 1}, or levels, each bit of which is an event that adds a row.
        """
        return self.kind in _SPIKE_FED

    @property
    def total_macs(self) -> int:
        """Dense MACs of one frame."""
        return self.macs * self.n_steps

    @property
    def bits(self) -> int:
        """b_w b_s: bits of a weight times bits of a spike; both are 1 in a product of spikes."""
        return self.weight_bits or 1


def _met(n_in: int, n_out: int, kernel: int, stride: int, pad: int) -> tuple[int, ...]:
    """Return for every input index how many (output, tap) pairs read it."""
    met = [0] * n_in
    for out in range(n_out):
        first = out * stride - pad
        for index in range(max(first, 0), min(first + kernel, n_in)):
            met[index] += 1
    return tuple(met)


def conv_reach(
    source: Shape,
    out: Shape,
    kernel: tuple[int, int],
    strides: Sequence[int],
    pads: Sequence[int],
) -> Reach:
    """Return the reach of a spike through a convolution [H, W, I] -> [Ho, Wo, O].

    Args:
        source: input shape.
        out: output shape.
        kernel: height and width.
        strides: vertical and horizontal.
        pads: top and left (what follows does not matter: the output shape says it).
    """
    rows, columns = (
        _met(source[axis], out[axis], kernel[axis], strides[axis], pads[axis]) for axis in (0, 1)
    )
    return Reach(out[-1], rows, columns)


def _conv_macs(weight: Shape, out: Shape) -> int:
    return math.prod(weight) * out[0] * out[1]


def conv_layer(
    name: str,
    op: str,
    source: Shape,
    out: Shape,
    weight: Shape,
    *,
    n_steps: int,
    reads: str,
    writes: str | None = None,
    strides: Sequence[int] = (1, 1),
    pads: Sequence[int] | None = None,
    weight_bits: int = 1,
    levels: int = 1,
) -> Layer:
    """Return a convolution of spikes; `weight` is [O, kh, kw, I], `pads` None = same size.

    `levels` is the largest input, more than 1 where it reads levels.
    """
    spiking: Kind = "binary conv" if weight_bits == 1 else "b-bit conv"
    kernel = (weight[1], weight[2])
    pads = (kernel[0] // 2, kernel[1] // 2) if pads is None else pads
    return Layer(
        name=name,
        op=op,
        kind="level conv" if levels > 1 else spiking,
        input_shape=source,
        output_shape=out,
        n_steps=n_steps,
        macs=_conv_macs(weight, out),
        weight_bits=weight_bits,
        n_weights=math.prod(weight),
        n_norm=2 * weight[0],
        reads=(reads,),
        writes=writes,
        reach=conv_reach(source, out, kernel, strides, pads),
    )


def depthwise_layer(
    name: str,
    op: str,
    source: Shape,
    out: Shape,
    weight: Shape,
    *,
    n_steps: int,
    weight_bits: int,
    reads: str | None = None,
    strides: Sequence[int] = (1, 1),
    pads: Sequence[int] | None = None,
) -> Layer:
    """Return a depthwise convolution; `weight` is [1, kh, kw, C], `reads` None: no spikes."""
    kernel = (weight[1], weight[2])
    pads = (kernel[0] // 2, kernel[1] // 2) if pads is None else pads
    reach = conv_reach(source, (*out[:2], 1), kernel, strides, pads)
    return Layer(
        name=name,
        op=op,
        kind="stream conv" if reads is None else "depthwise conv",
        input_shape=source,
        output_shape=out,
        n_steps=n_steps,
        macs=_conv_macs(weight, out),
        weight_bits=weight_bits,
        n_weights=math.prod(weight),
        n_norm=2 * weight[3],
        reads=() if reads is None else (reads,),
        reach=None if reads is None else reach,
    )


def stream_conv_layer(
    name: str, op: str, source: Shape, out: Shape, *, n_steps: int, weight_bits: int
) -> Layer:
    """Return a 1x1 convolution of the stream."""
    size = source[-1] * out[-1]
    return Layer(
        name=name,
        op=op,
        kind="stream conv",
        input_shape=source,
        output_shape=out,
        n_steps=n_steps,
        macs=size * out[0] * out[1],
        weight_bits=weight_bits,
        n_weights=size,
        n_norm=2 * out[-1],
    )


def pixel_layer(
    name: str,
    op: str,
    source: Shape,
    out: Shape,
    weight: Shape,
    *,
    n_steps: int,
    weight_bits: int,
    writes: str | None = None,
) -> Layer:
    """Return the first convolution; `weight` is [O, kh, kw, I], `n_steps` 1 for still images."""
    return Layer(
        name=name,
        op=op,
        kind="real conv",
        input_shape=source,
        output_shape=out,
        n_steps=n_steps,
        macs=_conv_macs(weight, out),
        weight_bits=weight_bits,
        n_weights=math.prod(weight),
        n_norm=2 * weight[0],
        writes=writes,
    )


def product_layer(
    name: str,
    op: str,
    kind: Kind,
    tokens: Shape,
    heads: int,
    *,
    n_steps: int,
    reads: tuple[str, ...],
    writes: str | None = None,
) -> Layer:
    """Return one product of attention on tokens [H, W, D].

    q k^T and a v cost N N D each, k^T v, q a and q m cost N D d, with N tokens and d = D / heads.
    """
    n, d = tokens[0] * tokens[1], tokens[2] // heads
    by_token = kind in ("q k^T", "a v")
    side = n if by_token else d
    attention = (heads, side, side)
    first = kind in ("q k^T", "k^T v")
    return Layer(
        name=name,
        op=op,
        kind=kind,
        input_shape=attention if kind == "a v" else tokens,
        output_shape=attention if first else tokens,
        n_steps=n_steps,
        macs=n * tokens[2] * side,
        reads=reads,
        writes=writes,
        reach=Reach(n if kind == "q k^T" else d),
        heads=heads,
    )


def addition_layer(
    name: str,
    op: str,
    tokens: Shape,
    heads: int,
    *,
    n_steps: int,
    reads: str,
    writes: str | None = None,
) -> Layer:
    """Return both products of addition-only attention on tokens [H, W, D]: 2 N D d additions."""
    n, d = tokens[0] * tokens[1], tokens[2] // heads
    return Layer(
        name=name,
        op=op,
        kind="add",
        input_shape=tokens,
        output_shape=tokens,
        n_steps=n_steps,
        macs=2 * n * tokens[2] * d,
        reads=(reads,),
        writes=writes,
        heads=heads,
    )


def linear_layer(name: str, op: str, width: int, classes: int, *, weight_bits: int, n: int = 1,
                 bias: bool = True) -> Layer:  # fmt: skip
    """Return `n` classifiers that are computed together, once per frame, on features [width]."""
    size = width * classes * n
    return Layer(
        name=name,
        op=op,
        kind="linear",
        input_shape=(width,),
        output_shape=(classes,),
        n_steps=1,
        macs=size,
        weight_bits=weight_bits,
        n_weights=size,
        n_bias=classes * n * bias,
    )


def plain_layer(
    name: str,
    op: str,
    kind: Kind,
    source: Shape,
    out: Shape,
    *,
    n_steps: int,
    reads: tuple[str, ...] = (),
    writes: str | None = None,
) -> Layer:
    """Return a row without weights and without MACs: a neuron on the stream, a pool."""
    return Layer(
        name=name,
        op=op,
        kind=kind,
        input_shape=source,
        output_shape=out,
        n_steps=n_steps,
        reads=reads,
        writes=writes,
    )
