"""Convolutions with 1-bit weights, and with weights of a few bits.

One bit, as BESTformer trains it:

Latent float weights are kept and binarised in every forward pass, per output channel o:

    u = w[o] - mean(w[o])      v = u / std(u)  (unbiased)      b = sign(v) in {-1, +1}

The backward pass takes d b / d v = 1 and differentiates v(w) exactly, so the mean and the radial
part of the gradient drop out.
``variant="official"`` has sign(0) = 0 (as torch.sign), ``variant="paper"`` has sign(0) = +1.
The row statistics are computed in float64, so the sign does not depend on the order of summation.

b bits, symmetric per output channel (the rule of the deployed network, see ``quantise``):

    q = rint(w / alpha) cut to -M .. M,  M = 2^(b-1) - 1      weight = alpha q
    b = 1: q = +1 where w >= 0, else -1, alpha = mean |w|
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

VARIANTS = ("official", "paper")


class _SignSTE(torch.autograd.Function):
    @staticmethod
    def forward(ctx, v: Tensor, zero_is_one: bool) -> Tensor:
        if zero_is_one:
            return torch.where(v >= 0, 1.0, -1.0).to(v.dtype)
        return torch.sign(v)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return grad, None


def check_variant(variant: str) -> str:
    """Return ``variant`` or raise ValueError naming it."""
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}; got {variant!r}")
    return variant


def binarise(weight: Tensor, variant: str = "official") -> Tensor:
    """Standardise each row (output channel) of ``weight`` and take its sign, straight-through."""
    rows = weight.flatten(1).double()
    centred = rows - rows.mean(1, keepdim=True)
    std = centred.std(1, keepdim=True)
    # (a compiled network does not look at values; a row without a sign then gives a loss of NaN)
    if not torch.compiler.is_compiling() and not bool((std > 0).all()):
        row = int((~(std > 0)).flatten().nonzero()[0])
        raise ValueError(f"row {row} of a binary weight is constant or not finite; it has no sign")
    return _SignSTE.apply(centred / std, variant == "paper").to(weight.dtype).view_as(weight)


class BinaryConv1d(nn.Conv1d):
    """Conv1d without bias whose weights are +-1 in the forward pass."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, variant: str = "official"
    ):
        super().__init__(in_channels, out_channels, kernel_size, bias=False)
        self.variant = check_variant(variant)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x`` [B, C, N] with the binarised weights."""
        return F.conv1d(x, binarise(self.weight, self.variant))


class BinaryConv2d(nn.Conv2d):
    """Conv2d without bias whose weights are +-1 in the forward pass."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        padding: int = 0,
        variant: str = "official",
        stride: int = 1,
    ):
        super().__init__(
            in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias=False
        )
        self.variant = check_variant(variant)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x`` [B, C, H, W] with the binarised weights."""
        w = binarise(self.weight, self.variant)
        return F.conv2d(x, w, stride=self.stride, padding=self.padding)


BITS = (1, 2, 3, 4, 8, 16)
_CANDIDATES, _SEARCH, _MAX_SEARCH_BITS = 25, range(25, 4, -1), 4


def _levels(rows: Tensor, alpha: Tensor, top: int) -> Tensor:
    return (rows / alpha).round().clamp(-top, top)


def _scales(rows: Tensor, bits: int) -> Tensor:
    """Scale per row, [O, 1] float64: the least squared error of a grid below 8 bits."""
    size = rows.abs()
    if bits == 1:
        mean = size.mean(1, keepdim=True)
        return torch.where(mean == 0, 1.0, mean)
    top = 2 ** (bits - 1) - 1
    largest = size.amax(1, keepdim=True)
    largest = torch.where(largest == 0, 1.0, largest)
    if bits > _MAX_SEARCH_BITS:
        return largest / top
    best, least = largest / top, torch.full_like(largest, float("inf"))
    for k in _SEARCH:
        alpha = largest * k / (_CANDIDATES * top)
        error = (size - alpha * _levels(size, alpha, top)).square().sum(1, keepdim=True)
        better = error < least
        best, least = torch.where(better, alpha, best), torch.where(better, error, least)
    return best


def quantise(weight: Tensor, bits: int) -> Tensor:
    """``weight`` [O, ...] at ``bits`` bits per output channel, straight-through in range."""
    rows = weight.detach().flatten(1).double()
    alpha = _scales(rows, bits)
    top = 2 ** (bits - 1) - 1
    q = torch.where(rows >= 0, 1.0, -1.0) if bits == 1 else _levels(rows, alpha, top)
    value = (alpha * q).to(weight.dtype).view_as(weight)
    inside = rows.abs() <= alpha * max(top, 1) + alpha / 2
    passed = weight * inside.view_as(weight).to(weight.dtype)
    return value + passed - passed.detach()


class _Quantised:
    """What the layers below share: ``weight_bits`` of 0 leaves the weights as they are."""

    weight: Tensor
    weight_bits: int

    def _set_bits(self, bits: int) -> None:
        if bits not in (0, *BITS):
            raise ValueError(f"weight_bits must be 0 or one of {BITS}; got {bits!r}")
        self.weight_bits = bits

    def _seen(self) -> Tensor:
        return quantise(self.weight, self.weight_bits) if self.weight_bits else self.weight


class QuantConv1d(_Quantised, nn.Conv1d):
    """Conv1d with weights of a few bits."""

    def __init__(self, n_in: int, n_out: int, size: int, bias: bool = False, weight_bits: int = 0):
        super().__init__(n_in, n_out, size, bias=bias)
        self._set_bits(weight_bits)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x`` [B, C, N]."""
        return F.conv1d(x, self._seen(), self.bias)


class QuantConv2d(_Quantised, nn.Conv2d):
    """Conv2d with weights of a few bits."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        size: int,
        padding: int = 0,
        bias: bool = False,
        weight_bits: int = 0,
    ):
        super().__init__(n_in, n_out, size, padding=padding, bias=bias)
        self._set_bits(weight_bits)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x`` [B, C, H, W]."""
        return F.conv2d(x, self._seen(), self.bias, padding=self.padding)


class QuantLinear(_Quantised, nn.Linear):
    """Linear layer with weights of a few bits."""

    def __init__(self, n_in: int, n_out: int, weight_bits: int = 0):
        super().__init__(n_in, n_out)
        self._set_bits(weight_bits)

    def forward(self, x: Tensor) -> Tensor:
        """Map the last axis of ``x``."""
        return F.linear(x, self._seen(), self.bias)
