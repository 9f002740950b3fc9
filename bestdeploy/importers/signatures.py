"""Checkpoints that are recognised by their tensor names but not imported: what to tell the user."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Signature(NamedTuple):
    """A model of the field, and the tensor names that give it away."""

    model: str
    matches: Callable[[set[str]], bool]


def _has(*needed: str, without: tuple[str, ...] = ()) -> Callable[[set[str]], bool]:
    return lambda keys: set(needed) <= keys and not keys & set(without)


_LAMBDA = ("block.0.attn.lambda_attn",)

SIGNATURES: tuple[Signature, ...] = (
    Signature(
        "Spikingformer, CIFAR layout",
        _has("patch_embed.block0_conv.weight", "block.0.norm1.weight", without=_LAMBDA),
    ),
    Signature(  # saved without the layer norms that nothing uses
        "Spikingformer, CIFAR layout",
        _has("patch_embed.block0_conv.weight", "block.0.mlp.mlp1_conv.weight", without=_LAMBDA),
    ),
    Signature(
        "Spikingformer, ImageNet or event-camera layout",
        _has("patch_embed.proj1_conv.weight", "block.0.mlp.mlp1_conv.weight", without=_LAMBDA),
    ),
    Signature(
        "Spikformer, CIFAR layout",
        _has("patch_embed.rpe_conv.weight", "block.0.attn.q_linear.weight"),
    ),
    Signature(
        "Spikformer, ImageNet or event-camera layout",
        _has("patch_embed.rpe_conv.weight", "block.0.attn.q_conv.weight"),
    ),
    Signature("QSD-Transformer", _has("downsample1_1.encode_conv.alpha")),
    Signature(
        "Spike-driven Transformer v2 (Meta-SpikeFormer)",
        _has("downsample1_1.encode_conv.weight"),
    ),
)
"""In this order: the first that matches names the model."""


def recognise(keys: set[str]) -> str | None:
    """Return the name of the model that a set of tensor names belongs to, None where unknown."""
    return next((s.model for s in SIGNATURES if s.matches(keys)), None)
