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
``tau = 1`` forgets at once: it asks x >= v_threshold at every step on its own.
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


@torch.no_grad()
def _forward(x: Tensor, p: LIFParameters, h: Tensor, s: Tensor) -> None:
    """Charged membranes into ``h``, spikes into ``s``, in place, step by step."""
    v = torch.full_like(h[0], 0.0 if p.reset == "soft" else p.v_reset)
    for t in range(x.shape[0]):
        _charge(v, x[t], p, h[t])
        torch.ge(h[t], p.v_threshold, out=s[t])
        if t + 1 < x.shape[0]:
            _reset(h[t], s[t], p, v)


def _backward(grad_s: Tensor, h: Tensor, p: LIFParameters) -> Tensor:
    """Gradient of the input from that of the spikes and the charged membranes ``h``."""
    dx = 1.0 / p.tau if p.decay_input else 1.0
    keep = 1.0 - 1.0 / p.tau
    # The recursion over t is linear, so alpha and dx multiply once, at the end.
    sigmoid = (h - p.v_threshold).mul_(p.alpha).sigmoid_()
    grad_h = torch.ops.aten.sigmoid_backward(grad_s.contiguous(), sigmoid)
    for t in range(h.shape[0] - 2, -1, -1):
        later = grad_h[t + 1]
        s = (h[t] >= p.v_threshold).to(h.dtype)
        if p.detach_reset:
            grad_h[t].add_(later, alpha=keep)
            if p.reset == "hard":
                grad_h[t].addcmul_(s, later, value=-keep)
            continue
        slope = torch.ops.aten.sigmoid_backward(torch.full_like(h[t], p.alpha), sigmoid[t])
        if p.reset == "soft":
            dv = 1.0 - p.v_threshold * slope
        else:
            dv = 1.0 - s + (p.v_reset - h[t]) * slope
        grad_h[t].addcmul_(later, dv, value=keep)
    return grad_h.mul_(p.alpha * dx)


class _Step(torch.autograd.Function):
    """The step, with the sigmoid's slope as its derivative."""

    @staticmethod
    def forward(ctx, u: Tensor, alpha: float) -> Tensor:
        ctx.save_for_backward(u)
        ctx.alpha = alpha
        return (u >= 0).to(u.dtype)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (u,) = ctx.saved_tensors
        s = torch.sigmoid(ctx.alpha * u)
        return grad * ctx.alpha * s * (1 - s), None


def charge(v: Tensor, x: Tensor, p: LIFParameters) -> Tensor:
    """The charged membrane, one step."""
    rest = 0.0 if p.reset == "soft" else p.v_reset
    if p.decay_input:
        return v + (x - (v - rest)) / p.tau
    if rest == 0.0:
        return v * (1 - 1 / p.tau) + x
    return v - (v - rest) / p.tau + x


def plain_lif(x: Tensor, p: LIFParameters) -> Tensor:
    """The neuron in ordinary differentiable operations: the reference for the fused ones."""
    soft = p.reset == "soft"
    v = torch.full_like(x[0], 0.0 if soft else p.v_reset)
    spikes = []
    for x_t in x:
        h = charge(v, x_t, p)
        s = _Step.apply(h - p.v_threshold, p.alpha)
        spikes.append(s)
        mask = s.detach() if p.detach_reset else s
        v = h - mask * p.v_threshold if soft else (1 - mask) * h + mask * p.v_reset
    return torch.stack(spikes)


def _unrolled_forward(x: Tensor, p: LIFParameters) -> tuple[Tensor, Tensor]:
    """Charged membranes and spikes without in-place writes, for torch.compile."""
    v = torch.full_like(x[0], 0.0 if p.reset == "soft" else p.v_reset)
    membranes, spikes = [], []
    for t in range(x.shape[0]):
        h = charge(v, x[t], p)
        s = (h >= p.v_threshold).to(h.dtype)
        v = h - s * p.v_threshold if p.reset == "soft" else (1 - s) * h + s * p.v_reset
        membranes.append(h)
        spikes.append(s)
    return torch.stack(membranes), torch.stack(spikes)


