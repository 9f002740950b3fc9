"""Families beside BESTformer: one network, many forms, identical integers; and what was trained."""

from __future__ import annotations

import json

import family_nets
import numpy as np
import pytest
import torch
import user_nets
from e2e import forms

from bestdeploy import _export, cli, deploy, images, importers, ir, passes, runtime, stages
from bestdeploy._bundle import lowered_bytes


@pytest.mark.parametrize("name", family_nets.NETS)
def test_every_form_gives_identical_integers(tmp_path, name):
    frames = family_nets.save(tmp_path / "net.pt", name, n_images=5)
    _export.export(tmp_path / "net.pt", tmp_path / "model.onnx")
    (tmp_path / "model.bstm").write_bytes(lowered_bytes(tmp_path / "model.onnx"))
    structured = images.builtin_images(frames.shape[1:], 5)
    found = forms.raw_of_every_form(tmp_path, np.concatenate([frames, structured]))
    _, expected = next(found)
    assert len(np.unique(expected, axis=0)) > 1
    n_forms = 0
    for form, raw in found:
        np.testing.assert_array_equal(raw, expected, err_msg=form)
        n_forms += 1
    assert n_forms >= 5
    if reason := forms.missing():
        pytest.skip(f"all other forms are equal; {reason}")


@pytest.mark.parametrize("name", ["sdt_v1", "sdt_v1_events", "a2os2a", "a2os2a_learned"])
def test_spikes_are_those_of_the_torch_module(tmp_path, monkeypatch, capsys, name):
    """`verify --model` compares the deployed network with the float32 module, spike by spike."""
    frames = family_nets.save(tmp_path / "net.pt", name, n_images=4)
    np.save(tmp_path / "frames.npy", frames)
    _export.export(tmp_path / "net.pt", tmp_path / "model.onnx")
    (tmp_path / "model.bstm").write_bytes(lowered_bytes(tmp_path / "model.onnx"))
    monkeypatch.chdir(tmp_path)
    words = ["verify", "model.bstm", "--against", "net.pt", "--model", "training.models:load"]
    code = cli.main([*words, "--data", "frames.npy", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert code in (0, 6), found
    text = json.dumps(found)
    assert '"top1_agreement": 1.0' in text or '"top_1_agreement": 1.0' in text, text[:2000]


@pytest.mark.parametrize(
    "name", ["sdt_v2", "sdt_v2_heads", "sdt_v2_events", "qsd", "qsd_3bit", "qsd_lif"]
)
def test_the_spiking_graph_is_the_torch_module(tmp_path, name):
    """Before weights are rounded: layers in stages and folded, both heads, strides, levels."""
    frames = family_nets.save(tmp_path / "net.pt", name, n_images=6)
    graph = importers.import_checkpoint(tmp_path / "net.pt", deployed=False)
    module = family_nets.network(name)
    with torch.inference_mode():
        logits = module(module.preprocess(frames)).numpy()
    np.testing.assert_allclose(stages.run(graph, frames)["logits"], logits, rtol=0, atol=2e-4)
    assert len(np.unique(logits, axis=0)) > 1


@pytest.mark.parametrize("name", ["qsd", "add"])
def test_levels_of_the_runtime_are_those_of_the_graph(tmp_path, name):
    """`verify` unpacks neurons of several levels: QSD's, and those behind a maximum of levels."""
    path = tmp_path / "model.onnx"
    if name == "add":
        deploy.export_module(user_nets.network(name), torch.randn(2, 3, 8, 8), path)
        frames = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    else:
        frames = family_nets.save(tmp_path / "net.pt", name, n_images=3)
        deploy.export(tmp_path / "net.pt", path)
    (tmp_path / "model.bstm").write_bytes(lowered_bytes(path))
    np.save(tmp_path / "frames.npy", frames)
    report = deploy.verify(tmp_path / "model.bstm", path, data=tmp_path / "frames.npy")
    assert report.exact


@pytest.mark.parametrize("name", ["sdt_v1"])
def test_raw_logits_do_not_depend_on_threads(tmp_path, name):
    frames = family_nets.save(tmp_path / "net.pt", name, n_images=2)
    _export.export(tmp_path / "net.pt", tmp_path / "model.onnx")
    content = lowered_bytes(tmp_path / "model.onnx")
    alone = runtime.load(content).run_raw(frames)
    np.testing.assert_array_equal(runtime.load(content, threads=3).run_raw(frames), alone)


def test_negative_steps_are_taken_as_they_were_trained(tmp_path):
    """`negative_alpha`: the weights are q alpha whatever the sign; dead keys are left out."""
    frames = family_nets.save(tmp_path / "net.pt", "qsd", n_images=4)
    content = torch.load(tmp_path / "net.pt", weights_only=True)
    state = content["state_dict"]
    names = [n for n in state if n.endswith(".alpha")]
    for name in names:
        state[name][::3] *= -1
        state[name.replace(".alpha", ".act.alpha")] = torch.full((1,), float("nan"))
    torch.save(content, tmp_path / "net.pt")
    module = family_nets.network("qsd")
    module.load_state_dict({n: v for n, v in state.items() if ".act." not in n})
    with torch.inference_mode():
        logits = module.double()(module.preprocess(frames).double()).numpy()
    graph = importers.import_checkpoint(tmp_path / "net.pt", overrides={"negative_alpha": True})
    assert "left out" in graph.metadata_props["warnings"]
    np.testing.assert_allclose(stages.run(graph, frames)["logits"], logits, rtol=0, atol=2e-4)
    passes.run(graph)
    deployed = stages.run(graph, frames)["logits"]
    np.testing.assert_allclose(deployed, logits, rtol=0, atol=1e-3)


def test_families_are_recognised_by_their_tensors(tmp_path):
    for name, (family, _) in family_nets.NETS.items():
        family_nets.save(tmp_path / "net.pt", name)
        model = importers.import_checkpoint(tmp_path / "net.pt")
        assert model.metadata_props["family"] == family


@pytest.mark.parametrize("bits", [1, 5])
def test_keys_of_fewer_bits(tmp_path, monkeypatch, capsys, bits):
    """`--k-bits`: every form rounds keys alike, and the report tells what that does to spikes."""
    frames = family_nets.save(tmp_path / "net.pt", "a2os2a", n_images=4)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["export", "net.pt", "-o", "whole.onnx", "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)["result"]["parity"]
    assert cli.main(["export", "net.pt", "-o", "model.onnx", "--k-bits", str(bits), "--json"]) == 0
    parity = json.loads(capsys.readouterr().out)["result"]["parity"]
    flips = "flips per million neuron-steps"
    assert parity[flips] > whole[flips]
    graph = ir.load(tmp_path / "model.onnx")
    (sums,) = (node for node in graph.graph if node.op_type.startswith("SpikeAddNeuron"))
    assert ir.attribute(sums, "k_shift") > 0
    (tmp_path / "model.bstm").write_bytes(lowered_bytes(tmp_path / "model.onnx"))
    found = forms.raw_of_every_form(tmp_path, frames)
    _, expected = next(found)
    for form, raw in found:
        np.testing.assert_array_equal(raw, expected, err_msg=form)


def test_no_multiplication_is_left_in_addition_only_attention(tmp_path, capsys):
    family_nets.save(tmp_path / "net.pt", "a2os2a")
    _export.export(tmp_path / "net.pt", tmp_path / "model.onnx")
    assert cli.main(["inspect", str(tmp_path / "model.onnx"), "--json"]) == 0
    layers = json.loads(capsys.readouterr().out)["result"]["layers"]
    left = {row["name"]: row["multiplications"] for row in layers}
    attention = ("q_lif", "v_tlif", "attn_lif")
    assert [left[f"block.0.attn.{name}"] for name in attention] == [0, 0, 0]
    assert left["block.0.attn.k_conv"] == 2 * 2 * 2 * 24 * 4  # its batch norm: 2 per key
    assert left["readout.heads"] == 24 * 5
    assert cli.main(["inspect", str(tmp_path / "model.onnx")]) == 0
    assert "mults" in capsys.readouterr().out
