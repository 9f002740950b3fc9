"""A residual convolutional network without spikes: the teacher that trains in a minute on a GPU.

    stem      3x3 convolution to dim channels, batch norm, ReLU
    stage i   depth blocks of dim * 2^i channels, i = 0..3; stages 1 to 3 begin with stride 2
    block     y = relu(x' + bn(conv3x3(relu(bn(conv3x3 x)))))     x' = bn(conv1x1 x) where x changes
              its size, x elsewhere
    head      logits = linear(mean over the image)

depth 2 and dim 64 is the eighteen-layer residual network of [resnet] with the stem that small
images need. It has no heads and no time: ``heads`` and ``n_steps`` are 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from training.models.skeleton import Network, SkeletonConfig

STAGES = 4


@dataclass(frozen=True)
class ConvNetConfig(SkeletonConfig):
    """``depth`` blocks a stage, ``dim`` channels in the first stage."""

    FAMILY: ClassVar[str] = "convnet"

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.heads, self.n_steps) != (1, 1):
            raise ValueError(
                f"a convnet has heads = 1 and n_steps = 1, got {self.heads} and {self.n_steps}"
            )
        if self.input != "image":
            raise ValueError(f"a convnet takes images, not {self.input}")


def _conv_bn(n_in: int, n_out: int, size: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(n_in, n_out, size, stride=stride, padding=size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(n_out))


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut, [B, C, H, W] -> [B, C', H', W']."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.first = _conv_bn(n_in, n_out, 3, stride)
        self.second = _conv_bn(n_out, n_out, 3)
        same = n_in == n_out and stride == 1
        self.shortcut = nn.Identity() if same else _conv_bn(n_in, n_out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        return F.relu(self.shortcut(x) + self.second(F.relu(self.first(x))))


class ConvNet(Network):
    """The network; ``forward`` takes what ``preprocess`` returns."""

    def __init__(self, config: ConvNetConfig) -> None:
        super().__init__(config)
        widths = [config.dim << i for i in range(STAGES)]
        self.stem = _conv_bn(config.channels, widths[0], 3)
        blocks: list[nn.Module] = []
        for i, width in enumerate(widths):
            before = widths[max(i - 1, 0)]
            blocks.append(Block(before, width, 2 if i else 1))
            blocks += [Block(width, width, 1) for _ in range(config.depth - 1)]
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(widths[-1], config.classes)

    def regions(self) -> Iterator[nn.Module]:
        """All blocks at once."""
        yield self.blocks

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor]:
        """Logits; in training mode a tuple of one, as of a network with one head."""
        y = self.head(self.blocks(F.relu(self.stem(x))).mean((2, 3)))
        return (y,) if self.training else y


Config, Model = ConvNetConfig, ConvNet
