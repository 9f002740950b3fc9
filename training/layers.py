"""Convolutions with 1-bit weights.

Latent float weights are kept and binarised in every forward pass, per output channel o:

    u = w[o] - mean(w[o])      v = u / std(u)  (unbiased)      b = sign(v) in {-1, +1}

The backward pass takes d b / d v = 1 and differentiates v(w) exactly, so the mean and the radial
part of the gradient drop out.
``variant="official"`` has sign(0) = 0 (as torch.sign), ``variant="paper"`` has sign(0) = +1.
The row statistics are computed in float64, so the sign does not depend on the order of summation.
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
    ):
        super().__init__(in_channels, out_channels, kernel_size, padding=padding, bias=False)
        self.variant = check_variant(variant)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x`` [B, C, H, W] with the binarised weights."""
        return F.conv2d(x, binarise(self.weight, self.variant), padding=self.padding)
