"""Spikingformer, the full-precision ancestor of BESTformer (published code of 2023).

    tokenizer   conv0 (real), then four stages: lif . (pool) . conv
    block       x = x + attention(x);  x = x + mlp(x)
    attention   s = lif(x); q, k, v = lif(bn(conv s)); bn(conv(lif(scale q k^T v)))
    mlp         bn(conv(lif(bn(conv(lif x)))))
    logits      head(mean x)

Keys and shapes are those of the published checkpoints: the CIFAR layout and the ImageNet layout of
`bestformer`, which event-camera models use with two input channels. Real weights become integers
of `weight_bits` bits. (q k^T) v and q (k^T v) are one product, since nothing stands between.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from bestdeploy import ir
from bestdeploy.errors import UnsupportedModelError
from bestdeploy.importers import network as n
from bestdeploy.importers import settings as s
from bestdeploy.importers import weighted
from bestdeploy.importers.bestformer import LAYOUTS, N_STAGES, Layout, layout_of
from bestdeploy.importers.checkpoint import Checkpoint

__all__ = ["NAME", "SETTINGS", "build", "layout_of", "recognises", "schema"]

NAME = "spikingformer"
_BLOCK = {"block.0.mlp.mlp1_conv.weight", "block.0.norm1.weight"}
_TOKENIZERS = {"patch_embed.block0_conv.weight", "patch_embed.proj1_conv.weight"}
_LAMBDA = "block.0.attn.lambda_attn"
SETTINGS = weighted.SETTINGS


def recognises(keys: set[str]) -> bool:
    """Tell whether a set of tensor names is a Spikingformer."""
    return bool(_BLOCK & keys) and bool(_TOKENIZERS & keys) and _LAMBDA not in keys


def schema(
    layout: Layout | None, sources: Mapping[str, Mapping[str, Any]]
) -> tuple[s.Setting, ...]:
    """Return the settings with what the published code of a layout uses, for hints."""
    usual = dict(layout.usual) if layout is not None else {}
    if any(t.get("input") == "events" for t in sources.values()):
        usual = {"tau": "1.5", "heads": "16", "image_size": "128", "n_steps": "16"}
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
    if layout is None:
        raise UnsupportedModelError(
            "the tokenizer is of neither layout of Spikingformer",
            where=str(checkpoint.path),
            hint=f"expected `{LAYOUTS[0].key(1)}_conv.weight` (CIFAR) or "
            f"`{LAYOUTS[1].key(1)}_conv.weight` (ImageNet) and the other stages",
        )
    return weighted.build(_Importer, NAME, schema, checkpoint, sources, layout, layout.key(0))


class _Importer(weighted.WeightedNetwork):
    """Spikingformer, layer by layer."""

    NAME = NAME

    def __init__(self, checkpoint: Checkpoint, layout: Layout, found: s.Resolved) -> None:
        super().__init__(checkpoint, found)
        self.layout, self.layout_name, self.n_pools = layout, layout.name, len(layout.pooled)
        shapes = [self.e.t.shape(f"{layout.key(i)}_conv.weight", 4) for i in range(N_STAGES + 1)]
        self.channels, self.widths = shapes[0][1], [shape[0] for shape in shapes]
        self.dim, self.depth = self.widths[-1], self.n_blocks("mlp.mlp1_conv.weight")
        self.settle()

    def tokenizer(self, image: ir.Value) -> ir.Value:
        """Append the tokenizer; return the stream."""
        e, events = self.e, n.is_events(self.config)
        first = self.layout.key(0)
        x = self.pixels(image)
        y = e.real_conv(f"{first}_conv", f"{first}_bn", x, self.channels, self.widths[0])
        for i in range(1, N_STAGES + 1):
            prefix = self.layout.key(i)
            spikes = e.neuron(f"{prefix}_lif", y, constant=i == 1 and not events)
            if i in self.layout.pooled:
                spikes = e.pool(f"{prefix}_mp", spikes)
            shape = (self.widths[i], self.widths[i - 1], 3, 3)
            y = self.conv(f"{prefix}_conv", f"{prefix}_bn", spikes, shape)
        return y

    def attention(self, p: str, x: ir.Value) -> ir.Value:
        """Append the attention branch on a stream."""
        spikes, square = self.e.neuron(f"{p}.proj_lif", x), (self.dim, self.dim, 1)
        q, k, v = (
            self.e.neuron(f"{p}.{a}_lif", self.conv(f"{p}.{a}_conv", f"{p}.{a}_bn", spikes, square))
            for a in "qkv"
        )
        mixed = self.product(p, q, k, v)
        return self.conv(f"{p}.proj_conv", f"{p}.proj_bn", mixed, square)

    def mlp(self, p: str, x: ir.Value) -> ir.Value:
        """Append the MLP branch on a stream."""
        hidden = self.e.t.shape(f"{p}.mlp1_conv.weight", 4)[0]
        spikes = self.e.neuron(f"{p}.mlp1_lif", x)
        y = self.conv(f"{p}.mlp1_conv", f"{p}.mlp1_bn", spikes, (hidden, self.dim, 1, 1))
        spikes = self.e.neuron(f"{p}.mlp2_lif", y)
        return self.conv(f"{p}.mlp2_conv", f"{p}.mlp2_bn", spikes, (self.dim, hidden, 1, 1))

    def logits_of(self, image: ir.Value) -> ir.Value:
        """Append every layer."""
        e, x = self.e, self.tokenizer(image)
        for i in range(self.depth):
            p = f"block.{i}"
            y = self.attention(f"{p}.attn", x)
            x = e.op("ReversibleMix", y, x, x, name=f"{p}.attn.residual")
            y = self.mlp(f"{p}.mlp", x)
            x = e.op("ReversibleMix", y, x, x, name=f"{p}.mlp.residual")
        self.drop_norms()
        return e.classifier("head", e.mean("head.mean", x), self.dim, self.classes)
