"""Random BESTformer checkpoints, every form, with batch norm calibrated on their own data.

`Network` walks the published equations step by step in float64 numpy, written apart from the
package on purpose. In calibrating mode it sets each batch norm from what passes through it, so
that every layer fires at a moderate rate whatever the widths; afterwards `logits` is an
independent evaluation of the same checkpoint.

With `Spec.rate` every neuron that a batch norm feeds is brought to that firing rate by a shift of
the batch norm's bias, and the neurons after the value product by the size of lambda as far as it
reaches: they cannot fire where the product is 0. The attention map has no parameter of its own, its
rate follows from those of q and k. On the calibration images the rates hold to a twentieth of
themselves (in narrow layers to a third: a channel with gamma 0 fires everywhere or nowhere), on
others of `images_of` to about a third; who reports a rate measures it.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field

import numpy as np

N_CALIBRATION = 2**18  # neuron-steps that set a firing rate, of the many that a large net has


@dataclass
class Spec:
    """Form of a random network."""

    seed: int = 0
    dim: int = 40
    heads: int = 5
    depth: int = 1
    n_steps: int = 4
    size: int = 16
    channels: int = 3
    classes: int = 7
    mlp_ratio: int = 4
    tau: float = 2.0
    decay_input: bool = True
    lambda_scale: float = 12.0
    stem: tuple[int, int, int] | None = None
    attention: str = "qk"
    layout: str = "cifar"
    variant: str = "official"
    binariser: str = "soft"
    residual: str = "reversible"
    readout: str | None = None
    events: bool = False
    biased: bool = False
    rate: float | None = None

    @property
    def widths(self) -> tuple[int, ...]:
        d = self.dim
        first = self.stem or (max(1, d // 8), max(1, d // 4), max(1, d // 2))
        return (*first, d, d)

    @property
    def head_names(self) -> tuple[str, ...]:
        """Heads that are read."""
        usual = "average" if self.variant == "official" else "classification"
        names = {"average": ("head", "head2"), "classification": ("head",)}
        return {**names, "distillation": ("head2",)}[self.readout or usual]

    @property
    def frame_shape(self) -> tuple[int, ...]:
        image = (self.size, self.size, self.channels)
        return (self.n_steps, *image) if self.events else image


@dataclass
class Network:
    """Weights of a random checkpoint and the equations that evaluate them."""

    spec: Spec
    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    calibrating: bool = False

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.spec.seed)
        self.fresh_bn = ""  # just made: its bias may still shift the input of the next neuron

    # -- parameters ----------------------------------------------------------------------------

    def weight(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name not in self.tensors:
            offset = self.rng.normal(0, 0.2, (shape[0], *[1] * (len(shape) - 1)))
            self.tensors[name] = (self.rng.normal(0, 1, shape) + offset).astype(np.float32)
        return self.tensors[name].astype(np.float64)

    def batch_norm(self, name: str, x: np.ndarray) -> np.ndarray:
        c = x.shape[-1]
        if f"{name}.weight" not in self.tensors:
            gamma = self.rng.uniform(0.6, 1.6, c) * self.rng.choice([1, 1, 1, -1], c)
            if c > 4:
                gamma[self.rng.integers(c)] = 0.0
            flat = x.reshape(-1, c)
            values = {
                "weight": gamma,
                "bias": self.rng.normal(0.3, 0.5, c),
                "running_mean": flat.mean(0),
                "running_var": flat.var(0) + 0.05,
            }
            for part, value in values.items():
                self.tensors[f"{name}.{part}"] = value.astype(np.float32)
            self.tensors[f"{name}.num_batches_tracked"] = np.array(100, np.int64)
            self.fresh_bn = name
        g, b, m, v = (
            self.tensors[f"{name}.{p}"].astype(np.float64)
            for p in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - m) / np.sqrt(v + 1e-5) * g + b

    # -- rates ---------------------------------------------------------------------------------

    def at_rate(self, x: np.ndarray) -> np.ndarray:
        """Shift a batch norm just made so that the neuron on x fires at the wanted rate.

        x itself is shifted where it is a stream that others read too; returns what the neuron gets.
        """
        name, rate = self.fresh_bn, self.spec.rate
        if rate is None or not name:
            return x
        self.fresh_bn = ""
        places = x.reshape(len(x), -1, x.shape[-1])
        part = places[:, :: 1 + x.size // N_CALIBRATION]
        shift = bisect(lambda d: self.lif(part + d).mean() >= rate, -30.0, 30.0)
        old = self.tensors[f"{name}.bias"]
        self.tensors[f"{name}.bias"] = (old + shift).astype(np.float32)
        moved = self.tensors[f"{name}.bias"].astype(np.float64) - old.astype(np.float64)
        if not x.flags.writeable:
            return x + moved
        x += moved
        return x

    def lambda_at_rate(self, m: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Scale lambda [T, 1, heads, 1, 1] so that the neuron on the value product does so too."""
        rate = self.spec.rate
        if rate is None:
            return values
        z = 0.125 * m * np.abs(values)
        scale = bisect(lambda e: self.lif(z * 2.0**e, theta=0.5).mean() >= rate, -12.0, 2.0)
        return np.abs(values) * 2.0**scale

    # -- layers --------------------------------------------------------------------------------

    def conv(self, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        """x [..., H, W, I], w [O, I, k, k], stride 1, same padding."""
        k = w.shape[2]
        h, width = x.shape[-3:-1]
        p = k // 2
        padded = np.pad(x, [(0, 0)] * (x.ndim - 3) + [(p, p), (p, p), (0, 0)])
        out = np.zeros((*x.shape[:-1], w.shape[0]))
        for dy in range(k):
            for dx in range(k):
                out += padded[..., dy : dy + h, dx : dx + width, :] @ w[:, :, dy, dx].T
        return out

    def binary(self, name: str, bn: str, x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        w = self.weight(name, shape)
        deviation = w - w.reshape(shape[0], -1).mean(1).reshape(-1, *[1] * (w.ndim - 1))
        paper = self.spec.variant == "paper"
        signs = np.where(deviation >= 0, 1.0, -1.0) if paper else np.sign(deviation)
        kernel = signs.reshape(*shape, *[1] * (4 - len(shape)))
        y = self.conv(x, kernel)
        if self.spec.biased and name.split(".")[-2] in ("proj_conv", "mlp1_conv", "mlp2_conv"):
            y = y + self.weight(f"{name.removesuffix('weight')}bias", (shape[0],))
        return self.batch_norm(bn, y)

    def binarise(self, x: np.ndarray) -> np.ndarray:
        """The neuron on attention counts, three kinds of it."""
        if self.spec.binariser == "boolean":
            return (x >= 1).astype(np.float64)
        return self.lif(x, soft=self.spec.binariser == "soft")

    def lif(self, x: np.ndarray, theta: float = 1.0, soft: bool = False) -> np.ndarray:
        v = np.zeros(x.shape[1:])
        out = np.zeros(x.shape)
        tau = self.spec.tau
        for t in range(len(x)):
            h = v + (x[t] - v) / tau if self.spec.decay_input else v * (1 - 1 / tau) + x[t]
            out[t] = h >= theta
            v = h - out[t] * theta if soft else h * (1 - out[t])
        return out

    @staticmethod
    def pool(s: np.ndarray) -> np.ndarray:
        h, w = s.shape[2:4]
        padded = np.pad(s, [(0, 0), (0, 0), (1, 1), (1, 1), (0, 0)])
        windows = [padded[:, :, dy : dy + h : 2, dx : dx + w : 2] for dy in range(3)
                   for dx in range(3)]  # fmt: skip
        return np.maximum.reduce(windows)

    # -- network -------------------------------------------------------------------------------

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Evaluate uint8 [B, H, W, C] or [B, T, H, W, C]; return float64 [B, K]."""
        s, t = self.spec, self.spec.n_steps
        w, cifar = s.widths, s.layout == "cifar"
        e = "patch_embed.block" if cifar else "patch_embed.proj"
        first = f"{e}0" if cifar else e
        if s.events:
            x = images.astype(np.float64).swapaxes(0, 1)
        else:
            mean, std = np.array(self.settings["mean"]), np.array(self.settings["std"])
            x = (images / 255.0 - mean) / std
        y = self.conv(x, self.weight(f"{first}_conv.weight", (w[0], s.channels, 3, 3)))
        y = self.batch_norm(f"{first}_bn", y)
        y = y if s.events else np.broadcast_to(y, (t, *y.shape))
        for i in range(1, 5):
            spikes = self.lif(self.at_rate(y))
            spikes = self.pool(spikes) if i >= 3 or not cifar else spikes
            y = self.binary(f"{e}{i}_conv.weight", f"{e}{i}_bn", spikes, (w[i], w[i - 1], 3, 3))
        x0, x1 = self.blocks(y)
        heads = {}
        for name, stream in (("head", x0), ("head2", x1)):
            weight = self.weight(f"{name}.weight", (s.classes, s.dim))
            bias = self.weight(f"{name}.bias", (s.classes,))
            heads[name] = stream.mean(axis=(0, 2, 3)) @ weight.T + bias
        return sum(heads[name] for name in s.head_names) / len(s.head_names)

    def blocks(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the two streams that the heads read."""
        x0 = x1 = x
        for i in range(self.spec.depth):
            y, z = f"block.{i}.attn", f"block.{i}.mlp"
            if self.spec.residual == "plain":
                x1 = x1 + self.attention(y, x1)
                x0 = x1 = x1 + self.mlp(z, x1)
            else:
                x2 = self.attention(y, x1) + (x0 + x1) / 2
                x3 = self.mlp(z, x2) + (x1 + x2) / 2
                x0, x1 = x2, x3
        return x0, x1

    def attention(self, p: str, x: np.ndarray) -> np.ndarray:
        s, d = self.spec, self.spec.dim
        t, b, h, w, _ = x.shape
        spikes = self.lif(self.at_rate(x))
        split = []
        for n in "qkv":
            z = self.binary(f"{p}.{n}_conv.weight", f"{p}.{n}_bn", spikes, (d, d, 1))
            z = self.lif(self.at_rate(z))
            split.append(z.reshape(t, b, h * w, s.heads, d // s.heads).transpose(0, 1, 3, 2, 4))
        q, k, v = split
        if s.attention == "qk":
            m = self.binarise(q @ k.swapaxes(-1, -2)) @ v
        else:
            m = q @ self.binarise(k.swapaxes(-1, -2) @ v)
        key = f"{p}.lambda_attn"
        if key not in self.tensors:
            shape = (t, 1, s.heads, 1, 1) if s.variant == "official" else (t, 1, 1)
            values = self.rng.uniform(0.3, 1.5, shape) * s.lambda_scale
            values.reshape(-1)[::7] *= -1
            values.reshape(-1)[5::11] = 0
            values = self.lambda_at_rate(m, values)
            self.tensors[key] = values.astype(np.float32)
        lambdas = self.tensors[key].astype(np.float64).reshape(t, 1, -1, 1, 1)
        z = m * 0.125 * lambdas
        z = self.lif(z, theta=0.5).transpose(0, 1, 3, 2, 4).reshape(t, b, h, w, d)
        return self.binary(f"{p}.proj_conv.weight", f"{p}.proj_bn", z, (d, d, 1))

    def mlp(self, p: str, x: np.ndarray) -> np.ndarray:
        d, e = self.spec.dim, self.spec.dim * self.spec.mlp_ratio
        spikes = self.lif(self.at_rate(x))
        y = self.binary(f"{p}.mlp1_conv.weight", f"{p}.mlp1_bn", spikes, (e, d, 1, 1))
        spikes = self.lif(self.at_rate(y))
        return self.binary(f"{p}.mlp2_conv.weight", f"{p}.mlp2_bn", spikes, (d, e, 1, 1))

    # -- files ---------------------------------------------------------------------------------

    @property
    def settings(self) -> dict[str, object]:
        """What the weights cannot say, as a checkpoint's args would."""
        s = self.spec
        found: dict[str, object] = {
            "image_size": s.size,
            "mean": [0.4914, 0.4822, 0.4465, 0.45][: s.channels],
            "std": [0.247, 0.2435, 0.2616, 0.25][: s.channels],
            "input": "events" if s.events else "image",
            "attention": s.attention,
            "tau": s.tau,
            "decay_input": s.decay_input,
            "variant": s.variant,
            "num_heads": s.heads,
            "time_step": s.n_steps,
            "binariser": s.binariser,
            "residual": s.residual,
        }
        if s.events:
            del found["mean"], found["std"]
        if s.readout is not None:
            found["readout"] = s.readout
        return found


def bisect(reached, low: float, high: float) -> float:
    """Return where a condition that holds from some point on begins."""
    for _ in range(24):
        middle = (low + high) / 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high


def images_of(spec: Spec, n: int, seed: int = 1) -> np.ndarray:
    """Random smooth and noisy images uint8 [n, H, W, C], or event counts [n, T, H, W, C]."""
    rng = np.random.default_rng((seed, spec.seed))
    if spec.events:
        rates = rng.uniform(0, 2, (n, 1, spec.size, spec.size, spec.channels))
        return rng.poisson(np.broadcast_to(rates, (n, *spec.frame_shape))).astype(np.uint8)
    coarse = rng.integers(0, 256, (n, spec.size // 4, spec.size // 4, spec.channels))
    smooth = coarse.repeat(4, axis=1).repeat(4, axis=2)
    noise = rng.integers(-60, 60, smooth.shape)
    return np.clip(smooth + noise, 0, 255).astype(np.uint8)


def random_network(spec: Spec) -> Network:
    """Make a calibrated random network."""
    network = Network(spec)
    network.logits(images_of(spec, 4, seed=99))
    return network


def random_checkpoint(spec: Spec) -> tuple[dict[str, np.ndarray], dict[str, object]]:
    """Return (state dict of numpy arrays, settings) of a calibrated random network."""
    network = random_network(spec)
    return network.tensors, network.settings


def save(path, spec: Spec, *, wrapper: str = "ours"):
    """Write a checkpoint file; wrapper is ours, timm, module, model or bare."""
    import torch

    tensors, settings = random_checkpoint(spec)
    state = {k: torch.from_numpy(np.array(v)) for k, v in tensors.items()}
    if wrapper == "ours":
        content: object = {"state_dict": state, "args": settings}
    elif wrapper == "timm":
        args = argparse.Namespace(**settings)
        content = {"epoch": 3, "arch": "vitsnn", "state_dict": state, "args": args, "version": 2}
    elif wrapper == "module":
        content = {"state_dict": {f"module.{k}": v for k, v in state.items()}, "args": settings}
    elif wrapper == "model":
        content = {"model": state, "args": settings}
    else:
        content = state
    torch.save(content, path)
    return path
