"""The choice of F: 20 wherever the bounds allow, less where a layer needs it, never a wrap."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from random_nets import Spec, images_of, random_network

from bestdeploy import importers, passes, stages
from bestdeploy.errors import PassError

SPEC = Spec(seed=51, dim=24, heads=3, depth=1, n_steps=4, size=8, classes=5)


def network(mutate, spec=SPEC):
    net = random_network(spec)
    mutate(net.tensors)
    return net


def run(tmp_path, net, frames):
    """Return the packed model's metadata and outputs."""
    state = {k: torch.from_numpy(np.array(v)) for k, v in net.tensors.items()}
    torch.save({"state_dict": state, "args": net.settings}, tmp_path / "c.pt")
    model = importers.import_checkpoint(tmp_path / "c.pt")
    passes.run(model)
    return model.metadata_props, stages.run(model, frames)


def fill(key, value, index=...):
    def mutate(tensors):
        changed = tensors[key].copy()
        changed[index] = value
        tensors[key] = changed

    return mutate


KEEPS_20 = {
    "as it is": lambda t: None,
    "steep batch norm in front of q": fill("block.0.attn.q_bn.weight", 1e6, 0),
    "far mean in front of v": fill("block.0.attn.v_bn.running_mean", 1e5, 1),
    "no variance in the stem": fill("patch_embed.block2_bn.running_var", 0.0),
    "dead channel of the first convolution": fill("patch_embed.block0_conv.weight", 0.0, 0),
    "dead channel of the first batch norm": fill("patch_embed.block0_bn.weight", 0.0, 1),
    "no lambda at all": fill("block.0.attn.lambda_attn", 0.0),
    "tiny lambda": fill("block.0.attn.lambda_attn", 1e-30),
}


@pytest.mark.parametrize("case", KEEPS_20)
def test_threshold_layers_do_not_cost_fraction_bits(tmp_path, case):
    net, frames = network(KEEPS_20[case]), images_of(SPEC, 4)
    metadata, out = run(tmp_path, net, frames)
    assert metadata["frac_bits"] == "20"
    assert "frac_bits_decided_by" not in metadata
    np.testing.assert_allclose(out["logits"], net.logits(frames), rtol=0, atol=2e-3)


NEEDS_LESS = {
    "stream affine": (fill("block.0.attn.proj_bn.weight", 3e3), "block.0.attn.proj_bn"),
    "last layer, counted": (fill("block.0.mlp.mlp2_bn.bias", 1e4), "block.0.mlp.mlp2_conv"),
    "first convolution": (
        fill("patch_embed.block0_bn.weight", 300.0, 0),
        "patch_embed.block0_bn",
    ),
    "value table": (fill("block.0.attn.lambda_attn", 1e4), "block.0.attn.attn_lif"),
    "head bias": (fill("head.bias", 1e8), "logits"),
}


@pytest.mark.parametrize("case", NEEDS_LESS)
def test_the_deciding_layer_is_named_and_nothing_wraps(tmp_path, case):
    mutate, layer = NEEDS_LESS[case]
    net, frames = network(mutate), images_of(SPEC, 4)
    metadata, out = run(tmp_path, net, frames)
    assert int(metadata["frac_bits"]) < 20
    assert metadata["frac_bits_decided_by"] == layer
    expected = net.logits(frames)
    scale = max(1.0, np.abs(expected).max())
    assert np.abs(out["logits"] - expected).max() < 1e-3 * scale


def test_a_larger_f_would_not_fit(tmp_path):
    """F is the largest that fits: one more bit breaks the bound of the deciding layer."""
    from bestdeploy.passes import fixed_point

    net = network(fill("block.0.attn.proj_bn.bias", 5e3))
    state = {k: torch.from_numpy(np.array(v)) for k, v in net.tensors.items()}
    torch.save({"state_dict": state, "args": net.settings}, tmp_path / "c.pt")
    model = importers.import_checkpoint(tmp_path / "c.pt")
    passes.run(model, pipeline=passes.PIPELINE[:4])
    claims = fixed_point._Bounds(model).claims
    bits = fixed_point.frac_bits(model)
    assert all(c.holds(bits) for c in claims)
    assert not all(c.holds(bits + 1) for c in claims)


@pytest.mark.parametrize(
    ("tau", "decay"), [(1e6, False), (100.0, False), (7.3, True), (1.0, False)]
)
def test_other_time_constants_keep_20(tmp_path, tau, decay):
    spec = Spec(seed=52, dim=16, heads=2, depth=1, n_steps=4, size=8, tau=tau, decay_input=decay)
    net, frames = network(lambda t: None, spec), images_of(spec, 4)
    metadata, out = run(tmp_path, net, frames)
    assert metadata["frac_bits"] == "20"
    np.testing.assert_allclose(out["logits"], net.logits(frames), rtol=0, atol=2e-3)


@pytest.mark.parametrize(
    ("key", "value", "where"),
    [
        ("block.0.attn.proj_bn.bias", 1e12, "block.0.attn.proj_bn"),
        ("head.weight", 1e5, "head"),
    ],
)
def test_what_no_format_holds_is_refused(tmp_path, key, value, where):
    with pytest.raises(PassError) as e:
        run(tmp_path, network(fill(key, value)), images_of(SPEC, 1))
    assert e.value.where == where
    assert e.value.hint
