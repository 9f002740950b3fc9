"""Random Spikformer and Spikingformer checkpoints, every layout, with calibrated batch norm.

Made with the models of `training`: random weights, and batch-norm statistics of a few frames, so
that every layer fires at a moderate rate whatever the widths.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from random_nets import Spec, images_of

from training import checkpoint, models


@dataclass(frozen=True)
class Weighted:
    """Form of a random network; `trained_bits` 0 = real weights."""

    family: str = "spikingformer"
    seed: int = 0
    dim: int = 32
    heads: int = 4
    depth: int = 1
    n_steps: int = 4
    size: int = 8
    channels: int = 3
    classes: int = 5
    tau: float = 2.0
    decay_input: bool = True
    layout: str = "cifar"
    events: bool = False
    trained_bits: int = 0
    dead_keys: bool = False

    @property
    def frames(self) -> Spec:
        """The same input in the words of `random_nets`."""
        return Spec(
            seed=self.seed,
            size=self.size,
            channels=self.channels,
            n_steps=self.n_steps,
            events=self.events,
        )


def network(spec: Weighted) -> torch.nn.Module:
    """Return a calibrated random network in evaluation mode."""
    module = models.FAMILIES[spec.family]
    config = module.Config(
        depth=spec.depth,
        dim=spec.dim,
        heads=spec.heads,
        n_steps=spec.n_steps,
        image_size=spec.size,
        channels=spec.channels,
        classes=spec.classes,
        tau=spec.tau,
        decay_input=spec.decay_input,
        layout=spec.layout,
        input="events" if spec.events else "image",
        weight_bits=spec.trained_bits,
    )
    with torch.random.fork_rng():
        torch.manual_seed(spec.seed)
        net = module.Model(config)
        for name, p in net.named_parameters():
            if name.endswith("_bn.weight"):
                sign = torch.where(torch.rand_like(p) < 0.8, 1.0, -1.0)
                p.data = torch.empty_like(p).uniform_(0.7, 1.7) * sign
                p.data[-1] = 0.0
            elif name.endswith("_bn.bias"):
                busy = name.endswith(("q_bn.bias", "k_bn.bias", "v_bn.bias"))
                p.data = torch.empty_like(p).normal_(1.5 if busy else 0.5, 0.5)
    if not spec.events:
        net.set_normalisation(list(_MEAN[: spec.channels]), list(_STD[: spec.channels]))
    for m in net.modules():
        if isinstance(m, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            m.momentum = None  # statistics of all frames seen
    net.train()
    with torch.no_grad():
        net(net.preprocess(images_of(spec.frames, 6, seed=99)))
    return net.eval()


_MEAN, _STD = (0.4914, 0.4822, 0.4465, 0.45), (0.247, 0.2435, 0.2616, 0.25)


def save(path: Path, spec: Weighted) -> Path:
    """Write a checkpoint as training does; `dead_keys` adds what published files never use."""
    net = network(spec)
    args = {**net.config.to_args(), "mean": net.mean.tolist(), "std": net.std.tolist()}
    if spec.events:
        del args["mean"], args["std"]
    state = dict(net.state_dict())
    if spec.dead_keys:
        for i in range(spec.depth):
            for norm in ("norm1", "norm2"):
                state[f"block.{i}.{norm}.weight"] = torch.ones(spec.dim)
                state[f"block.{i}.{norm}.bias"] = torch.zeros(spec.dim)
    checkpoint.save(path, state, args, epoch=0, metric=0.0, arch=spec.family)
    return path


def frames_of(spec: Weighted, n: int) -> np.ndarray:
    """Frames that were not used for the statistics."""
    return images_of(spec.frames, n, seed=7)
