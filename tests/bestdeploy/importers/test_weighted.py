"""Importers of networks with real weights: recognition, settings, dead keys, quantised weights."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from weighted_nets import Weighted, save

from bestdeploy import importers, ir, passes
from bestdeploy.errors import CheckpointError, UnsupportedModelError
from bestdeploy.importers import quantiser
from bestdeploy.passes.definition import find
from training import layers

TINY = {"dim": 8, "heads": 2, "n_steps": 1}
RECOGNISED = {
    "spikingformer": (
        ["patch_embed.block0_conv.weight", "block.0.norm1.weight"],
        ["patch_embed.block0_conv.weight", "block.0.mlp.mlp1_conv.weight"],
        ["patch_embed.proj1_conv.weight", "block.0.mlp.mlp1_conv.weight"],
    ),
    "spikformer": (
        ["patch_embed.rpe_conv.weight", "block.0.attn.q_linear.weight"],
        ["patch_embed.rpe_conv.weight", "block.0.attn.q_conv.weight", "block.0.norm1.weight"],
    ),
    "bestformer": (
        ["patch_embed.block0_conv.weight", "block.0.attn.lambda_attn", "head2.weight"],
        ["patch_embed.proj_conv.weight", "patch_embed.proj1_conv.weight",
         "block.0.attn.lambda_attn"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("family", RECOGNISED)
def test_key_names_tell_the_family(family):
    for keys in RECOGNISED[family]:
        found = [f.NAME for f in importers.FAMILIES if f.recognises(set(keys))]
        assert found == [family], keys


@pytest.mark.parametrize("layout", ["cifar", "imagenet", "events"])
@pytest.mark.parametrize("family", ["spikformer", "spikingformer"])
def test_layouts_are_told_by_names_and_shapes(tmp_path, family, layout):
    more = {"channels": 2, "events": True} if layout == "events" else {}
    name = "cifar" if layout == "cifar" else "imagenet"
    spec = Weighted(family, layout=name, size=16, **TINY, **more)
    model = importers.import_checkpoint(save(tmp_path / "c.pt", spec), deployed=False)
    config = json.loads(model.metadata_props["config"])
    assert model.metadata_props["family"] == family
    assert config["layout"] == ("events" if family == "spikformer" and more else name)
    assert (config["depth"], config["dim"], config["classes"]) == (1, 8, 5)
    scale = 0.25 if family == "spikformer" and more else 0.125
    assert config["attn_scale"] == scale


@pytest.mark.parametrize("family", ["spikformer", "spikingformer"])
def test_dead_keys_are_left_out_and_listed(tmp_path, family):
    path = save(tmp_path / "c.pt", Weighted(family, dead_keys=True, **TINY))
    model = importers.import_checkpoint(path, deployed=False)
    (said,) = [w for w in json.loads(model.metadata_props["warnings"]) if "left out" in w]
    assert said.startswith("4 tensors are left out") and "block.0.norm2.bias" in said


def test_position_embedding_of_event_files_is_dead(tmp_path):
    spec = Weighted("spikformer", channels=2, events=True, layout="imagenet", size=16, **TINY)
    held = torch.load(save(tmp_path / "c.pt", spec), weights_only=True)
    held["state_dict"]["patch_embed.pos_embed"] = torch.zeros(1, 1, 8)
    held["state_dict"]["norm.weight"] = torch.ones(8)
    torch.save(held, tmp_path / "c.pt")
    model = importers.import_checkpoint(tmp_path / "c.pt", deployed=False)
    assert "patch_embed.pos_embed, norm.weight" in model.metadata_props["warnings"]


def test_what_events_need_is_asked_for(tmp_path):
    """A published event file says neither its scale nor its time constant; both are odd ones."""
    spec = Weighted("spikformer", channels=2, events=True, layout="imagenet", size=16, **TINY)
    held = torch.load(save(tmp_path / "c.pt", spec), weights_only=True)
    held["args"] = {}
    torch.save(held, tmp_path / "c.pt")
    with pytest.raises(UnsupportedModelError) as e:
        importers.import_checkpoint(tmp_path / "c.pt")
    for name in ("weight_bits", "image_size", "tau", "decay_input", "n_steps", "heads"):
        assert f"`{name}`" in str(e.value)
    assert "--set attn_scale=0.25" in e.value.hint and "--set heads=16" in e.value.hint


def test_a_tensor_of_another_width_is_named(tmp_path):
    held = torch.load(save(tmp_path / "c.pt", Weighted("spikformer", **TINY)), weights_only=True)
    held["state_dict"]["block.0.mlp.fc2_linear.weight"] = torch.zeros(8, 31)
    torch.save(held, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match=r"fc2_linear.weight` has shape \(8, 31\), expected"):
        importers.import_checkpoint(tmp_path / "c.pt", deployed=False)


# -- integer weights -----------------------------------------------------------------------------


@pytest.mark.parametrize("bits", layers.BITS)
def test_training_and_export_quantise_alike(bits):
    rng = np.random.default_rng(bits)
    w = rng.normal(0, 0.2, (9, 5, 3, 3)).astype(np.float32)
    w[3] = 0
    scale = quantiser.scales(w, bits)
    ours = quantiser.quantised(w, scale, bits)
    theirs = layers.quantise(torch.from_numpy(w).double(), bits).numpy()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-15)
    q = passes.quantise.integers(ours, scale, bits, 1 - 2 ** (bits - 1))
    np.testing.assert_array_equal(q * scale[:, None, None, None], ours)
    top = max(1, 2 ** (bits - 1) - 1)
    assert np.abs(q).max() == top if bits in (1, 8, 16) else np.abs(q).max() <= top


def test_more_bits_are_nearer():
    w = np.random.default_rng(1).normal(0, 1, (16, 64)).astype(np.float32)
    errors = [
        float(np.square(w - quantiser.quantised(w, quantiser.scales(w, b), b)).mean())
        for b in layers.BITS
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] < 0.4 and errors[1] < 0.2 and errors[3] < 0.015 and errors[-1] < 1e-8


def test_one_bit_on_spikes_takes_the_binary_kernels(tmp_path):
    path = save(tmp_path / "c.pt", Weighted("spikformer", **TINY))
    model = importers.import_checkpoint(path, overrides={"weight_bits": 1})
    passes.run(model)
    kinds = {node.op_type.partition("_T")[0] for node in model.graph if node.domain == ir.DOMAIN}
    assert {"SpikeConvNeuron", "WeightConvNeuron", "SpikeLevelAdd"} <= kinds
    for node in find(model, "WeightConvNeuron"):  # on levels: signs too, one plane
        assert ir.size(node.inputs[1], -1) == 8
