"""Every form of BESTformer: the spiking graph is the network that independent equations give."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from random_nets import Spec, images_of, random_network, save

from bestdeploy import importers, passes, stages
from bestdeploy.emit import floating
from bestdeploy.errors import CheckpointError, UnsupportedModelError, UsageError
from bestdeploy.importers.bestformer import BINARISERS
from bestdeploy.ops import count_neuron, lif, neuron

BASE = Spec(seed=61, dim=24, heads=3, depth=2, n_steps=4, size=16, classes=5)
EVENTS = replace(BASE, layout="imagenet", channels=2, events=True, depth=1)
FORMS = {
    "kv": replace(BASE, attention="kv"),
    "imagenet": replace(BASE, layout="imagenet", size=32),
    "imagenet-kv": replace(BASE, layout="imagenet", attention="kv", size=32),
    "paper": replace(BASE, variant="paper", decay_input=False),
    "paper-hard": replace(BASE, variant="paper", decay_input=False, binariser="hard"),
    "hard": replace(BASE, binariser="hard"),
    "boolean": replace(BASE, binariser="boolean", attention="kv"),
    "plain": replace(BASE, residual="plain", biased=True),
    "plain-one-head": replace(BASE, residual="plain", biased=True, readout="classification"),
    "classification": replace(BASE, readout="classification"),
    "distillation": replace(BASE, readout="distillation", attention="kv"),
    "paper-average": replace(BASE, variant="paper", decay_input=False, readout="average"),
    "events": replace(EVENTS, n_steps=10, tau=1.5),
    "events-kv": replace(EVENTS, n_steps=16, attention="kv"),
    "events-cifar": replace(EVENTS, layout="cifar", n_steps=2, size=8),
}


@pytest.mark.parametrize("form", list(FORMS))
def test_graphs_are_the_published_equations(tmp_path, form):
    import onnxruntime

    spec = FORMS[form]
    model = importers.import_checkpoint(save(tmp_path / "c.pt", spec))
    images = images_of(spec, 3)
    expected = random_network(spec).logits(images)
    np.testing.assert_allclose(stages.run(model, images)["logits"], expected, atol=1e-12, rtol=0)
    session = onnxruntime.InferenceSession(floating.float_model(model))
    (found,) = session.run(None, {"image": images})
    np.testing.assert_allclose(found, expected, atol=1e-3, rtol=0)
    passes.run(model)
    np.testing.assert_allclose(stages.run(model, images)["logits"], expected, atol=2e-4, rtol=0)


def test_the_golden_network_of_the_imagenet_layout(golden_kv):
    path, settings, held = golden_kv
    model = importers.import_checkpoint(path, overrides=settings)
    found = stages.run(model, held["images"])["logits"]
    np.testing.assert_allclose(found, held["float64"], atol=1e-12, rtol=0)
    passes.run(model)
    np.testing.assert_array_equal(stages.run(model, held["images"])["raw"], held["raw"])


def settings_of(spec):
    return {k: v for k, v in random_network(spec).settings.items() if k != "time_step"}


def test_paper_implies_no_input_decay_and_sign_of_zero(tmp_path):
    spec = FORMS["paper"]
    held = torch.load(save(tmp_path / "c.pt", spec), weights_only=True)
    del held["args"]["decay_input"]
    held["state_dict"]["block.0.attn.q_conv.weight"].fill_(0.5)  # every deviation is 0
    torch.save(held, tmp_path / "c.pt")
    model = importers.import_checkpoint(tmp_path / "c.pt")
    assert json.loads(model.metadata_props["config"])["decay_input"] is False
    passes.run(model)


@pytest.mark.parametrize("shape", [(4,), (4, 1, 1), (4, 1, 1, 1, 1)])
def test_lambda_of_a_layer_in_every_shape(tmp_path, shape):
    spec = FORMS["paper"]
    held = torch.load(save(tmp_path / "c.pt", spec), weights_only=True)
    for key in list(held["state_dict"]):
        if key.endswith("lambda_attn"):
            held["state_dict"][key] = held["state_dict"][key].reshape(shape)
    torch.save(held, tmp_path / "c.pt")
    images = images_of(spec, 2)
    found = stages.run(importers.import_checkpoint(tmp_path / "c.pt"), images)["logits"]
    np.testing.assert_allclose(found, random_network(spec).logits(images), atol=1e-12, rtol=0)


def test_lambda_of_a_layer_needs_the_heads(tmp_path):
    held = torch.load(save(tmp_path / "c.pt", FORMS["paper"]), weights_only=True)
    del held["args"]["num_heads"]
    torch.save(held, tmp_path / "c.pt")
    with pytest.raises(UnsupportedModelError, match="heads") as e:
        importers.import_checkpoint(tmp_path / "c.pt")
    assert "--set heads=8" in e.value.hint


def test_lambda_that_is_neither_per_layer_nor_per_head(tmp_path):
    held = torch.load(save(tmp_path / "c.pt", FORMS["paper"]), weights_only=True)
    held["state_dict"]["block.0.attn.lambda_attn"] = torch.ones(4, 5)
    torch.save(held, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match="one number per step"):
        importers.import_checkpoint(tmp_path / "c.pt")


def test_fewer_steps_than_were_trained(tmp_path):
    path = save(tmp_path / "c.pt", BASE)
    model = importers.import_checkpoint(path, overrides={"n_steps": "2"})
    assert "lambda_attn is cut" in model.metadata_props["warnings"]
    network = random_network(BASE)
    for name, value in network.tensors.items():
        if name.endswith("lambda_attn"):
            network.tensors[name] = value[:2]
    network.spec = replace(BASE, n_steps=2)
    images = images_of(BASE, 2)
    found = stages.run(model, images)["logits"]
    np.testing.assert_allclose(found, network.logits(images), atol=1e-12, rtol=0)
    with pytest.raises(UsageError, match="n_steps=5"):
        importers.import_checkpoint(path, overrides={"n_steps": "5"})


def test_steps_that_the_args_state_are_not_believed(tmp_path):
    held = torch.load(save(tmp_path / "c.pt", BASE), weights_only=True)
    held["args"]["time_step"] = 6
    torch.save(held, tmp_path / "c.pt")
    model = importers.import_checkpoint(tmp_path / "c.pt")
    assert "time_step=6" in model.metadata_props["warnings"]


def test_where_each_setting_came_from(tmp_path):
    model = importers.import_checkpoint(save(tmp_path / "c.pt", BASE), overrides={"tau": "3"})
    origins = json.loads(model.metadata_props["settings_from"])
    assert origins["tau"] == "--set"
    assert origins["attention"] == "checkpoint args"
    assert origins["attn_scale"] == "default"


def test_two_input_channels_are_events_unless_told_otherwise(tmp_path):
    held = torch.load(save(tmp_path / "c.pt", FORMS["events"]), weights_only=True)
    del held["args"]["input"]
    torch.save(held, tmp_path / "c.pt")
    model = importers.import_checkpoint(tmp_path / "c.pt")
    assert stages.input_shape(model) == (10, 16, 16, 2)
    assert json.loads(model.metadata_props["preprocessing"])["input"] == "events"
    still = {"input": "image", "mean": "0.5,0.5", "std": "0.2,0.2"}
    model = importers.import_checkpoint(tmp_path / "c.pt", overrides=still)
    assert stages.input_shape(model) == (16, 16, 2)


def test_hints_speak_of_the_layout(golden_kv):
    path, _, _ = golden_kv
    with pytest.raises(UnsupportedModelError) as e:
        importers.import_checkpoint(path)
    assert "--set attention=kv" in e.value.hint


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        (["patch_embed1.proj_conv.weight", "stage1.0.tssa.q_conv.weight"], "QKFormer"),
    ],
)  # fmt: skip
def test_other_models_of_the_field_are_named(tmp_path, keys, name):
    torch.save({k: torch.zeros(2, 2) for k in keys}, tmp_path / "c.pt")
    with pytest.raises(UnsupportedModelError, match=name):
        importers.import_checkpoint(tmp_path / "c.pt")


# [bestformer] Table 1 with theta = 1: attention counts of four steps and their bits under the
# Boolean function, the hard-reset and the soft-reset neuron without input decay.
TABLE_1 = {
    "boolean": {(1, 5, 0, 0): (1, 1, 0, 0), (0, 3, 1, 0): (0, 1, 1, 0)},
    "hard": {(1, 5, 0, 0): (1, 1, 0, 0), (0, 3, 1, 0): (0, 1, 1, 0)},
    "soft": {(1, 5, 0, 0): (1, 1, 1, 0), (0, 3, 1, 0): (0, 1, 1, 0)},
}
# The published code decays the input: one bit remains where the table has three.
OFFICIAL = {(1, 5, 0, 0): (0, 1, 0, 0), (0, 3, 1, 0): (0, 1, 0, 0)}


@pytest.mark.parametrize(
    ("kind", "decay", "table"),
    [*((kind, 0, table) for kind, table in TABLE_1.items()), ("soft", 1, OFFICIAL)],
)
def test_binarisers_of_the_paper(kind, decay, table):
    usual = {"tau": 2.0, "v_threshold": 1.0, "v_reset": 0.0, "soft_reset": 0,
             "decay_input": decay}  # fmt: skip
    settings = {**usual, **BINARISERS[kind]}
    counts = np.array(list(table)).T
    expected = np.array(list(table.values())).T
    trained, _ = lif.membrane(counts.reshape(4, 2, 1, 1, 1).astype(float), n_steps=4, **settings)
    np.testing.assert_array_equal(trained.reshape(4, 2), expected)
    stream = neuron.run(counts << 20, **neuron.parameters(**settings, bits=20))
    np.testing.assert_array_equal(stream, expected)
    if kind == "soft":
        first = 2 if decay else 1
        np.testing.assert_array_equal(count_neuron.run(counts.astype(np.int32), first), expected)
