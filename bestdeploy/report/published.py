"""What the literature prints about binary spiking transformers, and what follows from the formulas.

Sizes, parameters and dense work are computed here from the shapes of the published models; only
what a paper prints is typed in. `bestdeploy inspect --published` shows all of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from bestdeploy.report.layers import Shape
from bestdeploy.report.of_shapes import (
    Skeleton,
    layers_of_skeleton,
    skeleton_of,
    trained_parameters,
)
from bestdeploy.report.published_qsd import published_qsd
from bestdeploy.report.totals import MIB, Energy, paper_bytes, work_of

__all__ = ["MODELS", "NS_ACE", "READINGS", "PublishedModel", "published", "state_shapes"]


@dataclass(frozen=True)
class PublishedModel:
    """A BESTformer of the paper; `printed_mib` is the size that Table 2 or 3 prints."""

    dataset: str
    name: str
    layout: str
    depth: int
    dim: int
    heads: int
    n_steps: int
    classes: int
    channels: int
    side: int
    attention: str
    printed_mib: str


MODELS = (
    PublishedModel("CIFAR-10", "4-384", "cifar", 4, 384, 8, 4, 10, 3, 32, "qk", "1.18"),
    PublishedModel("CIFAR-100", "4-384", "cifar", 4, 384, 8, 4, 100, 3, 32, "qk", "1.31"),
    PublishedModel("CIFAR-10", "2-384", "cifar", 2, 384, 8, 4, 10, 3, 32, "qk", "0.73"),
    PublishedModel("CIFAR-100", "2-384", "cifar", 2, 384, 8, 4, 100, 3, 32, "qk", "0.86"),
    PublishedModel("ImageNet", "8-512", "imagenet", 8, 512, 8, 4, 1000, 3, 224, "kv", "5.57"),
    PublishedModel("CIFAR10-DVS", "2-256", "imagenet", 2, 256, 16, 16, 10, 2, 128, "qk", "0.34"),
)


@dataclass(frozen=True)
class PrintedCost:
    """A row of the paper's Table 3: SOPs and NS-ACE in G (10^9), with the digits it prints."""

    model: str
    sops_g: str
    weight_bits: int
    spike_bits: int
    printed_g: str


NS_ACE = (
    PrintedCost("Spikingformer 8-512, counted as 16 bit", "6.52", 16, 1, "104.32"),
    PrintedCost("Q-SEW-ResNet", "2.06", 2, 1, "4.11"),
    PrintedCost("Q-Spikformer", "3.93", 2, 1, "7.86"),
    PrintedCost("BESTformer 8-512", "2.13", 1, 1, "2.13"),
)


@dataclass(frozen=True)
class Reading:
    """An NS-ACE that the paper prints for BESTformer 8-512, read with a number of time steps."""

    where: str
    printed_g: float
    n_steps: int
    likely: bool


READINGS = (
    Reading("Table 3", 2.13, 1, True),
    Reading("Table 3", 2.13, 4, False),
    Reading("text, 4 time steps", 5.67, 4, True),
)


def state_shapes(model: PublishedModel) -> dict[str, Shape]:
    """Return the names and shapes of a published state dict."""
    d = model.dim
    widths = (model.channels, d // 8, d // 4, d // 2, d, d)
    keys = ("block0", "block1", "block2", "block3", "block4")
    if model.layout == "imagenet":
        keys = ("proj", "proj1", "proj2", "proj3", "proj4")
    shapes: dict[str, Shape] = {}

    def layer(name: str, weight: Shape) -> None:
        shapes[f"{name}_conv.weight"] = weight
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}_bn.{part}"] = weight[:1]
        shapes[f"{name}_bn.num_batches_tracked"] = ()

    for key, n_in, n_out in zip(keys, widths[:-1], widths[1:], strict=True):
        layer(f"patch_embed.{key}", (n_out, n_in, 3, 3))
    for i in range(model.depth):
        for n in ("q", "k", "v", "proj"):
            layer(f"block.{i}.attn.{n}", (d, d, 1))
        shapes[f"block.{i}.attn.lambda_attn"] = (model.n_steps, 1, model.heads, 1, 1)
        layer(f"block.{i}.mlp.mlp1", (4 * d, d, 1, 1))
        layer(f"block.{i}.mlp.mlp2", (d, 4 * d, 1, 1))
    for head in ("head", "head2"):
        shapes[f"{head}.weight"] = (model.classes, d)
        shapes[f"{head}.bias"] = (model.classes,)
    return shapes


def _skeleton(model: PublishedModel) -> tuple[dict[str, Shape], Skeleton]:
    shapes = state_shapes(model)
    net = skeleton_of(shapes)
    assert net is not None
    return shapes, net


def _model_row(model: PublishedModel) -> dict[str, Any]:
    shapes, net = _skeleton(model)
    counts = trained_parameters(shapes)
    layers = layers_of_skeleton(net, (model.side, model.side), model.attention, model.heads)
    work = work_of(layers, model.n_steps, Energy())
    mib = float(paper_bytes(counts) / MIB)
    return {
        "dataset": model.dataset,
        "model": model.name,
        "parameters": counts.total,
        "binary_weights": counts.binary,
        "size_mib": mib,
        "printed_mib": model.printed_mib,
        "size_agrees": f"{mib:.2f}" == model.printed_mib,
        "time_steps": model.n_steps,
        "spike_macs_per_step": work.macs_per_step,
        "spike_macs": work.spike_macs,
        "real_macs": work.real_macs,
        "real_macs_literature": work.real_macs_literature,
    }


def _rounded(printed: str) -> tuple[Decimal, Decimal]:
    """Return the numbers [low, high) that are printed like this."""
    value = Decimal(printed)
    half = Decimal(5).scaleb(int(value.as_tuple().exponent) - 1)
    return value - half, value + half


def _cost_row(row: PrintedCost) -> dict[str, Any]:
    """Return NS-ACE = SOPs b_w b_s, and where it lies as the printed SOPs are rounded.

    SOPs of 2.06 stand for [2.055, 2.065), so 2 bits make [4.11, 4.13): a printed 4.11 agrees.
    """
    bits = row.weight_bits * row.spike_bits
    low, high = (bits * bound for bound in _rounded(row.sops_g))
    printed_low, printed_high = _rounded(row.printed_g)
    return {
        "model": row.model,
        "sops_g": float(row.sops_g),
        "weight_bits": row.weight_bits,
        "spike_bits": row.spike_bits,
        "ns_ace_g": float(bits * Decimal(row.sops_g)),
        "ns_ace_low_g": float(low),
        "ns_ace_high_g": float(high),
        "printed_g": row.printed_g,
        "agrees": low < printed_high and printed_low < high,
    }


def _reading_row(row: Reading, per_step: int) -> dict[str, Any]:
    dense = per_step * row.n_steps
    return {
        "where": row.where,
        "ns_ace_g": row.printed_g,
        "time_steps": row.n_steps,
        "dense_macs": dense,
        "implied_firing_rate": row.printed_g * 1e9 / dense,
        "likely": row.likely,
    }


def published() -> dict[str, Any]:
    """Return the published models, costs and readings as plain data."""
    models = [_model_row(model) for model in MODELS]
    per_step = next(x["spike_macs_per_step"] for x in models if x["dataset"] == "ImageNet")
    return {
        "models": models,
        "ns_ace": [_cost_row(row) for row in NS_ACE],
        "readings": [_reading_row(row, per_step) for row in READINGS],
        "qsd": published_qsd(),
    }
