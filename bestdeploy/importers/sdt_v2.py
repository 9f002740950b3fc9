"""Spike-driven Transformer v2, Meta-SpikeFormer (published code of 2024).

    downsample  (lif ->) conv, bn: 7x7 stride 2 on pixels, then 3x3 with strides 2, 2, 2, 1
    ConvBlock   x = x + SepConv(x);  x = x + bn(conv3x3(lif(bn(conv3x3(lif x)))))
    SepConv     bn(pw(dw7x7(lif(bn(pw(lif x))))))
    block       x = x + attention(x);  x = x + mlp(x)
    attention   s = lif(x); q, k, v = lif(bn(RepConv s)); bn(RepConv(lif(scale q k^T v)))
    RepConv     bn(pw(dw3x3(bn(pw s)))), the inner bn padded with what it gives for 0
    logits      head(mean over T of lif(mean over tokens of x)); with head_kd the mean of both heads

Nothing fires between the layers of a RepConv, nor between dw and pw of a SepConv. With weights of
up to 8 bits the stages stay apart, each of integers q1, q2, q3 with a step per output channel:

    RepConv     n = q1 s                                integers
                z[c] = a[c] (q2 n)[c] + b[c]            depthwise on integers: a channel keeps its
                                                        factor; the border of the inner norm is in b
                y[o] = a'[o] sum q3[o, c] z[c] + b'[o]  z in the fixed point of the stream
    SepConv     z[c] = a[c] (q2 s)[c], then as above

With steps alpha1, alpha2, gain and shift g1, h1 of the inner norm, D what levels are divided by (1
of spikes): a = alpha2 g1 alpha1 / D, b = h1 alpha2 sum q2 over the window. With 16 bits the sums of
the second stage would leave int32, so the stages are folded into one dense convolution (3x3, 7x7):

    W[o, i, y, x] = a_2o sum_c pw[o, c] dw[c, y, x] a_1c w1[c, i]
    bias[o]       = a_2o sum_c pw[o, c] (sum_yx dw[c, y, x]) b_1c + b_2o

exactly: the padding is what the inner norm gives for 0, so it counts as 0 at the input.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from bestdeploy import ir
from bestdeploy.errors import CheckpointError
from bestdeploy.importers import network as n
from bestdeploy.importers import quantiser, weighted
from bestdeploy.importers import settings as s
from bestdeploy.importers.checkpoint import Checkpoint
from bestdeploy.importers.emitter import EPSILON
from bestdeploy.importers.sdt_v1 import layout_of

__all__ = ["NAME", "SETTINGS", "MetaNetwork", "build", "layout_of", "recognises", "schema"]

NAME = "sdt_v2"
SETTINGS = tuple(
    dataclasses.replace(x, required=True) if x.name == "input" else x for x in weighted.SETTINGS
)
FIRST = "downsample1_1.encode"
_CONV_STAGES = (  # downsampling in front (None: nothing), the block
    (None, "ConvBlock1_1.0"),
    ("downsample1_2", "ConvBlock1_2.0"),
    ("downsample2", "ConvBlock2_1.0"),
    (None, "ConvBlock2_2.0"),
)
_STAGES = (("downsample3", "block3", 2), ("downsample4", "block4", 1))  # with the stride
MAX_STAGED_BITS = 8
_NORM = ("weight", "bias", "running_mean", "running_var")


def recognises(keys: set[str]) -> bool:
    """Tell whether a set of tensor names is a Meta-SpikeFormer with plain weights."""
    return f"{FIRST}_conv.weight" in keys and not any(key.endswith(".alpha") for key in keys)


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
    require_first(checkpoint)
    return weighted.build(_Importer, NAME, schema, checkpoint, sources, None, FIRST)


def require_first(checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint without the first convolution."""
    if f"{FIRST}_conv.weight" not in checkpoint.tensors:
        raise CheckpointError(
            f"`{FIRST}_conv.weight` is missing",
            where=str(checkpoint.path),
            hint="Meta-SpikeFormer begins with a 7x7 convolution of this name",
        )


