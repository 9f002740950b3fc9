"""What the families share when they emit a spiking graph: neurons, batch norms, convolutions.

An emitter takes tensors by their published names, checks them, and appends nodes whose names are
the published ones, so that every later report speaks the checkpoint's language.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bestdeploy import ir
from bestdeploy.errors import CheckpointError
from bestdeploy.importers import quantiser
from bestdeploy.importers.checkpoint import Checkpoint, Tensors
from bestdeploy.ops.binary_conv import binarise, deviations

EPSILON = 1e-5  # of every batch norm of the published code
_BATCH_NORM = ("weight", "bias", "running_mean", "running_var")


class Emitter:
    """Appends nodes to one graph while taking the tensors of one checkpoint.

    Attributes:
        b: the graph under construction.
        t: the tensors, each taken once.
        config: resolved settings; `tau`, `decay_input`, `v_threshold` and `variant` are used here.
        n_steps: T.
        warnings: sentences for the user.
    """

    def __init__(self, checkpoint: Checkpoint, config: Mapping[str, Any], n_steps: int) -> None:
        self.b = ir.Builder()
        self.t = Tensors(checkpoint)
        self.checkpoint = checkpoint
        self.config = config
        self.n_steps = n_steps
        self.warnings: list[str] = []

    def op(self, op_type: str, *inputs: ir.Value, name: str, **attrs: Any) -> ir.Value:
        """Append one of our ops."""
        return self.b.op(
            op_type, *inputs, domain=ir.DOMAIN, name=name, output_names=[f"{name}.out"], **attrs
        )

    def pixels(
        self,
        image: ir.Value,
        *,
        white: float,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        frames: bool,
    ) -> ir.Value:
        """Normalise: (p/white - mean)/std, float64 [B, H, W, C], or [T, B, H, W, C] of frames."""
        b = self.b
        mu = b.initializer("image.mean", np.array(mean, np.float64))
        sigma = b.initializer("image.std", np.array(std, np.float64))
        full = b.initializer("image.white", np.array(white))
        x = image
        if frames:
            x = b.op("Transpose", x, perm=[1, 0, 2, 3, 4], name="image.steps")
        x = b.op("Cast", x, to=11, name="image.real")
        x = b.op("Div", x, full, name="image.unit")
        return b.op("Div", b.op("Sub", x, mu, name="image.centred"), sigma, name="image.normalised")

    def neuron(
        self,
        name: str,
        x: ir.Value,
        *,
        constant: bool = False,
        threshold: float | None = None,
        **changed: Any,
    ) -> ir.Value:
        """Append a neuron; its spikes carry its published name.

        Args:
            name: of the neuron.
            x: input [T, ...], or [...] where it is `constant` over time.
            constant: the input has no time axis.
            threshold: instead of the model's v_threshold.
            changed: attributes that differ from the model's neurons (tau, soft_reset, ...).
        """
        theta = self.config["v_threshold"] if threshold is None else threshold
        attributes = {
            "tau": float(np.float32(self.config["tau"])),
            "v_threshold": float(np.float32(theta)),
            "v_reset": 0.0,
            "soft_reset": 0,
            "decay_input": int(self.config["decay_input"]),
        }
        return self.b.op(
            f"{'ConstantLif' if constant else 'Lif'}_T{self.n_steps}",
            x,
            domain=ir.DOMAIN,
            name=name,
            output_names=[name],
            **{**attributes, **changed},
        )

    def batch_norm(self, name: str, x: ir.Value, width: int, bias: np.ndarray | None) -> ir.Value:
        """Append a batch norm; `bias` is that of the convolution in front of it."""
        parts = [self.t.take(f"{name}.{p}", (width,)) for p in _BATCH_NORM]
        var = parts[3]
        if (var < 0).any():
            channel = int(np.argmax(var < 0))
            raise CheckpointError(
                f"`{name}.running_var` is {var[channel]} in channel {channel}: "
                "a variance is never negative",
                where=str(self.checkpoint.path),
                hint="the file is damaged, or its training has diverged",
            )
        if (var == 0).any():
            self.warnings.append(f"{name}: {int((var == 0).sum())} channels have variance 0")
        shift = np.zeros(width, np.float32) if bias is None else bias
        constants = [
            self.b.initializer(f"{name}.{p}", a) for p, a in zip(_BATCH_NORM, parts, strict=True)
        ]
        constants.append(self.b.initializer(f"{name}.conv_bias", shift))
        constants.append(self.b.initializer(f"{name}.epsilon", np.array(EPSILON)))
        return self.op("BatchNorm", x, *constants, name=name)

    def bias(self, name: str, width: int) -> np.ndarray | None:
        """Take the bias of a layer [C], None where it has none."""
        key = f"{name}.bias"
        return self.t.take(key, (width,)) if key in self.checkpoint.tensors else None

    def affine(self, name: str, x: ir.Value, gain: np.ndarray, shift: np.ndarray) -> ir.Value:
        """Append gain x + shift per channel, both float64 [C]: a batch norm that is folded."""
        held = [self.b.initializer(f"{name}.{p}", v) for p, v in (("a", gain), ("b", shift))]
        return self.op("ChannelAffine", x, *held, name=name)

    def real_conv(self, name: str, bn: str, x: ir.Value, n_in: int, n_out: int, k: int = 3,
                  stride: int = 1, pad: int | None = None) -> ir.Value:  # fmt: skip
        """Append a real convolution of k x k, padded by k // 2 or `pad`, and its batch norm."""
        w = self.t.take(f"{name}.weight", (n_out, n_in, k, k))
        kernel = self.b.initializer(f"{name}.weight", w.transpose(0, 2, 3, 1).astype(np.float64))
        y = self.op("RealConv", x, kernel, name=name, strides=[stride] * 2,
                    pads=[k // 2 if pad is None else pad] * 4)  # fmt: skip
        return self.batch_norm(bn, y, n_out, self.bias(name, n_out))

    def binary_conv(self, name: str, x: ir.Value, n_in: int, n_out: int, k: int, rank: int = 4,
                    bn: str | None = None, stride: int = 1, pad: int | None = None,
                    levels: int = 1) -> ir.Value:  # fmt: skip
        """Append a binary convolution and its batch norm `bn`: `name` with `_bn` for `_conv`.

        Its input is spikes, or levels 0 .. `levels`: their weights are the signs themselves, which
        `quantise` makes one-bit integers.
        """
        shape = (n_out, n_in, k, k)[:rank]
        latent = self.t.take(f"{name}.weight", shape).reshape(n_out, n_in, k, k)
        y = self.binary_sums(name, x, latent, stride=stride, pad=k // 2 if pad is None else pad,
                             levels=levels)  # fmt: skip
        bn = name.removesuffix("_conv") + "_bn" if bn is None else bn
        return self.batch_norm(bn, y, n_out, self.bias(name, n_out))

    def binary_sums(
        self, name: str, x: ir.Value, latent: np.ndarray, *, stride: int, pad: int, levels: int = 1
    ) -> ir.Value:
        """Append a binary convolution with latent weights [O, I, k, k], without a batch norm.

        Its input is spikes, or levels 0 .. `levels`.
        """
        signs = self.signs(name, latent)
        if levels > 1:
            return self.scaled_conv(name, x, signs, np.ones(len(latent)), 1, levels=levels,
                                    stride=stride, pad=pad)  # fmt: skip
        w = self.b.initializer(f"{name}.weight", latent.transpose(0, 2, 3, 1))
        return self.op("BinaryConv", x, w, name=name, strides=[stride] * 2, pads=[pad] * 4,
                       sign_of_zero=int(self.config["variant"] == "paper"))  # fmt: skip

    def signs(self, name: str, latent: np.ndarray) -> np.ndarray:
        """Return the signs +-1 of latent weights, float32 [O, I, k, k]."""
        zeros, paper = int((deviations(latent) == 0).sum()), self.config["variant"] == "paper"
        if zeros and not paper:
            raise CheckpointError(
                f"`{name}.weight`: {zeros} weights equal their row mean, their sign is 0",
                where=str(self.checkpoint.path),
                hint="variant=paper gives them +1; the official code gives 0, which no bit holds",
            )
        return binarise(latent, int(paper)).astype(np.float32)

    def weight_conv(
        self,
        name: str,
        bn: str,
        x: ir.Value,
        shape: tuple[int, ...],
        *,
        levels: int = 1,
        trained_bits: int | None = None,
        stride: int = 1,
        pad: int | None = None,
    ) -> ir.Value:
        """Append a convolution whose real weights become integers, and its batch norm.

        Args:
            name: of the convolution; `<name>.weight`, and `<name>.bias` where there is one.
            bn: of the batch norm.
            x: spikes, or levels up to `levels`.
            shape: of the tensor: (O, I), (O, I, 1) or (O, I, k, k).
            levels: the largest input.
            trained_bits: the trained network has weights of that many bits itself.
            stride: of both axes.
            pad: on every side; None = k // 2.
        """
        n_out, n_in, k = shape[0], shape[1], shape[2] if len(shape) == 4 else 1
        w = self.t.take(f"{name}.weight", shape).reshape(n_out, n_in, k, k)
        if trained_bits is not None:
            w = quantiser.quantised(w, quantiser.scales(w, trained_bits), trained_bits)
        y = self.integer_conv(name, x, w, levels=levels, stride=stride, pad=pad)
        return self.batch_norm(bn, y, n_out, self.bias(name, n_out))

    def integer_conv(
        self,
        name: str,
        x: ir.Value,
        w: np.ndarray,
        *,
        levels: int = 1,
        stride: int = 1,
        pad: int | None = None,
    ) -> ir.Value:
        """Append a convolution with given real weights [O, I, k, k] that become integers."""
        bits = int(self.config["weight_bits"])
        scale = quantiser.scales(w, bits)
        return self.scaled_conv(name, x, w, scale, bits, levels=levels, stride=stride, pad=pad)

    def scaled_conv(self, name: str, x: ir.Value, w: np.ndarray, scale: np.ndarray, bits: int, *,
                    lowest: int | None = None, levels: int = 1, stride: int = 1,
                    pad: int | None = None) -> ir.Value:  # fmt: skip
        """Append a WeightConv: w [O, I, k, k], of `bits` bits in units of `scale` float64 [O].

        Its least integer is `lowest`; None = as far below 0 as the greatest lies above.
        """
        k = w.shape[2]
        kernel = self.b.initializer(f"{name}.weight", w.transpose(0, 2, 3, 1).copy())
        held = self.b.initializer(f"{name}.scale", scale)
        return self.op(
            "WeightConv", x, kernel, held, name=name, strides=[stride] * 2,
            pads=[k // 2 if pad is None else pad] * 4, weight_bits=bits,
            lowest=1 - 2 ** (bits - 1) if lowest is None else lowest, levels=levels,
        )  # fmt: skip

    def pool(self, name: str, spikes: ir.Value) -> ir.Value:
        """Append the published max-pool (3x3, stride 2, padding 1) of spikes."""
        return self.op("OrPool", spikes, name=name, kernel_shape=[3, 3], strides=[2, 2],
                       pads=[1] * 4)  # fmt: skip

    def depthwise_conv(self, name: str, x: ir.Value, w: np.ndarray, scale: np.ndarray, bits: int, *,
                       lowest: int | None = None, stride: int = 1, pad: int = 0
                       ) -> ir.Value:  # fmt: skip
        """Append a DepthwiseConv: w [C, 1, k, k], of `bits` bits in units of `scale` [C]."""
        kernel = w[:, 0].transpose(1, 2, 0)[None].copy()
        held = [self.b.initializer(f"{name}.{part}", a)
                for part, a in (("weight", kernel), ("scale", scale))]  # fmt: skip
        return self.op("DepthwiseConv", x, *held, name=name, strides=[stride] * 2, pads=[pad] * 4,
                       weight_bits=bits,
                       lowest=1 - 2 ** (bits - 1) if lowest is None else lowest)  # fmt: skip

    def level_sum(self, name: str, x: ir.Value, width: int, levels: int, *, k: int, stride: int,
                  pad: int) -> ir.Value:  # fmt: skip
        """Append sums of levels over windows of k x k, levels 0 .. `levels` themselves.

        A depthwise convolution of ones takes them into the stream, where levels are read off.
        """
        y = self.in_stream(name, x, width, k=k, stride=stride, pad=pad)
        return self._levels(name, y, levels)

    def level_pool(self, name: str, x: ir.Value, width: int, levels: int, **window: list[int]
                   ) -> ir.Value:  # fmt: skip
        """Append a maximum of levels 0 .. `levels` over windows, levels themselves.

        The maximum is one of a stream: a depthwise convolution with one weight of 1 takes the
        levels into it as they are, and levels are read off it again. All three are exact.

        Args:
            name: of the pool.
            x: levels [T, B, H, W, C].
            width: C.
            levels: the largest, at most what a LevelNeuron tells apart.
            window: kernel_shape, strides and pads.
        """
        y = self.op("RealMaxPool", self.in_stream(name, x, width), name=f"{name}.max", **window)
        return self._levels(name, y, levels)

    def in_stream(self, name: str, x: ir.Value, width: int, *, divisor: int = 1, k: int = 1,
                  stride: int = 1, pad: int = 0) -> ir.Value:  # fmt: skip
        """Append spikes or levels as a stream, or sums of theirs, by a convolution of ones."""
        y = self.depthwise_conv(f"{name}.in", x, np.ones((width, 1, k, k)), np.ones(width), 1,
                                lowest=0, stride=stride, pad=pad)  # fmt: skip
        return self.affine(f"{name}.stream", y, np.ones(width) / divisor, np.zeros(width))

    def _levels(self, name: str, x: ir.Value, levels: int) -> ir.Value:
        """Append what reads whole numbers off a stream."""
        return self.b.op("LevelNeuron", x, domain=ir.DOMAIN, name=name, output_names=[name],
                         levels=levels, gain=1.0)  # fmt: skip

    def mean(self, name: str, x: ir.Value) -> ir.Value:
        """Append the mean over time and tokens, float64 [B, D]."""
        return self.b.op("ReduceMean", x, axes=[0, 2, 3], keepdims=0, name=name,
                         output_names=[name])  # fmt: skip

    def classifier(self, name: str, features: ir.Value, width: int, classes: int) -> ir.Value:
        """Append a linear head on features [B, D]."""
        w = self.t.take(f"{name}.weight", (classes, width)).astype(np.float64)
        bias = self.t.take(f"{name}.bias", (classes,)).astype(np.float64)
        return self.head(name, features, w, bias)

    def head(self, name: str, features: ir.Value, w: np.ndarray, bias: np.ndarray) -> ir.Value:
        """Append w x + bias on features [B, D], both float64: w [K, D], bias [K]."""
        b = self.b
        y = b.op("MatMul", features, b.initializer(f"{name}.weight", w.T.copy()),
                 name=f"{name}.matmul")  # fmt: skip
        return b.op("Add", y, b.initializer(f"{name}.bias", bias), name=f"{name}.add")
