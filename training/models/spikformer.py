"""Spikformer: spikes are added behind the neuron, so the stream holds small whole numbers.

    tokenizer   conv + bn -> LIF -> (max-pool 3x3, stride 2), four times;
                x = s + lif(bn(conv s))
                layout "cifar" pools behind the last two, "imagenet" behind all
    block       x = x + lif(bn(linear(lif(scale q k^T v)))),  q, k, v = lif(bn(linear x))
                x = x + lif(bn(linear(lif(bn(linear x)))))
    head        logits = head(mean x)

The threshold of the neuron behind the product is 0.5. Keys and shapes are those of the published
code, without its norm1 and norm2, which nothing uses: linear layers with biases in the CIFAR
layout, 1x1 convolutions (only the last of attention and those of the MLP biased) in the other.
Weights but those of the first convolution have `weight_bits` bits where that is not 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from training.layers import QuantConv2d, QuantLinear
from training.models.skeleton import ATTN_SCALE, ATTN_THRESHOLD, Network
from training.models.spikingformer import SpikingformerConfig

POOLED = {"cifar": (2, 3), "imagenet": (0, 1, 2, 3)}
EVENT_SCALE = 0.25


@dataclass(frozen=True)
class SpikformerConfig(SpikingformerConfig):
    """Everything that fixes the network; `attention` names the order of the product."""

    FAMILY: ClassVar[str] = "spikformer"

    @property
    def attn_scale(self) -> float:
        """Scale of attention: the published code has another one for events."""
        return EVENT_SCALE if self.input == "events" else ATTN_SCALE

    def to_args(self) -> dict:
        """The config under the names checkpoints use, and the scale that follows from it."""
        return {**super().to_args(), "attn_scale": self.attn_scale}


def _stage(part: str, i: int) -> str:
    """Published name of a part of stage i: proj_conv, proj_conv1, .."""
    return f"proj_{part}{i or ''}"


class SPS(nn.Module):
    """The tokenizer, [B, C, H, W] or [T, B, C, H, W] -> levels [T, B, D, H', W']."""

    def __init__(self, c: SpikformerConfig) -> None:
        super().__init__()
        self.n_steps, self.pooled = c.n_steps, POOLED[c.layout]
        widths = (c.channels, c.dim // 8, c.dim // 4, c.dim // 2, c.dim)
        for i in range(4):
            bits = c.weight_bits if i else 0
            conv = QuantConv2d(widths[i], widths[i + 1], 3, padding=1, weight_bits=bits)
            self.add_module(_stage("conv", i), conv)
            self.add_module(_stage("bn", i), nn.BatchNorm2d(widths[i + 1]))
            self.add_module(_stage("lif", i), c.neuron())
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.rpe_conv = c.conv2d(c.dim, c.dim, 3, padding=1)
        self.rpe_bn = nn.BatchNorm2d(c.dim)
        self.rpe_lif = c.neuron()

    def _charge(self, i: int, x: Tensor) -> Tensor:
        return getattr(self, _stage("bn", i))(getattr(self, _stage("conv", i))(x))

    def forward(self, image: Tensor) -> Tensor:
        """Levels 0 .. 2 of a still image (the first convolution runs once) or of frames."""
        s = image.flatten(0, 1) if image.ndim == 5 else image
        for i in range(4):
            y = self._charge(i, s)
            if i == 0 and image.ndim == 4:
                y = y.unsqueeze(0).expand(self.n_steps, *y.shape)
            else:
                y = y.unflatten(0, (self.n_steps, -1))
            s = getattr(self, _stage("lif", i))(y).flatten(0, 1)
            s = self.pool(s) if i in self.pooled else s
        y = self.rpe_bn(self.rpe_conv(s)).unflatten(0, (self.n_steps, -1))
        return s.unflatten(0, (self.n_steps, -1)) + self.rpe_lif(y)


class Layer(nn.Module):
    """Makes the layers of a block in the two layouts; tokens are [T, B, C, N]."""

    def __init__(self, c: SpikformerConfig) -> None:
        super().__init__()
        self.kind = "linear" if c.layout == "cifar" else "conv"
        self.c = c

    def add(self, name: str, n_in: int, n_out: int, *, bias: bool, axes: int = 1) -> None:
        """Add a layer with its batch norm and its neuron; `axes` of a convolution's kernel."""
        bits = self.c.weight_bits
        if self.kind == "linear":
            layer: nn.Module = QuantLinear(n_in, n_out, weight_bits=bits)
        else:
            make = self.c.conv2d if axes == 2 else self.c.conv1d
            layer = make(n_in, n_out, 1, bias=bias)
        norm = nn.BatchNorm2d if self.kind == "conv" and axes == 2 else nn.BatchNorm1d
        self.add_module(f"{name}_{self.kind}", layer)
        self.add_module(f"{name}_bn", norm(n_out))
        self.add_module(f"{name}_lif", self.c.neuron())

    def run(self, name: str, x: Tensor) -> Tensor:
        """Spikes [T, B, O, N] of a layer on [T, B, C, N]."""
        layer, norm = getattr(self, f"{name}_{self.kind}"), getattr(self, f"{name}_bn")
        flat = x.flatten(0, 1)
        if self.kind == "linear":
            y = norm(layer(flat.mT).mT)
        elif layer.weight.ndim == 4:
            y = norm(layer(flat.unsqueeze(-1))).squeeze(-1)
        else:
            y = norm(layer(flat))
        return getattr(self, f"{name}_lif")(y.unflatten(0, x.shape[:2]))


