"""The reversible encoder: its map, its inverse, and a backward pass that keeps two streams only.

    forward     x2 = A(x1) + (x0 + x1) / 2        x3 = M(x2) + (x1 + x2) / 2
    inverse     x1 = 2 (x3 - M(x2)) - x2          x0 = 2 (x2 - A(x1)) - x1

The forward map halves a difference (its homogeneous part has eigenvalues 1 and -1/2), so the
inverse doubles an error at every half-block: 2^(2L) over L blocks, 65,536 for eight. In float32
that would turn rounding into spikes that differ. Therefore the streams of this file are float64
whose branches are rounded to multiples of 2^-b, b = 44 - 2L: a stream then has at most 44
fractional bits and 8 for its whole part, halving and doubling are exact, and the inverse gives
back the same bits (up to 12 blocks, b >= 20; deeper ones are not rounded, and the error of 16
blocks is 2^32 2^-53, the rounding of float32). The branches themselves see float32.

`encode` runs the blocks without a graph and keeps the two last streams. Its backward pass goes
from the last block to the first: inverts a half-block, runs its branch again with a graph, and
adds the branch's gradients. Batch norms use the statistics of the same batch again, and their
running averages are left alone the second time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

FRACTION_BITS = 44
MIN_BITS = 20


def _grid(depth: int) -> float | None:
    bits = FRACTION_BITS - 2 * depth
    return 2.0**bits if bits >= MIN_BITS else None


def _wide(y: Tensor, grid: float | None) -> Tensor:
    """A branch's output as float64, on the grid where there is one."""
    y = y.double()
    return y if grid is None else (y * grid).round_() / grid


def forward_block(block: nn.Module, x0: Tensor, x1: Tensor, grid: float | None = None):
    """(x0, x1) -> (x2, x3) in float64; ``block`` has ``attend`` and ``mlp``."""
    x2 = _wide(block.attend(x1.float()), grid) + (x0 + x1) / 2
    return x2, _wide(block.mlp(x2.float()), grid) + (x1 + x2) / 2


def inverse_block(block: nn.Module, x2: Tensor, x3: Tensor, grid: float | None = None):
    """(x2, x3) -> (x0, x1) in float64."""
    x1 = 2 * (x3 - _wide(block.mlp(x2.float()), grid)) - x2
    return 2 * (x2 - _wide(block.attend(x1.float()), grid)) - x1, x1


@torch.no_grad()
def forward(blocks: Sequence[nn.Module], x: Tensor) -> tuple[Tensor, Tensor]:
    """The encoder's two last streams, float64, from the tokens [T, B, D, H, W]."""
    grid = _grid(len(blocks))
    x0 = x1 = _wide(x, grid)
    for block in blocks:
        x0, x1 = forward_block(block, x0, x1, grid)
    return x0, x1


@torch.no_grad()
def inverse(blocks: Sequence[nn.Module], x0: Tensor, x1: Tensor) -> tuple[Tensor, Tensor]:
    """The streams that entered the first block, from the two last ones; equal to each other."""
    grid = _grid(len(blocks))
    with frozen_statistics(blocks):
        for block in reversed(list(blocks)):
            x0, x1 = inverse_block(block, x0, x1, grid)
    return x0, x1


@contextmanager
def frozen_statistics(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Batch norms in training mode use the batch's statistics and record nothing."""
    norms = [
        m
        for module in modules
        for m in module.modules()
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training
    ]
    kept = [m.track_running_stats for m in norms]
    for m in norms:
        m.track_running_stats = False
    try:
        yield
    finally:
        for m, value in zip(norms, kept, strict=True):
            m.track_running_stats = value


def _branch_gradients(branch, x: Tensor, grad: Tensor, parameters: list[Tensor]):
    """Value of ``branch(x)``, and ``grad`` times its derivative by x and by the parameters."""
    with torch.enable_grad():
        leaf = x.float().detach().requires_grad_()
        y = branch(leaf)
        grads = torch.autograd.grad(y, [leaf, *parameters], grad.to(y.dtype), allow_unused=True)
    return y.detach(), grads[0].double(), grads[1:]


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx, blocks: nn.ModuleList, x: Tensor, *_parameters: Tensor):
        device = x.device.type
        ctx.autocast = (device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
        x0, x1 = forward(blocks, x)
        ctx.blocks, ctx.dtype = blocks, x.dtype
        ctx.save_for_backward(x0, x1)
        return x0, x1

    @staticmethod
    def backward(ctx, g2: Tensor, g3: Tensor):
        """G2, g3 are the gradients of the two last streams, as of each block in turn."""
        x2, x3 = (x.detach() for x in ctx.saved_tensors)  # their graph is this very function
        grid = _grid(len(ctx.blocks))
        found: list[tuple[Tensor | None, ...]] = []
        device, dtype, enabled = ctx.autocast
        with frozen_statistics(ctx.blocks), torch.autocast(device, dtype, enabled):
            for block in reversed(ctx.blocks):
                mlp, attn = list(block.mlp.parameters()), list(block.attn.parameters())
                y, g, of_mlp = _branch_gradients(block.mlp, x2, g3, mlp)
                x1 = 2 * (x3 - _wide(y, grid)) - x2
                g2, g1 = g2 + g3 / 2 + g, g3 / 2
                y, g, of_attn = _branch_gradients(block.attend, x1, g2, attn)
                x0 = 2 * (x2 - _wide(y, grid)) - x1
                x2, x3 = x0, x1
                g2, g3 = g2 / 2, g1 + g2 / 2 + g
                found.append((*of_attn, *of_mlp))
        parameters = [g for grads in reversed(found) for g in grads]
        return None, (g2 + g3).to(ctx.dtype), *parameters


def encode(blocks: nn.ModuleList, x: Tensor) -> tuple[Tensor, Tensor]:
    """The encoder with memory independent of depth; differentiable, streams in ``x.dtype``."""
    parameters = [p for b in blocks for part in (b.attn, b.mlp) for p in part.parameters()]
    x0, x1 = _Encode.apply(blocks, x, *parameters)
    return x0.to(x.dtype), x1.to(x.dtype)
