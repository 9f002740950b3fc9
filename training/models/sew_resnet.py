"""SEW-ResNet: residual blocks that combine spikes with spikes ([sew]).

    block       y = layer(layer(s)), a layer is convolution, batch norm, neuron
                s = connect(y, shortcut(s)); the shortcut is s, or a 1x1 layer where widths or sizes
                change
    connect     "add": y + s, whole numbers; "and": y s; "iand": (1 - y) s, spikes both
    head        logits = head(mean over T and tokens of the last s)

"M" in ``layers``, in front of a stage, is by ``downsample``

    pool        a 3x3 maximum of s, stride 2
    stride      a stride of 2 of the next block's first layer and shortcut, as in the original,
                where blocks add
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from training.models.base import require
from training.models.convnets import ConvNet, ConvNetConfig, Layer, pooled

CONNECT = {
    "add": lambda y, s: y + s,
    "and": lambda y, s: y * s,
    "iand": lambda y, s: (1 - y) * s,
}


@dataclass(frozen=True)
class SEWResNetConfig(ConvNetConfig):
    """Everything that fixes the network; numbers in ``layers`` after the first are blocks."""

    FAMILY: ClassVar[str] = "sew_resnet"
    OPTIONAL: ClassVar[tuple[str, ...]] = (*ConvNetConfig.OPTIONAL, "downsample")

    connect: str = "iand"
    downsample: str = "pool"

    def __post_init__(self) -> None:
        super().__post_init__()
        require("connect", self.connect, CONNECT)
        require("downsample", self.downsample, ("pool", "stride"))
        if self.downsample == "stride" and self.words[-1] == "M":
            raise ValueError(f"layers end with M, and no block has its stride: {self.layers!r}")


class Block(nn.Module):
    """A residual block: spikes or whole numbers [T, B, C, H, W] -> [T, B, C', H', W']."""

    def __init__(self, c: SEWResNetConfig, n_in: int, n_out: int, stride: int = 1) -> None:
        super().__init__()
        self.connect = CONNECT[c.connect]
        self.layer1 = Layer(c, n_in, n_out, stride=stride)
        self.layer2 = Layer(c, n_out, n_out)
        if n_in != n_out or stride != 1:
            self.shortcut = Layer(c, n_in, n_out, size=1, stride=stride)

    def forward(self, s: Tensor) -> Tensor:
        """Spikes (or whole numbers) to the next ones."""
        short = self.shortcut(s) if hasattr(self, "shortcut") else s
        return self.connect(self.layer2(self.layer1(s)), short)


class SEWResNet(ConvNet):
    """The network; ``forward`` takes what ``preprocess`` returns."""

    def __init__(self, config: SEWResNetConfig) -> None:
        super().__init__(config)
        width, stride, blocks = int(config.words[0]), 1, []
        for word in config.words[1:]:
            if word == "M":
                stride *= 2 if config.downsample == "stride" else 1
                continue
            blocks.append(Block(config, width, int(word), stride))
            width, stride = int(word), 1
        self.blocks = nn.ModuleList(blocks)
        self.head = self._linear()

    def spikes(self, s: Tensor) -> Tensor:
        """From the encoder's spikes to what the head reads, [T, B, C, H, W]."""
        blocks = iter(self.blocks)
        for word in self.config.words[1:]:
            if word != "M":
                s = next(blocks)(s)
            elif self.config.downsample == "pool":
                s = pooled(s)
        return s


Config, Model = SEWResNetConfig, SEWResNet
