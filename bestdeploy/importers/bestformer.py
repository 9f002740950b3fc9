"""BESTformer ([bestformer], published code of 2025), every form of it.

    tokenizer   conv0 (real), then four stages: lif . (pool) . conv
    block       x2 = BSSA(x1) + (x0 + x1)/2;  x3 = BMLP(x2) + (x1 + x2)/2;  first block x0 = x1
                x2 = BSSA(x1) + x1;           x3 = BMLP(x2) + x2              residual=plain
    BSSA        s = lif(x); q, k, v = lif(bn(conv s))
                attention=qk:  lif(binariser(q k^T) v scale lambda)
                attention=kv:  lif(q binariser(k^T v) scale lambda)
    logits      (head(mean x0) + head2(mean x1)) / 2                         readout=average
                head(mean x0)                                                readout=classification
                head2(mean x1)                                               readout=distillation
Keys and shapes are those of the published checkpoints: the CIFAR layout (`block0_conv` .., two
pools) and the ImageNet layout (`proj_conv`, `proj1_conv` .., four pools), which event-camera
models use with two input channels. D, depth, T, heads, classes and channels are read from the
shapes. What shapes cannot say are the settings below. `variant=paper` is the method as printed:
no input decay, one lambda per step and layer, sign(0) = +1, the classification head alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from bestdeploy import ir
from bestdeploy.errors import CheckpointError, UnsupportedModelError, UsageError
from bestdeploy.importers import network as n
from bestdeploy.importers import settings as s
from bestdeploy.importers.checkpoint import Checkpoint
from bestdeploy.ops import MAX_STEPS

NAME = "bestformer"
N_STAGES = 4
_LAMBDA = "attn.lambda_attn"


class Layout(NamedTuple):
    """Key names of a tokenizer: the first layer, and the four binary stages."""

    name: str
    first: str  # prefix of the real convolution and its batch norm
    stage: str  # prefix of stage i, with {}
    pooled: tuple[int, ...]  # stages whose spikes are pooled
    usual: Mapping[str, str]  # settings of the published models of this layout, for hints

    def key(self, i: int) -> str:
        """Prefix of stage i, 0 = the first layer."""
        return f"patch_embed.{self.stage.format(i) if i else self.first}"


LAYOUTS = (
    Layout("cifar", "block0", "block{}", (3, 4), {
        "attention": "qk", "image_size": "32",
        "mean": "0.4914,0.4822,0.4465", "std": "0.2470,0.2435,0.2616",
    }),
    Layout("imagenet", "proj", "proj{}", (1, 2, 3, 4), {
        "attention": "kv", "image_size": "224",
        "mean": "0.485,0.456,0.406", "std": "0.229,0.224,0.225",
    }),
)  # fmt: skip


BINARISERS: Mapping[str, Mapping[str, Any]] = {
    "soft": {"soft_reset": 1},
    "hard": {},
    "boolean": {"tau": 1.0, "decay_input": 1},
}
"""Neurons that turn attention counts into bits ([bestformer] Table 1), by what is special to them.

