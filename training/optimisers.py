"""Optimisers and the schedule.

LAMB ([lamb] Algorithm 2) is AdamW whose step is rescaled per tensor: with the Adam direction u
(bias-corrected, plus weight decay times w), w <- w - lr * (|w| / |u|) u; tensors that are not
decayed (vectors) take the plain step, and the ratio is clipped to 1 as in the recipes of
spike-driven transformers ("trust_clip").
"""

from __future__ import annotations

import math

import torch
from torch import nn


class LAMB(torch.optim.Optimizer):
    """Layer-wise adaptive moments."""

    def __init__(
        self, params, lr: float = 1e-3, betas=(0.9, 0.999), eps: float = 1e-6, weight_decay=0.0
    ) -> None:
        super().__init__(
            params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        )

    @torch.no_grad()
    def step(self, closure=None):
        """One update of every tensor that has a gradient."""
        value = None
        if closure is not None:
            with torch.enable_grad():
                value = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, group)
        return value

    def _update(self, p: torch.Tensor, group: dict) -> None:
        state = self.state[p]
        if not state:
            state["step"] = 0
            state["m"], state["v"] = torch.zeros_like(p), torch.zeros_like(p)
        b1, b2 = group["betas"]
        state["step"] += 1
        state["m"].lerp_(p.grad, 1 - b1)
        state["v"].mul_(b2).addcmul_(p.grad, p.grad, value=1 - b2)
        m = state["m"] / (1 - b1 ** state["step"])
        v = state["v"] / (1 - b2 ** state["step"])
        u = m / (v.sqrt() + group["eps"])
        ratio = torch.ones((), device=p.device)
        if group["weight_decay"]:
            u = u + group["weight_decay"] * p
            size, step = p.norm(), u.norm()
            ratio = torch.where((size > 0) & (step > 0), size / step, ratio).clamp(max=1.0)
        p.sub_(u * (group["lr"] * ratio))


OPTIMISERS = {"adamw": torch.optim.AdamW, "lamb": LAMB}


def make_optimizer(model: nn.Module, c) -> torch.optim.Optimizer:
    """The optimiser of a [train] table.

    Vectors and biases are not decayed; lambda_attn has five axes and is, as in the published code.
    """
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": c.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return OPTIMISERS[c.optimizer](groups, lr=c.lr)


def learning_rate(c, epoch: float) -> float:
    """Linear warm-up, a cosine over the whole run (warm-up not subtracted), then ``min_lr``."""
    if epoch < c.warmup_epochs:
        return c.warmup_lr + epoch * (c.lr - c.warmup_lr) / c.warmup_epochs
    if epoch >= c.epochs:
        return c.min_lr
    return c.min_lr + 0.5 * (c.lr - c.min_lr) * (1 + math.cos(math.pi * epoch / c.epochs))
