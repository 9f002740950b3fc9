"""Spike-driven Transformer v1 (published code of 2023).

    tokenizer   conv0 (real) -> lif (pool) -> conv1 -> lif (pool) -> conv2 -> lif (pool) -> conv3
                (pool, of real values) = u;  x = u + bn(conv(lif u))
    block       x = x + attention(x);  x = x + mlp(x)
    attention   s = lif(x); q, k, v = lif(bn(conv s)); g = lif(sum over tokens of k v)
                bn(conv(q g))
    mlp         bn(conv(lif(bn(conv(lif x)))))
    logits      head(mean over T of lif(mean over tokens of x))           readout=mean_neuron
                head(mean over T and tokens of lif(x))                    readout=neuron_mean
Keys and shapes are those of the published checkpoints. `pooling_stat` has a digit per stage.
Real weights become integers of `weight_bits` bits; `weights=binary` says that they were trained as
signs (`training`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from bestdeploy import ir
from bestdeploy.errors import UnsupportedModelError
from bestdeploy.importers import network as n
from bestdeploy.importers import settings as s
from bestdeploy.importers.checkpoint import Checkpoint

NAME = "sdt_v1"
_TOKENIZER = ("proj_conv", "proj_conv1", "proj_conv2", "proj_conv3", "rpe_conv")
_DEAD = "attn.talking_heads.weight"
DEAD = "the published code never uses them"


def pooling_stat(value: Any) -> str:
    """Accept four digits 0 or 1, also as a number (1111)."""
    text = str(value)
    if len(text) != 4 or not set(text) <= {"0", "1"}:
        raise ValueError(value)
    return text


WEIGHTS = s.Setting("weights", s.choice("real", "binary"), "real or binary", default="real",
                    required=False)  # fmt: skip
VARIANT = s.Setting("variant", s.choice("official", "paper"), "official or paper",
                    default="official", required=False)  # fmt: skip
READOUT = s.Setting(
    "readout",
    s.choice("mean_neuron", "neuron_mean"),
    "mean_neuron or neuron_mean",
    default="mean_neuron",
    required=False,
)
POOLING = s.Setting("pooling_stat", pooling_stat, "four digits 0 or 1", usual="1111")
SETTINGS = (
    dataclasses.replace(n.INPUT, required=True),
    WEIGHTS,
    dataclasses.replace(
        n.WEIGHT_BITS, implied=lambda known: 1 if known["weights"] == "binary" else None
    ),
    VARIANT,
    n.IMAGE_SIZE,
    n.MEAN,
    n.STD,
    n.TAU,
    n.DECAY_INPUT,
    n.N_STEPS,
    n.HEADS,
    POOLING,
    s.Setting("dvs_mode", s.boolean, "true or false", default=False, required=False),
    READOUT,
    n.V_THRESHOLD,
    n.ATTN_V_THRESHOLD,
    *n.PICTURES,
)


def recognises(keys: set[str]) -> bool:
    """Tell whether a set of tensor names is a Spike-driven Transformer v1."""
    return f"block.0.{_DEAD}" in keys and "patch_embed.rpe_conv.weight" in keys


def layout_of(keys: set[str]) -> None:
    """Return nothing: the published code has one layout."""
    return None


def schema(layout: None, sources: Mapping[str, Mapping[str, Any]]) -> tuple[s.Setting, ...]:
    """Return the settings."""
    return SETTINGS


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
    return Importer(checkpoint, s.resolve(SETTINGS, with_input(checkpoint, sources), family=NAME)
                    ).model()  # fmt: skip


def with_input(
    checkpoint: Checkpoint, sources: Mapping[str, Mapping[str, Any]]
) -> dict[str, Mapping[str, Any]]:
    """Add what the first convolution says: two input channels are event frames."""
    first = checkpoint.tensors.get("patch_embed.proj_conv.weight")
    events = first is not None and first.ndim == 4 and first.shape[1] == 2
    return {**sources, "the weights": {"input": "events" if events else "image"}}


class Importer(n.Network):
    """The network, layer by layer; A2OS2A replaces its attention core."""

    NAME = NAME

    def __init__(self, checkpoint: Checkpoint, found: s.Resolved) -> None:
        super().__init__(checkpoint, found)
        t, c = self.e.t, self.config
        shapes = [t.shape(f"patch_embed.{name}.weight", 4) for name in _TOKENIZER]
        self.channels, self.widths = shapes[0][1], [shape[0] for shape in shapes]
        self.dim, self.depth = self.widths[-1], self.n_blocks("attn.q_conv.weight")
        self.e.n_steps, self.heads = c["n_steps"], c["heads"]
        self.classes = t.shape("head.weight", 2)[0]
        self.layout_name, self.n_pools = c["pooling_stat"], c["pooling_stat"].count("1")
        self.check_geometry()
        self._check_form()

    def _check_form(self) -> None:
        if self.config.get("dvs_mode"):
            raise UnsupportedModelError(
                "dvs_mode=true widens spikes over tokens and channels, which is not supported",
                where="setting dvs_mode",
                hint="train with dvs_mode = false",
            )

    # -- parts ---------------------------------------------------------------------------------

    def conv(self, name: str, bn: str, x: ir.Value, n_in: int, n_out: int, k: int = 1) -> ir.Value:
        """Append a convolution of spikes and its batch norm."""
        if self.config["weights"] == "binary":
            return self.e.binary_conv(name, x, n_in, n_out, k, bn=bn)
        return self.e.weight_conv(name, bn, x, (n_out, n_in, k, k))

    def _pool(self, stage: int) -> bool:
        return bool(self.config["pooling_stat"][stage] == "1")

    def tokenizer(self, image: ir.Value) -> ir.Value:
        """Append the tokenizer; return the stream."""
        e, w, p = self.e, self.widths, "patch_embed."
        x = self.pixels(image)
        y = e.real_conv(f"{p}proj_conv", f"{p}proj_bn", x, self.channels, w[0])
        spikes = e.neuron(f"{p}proj_lif", y, constant=not n.is_events(self.config))
        for i in (1, 2, 3):
            if self._pool(i - 1):
                spikes = e.pool(f"{p}maxpool{i - 1 or ''}", spikes)
            y = self.conv(f"{p}proj_conv{i}", f"{p}proj_bn{i}", spikes, w[i - 1], w[i], 3)
            if i == 3 and self._pool(3):
                y = e.op("RealMaxPool", y, name=f"{p}maxpool3", kernel_shape=[3, 3],
                         strides=[2, 2], pads=[1] * 4)  # fmt: skip
            spikes = e.neuron(f"{p}proj_lif{i}", y)
        z = self.conv(f"{p}rpe_conv", f"{p}rpe_bn", spikes, w[3], w[4], 3)
        return e.op("ReversibleMix", z, y, y, name=f"{p}residual")

    def core(self, p: str, spikes: ir.Value) -> ir.Value:
        """Append the attention core: spikes of the stream -> what the last projection reads."""
        e, d = self.e, self.dim
        q, k, v = (
            e.neuron(f"{p}.{m}_lif", self.conv(f"{p}.{m}_conv", f"{p}.{m}_bn", spikes, d, d))
            for m in "qkv"
        )
        counts = e.op("KeyValueCounts", k, v, name=f"{p}.key_values")
        g = e.neuron(f"{p}.talking_heads_lif", counts, threshold=self.config["attn_v_threshold"])
        return e.op("Gate", q, g, name=f"{p}.gated", invert=0)

    def attention(self, p: str, x: ir.Value) -> ir.Value:
        """Append the attention branch on a stream."""
        mixed = self.core(p, self.e.neuron(f"{p}.shortcut_lif", x))
        return self.conv(f"{p}.proj_conv", f"{p}.proj_bn", mixed, self.dim, self.dim)

    def mlp(self, p: str, x: ir.Value) -> ir.Value:
        """Append the MLP branch on a stream."""
        e, d = self.e, self.dim
        hidden = e.t.shape(f"{p}.fc1_conv.weight", 4)[0]
        spikes = e.neuron(f"{p}.fc1_lif", x)
        y = self.conv(f"{p}.fc1_conv", f"{p}.fc1_bn", spikes, d, hidden)
        spikes = e.neuron(f"{p}.fc2_lif", y)
        return self.conv(f"{p}.fc2_conv", f"{p}.fc2_bn", spikes, hidden, d)

    def logits_of(self, image: ir.Value) -> ir.Value:
        """Append every layer."""
        e, x = self.e, self.tokenizer(image)
        for i in range(self.depth):
            p = f"block.{i}"
            y = self.attention(f"{p}.attn", x)
            x = e.op("ReversibleMix", y, x, x, name=f"{p}.attn.residual")
            y = self.mlp(f"{p}.mlp", x)
            x = e.op("ReversibleMix", y, x, x, name=f"{p}.mlp.residual")
        self.drop_dead([f"block.{i}.{_DEAD}" for i in range(self.depth)], DEAD)
        if self.config["readout"] == "mean_neuron":
            x = e.op("TokenMean", x, name="head.tokens")
        spikes = e.neuron("head_lif", x)
        features = e.mean("head.mean", e.b.op("Cast", spikes, to=11, name="head.spikes"))
        return e.classifier("head", features, self.dim, self.classes)