`boolean` asks count >= threshold at each step on its own: a neuron that forgets, tau = 1.
"""


SETTINGS = (
    n.INPUT,
    s.Setting("variant", s.choice("official", "paper"), "official or paper", usual="official"),
    s.Setting("attention", s.choice("qk", "kv"), "qk or kv", aliases=("attn_form",)),
    n.IMAGE_SIZE,
    n.MEAN,
    n.STD,
    n.TAU,
    dataclasses.replace(
        n.DECAY_INPUT, implied=lambda known: False if known.get("variant") == "paper" else None
    ),
    dataclasses.replace(n.N_STEPS, aliases=(), required=False, usual=None),
    dataclasses.replace(n.HEADS, required=False),
    s.Setting("binariser", s.choice("soft", "hard", "boolean"), "soft, hard or boolean",
              default="soft", required=False),
    s.Setting("residual", s.choice("reversible", "plain"), "reversible or plain",
              default="reversible", required=False),
    s.Setting("readout", s.choice("average", "classification", "distillation"),
              "average, classification or distillation", required=False),
    n.ATTN_SCALE,
    n.V_THRESHOLD,
    n.ATTN_V_THRESHOLD,
    *n.PICTURES,
)  # fmt: skip


def layout_of(keys: set[str]) -> Layout | None:
    """Return the layout whose tokenizer keys are all there."""
    for layout in LAYOUTS:
        if {f"{layout.key(i)}_conv.weight" for i in range(N_STAGES + 1)} <= keys:
            return layout
    return None


def recognises(keys: set[str]) -> bool:
    """Tell whether a set of tensor names is a BESTformer."""
    return f"block.0.{_LAMBDA}" in keys and any(
        f"{layout.key(0)}_conv.weight" in keys for layout in LAYOUTS
    )


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
        layout = next(x for x in LAYOUTS if f"{x.key(0)}_conv.weight" in checkpoint.tensors)
    weights = {"input": "events" if _input_channels(checkpoint, layout) == 2 else "image"}
    sources = {**sources, "the weights": weights}
    found = s.resolve(schema(layout, sources), sources, family=NAME)
    return _Importer(checkpoint, layout, found).model()


def schema(
    layout: Layout | None, sources: Mapping[str, Mapping[str, Any]]
) -> tuple[s.Setting, ...]:
    """Return the settings with what the published code of a layout uses; nothing for events.

    Event-camera models share a layout with ImageNet models and no published code.
    """
    given = {source: {k: v for k, v in t.items() if k == "input"} for source, t in sources.items()}
    optional = dataclasses.replace(n.INPUT, required=False)
    if s.resolve((optional,), given, family=NAME).values["input"] == "events":
        return tuple(dataclasses.replace(x, usual=None) for x in SETTINGS)
    usual = layout.usual if layout is not None else {}
    return tuple(dataclasses.replace(x, usual=usual.get(x.name, x.usual)) for x in SETTINGS)


def _input_channels(checkpoint: Checkpoint, layout: Layout) -> int:
    shape = checkpoint.tensors[f"{layout.key(0)}_conv.weight"].shape
    return shape[1] if len(shape) == 4 else 0


class _Importer(n.Network):
    """BESTformer, layer by layer."""

    NAME = NAME

    def __init__(self, checkpoint: Checkpoint, layout: Layout, found: s.Resolved) -> None:
        super().__init__(checkpoint, found)
        self.layout, self.layout_name, self.n_pools = layout, layout.name, len(layout.pooled)
        shapes = [self.e.t.shape(f"{layout.key(i)}_conv.weight", 4) for i in range(N_STAGES + 1)]
        self.channels = shapes[0][1]
        self.widths = [shape[0] for shape in shapes]
        self.dim = self.widths[-1]
        self.depth = self.n_blocks(_LAMBDA)
        self.e.n_steps = self.n_steps = self._steps()
        self.heads = self._heads()
        for key in ("n_steps", "heads", "readout"):
            if self.config[key] is None:
                self.origins[key] = "the weights"
        self.classes = self.e.t.shape(self._head_key(), 2)[0]
        self._settle_readout()
        self._check_geometry()

    # -- what shapes and settings say together -------------------------------------------------

    def _lambda_shape(self) -> tuple[int, ...]:
        key = f"block.0.{_LAMBDA}"
        if self.config["variant"] == "paper":
            return self.checkpoint.tensors[key].shape or (1,)
        return self.e.t.shape(key, 5)

    def _steps(self) -> int:
        held = self._lambda_shape()[0]
        wanted, origin = self.config["n_steps"], self.origins.get("n_steps", "")
        if wanted is not None and origin.startswith("--") and wanted != held:
            if wanted > held:
                raise UsageError(
                    f"n_steps={wanted} (from {origin}): lambda_attn has {held} steps",
                    where=f"block.0.{_LAMBDA}",
                    hint=f"a model trained with T={held} runs with T=1..{held}",
                )
            self.warnings.append(
                f"T={wanted} steps of the {held} that were trained: lambda_attn is cut"
            )
            held = wanted
        if not 1 <= held <= MAX_STEPS:
            raise UnsupportedModelError(
                f"T={held} time steps, supported are 1..{MAX_STEPS}",
                where=f"block.0.{_LAMBDA}",
                hint=f"--set n_steps={MAX_STEPS} takes the first {MAX_STEPS} of them",
            )
        for key in ("time_step", "n_steps"):
            stated = self.checkpoint.args.get(key)
            if isinstance(stated, int) and stated != held and not origin.startswith("--"):
                self.warnings.append(
                    f"args say {key}={stated}, lambda_attn has {held} steps: {held} is used"
                )
        return held

    def _heads(self) -> int:
        shape, given = self._lambda_shape(), self.config["heads"]
        per_head = len(shape) == 5 and (shape[2] > 1 or self.config["variant"] != "paper")
        if not per_head and given is None:
            raise UnsupportedModelError(
                "lambda_attn is one number per step, so nothing says how many `heads` there are",
                where=f"block.0.{_LAMBDA}",
                hint="the published code uses: --set heads=8",
            )
        if per_head and given is not None and given != shape[2]:
            raise CheckpointError(
                f"heads={given} (from {self.origins['heads']}), lambda_attn has {shape[2]} heads",
                where=f"block.0.{_LAMBDA}",
                hint="one lambda for all heads of a layer is --set variant=paper",
            )
        return int(shape[2]) if per_head else int(given)

    def _head_key(self) -> str:
        only_second = "head.weight" not in self.checkpoint.tensors
        return "head2.weight" if only_second and self._has("head2") else "head.weight"

    def _has(self, head: str) -> bool:
        return f"{head}.weight" in self.checkpoint.tensors

    def _settle_readout(self) -> None:
        """Choose which heads are read where no setting says it."""
        if self.config["readout"] is None:
            official = self.config["variant"] == "official"
            both = official and self._has("head2")
            if official and not both:
                self.warnings.append("no head2 in the checkpoint: the classification head is read")
            self.config["readout"] = "average" if both else "classification"

    def _check_geometry(self) -> None:
        self.check_geometry()
        width = self.dim // self.heads
        if self.config["attention"] == "kv" and width > n.MAX_HEAD_WIDTH:
            raise UnsupportedModelError(
                f"heads of {width} channels, attention=kv holds {n.MAX_HEAD_WIDTH}",
                where="setting heads",
                hint="use more heads",
            )

    # -- parts ---------------------------------------------------------------------------------

    def tokenizer(self, image: ir.Value) -> ir.Value:
        e, events = self.e, n.is_events(self.config)
        x = self.pixels(image)
        first = self.layout.key(0)
        y = e.real_conv(f"{first}_conv", f"{first}_bn", x, self.channels, self.widths[0])
        for i in range(1, N_STAGES + 1):
            prefix = self.layout.key(i)
            spikes = e.neuron(f"{prefix}_lif", y, constant=i == 1 and not events)
            if i in self.layout.pooled:
                spikes = e.pool(f"{prefix}_mp", spikes)
            y = e.binary_conv(f"{prefix}_conv", spikes, self.widths[i - 1], self.widths[i], 3)
        return y

    def attention(self, prefix: str, x: ir.Value) -> ir.Value:
        e, d, heads = self.e, self.dim, self.heads
        spikes = e.neuron(f"{prefix}.proj_lif", x)
        q, k, v = (
            e.neuron(
                f"{prefix}.{name}_lif",
                e.binary_conv(f"{prefix}.{name}_conv", spikes, d, d, 1, rank=3),
            )
            for name in "qkv"
        )
        if self.config["attention"] == "qk":
            counts = e.op("Scores", q, k, name=f"{prefix}.scores", heads=heads)
            bits = self.binariser(f"{prefix}.attn_lif0", counts)
            m = e.op("Values", bits, v, name=f"{prefix}.values", heads=heads)
        else:
            counts = e.op("KeyValues", k, v, name=f"{prefix}.key_values", heads=heads)
            bits = self.binariser(f"{prefix}.attn_lif0", counts)
            m = e.op("QueryValues", q, bits, name=f"{prefix}.query_values", heads=heads)
        gain = e.b.initializer(f"{prefix}.gain", self.gain(prefix))
        z = e.op("HeadScale", m, gain, name=f"{prefix}.scaled")
        mixed = e.neuron(f"{prefix}.attn_lif", z, threshold=self.config["attn_v_threshold"])
        return e.binary_conv(f"{prefix}.proj_conv", mixed, d, d, 1, rank=3)

    def binariser(self, name: str, counts: ir.Value) -> ir.Value:
        """Turn counts into bits."""
        return self.e.neuron(name, counts, **BINARISERS[self.config["binariser"]])

    def gain(self, prefix: str) -> np.ndarray:
        """Scale times lambda, float64 [T, heads]: a product of two float32, hence exact."""
        key = f"{prefix}.lambda_attn"
        values = self._lambda(key).astype(np.float64)
        dead = int((values <= 0).all(axis=0).sum())
        if dead:
            self.warnings.append(f"{key}: {dead} of {self.heads} heads never fire (lambda <= 0)")
        return values * np.float64(np.float32(self.config["attn_scale"]))

    def _lambda(self, key: str) -> np.ndarray:
        """Return lambda float32 [T, heads]."""
        shape = self._lambda_shape()
        values = self.e.t.take(key, shape)
        if len(shape) == 5 and shape == (shape[0], 1, self.heads, 1, 1):
            return values.reshape(shape[0], self.heads)[: self.n_steps]
        if values.size != shape[0]:
            raise CheckpointError(
                f"`{key}` has shape {shape}, expected one number per step, or per step and head "
                f"(T, 1, {self.heads}, 1, 1)",
                where=str(self.checkpoint.path),
                hint="--set heads=... says how many heads there are",
            )
        return np.repeat(values.reshape(-1, 1), self.heads, axis=1)[: self.n_steps]

    def mlp(self, prefix: str, x: ir.Value) -> ir.Value:
        e = self.e
        hidden = e.t.shape(f"{prefix}.mlp1_conv.weight", 4)[0]
        spikes = e.neuron(f"{prefix}.mlp1_lif", x)
        y = e.binary_conv(f"{prefix}.mlp1_conv", spikes, self.dim, hidden, 1)
        spikes = e.neuron(f"{prefix}.mlp2_lif", y)
        return e.binary_conv(f"{prefix}.mlp2_conv", spikes, hidden, self.dim, 1)

    def blocks(self, x: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Append every block; return the streams that the two heads read."""
        x0 = x1 = x
        plain = self.config["residual"] == "plain"
        for i in range(self.depth):
            p = f"block.{i}"
            y = self.attention(f"{p}.attn", x1)
            x2 = self.e.op("ReversibleMix", y, x1 if plain else x0, x1,
                           name=f"{p}.attn.residual")  # fmt: skip
            z = self.mlp(f"{p}.mlp", x2)
            x3 = self.e.op("ReversibleMix", z, x2 if plain else x1, x2,
                           name=f"{p}.mlp.residual")  # fmt: skip
            x0, x1 = x2, x3
            if plain:  # norm1 and norm2 of the ancestor are in its files, and never used
                self.e.t.drop(f"{p}.norm{k}.{w}" for k in (1, 2) for w in ("weight", "bias"))
        return (x1, x1) if plain else (x0, x1)

    def logits(self, x0: ir.Value, x1: ir.Value) -> ir.Value:
        """Append the heads that are read; tensors of the others are dropped."""
        e, readout = self.e, self.config["readout"]
        if readout == "classification":
            e.t.drop(["head2.weight", "head2.bias"])
            return e.classifier("head", e.mean("head.mean", x0), self.dim, self.classes)
        if readout == "distillation":
            e.t.drop(["head.weight", "head.bias"])
            return e.classifier("head2", e.mean("head2.mean", x1), self.dim, self.classes)
        f0 = e.mean("head.mean", x0)
        f1 = f0 if x0 is x1 else e.mean("head2.mean", x1)
        y0 = e.classifier("head", f0, self.dim, self.classes)
        y1 = e.classifier("head2", f1, self.dim, self.classes)
        both = e.b.op("Add", y0, y1, name="logits.sum")
        half = e.b.initializer("logits.half", np.array(0.5))
        return e.b.op("Mul", both, half, name="logits.mean")

    def logits_of(self, image: ir.Value) -> ir.Value:
        """Append every layer."""
        return self.logits(*self.blocks(self.tokenizer(image)))
