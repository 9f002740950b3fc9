"""A spiking VGG: convolutions with a batch norm and a neuron each, maxima of spikes between.

logits = head(mean over T and tokens of the last spikes)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from training.models.convnets import ConvNet, ConvNetConfig, Layer, pooled


@dataclass(frozen=True)
class SpikingVGGConfig(ConvNetConfig):
    """Everything that fixes the network."""

    FAMILY: ClassVar[str] = "spiking_vgg"


class SpikingVGG(ConvNet):
    """The network; ``forward`` takes what ``preprocess`` returns."""

    def __init__(self, config: SpikingVGGConfig) -> None:
        super().__init__(config)
        width, layers = int(config.words[0]), []
        for word in config.words[1:]:
            if word == "M":
                continue
            layers.append(Layer(config, width, int(word)))
            width = int(word)
        self.features = nn.ModuleList(layers)
        self.head = self._linear()

    def spikes(self, s: Tensor) -> Tensor:
        """From the encoder's spikes to those that the head reads, [T, B, C, H, W]."""
        layers = iter(self.features)
        for word in self.config.words[1:]:
            s = pooled(s) if word == "M" else next(layers)(s)
        return s


Config, Model = SpikingVGGConfig, SpikingVGG
