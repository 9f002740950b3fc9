"""QSD-Transformer (published code of 2025): Meta-SpikeFormer with few-bit weights and levels.

    topology    that of Spike-driven Transformer v2 (`sdt_v2.py`), one step
    weights     w = q alpha[o],  q = rint(w / alpha) cut to -2^(b-1) .. 2^(b-1) - 1   (LSQ), all
    neurons     L = floor(clip(4 x, 0, 4) + 1/2), output L / 4; behind q (k^T v) L / 2   (IE-LIF)
    branches    attention and MLP times layer_scale1, layer_scale2

Divisors and steps go into the affine behind a layer, so every layer is integers times levels, and
q, k^T v in levels is an integer whose neuron compares integers. RepConv and SepConv keep their
stages, each of b-bit weights, for their product would be dense and of many bits:

    RepConv     n = q1 L                                integers
                z[c] = a[c] (q2 n)[c] + b[c]            depthwise on integers: a channel keeps its
                                                        factor; the border of the inner norm is in b
                y[o] = a'[o] sum q3[o, c] z[c] + b'[o]  z in the fixed point of the stream
    SepConv     z[c] = alpha2[c] (q2 L)[c], then as above

With alpha1, alpha2, alpha3 the steps, g1, h1 gain and shift of the inner norm, D the divisor,
a = alpha2 g1 alpha1 / D and b = h1 alpha2 sum q2 over the window.
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
from bestdeploy.importers.sdt_v2 import FIRST, MetaNetwork, layout_of, require_first

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


@dataclasses.dataclass(frozen=True)
class _Weights:
    """Integers float64 [O, I, k, k] and steps float64 [O] of a layer."""

    q: np.ndarray
    alpha: np.ndarray


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

    def lsq(self, name: str, shape: tuple[int, ...]) -> _Weights:
        """Take the weights of a layer and their steps."""
        key, where = f"{name}.alpha", str(self.checkpoint.path)
        w = self.e.t.take(f"{name}.weight", shape)
        alpha = self.e.t.take(key, (shape[0],))
        bad = np.flatnonzero(alpha == 0 if self.config["negative_alpha"] else alpha <= 0)
        if len(bad):
            raise CheckpointError(
                f"`{key}` is {alpha[bad[0]]:g} in channel {bad[0]} ({len(bad)} of {len(alpha)} "
                "channels): a step is a positive number",
                where=where,
                hint="the layer has diverged; --set negative_alpha=true takes negative steps as "
                "they are, a step of 0 has no weights",
            )
        top = 2 ** (int(self.config["weight_bits"]) - 1)
        column = alpha.reshape(-1, *[1] * (w.ndim - 1))
        q = np.clip(np.rint(w / column), -top, top - 1)  # in float32, as it was trained
        kernel = (*shape, 1, 1)[:4] if len(shape) < 4 else shape
        return _Weights(q.astype(np.float64).reshape(kernel), alpha.astype(np.float64))

    def _held(self, name: str, w: _Weights, divisor: float) -> dict[str, Any]:
        """Register weights [O, k, k, I] and scale; return what every kind of layer says of them."""
        scale = w.alpha / divisor
        kernel = (w.q * scale[:, None, None, None]).transpose(0, 2, 3, 1).copy()
        bits = int(self.config["weight_bits"])
        held = self.e.b.initializer(f"{name}.weight", kernel)
        return {
            "inputs": (held, self.e.b.initializer(f"{name}.scale", scale)),
            "attributes": {"weight_bits": bits, "lowest": -(2 ** (bits - 1))},
        }

    def _sums(
        self, name: str, x: ir.Value, w: _Weights, divisor: float, stride: int = 1
    ) -> ir.Value:
        """Append a convolution of levels."""
        held = self._held(name, w, divisor)
        return self.e.op(
            "WeightConv", x, *held["inputs"], name=name, strides=[stride] * 2,
            pads=[w.q.shape[-1] // 2] * 4, levels=self.levels, **held["attributes"],
        )  # fmt: skip

    def _depthwise(self, name: str, x: ir.Value, w: _Weights, divisor: float) -> ir.Value:
        """Append a depthwise convolution, [C, 1, k, k]."""
        scale = w.alpha / divisor
        kernel = (w.q[:, 0] * scale[:, None, None]).transpose(1, 2, 0)[None].copy()
        bits = int(self.config["weight_bits"])
        held = [self.e.b.initializer(f"{name}.{p}", v)
                for p, v in (("weight", kernel), ("scale", scale))]  # fmt: skip
        return self.e.op(
            "DepthwiseConv", x, *held, name=name, strides=[1, 1],
            pads=[w.q.shape[-1] // 2] * 4, weight_bits=bits, lowest=-(2 ** (bits - 1)),
        )  # fmt: skip

    def _pointwise(self, name: str, x: ir.Value, w: _Weights) -> ir.Value:
        """Append a 1x1 convolution of a stream."""
        held = self._held(name, w, 1.0)
        return self.e.op("PointwiseConv", x, *held["inputs"], name=name, **held["attributes"])

    def _branch(self, name: str, width: int) -> np.ndarray:
        """Return what a residual branch is multiplied by, float64 [C]; 1 for any other layer."""
        for suffix, key in _BRANCHES.items():
            if name.endswith(suffix):
                block = name.removesuffix(suffix)
                return self.e.t.take(f"{block}{key}", (width,)).astype(np.float64)
        return np.ones(width)

    def _divisor(self, of_attention: bool = False) -> float:
        if self.config["neuron_kind"] == "lif":
            return 1.0
        return ATTENTION_DIVISOR if of_attention else DIVISOR

    # -- layers ------------------------------------------------------------------------------------

    def spike(self, name: str, x: ir.Value) -> ir.Value:
        """Append a neuron; its levels."""
        if self.config["neuron_kind"] == "lif":
            return self.e.neuron(name, x)
        return self.e.b.op("LevelNeuron", x, domain=ir.DOMAIN, name=name, output_names=[name],
                           levels=N_LEVELS, gain=GAIN)  # fmt: skip

    def layer(
        self, name: str, bn: str, x: ir.Value, shape: tuple[int, ...], stride: int = 1
    ) -> ir.Value:
        """Append a convolution of levels and its batch norm."""
        width = shape[0]
        y = self._sums(name, x, self.lsq(name, shape), self._divisor(), stride)
        gain, shift = self._gain(bn, width)
        factor, bias = self._branch(name, width), self.e.bias(name, width)
        shift = shift if bias is None else shift + gain * bias.astype(np.float64)
        return self.e.affine(bn, y, factor * gain, factor * shift)

    def first(self, pixels: ir.Value, width: int) -> ir.Value:
        """Append the convolution of the pixels and its batch norm."""
        name = f"{FIRST}_conv"
        w = self.lsq(name, (width, self.channels, 7, 7))
        kernel = (w.q * w.alpha[:, None, None, None]).transpose(0, 2, 3, 1).copy()
        y = self.e.op("RealConv", pixels, self.e.b.initializer(f"{name}.weight", kernel), name=name,
                      strides=[2, 2], pads=[3] * 4)  # fmt: skip
        gain, shift = self._gain(f"{FIRST}_bn", width)
        bias = self.e.bias(name, width)
        shift = shift if bias is None else shift + gain * bias.astype(np.float64)
        return self.e.affine(f"{FIRST}_bn", y, gain, shift)

    def rep_conv(self, p: str, x: ir.Value, width: int) -> ir.Value:
        """Append a RepConv in its three stages, and the batch norm behind it."""
        inner, square = f"{p}.0.body", (width, width, 1, 1)
        first, window, last = (
            self.lsq(f"{inner}.{part}", shape)
            for part, shape in (("0", square), ("2.0", (width, 1, 3, 3)), ("2.1", square))
        )
        gain, shift = self._gain(f"{inner}.1.bn", width)
        n1 = self._sums(f"{inner}.0", x, first, self._divisor(p.endswith("proj_conv")))
        n2 = self._depthwise(f"{inner}.2.0", n1, window, 1.0)
        border = window.alpha * window.q.sum(axis=(1, 2, 3))
        z = self.e.affine(f"{inner}.1.bn", n2, gain, shift * border)
        y = self._pointwise(f"{inner}.2.1", z, last)
        gain2, shift2 = self._gain(f"{inner}.2.2", width)
        outer, outer_shift = self._gain(f"{p}.1", width)
        factor = self._branch(p, width)
        return self.e.affine(f"{p}.1", y, factor * outer * gain2,
                             factor * (outer * shift2 + outer_shift))  # fmt: skip

    def sep_conv(self, p: str, x: ir.Value, width: int) -> ir.Value:
        """Append a SepConv on a stream, its last two layers in fixed point."""
        wide = self.e.t.shape(f"{p}.pwconv1.weight", 4)[0]
        y = self.layer(f"{p}.pwconv1", f"{p}.bn1", self.spike(f"{p}.lif1", x), (wide, width, 1, 1))
        levels = self.spike(f"{p}.lif2", y)
        window = self.lsq(f"{p}.dwconv", (wide, 1, 7, 7))
        n2 = self._depthwise(f"{p}.dwconv", levels, window, self._divisor())
        z = self.e.affine(f"{p}.dwconv.scaled", n2, np.ones(wide), np.zeros(wide))
        y = self._pointwise(f"{p}.pwconv2", z, self.lsq(f"{p}.pwconv2", (width, wide, 1, 1)))
        return self.e.affine(f"{p}.bn2", y, *self._gain(f"{p}.bn2", width))

    def product(self, p: str, q: ir.Value, k: ir.Value, v: ir.Value) -> ir.Value:
        """Append the product of levels and its neuron."""
        if self.config["neuron_kind"] == "lif":
            return super().product(p, q, k, v)
        e = self.e
        m = e.op("QueryKeyValues", q, k, v, name=f"{p}.product", heads=self.heads)
        scale = float(np.float32(self.config["attn_scale"])) / DIVISOR**3
        gain = e.b.initializer(f"{p}.gain", np.full((e.n_steps, self.heads), scale))
        return self.spike(f"{p}.attn_lif", e.op("HeadScale", m, gain, name=f"{p}.scaled"))

    def head_weight(self, name: str) -> np.ndarray:
        """Take the weights of a head, float64 [K, C]."""
        w = self.lsq(name, (self.classes, self.dim))
        return w.q[:, :, 0, 0] * (w.alpha / self._divisor())[:, None]
