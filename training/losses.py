"""Losses: soft targets, the information-enhanced distillation of two heads, the spike-rate penalty.

    L = (1 - alpha) CE(y_class, target) + alpha KD(y_distilled, teacher)         [bestformer]
    KD hard   CE(y, argmax teacher)
    KD soft   K^2 KL(softmax(teacher / K) || softmax(y / K)), K the temperature

y_class is the head on x0 and y_distilled the one on x1; ``swap`` exchanges them. Without a teacher
both heads learn from the target, with equal weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.errors import ConfigError
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
