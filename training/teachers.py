"""Teachers: any module that gives logits [B, K] for the student's images.

A spec is
    PATH                   a checkpoint of `python -m training.train`, any family
    timm:NAME              timm.create_model(NAME), where timm is installed
    torchvision:NAME       torchvision.models.get_model(NAME), where torchvision is installed
    pkg.mod:factory        factory(classes) -> module

Ours get images normalised as they were trained; the others get the student's normalised tensor, as
in the published code, resized where the config says so. The number of classes is tried on one
image before any training starts.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training import checkpoint
from training.errors import CheckpointError, ConfigError, MissingPackageError, TrainingError
from training.losses import DistillConfig
from training.models import load
from training.models.skeleton import Network


class Teacher(nn.Module):
    """A frozen module in evaluation mode."""

    def __init__(self, module: nn.Module, student: Network, image_size: int) -> None:
        super().__init__()
        self.module = module.eval().requires_grad_(False)
        self.image_size = image_size
        self.ours = isinstance(module, Network)
        self.register_buffer("mean", student.mean.clone(), persistent=False)
        self.register_buffer("std", student.std.clone(), persistent=False)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Logits for the student's normalised input."""
        if self.ours:
            x = x * self.std.view(-1, 1, 1) + self.mean.view(-1, 1, 1)
            x = self.module.normalise(x)
        if self.image_size and x.shape[-1] != self.image_size:
            size = (self.image_size, self.image_size)
            frames = F.interpolate(x.flatten(0, -4), size, mode="bilinear", align_corners=False)
            x = frames.unflatten(0, x.shape[:-3])
        y = self.module(x)
        return y[0] if isinstance(y, tuple | list) else y


def _package(name: str):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingPackageError(
            f"the teacher needs {name}, which is not installed",
            where="[distill] teacher",
            hint=f"pip install {name}, or train a Spikingformer with `python -m training.train` "
            "and give its checkpoint",
        ) from error


def _factory(spec: str, classes: int) -> nn.Module:
    package, _, name = spec.partition(":")
    if package == "timm":
        return _package("timm").create_model(name, pretrained=False, num_classes=classes)
    if package == "torchvision":
        return _package("torchvision.models").get_model(name, num_classes=classes)
    factory = getattr(_package(package), name, None)
    if factory is None:
        raise ConfigError(
            f"{package} has no {name}", where="[distill] teacher", hint="write pkg.mod:factory"
        )
    return factory(classes)


def _load_weights(module: nn.Module, path: str) -> None:
    content = checkpoint.load_any(path)
    state = content.get("state_dict", content.get("model", content))
    state = {k.removeprefix("module."): v for k, v in state.items()}
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(
            f"{path} does not fit the teacher: {error}", where="[distill] weights"
        ) from error


def _module(d: DistillConfig, classes: int) -> nn.Module:
    if not d.teacher:
        raise ConfigError(
            "no teacher is given",
            where="[distill] teacher",
            hint="--teacher PATH, timm:NAME, torchvision:NAME or pkg.mod:factory, or no table",
        )
    if ":" not in d.teacher or Path(d.teacher).exists():
        return load(d.teacher)
    module = _factory(d.teacher, classes)
    if not isinstance(module, nn.Module):
        raise ConfigError(
            f"{d.teacher} returned a {type(module).__name__}, expected a torch module",
            where="[distill] teacher",
        )
    if d.weights:
        _load_weights(module, d.weights)
    return module


def _share_attention(student: Network, teacher: nn.Module) -> None:
    """Let both networks keep their attention maps.

    Raises:
        ConfigError: they have no maps, or not as many or as large ones.
    """
    grids = []
    for model in (student, teacher):
        found = getattr(model, "attentions", list)()
        grids.append([a.heads for a in found])
        for layer in found:
            layer.keep_maps = True
    if not grids[0] or grids[0] != grids[1]:
        raise ConfigError(
            f"attention distillation needs equal attention layers; heads per layer are {grids[0]} "
            f"here and {grids[1]} in the teacher",
            where="[distill] attention",
            hint="take a teacher of family sdt_v2 or qsd with the same depth and heads",
        )


def make(d: DistillConfig, student: Network) -> Teacher:
    """Build a teacher and try it.

    Raises:
        TrainingError: it is missing, does not take these images, or has other classes.
    """
    c = student.config
    teacher = Teacher(_module(d, c.classes), student, d.image_size)
    steps = (c.n_steps,) if c.input == "events" else ()
    example = torch.zeros(*steps, 1, c.channels, c.image_size, c.image_size)
    try:
        logits = teacher(example)
    except TrainingError:
        raise
    except Exception as error:  # whatever a foreign module raises
        raise ConfigError(
            f"the teacher {d.teacher} cannot take images {list(example.shape)}: {error}",
            where="[distill] teacher",
            hint="set [distill] image_size to the size that it was trained on",
        ) from error
    if d.attention:
        _share_attention(student, teacher.module)
    if tuple(logits.shape) != (1, c.classes):
        raise ConfigError(
            f"the teacher {d.teacher} has {logits.shape[-1]} classes, the data has {c.classes}",
            where="[distill] teacher",
            hint="take a teacher that was trained on the same classes",
        )
    return teacher
