"""BESTformer in its CIFAR layout, with the state-dict keys and shapes of the published code.

    tokenizer   conv0 + bn (real, once per image) -> LIF -> 4 x (binary 3x3 conv + bn), LIF between,
                3x3 stride-2 max-pool on the spikes before the last two: [T, B, D, H/4, W/4]
    block       x2 = attention(x1) + (x0 + x1) / 2          x0 = x1 in the first block
                x3 = mlp(x2)       + (x1 + x2) / 2
                (x0, x1) <- (x2, x3)
    attention   A = q k^T;  Ab = attn_lif0(A), soft reset;
                attn_lif(0.125 * lambda[t, head] * Ab v), threshold 0.5
    heads       y0 = head(mean x0), y1 = head2(mean x1), means over T and tokens

Training returns (y0, y1); evaluation returns (y0 + y1) / 2.

``variant="paper"`` follows the paper where the published code differs: sign(0) = +1, one lambda per
step and layer (T, 1, 1, 1, 1), evaluation by the classification head y0. Its neurons have no input
decay; that is ``decay_input=False``, a setting of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from training.layers import BinaryConv1d, BinaryConv2d, check_variant
from training.neurons import LIF

FAMILY = "bestformer"


@dataclass(frozen=True)
class BESTformerConfig:
    """Everything that fixes the network; images are square with a side that is a multiple of 4."""

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
    variant: str = "official"

    def __post_init__(self) -> None:
        for name in (
            "depth",
            "dim",
            "heads",
            "n_steps",
            "image_size",
            "channels",
            "classes",
            "mlp_ratio",
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        if self.dim % 8:
            raise ValueError(
                f"dim must be a multiple of 8 (the tokenizer starts at dim / 8), got {self.dim}"
            )
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not divisible by heads {self.heads}")
        if self.image_size % 4:
            raise ValueError(f"image_size must be a multiple of 4, got {self.image_size}")
        if self.attention != "qk":
            raise ValueError(
                f"attention form {self.attention!r} is not supported yet; only 'qk' is"
            )
        check_variant(self.variant)


class PatchEmbed(nn.Module):
    """The tokenizer, [B, C, H, W] -> [T, B, D, H/4, W/4]."""

    def __init__(self, c: BESTformerConfig) -> None:
        super().__init__()
        self.n_steps = c.n_steps
        widths = (c.dim // 8, c.dim // 4, c.dim // 2, c.dim, c.dim)
        self.block0_conv = nn.Conv2d(c.channels, widths[0], 3, padding=1, bias=False)
        self.block0_bn = nn.BatchNorm2d(widths[0])
        for i in range(1, 5):
            conv = BinaryConv2d(widths[i - 1], widths[i], 3, padding=1, variant=c.variant)
            self.add_module(f"block{i}_lif", LIF(c.tau, decay_input=c.decay_input))
            if i >= 3:
                self.add_module(f"block{i}_mp", nn.MaxPool2d(3, stride=2, padding=1))
            self.add_module(f"block{i}_conv", conv)
            self.add_module(f"block{i}_bn", nn.BatchNorm2d(widths[i]))

    def forward(self, image: Tensor) -> Tensor:
        """The image is the same at every step, so conv0 and its BN run once."""
        x = self.block0_bn(self.block0_conv(image))
        x = x.unsqueeze(0).expand(self.n_steps, *x.shape)
        for i in range(1, 5):
            s = getattr(self, f"block{i}_lif")(x).flatten(0, 1)
            if i >= 3:
                s = getattr(self, f"block{i}_mp")(s)
            s = getattr(self, f"block{i}_bn")(getattr(self, f"block{i}_conv")(s))
            x = s.unflatten(0, (self.n_steps, -1))
        return x


class Attention(nn.Module):
    """Binary spiking self-attention, [T, B, D, N] -> [T, B, D, N]."""

    def __init__(self, c: BESTformerConfig) -> None:
        super().__init__()
        self.heads = c.heads
        self.proj_lif = LIF(c.tau, decay_input=c.decay_input)
        for name in ("q", "k", "v"):
            self.add_module(f"{name}_conv", BinaryConv1d(c.dim, c.dim, 1, variant=c.variant))
            self.add_module(f"{name}_bn", nn.BatchNorm1d(c.dim))
            self.add_module(f"{name}_lif", LIF(c.tau, decay_input=c.decay_input))
        self.attn_lif0 = LIF(c.tau, reset="soft", decay_input=c.decay_input)
        self.attn_lif = LIF(c.tau, v_threshold=0.5, decay_input=c.decay_input)
        lambdas = 1 if c.variant == "paper" else c.heads
        self.lambda_attn = nn.Parameter(torch.ones(c.n_steps, 1, lambdas, 1, 1))
        self.proj_conv = BinaryConv1d(c.dim, c.dim, 1, variant=c.variant)
        self.proj_bn = nn.BatchNorm1d(c.dim)

    def _project(self, name: str, s: Tensor) -> Tensor:
        """Spikes of q, k or v per head, [T, B, heads, d, N]; channel c = head * d + j."""
        y = getattr(self, f"{name}_bn")(getattr(self, f"{name}_conv")(s.flatten(0, 1)))
        y = getattr(self, f"{name}_lif")(y.unflatten(0, s.shape[:2]))
        return y.unflatten(2, (self.heads, -1))

    def forward(self, x: Tensor) -> Tensor:
        """Attend over the N tokens of ``x``."""
        s = self.proj_lif(x)
        q, k, v = (self._project(name, s) for name in ("q", "k", "v"))
        attn = self.attn_lif0(q.mT @ k)  # [T, B, heads, query, key]
        mixed = v @ attn.mT  # [T, B, heads, d, query]
        s = self.attn_lif(mixed * (0.125 * self.lambda_attn))
        y = self.proj_bn(self.proj_conv(s.flatten(2, 3).flatten(0, 1)))
        return y.unflatten(0, x.shape[:2])


class MLP(nn.Module):
    """Binary spiking MLP, [T, B, D, H, W] -> [T, B, D, H, W]."""

    def __init__(self, c: BESTformerConfig) -> None:
        super().__init__()
        hidden = c.dim * c.mlp_ratio
        self.mlp1_lif = LIF(c.tau, decay_input=c.decay_input)
        self.mlp1_conv = BinaryConv2d(c.dim, hidden, 1, variant=c.variant)
        self.mlp1_bn = nn.BatchNorm2d(hidden)
        self.mlp2_lif = LIF(c.tau, decay_input=c.decay_input)
        self.mlp2_conv = BinaryConv2d(hidden, c.dim, 1, variant=c.variant)
        self.mlp2_bn = nn.BatchNorm2d(c.dim)

    def forward(self, x: Tensor) -> Tensor:
        """Two pointwise layers with a neuron before each."""
        y = self.mlp1_bn(self.mlp1_conv(self.mlp1_lif(x).flatten(0, 1)))
        y = self.mlp2_lif(y.unflatten(0, x.shape[:2])).flatten(0, 1)
        return self.mlp2_bn(self.mlp2_conv(y)).unflatten(0, x.shape[:2])


class Block(nn.Module):
    """One encoder block on the pair of residual streams."""

    def __init__(self, c: BESTformerConfig) -> None:
        super().__init__()
        self.attn = Attention(c)
        self.mlp = MLP(c)

    def forward(self, x0: Tensor, x1: Tensor) -> tuple[Tensor, Tensor]:
        """(x0, x1) -> (x2, x3)."""
        x2 = self.attn(x1.flatten(3)).view_as(x1) + (x0 + x1) / 2
        return x2, self.mlp(x2) + (x1 + x2) / 2


class BESTformer(nn.Module):
    """The network; ``forward`` takes normalised images [B, C, H, W]."""

    def __init__(self, config: BESTformerConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config)
        self.block = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.head = nn.Linear(config.dim, config.classes)
        self.head2 = nn.Linear(config.dim, config.classes)
        for head in (self.head, self.head2):
            nn.init.trunc_normal_(head.weight, std=0.02)
            nn.init.zeros_(head.bias)
        self.register_buffer("mean", torch.zeros(config.channels), persistent=False)
        self.register_buffer("std", torch.ones(config.channels), persistent=False)

    @torch.no_grad()
    def init_neuron_norms(self, weight: float, bias: float) -> None:
        """Set gamma and beta of every batch norm whose output a neuron reads directly.

        At the usual (1, 0) only one unit in seven fires at all within four steps of tau = 2, and
        training starts slowly.
        """
        for name, module in self.named_modules():
            if name.endswith("_bn") and not name.endswith(("proj_bn", "mlp2_bn")):
                module.weight.fill_(weight)
                module.bias.fill_(bias)

    def set_normalisation(self, mean: list[float], std: list[float]) -> None:
        """Set the channel mean and deviation of images scaled to 0..1."""
        n = self.config.channels
        if len(mean) != n or len(std) != n:
            raise ValueError(f"mean and std need {n} values, got {len(mean)} and {len(std)}")
        if min(std) <= 0:
            raise ValueError(f"std must be positive, got {std}")
        self.mean.copy_(torch.tensor(mean))
        self.std.copy_(torch.tensor(std))

    def preprocess(self, images) -> Tensor:
        """Uint8 images [B, H, W, C] (numpy or torch) -> normalised float tensor [B, C, H, W]."""
        images = torch.tensor(images) if not isinstance(images, Tensor) else images
        c = self.config
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise ValueError(
                f"images must be uint8 [B, H, W, C], got {images.dtype} {list(images.shape)}"
            )
        if tuple(images.shape[1:]) != (c.image_size, c.image_size, c.channels):
            size = f"{c.image_size}x{c.image_size}x{c.channels}"
            raise ValueError(f"images must be {size}, got {list(images.shape[1:])}")
        x = images.permute(0, 3, 1, 2).to(self.mean.device, self.mean.dtype) / 255
        return (x - self.mean.view(-1, 1, 1)) / self.std.view(-1, 1, 1)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Logits: the pair (y0, y1) in training mode, their mean (paper: y0) in evaluation."""
        x1 = self.patch_embed(x)
        x0 = x1
        for block in self.block:
            x0, x1 = block(x0, x1)
        y0 = self.head(x0.mean((0, 3, 4)))
        y1 = self.head2(x1.mean((0, 3, 4)))
        if self.training:
            return y0, y1
        return y0 if self.config.variant == "paper" else (y0 + y1) / 2


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


