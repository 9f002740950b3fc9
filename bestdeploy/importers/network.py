"""What the importers of vision networks share: settings, geometry, metadata, preprocessing.

A family derives its importer from `Network`, says its settings with those below, and appends its
layers in `logits_of`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from bestdeploy import ir, stages
from bestdeploy.errors import CheckpointError, UnsupportedModelError
from bestdeploy.importers import settings as s
from bestdeploy.importers.checkpoint import Checkpoint
from bestdeploy.importers.emitter import Emitter
from bestdeploy.importers.quantiser import BITS
from bestdeploy.ops import MAX_STEPS

MAX_TOKENS = 1024
MAX_HEAD_WIDTH = 1024
_COLORS = {1: "gray", 3: "rgb"}  # what an image file is turned into


def is_events(known: Mapping[str, Any]) -> bool:
    """Tell whether settings say that the input is frames of event counts."""
    return bool(known["input"] == "events")


INPUT = s.Setting("input", s.choice("image", "events"), "image or events")
IMAGE_SIZE = s.Setting(
    "image_size", s.image_size, "a number in 1..4096, or [height, width]", aliases=("img_size",)
)
MEAN = s.Setting(
    "mean",
    s.numbers,
    "one number per channel",
    implied=lambda known: (0.0,) if is_events(known) else None,
)
STD = s.Setting(
    "std",
    s.numbers,
    "one number per channel",
    implied=lambda known: (1.0,) if is_events(known) else None,
)
TAU = s.Setting("tau", s.number(1.0, 1e6), "a number >= 1", usual="2.0")
DECAY_INPUT = s.Setting("decay_input", s.boolean, "true or false", usual="true")
N_STEPS = s.Setting(
    "n_steps",
    s.integer(1, MAX_STEPS),
    f"a whole number in 1..{MAX_STEPS}",
    aliases=("time_step", "T"),
    usual="4",
)
HEADS = s.Setting(
    "heads", s.integer(1, 256), "a whole number in 1..256", aliases=("num_heads",), usual="8"
)
ATTN_SCALE = s.Setting("attn_scale", s.number(1e-6, 1e3), "a number in [1e-6, 1000]", default=0.125,
                       required=False)  # fmt: skip
V_THRESHOLD = s.Setting(
    "v_threshold", s.number(1e-6, 1e3), "a number in [1e-6, 1000]", default=1.0, required=False
)
ATTN_V_THRESHOLD = s.Setting(
    "attn_v_threshold", s.number(1e-6, 1e3), "a number in [1e-6, 1000]", default=0.5, required=False
)
WEIGHT_BITS = s.Setting("weight_bits", s.one_of(*BITS), "1, 2, 3, 4, 8 or 16", usual="8")
"""Bits of a deployed weight; a network that was trained with b-bit weights says b in its args."""
PICTURES = (
    s.Setting("interpolation", s.choice("bicubic", "bilinear", "nearest", "lanczos"),
              "bicubic, bilinear, nearest or lanczos", default="bicubic", required=False),
    s.Setting("crop_pct", s.number(0.1, 1.0), "a number in [0.1, 1]", default=1.0,
              required=False),
    s.Setting("class_names", s.names, "a list of names", required=False),
    s.EMA,
)  # fmt: skip


class Network:
    """Walks a network in order, emitting nodes and taking tensors.

    Attributes:
        checkpoint: where the tensors come from.
        config: settings by name; origins says where each comes from.
        e: the emitter; e.n_steps is T.
        warnings: sentences for the user.
        channels: of the input.
        dim: D, width of the blocks.
        depth: number of blocks.
        heads: attention heads.
        classes: K.
        n_pools: how often the tokenizer halves the image.
        layout: name of the tokenizer's layout.
    """

    NAME: ClassVar[str]
    channels: int
    dim: int
    depth: int
    heads: int
    classes: int
    n_pools: int
    layout_name: str

    def __init__(self, checkpoint: Checkpoint, found: s.Resolved) -> None:
        self.checkpoint = checkpoint
        self.config, self.origins = found.values, found.origins
        self.e = Emitter(checkpoint, self.config, 0)
        self.warnings = self.e.warnings
        if checkpoint.has_ema:
            self.warnings.append(
                "the checkpoint holds averaged weights too (state_dict_ema), state_dict is taken: "
                "--set ema=true takes the others"
            )

    # -- what shapes and settings say together -------------------------------------------------

    def n_blocks(self, key: str) -> int:
        """Count the blocks that have a tensor `block.i.<key>`."""
        return sum(f"block.{i}.{key}" in self.checkpoint.tensors
                   for i in range(len(self.checkpoint.tensors)))  # fmt: skip

    def check_geometry(self) -> None:
        """Check heads, normalisation and number of tokens against the shapes."""
        c = self.config
        if self.dim % self.heads:
            raise CheckpointError(
                f"width D={self.dim} is not a multiple of {self.heads} heads",
                where="setting heads",
                hint="override it with --set heads=...",
            )
        for key in ("mean", "std"):
            if len(c[key]) == 1 and self.origins[key] == "default":
                c[key] = c[key] * self.channels
            if len(c[key]) != self.channels:
                raise UnsupportedModelError(
                    f"{key} has {len(c[key])} numbers, the image has {self.channels} channels",
                    where=f"setting {key}",
                    hint=f"override it with --set {key}=...",
                )
        if min(c["std"]) <= 0:
            raise UnsupportedModelError(
                f"std={c['std']}: must be positive",
                where="setting std",
                hint="override it with --set std=...",
            )
        self._check_tokens()

    def _check_tokens(self) -> None:
        height, width = self.config["image_size"]
        scale = 2**self.n_pools
        n_tokens = -(-height // scale) * -(-width // scale)
        if n_tokens > MAX_TOKENS:
            raise UnsupportedModelError(
                f"image_size={self.config['image_size']} gives {n_tokens} tokens, "
                f"at most {MAX_TOKENS}",
                where="setting image_size",
                hint="override it with --set image_size=...",
            )

    # -- the graph -----------------------------------------------------------------------------

    def pixels(self, image: ir.Value) -> ir.Value:
        """Append the normalisation of the input."""
        events = is_events(self.config)
        return self.e.pixels(
            image,
            white=1.0 if events else 255.0,
            mean=self.config["mean"],
            std=self.config["std"],
            frames=events,
        )

    def drop_dead(self, keys: list[str], why: str) -> None:
        """Leave tensors out that the network never uses, and say which."""
        dead = [key for key in keys if key in self.checkpoint.tensors]
        self.e.t.drop(dead)
        if dead:
            self.warnings.append(f"{len(dead)} tensors are left out, {why}: {', '.join(dead)}")

    def logits_of(self, image: ir.Value) -> ir.Value:
        """Append every layer; return float64 [B, K]."""
        raise NotImplementedError

    def model(self) -> ir.Model:
        """Emit everything and wrap it up."""
        height, width = self.config["image_size"]
        steps = [self.e.n_steps] if is_events(self.config) else []
        image = ir.typed_value("image", np.uint8, ["B", *steps, height, width, self.channels])
        logits = self.logits_of(image)
        self.e.t.finish()
        logits.name = "logits"
        ir.set_type(logits, np.float64, ["B", self.classes])
        model = ir.new_model(self.e.b, [image], [logits], name=self.NAME, metadata=self.metadata())
        stages.infer_types(model)
        stages.verify(model)
        return model

    def metadata(self) -> dict[str, str]:
        """What travels with the model; JSON where it is more than a word."""
        names = self.config.pop("class_names")
        if names is not None and len(names) != self.classes:
            self.warnings.append(f"{len(names)} class names for {self.classes} classes: left out")
            names = None
        config = {
            **self.config,
            "layout": self.layout_name,
            "dim": self.dim,
            "depth": self.depth,
            "heads": self.heads,
            "n_steps": self.e.n_steps,
            "channels": self.channels,
            "classes": self.classes,
        }
        return {
            **({"class_names": json.dumps(names)} if names else {}),
            "stage": "spiking",
            "family": self.NAME,
            "config": json.dumps(config, sort_keys=True),
            "settings_from": json.dumps(self.origins, sort_keys=True),
            "preprocessing": json.dumps(self.preprocessing(), sort_keys=True),
            "source_sha256": self.checkpoint.sha256,
            "warnings": json.dumps(self.warnings),
        }

    def preprocessing(self) -> dict[str, Any]:
        """How a source becomes frames of the exact size."""
        height, width = self.config["image_size"]
        size = {"height": height, "width": width, "channels": self.channels}
        if is_events(self.config):
            return {**size, "input": "events", "n_steps": self.e.n_steps}
        return {
            **size,
            "input": "image",
            "resize": "short-side",
            "filter": self.config["interpolation"],
            "crop_pct": self.config["crop_pct"],
            **({"color": _COLORS[self.channels]} if self.channels in _COLORS else {}),
        }
