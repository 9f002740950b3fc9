"""Losses: soft targets, distillation of two heads, the spike-rate penalty, every step's logits.

    L = (1 - alpha) CE(y_class, target) + alpha KD(y_distilled, teacher)         [bestformer]
    KD hard   CE(y, argmax teacher)
    KD soft   K^2 KL(softmax(teacher / K) || softmax(y / K)), K the temperature

y_class is the head on x0 and y_distilled the one on x1; ``swap`` exchanges them. Without a teacher
both heads learn from the target, with equal weights.

    L = (1 - lambda) mean_t CE(y_t, target) + lambda MSE(y, 1)        temporal efficient training

of the logits y_t of each step (Deng et al. 2022), in place of the logits of their mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.errors import ConfigError, UnsupportedError
from training.neurons import LIF


@dataclass(frozen=True)
class DistillConfig:
    """The [distill] table of a config file.

    ``teacher`` is a checkpoint of ours, "timm:NAME", "torchvision:NAME" or "pkg.mod:factory".
    ``image_size`` > 0 resizes the student's images bilinearly for the teacher.
    """

    teacher: str
    kind: str = "hard"
    alpha: float = 0.5
    temperature: float = 1.0
    swap: bool = False
    image_size: int = 0
    weights: str = ""  # a state dict for timm, torchvision and dotted teachers
    attention: float = 0.0  # times the distance of attention maps (QSD), added to the loss

    def __post_init__(self) -> None:
        if self.kind not in ("hard", "soft"):
            raise ConfigError(f"kind must be 'hard' or 'soft', got {self.kind!r}")
        if not (0 <= self.alpha <= 1 and self.temperature > 0 and self.image_size >= 0):
            raise ConfigError("0 <= alpha <= 1, temperature > 0 and image_size >= 0 are required")
        if not self.attention >= 0:
            raise ConfigError(f"attention >= 0 needed, got {self.attention}")


def smoothed(labels: Tensor, classes: int, smoothing: float) -> Tensor:
    """One-hot targets [B, K] with ``smoothing`` spread evenly over all classes."""
    target = torch.full((len(labels), classes), smoothing / classes, device=labels.device)
    return target.scatter_add_(
        1, labels[:, None], torch.full((len(labels), 1), 1 - smoothing, device=labels.device)
    )


def distillation(y: Tensor, teacher: Tensor, d: DistillConfig) -> Tensor:
    """The KD term, logits [B, K] both."""
    if d.kind == "hard":
        return F.cross_entropy(y, teacher.argmax(1))
    k = d.temperature
    log_y, log_teacher = F.log_softmax(y / k, 1), F.log_softmax(teacher / k, 1)
    return k * k * F.kl_div(log_y, log_teacher, reduction="batchmean", log_target=True)


def loss(
    outputs: tuple[Tensor, ...], target: Tensor, teacher: Tensor | None, d: DistillConfig | None
) -> Tensor:
    """The whole loss from the heads' logits and targets [B, K]."""
    outputs = tuple(y.float() for y in outputs)
    if teacher is None or d is None:
        return sum(F.cross_entropy(y, target) for y in outputs) / len(outputs)
    outputs = outputs * 2 if len(outputs) == 1 else outputs  # one head learns from both
    y_class, y_distilled = reversed(outputs) if d.swap else outputs
    return (1 - d.alpha) * F.cross_entropy(y_class, target) + d.alpha * distillation(
        y_distilled, teacher.float(), d
    )


@contextmanager
def firing_rates(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the differentiable mean output of every neuron of the forward pass inside."""
    rates: list[Tensor] = []
    handles = [
        m.register_forward_hook(lambda _m, _i, s: rates.append(s.float().mean()))
        for m in model.modules()
        if isinstance(m, LIF)
    ]
    try:
        yield rates
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def step_logits(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what the linear heads of the forward pass inside give, before the mean over T."""
    found: list[Tensor] = []
    handles = [
        m.register_forward_hook(lambda _m, _i, y: found.append(y.float()))
        for name, m in model.named_modules()
        if name.startswith("head") and isinstance(m, nn.Linear)
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def tet(logits: list[Tensor], target: Tensor, pull: float) -> Tensor:
    """Temporal efficient training, mean over the heads.

    Args:
        logits: [T, B, K] of every head.
        target: [B, K].
        pull: lambda, the share of the squared distance of all logits from 1.

    Raises:
        UnsupportedError: a head reads the mean over T.
    """
    if any(y.ndim != 3 for y in logits) or not logits:
        raise UnsupportedError(
            "tet needs the logits of each step, and this network's head reads their mean",
            where="[train] tet",
            hint="families with a head at every step: sdt_v1, a2os2a, sdt_v2, qsd, spiking_vgg, "
            "sew_resnet",
        )
    each = [
        (1 - pull) * F.cross_entropy(y.flatten(0, 1), target.repeat(len(y), 1))
        + pull * (y - 1).square().mean()
        for y in logits
    ]
    return torch.stack(each).mean()
