"""Spikingformer, the full-precision ancestor: baseline, and teacher of the distillation.

    block       x = x + attention(x);  x = x + mlp(x)
    attention   counts stay counts (no binariser), no lambda
    head        logits = head(mean x)

Weights are real, or of `weight_bits` bits where that is not 0; proj_conv, mlp1_conv and mlp2_conv
have biases. Keys and shapes are those of the published code, without its norm1 and norm2, which
nothing uses.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import Tensor, nn

from training.layers import BITS, QuantConv1d, QuantConv2d
from training.models.skeleton import (
    MLP,
    Attention,
    Conv,
    Network,
    PatchEmbed,
    SkeletonConfig,
    require,
)


@dataclass(frozen=True)
class SpikingformerConfig(SkeletonConfig):
    """Everything that fixes the network."""

    FAMILY: ClassVar[str] = "spikingformer"
    OPTIONAL: ClassVar[tuple[str, ...]] = (*SkeletonConfig.OPTIONAL, "weight_bits")

    weight_bits: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        require("weight_bits", self.weight_bits, (0, *BITS))

    def to_args(self) -> dict:
        """The config under the names checkpoints use; real weights state no number of bits."""
        return {**super().to_args(), "weight_bits": self.weight_bits or None}

    @property
    def conv1d(self) -> Conv:
        """Maker of the 1x1 layers of attention."""
        return partial(QuantConv1d, weight_bits=self.weight_bits)

    @property
    def conv2d(self) -> Conv:
        """Maker of the other convolutions."""
        return partial(QuantConv2d, weight_bits=self.weight_bits)


class Block(nn.Module):
    """One encoder block."""

    def __init__(self, c: SpikingformerConfig) -> None:
        super().__init__()
        self.attn = Attention(c, c.conv1d, bias=True, binariser=None, lambdas=0)
        self.mlp = MLP(c, c.conv2d, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """A stream [T, B, D, H, W] to the next one."""
        x = x + self.attn(x.flatten(3)).view_as(x)
        return x + self.mlp(x)


class Spikingformer(Network):
    """The network; ``forward`` takes what ``preprocess`` returns."""

    def __init__(self, config: SpikingformerConfig) -> None:
        super().__init__(config)
        self.patch_embed = PatchEmbed(config, config.conv2d)
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
