"""The whole street through the command line, as a user walks it; wrong turns: test_errors.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from random_nets import Spec, images_of, random_network, save

SPEC = Spec(seed=41, dim=16, heads=2, depth=1, n_steps=4, size=8, channels=3, classes=5)


def call(*words, cwd, env=None):
    return subprocess.run(
        [sys.executable, "-m", "bestdeploy.cli", *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, **(env or {})},
        check=False,
    )


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    """A folder with a checkpoint, its export, its bundle and images."""
    folder = tmp_path_factory.mktemp("street")
    save(folder / "ckpt.pt", SPEC)
    frames = images_of(SPEC, 6)
    np.savez(folder / "frames.npz", images=frames, labels=np.arange(6) % 5)
    Image.fromarray(frames[0]).save(folder / "image.png")
    done = call("export", "ckpt.pt", "-o", "model.onnx", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "export.json").write_text(done.stdout)
    done = call("compile", "model.onnx", "-o", "bundle", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_export_writes_three_valid_files_and_says_what_it_proved(street):
    report = json.loads((street / "export.json").read_text())
    assert report["schema_version"] >= 1
    assert report["environment"]
    for kind in ("model", "std", "float"):
        name = "model.onnx" if kind == "model" else f"model.{kind}.onnx"
        onnx.checker.check_model(onnx.load(street / name), full_check=True)
    parity = report["result"]["parity"] if "result" in report else report["parity"]
    assert parity["differing raw logits, reference against model.onnx in onnxruntime"] == 0
    assert parity["frames"] == 16
    standard = onnx.load(street / "model.std.onnx")
    assert {n.domain for n in standard.graph.node} == {""}
    assert not standard.functions
    assert [o.domain for o in standard.opset_import] == [""]


def test_the_float_model_is_the_trained_model(street):
    import onnxruntime

    frames = images_of(SPEC, 6)
    session = onnxruntime.InferenceSession(street / "model.float.onnx")
    (logits,) = session.run(None, {"image": frames})
    np.testing.assert_allclose(logits, random_network(SPEC).logits(frames), atol=1e-4, rtol=0)


def test_exports_are_byte_equal(street, tmp_path):
    assert call("export", street / "ckpt.pt", "-o", "model.onnx", cwd=tmp_path).returncode == 0
    for name in ("model.onnx", "model.std.onnx", "model.float.onnx"):
        assert (tmp_path / name).read_bytes() == (street / name).read_bytes()


def test_run_gives_the_same_integers_with_every_engine(street):
    found = {}
    for model, engine in (
        ("bundle", "c"),
        ("bundle/model.bstm", "c"),
        ("model.onnx", "c"),
        ("model.onnx", "ort"),
        ("model.onnx", "std"),
        ("model.onnx", "reference"),
    ):
        done = call("run", model, "frames.npz", "--engine", engine, "--json", cwd=street)
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        report = report.get("result", report)
        found[model, engine] = [f["raw"] for f in report["frames"]]
        assert len(found[model, engine]) == 6
    assert len({json.dumps(v) for v in found.values()}) == 1


def test_run_on_an_image(street):
    done = call("run", "bundle", "image.png", "--top", "2", cwd=street)
    assert done.returncode == 0
    assert done.stdout.startswith("image.png: ")


@pytest.mark.parametrize("other", ["model.std.onnx", "reference:model.onnx", "bundle"])
def test_integer_forms_verify_exactly(street, other):
    done = call("verify", "model.onnx", "--against", other, "--data", "frames.npz", "--json",
                cwd=street)  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    report = report.get("result", report)
    assert report["exact"] is True
    assert report["n_raw_different"] == 0
    assert report["n_frames"] == 6
    assert report["top1_agreement"] == 1.0
    layers = [r["name"] for r in report["layers"]]
    assert ("block.0.attn.attn_lif0" in layers) == (other != "model.std.onnx")


def test_verify_against_the_checkpoint(street):
    done = call("verify", "bundle", "--against", "ckpt.pt", "--budget", "flips_per_million=100",
                "--json", cwd=street)  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    report = report.get("result", report)
    assert report["max_logit_difference"] < 1e-3
    assert report["n_raw_different"] is None


def test_verify_budget_exceeded_is_exit_6_after_the_report(street):
    words = ("verify", "bundle", "--against", "ckpt.pt", "--budget", "logit_difference=0")
    done = call(*words, cwd=street)
    assert done.returncode == 6
    assert "logit_difference" in done.stderr
    assert "largest logit difference" in done.stdout
    done = call(*words, "--json", cwd=street)
    assert done.returncode == 6
    assert json.loads(done.stdout)["result"]["max_logit_difference"] > 0


@pytest.mark.parametrize("change", [{"n_steps": 2}, {"dim": 24}])
def test_verify_of_two_models_names_the_layer_and_both_shapes(street, tmp_path, change):
    save(tmp_path / "other.pt", replace(SPEC, **change))
    done = call("verify", street / "ckpt.pt", "--against", tmp_path / "other.pt", cwd=street)
    assert done.returncode == 7
    assert "`patch_embed.block1_lif`" in done.stderr
    other = "(2, 16, 8, 8, 2)" if "n_steps" in change else "(4, 16, 8, 8, 3)"
    assert "(4, 16, 8, 8, 2)" in done.stderr
    assert other in done.stderr


@pytest.mark.parametrize("name", ["m.onnx", "m.std.onnx", "m.float.onnx", "link.onnx"])
def test_an_export_never_overwrites_its_checkpoint(street, tmp_path, name):
    checkpoint = tmp_path / name
    checkpoint.write_bytes((street / "ckpt.pt").read_bytes())
    output = "m.onnx"
    if name == "link.onnx":
        (tmp_path / "m.float.onnx").symlink_to(checkpoint)
    done = call("export", checkpoint, "-o", output, cwd=tmp_path)
    assert done.returncode == 2
    assert "overwrite the checkpoint" in done.stderr
    assert checkpoint.read_bytes() == (street / "ckpt.pt").read_bytes()


def test_verify_finds_the_first_divergence(street, tmp_path):
    """One flipped weight bit in one layer: that layer is named, and only it and later ones flip."""
    from bestdeploy import ir

    model = ir.load(street / "model.onnx")
    node = next(n for n in model.graph if n.name == "block.0.attn.v_lif")
    bits = ir.array_of(node.inputs[1]).copy()
    bits[:8, 0, 0, 0] ^= 0xFF
    node.replace_input_with(1, ir.add_initializer(model.graph, "changed", bits))
    (tmp_path / "changed.onnx").write_bytes(ir.to_bytes(model))
    done = call("verify", street / "model.onnx", "--against", "changed.onnx", "--json",
                cwd=tmp_path)  # fmt: skip
    assert done.returncode == 5
    report = json.loads(done.stdout)
    report = report.get("result", report)
    assert report["first_divergence"]["layer"] == "block.0.attn.v_lif"
    flips = {r["name"]: r["n_flips"] for r in report["layers"]}
    assert flips["block.0.attn.v_lif"] > 0
    assert flips["block.0.attn.q_lif"] == flips["patch_embed.block4_lif"] == 0


def test_verify_with_the_users_own_module(tmp_path):
    """`--model` evaluates the training code itself; its spikes are matched by module name."""
    spec = Spec(seed=42, dim=16, heads=2, depth=1, n_steps=2, size=8, channels=1, classes=3)
    network = random_network(spec)
    args = {**network.settings, "family": "bestformer", "img_size": spec.size, "in_channels": 1,
            "num_classes": 3, "dim": 16, "layer": 1, "mlp_ratio": 4}  # fmt: skip
    args.pop("image_size")
    state = {k: torch.from_numpy(np.array(v)) for k, v in network.tensors.items()}
    content = {"state_dict": state, "args": args, "epoch": 0, "metric": 0.0, "arch": "bestformer"}
    torch.save(content, tmp_path / "ckpt.pt")
    root = Path(__file__).resolve().parents[2]
    done = call("export", "ckpt.pt", "-o", "m.onnx", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = call("verify", "ckpt.pt", "--against", "m.onnx", "--json",
                "--model", "training.models.bestformer:build",
                cwd=tmp_path, env={"PYTHONPATH": str(root)})  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    report = report.get("result", report)
    assert {r["name"] for r in report["layers"]} >= {"patch_embed.block1_lif",
                                                     "block.0.attn.attn_lif0",
                                                     "block.0.attn.attn_lif"}  # fmt: skip
    assert sum(r["n_flips"] for r in report["layers"]) < 5
    assert report["max_logit_difference"] < 1e-3


def test_missing_settings_are_exit_4_and_name_the_key(tmp_path, golden_checkpoint):
    done = call("export", golden_checkpoint, "-o", "m.onnx", cwd=tmp_path)
    assert done.returncode == 4
    for key in ("attention", "tau", "decay_input", "variant"):
        assert f"`{key}`" in done.stderr
    assert not list(tmp_path.iterdir())