@dataclasses.dataclass(frozen=True)
class Weights:
    """Real weights float64 [O, I, k, k] on their way to integers.

    Attributes:
        real: the weights.
        scale: steps float64 [O].
        lowest: the least integer.
    """

    real: np.ndarray
    scale: np.ndarray
    lowest: int

    def over(self, divisor: float) -> Weights:
        """Return them for an input that is not divided by `divisor`."""
        return Weights(self.real / divisor, self.scale / divisor, self.lowest)


class MetaNetwork(weighted.WeightedNetwork):
    """Meta-SpikeFormer, layer by layer; QSD-Transformer replaces neurons and layers."""

    def __init__(self, checkpoint: Checkpoint, layout: None, found: s.Resolved) -> None:
        super().__init__(checkpoint, found)
        self.levels = 1  # the largest output of a neuron
        t = self.e.t
        self.layout_name, self.n_pools = "meta", len(_CONV_STAGES)
        self.channels = t.shape(f"{FIRST}_conv.weight", 4)[1]
        self.dim = t.shape("downsample4.encode_conv.weight", 4)[0]
        self.blocks = [self._n_blocks(name) for _, name, _ in _STAGES]
        self.depth = sum(self.blocks)
        self.settle()

    def _trained_bits(self) -> int | None:
        """Return nothing: these networks are trained with real weights."""
        return None

    def _n_blocks(self, stage: str) -> int:
        """Count the blocks of a stage."""
        held = self.checkpoint.tensors
        return sum(f"{stage}.{i}.mlp.fc1_conv.weight" in held for i in range(len(held)))

    # -- linear maps -----------------------------------------------------------------------------

    def _gain(self, bn: str, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Take a batch norm; return its gain and its shift, float64."""
        weight, bias, mean, var = (
            self.e.t.take(f"{bn}.{part}", (width,)).astype(np.float64) for part in _NORM
        )
        if (var < 0).any():
            raise CheckpointError(
                f"`{bn}.running_var` is negative in channel {int(np.argmax(var < 0))}",
                where=str(self.checkpoint.path),
                hint="the file is damaged, or its training has diverged",
            )
        gain = weight / np.sqrt(var + EPSILON)
        return gain, bias - mean * gain

    def spike(self, name: str, x: ir.Value) -> ir.Value:
        """Append a neuron on a stream or behind a layer of its own."""
        return self.e.neuron(name, x)

    def layer(
        self, name: str, bn: str, x: ir.Value, shape: tuple[int, ...], stride: int = 1
    ) -> ir.Value:
        """Append a convolution of spikes and its batch norm."""
        return self.e.weight_conv(name, bn, x, shape, stride=stride)

    def weights(self, name: str, shape: tuple[int, int, int, int]) -> Weights:
        """Take the weights of a layer that become integers, and their steps."""
        w = self.e.t.take(f"{name}.weight", shape).astype(np.float64)
        bits = int(self.config["weight_bits"])
        return Weights(w, quantiser.scales(w, bits), 1 - 2 ** (bits - 1))

    def divisor(self, name: str) -> float:
        """Return what the levels that a layer reads are divided by."""
        return 1.0

    def branch(self, name: str, width: int) -> np.ndarray:
        """Return what a residual branch is multiplied by behind its last layer, float64 [C]."""
        return np.ones(width)

    def _held(self, name: str, kernel: np.ndarray, w: Weights) -> tuple[list[ir.Value], Any]:
        """Register a kernel and its steps; return them, and what every kind of layer says."""
        held = [self.e.b.initializer(f"{name}.{part}", array)
                for part, array in (("weight", kernel), ("scale", w.scale))]  # fmt: skip
        return held, {"weight_bits": int(self.config["weight_bits"]), "lowest": w.lowest}

    def sums(self, name: str, x: ir.Value, w: Weights, stride: int = 1) -> ir.Value:
        """Append a convolution of spikes or levels [O, I, k, k]."""
        bits = int(self.config["weight_bits"])
        return self.e.scaled_conv(name, x, w.real, w.scale, bits, lowest=w.lowest,
                                  levels=self.levels, stride=stride)  # fmt: skip

    def depthwise(self, name: str, x: ir.Value, w: Weights) -> ir.Value:
        """Append a depthwise convolution [C, 1, k, k]."""
        held, said = self._held(name, w.real[:, 0].transpose(1, 2, 0)[None].copy(), w)
        return self.e.op("DepthwiseConv", x, *held, name=name, strides=[1, 1],
                         pads=[w.real.shape[-1] // 2] * 4, **said)  # fmt: skip

    def pointwise(self, name: str, x: ir.Value, w: Weights) -> ir.Value:
        """Append a 1x1 convolution of a stream."""
        held, said = self._held(name, w.real.transpose(0, 2, 3, 1).copy(), w)
        return self.e.op("PointwiseConv", x, *held, name=name, **said)

    def rep_conv(self, p: str, x: ir.Value, width: int) -> ir.Value:
        """Append a RepConv and the batch norm behind it."""
        inner, square = f"{p}.0.body", (width, width, 1, 1)
        first = self.weights(f"{inner}.0", square).over(self.divisor(p))
        window = self.weights(f"{inner}.2.0", (width, 1, 3, 3))
        last = self.weights(f"{inner}.2.1", square)
        gain1, shift1 = self._gain(f"{inner}.1.bn", width)
        gain2, shift2 = self._gain(f"{inner}.2.2", width)
        outer, outer_shift = self._gain(f"{p}.1", width)
        factor = self.branch(p, width)
        gain, shift = factor * outer * gain2, factor * (outer * shift2 + outer_shift)
        border = window.real.sum(axis=(1, 2, 3)) * shift1
        if self.config["weight_bits"] > MAX_STAGED_BITS:
            dense = np.einsum("oc,cyx,ci->oiyx", last.real[:, :, 0, 0], window.real[:, 0],
                              gain1[:, None] * first.real[:, :, 0, 0], optimize=True)  # fmt: skip
            y = self.e.integer_conv(p, x, dense)
            return self.e.affine(f"{p}.1", y, gain, gain * (last.real[:, :, 0, 0] @ border) + shift)
        n1 = self.sums(f"{inner}.0", x, first)
        z = self.depthwise(f"{inner}.2.0", n1, window)
        z = self.e.affine(f"{inner}.1.bn", z, gain1, border)
        return self.e.affine(f"{p}.1", self.pointwise(f"{inner}.2.1", z, last), gain, shift)

    def sep_conv(self, p: str, x: ir.Value, width: int) -> ir.Value:
        """Append a SepConv on a stream."""
        wide = self.e.t.shape(f"{p}.pwconv1.weight", 4)[0]
        spikes = self.spike(f"{p}.lif1", x)
        y = self.layer(f"{p}.pwconv1", f"{p}.bn1", spikes, (wide, width, 1, 1))
        spikes = self.spike(f"{p}.lif2", y)
        window = self.weights(f"{p}.dwconv", (wide, 1, 7, 7)).over(self.divisor(p))
        last = self.weights(f"{p}.pwconv2", (width, wide, 1, 1))
        if self.config["weight_bits"] > MAX_STAGED_BITS:
            y = self.e.integer_conv(f"{p}.dwconv", spikes, last.real * window.real[None, :, 0])
        else:
            z = self.depthwise(f"{p}.dwconv", spikes, window)
            z = self.e.affine(f"{p}.dwconv.scaled", z, np.ones(wide), np.zeros(wide))
            y = self.pointwise(f"{p}.pwconv2", z, last)
        return self.e.affine(f"{p}.bn2", y, *self._gain(f"{p}.bn2", width))

    # -- blocks ----------------------------------------------------------------------------------

    def add(self, name: str, x: ir.Value, y: ir.Value) -> ir.Value:
        """Append a residual on the stream."""
        return self.e.op("ReversibleMix", y, x, x, name=name)

    def downsample(self, name: str, x: ir.Value, n_in: int, stride: int) -> tuple[ir.Value, int]:
        """Append a neuron and a strided convolution; the stream and its width."""
        e, key = self.e, f"{name}.encode_conv"
        n_out = e.t.shape(f"{key}.weight", 4)[0]
        spikes = self.spike(f"{name}.encode_lif", x)
        y = self.layer(key, f"{name}.encode_bn", spikes, (n_out, n_in, 3, 3), stride)
        return y, n_out

    def conv_block(self, p: str, x: ir.Value, width: int) -> ir.Value:
        """Append a block of the first two stages."""
        e = self.e
        x = self.add(f"{p}.Conv.residual", x, self.sep_conv(f"{p}.Conv", x, width))
        wide = e.t.shape(f"{p}.conv1.weight", 4)[0]
        spikes = self.spike(f"{p}.lif1", x)
        y = self.layer(f"{p}.conv1", f"{p}.bn1", spikes, (wide, width, 3, 3))
        spikes = self.spike(f"{p}.lif2", y)
        y = self.layer(f"{p}.conv2", f"{p}.bn2", spikes, (width, wide, 3, 3))
        return self.add(f"{p}.residual", x, y)

    def attention(self, p: str, x: ir.Value, width: int) -> ir.Value:
        """Append the attention branch on a stream."""
        spikes = self.spike(f"{p}.head_lif", x)
        q, k, v = (
            self.spike(f"{p}.{a}_lif", self.rep_conv(f"{p}.{a}_conv", spikes, width)) for a in "qkv"
        )
        return self.rep_conv(f"{p}.proj_conv", self.product(p, q, k, v), width)

    def mlp(self, p: str, x: ir.Value, width: int) -> ir.Value:
        """Append the MLP branch on a stream."""
        e = self.e
        hidden = e.t.shape(f"{p}.fc1_conv.weight", 3)[0]
        spikes = self.spike(f"{p}.fc1_lif", x)
        y = self.layer(f"{p}.fc1_conv", f"{p}.fc1_bn", spikes, (hidden, width, 1))
        spikes = self.spike(f"{p}.fc2_lif", y)
        return self.layer(f"{p}.fc2_conv", f"{p}.fc2_bn", spikes, (width, hidden, 1))

    def first(self, pixels: ir.Value, width: int) -> ir.Value:
        """Append the convolution of the pixels and its batch norm."""
        return self.e.real_conv(f"{FIRST}_conv", f"{FIRST}_bn", pixels, self.channels, width, 7,
                                2)  # fmt: skip

    def head_weight(self, name: str) -> np.ndarray:
        """Take the weights of a head, float64 [K, C]."""
        return self.e.t.take(f"{name}.weight", (self.classes, self.dim)).astype(np.float64)

    def stem(self, image: ir.Value) -> tuple[ir.Value, int]:
        """Append the first convolution; the stream and its width."""
        e = self.e
        width = e.t.shape(f"{FIRST}_conv.weight", 4)[0]
        x = self.first(self.pixels(image), width)
        if not n.is_events(self.config):
            x = e.b.op(f"Repeat_T{e.n_steps}", x, domain=ir.DOMAIN, name=f"{FIRST}_steps",
                       output_names=[f"{FIRST}_steps.out"])  # fmt: skip
        return x, width

    def head(self, features: ir.Value) -> ir.Value:
        """Append the head, or the mean of both: they read the same features."""
        e, names = self.e, ["head"]
        if "head_kd.weight" in self.checkpoint.tensors:
            names.append("head_kd")
        weights = [self.head_weight(m) for m in names]
        biases = [e.t.take(f"{m}.bias", (self.classes,)) for m in names]
        w = np.mean(weights, axis=0).T.copy()
        y = e.b.op("MatMul", features, e.b.initializer("head.weight", w), name="head.matmul")
        bias = np.mean(np.array(biases, np.float64), axis=0)
        return e.b.op("Add", y, e.b.initializer("head.bias", bias), name="head.add")

    def logits_of(self, image: ir.Value) -> ir.Value:
        """Append every layer."""
        e, (x, width) = self.e, self.stem(image)
        for down, block in _CONV_STAGES:
            if down is not None:
                x, width = self.downsample(down, x, width, 2)
            x = self.conv_block(block, x, width)
        for (down, stage, stride), count in zip(_STAGES, self.blocks, strict=True):
            x, width = self.downsample(down, x, width, stride)
            for i in range(count):
                p = f"{stage}.{i}"
                x = self.add(f"{p}.attn.residual", x, self.attention(f"{p}.attn", x, width))
                x = self.add(f"{p}.mlp.residual", x, self.mlp(f"{p}.mlp", x, width))
        spikes = self.spike("lif", e.op("TokenMean", x, name="head.tokens"))
        features = e.mean("head.mean", e.b.op("Cast", spikes, to=11, name="head.spikes"))
        return self.head(features)


class _Importer(MetaNetwork):
    """Spike-driven Transformer v2."""

    NAME = NAME
