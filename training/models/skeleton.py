"""What BESTformer and its full-precision ancestor Spikingformer have in common.

    tokenizer   conv0 + bn (real) -> LIF -> 4 x (3x3 conv + bn), LIF between, a 3x3 stride-2
                max-pool on the spikes before some of them
                layout "cifar":     keys block0_conv .. block4_conv, pools before 3 and 4: / 4
                layout "imagenet":  keys proj_conv, proj1_conv .., pools before 1 to 4: / 16
    attention   s = lif(x); q, k, v = lif(bn(conv s)); z = mixed values * 0.125 (* lambda);
                out = bn(conv(lif(z))), threshold of the last neuron 0.5
                attention "qk":  mixed = binariser(q k^T) v
                attention "kv":  mixed = q binariser(k^T v)
    mlp         bn(conv(lif(bn(conv(lif x)))))

A still image [B, C, H, W] is the same at every step, so conv0 runs once; events come as
[T, B, C, H, W]. Streams are [T, B, D, H', W'].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from training.models.base import NetworkConfig, require
from training.neurons import LIF

ATTN_SCALE = 0.125
ATTN_THRESHOLD = 0.5


class Layout(NamedTuple):
    """Key names of a tokenizer and where it pools."""

    first: str
    stage: str
    pooled: tuple[int, ...]

    def key(self, i: int) -> str:
        """Prefix of stage i, 0 = the real convolution."""
        return self.stage.format(i) if i else self.first


LAYOUTS = {
    "cifar": Layout("block0", "block{}", (3, 4)),
    "imagenet": Layout("proj", "proj{}", (1, 2, 3, 4)),
}


@dataclass(frozen=True)
class SkeletonConfig(NetworkConfig):
    """Everything that fixes a network of this kind; images are square."""

    # settings that older checkpoints do not state, because there was one choice
    OPTIONAL: ClassVar[tuple[str, ...]] = ("layout", "input")

    depth: int
    dim: int
    heads: int
    n_steps: int
    image_size: int
    channels: int
    classes: int
    mlp_ratio: int = 4
    attention: str = "qk"
    tau: float = 2.0
    decay_input: bool = True
    layout: str = "cifar"
    input: str = "image"

    def __post_init__(self) -> None:
        self.check_sizes("dim")
        if self.dim % 8:
            raise ValueError(
                f"dim must be a multiple of 8 (the tokenizer starts at dim / 8), got {self.dim}"
            )
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not divisible by heads {self.heads}")
        require("attention", self.attention, ("qk", "kv"))
        require("layout", self.layout, LAYOUTS)

    @property
    def tokens_side(self) -> int:
        """Side of the token grid."""
        side = self.image_size
        for _ in LAYOUTS[self.layout].pooled:
            side = -(-side // 2)
        return side


Conv = Callable[..., nn.Module]


class PatchEmbed(nn.Module):
    """The tokenizer, [B, C, H, W] or [T, B, C, H, W] -> [T, B, D, H', W']."""

    def __init__(self, c: SkeletonConfig, conv2d: Conv) -> None:
        super().__init__()
        self.n_steps = c.n_steps
        self.layout = LAYOUTS[c.layout]
        widths = (c.dim // 8, c.dim // 4, c.dim // 2, c.dim, c.dim)
        first = self.layout.key(0)
        self.add_module(f"{first}_conv", nn.Conv2d(c.channels, widths[0], 3, padding=1, bias=False))
        self.add_module(f"{first}_bn", nn.BatchNorm2d(widths[0]))
        for i in range(1, 5):
            key = self.layout.key(i)
            conv = conv2d(widths[i - 1], widths[i], 3, padding=1)
            self.add_module(f"{key}_lif", c.neuron())
            if i in self.layout.pooled:
                self.add_module(f"{key}_mp", nn.MaxPool2d(3, stride=2, padding=1))
            self.add_module(f"{key}_conv", conv)
            self.add_module(f"{key}_bn", nn.BatchNorm2d(widths[i]))

    def _conv_bn(self, i: int, x: Tensor) -> Tensor:
        key = self.layout.key(i)
        return getattr(self, f"{key}_bn")(getattr(self, f"{key}_conv")(x))

    def forward(self, image: Tensor) -> Tensor:
        """Tokens of a still image (conv0 runs once) or of a sequence of frames."""
        if image.ndim == 5:
            x = self._conv_bn(0, image.flatten(0, 1)).unflatten(0, image.shape[:2])
        else:
            x = self._conv_bn(0, image)
            x = x.unsqueeze(0).expand(self.n_steps, *x.shape)
        for i in range(1, 5):
            s = getattr(self, f"{self.layout.key(i)}_lif")(x).flatten(0, 1)
            if i in self.layout.pooled:
                s = getattr(self, f"{self.layout.key(i)}_mp")(s)
            x = self._conv_bn(i, s).unflatten(0, (self.n_steps, -1))
        return x


class Attention(nn.Module):
    """Spiking self-attention, [T, B, D, N] -> [T, B, D, N].

    Args:
        c: the network.
        conv1d: makes the four projections.
        bias: whether the last projection has a bias.
        binariser: turns counts into bits, or None to keep them.
        lambdas: learnable factors per step (1 for the layer, or one per head), or 0.
    """

    def __init__(
        self,
        c: SkeletonConfig,
        conv1d: Conv,
        *,
        bias: bool,
        binariser: LIF | None,
        lambdas: int,
    ) -> None:
        super().__init__()
        self.heads = c.heads
        self.form = c.attention
        self.proj_lif = c.neuron()
        for name in ("q", "k", "v"):
            self.add_module(f"{name}_conv", conv1d(c.dim, c.dim, 1))
            self.add_module(f"{name}_bn", nn.BatchNorm1d(c.dim))
            self.add_module(f"{name}_lif", c.neuron())
        if binariser is not None:
            self.attn_lif0 = binariser
        self.attn_lif = c.neuron(v_threshold=ATTN_THRESHOLD)
        if lambdas:
            self.lambda_attn = nn.Parameter(torch.ones(c.n_steps, 1, lambdas, 1, 1))
        self.proj_conv = conv1d(c.dim, c.dim, 1, bias=True) if bias else conv1d(c.dim, c.dim, 1)
        self.proj_bn = nn.BatchNorm1d(c.dim)

    def _project(self, name: str, s: Tensor) -> Tensor:
        """Spikes of q, k or v per head, [T, B, heads, d, N]; channel c = head * d + j."""
        y = getattr(self, f"{name}_bn")(getattr(self, f"{name}_conv")(s.flatten(0, 1)))
        y = getattr(self, f"{name}_lif")(y.unflatten(0, s.shape[:2]))
        return y.unflatten(2, (self.heads, -1))

    def _bits(self, counts: Tensor) -> Tensor:
        return self.attn_lif0(counts) if hasattr(self, "attn_lif0") else counts

    def forward(self, x: Tensor) -> Tensor:
        """Attend over the N tokens of ``x``."""
        s = self.proj_lif(x)
        q, k, v = (self._project(name, s) for name in ("q", "k", "v"))
        if self.form == "qk":
            bits = self._bits(q.mT @ k)  # [T, B, heads, query, key]
            mixed = v @ bits.mT
        else:
            bits = self._bits(k @ v.mT)  # [T, B, heads, d of k, d of v]
            mixed = bits.mT @ q
        gain = ATTN_SCALE * self.lambda_attn if hasattr(self, "lambda_attn") else ATTN_SCALE
        s = self.attn_lif(mixed * gain)
        s = s.flatten(2, 3).flatten(0, 1).to(x.dtype)
        return self.proj_bn(self.proj_conv(s)).unflatten(0, x.shape[:2])


class MLP(nn.Module):
    """Spiking MLP, [T, B, D, H, W] -> [T, B, D, H, W]."""

    def __init__(self, c: SkeletonConfig, conv2d: Conv, *, bias: bool) -> None:
        super().__init__()
        hidden = c.dim * c.mlp_ratio
        more = {"bias": True} if bias else {}
        self.mlp1_lif = c.neuron()
        self.mlp1_conv = conv2d(c.dim, hidden, 1, **more)
        self.mlp1_bn = nn.BatchNorm2d(hidden)
        self.mlp2_lif = c.neuron()
        self.mlp2_conv = conv2d(hidden, c.dim, 1, **more)
        self.mlp2_bn = nn.BatchNorm2d(c.dim)

    def forward(self, x: Tensor) -> Tensor:
        """Two pointwise layers with a neuron before each."""
        y = self.mlp1_bn(self.mlp1_conv(self.mlp1_lif(x).flatten(0, 1)))
        y = self.mlp2_lif(y.unflatten(0, x.shape[:2])).flatten(0, 1)
        return self.mlp2_bn(self.mlp2_conv(y)).unflatten(0, x.shape[:2])


class Network(nn.Module):
    """Input handling that every family shares."""

    # ends of the names of batch norms that a residual stream reads, and no neuron directly
    STREAM_NORMS: ClassVar[tuple[str, ...]] = ("attn.proj_bn", "mlp2_bn")

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.zeros(config.channels), persistent=False)
        self.register_buffer("std", torch.ones(config.channels), persistent=False)

    def regions(self) -> Iterator[nn.Module]:
        """The parts that are compiled one by one; here the whole network is one."""
        yield self

    def _linear(self) -> nn.Linear:
        head = nn.Linear(self.config.dim, self.config.classes)
        nn.init.trunc_normal_(head.weight, std=0.02)
        nn.init.zeros_(head.bias)
        return head

    @torch.no_grad()
    def init_neuron_norms(self, weight: float, bias: float) -> None:
        """Set gamma and beta of every batch norm whose output a neuron reads directly.

        At the usual (1, 0) only one unit in seven fires at all within four steps of tau = 2, and
        training starts slowly.
        """
        for name, module in self.named_modules():
            norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
            if norm and not name.endswith(self.STREAM_NORMS):
                module.weight.fill_(weight)
                module.bias.fill_(bias)

    def extra_loss(self, teacher: nn.Module | None, attention: float) -> Tensor | float:
        """What a family adds to the loss of its last forward pass.

        Args:
            teacher: has just seen the same images, or None.
            attention: weight of the distance of attention maps.
        """
        return 0.0

    def set_normalisation(self, mean: list[float], std: list[float]) -> None:
        """Set the channel mean and deviation of images scaled to 0..1 (of counts, for events)."""
        n = self.config.channels
        if len(mean) != n or len(std) != n:
            raise ValueError(f"mean and std need {n} values, got {len(mean)} and {len(std)}")
        if min(std) <= 0:
            raise ValueError(f"std must be positive, got {std}")
        self.mean.copy_(torch.tensor(mean))
        self.std.copy_(torch.tensor(std))

    def unit(self, images) -> Tensor:
        """Uint8 images -> float tensor, channels first.

        Images [B, H, W, C] (numpy or torch) become [B, C, H, W], scaled to 0..1; events
        [B, T, H, W, C] become [T, B, C, H, W] and stay counts.
        """
        images = torch.tensor(images) if not isinstance(images, Tensor) else images
        c = self.config
        events = c.input == "events"
        rank, words = (5, "[B, T, H, W, C]") if events else (4, "[B, H, W, C]")
        if images.dtype != torch.uint8 or images.ndim != rank:
            raise ValueError(
                f"images must be uint8 {words}, got {images.dtype} {list(images.shape)}"
            )
        steps = (c.n_steps,) if events else ()
        want = (*steps, c.image_size, c.image_size, c.channels)
        if tuple(images.shape[1:]) != want:
            raise ValueError(
                f"images must be {'x'.join(map(str, want))}, got {list(images.shape[1:])}"
            )
        axes = (1, 0, 4, 2, 3) if events else (0, 3, 1, 2)
        x = images.permute(*axes).to(self.mean.device, self.mean.dtype)
        return x if events else x / 255

    def normalise(self, x: Tensor) -> Tensor:
        """Subtract the mean and divide by the deviation, per channel."""
        return (x - self.mean.view(-1, 1, 1)) / self.std.view(-1, 1, 1)

    def preprocess(self, images) -> Tensor:
        """Uint8 images -> normalised float tensor, shapes as ``unit``."""
        return self.normalise(self.unit(images))


@contextmanager
def record_spikes(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Collect the output [T, B, ...] of every neuron while the context is open.

    The keys are module names such as ``block.0.attn.q_lif``; a later forward pass replaces them.
    """
    spikes: dict[str, Tensor] = {}

    def hook(name: str):
        def keep(_module: nn.Module, _inputs: tuple, output: Tensor) -> None:
            spikes[name] = output.detach()

        return keep

    handles = [
        m.register_forward_hook(hook(n)) for n, m in model.named_modules() if isinstance(m, LIF)
    ]
    try:
        yield spikes
    finally:
        for handle in handles:
            handle.remove()
