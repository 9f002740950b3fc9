"""Spike-driven Transformer v2 (Meta-SpikeFormer): the topology that QSD-Transformer shares.

    downsample  (neuron) -> conv + bn; 7x7 stride 2, then 3x3 with strides 2, 2, 2, 1
    ConvBlock   x = x + SepConv(x);  x = x + bn(conv3x3(neuron(bn(conv3x3(neuron x)))))
    SepConv     neuron -> 1x1 + bn -> neuron -> depthwise 7x7 -> 1x1 + bn
    block       x = x + attention(x);  x = x + mlp(x)
    attention   s = neuron(x);  q, k, v = neuron(bn(RepConv s));
                bn(RepConv(neuron(q (k^T v) attn_scale)))
    RepConv     1x1 -> bn, padded by what it gives for 0 -> depthwise 3x3 -> 1x1 -> bn
    head        head(neuron(mean over the image of x)), mean over T

``widths`` are the four stage widths, the first stage has half the first of them; ``depth`` blocks
stand three quarters in stage 3 and the others in stage 4. ``neuron_kind`` is "lif", "ielif" (QSD)
or "relu": the network without spikes, a teacher for attention distillation. ``two_heads`` adds
head_kd for a distilled head; evaluation returns the mean of both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.models.base import NetworkConfig, require
from training.models.sdt_v1 import apply
from training.models.skeleton import Network

ATTN_THRESHOLD = 0.5
SEP_RATIO = 2
CONV_RATIO = 4


@dataclass(frozen=True)
class MetaConfig(NetworkConfig):
    """Everything that fixes the network; images are square."""

    FAMILY: ClassVar[str] = "sdt_v2"
    OPTIONAL: ClassVar[tuple[str, ...]] = ("input", "neuron_kind", "two_heads")

    widths: tuple[int, ...]
    depth: int
    heads: int
    n_steps: int
    image_size: int
    channels: int
    classes: int
    mlp_ratio: int = 4
    attn_scale: float = 0.125
    tau: float = 2.0
    decay_input: bool = True
    neuron_kind: str = "lif"
    two_heads: bool = False
    input: str = "image"

    def __post_init__(self) -> None:
        widths = self.widths
        good = isinstance(widths, list | tuple) and len(widths) == 4
        if not (good and all(isinstance(w, int) and w > 0 for w in widths)) or widths[0] % 2:
            raise ValueError(f"widths must be four positive integers, the first even; got {widths}")
        object.__setattr__(self, "widths", tuple(widths))
        self.check_sizes()
        for width in widths[2:]:
            if width % self.heads:
                raise ValueError(f"width {width} is not divisible by heads {self.heads}")
        require("neuron_kind", self.neuron_kind, ("lif", "ielif", "relu"))
        if not self.attn_scale > 0:
            raise ValueError(f"attn_scale must be positive, got {self.attn_scale}")

    @property
    def dim(self) -> int:
        """Width of what the head reads."""
        return self.widths[-1]

    @property
    def blocks(self) -> tuple[int, int]:
        """How many blocks stages 3 and 4 have."""
        first = 3 * self.depth // 4
        return first, self.depth - first

    # what QSD replaces

    def spike(self, attention: bool = False) -> nn.Module:
        """A neuron; ``attention``: the one behind q (k^T v)."""
        if self.neuron_kind == "relu":
            return nn.ReLU()
        return self.neuron(v_threshold=ATTN_THRESHOLD) if attention else self.neuron()

    def conv2d(self, *args, **kwargs) -> nn.Module:
        """A convolution."""
        return nn.Conv2d(*args, **kwargs)

    def conv1d(self, *args, **kwargs) -> nn.Module:
        """A convolution over tokens."""
        return nn.Conv1d(*args, **kwargs)

    def linear(self, n_in: int, n_out: int) -> nn.Module:
        """A head."""
        return nn.Linear(n_in, n_out)

    def layer_scale(self, width: int) -> nn.Parameter | None:
        """Learned factors of a residual branch [C], or none."""
        return None


class Downsample(nn.Module):
    """A neuron (but in front of the image) and a strided convolution."""

    def __init__(self, c: MetaConfig, n_in: int, n_out: int, size: int, stride: int, first: bool):
        super().__init__()
        self.encode_conv = c.conv2d(n_in, n_out, size, stride=stride, padding=size // 2)
        self.encode_bn = nn.BatchNorm2d(n_out)
        if not first:
            self.encode_lif = c.spike()

    def forward(self, x: Tensor) -> Tensor:
        """[T, B, C, H, W] -> [T, B, C', H', W']."""
        x = self.encode_lif(x) if hasattr(self, "encode_lif") else x
        return apply(self.encode_conv, self.encode_bn, x)


class SepConv(nn.Module):
    """Inverted separable convolution."""

    def __init__(self, c: MetaConfig, width: int) -> None:
        super().__init__()
        wide = SEP_RATIO * width
        self.lif1, self.lif2 = c.spike(), c.spike()
        self.pwconv1 = c.conv2d(width, wide, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(wide)
        self.dwconv = c.conv2d(wide, wide, 7, padding=3, groups=wide, bias=False)
        self.pwconv2 = c.conv2d(wide, width, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """The branch of a residual."""
        y = self.lif2(apply(self.pwconv1, self.bn1, self.lif1(x))).flatten(0, 1)
        return self.bn2(self.pwconv2(self.dwconv(y))).unflatten(0, x.shape[:2])


class ConvBlock(nn.Module):
    """A block of the first two stages."""

    def __init__(self, c: MetaConfig, width: int) -> None:
        super().__init__()
        wide = CONV_RATIO * width
        self.Conv = SepConv(c, width)
        self.lif1, self.lif2 = c.spike(), c.spike()
        self.conv1 = c.conv2d(width, wide, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(wide)
        self.conv2 = c.conv2d(wide, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """A stream to the next one."""
        x = x + self.Conv(x)
        y = self.lif2(apply(self.conv1, self.bn1, self.lif1(x)))
        return x + apply(self.conv2, self.bn2, y)


class PaddedNorm(nn.Module):
    """Batch norm, then a border of one pixel holding what it gives for 0 (running statistics)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H + 2, W + 2]."""
        bn = self.bn
        border = bn.bias - bn.running_mean * bn.weight / (bn.running_var + bn.eps).sqrt()
        y = bn(x)
        border = border.detach().to(y.dtype).view(1, -1, 1, 1)
        return F.pad(y - border, (1, 1, 1, 1)) + border


class RepConv(nn.Module):
    """Pointwise, depthwise 3x3, pointwise, without a neuron between them."""

    def __init__(self, c: MetaConfig, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            c.conv2d(width, width, 1, bias=False),
            PaddedNorm(width),
            nn.Sequential(
                c.conv2d(width, width, 3, groups=width, bias=False),
                c.conv2d(width, width, 1, bias=False),
                nn.BatchNorm2d(width),
            ),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same."""
        return self.body(x)


class Attention(nn.Module):
    """Linear spiking self-attention, [T, B, C, H, W] -> the same.

    ``maps`` holds q k^T [T, B, heads, N, N] of the last call where ``keep_maps`` is set.
    """

    def __init__(self, c: MetaConfig, width: int) -> None:
        super().__init__()
        self.heads, self.scale = c.heads, c.attn_scale
        self.keep_maps = False
        self.maps: Tensor | None = None
        self.head_lif = c.spike()
        for name in ("q", "k", "v", "proj"):
            layer = nn.Sequential(RepConv(c, width), nn.BatchNorm2d(width))
            self.add_module(f"{name}_conv", layer)
        for name in ("q", "k", "v"):
            self.add_module(f"{name}_lif", c.spike())
        self.attn_lif = c.spike(attention=True)

    def _project(self, name: str, s: Tensor) -> Tensor:
        y = getattr(self, f"{name}_conv")(s.flatten(0, 1)).unflatten(0, s.shape[:2])
        y = getattr(self, f"{name}_lif")(y)
        return y.flatten(3).unflatten(2, (self.heads, -1)).mT  # [T, B, heads, N, d]

    def forward(self, x: Tensor) -> Tensor:
        """The branch of a residual."""
        s = self.head_lif(x)
        q, k, v = (self._project(n, s) for n in "qkv")
        self.maps = q @ k.mT if self.keep_maps else None
        y = self.attn_lif((q @ (k.mT @ v)).mT * self.scale)
        y = y.flatten(2, 3).unflatten(3, x.shape[3:]).to(x.dtype)
        return self.proj_conv(y.flatten(0, 1)).unflatten(0, x.shape[:2])


class MLP(nn.Module):
    """Two layers over tokens with a neuron before each."""

    def __init__(self, c: MetaConfig, width: int) -> None:
        super().__init__()
        hidden = width * c.mlp_ratio
        self.fc1_lif, self.fc2_lif = c.spike(), c.spike()
        self.fc1_conv = c.conv1d(width, hidden, 1)
        self.fc1_bn = nn.BatchNorm1d(hidden)
        self.fc2_conv = c.conv1d(hidden, width, 1)
        self.fc2_bn = nn.BatchNorm1d(width)

    def forward(self, x: Tensor) -> Tensor:
        """[T, B, C, H, W] -> the same."""
        y = apply(self.fc1_conv, self.fc1_bn, self.fc1_lif(x.flatten(3)))
        return apply(self.fc2_conv, self.fc2_bn, self.fc2_lif(y)).view_as(x)


class Block(nn.Module):
    """A transformer block."""

    def __init__(self, c: MetaConfig, width: int) -> None:
        super().__init__()
        self.attn = Attention(c, width)
        self.mlp = MLP(c, width)
        for name in ("layer_scale1", "layer_scale2"):
            scale = c.layer_scale(width)
            if scale is not None:
                setattr(self, name, scale)

    def _scaled(self, name: str, y: Tensor) -> Tensor:
        scale = getattr(self, name, None)
        return y if scale is None else y * scale.view(-1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """A stream to the next one."""
        x = x + self._scaled("layer_scale1", self.attn(x))
        return x + self._scaled("layer_scale2", self.mlp(x))


class MetaSpikeformer(Network):
    """The network; ``forward`` takes what ``preprocess`` returns."""

    STREAM_NORMS = ("bn2", "proj_conv.1", "fc2_bn", "body.1.bn", "body.2.2")

    def __init__(self, config: MetaConfig) -> None:
        super().__init__(config)
        c, (c0, c1, c2, c3) = config, config.widths
        self.recompute = False
        self.downsample1_1 = Downsample(c, c.channels, c0 // 2, 7, 2, first=True)
        self.ConvBlock1_1 = nn.ModuleList([ConvBlock(c, c0 // 2)])
        self.downsample1_2 = Downsample(c, c0 // 2, c0, 3, 2, first=False)
        self.ConvBlock1_2 = nn.ModuleList([ConvBlock(c, c0)])
        self.downsample2 = Downsample(c, c0, c1, 3, 2, first=False)
        self.ConvBlock2_1 = nn.ModuleList([ConvBlock(c, c1)])
        self.ConvBlock2_2 = nn.ModuleList([ConvBlock(c, c1)])
        self.downsample3 = Downsample(c, c1, c2, 3, 2, first=False)
        self.block3 = nn.ModuleList(Block(c, c2) for _ in range(c.blocks[0]))
        self.downsample4 = Downsample(c, c2, c3, 3, 1, first=False)
        self.block4 = nn.ModuleList(Block(c, c3) for _ in range(c.blocks[1]))
        self.lif = c.spike()
        self.head = self._head()
        if c.two_heads:
            self.head_kd = self._head()

    def _head(self) -> nn.Module:
        head = self.config.linear(self.config.dim, self.config.classes)
        nn.init.trunc_normal_(head.weight, std=0.02)
        nn.init.zeros_(head.bias)
        return head

    def attentions(self) -> list[Attention]:
        """The attention layers, in order."""
        return [m for m in self.modules() if isinstance(m, Attention)]

    def features(self, x: Tensor) -> Tensor:
        """The last stream [T, B, C3, H', W']."""
        if x.ndim == 4:
            x = x.unsqueeze(0)  # the same at every step: the first layer runs once
        x = self.downsample1_1(x)
        if len(x) == 1:
            x = x.expand(self.config.n_steps, *x.shape[1:])
        stages = (
            self.ConvBlock1_1, self.downsample1_2, self.ConvBlock1_2, self.downsample2,
            self.ConvBlock2_1, self.ConvBlock2_2, self.downsample3, self.block3,
            self.downsample4, self.block4,
        )  # fmt: skip
        for stage in stages:
            for layer in stage if isinstance(stage, nn.ModuleList) else [stage]:
                x = layer(x)
        return x

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Logits: of every head in training mode, their mean in evaluation."""
        x = self.features(x)
        s = self.lif(x.mean((3, 4))).to(x.dtype)
        heads = [self.head] + ([self.head_kd] if self.config.two_heads else [])
        ys = tuple(head(s).mean(0) for head in heads)
        return ys if self.training else torch.stack(ys).mean(0)


Config, Model = MetaConfig, MetaSpikeformer