class SSA(Layer):
    """Spiking self-attention, [T, B, D, N] -> spikes [T, B, D, N]."""

    def __init__(self, c: SpikformerConfig) -> None:
        super().__init__(c)
        for name in ("q", "k", "v"):
            self.add(name, c.dim, c.dim, bias=False)
        self.attn_lif = c.neuron(v_threshold=ATTN_THRESHOLD)
        self.add("proj", c.dim, c.dim, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """Attend over the N tokens of ``x``."""
        q, k, v = (self.run(name, x).unflatten(2, (self.c.heads, -1)) for name in "qkv")
        # [T, B, heads, d, N]
        mixed = (v @ k.mT) @ q if self.c.attention == "kv" else v @ (k.mT @ q)
        s = self.attn_lif(mixed * self.c.attn_scale).flatten(2, 3)
        return self.run("proj", s)


class MLP(Layer):
    """Spiking MLP, [T, B, D, N] -> spikes [T, B, D, N]."""

    def __init__(self, c: SpikformerConfig) -> None:
        super().__init__(c)
        axes = 1 if c.input == "events" else 2
        self.add("fc1", c.dim, c.dim * c.mlp_ratio, bias=True, axes=axes)
        self.add("fc2", c.dim * c.mlp_ratio, c.dim, bias=True, axes=axes)

    def forward(self, x: Tensor) -> Tensor:
        """Two linear layers, a neuron behind each."""
        return self.run("fc2", self.run("fc1", x))


class Block(nn.Module):
    """One encoder block."""

    def __init__(self, c: SpikformerConfig) -> None:
        super().__init__()
        self.attn = SSA(c)
        self.mlp = MLP(c)

    def forward(self, x: Tensor) -> Tensor:
        """Levels [T, B, D, N] to the next ones."""
        x = x + self.attn(x)
        return x + self.mlp(x)


class Spikformer(Network):
    """The network; ``forward`` takes what ``preprocess`` returns."""

    def __init__(self, config: SpikformerConfig) -> None:
        super().__init__(config)
        self.patch_embed = SPS(config)
        self.block = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.head = self._linear()

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor]:
        """Logits; in training mode a tuple of one, as of a network with one head."""
        for pair in self.walk(x):
            x = pair[1]
        y = self.head(x.mean((0, 3)))
        return (y,) if self.training else y

    def walk(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The levels [T, B, D, N], twice, after the tokenizer and after every block."""
        x = self.patch_embed(x).flatten(3)
        yield x, x
        for block in self.block:
            x = block(x)
            yield x, x

    @torch.no_grad()
    def init_neuron_norms(self, weight: float, bias: float) -> None:
        """Set gamma and beta of every batch norm: a neuron reads each of them."""
        for module in self.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.weight.fill_(weight)
                module.bias.fill_(bias)


Config, Model = SpikformerConfig, Spikformer
