"""Neurons whose output is more than one bit: several levels, three signs, or a ReLU.

IELIF, [qsd]: levels L in 0..n of a membrane u, output L / divisor:

    u = v + x      L = floor(clip(gain u, 0, n) + 1/2)      v = leak (u - L / gain)

The released code is ``leak = 0``: no memory, each step on its own. Backward, L passes straight
through where 0 < gain u < n. At inference a level is n binary spikes [L >= k], k = 1..n (virtual
steps, ``thermometer``): those of an integrate-and-fire neuron with soft reset that starts at 1/2,
has threshold 1 and gets gain u at once.

TernaryLIF, [a2os2a] V, [ternary spike]:

    u = v beta + x           s = sign(u) where |u| >= v_threshold, else 0       v = u (1 - |s|)
    u = v + (x - v) (1 - beta)                                                  with decay_input

Backward, s passes straight through where |u| <= 1; the reset is a constant. The output is s times
``amplitude``, a constant or a learned number.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from training import quantisers


class IELIF(nn.Module):
    """Multi-level neuron, [T, ...] -> levels / divisor [T, ...]; no state-dict key."""

    def __init__(
        self, n_levels: int = 4, gain: float = 4.0, divisor: float = 4.0, leak: float = 0.0
    ) -> None:
        super().__init__()
        if not (isinstance(n_levels, int) and 1 <= n_levels <= 15):
            raise ValueError(f"n_levels must be in 1..15, got {n_levels!r}")
        if not (gain > 0 and divisor > 0 and 0 <= leak < 1):
            raise ValueError(
                "gain > 0, divisor > 0 and 0 <= leak < 1 are required; "
                f"got {gain}, {divisor}, {leak}"
            )
        self.n_levels, self.gain, self.divisor, self.leak = n_levels, gain, divisor, leak

    def forward(self, x: Tensor) -> Tensor:
        """Run all T steps of ``x`` [T, ...]."""
        if self.leak == 0:
            return quantisers.levels(x * self.gain, self.n_levels) / self.divisor
        v, out = torch.zeros_like(x[0]), []
        for x_t in x:
            u = v + x_t
            level = quantisers.levels(u * self.gain, self.n_levels)
            v = self.leak * (u - level.detach() / self.gain)
            out.append(level / self.divisor)
        return torch.stack(out)

    def extra_repr(self) -> str:
        """Show the constants in ``print(model)``."""
        return f"{self.n_levels} levels, gain={self.gain}, divisor={self.divisor}, leak={self.leak}"


def thermometer(levels: Tensor, n_levels: int) -> Tensor:
    """Levels [T, ...] -> their virtual steps [T, n, ...], 0 or 1, sum over axis 1 = levels."""
    marks = torch.arange(1, n_levels + 1, dtype=levels.dtype, device=levels.device)
    return (levels.unsqueeze(1) >= marks.view(-1, *([1] * (levels.ndim - 1)))).to(levels.dtype)


def level_entropy(u: Tensor, n_levels: int) -> Tensor:
    """Differentiable entropy, in bits, of the levels of ``u`` (in units of a level).

    Each value counts for its two neighbouring levels in proportion to its nearness, so the
    entropy of the histogram has a gradient; at whole numbers it is that of the levels themselves.
    """
    u = u.float().clamp(0, n_levels).flatten()
    marks = torch.arange(n_levels + 1, device=u.device, dtype=u.dtype)
    p = torch.stack([(1 - (u - m).abs()).clamp(min=0).mean() for m in marks])
    return -(p * p.clamp(min=1e-12).log2()).sum()


class _Ternary(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u: Tensor, threshold: float) -> Tensor:
        ctx.save_for_backward(u)
        return torch.sign(u) * (u.abs() >= threshold)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (u,) = ctx.saved_tensors
        return grad * (u.abs() <= 1), None


class TernaryLIF(nn.Module):
    """Neuron with outputs -1, 0, +1 (times the amplitude), [T, ...] -> [T, ...]."""

    def __init__(
        self,
        beta: float = 0.25,
        v_threshold: float = 0.5,
        decay_input: bool = False,
        amplitude: float = 1.0,
        learn_amplitude: bool = False,
    ) -> None:
        super().__init__()
        if not (0 <= beta < 1 and v_threshold > 0 and math.isfinite(v_threshold)):
            raise ValueError(
                f"0 <= beta < 1 and v_threshold > 0 are required; got {beta}, {v_threshold}"
            )
        if not (math.isfinite(amplitude) and amplitude > 0):
            raise ValueError(f"amplitude must be positive, got {amplitude}")
        self.beta, self.v_threshold, self.decay_input = beta, v_threshold, decay_input
        if learn_amplitude:
            self.amplitude = nn.Parameter(torch.tensor(float(amplitude)))
        else:
            self.amplitude = float(amplitude)

    def signs(self, x: Tensor) -> Tensor:
        """The spikes -1, 0, +1 of ``x`` [T, ...]."""
        v, out = torch.zeros_like(x[0]), []
        for x_t in x:
            u = v + (x_t - v) * (1 - self.beta) if self.decay_input else v * self.beta + x_t
            s = _Ternary.apply(u, self.v_threshold)
            v = u * (1 - s.detach().abs())
            out.append(s)
        return torch.stack(out)

    def forward(self, x: Tensor) -> Tensor:
        """Run all T steps of ``x`` [T, ...]."""
        s = self.signs(x)
        fixed = isinstance(self.amplitude, float) and self.amplitude == 1.0
        return s if fixed else s * self.amplitude

    def extra_repr(self) -> str:
        """Show the constants in ``print(model)``."""
        return f"beta={self.beta}, v_threshold={self.v_threshold}, decay_input={self.decay_input}"
