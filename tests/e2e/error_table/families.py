"""What families beside BESTformer do not import, or cannot hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from error_table.definition import Case, Make


def family(name: str, change: Callable[[dict[str, Any], dict[str, Any]], object]) -> Make:
    """Write changed.pt: a network of `family_nets`, its tensors and args changed."""

    def write(folder: Path) -> None:
        import family_nets
        import torch

        path = folder / "changed.pt"
        family_nets.save(path, name)
        content = torch.load(path, weights_only=True)
        change(content["state_dict"], content["args"])
        torch.save(content, path)

    return write


def args(name: str, **changes: Any) -> Make:
    """Change args of a network."""
    return family(name, lambda tensors, found: found.update(changes))


FAMILY_CASES: tuple[Case, ...] = (
    Case(
        "export changed.pt",
        4,
        "the checkpoint does not say `weight_bits` and nothing is guessed (weight_bits: 1, 2, 3, "
        "4, 8 or 16)",
        "the published code uses: --set weight_bits=8",
        where="family sdt_v1",
        make=args("sdt_v1", weights="real"),
    ),
    Case(
        "export changed.pt",
        4,
        "dvs_mode=true widens spikes over tokens and channels, which is not supported",
        "train with dvs_mode = false",
        where="setting dvs_mode",
        make=args("sdt_v1", dvs_mode=True),
    ),
    Case(
        "export changed.pt --set tau=3",
        4,
        "the neuron on sums of k v has tau=3 and threshold 0.5: one spike pair must be enough for "
        "it to fire",
        "the published code has tau=2 and threshold 0.5, which is an OR",
        where="block.0.attn.talking_heads_lif",
        make=args("sdt_v1"),
    ),
    Case(
        "export changed.pt --set pooling_stat=12",
        2,
        "pooling_stat='12' (from --set): must be four digits 0 or 1",
        "override it with --set pooling_stat=1111",
        where="setting pooling_stat",
        make=args("sdt_v1"),
    ),
    Case(
        "export changed.pt",
        4,
        "the checkpoint does not say `pooling_stat` and nothing is guessed (pooling_stat: four "
        "digits 0 or 1)",
        "the published code uses: --set pooling_stat=1111",
        where="family sdt_v1",
        make=family("sdt_v1", lambda tensors, found: found.pop("pooling_stat")),
    ),
    # Spike-driven Transformer v2
    Case(
        "export changed.pt --family sdt_v2",
        7,
        "`downsample1_1.encode_conv.weight` is missing",
        "Meta-SpikeFormer begins with a 7x7 convolution of this name",
        where="changed.pt",
        make=family(
            "sdt_v2", lambda tensors, found: tensors.pop("downsample1_1.encode_conv.weight")
        ),
    ),
    Case(
        "export changed.pt --family bestformer",
        4,
        "family `bestformer` was asked for, these are the tensors of sdt_v2",
        "leave --family away: the family is found from the tensor names",
        where="changed.pt",
        make=args("sdt_v2"),
    ),
    Case(
        "export changed.pt",
        7,
        "`block3.0.attn.q_conv.0.body.1.bn.running_var` is negative in channel 2",
        "the file is damaged, or its training has diverged",
        where="changed.pt",
        make=family(
            "sdt_v2",
            lambda tensors, found: tensors["block3.0.attn.q_conv.0.body.1.bn.running_var"][2].fill_(
                -1.0
            ),
        ),
    ),
    Case(
        "export changed.pt",
        7,
        "`ConvBlock1_1.0.Conv.dwconv.weight` has shape (4, 1, 5, 5), expected (4, 1, 7, 7)",
        "*",
        where="changed.pt",
        make=family(
            "sdt_v2",
            lambda tensors, found: tensors.update(
                {
                    "ConvBlock1_1.0.Conv.dwconv.weight": tensors[
                        "ConvBlock1_1.0.Conv.dwconv.weight"
                    ][:, :, :5, :5].clone()
                }
            ),
        ),
    ),
    Case(
        "export changed.pt --set attn_scale=0.3",
        4,
        "attn_scale=0.3: attention without a binariser needs a power of two",
        "override it with --set attn_scale=0.125",
        where="setting attn_scale",
        make=args("sdt_v2"),
    ),
    # QSD-Transformer
    Case(
        "export changed.pt",
        7,
        "`block3.0.attn.q_conv.0.body.2.1.alpha` is -0.5 in channel 3 (1 of 8 channels), expected "
        "a positive step",
        "--set negative_alpha=true takes negative steps as they were trained; a step of 0 leaves "
        "no weights: take another checkpoint",
        where="changed.pt",
        make=family(
            "qsd",
            lambda tensors, found: tensors["block3.0.attn.q_conv.0.body.2.1.alpha"][3].fill_(-0.5),
        ),
    ),
    Case(
        "export changed.pt --set negative_alpha=true",
        7,
        "`head.alpha` is 0 in channel 0 (1 of 5 channels), expected a positive step",
        "*",
        where="changed.pt",
        make=family("qsd", lambda tensors, found: tensors["head.alpha"][0].fill_(0.0)),
    ),
    Case(
        "export changed.pt",
        7,
        "`downsample2.encode_conv.alpha` is nan at (1,) (1 values are not finite)",
        "the training has diverged: take an earlier checkpoint",
        where="changed.pt",
        make=family(
            "qsd",
            lambda tensors, found: tensors["downsample2.encode_conv.alpha"][1].fill_(float("nan")),
        ),
    ),
    Case(
        "export changed.pt",
        7,
        "tensor `block3.0.layer_scale1` is missing",
        "*",
        where="changed.pt",
        make=family("qsd", lambda tensors, found: tensors.pop("block3.0.layer_scale1")),
    ),
    Case(
        "export changed.pt",
        4,
        "ie_leak=0.5 with 2 steps: neurons of several levels are deployed without memory",
        "train with ie_leak = 0 or n_steps = 1, as the published networks are",
        where="setting ie_leak",
        make=args("qsd", ie_leak=0.5, n_steps=2),
    ),
    Case(
        "export changed.pt",
        4,
        "the checkpoint does not say `weight_bits` and nothing is guessed (weight_bits: 2, 3, 4 or "
        "8: bits of the trained weights)",
        "the published code uses: --set weight_bits=4",
        where="family qsd",
        make=family("qsd", lambda tensors, found: found.pop("weight_bits")),
    ),
    Case(
        "export changed.pt --family sdt_v2",
        4,
        "family `sdt_v2` was asked for, these are the tensors of qsd",
        "leave --family away: the family is found from the tensor names",
        where="changed.pt",
        make=args("qsd"),
    ),
    # A2OS2A
    Case(
        "export changed.pt",
        4,
        "key=binary with value=ternary is an ablation that is not imported",
        "key = relu with value = ternary is the method, binary with binary all bits",
        where="setting key",
        make=args("a2os2a", key="binary"),
    ),
    Case(
        "export changed.pt --k-bits 32",
        2,
        "k_bits='32' (from --set): must be a whole number in 1..31",
        "*",
        where="setting k_bits",
        make=args("a2os2a"),
    ),
    Case(
        "export changed.pt --k-bits 8",
        2,
        "--set k_bits: family `sdt_v1` has no such setting",
        "*",
        make=args("sdt_v1"),
    ),
    Case(
        "export changed.pt --set tau=1.5",
        4,
        "tau=1.5: the neuron behind the attention sums halves, tau = 2",
        "train with tau = 2.0",
        where="setting tau",
        make=args("a2os2a"),
    ),
    Case(
        "export changed.pt",
        4,
        "`block.0.attn.v_tlif.amplitude` is -1.0: an amplitude must be positive",
        "take another checkpoint, or train with learn_amplitude = false",
        where="changed.pt",
        make=family(
            "a2os2a_learned",
            lambda tensors, found: tensors["block.0.attn.v_tlif.amplitude"].fill_(-1.0),
        ),
    ),
    Case(
        "export changed.pt",
        4,
        "the checkpoint does not say `ternary_beta` and nothing is guessed (ternary_beta: a number "
        "in [0, 1])",
        "no code is published that says it, give what was trained: --set ternary_beta=...",
        where="family a2os2a",
        make=family("a2os2a", lambda tensors, found: found.pop("ternary_beta")),
    ),
)
