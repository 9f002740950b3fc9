"""Spikingformer, the full-precision ancestor: baseline, and teacher of the distillation.

    block       x = x + attention(x);  x = x + mlp(x)
    attention   counts stay counts (no binariser), no lambda
    head        logits = head(mean x)

Weights are real; proj_conv, mlp1_conv and mlp2_conv have biases. Keys and shapes are those of the
published code, without its norm1 and norm2, which nothing uses.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from training.models.skeleton import MLP, Attention, Network, PatchEmbed, SkeletonConfig


def _conv2d(n_in: int, n_out: int, size: int, padding: int = 0, bias: bool = False) -> nn.Module:
    return nn.Conv2d(n_in, n_out, size, padding=padding, bias=bias)


def _conv1d(n_in: int, n_out: int, size: int, bias: bool = False) -> nn.Module:
    return nn.Conv1d(n_in, n_out, size, bias=bias)


@dataclass(frozen=True)
class SpikingformerConfig(SkeletonConfig):
    """Everything that fixes the network."""

    FAMILY: ClassVar[str] = "spikingformer"


class Block(nn.Module):
    """One encoder block."""

    def __init__(self, c: SpikingformerConfig) -> None:
        super().__init__()
        self.attn = Attention(c, _conv1d, bias=True, binariser=None, lambdas=0)
        self.mlp = MLP(c, _conv2d, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """A stream [T, B, D, H, W] to the next one."""
        x = x + self.attn(x.flatten(3)).view_as(x)
        return x + self.mlp(x)


class Spikingformer(Network):
    """The network; ``forward`` takes what ``preprocess`` returns."""

    def __init__(self, config: SpikingformerConfig) -> None:
        super().__init__(config)
        self.patch_embed = PatchEmbed(config, _conv2d)
        self.block = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.head = self._linear()

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor]:
        """Logits; in training mode a tuple of one, as of a network with one head."""
        for pair in self.walk(x):
            x = pair[1]
        y = self.head(x.mean((0, 3, 4)))
        return (y,) if self.training else y

    def walk(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The stream, twice, after the tokenizer and after every block."""
        x = self.patch_embed(x)
        yield x, x
        for block in self.block:
            x = block(x)
            yield x, x


Config, Model = SpikingformerConfig, Spikingformer
