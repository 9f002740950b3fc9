"""What Spikformer and Spikingformer share: real weights that become integers, integer attention.

Neither has a binariser or lambda: attention is lif(scale q k^T v), an integer times a power of two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bestdeploy import ir
from bestdeploy.errors import UnsupportedModelError, UsageError
from bestdeploy.importers import network as n
from bestdeploy.importers import settings as s
from bestdeploy.importers.checkpoint import Checkpoint
from bestdeploy.importers.network import MAX_HEAD_WIDTH

SETTINGS = (
    n.INPUT,
    n.WEIGHT_BITS,
    n.IMAGE_SIZE,
    n.MEAN,
    n.STD,
    n.TAU,
    n.DECAY_INPUT,
    n.N_STEPS,
    n.HEADS,
    n.ATTN_SCALE,
    n.V_THRESHOLD,
    n.ATTN_V_THRESHOLD,
    *n.PICTURES,
)
DEAD = "the published code never uses them"


def build(
    importer: Callable[..., WeightedNetwork],
    name: str,
    schema: Callable[..., tuple[s.Setting, ...]],
    checkpoint: Checkpoint,
    sources: Mapping[str, Mapping[str, Any]],
    layout: Any,
    first: str,
) -> ir.Model:
    """Resolve the settings of a family and build its graph; `first` is its real convolution."""
    shape = checkpoint.tensors[f"{first}_conv.weight"].shape
    events = len(shape) == 4 and shape[1] == 2
    sources = {**sources, "the weights": {"input": "events" if events else "image"}}
    found = s.resolve(schema(layout, sources), sources, family=name)
    return importer(checkpoint, layout, found).model()


class WeightedNetwork(n.Network):
    """A network of real weights; `settle` is called when its shapes are known."""

    def settle(self) -> None:
        """Take what the settings say and check it against the shapes."""
        self.e.n_steps, self.heads = self.config["n_steps"], self.config["heads"]
        self.classes = self.e.t.shape("head.weight", 2)[0]
        self.trained_bits = self._trained_bits()
        self.check_geometry()
        self._check_attention()

    def _trained_bits(self) -> int | None:
        """Return the bits that the network was trained with, None where its weights are real."""
        trained, wanted = self.checkpoint.args.get("weight_bits"), self.config["weight_bits"]
        if trained in (None, ""):
            return None
        if trained != wanted:
            raise UsageError(
                f"weight_bits={wanted} (from {self.origins['weight_bits']}): the network was "
                f"trained with {trained}-bit weights",
                where="setting weight_bits",
                hint="leave weight_bits away: the checkpoint says it",
            )
        return int(trained)

    def _check_attention(self) -> None:
        scale = float(np.float32(self.config["attn_scale"]))
        if math.frexp(scale)[0] != 0.5:
            raise UnsupportedModelError(
                f"attn_scale={self.config['attn_scale']}: attention without a binariser needs a "
                "power of two",
                where="setting attn_scale",
                hint="override it with --set attn_scale=0.125",
            )
        self._check_heads()

    def _check_heads(self) -> None:
        width = self.dim // self.heads
        if width > MAX_HEAD_WIDTH:
            raise UnsupportedModelError(
                f"heads of {width} channels, attention holds {MAX_HEAD_WIDTH}",
                where="setting heads",
                hint="use more heads",
            )

    def conv(
        self, name: str, bn: str, x: ir.Value, shape: tuple[int, ...], levels: int = 1
    ) -> ir.Value:
        """Append a convolution and its batch norm."""
        return self.e.weight_conv(name, bn, x, shape, levels=levels, trained_bits=self.trained_bits)

    def product(self, p: str, q: ir.Value, k: ir.Value, v: ir.Value) -> ir.Value:
        """Append lif(scale q k^T v); its spikes."""
        e = self.e
        m = e.op("QueryKeyValues", q, k, v, name=f"{p}.product", heads=self.heads)
        scale = float(np.float32(self.config["attn_scale"]))
        gain = e.b.initializer(f"{p}.gain", np.full((e.n_steps, self.heads), scale))
        z = e.op("HeadScale", m, gain, name=f"{p}.scaled")
        return e.neuron(f"{p}.attn_lif", z, threshold=self.config["attn_v_threshold"])

    def drop_norms(self) -> None:
        """Leave the layer norms of the blocks out, which are constructed and never called."""
        parts = [f"norm{i}.{w}" for i in (1, 2) for w in ("weight", "bias")]
        self.drop_dead([f"block.{i}.{part}" for i in range(self.depth) for part in parts], DEAD)
