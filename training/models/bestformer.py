"""BESTformer, every form of it, with the state-dict keys and shapes of the published code.

    block       x2 = attention(x1) + (x0 + x1) / 2          x0 = x1 in the first block
                x3 = mlp(x2)       + (x1 + x2) / 2
                (x0, x1) <- (x2, x3)                                       residual "reversible"
                x2 = attention(x1) + x1;  x3 = mlp(x2) + x2                residual "plain"
    binariser   turns attention counts into bits ([bestformer] Table 1): a neuron with "soft"
                reset, one with "hard" reset, or "boolean", which asks count >= 1 at each step
    heads       y0 = head(mean x0), y1 = head2(mean x1), means over T and tokens; plain: both x1

Tokenizer, attention and MLP are in `skeleton.py`; their convolutions have 1-bit weights here.
Training returns (y0, y1); evaluation returns what ``readout`` says: "average", (y0 + y1) / 2;
"classification", y0; "distillation", y1. With ``two_heads=False`` only the head that is read
exists, and training returns its logits alone, as a tuple of one.

``variant="paper"`` follows the paper where the published code differs: sign(0) = +1, one lambda
per step and layer (T, 1, 1, 1, 1), evaluation by the classification head y0. Its neurons have no
input decay; that is ``decay_input=False``, a setting of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from training import reversible
from training.layers import BinaryConv1d, BinaryConv2d, check_variant
from training.models.skeleton import (
    MLP,
    Attention,
    Network,
    PatchEmbed,
    SkeletonConfig,
    record_spikes,
    require,
)

__all__ = ["BESTformer", "BESTformerConfig", "build", "from_args", "record_spikes", "to_args"]

BINARISERS = {
    "soft": {"reset": "soft"},
    "hard": {},
    "boolean": {"tau": 1.0, "decay_input": True},
}
READOUTS = ("average", "classification", "distillation")


@dataclass(frozen=True)
class BESTformerConfig(SkeletonConfig):
    """Everything that fixes the network; an empty ``readout`` is what the variant evaluates."""

    FAMILY: ClassVar[str] = "bestformer"
    OPTIONAL: ClassVar[tuple[str, ...]] = (
        "layout",
        "input",
        "binariser",
        "residual",
        "readout",
        "two_heads",
    )

    variant: str = "official"
    binariser: str = "soft"
    residual: str = "reversible"
    readout: str = ""
    two_heads: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_variant(self.variant)
        require("binariser", self.binariser, BINARISERS)
        require("residual", self.residual, ("reversible", "plain"))
        require("readout", self.reads, READOUTS)
        if not self.two_heads and self.reads == "average":
            raise ValueError(
                "two_heads = false leaves one head, so readout must be classification (head on "
                "x0) or distillation (head2 on x1)"
            )

    @property
    def reads(self) -> str:
        """What evaluation reads; a checkpoint without ``readout`` means the same to others."""
        usual = "average" if self.variant == "official" else "classification"
        return self.readout or usual


class Block(nn.Module):
    """One encoder block on the pair of residual streams."""

    def __init__(self, c: BESTformerConfig) -> None:
        super().__init__()
        conv1d = partial(BinaryConv1d, variant=c.variant)
        conv2d = partial(BinaryConv2d, variant=c.variant)
        self.attn = Attention(
            c,
            conv1d,
            bias=False,
            binariser=c.neuron(**BINARISERS[c.binariser]),
            lambdas=1 if c.variant == "paper" else c.heads,
        )
        self.mlp = MLP(c, conv2d, bias=False)

    def attend(self, x: Tensor) -> Tensor:
        """The attention branch on a stream [T, B, D, H, W]."""
        return self.attn(x.flatten(3)).view_as(x)

    def forward(self, x0: Tensor, x1: Tensor) -> tuple[Tensor, Tensor]:
        """(x0, x1) -> (x2, x3)."""
        x2 = self.attend(x1) + (x0 + x1) / 2
        return x2, self.mlp(x2) + (x1 + x2) / 2


class BESTformer(Network):
    """The network; ``forward`` takes what ``preprocess`` returns.

    ``recompute`` (reversible residuals only) makes the encoder keep its last streams alone for
    the backward pass and compute the others back from them: memory independent of depth.
    """

    def __init__(self, config: BESTformerConfig) -> None:
        super().__init__(config)
        self.recompute = False
        self.patch_embed = PatchEmbed(config, partial(BinaryConv2d, variant=config.variant))
        self.block = nn.ModuleList(Block(config) for _ in range(config.depth))
        if config.two_heads or config.reads == "classification":
            self.head = self._linear()
        if config.two_heads or config.reads == "distillation":
            self.head2 = self._linear()

    def regions(self) -> Iterator[nn.Module]:
        """The tokenizer, and blocks as ``walk`` calls them: whole, or branch by branch.

        Blocks that are alike share what is compiled.
        """
        yield self.patch_embed
        for block in self.block:
            if self.config.residual == "plain":
                yield from (block.attn, block.mlp)
            else:
                yield block

    def streams(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The pair of streams [T, B, D, H', W'] that the heads read."""
        if self.recompute and torch.is_grad_enabled():
            return reversible.encode(self.block, self.patch_embed(x))
        for pair in self.walk(x):
            x0, x1 = pair
        return x0, x1

    def walk(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The pair of streams after the tokenizer and after every block."""
        x0 = x1 = self.patch_embed(x)
        yield x0, x1
        for block in self.block:
            if self.config.residual == "plain":
                x2 = block.attend(x1) + x1
                x0 = x1 = block.mlp(x2) + x2
            else:
                x0, x1 = block(x0, x1)
            yield x0, x1

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Logits: of every head in training mode, those of the read-out in evaluation."""
        x0, x1 = self.streams(x)
        y0 = self.head(x0.mean((0, 3, 4))) if hasattr(self, "head") else None
        y1 = self.head2(x1.mean((0, 3, 4))) if hasattr(self, "head2") else None
        if self.training:
            return tuple(y for y in (y0, y1) if y is not None)
        if self.config.reads == "average":
            return (y0 + y1) / 2
        return y0 if self.config.reads == "classification" else y1


Config, Model = BESTformerConfig, BESTformer


def to_args(config: BESTformerConfig) -> dict:
    """The config under the names checkpoints use."""
    return config.to_args()


def from_args(args: dict) -> BESTformerConfig:
    """Inverse of ``to_args``; keys of ``args`` that do not describe the network are ignored."""
    return BESTformerConfig.from_args(args)


def build(checkpoint_path) -> BESTformer:
    """Load a checkpoint of this family as a module in evaluation mode."""
    from training.checkpoint import load

    ckpt = load(checkpoint_path)
    model = BESTformer(from_args(ckpt["args"]))
    model.load_state_dict(ckpt["state_dict"])
    model.set_normalisation(ckpt["args"]["mean"], ckpt["args"]["std"])
    return model.eval()
