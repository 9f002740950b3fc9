"""The layers of a BESTformer checkpoint, from the names and shapes of its tensors alone.

    conv0                  real
    conv1 .. conv4         binary, 3x3; the CIFAR layout halves the map before 3 and 4, the ImageNet
                           layout before each
    block                  q, k, v, two attention products, proj, mlp1, mlp2, all 1x1
    head, head2            real

Weights and parameters need nothing else. MACs need the size of the image and the attention form,
which no shape says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from bestdeploy.report.layers import (
    Kind,
    Layer,
    Shape,
    conv_layer,
    linear_layer,
    pixel_layer,
    plain_layer,
    product_layer,
)
from bestdeploy.report.totals import Parameters

__all__ = ["Skeleton", "layers_of_skeleton", "skeleton_of", "trained_parameters"]

REAL_BITS = 32
N_STAGES = 4
_LAYOUTS: tuple[
    tuple[str, str, str, tuple[int, ...]], ...
] = (  # name, first layer, stage i, stages whose input is pooled
    ("cifar", "patch_embed.block0", "patch_embed.block{}", (3, 4)),
    ("imagenet", "patch_embed.proj", "patch_embed.proj{}", (1, 2, 3, 4)),
)
_UNTRAINED = ("running_mean", "running_var", "num_batches_tracked", "init_state")

Shapes = Mapping[str, Shape]


@dataclass(frozen=True)
class Skeleton:
    """What the shapes of a BESTformer say.

    Attributes:
        layout: "cifar" or "imagenet" (event-camera models use the latter).
        widths: output channels of conv0 .. conv4.
        channels: of the input; 2 for event cameras.
        depth: number of blocks.
        hidden: channels inside the MLP of each block.
        n_steps: T.
        heads: attention heads; None where lambda has no axis for them.
        classes: K.
        head_names: classifiers that are there.
    """

    layout: str
    widths: tuple[int, ...]
    channels: int
    depth: int
    hidden: tuple[int, ...]
    n_steps: int
    heads: int | None
    classes: int
    head_names: tuple[str, ...]

    @property
    def dim(self) -> int:
        """Width D of the blocks."""
        return self.widths[-1]


def skeleton_of(shapes: Shapes) -> Skeleton | None:
    """Read the shapes of a BESTformer; None where tensors are missing or of other ranks."""
    try:
        return _skeleton(shapes)
    except (KeyError, ValueError, StopIteration):
        return None


def _skeleton(shapes: Shapes) -> Skeleton:
    layout, first, stage, _ = next(x for x in _LAYOUTS if f"{x[1]}_conv.weight" in shapes)
    keys = [first, *(stage.format(i) for i in range(1, N_STAGES + 1))]
    convs = [shapes[f"{key}_conv.weight"] for key in keys]
    depth = sum(f"block.{i}.attn.lambda_attn" in shapes for i in range(len(shapes)))
    scale = shapes["block.0.attn.lambda_attn"]
    names = tuple(n for n in ("head", "head2") if f"{n}.weight" in shapes)
    if any(len(shape) != 4 for shape in convs):
        raise ValueError("a convolution of the tokenizer has not 4 axes")
    classes, _ = shapes[f"{next(iter(names))}.weight"]
    return Skeleton(
        layout=layout,
        widths=tuple(s[0] for s in convs),
        channels=convs[0][1],
        depth=depth,
        hidden=tuple(shapes[f"block.{i}.mlp.mlp1_conv.weight"][0] for i in range(depth)),
        n_steps=scale[0] if scale else 1,
        heads=scale[2] if len(scale) == 5 and scale[2] > 1 else None,
        classes=classes,
        head_names=names,
    )


def layers_of_skeleton(
    net: Skeleton, size: tuple[int, int], attention: str, heads: int
) -> list[Layer]:
    """Return the table of layers.

    Args:
        net: see `skeleton_of`.
        size: height and width of the input.
        attention: "qk" or "kv".
        heads: number of attention heads, which divides D.
    """
    return _Walk(net, size, attention, heads).rows()


class _Walk:
    """Follows the spikes through the network; `self.shape` is the map [H, W, C] at hand."""

    def __init__(self, net: Skeleton, size: tuple[int, int], attention: str, heads: int) -> None:
        self.net, self.attention, self.heads = net, attention, heads
        _, self.first, self.stage, self.pooled = next(x for x in _LAYOUTS if x[0] == net.layout)
        self.shape: Shape = (*size, net.channels)
        self.found: list[Layer] = []

    def rows(self) -> list[Layer]:
        self.tokenizer()
        for i in range(self.net.depth):
            self.attend(f"block.{i}.attn")
            self.mlp(f"block.{i}.mlp", self.net.hidden[i])
        for name in self.net.head_names:
            self.found.append(
                linear_layer(name, "Linear", self.net.dim, self.net.classes, weight_bits=REAL_BITS)
            )
        return self.found

    def conv(self, name: str, width: int, kernel: int, reads: str, writes: str | None) -> str:
        out = (*self.shape[:2], width)
        weight = (width, kernel, kernel, self.shape[2])
        self.found.append(
            conv_layer(
                name,
                "Conv",
                self.shape,
                out,
                weight,
                n_steps=self.net.n_steps,
                reads=reads,
                writes=writes,
            )
        )
        self.shape = out
        return writes or ""

    def neuron(self, name: str) -> str:
        self.found.append(
            plain_layer(
                name,
                "LIF",
                "neuron",
                self.shape,
                self.shape,
                n_steps=self.net.n_steps,
                writes=name,
            )
        )
        return name

    def pool(self, name: str, spikes: str) -> str:
        source = self.shape
        self.shape = (-(-source[0] // 2), -(-source[1] // 2), source[2])
        self.found.append(
            plain_layer(
                name,
                "MaxPool",
                "pool",
                source,
                self.shape,
                n_steps=self.net.n_steps,
                reads=(spikes,),
                writes=name,
            )
        )
        return name

    def tokenizer(self) -> None:
        net = self.net
        lif = [f"{self.stage.format(i)}_lif" for i in range(1, N_STAGES + 1)]
        out = (*self.shape[:2], net.widths[0])
        self.found.append(
            pixel_layer(
                f"{self.first}_conv",
                "Conv",
                self.shape,
                out,
                (net.widths[0], 3, 3, net.channels),
                n_steps=net.n_steps if net.channels == 2 else 1,
                weight_bits=REAL_BITS,
                writes=lif[0],
            )
        )
        self.shape = out
        for i in range(1, N_STAGES + 1):
            key, spikes = self.stage.format(i), lif[i - 1]
            if i in self.pooled:
                spikes = self.pool(f"{key}_mp", spikes)
            self.conv(f"{key}_conv", net.widths[i], 3, spikes, lif[i] if i < N_STAGES else None)

    def attend(self, p: str) -> None:
        dim = self.net.dim
        spikes = self.neuron(f"{p}.proj_lif")
        q, k, v = (self.conv(f"{p}.{n}_conv", dim, 1, spikes, f"{p}.{n}_lif") for n in "qkv")
        bits = f"{p}.attn_lif0"
        if self.attention == "qk":
            self.product(f"{p}.scores", "q k^T", (q, k), bits)
            self.product(f"{p}.values", "a v", (bits, v), f"{p}.attn_lif")
        else:
            self.product(f"{p}.key_values", "k^T v", (k, v), bits)
            self.product(f"{p}.query_values", "q a", (q, bits), f"{p}.attn_lif")
        self.conv(f"{p}.proj_conv", dim, 1, f"{p}.attn_lif", None)

    def product(self, name: str, kind: Kind, reads: tuple[str, str], writes: str) -> None:
        self.found.append(
            product_layer(
                name,
                "MatMul",
                kind,
                self.shape,
                self.heads,
                n_steps=self.net.n_steps,
                reads=reads,
                writes=writes,
            )
        )

    def mlp(self, p: str, hidden: int) -> None:
        spikes = self.neuron(f"{p}.mlp1_lif")
        inner = self.conv(f"{p}.mlp1_conv", hidden, 1, spikes, f"{p}.mlp2_lif")
        self.conv(f"{p}.mlp2_conv", self.net.dim, 1, inner, None)


def trained_parameters(shapes: Shapes) -> Parameters:
    """Return the trained numbers of a state dict by kind, from names and shapes.

    Convolutions count as binary where the network is a BESTformer, that is where `lambda_attn` is;
    of any other network they count as `other`.
    """
    is_binary = "block.0.attn.lambda_attn" in shapes
    first = {f"{x[1]}_conv.weight" for x in _LAYOUTS}
    counts = dict.fromkeys(("binary", "conv0", "norm", "heads", "scales", "other"), 0)
    for name, shape in shapes.items():
        part = name.rpartition(".")[2]
        if part in _UNTRAINED or ".act." in name:  # what a quantiser of activations leaves behind
            continue
        layer = name.removesuffix(f".{part}")
        kind = "other"
        if layer.split(".")[0] in ("head", "head2"):
            kind = "heads"
        elif f"{layer}.running_var" in shapes:
            kind = "norm"
        elif part == "lambda_attn":
            kind = "scales"
        elif is_binary and layer.endswith("_conv") and part == "weight":
            kind = "conv0" if name in first else "binary"
        counts[kind] += math.prod(shape)
    return Parameters(**counts)
