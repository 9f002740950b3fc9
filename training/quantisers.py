"""Weights of a few bits with a learned step ([lsq]), and activations of a few levels.

Weights, b bits, one step alpha[o] per output channel:

    q = round_half_even(clip(w / alpha, -2^(b-1), 2^(b-1) - 1))        w_q = q alpha
    d w_q / d w      1 inside the range, 0 outside
    d w_q / d alpha  q - w / alpha inside, the bound outside; times 1 / sqrt(n (2^(b-1) - 1)),
                     n the number of weights of the layer

alpha starts at 2 mean|w| / sqrt(2^(b-1) - 1) for every channel. Keys are those of QSD-Transformer's
published code, `weight`, `alpha`, `init_state`, without its `act.*`, which nothing uses.

Levels: ``levels(u, n)`` = floor(clip(u, 0, n) + 1/2), passed straight through where 0 < u < n.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BITS = (2, 3, 4, 8)


def weight_range(bits: int) -> tuple[int, int]:
    """Least and greatest integer of a weight of ``bits`` bits."""
    if bits not in BITS:
        raise ValueError(f"weight_bits must be one of {', '.join(map(str, BITS))}; got {bits!r}")
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


class _Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return torch.round(x)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return grad


class _Levels(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u: Tensor, n_levels: int) -> Tensor:
        ctx.save_for_backward(u)
        ctx.n_levels = n_levels
        return torch.floor(u.clamp(0, n_levels) + 0.5)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (u,) = ctx.saved_tensors
        return grad * ((u > 0) & (u < ctx.n_levels)), None


def levels(u: Tensor, n_levels: int) -> Tensor:
    """The nearest of 0 .. ``n_levels``, half upwards, straight-through inside the range."""
    return _Levels.apply(u, n_levels)


def integers(weight: Tensor, alpha: Tensor, bits: int) -> Tensor:
    """The integers q of a weight, float, with straight-through gradients for both arguments.

    Args:
        weight: latent weights [O, ...].
        alpha: steps [O].
        bits: b.
    """
    low, high = weight_range(bits)
    step = alpha.view(-1, *([1] * (weight.ndim - 1)))
    return _Round.apply((weight / step).clamp(low, high))


def lsq(weight: Tensor, alpha: Tensor, bits: int) -> Tensor:
    """The quantised weight q alpha; shapes as ``integers``."""
    high = weight_range(bits)[1]
    gain = (weight.numel() * high) ** -0.5
    scaled = alpha * gain + (alpha - alpha * gain).detach()  # alpha, its gradient times gain
    step = scaled.view(-1, *([1] * (weight.ndim - 1)))
    return integers(weight, scaled, bits) * step


class _Quantised:
    """What the quantised layers share; the layer's own class comes second among the bases."""

    weight: nn.Parameter

    def _add_step(self, bits: int) -> None:
        high = weight_range(bits)[1]
        self.weight_bits = bits
        with torch.no_grad():
            start = 2 * self.weight.abs().mean() / high**0.5
        self.alpha = nn.Parameter(start.repeat(len(self.weight)))
        self.register_buffer("init_state", torch.ones(1))

    def quantised(self) -> Tensor:
        """The weight that the forward pass uses."""
        return lsq(self.weight, self.alpha, self.weight_bits)


class LSQConv2d(_Quantised, nn.Conv2d):
    """Conv2d with weights of ``bits`` bits."""

    def __init__(self, *args, bits: int, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._add_step(bits)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x`` [B, C, H, W] with the quantised weights."""
        return self._conv_forward(x, self.quantised(), self.bias)


class LSQConv1d(_Quantised, nn.Conv1d):
    """Conv1d with weights of ``bits`` bits."""

    def __init__(self, *args, bits: int, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._add_step(bits)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x`` [B, C, N] with the quantised weights."""
        return self._conv_forward(x, self.quantised(), self.bias)


class LSQLinear(_Quantised, nn.Linear):
    """Linear with weights of ``bits`` bits."""

    def __init__(self, *args, bits: int, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._add_step(bits)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` [..., I] by the quantised weights."""
        return F.linear(x, self.quantised(), self.bias)
