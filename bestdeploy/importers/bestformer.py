"""BESTformer with q k^T attention, CIFAR layout ([bestformer], published code of 2025).

    tokenizer   conv0 (real) . lif . conv1 . lif . conv2 . lif . pool . conv3 . lif . pool . conv4
    block       x2 = BSSA(x1) + (x0 + x1)/2;  x3 = BMLP(x2) + (x1 + x2)/2;  first block x0 = x1
    logits      (head(mean x0) + head2(mean x1)) / 2          official
                head(mean x0)                                 paper
Keys and shapes are those of the published checkpoints; D, depth, T, heads, classes and channels
are read from the shapes. What shapes cannot say are the settings below.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from bestdeploy import ir, stages
from bestdeploy.errors import CheckpointError, UnsupportedModelError
from bestdeploy.importers import settings as s
from bestdeploy.importers.checkpoint import Checkpoint, Tensors
from bestdeploy.ops import MAX_STEPS
from bestdeploy.ops.binary_conv import deviations

NAME = "bestformer"
EPSILON = 1e-5
MAX_TOKENS = 1024
_COLORS = {1: "gray", 3: "rgb"}  # what an image file is turned into

SETTINGS = (
    s.Setting("image_size", s.image_size, "a number in 1..4096, or [height, width]",
              aliases=("img_size",), usual="32"),
    s.Setting("mean", s.numbers, "one number per channel", usual="0.4914,0.4822,0.4465"),
    s.Setting("std", s.numbers, "one number per channel", usual="0.2470,0.2435,0.2616"),
    s.Setting("attention", s.choice("qk", "kv"), "qk or kv", aliases=("attn_form",), usual="qk"),
    s.Setting("tau", s.number(1.0, 1e6), "a number >= 1", usual="2.0"),
    s.Setting("decay_input", s.boolean, "true or false", usual="true"),
    s.Setting("variant", s.choice("official", "paper"), "official or paper", usual="official"),
    s.Setting("attn_scale", s.number(1e-6, 1e3), "a number in [1e-6, 1000]", default=0.125,
              required=False),
    s.Setting("v_threshold", s.number(1e-6, 1e3), "a number in [1e-6, 1000]", default=1.0,
              required=False),
    s.Setting("attn_v_threshold", s.number(1e-6, 1e3), "a number in [1e-6, 1000]", default=0.5,
              required=False),
    s.Setting("interpolation", s.choice("bicubic", "bilinear", "nearest", "lanczos"),
              "bicubic, bilinear, nearest or lanczos", default="bicubic", required=False),
    s.Setting("crop_pct", s.number(0.1, 1.0), "a number in [0.1, 1]", default=1.0,
              required=False),
    s.Setting("class_names", s.names, "a list of names", required=False),
)  # fmt: skip


def recognises(keys: set[str]) -> bool:
    """Tell whether a set of tensor names is a BESTformer of the CIFAR layout."""
    return {"block.0.attn.lambda_attn", "patch_embed.block0_conv.weight"} <= keys


def build(checkpoint: Checkpoint, sources: Mapping[str, Mapping[str, Any]]) -> ir.Model:
    """Build the spiking graph of a checkpoint.

    Args:
        checkpoint: tensors by published name.
        sources: setting sources, strongest first; see `settings.resolve`.

    Raises:
        CheckpointError: missing, extra, mis-shaped or non-finite tensors.
        UnsupportedModelError: a missing setting, or a form that is not supported.
    """
    config = s.resolve(SETTINGS, sources, family=NAME)
    _check_supported(config)
    return _Importer(checkpoint, config).model()


def _check_supported(config: Mapping[str, Any]) -> None:
    if config["attention"] != "qk":
        raise UnsupportedModelError(
            f"attention={config['attention']}: only qk is supported",
            where=f"family {NAME}",
            hint="CIFAR checkpoints of the published code use --set attention=qk",
        )
    if config["variant"] != "official":
        raise UnsupportedModelError(
            f"variant={config['variant']}: only official is supported", where=f"family {NAME}"
        )
    height, width = config["image_size"]
    n_tokens = -(-height // 4) * -(-width // 4)
    if n_tokens > MAX_TOKENS:
        raise UnsupportedModelError(
            f"image_size={config['image_size']} gives {n_tokens} tokens, at most {MAX_TOKENS}",
            where="setting image_size",
        )


class _Importer:
    """Walks the network in order, emitting nodes and taking tensors."""

    def __init__(self, checkpoint: Checkpoint, config: dict[str, Any]) -> None:
        self.b = ir.Builder()
        self.t = Tensors(checkpoint)
        self.checkpoint = checkpoint
        self.config = config
        self.warnings: list[str] = []
        c0, self.channels, _, _ = self.t.shape("patch_embed.block0_conv.weight", 4)
        self.dim = self.t.shape("patch_embed.block4_conv.weight", 4)[0]
        keys = checkpoint.tensors
        self.depth = sum(f"block.{i}.attn.lambda_attn" in keys for i in range(len(keys)))
        self.widths = [c0, *(self.t.shape(f"patch_embed.block{i}_conv.weight", 4)[0]
                             for i in range(1, 5))]  # fmt: skip
        self.n_steps, self.heads = self._steps_and_heads()
        self.classes = self.t.shape("head.weight", 2)[0]
        self._check_geometry()

    def _steps_and_heads(self) -> tuple[int, int]:
        shape = self.t.shape("block.0.attn.lambda_attn", 5)
        n_steps, heads = shape[0], shape[2]
        given = self.checkpoint.args.get("num_heads")
        if isinstance(given, int) and given != heads:
            raise CheckpointError(
                f"args say num_heads={given}, lambda_attn has {heads} heads",
                where="block.0.attn.lambda_attn",
                hint="a single lambda per layer is the paper's variant, which is not supported yet",
            )
        if not 1 <= n_steps <= MAX_STEPS:
            raise UnsupportedModelError(f"T={n_steps} time steps, supported are 1..{MAX_STEPS}")
        stated = self.checkpoint.args.get("time_step")
        if isinstance(stated, int) and stated != n_steps:
            self.warnings.append(
                f"args say time_step={stated}, lambda_attn has {n_steps} steps: {n_steps} is used"
            )
        return n_steps, heads

    def _check_geometry(self) -> None:
        if self.dim % self.heads:
            raise CheckpointError(f"width D={self.dim} is not a multiple of {self.heads} heads")
        for key in ("mean", "std"):
            if len(self.config[key]) != self.channels:
                raise UnsupportedModelError(
                    f"{key} has {len(self.config[key])} numbers, the image has {self.channels} "
                    "channels",
                    where=f"setting {key}",
                )
        if min(self.config["std"]) <= 0:
            raise UnsupportedModelError(f"std={self.config['std']}: must be positive")

    # -- nodes ---------------------------------------------------------------------------------

    def op(self, op_type: str, *inputs: ir.Value, name: str, **attrs: Any) -> ir.Value:
        return self.b.op(
            op_type, *inputs, domain=ir.DOMAIN, name=name, output_names=[f"{name}.out"], **attrs
        )

    def neuron(self, name: str, x: ir.Value, *, threshold: float | None = None, soft: bool = False,
               constant: bool = False) -> ir.Value:  # fmt: skip
        """Emit a neuron; its spikes carry its published name."""
        theta = self.config["v_threshold"] if threshold is None else threshold
        return self.b.op(
            f"{'ConstantLif' if constant else 'Lif'}_T{self.n_steps}",
            x,
            domain=ir.DOMAIN,
            name=name,
            output_names=[name],
            tau=float(np.float32(self.config["tau"])),
            v_threshold=float(np.float32(theta)),
            v_reset=0.0,
            soft_reset=int(soft),
            decay_input=int(self.config["decay_input"]),
        )

    def batch_norm(self, name: str, x: ir.Value, width: int) -> ir.Value:
        parts = [self.t.take(f"{name}.{p}", (width,))
                 for p in ("weight", "bias", "running_mean", "running_var")]  # fmt: skip
        var = parts[3]
        if (var < 0).any():
            channel = int(np.argmax(var < 0))
            raise CheckpointError(
                f"`{name}.running_var` is {var[channel]} in channel {channel}: "
                "a variance is never negative",
                where=str(self.checkpoint.path),
            )
        if (var == 0).any():
            self.warnings.append(f"{name}: {int((var == 0).sum())} channels have variance 0")
        bias = np.zeros(width, np.float32)
        constants = [
            self.b.initializer(f"{name}.{p}", a)
            for p, a in zip(("weight", "bias", "running_mean", "running_var"), parts, strict=True)
        ]
        constants.append(self.b.initializer(f"{name}.conv_bias", bias))
        constants.append(self.b.initializer(f"{name}.epsilon", np.array(EPSILON)))
        return self.op("BatchNorm", x, *constants, name=name)

    def binary_conv(self, name: str, x: ir.Value, n_in: int, n_out: int, k: int, rank: int = 4
                    ) -> ir.Value:  # fmt: skip
        """Emit a binary convolution and its batch norm; `name` ends in `_conv`."""
        shape = (n_out, n_in, k, k)[:rank]
        latent = self.t.take(f"{name}.weight", shape).reshape(n_out, n_in, k, k)
        zeros = int((deviations(latent) == 0).sum())
        paper = self.config["variant"] == "paper"
        if zeros and not paper:
            raise CheckpointError(
                f"`{name}.weight`: {zeros} weights equal their row mean, their sign is 0",
                where=str(self.checkpoint.path),
                hint="variant=paper gives them +1; the official code gives 0, which no bit holds",
            )
        w = self.b.initializer(f"{name}.weight", latent.transpose(0, 2, 3, 1))
        y = self.op("BinaryConv", x, w, name=name, strides=[1, 1], pads=[k // 2] * 4,
                    sign_of_zero=int(paper))  # fmt: skip
        return self.batch_norm(name.removesuffix("_conv") + "_bn", y, n_out)

    # -- parts ---------------------------------------------------------------------------------

    def tokenizer(self, image: ir.Value) -> ir.Value:
        b, c, prefix = self.b, self.config, "patch_embed.block"
        mean = b.initializer("image.mean", np.array(c["mean"], np.float64))
        std = b.initializer("image.std", np.array(c["std"], np.float64))
        full = b.initializer("image.white", np.array(255.0))
        x = b.op("Cast", image, to=11, name="image.real")
        x = b.op("Div", x, full, name="image.unit")
        x = b.op("Div", b.op("Sub", x, mean, name="image.centred"), std, name="image.normalised")
        w = self.t.take(f"{prefix}0_conv.weight", (self.widths[0], self.channels, 3, 3))
        kernel = b.initializer(f"{prefix}0_conv.weight", w.transpose(0, 2, 3, 1).astype(np.float64))
        y = self.op("RealConv", x, kernel, name=f"{prefix}0_conv", strides=[1, 1], pads=[1] * 4)
        y = self.batch_norm(f"{prefix}0_bn", y, self.widths[0])
        for i in range(1, 5):
            spikes = self.neuron(f"{prefix}{i}_lif", y, constant=i == 1)
            if i >= 3:
                spikes = self.op("OrPool", spikes, name=f"{prefix}{i}_mp", kernel_shape=[3, 3],
                                 strides=[2, 2], pads=[1] * 4)  # fmt: skip
            y = self.binary_conv(f"{prefix}{i}_conv", spikes, self.widths[i - 1], self.widths[i], 3)
        return y

    def attention(self, prefix: str, x: ir.Value) -> ir.Value:
        d = self.dim
        spikes = self.neuron(f"{prefix}.proj_lif", x)
        q, k, v = (
            self.neuron(
                f"{prefix}.{n}_lif",
                self.binary_conv(f"{prefix}.{n}_conv", spikes, d, d, 1, rank=3),
            )
            for n in "qkv"
        )
        counts = self.op("Scores", q, k, name=f"{prefix}.scores", heads=self.heads)
        attention = self.neuron(f"{prefix}.attn_lif0", counts, soft=True)
        m = self.op("Values", attention, v, name=f"{prefix}.values", heads=self.heads)
        gain = self.b.initializer(f"{prefix}.gain", self.gain(prefix))
        z = self.op("HeadScale", m, gain, name=f"{prefix}.scaled")
        mixed = self.neuron(f"{prefix}.attn_lif", z, threshold=self.config["attn_v_threshold"])
        return self.binary_conv(f"{prefix}.proj_conv", mixed, d, d, 1, rank=3)

    def gain(self, prefix: str) -> np.ndarray:
        """Scale times lambda, float64 [T, heads]: a product of two float32, hence exact."""
        key = f"{prefix}.lambda_attn"
        values = self.t.take(key, (self.n_steps, 1, self.heads, 1, 1))
        values = values.reshape(self.n_steps, self.heads).astype(np.float64)
        dead = int((values <= 0).all(axis=0).sum())
        if dead:
            self.warnings.append(f"{key}: {dead} of {self.heads} heads never fire (lambda <= 0)")
        return values * np.float64(np.float32(self.config["attn_scale"]))

    def mlp(self, prefix: str, x: ir.Value) -> ir.Value:
        hidden = self.t.shape(f"{prefix}.mlp1_conv.weight", 4)[0]
        spikes = self.neuron(f"{prefix}.mlp1_lif", x)
        y = self.binary_conv(f"{prefix}.mlp1_conv", spikes, self.dim, hidden, 1)
        spikes = self.neuron(f"{prefix}.mlp2_lif", y)
        return self.binary_conv(f"{prefix}.mlp2_conv", spikes, hidden, self.dim, 1)

    def head(self, name: str, x: ir.Value) -> ir.Value:
        b = self.b
        w = self.t.take(f"{name}.weight", (self.classes, self.dim)).astype(np.float64)
        bias = self.t.take(f"{name}.bias", (self.classes,)).astype(np.float64)
        mean = b.op("ReduceMean", x, axes=[0, 2, 3], keepdims=0, name=f"{name}.mean",
                    output_names=[f"{name}.mean"])  # fmt: skip
        y = b.op("MatMul", mean, b.initializer(f"{name}.weight", w.T.copy()), name=f"{name}.matmul")
        return b.op("Add", y, b.initializer(f"{name}.bias", bias), name=f"{name}.add")

    def model(self) -> ir.Model:
        """Emit everything and wrap it up."""
        height, width = self.config["image_size"]
        image = ir.typed_value("image", np.uint8, ["B", height, width, self.channels])
        x1 = self.tokenizer(image)
        x0 = x1
        for i in range(self.depth):
            p = f"block.{i}"
            y = self.attention(f"{p}.attn", x1)
            x2 = self.op("ReversibleMix", y, x0, x1, name=f"{p}.attn.residual")
            z = self.mlp(f"{p}.mlp", x2)
            x3 = self.op("ReversibleMix", z, x1, x2, name=f"{p}.mlp.residual")
            x0, x1 = x2, x3
        logits = self.head("head", x0)
        if self.config["variant"] == "paper":
            self.t.drop(["head2.weight", "head2.bias"])
        else:
            both = self.b.op("Add", logits, self.head("head2", x1), name="logits.sum")
            half = self.b.initializer("logits.half", np.array(0.5))
            logits = self.b.op("Mul", both, half, name="logits.mean")
        self.t.finish()
        logits.name = "logits"
        ir.set_type(logits, np.float64, ["B", self.classes])
        model = ir.new_model(self.b, [image], [logits], name=NAME, metadata=self.metadata())
        stages.infer_types(model)
        stages.verify(model)
        return model

    def metadata(self) -> dict[str, str]:
        """What travels with the model; JSON where it is more than a word."""
        names = self.config.pop("class_names")
        if names is not None and len(names) != self.classes:
            self.warnings.append(f"{len(names)} class names for {self.classes} classes: left out")
            names = None
        height, width = self.config["image_size"]
        config = {
            **self.config,
            "dim": self.dim,
            "depth": self.depth,
            "heads": self.heads,
            "n_steps": self.n_steps,
            "channels": self.channels,
            "classes": self.classes,
        }
        preprocessing = {
            "height": height,
            "width": width,
            "channels": self.channels,
            "resize": "short-side",
            "filter": self.config["interpolation"],
            "crop_pct": self.config["crop_pct"],
        }
        if self.channels in _COLORS:
            preprocessing["color"] = _COLORS[self.channels]
        return {
            **({"class_names": json.dumps(names)} if names else {}),
            "stage": "spiking",
            "family": NAME,
            "config": json.dumps(config, sort_keys=True),
            "preprocessing": json.dumps(preprocessing, sort_keys=True),
            "source_sha256": self.checkpoint.sha256,
            "warnings": json.dumps(self.warnings),
        }
