"""Checkpoints of families with real weights: Spikformer and Spikingformer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from error_table.definition import Case, Make

MISSING = (
    "the checkpoint does not say `weight_bits` and nothing is guessed "
    "(weight_bits: 1, 2, 3, 4, 8 or 16)"
)
ANOTHER = "is this another family or variant? see `bestdeploy export --help`"


def network(family: str, change: Callable[[dict[str, Any], dict[str, Any]], object]) -> Make:
    """Write changed.pt, a small random network after a change of its (tensors, args)."""

    def write(folder: Path) -> None:
        import torch
        from weighted_nets import Weighted, save

        save(folder / "changed.pt", Weighted(family, dim=8, heads=2, n_steps=1))
        content = torch.load(folder / "changed.pt", weights_only=True)
        change(content["state_dict"], content["args"])
        torch.save(content, folder / "changed.pt")

    return write


def unchanged(tensors: dict[str, Any], args: dict[str, Any]) -> None:
    """Leave it as it is."""


def without(*keys: str) -> Callable[[dict[str, Any], dict[str, Any]], object]:
    return lambda tensors, args: [tensors.pop(key) for key in keys]


def stating(**changes: Any) -> Callable[[dict[str, Any], dict[str, Any]], object]:
    return lambda tensors, args: args.update(changes)


def mixed(tensors: dict[str, Any], args: dict[str, Any]) -> None:
    """Add what only the other family has."""
    tensors["block.0.attn.q_linear.weight"] = tensors["block.0.attn.q_conv.weight"]


WEIGHTED_CASES: tuple[Case, ...] = (
    Case(
        "export changed.pt -o out.onnx",
        4,
        MISSING,
        "the published code uses: --set weight_bits=8",
        where="family spikformer",
        make=network("spikformer", unchanged),
    ),
    Case(
        "export changed.pt -o out.onnx --weight-bits 5",
        2,
        "weight_bits='5' (from --set): must be 1, 2, 3, 4, 8 or 16",
        "override it with --set weight_bits=8",
        where="setting weight_bits",
        make=network("spikingformer", unchanged),
    ),
    Case(
        "export ckpt.pt -o out.onnx --weight-bits 8",
        2,
        "--set weight_bits: family `bestformer` has no such setting",
        "known settings: *",
    ),
    Case(
        "export changed.pt -o out.onnx --weight-bits 8",
        2,
        "weight_bits=8 (from --set): the network was trained with 4-bit weights",
        "leave weight_bits away: the checkpoint says it",
        where="setting weight_bits",
        make=network("spikformer", stating(weight_bits=4)),
    ),
    Case(
        "export changed.pt -o out.onnx --weight-bits 8",
        4,
        "the checkpoint does not say `n_steps`, `heads` and nothing is guessed (*)",
        "the published code uses: --set n_steps=4 --set heads=12",
        where="family spikformer",
        make=network("spikformer", stating(time_step=None, num_heads=None)),
    ),
    Case(
        "export changed.pt -o out.onnx --weight-bits 8 --set attn_scale=0.3",
        4,
        "attn_scale=0.3: attention without a binariser needs a power of two",
        "override it with --set attn_scale=0.125",
        where="setting attn_scale",
        make=network("spikformer", unchanged),
    ),
    Case(
        "export ckpt.pt -o out.onnx --family spikformer",
        4,
        "family `spikformer` was asked for, these are the tensors of bestformer",
        "leave --family away: the family is found from the tensor names",
        where="ckpt.pt",
    ),
    Case(
        "export changed.pt -o out.onnx --weight-bits 8 --family spikingformer",
        4,
        "family `spikingformer` was asked for, these are the tensors of spikformer",
        "leave --family away: the family is found from the tensor names",
        where="changed.pt",
        make=network("spikformer", unchanged),
    ),
    Case(
        "export changed.pt -o out.onnx --weight-bits 8",
        7,
        "1 tensors do not belong to this model: `block.0.attn.q_linear.weight`",
        ANOTHER,
        where="changed.pt",
        make=network("spikingformer", mixed),
    ),
    Case(
        "export changed.pt -o out.onnx --weight-bits 8",
        4,
        "the tokenizer is of neither layout of Spikingformer",
        "expected `patch_embed.block1_conv.weight` (CIFAR) or `patch_embed.proj1_conv.weight` "
        "(ImageNet) and the other stages",
        where="changed.pt",
        make=network("spikingformer", without("patch_embed.block3_conv.weight")),
    ),
    Case(
        "export changed.pt -o out.onnx --weight-bits 8",
        7,
        "`patch_embed.proj_conv.weight` or the attention of block 0 is missing",
        "Spikformer has `block.0.attn.q_linear` (CIFAR) or `q_conv` (ImageNet, events)",
        where="changed.pt",
        make=network("spikformer", without("patch_embed.proj_conv.weight")),
    ),
)
