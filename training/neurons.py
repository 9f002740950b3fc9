"""Multi-step leaky integrate-and-fire neuron.

The input is a sequence [T, ...]; the membrane starts at ``v_reset`` (0 for soft reset) and lives
only inside one call.
Per step t, in exactly this order of floating point operations:

    charge   h = v + (x - v) / tau              decay_input, v_reset 0 or soft
             h = v * (1 - 1 / tau) + x          no decay_input, v_reset 0 or soft
             (with v_reset != 0 the leak is towards v_reset: v - v_reset replaces v inside the leak)
    fire     s = 1 if h >= v_threshold else 0
    reset    v = (1 - s) * h + s * v_reset      hard
             v = h - s * v_threshold            soft

The backward pass replaces the step by a sigmoid of slope alpha:
ds/dh = alpha * p * (1 - p) with p = sigmoid(alpha * (h - v_threshold)).
With ``detach_reset`` the spike inside the reset is a constant: dv/dh = 1 - s (hard), 1 (soft).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn


class LIFParameters(NamedTuple):
    """The constants of one neuron."""

    tau: float = 2.0
    v_threshold: float = 1.0
    v_reset: float = 0.0
    reset: str = "hard"
    decay_input: bool = True
    alpha: float = 4.0
    detach_reset: bool = True


def _charge(v: Tensor, x: Tensor, p: LIFParameters, h: Tensor) -> None:
    """Write the charged membrane into ``h``."""
    if p.reset == "soft" or p.v_reset == 0.0:
        if p.decay_input:
            torch.sub(x, v, out=h).div_(p.tau).add_(v)
        else:
            torch.mul(v, 1.0 - 1.0 / p.tau, out=h).add_(x)
    elif p.decay_input:
        torch.sub(x, v - p.v_reset, out=h).div_(p.tau).add_(v)
    else:
        torch.sub(v, (v - p.v_reset).div_(p.tau), out=h).add_(x)


def _reset(h: Tensor, s: Tensor, p: LIFParameters, v: Tensor) -> None:
    """Write the membrane after the reset into ``v``."""
    if p.reset == "soft":
        torch.sub(h, s, alpha=p.v_threshold, out=v)
        return
    torch.mul(s, h, out=v)
    torch.sub(h, v, out=v)  # h - s * h = (1 - s) * h for s in {0, 1}
    if p.v_reset != 0.0:
        v.add_(s, alpha=p.v_reset)


class _MultiStepLIF(torch.autograd.Function):
    """All T steps at once; the charged membranes and the spikes are kept for the backward pass."""

    @staticmethod
    def forward(ctx, x: Tensor, p: LIFParameters) -> Tensor:
        h = torch.empty_like(x, memory_format=torch.contiguous_format)
        s = torch.empty_like(h)
        v = torch.full_like(h[0], 0.0 if p.reset == "soft" else p.v_reset)
        for t in range(x.shape[0]):
            _charge(v, x[t], p, h[t])
            torch.ge(h[t], p.v_threshold, out=s[t])
            if t + 1 < x.shape[0]:
                _reset(h[t], s[t], p, v)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(h, s)
            ctx.parameters = p
        return s

    @staticmethod
    def backward(ctx, grad_s: Tensor):
        h, s = ctx.saved_tensors
        p: LIFParameters = ctx.parameters
        dx = 1.0 / p.tau if p.decay_input else 1.0
        keep = 1.0 - 1.0 / p.tau
        # The recursion over t is linear, so alpha and dx multiply once, at the end.
        sigmoid = (h - p.v_threshold).mul_(p.alpha).sigmoid_()
        grad_h = torch.ops.aten.sigmoid_backward(grad_s.contiguous(), sigmoid)
        for t in range(h.shape[0] - 2, -1, -1):
            later = grad_h[t + 1]
            if p.detach_reset:
                grad_h[t].add_(later, alpha=keep)
                if p.reset == "hard":
                    grad_h[t].addcmul_(s[t], later, value=-keep)
                continue
            slope = torch.ops.aten.sigmoid_backward(torch.full_like(h[t], p.alpha), sigmoid[t])
            if p.reset == "soft":
                dv = 1.0 - p.v_threshold * slope
            else:
                dv = 1.0 - s[t] + (p.v_reset - h[t]) * slope
            grad_h[t].addcmul_(later, dv, value=keep)
        return grad_h.mul_(p.alpha * dx), None


class LIF(nn.Module):
    """Multi-step LIF layer, [T, ...] -> spikes [T, ...]; it owns no state-dict key."""

    def __init__(
        self,
        tau: float = 2.0,
        v_threshold: float = 1.0,
        v_reset: float = 0.0,
        reset: str = "hard",
        decay_input: bool = True,
        alpha: float = 4.0,
        detach_reset: bool = True,
    ) -> None:
        super().__init__()
        if not (math.isfinite(tau) and tau > 1.0):
            raise ValueError(f"tau must be a finite number above 1, got {tau}")
        if not (math.isfinite(v_threshold) and math.isfinite(v_reset)):
            raise ValueError(
                f"v_threshold and v_reset must be finite, got {v_threshold} and {v_reset}"
            )
        if reset not in ("hard", "soft"):
            raise ValueError(f"reset must be 'hard' or 'soft', got {reset!r}")
        if reset == "hard" and v_reset >= v_threshold:
            raise ValueError(f"v_reset {v_reset} must be below v_threshold {v_threshold}")
        self.parameters_ = LIFParameters(
            float(tau), float(v_threshold), float(v_reset), reset, decay_input, alpha, detach_reset
        )

    def forward(self, x: Tensor) -> Tensor:
        """Run all T steps of ``x`` [T, ...]."""
        return _MultiStepLIF.apply(x, self.parameters_)

    def extra_repr(self) -> str:
        """Show the constants in ``print(model)``."""
        return ", ".join(f"{k}={v}" for k, v in self.parameters_._asdict().items())
