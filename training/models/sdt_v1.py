"""Spike-driven Transformer v1, with the state-dict keys and shapes of the published code.

    tokenizer   conv0 + bn (real) -> lif (pool) -> conv1 + bn -> lif (pool) -> conv2 + bn -> lif
                (pool) -> conv3 + bn (pool, of real values) = u;  x = u + bn(conv(lif u))
                ``pooling_stat`` has a digit per stage: "0011" divides the side by 4, "1111" by 16
    block       x = x + attention(x);  x = x + mlp(x)
    attention   s = lif(x);  q, k, v = lif(bn(conv s));  g = lif(sum over tokens of k v), threshold
                0.5;  bn(conv(q g)).  On counts 0, 1, .. that neuron asks count >= 1 at each step.
    mlp         bn(conv(lif(bn(conv(lif x)))))
    head        head(lif(mean over tokens of x)), mean over T             readout "mean_neuron"
                head(mean over tokens and T of lif(x))                    readout "neuron_mean"

``dvs_mode`` widens spikes as the published code does for event cameras: 3x3 maxima over the image
of k and v, and over (token, channel) of k v and of q g.
``weights``: "real", or "binary" for 1-bit weights everywhere but in the first convolution and the
head; binary convolutions have no bias, their batch norm has one.
``talking_heads.weight`` is in the published files and used by nothing; it is kept as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from training.layers import BinaryConv2d, check_variant
from training.models.base import NetworkConfig, require
from training.models.skeleton import Network

GATE_THRESHOLD = 0.5


@dataclass(frozen=True)
class SDTConfig(NetworkConfig):
    """Everything that fixes the network; images are square."""

    FAMILY: ClassVar[str] = "sdt_v1"
    OPTIONAL: ClassVar[tuple[str, ...]] = ("weights", "variant", "readout", "dvs_mode", "input")

    depth: int
    dim: int
    heads: int
    n_steps: int
    image_size: int
    channels: int
    classes: int
    mlp_ratio: int = 4
    tau: float = 2.0
    decay_input: bool = True
    pooling_stat: str = "0011"
    dvs_mode: bool = False
    readout: str = "mean_neuron"
    weights: str = "real"
    variant: str = "official"
    input: str = "image"

    def __post_init__(self) -> None:
        self.check_sizes("dim")
        if self.dim % 8 or self.dim % self.heads:
            raise ValueError(
                f"dim must be a multiple of 8 and of heads {self.heads}, got {self.dim}"
            )
        stat = self.pooling_stat
        if not (isinstance(stat, str) and len(stat) == 4 and set(stat) <= {"0", "1"}):
            raise ValueError(f"pooling_stat must be four digits 0 or 1, got {stat!r}")
        require("readout", self.readout, ("mean_neuron", "neuron_mean"))
        require("weights", self.weights, ("real", "binary"))
        check_variant(self.variant)

    def conv(self, n_in: int, n_out: int, size: int = 1, bias: bool = False) -> nn.Module:
        """A convolution that reads spikes."""
        if self.weights == "binary":
            return BinaryConv2d(n_in, n_out, size, padding=size // 2, variant=self.variant)
        return nn.Conv2d(n_in, n_out, size, padding=size // 2, bias=bias)


def apply(layer: nn.Module, norm: nn.Module, x: Tensor) -> Tensor:
    """A convolution and its batch norm on every step of ``x`` [T, B, ...]."""
    return norm(layer(x.flatten(0, 1))).unflatten(0, x.shape[:2])


def pooled(x: Tensor) -> Tensor:
    """Maximum over windows of 3x3, stride 2, of ``x`` [T, B, C, H, W]."""
    return F.max_pool2d(x.flatten(0, 1), 3, 2, 1).unflatten(0, x.shape[:2])


def widened(x: Tensor) -> Tensor:
    """Maximum over 3x3 windows, stride 1, of the last two axes of ``x``."""
    return F.max_pool2d(x.flatten(0, -4), 3, 1, 1).unflatten(0, x.shape[:-3])


class PatchEmbed(nn.Module):
    """The tokenizer, [B, C, H, W] or [T, B, C, H, W] -> [T, B, D, H', W']."""

    def __init__(self, c: SDTConfig) -> None:
        super().__init__()
        self.c = c
        widths = (c.dim // 8, c.dim // 4, c.dim // 2, c.dim)
        self.proj_conv = nn.Conv2d(c.channels, widths[0], 3, padding=1, bias=False)
        self.proj_bn = nn.BatchNorm2d(widths[0])
        self.proj_lif = c.neuron()
        for i in (1, 2, 3):
            self.add_module(f"proj_conv{i}", c.conv(widths[i - 1], widths[i], 3))
            self.add_module(f"proj_bn{i}", nn.BatchNorm2d(widths[i]))
            self.add_module(f"proj_lif{i}", c.neuron())
        self.rpe_conv = c.conv(c.dim, c.dim, 3)
        self.rpe_bn = nn.BatchNorm2d(c.dim)

    def _pool(self, stage: int, x: Tensor) -> Tensor:
        return pooled(x) if self.c.pooling_stat[stage] == "1" else x

    def forward(self, image: Tensor) -> Tensor:
        """Tokens of a still image (conv0 runs once) or of a sequence of frames."""
        if image.ndim == 5:
            x = apply(self.proj_conv, self.proj_bn, image)
        else:
            x = self.proj_bn(self.proj_conv(image))
            x = x.unsqueeze(0).expand(self.c.n_steps, *x.shape)
        s = self._pool(0, self.proj_lif(x))
        s = self._pool(1, self.proj_lif1(apply(self.proj_conv1, self.proj_bn1, s)))
        s = self._pool(2, self.proj_lif2(apply(self.proj_conv2, self.proj_bn2, s)))
        u = self._pool(3, apply(self.proj_conv3, self.proj_bn3, s))
        return u + apply(self.rpe_conv, self.rpe_bn, self.proj_lif3(u))


class Attention(nn.Module):
    """Spike-driven self-attention, [T, B, D, H, W] -> [T, B, D, H, W]."""

    def __init__(self, c: SDTConfig) -> None:
        super().__init__()
        self.heads, self.dvs_mode = c.heads, c.dvs_mode
        self.shortcut_lif = c.neuron()
        for name in ("q", "k", "v"):
            self.add_module(f"{name}_conv", c.conv(c.dim, c.dim))
            self.add_module(f"{name}_bn", nn.BatchNorm2d(c.dim))
        self.add_neurons(c)
        self.proj_conv = c.conv(c.dim, c.dim, bias=True)
        self.proj_bn = nn.BatchNorm2d(c.dim)

    def add_neurons(self, c: SDTConfig) -> None:
        """Neurons of q, k, v and of their product."""
        for name in ("q", "k", "v"):
            self.add_module(f"{name}_lif", c.neuron())
        self.talking_heads = nn.Conv1d(c.heads, c.heads, 1, bias=False).requires_grad_(False)
        self.talking_heads_lif = c.neuron(v_threshold=GATE_THRESHOLD)

    def project(self, name: str, s: Tensor) -> Tensor:
        """What the neuron of q, k or v reads, [T, B, D, H, W]."""
        return apply(getattr(self, f"{name}_conv"), getattr(self, f"{name}_bn"), s)

    def split(self, x: Tensor) -> Tensor:
        """[T, B, D, H, W] -> [T, B, heads, N, d]; channel = head * d + j."""
        return x.flatten(3).unflatten(2, (self.heads, -1)).mT

    def mix(self, s: Tensor) -> Tensor:
        """The attention core on spikes, [T, B, D, H, W] -> [T, B, heads, N, d]."""
        q, k, v = (getattr(self, f"{n}_lif")(self.project(n, s)) for n in "qkv")
        if self.dvs_mode:
            k, v = widened(k), widened(v)
        q, k, v = (self.split(x) for x in (q, k, v))
        kv = widened(k * v) if self.dvs_mode else k * v
        g = self.talking_heads_lif(kv.sum(-2, keepdim=True))
        return widened(q * g) if self.dvs_mode else q * g

    def forward(self, x: Tensor) -> Tensor:
        """Attend over the tokens of ``x``."""
        y = self.mix(self.shortcut_lif(x)).mT.flatten(2, 3).unflatten(3, x.shape[3:])
        return apply(self.proj_conv, self.proj_bn, y.to(x.dtype))


class MLP(nn.Module):
    """Two pointwise layers with a neuron before each, [T, B, D, H, W] -> the same."""

    def __init__(self, c: SDTConfig) -> None:
        super().__init__()
        hidden = c.dim * c.mlp_ratio
        self.fc1_lif = c.neuron()
        self.fc1_conv = c.conv(c.dim, hidden, bias=True)
        self.fc1_bn = nn.BatchNorm2d(hidden)
        self.fc2_lif = c.neuron()
        self.fc2_conv = c.conv(hidden, c.dim, bias=True)
        self.fc2_bn = nn.BatchNorm2d(c.dim)

    def forward(self, x: Tensor) -> Tensor:
        """The branch of a residual."""
        y = apply(self.fc1_conv, self.fc1_bn, self.fc1_lif(x))
        return apply(self.fc2_conv, self.fc2_bn, self.fc2_lif(y))


class Block(nn.Module):
    """One encoder block."""

    def __init__(self, c: SDTConfig, attention: type[Attention]) -> None:
        super().__init__()
        self.attn = attention(c)
        self.mlp = MLP(c)

    def forward(self, x: Tensor) -> Tensor:
        """A stream [T, B, D, H, W] to the next one."""
        x = x + self.attn(x)
        return x + self.mlp(x)


class SDT(Network):
    """The network; ``forward`` takes what ``preprocess`` returns."""

    STREAM_NORMS = ("rpe_bn", "attn.proj_bn", "fc2_bn")
    ATTENTION: ClassVar[type[Attention]] = Attention

    def __init__(self, config: SDTConfig) -> None:
        super().__init__(config)
        self.recompute = False
        self.patch_embed = PatchEmbed(config)
        self.block = nn.ModuleList(Block(config, self.ATTENTION) for _ in range(config.depth))
        self.head_lif = config.neuron()
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.head = self._linear()

    def walk(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The stream, twice, after the tokenizer and after every block."""
        x = self.patch_embed(x)
        yield x, x
        for block in self.block:
            x = block(x)
            yield x, x

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor]:
        """Logits; in training mode a tuple of one, as of a network with one head."""
        for pair in self.walk(x):
            x = pair[1]
        if self.config.readout == "mean_neuron":
            s = self.head_lif(x.mean((3, 4)))
        else:
            s = self.head_lif(x).mean((3, 4))
        y = self.head(s.to(x.dtype)).mean(0)
        return (y,) if self.training else y


Config, Model = SDTConfig, SDT
