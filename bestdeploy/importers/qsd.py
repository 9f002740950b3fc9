"""QSD-Transformer (published code of 2025): Meta-SpikeFormer with few-bit weights and levels.

    topology    that of Spike-driven Transformer v2 (`sdt_v2.py`), one step
    weights     w = q alpha[o],  q = rint(w / alpha) cut to -2^(b-1) .. 2^(b-1) - 1   (LSQ), all
    neurons     L = floor(clip(4 x, 0, 4) + 1/2), output L / 4; behind q (k^T v) L / 2   (IE-LIF)
    branches    attention and MLP times layer_scale1, layer_scale2

Divisors and steps go into the affine behind a layer, so every layer is integers times levels, and
q, k^T v in levels is an integer whose neuron compares integers. RepConv and SepConv keep their
stages, as `sdt_v2.py` has them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from bestdeploy import ir
from bestdeploy.errors import CheckpointError, UnsupportedModelError
from bestdeploy.importers import network as n
from bestdeploy.importers import settings as s
from bestdeploy.importers import weighted
from bestdeploy.importers.checkpoint import Checkpoint
from bestdeploy.importers.sdt_v2 import FIRST, MetaNetwork, Weights, layout_of, require_first

__all__ = ["NAME", "SETTINGS", "build", "layout_of", "recognises", "schema"]

NAME = "qsd"
N_LEVELS, GAIN = 4, 4.0
DIVISOR, ATTENTION_DIVISOR = 4.0, 2.0
_BITS = s.Setting("weight_bits", s.one_of(2, 3, 4, 8), "2, 3, 4 or 8: bits of the trained weights",
                  usual="4")  # fmt: skip
_NEURON = s.Setting(
    "neuron_kind", s.choice("ielif", "lif"), "ielif or lif", default="ielif", required=False
)
_LEAK = s.Setting("ie_leak", s.number(0.0, 0.999), "a number in [0, 0.999]", default=0.0,
                  required=False)  # fmt: skip
_NEGATIVE = s.Setting("negative_alpha", s.boolean, "true or false", default=False, required=False)
_SCALE = dataclasses.replace(n.ATTN_SCALE, default=0.25)
_STEPS = dataclasses.replace(n.N_STEPS, usual="1")
_OF_LIF = {"tau": 2.0, "decay_input": True}  # what only a network of LIF neurons needs


def _settings() -> tuple[s.Setting, ...]:
    changed = {"weight_bits": _BITS, "attn_scale": _SCALE, "n_steps": _STEPS}
    found = []
    for x in weighted.SETTINGS:
        if x.name == "input":
            x = dataclasses.replace(x, required=True)
        if x.name in _OF_LIF:
            x = dataclasses.replace(x, required=False, default=_OF_LIF[x.name])
        found.append(changed.get(x.name, x))
    return (*found, _NEURON, _LEAK, _NEGATIVE)


SETTINGS = _settings()
_BRANCHES = {"attn.proj_conv": "layer_scale1", "mlp.fc2_conv": "layer_scale2"}
DEAD = ".act.", ".init_state"


def recognises(keys: set[str]) -> bool:
    """Tell whether a set of tensor names is a Meta-SpikeFormer with LSQ weights."""
    return {f"{FIRST}_conv.weight", f"{FIRST}_conv.alpha"} <= keys


def schema(layout: None, sources: Mapping[str, Mapping[str, Any]]) -> tuple[s.Setting, ...]:
    """Return the settings."""
    return SETTINGS


def build(checkpoint: Checkpoint, sources: Mapping[str, Mapping[str, Any]]) -> ir.Model:
    """Build the spiking graph of a checkpoint.

    Args:
        checkpoint: tensors by published name.
        sources: setting sources, strongest first; see `settings.resolve`.

    Raises:
        CheckpointError: missing, extra, mis-shaped or non-finite tensors; steps alpha that are not
            positive.
        UnsupportedModelError: a missing setting, or a form that is not supported.
        UsageError: a setting that does not fit the checkpoint.
    """
    require_first(checkpoint)
    return weighted.build(_Importer, NAME, schema, checkpoint, sources, None, FIRST)


class _Importer(MetaNetwork):
    """QSD-Transformer, layer by layer."""

    NAME = NAME

    def settle(self) -> None:
        """Leave dead keys out, refuse what has no integer form, then as every family."""
        keys = [k for k in self.checkpoint.tensors if any(part in k for part in DEAD)]
        self.drop_dead(keys, "activations are not quantised by them")
        super().settle()
        if self.config["ie_leak"] and self.e.n_steps > 1:
            raise UnsupportedModelError(
                f"ie_leak={self.config['ie_leak']} with {self.e.n_steps} steps: neurons of several "
                "levels are deployed without memory",
                where="setting ie_leak",
                hint="train with ie_leak = 0 or n_steps = 1, as the published networks are",
            )
        self.levels = N_LEVELS if self.config["neuron_kind"] == "ielif" else 1

    def _trained_bits(self) -> int:
        return int(self.config["weight_bits"])

    def _check_attention(self) -> None:
        """Any scale will do where the neuron of attention compares integers."""
        if self.config["neuron_kind"] == "lif":
            super()._check_attention()
        else:
            self._check_heads()

    # -- weights -----------------------------------------------------------------------------------

    def weights(self, name: str, shape: tuple[int, ...]) -> Weights:
        """Take the weights of a layer, whole multiples of the steps that were trained."""
        key, where = f"{name}.alpha", str(self.checkpoint.path)
        w = self.e.t.take(f"{name}.weight", shape)
        alpha = self.e.t.take(key, (shape[0],))
        bad = np.flatnonzero(alpha == 0 if self.config["negative_alpha"] else alpha <= 0)
        if len(bad):
            raise CheckpointError(
                f"`{key}` is {alpha[bad[0]]:g} in channel {bad[0]} ({len(bad)} of {len(alpha)} "
                "channels), expected a positive step",
                where=where,
                hint="--set negative_alpha=true takes negative steps as they were trained; a step "
                "of 0 leaves no weights: take another checkpoint",
            )
        top = 2 ** (int(self.config["weight_bits"]) - 1)
        column = alpha.reshape(-1, *[1] * (w.ndim - 1))
        q = np.clip(np.rint(w / column), -top, top - 1)  # in float32, as it was trained
        kernel = q.astype(np.float64).reshape((*shape, 1, 1)[: max(4, len(shape))])
        scale = alpha.astype(np.float64)
        return Weights(kernel * scale[:, None, None, None], scale, -top)

    def branch(self, name: str, width: int) -> np.ndarray:
        """Take the layer scale of a residual branch where this is its last layer."""
        for suffix, key in _BRANCHES.items():
            if name.endswith(suffix):
                block = name.removesuffix(suffix)
                return self.e.t.take(f"{block}{key}", (width,)).astype(np.float64)
        return np.ones(width)

    def divisor(self, name: str) -> float:
        """Return what the levels that a layer reads are divided by."""
        if self.config["neuron_kind"] == "lif":
            return 1.0
        return ATTENTION_DIVISOR if name.endswith("proj_conv") else DIVISOR

    # -- layers ------------------------------------------------------------------------------------

    def spike(self, name: str, x: ir.Value) -> ir.Value:
        """Append a neuron; its levels."""
        if self.config["neuron_kind"] == "lif":
            return self.e.neuron(name, x)
        return self.e.b.op("LevelNeuron", x, domain=ir.DOMAIN, name=name, output_names=[name],
                           levels=N_LEVELS, gain=GAIN)  # fmt: skip

    def _normed(self, name: str, bn: str, y: ir.Value, width: int) -> ir.Value:
        """Append the batch norm behind a layer, its bias and the scale of a branch in it."""
        gain, shift = self._gain(bn, width)
        bias, factor = self.e.bias(name, width), self.branch(name, width)
        shift = shift if bias is None else shift + gain * bias.astype(np.float64)
        return self.e.affine(bn, y, factor * gain, factor * shift)

    def layer(
        self, name: str, bn: str, x: ir.Value, shape: tuple[int, ...], stride: int = 1
    ) -> ir.Value:
        """Append a convolution of levels and its batch norm."""
        w = self.weights(name, shape).over(self.divisor(name))
        return self._normed(name, bn, self.sums(name, x, w, stride), shape[0])

    def first(self, pixels: ir.Value, width: int) -> ir.Value:
        """Append the convolution of the pixels and its batch norm."""
        name = f"{FIRST}_conv"
        w = self.weights(name, (width, self.channels, 7, 7)).real.transpose(0, 2, 3, 1).copy()
        y = self.e.op("RealConv", pixels, self.e.b.initializer(f"{name}.weight", w), name=name,
                      strides=[2, 2], pads=[3] * 4)  # fmt: skip
        return self._normed(name, f"{FIRST}_bn", y, width)

    def product(self, p: str, q: ir.Value, k: ir.Value, v: ir.Value) -> ir.Value:
        """Append the product of levels and its neuron."""
        if self.config["neuron_kind"] == "lif":
            return super().product(p, q, k, v)
        e = self.e
        m = e.op("QueryKeyValues", q, k, v, name=f"{p}.product", heads=self.heads)
        scale = float(self.config["attn_scale"]) / DIVISOR**3
        gain = e.b.initializer(f"{p}.gain", np.full((e.n_steps, self.heads), scale))
        return self.spike(f"{p}.attn_lif", e.op("HeadScale", m, gain, name=f"{p}.scaled"))

    def head_weight(self, name: str) -> np.ndarray:
        """Take the weights of a head, float64 [K, C]."""
        w = self.weights(name, (self.classes, self.dim)).over(self.divisor(name))
        return w.real[:, :, 0, 0]