def to_args(config: BESTformerConfig) -> dict:
    """The config under the names checkpoints use."""
    c = asdict(config)
    names = {
        "depth": "layer",
        "heads": "num_heads",
        "n_steps": "time_step",
        "image_size": "img_size",
        "channels": "in_channels",
        "classes": "num_classes",
    }
    return {"family": FAMILY} | {names.get(k, k): v for k, v in c.items()}


def from_args(args: dict) -> BESTformerConfig:
    """Inverse of ``to_args``; keys of ``args`` that do not describe the network are ignored."""
    if args.get("family") != FAMILY:
        raise ValueError(f"this checkpoint is of family {args.get('family')!r}, not {FAMILY!r}")
    example = BESTformerConfig(1, 8, 1, 1, 4, 1, 1)
    fields = dict(zip(asdict(example), list(to_args(example))[1:], strict=True))
    missing = [key for key in fields.values() if key not in args]
    if missing:
        raise ValueError(f"checkpoint args lack {', '.join(missing)}")
    return BESTformerConfig(**{field: args[key] for field, key in fields.items()})


def build(checkpoint_path) -> BESTformer:
    """Load a checkpoint of this family as a module in evaluation mode."""
    from training.checkpoint import load

    ckpt = load(checkpoint_path)
    model = BESTformer(from_args(ckpt["args"]))
    model.load_state_dict(ckpt["state_dict"])
    model.set_normalisation(ckpt["args"]["mean"], ckpt["args"]["std"])
    return model.eval()
