"""Pruning: what cannot fire goes, what can fire stays, and no integer changes."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from random_nets import Spec, images_of, save

from bestdeploy import importers, ir, lower, passes, stages
from bestdeploy.passes import prune

SPEC = Spec(seed=71, dim=24, heads=4, depth=2, n_steps=4, size=8, classes=3)


def folded(path):
    """Graphs just before and after pruning."""
    model, found = importers.import_checkpoint(path), {}
    passes.run(model, after=lambda i, p, m: found.setdefault(p.name, ir.clone(m)))
    return found["integer_readout"], found["prune"], model


def edited(tmp_path, spec, edit):
    path = save(tmp_path / "c.pt", spec)
    held = torch.load(path, weights_only=True)
    edit(held["state_dict"])
    torch.save(held, path)
    return path


@pytest.mark.parametrize("attention", ["qk", "kv"])
@pytest.mark.parametrize("dead", [(1,), (0, 3), (0, 1, 2, 3)])
def test_dead_heads_go_with_their_channels(tmp_path, attention, dead):
    spec = replace(SPEC, attention=attention)

    def edit(state):
        values = state["block.1.attn.lambda_attn"]
        values[values <= 0] = 1.0
        values[:, :, list(dead)] = -0.5

    before, after, packed = folded(edited(tmp_path, spec, edit))
    images = images_of(spec, 4)
    expected = stages.run(before, images)["raw"]
    np.testing.assert_array_equal(stages.run(after, images)["raw"], expected)
    np.testing.assert_array_equal(stages.run(packed, images, bodies=True)["raw"], expected)
    notes = json.loads(packed.metadata_props["pruned"])
    gone = dead if len(dead) < 4 else dead[1:]  # one head always stays
    assert notes["block.1.attn.attn_lif0"] == {"axis": 2, "cut": list(gone), "of": 4}
    channels = [h * 6 + j for h in gone for j in range(6)]
    for name in ("q_lif", "k_lif", "v_lif", "attn_lif"):
        assert notes[f"block.1.attn.{name}"] == {"axis": -1, "cut": channels, "of": 24}
    assert "block.0.attn.q_lif" not in notes
    program = lower.lower(packed)
    width = 24 - len(channels)
    shapes = {s.name: program.buffers[s.outputs[0]].c for s in program.steps}
    assert shapes["block.1.attn.q_lif"] == shapes["block.1.attn.attn_lif"] == width
    assert shapes["block.1.attn.proj_conv" if "block.1.attn.proj_conv" in shapes else
                  "block.1.attn.proj_lif"] == 24  # fmt: skip


@pytest.mark.parametrize("tau", [2.0, 1.5])
def test_dead_channels_go_with_the_weights_that_read_them(tmp_path, tau):
    spec = replace(SPEC, tau=tau)

    def edit(state):
        for name in ("patch_embed.block0_bn", "patch_embed.block2_bn", "block.0.mlp.mlp1_bn"):
            state[f"{name}.weight"][1] = 0.0
            state[f"{name}.bias"][1] = 0.25
        state["block.1.mlp.mlp1_bn.weight"].zero_()  # a layer that is silent as a whole
        state["block.1.mlp.mlp1_bn.bias"].fill_(-1.0)

    before, after, packed = folded(edited(tmp_path, spec, edit))
    images = images_of(spec, 4)
    np.testing.assert_array_equal(
        stages.run(after, images)["raw"], stages.run(before, images)["raw"]
    )
    notes = json.loads(packed.metadata_props["pruned"])
    for neuron in ("patch_embed.block1_lif", "patch_embed.block3_lif", "block.0.mlp.mlp2_lif"):
        assert 1 in notes[neuron]["cut"], neuron
    assert notes["block.1.mlp.mlp2_lif"]["cut"] == list(range(1, 96))
    names = [str(v.name) for v in stages.neuron_values(packed)]
    out = stages.Executor(packed, watch=names).run(images)
    read, kept = stages.spike_reader(packed), stages.kept_spikes(packed)
    trained = importers.import_checkpoint(tmp_path / "c.pt")
    full = stages.Executor(trained, watch=names).run(images)
    for name in names:
        np.testing.assert_array_equal(read(name, out[name]), kept(name, full[name]), err_msg=name)
        if name in notes and name.split(".")[-1][0] not in "qkv":
            rest = np.take(full[name], notes[name]["cut"], axis=notes[name]["axis"])
            assert name.endswith("attn_lif0") or not rest.any(), name


def test_neurons_that_just_fire_stay(tmp_path):
    """A bias of exactly the threshold fires, the next smaller float32 does not."""

    def edit(state):
        state["patch_embed.block2_bn.weight"][:2] = 0.0
        state["patch_embed.block2_bn.bias"][:2] = 2.0
        state["patch_embed.block2_bn.bias"][1] = torch.nextafter(
            torch.tensor(16 / 15), torch.tensor(0.0)
        )
        state["patch_embed.block2_bn.running_mean"][:2] = 0.0

    before, after, _ = folded(edited(tmp_path, SPEC, edit))
    cut = json.loads(after.metadata_props["pruned"])["patch_embed.block3_lif"]["cut"]
    assert 0 not in cut
    assert 1 in cut  # 16/15 (1 - 2^-4) = 1 is reached at step 4 by nothing less
    images = images_of(SPEC, 4)
    np.testing.assert_array_equal(
        stages.run(after, images)["raw"], stages.run(before, images)["raw"]
    )


def test_notes_of_two_rounds_speak_of_the_trained_channels(tmp_path):
    _, after, _ = folded(save(tmp_path / "c.pt", SPEC))
    node = next(n for n in after.graph if str(n.outputs[0].name) == "block.0.mlp.mlp2_lif")
    after.metadata_props["pruned"] = json.dumps(
        {"block.0.mlp.mlp2_lif": {"axis": -1, "cut": [0, 2], "of": 96}}
    )
    prune._note(after, node, -1, np.delete(np.arange(94), [0, 1]), 94)
    note = json.loads(after.metadata_props["pruned"])["block.0.mlp.mlp2_lif"]
    assert note == {"axis": -1, "cut": [0, 1, 2, 3], "of": 96}