def _unrolled_backward(grad_s: Tensor, h: Tensor, p: LIFParameters) -> Tensor:
    """As ``_backward``, without in-place writes, for torch.compile."""
    dx = 1.0 / p.tau if p.decay_input else 1.0
    keep = 1.0 - 1.0 / p.tau
    later = torch.zeros_like(h[0])  # dL/dv after step t
    grads: list[Tensor] = []
    for t in range(h.shape[0] - 1, -1, -1):
        sigmoid = torch.sigmoid((h[t] - p.v_threshold) * p.alpha)
        slope = p.alpha * sigmoid * (1 - sigmoid)
        s = (h[t] >= p.v_threshold).to(h.dtype)
        if p.reset == "soft":
            dv = 1.0 if p.detach_reset else 1.0 - p.v_threshold * slope
        else:
            dv = 1.0 - s if p.detach_reset else 1.0 - s + (p.v_reset - h[t]) * slope
        grad_h = grad_s[t] * slope + later * dv
        later = grad_h * keep
        grads.append(grad_h * dx)
    return torch.stack(grads[::-1])


_COMPILED: dict[str, object] = {}


def use_compiled(on: bool = True) -> None:
    """Let torch.compile (C++ on a CPU, Triton on CUDA) fuse all steps of a neuron in one loop.

    The first call of each kind of neuron compiles for some seconds; a C++ compiler is needed on
    a CPU. The forward pass gives the same spikes as the ordinary one.
    """
    _COMPILED.clear()
    if on:
        _COMPILED["forward"] = torch.compile(_unrolled_forward, dynamic=True)
        _COMPILED["backward"] = torch.compile(_unrolled_backward, dynamic=True)


def _flat(x: Tensor) -> Tensor:
    """[T, n], dense, no view of anything: what compiled code is specialised on is the same."""
    return x.detach().reshape(len(x), -1).contiguous().detach()


def _wide(x: Tensor) -> Tensor:
    """The input in the membrane's precision.

    Under mixed precision it stays float32: a step of half precision near the threshold is wider
    than the deployed arithmetic's.
    """
    return x if x.dtype == torch.float64 else x.float()


class _MultiStepLIF(torch.autograd.Function):
    """All T steps at once; only the charged membranes are kept for the backward pass."""

    @staticmethod
    def forward(ctx, x: Tensor, p: LIFParameters) -> Tensor:
        wide = _wide(x)
        if "forward" in _COMPILED:
            # one shape [T, n] for all, so that each kind of neuron compiles once
            h, s = _COMPILED["forward"](_flat(wide), p)
            s = s.view(x.shape)
        else:
            h = torch.empty_like(wide, memory_format=torch.contiguous_format)
            s = torch.empty_like(h)
            _forward(wide, p, h, s)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(h)
            ctx.parameters = p
        return s.to(x.dtype)

    @staticmethod
    def backward(ctx, grad_s: Tensor):
        (h,) = ctx.saved_tensors
        grad = grad_s.to(h.dtype)
        if h.shape == grad.shape:
            found = _backward(grad, h, ctx.parameters)
        else:  # flattened by the compiled path
            backward = _COMPILED.get("backward", _unrolled_backward)
            found = backward(_flat(grad), h, ctx.parameters).view(grad.shape)
        return found.to(grad_s.dtype), None


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
        if not (math.isfinite(tau) and tau >= 1.0):
            raise ValueError(f"tau must be a finite number from 1 upwards, got {tau}")
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
        if torch.compiler.is_compiling():  # the compiler fuses the steps, and what is around them
            return plain_lif(_wide(x), self.parameters_).to(x.dtype)
        return _MultiStepLIF.apply(x, self.parameters_)

    def extra_repr(self) -> str:
        """Show the constants in ``print(model)``."""
        return ", ".join(f"{k}={v}" for k, v in self.parameters_._asdict().items())
