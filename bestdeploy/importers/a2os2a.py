"""A2OS2A Spiking Transformer: addition-only attention on the backbone of Spike-driven Transformer.

    attention   s = lif(x); q = lif(bn(conv s)); k = relu(bn(conv s)); v = ternary(bn(conv s))
                bn(conv(lif(q (k^T v))))                                     no scale, no softmax
No code is published: checkpoints are those of `training` and carry `family` in their args. Keys
are those of `sdt_v1` without `talking_heads`; what the paper leaves open are settings.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from bestdeploy import ir
from bestdeploy.errors import UnsupportedModelError
from bestdeploy.importers import sdt_v1
from bestdeploy.importers import settings as s
from bestdeploy.importers.checkpoint import Checkpoint
from bestdeploy.importers.sdt_v1 import layout_of

__all__ = ["NAME", "SETTINGS", "build", "layout_of", "recognises", "schema"]

NAME = "a2os2a"
_KEPT = tuple(x for x in sdt_v1.SETTINGS if x.name not in ("dvs_mode", "readout"))
SETTINGS = (
    *(dataclasses.replace(x, default=1.0) if x.name == "attn_v_threshold" else x for x in _KEPT),
    dataclasses.replace(sdt_v1.READOUT, default="neuron_mean"),
    s.Setting("key", s.choice("relu", "binary"), "relu or binary"),
    s.Setting("value", s.choice("ternary", "binary"), "ternary or binary"),
    s.Setting("ternary_beta", s.number(0.0, 1.0), "a number in [0, 1]"),
    s.Setting("ternary_threshold", s.number(1e-6, 1e3), "a number in [1e-6, 1000]"),
    s.Setting("ternary_decay_input", s.boolean, "true or false"),
    s.Setting("ternary_amplitude", s.number(1e-6, 1e6), "a number in [1e-6, 1e6]", default=1.0,
              required=False),
    s.Setting("k_bits", s.integer(1, 31), "a whole number in 1..31", default=31, required=False),
)  # fmt: skip


def recognises(keys: set[str]) -> bool:
    """Tell whether tensor names are those of `training`'s A2OS2A, which has no talking_heads."""
    has = {"patch_embed.rpe_conv.weight", "block.0.attn.q_conv.weight"} <= keys
    foreign = {"block.0.attn.talking_heads.weight", "block.0.norm1.weight",
               "block.0.attn.proj_lif.weight"}  # fmt: skip
    return has and "block.0.mlp.fc1_conv.weight" in keys and not keys & foreign


def schema(layout: None, sources: Mapping[str, Mapping[str, Any]]) -> tuple[s.Setting, ...]:
    """Return the settings."""
    return SETTINGS


def build(checkpoint: Checkpoint, sources: Mapping[str, Mapping[str, Any]]) -> ir.Model:
    """Build the spiking graph of a checkpoint; see `sdt_v1.build`."""
    found = s.resolve(SETTINGS, sdt_v1.with_input(checkpoint, sources), family=NAME)
    return Importer(checkpoint, found).model()


class Importer(sdt_v1.Importer):
    """The network, layer by layer."""

    NAME = NAME

    def _check_form(self) -> None:
        c = self.config
        if (c["key"], c["value"]) == ("binary", "binary"):
            return
        if c["key"] != "relu" or c["value"] != "ternary":
            raise UnsupportedModelError(
                f"key={c['key']} with value={c['value']} is an ablation that is not imported",
                where="setting key",
                hint="key = relu with value = ternary is the method, binary with binary all bits",
            )
        if float(np.float32(c["tau"])) != 2.0:
            raise UnsupportedModelError(
                f"tau={c['tau']}: the neuron behind the attention sums halves, tau = 2",
                where="setting tau",
                hint="train with tau = 2.0",
            )

    def _amplitude(self, p: str) -> float:
        key = f"{p}.v_tlif.amplitude"
        if key not in self.checkpoint.tensors:
            return float(self.config["ternary_amplitude"])
        found = float(self.e.t.take(key, ()))
        if found <= 0:
            raise UnsupportedModelError(
                f"`{key}` is {found}: an amplitude must be positive",
                where=str(self.checkpoint.path),
                hint="take another checkpoint, or train with learn_amplitude = false",
            )
        return found

    def core(self, p: str, spikes: ir.Value) -> ir.Value:
        """Append the attention core; the amplitude of v goes into the threshold behind it."""
        e, d, c = self.e, self.dim, self.config
        q, k, v = (self.conv(f"{p}.{m}_conv", f"{p}.{m}_bn", spikes, d, d) for m in "qkv")
        q = e.neuron(f"{p}.q_lif", q)
        if c["key"] == "binary":
            return self._binary(p, q, e.neuron(f"{p}.k_lif", k), e.neuron(f"{p}.v_lif", v))
        v = e.op(
            f"TernaryLif_T{e.n_steps}",
            v,
            name=f"{p}.v_tlif",
            beta=float(np.float32(c["ternary_beta"])),
            v_threshold=float(np.float32(c["ternary_threshold"])),
            decay_input=int(c["ternary_decay_input"]),
        )
        z = e.op("AddAttention", q, k, v, name=f"{p}.sums", heads=self.heads, k_bits=c["k_bits"])
        threshold = float(c["attn_v_threshold"]) / self._amplitude(p)
        return e.neuron(f"{p}.attn_lif", z, threshold=threshold)

    def _binary(self, p: str, q: ir.Value, k: ir.Value, v: ir.Value) -> ir.Value:
        """Append the all-binary core of the paper's ablation: counts q k^T v, scale 1."""
        e = self.e
        counts = e.op("QueryKeyValues", q, k, v, name=f"{p}.counts", heads=self.heads)
        gain = e.b.initializer(f"{p}.gain", np.ones((e.n_steps, self.heads)))
        z = e.op("HeadScale", counts, gain, name=f"{p}.scaled")
        return e.neuron(f"{p}.attn_lif", z, threshold=float(self.config["attn_v_threshold"]))
