"""Spikformer (published code of 2023), and networks of its kind with quantised weights.

    tokenizer   four stages bn . lif . (pool) from pixels on, the first convolution is real;
                x = s + lif(bn(conv s))                                       levels 0 .. 2
    block       x = x + lif(bn(linear(lif(scale q k^T v)))),  q, k, v = lif(bn(linear x))
                x = x + lif(bn(linear(lif(bn(linear x)))))                    + 1 each
    logits      head(mean x)

The residual adds spikes, so the stream is whole numbers 0 .. 2 + 2 depth and no neuron reads
anything but sums of weights: all of them are exact integer thresholds. Layouts by key names:

    cifar       `q_linear` (2-D, biased), `fc1_linear`; pools behind the third and fourth stage
    imagenet    `q_conv` (3-D), `fc1_conv` (4-D); pools behind all four
    events      `q_conv` (3-D), `fc1_conv` (3-D), two input channels; pools behind all four
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from bestdeploy import ir
from bestdeploy.errors import CheckpointError
from bestdeploy.importers import network as n
from bestdeploy.importers import settings as s
from bestdeploy.importers import weighted
from bestdeploy.importers.checkpoint import Checkpoint

__all__ = ["NAME", "SETTINGS", "build", "layout_of", "recognises", "schema"]

NAME = "spikformer"
# Published code scales attention of images by 1/8 and of events by 1/4.
_SCALE = dataclasses.replace(
    n.ATTN_SCALE,
    required=True,
    implied=lambda known: None if n.is_events(known) else n.ATTN_SCALE.default,
)
SETTINGS = tuple(_SCALE if x is n.ATTN_SCALE else x for x in weighted.SETTINGS)
N_STAGES = 4
_TOKENIZER = "patch_embed.proj"
_RPE = "patch_embed.rpe"


class Layout(NamedTuple):
    """How a layout names and shapes its layers."""

    name: str
    linear: str  # suffix of the layers of a block
    linear_axes: int  # of q, k, v and proj
    mlp_axes: int
    pooled: tuple[int, ...]  # stages whose spikes are pooled
    usual: Mapping[str, str]  # settings of the published models, for hints


_CIFAR_PIXELS = {"mean": "0.4914,0.4822,0.4465", "std": "0.2470,0.2435,0.2616"}
_IMAGENET_PIXELS = {"mean": "0.485,0.456,0.406", "std": "0.229,0.224,0.225"}
LAYOUTS = {
    "cifar": Layout("cifar", "linear", 2, 2, (2, 3),
                    {"image_size": "32", "heads": "12", **_CIFAR_PIXELS}),
    "imagenet": Layout("imagenet", "conv", 3, 4, (0, 1, 2, 3),
                       {"image_size": "224", "heads": "8", **_IMAGENET_PIXELS}),
    "events": Layout("events", "conv", 3, 3, (0, 1, 2, 3),
                     {"image_size": "128", "heads": "16", "n_steps": "16", "attn_scale": "0.25"}),
}  # fmt: skip


def recognises(keys: set[str]) -> bool:
    """Tell whether a set of tensor names is a Spikformer."""
    blocks = {"block.0.attn.q_linear.weight", "block.0.attn.q_conv.weight"}
    is_driven = any(key.endswith("attn.talking_heads.weight") for key in keys)
    return f"{_RPE}_conv.weight" in keys and bool(blocks & keys) and not is_driven


def layout_of(keys: set[str]) -> Layout | None:
    """Return the layout that key names tell; events are ImageNet until the shapes are seen."""
    if "block.0.attn.q_linear.weight" in keys:
        return LAYOUTS["cifar"]
    return LAYOUTS["imagenet"] if "block.0.attn.q_conv.weight" in keys else None


def schema(
    layout: Layout | None, sources: Mapping[str, Mapping[str, Any]]
) -> tuple[s.Setting, ...]:
    """Return the settings with what the published code of a layout uses, for hints."""
    if any(t.get("input") == "events" for t in sources.values()):
        layout = LAYOUTS["events"]
    usual = layout.usual if layout is not None else {}
    return tuple(dataclasses.replace(x, usual=usual.get(x.name, x.usual)) for x in SETTINGS)


def build(checkpoint: Checkpoint, sources: Mapping[str, Mapping[str, Any]]) -> ir.Model:
    """Build the spiking graph of a checkpoint.

    Args:
        checkpoint: tensors by published name.
        sources: setting sources, strongest first; see `settings.resolve`.

    Raises:
        CheckpointError: missing, extra, mis-shaped or non-finite tensors.
        UnsupportedModelError: a missing setting, or a form that is not supported.
        UsageError: a setting that does not fit the checkpoint.
    """
    layout = layout_of(set(checkpoint.tensors))
    fc = checkpoint.tensors.get("block.0.mlp.fc1_conv.weight")
    if fc is not None and fc.ndim == LAYOUTS["events"].mlp_axes:
        layout = LAYOUTS["events"]
    if layout is None or f"{_TOKENIZER}_conv.weight" not in checkpoint.tensors:
        raise CheckpointError(
            f"`{_TOKENIZER}_conv.weight` or the attention of block 0 is missing",
            where=str(checkpoint.path),
            hint="Spikformer has `block.0.attn.q_linear` (CIFAR) or `q_conv` (ImageNet, events)",
        )
    return weighted.build(_Importer, NAME, schema, checkpoint, sources, layout, _TOKENIZER)


def _stage(part: str, i: int) -> str:
    """Published name of a part (conv, bn, lif, ..) of stage i: proj_conv, proj_conv1, .."""
    return f"{_TOKENIZER}_{part}{i or ''}"


class _Importer(weighted.WeightedNetwork):
    """Spikformer, layer by layer."""

    NAME = NAME

    def __init__(self, checkpoint: Checkpoint, layout: Layout, found: s.Resolved) -> None:
        super().__init__(checkpoint, found)
        self.layout, self.layout_name, self.n_pools = layout, layout.name, len(layout.pooled)
        shapes = [self.e.t.shape(f"{_stage('conv', i)}.weight", 4) for i in range(N_STAGES)]
        self.channels, self.widths = shapes[0][1], [shape[0] for shape in shapes]
        self.dim = self.widths[-1]
        self.depth = self.n_blocks(f"attn.q_{layout.linear}.weight")
        self.levels = 1  # the largest number on the stream so far
        self.settle()

    def layer(self, prefix: str, name: str, x: ir.Value, size: tuple[int, int], levels: int
              ) -> ir.Value:  # fmt: skip
        """Append a linear layer of a block with its batch norm and its neuron; its spikes."""
        axes = self.layout.mlp_axes if name.startswith("fc") else self.layout.linear_axes
        shape = (*size, 1, 1)[:axes]
        y = self.conv(f"{prefix}.{name}_{self.layout.linear}", f"{prefix}.{name}_bn", x, shape,
                      levels)  # fmt: skip
        return self.e.neuron(f"{prefix}.{name}_lif", y)

    def add(self, name: str, x: ir.Value, spikes: ir.Value) -> ir.Value:
        """Append the residual: one more level."""
        self.levels += 1
        return self.e.op("LevelAdd", x, spikes, name=name, levels=self.levels)

    def stage(self, i: int, x: ir.Value) -> ir.Value:
        """Append stage i of the tokenizer on pixels (i = 0) or spikes; its spikes."""
        e, names = self.e, (_stage("conv", i), _stage("bn", i))
        if i == 0:
            y = e.real_conv(*names, x, self.channels, self.widths[0])
        else:
            y = self.conv(*names, x, (self.widths[i], self.widths[i - 1], 3, 3))
        constant = i == 0 and not n.is_events(self.config)
        spikes = e.neuron(_stage("lif", i), y, constant=constant)
        pooled = i in self.layout.pooled
        return e.pool(f"patch_embed.maxpool{i or ''}", spikes) if pooled else spikes

    def tokenizer(self, image: ir.Value) -> ir.Value:
        """Append the tokenizer; return levels 0 .. 2."""
        e, spikes = self.e, self.pixels(image)
        for i in range(N_STAGES):
            spikes = self.stage(i, spikes)
        shape = (self.dim, self.dim, 3, 3)
        y = self.conv(f"{_RPE}_conv", f"{_RPE}_bn", spikes, shape)
        return self.add(f"{_RPE}_add", spikes, e.neuron(f"{_RPE}_lif", y))

    def attention(self, p: str, x: ir.Value) -> ir.Value:
        """Append the attention branch; its spikes."""
        square, levels = (self.dim, self.dim), self.levels
        q, k, v = (self.layer(p, name, x, square, levels) for name in "qkv")
        return self.layer(p, "proj", self.product(p, q, k, v), square, 1)

    def mlp(self, p: str, x: ir.Value) -> ir.Value:
        """Append the MLP branch; its spikes."""
        key = f"{p}.fc1_{self.layout.linear}.weight"
        hidden = self.e.t.shape(key, self.layout.mlp_axes)[0]
        spikes = self.layer(p, "fc1", x, (hidden, self.dim), self.levels)
        return self.layer(p, "fc2", spikes, (self.dim, hidden), 1)

    def logits_of(self, image: ir.Value) -> ir.Value:
        """Append every layer."""
        e, x = self.e, self.tokenizer(image)
        for i in range(self.depth):
            p = f"block.{i}"
            x = self.add(f"{p}.attn.residual", x, self.attention(f"{p}.attn", x))
            x = self.add(f"{p}.mlp.residual", x, self.mlp(f"{p}.mlp", x))
        self.drop_norms()
        self.drop_dead(["pos_embed", "patch_embed.pos_embed", "norm.weight", "norm.bias"],
                       weighted.DEAD)  # fmt: skip
        real = e.b.op("Cast", x, to=ir.DataType.DOUBLE.value, name="head.levels")
        return e.classifier("head", e.mean("head.mean", real), self.dim, self.classes)
