"""What the spiking convolutional networks share: configuration, convolutions, read-out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from training.layers import BinaryConv2d, check_variant
from training.models.base import NetworkConfig, require
from training.models.sdt_v1 import apply, pooled
from training.models.skeleton import Network

__all__ = ["ConvNet", "ConvNetConfig", "Layer", "apply", "pooled"]


@dataclass(frozen=True)
class ConvNetConfig(NetworkConfig):
    """Everything that fixes a network; images are square.

    ``layers``: output channels of a convolution, or M for a 3x3 maximum of spikes, stride 2;
    "32 M 64 M 64". The first convolution is real; ``weights`` is about the others.
    """

    OPTIONAL: ClassVar[tuple[str, ...]] = ("weights", "variant", "input")

    layers: str
    n_steps: int
    image_size: int
    channels: int
    classes: int
    tau: float = 2.0
    decay_input: bool = True
    weights: str = "binary"
    variant: str = "official"
    input: str = "image"

    def __post_init__(self) -> None:
        words = self.layers.split() if isinstance(self.layers, str) else []
        if not words or not words[0].isdecimal() or not all(w == "M" or w.isdecimal()
                                                            for w in words):  # fmt: skip
            raise ValueError(
                f"layers must be numbers of channels and M, a number first; got {self.layers!r}"
            )
        self.check_sizes()
        require("weights", self.weights, ("real", "binary"))
        check_variant(self.variant)

    @property
    def words(self) -> list[str]:
        """The entries of ``layers``."""
        return self.layers.split()

    @property
    def depth(self) -> int:
        """Number of convolutions."""
        return sum(word != "M" for word in self.words)

    @property
    def dim(self) -> int:
        """Width of what the head reads."""
        return int([word for word in self.words if word != "M"][-1])

    def conv(self, n_in: int, n_out: int, size: int = 3, stride: int = 1) -> nn.Module:
        """A convolution that reads spikes."""
        window = {"stride": stride, "padding": size // 2}
        if self.weights == "binary":
            return BinaryConv2d(n_in, n_out, size, **window, variant=self.variant)
        return nn.Conv2d(n_in, n_out, size, **window, bias=False)


class Layer(nn.Module):
    """Convolution, batch norm, neuron: spikes [T, B, C, H, W] -> [T, B, C', H', W']."""

    def __init__(
        self, c: ConvNetConfig, n_in: int, n_out: int, size: int = 3, stride: int = 1
    ) -> None:
        super().__init__()
        self.conv = c.conv(n_in, n_out, size, stride)
        self.bn = nn.BatchNorm2d(n_out)
        self.lif = c.neuron()

    def forward(self, s: Tensor) -> Tensor:
        """Run all T steps."""
        return self.lif(apply(self.conv, self.bn, s))


class Encoder(nn.Module):
    """First layer, real: [B, C, H, W] or [T, B, C, H, W] -> spikes [T, B, C', H, W]."""

    def __init__(self, c: ConvNetConfig, n_out: int) -> None:
        super().__init__()
        self.n_steps = c.n_steps
        self.conv = nn.Conv2d(c.channels, n_out, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(n_out)
        self.lif = c.neuron()

    def forward(self, image: Tensor) -> Tensor:
        """A still image is the same at every step: its convolution runs once."""
        if image.ndim == 5:
            return self.lif(apply(self.conv, self.bn, image))
        x = self.bn(self.conv(image))
        return self.lif(x.unsqueeze(0).expand(self.n_steps, -1, -1, -1, -1))


class ConvNet(Network):
    """Input handling and read-out: the head on the mean of the last spikes over tokens, over T."""

    STREAM_NORMS = ("-",)  # every batch norm feeds a neuron

    def __init__(self, config: ConvNetConfig) -> None:
        super().__init__(config)
        self.recompute = False
        self.encoder = Encoder(config, int(config.words[0]))

    def spikes(self, s: Tensor) -> Tensor:
        """From the encoder's spikes to those that the head reads, [T, B, C, H, W]."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor]:
        """Logits; in training mode a tuple of one, as of a network with one head."""
        y = self.head(self.spikes(self.encoder(x)).mean((3, 4))).mean(0)
        return (y,) if self.training else y
