"""What `export` says: the pass table, settings with their source, neuron rules, parity; dumps."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from random_nets import Spec, images_of, save

from bestdeploy import _summary, deploy, importers, ir, onnxruntime, ops, passes, stages

SPEC = Spec(seed=41, dim=16, heads=2, depth=1, n_steps=4, size=8, channels=3, classes=5)


def export(folder: Path, spec: Spec, *words: str) -> subprocess.CompletedProcess:
    save(folder / "ckpt.pt", spec)
    done = subprocess.run(
        [sys.executable, "-m", "bestdeploy.cli", "export", "ckpt.pt", "-o", "model.onnx", *words],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def dumped(tmp_path_factory):
    """A folder with an export, its JSON report and the graph after every pass."""
    folder = tmp_path_factory.mktemp("dumped")
    (folder / "own.toml").write_text("[model]\nattn_scale = 0.25\n")
    done = export(folder, SPEC, "--dump-passes", "passes", "--config", "own.toml",
                  "--set", "crop_pct=0.9", "--json")  # fmt: skip
    return folder, json.loads(done.stdout)["result"]


def test_one_row_per_pass_in_order(dumped):
    _, report = dumped
    rows = report["passes"]
    assert [(r["name"], r["kind"]) for r in rows] == [(p.name, p.kind) for p in passes.PIPELINE]
    for before, after in itertools.pairwise(rows):
        assert before["nodes_after"] == after["nodes_before"]
        assert before["bytes_after"] == after["bytes_before"]
    assert rows[-1]["bytes_after"] < rows[0]["bytes_before"] / 2
    for row in rows:
        if row["changes"] == 0:
            assert row["nodes_before"] == row["nodes_after"]
            assert row["bytes_before"] == row["bytes_after"]


def test_settings_say_where_they_come_from(dumped):
    _, report = dumped
    found = {s["name"]: (s["value"], s["source"]) for s in report["settings"]}
    assert found["attn_scale"] == (0.25, "--config")
    assert found["crop_pct"] == (0.9, "--set")
    assert found["tau"] == (2.0, "checkpoint args")
    assert found["interpolation"] == ("bicubic", "default")
    assert found["dim"] == (16, "tensor shapes")


def test_parity_of_all_engines(dumped):
    _, report = dumped
    engines = ("model.onnx in onnxruntime", "model.std.onnx in onnxruntime", "the C runtime")
    for engine in engines:
        assert report["parity"][f"differing raw logits, reference against {engine}"] == 0
    assert report["parity"]["spike flips against the trained model"] == 0
    assert report["parity"]["first divergence from the trained model"] is None
    assert 0 <= report["parity"]["largest logit difference to the trained model"] < 1e-3


def test_flips_are_reported_with_the_first_and_its_margin(tmp_path):
    """Statistics that leave the stream few fraction bits make it stray from the trained model."""
    import torch

    content = torch.load(save(tmp_path / "ckpt.pt", SPEC), weights_only=True)
    for name, values in content["state_dict"].items():
        if name.endswith("proj_bn.weight"):
            values[0] *= 3e6  # one channel that needs the whole width
    torch.save(content, tmp_path / "ckpt.pt")
    counted = []
    report = deploy.export(
        tmp_path / "ckpt.pt", tmp_path / "model.onnx", verifying=lambda *n: counted.append(n)
    )
    assert counted[-1] == (16, 16) and counted == sorted(counted)
    assert report.parity["spike flips against the trained model"] > 0
    first = report.parity["first divergence from the trained model"]
    found = re.fullmatch(
        r"layer (\S+), step ([1-4]), neuron \[.*\], frame (\d+), spikes \[[01], [01]\], "
        r"margin (\S+)",
        first,
    )
    assert found and int(found[3]) < 16 and 0 < float(found[4]) < 1, first
    assert found[1] in report.neuron_rules


def test_what_is_no_bit_and_why(dumped):
    folder, report = dumped
    layers = [row["layer"] for row in report["unpacked"]]
    assert layers[0] == "patch_embed.block0_conv" and layers[-1] == "classification heads"
    assert "real pixels" in report["unpacked"][0]["why"]
    graph = ir.load(folder / "model.onnx")
    streams = [v for n in graph.graph for v in n.outputs if v.dtype == ir.DataType.INT32]
    assert layers[1] == f"residual stream ({len(streams)} tensors)"
    names = [str(v.name) for v in stages.neuron_values(graph)]
    assert list(report["neuron_rules"]) == names == [name for name, _ in report["firing_rates"]]


COUNTS, ROUNDED = "exact integer counts", "stream neuron in Q20, rounded"


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"binariser": "soft"}, COUNTS),
        ({"binariser": "hard"}, COUNTS),
        ({"binariser": "boolean"}, COUNTS),
        ({"binariser": "boolean", "tau": 1.5, "attention": "kv"}, COUNTS),
        ({"binariser": "hard", "n_steps": 16, "attention": "kv"}, COUNTS),
        ({"binariser": "hard", "tau": 1.5}, ROUNDED),
        ({"binariser": "soft", "tau": 1.5}, ROUNDED),
    ],
    ids=str,
)
def test_the_rule_of_neurons_on_attention_counts(tmp_path, changes, rule):
    """A neuron that forgets, and halving for fewer steps than there are bits, round nothing."""
    spec = Spec(**{**SPEC.__dict__, "variant": "paper", **changes})
    model = importers.import_checkpoint(save(tmp_path / "ckpt.pt", spec))
    passes.run(model)
    assert _summary.neuron_rules(model)["block.0.attn.attn_lif0"] == rule


@pytest.mark.parametrize(
    ("changes", "rule", "conv_fed"),
    [
        ({}, r"exact integer thresholds for all (\d+) conv-fed neurons \(T=4, tau=2.0\)",
         "exact integer thresholds"),
        ({"tau": 1.5}, r"stream neuron in Q20, rounded for all (\d+) conv-fed neurons \(an exact "
         r"integer rule needs T <= 8 and tau = 2; T=4, tau=1.5\)", "stream neuron in Q20, rounded"),
        ({"n_steps": 9}, r"stream neuron in Q20, rounded for all (\d+) conv-fed .*; T=9, tau=2.0\)",
         "stream neuron in Q20, rounded"),
    ],
)  # fmt: skip
def test_neuron_rules(tmp_path, changes, rule, conv_fed):
    spec = Spec(**{**SPEC.__dict__, **changes})
    report = json.loads(export(tmp_path, spec, "--json").stdout)["result"]
    found = re.fullmatch(rule, report["neuron_rule"])
    assert found, report["neuron_rule"]
    rules = report["neuron_rules"]
    for name in ("patch_embed.block2_lif", "block.0.attn.q_lif", "block.0.mlp.mlp2_lif"):
        assert rules[name] == conv_fed
    assert rules["block.0.attn.proj_lif"] == "stream neuron in Q20, rounded"
    fed_by_the_stream = ("block.0.attn.proj_lif", "block.0.mlp.mlp1_lif")
    not_conv_fed = (*fed_by_the_stream, "block.0.attn.attn_lif0", "block.0.attn.attn_lif",
                    "patch_embed.block1_lif")  # fmt: skip
    assert int(found[1]) == len(rules) - len(not_conv_fed)


def test_the_same_as_text(tmp_path):
    done = export(tmp_path, SPEC)
    lines = done.stdout.splitlines()
    assert lines[0].split()[:4] == ["pass", "equal", "in", "changes"]
    for step in passes.PIPELINE:
        assert any(line.startswith(f"{step.name} ") for line in lines)
    for text in ("setting ", "tau ", "neuron ", "neuron rule: ", "not packed into bits ",
                 "frames: 16", "differing raw logits, reference against the C runtime: 0",
                 "file "):  # fmt: skip
        assert any(line.startswith(text) for line in lines), text
    assert "next: bestdeploy compile model.onnx" in done.stderr
    assert re.search(r"block\.0\.attn\.q_lif +exact integer thresholds +\d+\.\d\d %", done.stdout)


def test_dead_layers_are_warned_of(tmp_path):
    """A silent layer is named: its firing rate stands in the table and in a warning."""
    import torch

    save(tmp_path / "ckpt.pt", SPEC)
    content = torch.load(tmp_path / "ckpt.pt", weights_only=True)
    state = content.get("state_dict", content)
    bias = state["block.0.mlp.mlp1_bn.bias"]
    bias[:] = -100.0
    torch.save(content, tmp_path / "dead.pt")
    done = subprocess.run(
        [sys.executable, "-m", "bestdeploy.cli", "export", "dead.pt", "-o", "model.onnx"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "warning: block.0.mlp.mlp2_lif fires at 0 %, below 0.1 %: is it dead?" in done.stderr


# ------------------------------------------------------------------- dumped passes


def test_a_dump_for_every_pass(dumped):
    folder, _ = dumped
    names = sorted(p.name for p in (folder / "passes").iterdir())
    numbered = [f"{k:02d}_{step.name}.onnx" for k, step in enumerate(passes.PIPELINE, start=1)]
    assert names == ["00_spiking.onnx", *numbered]


@pytest.mark.parametrize("number", range(len(passes.PIPELINE) + 1))
def test_every_dump_runs(dumped, number):
    """By the references; from "folded" on also in ONNX Runtime, with the same integers."""
    folder, _ = dumped
    frames = images_of(SPEC, 4)
    (file,) = (folder / "passes").glob(f"{number:02d}_*.onnx")
    graph = ir.load(file)
    found = stages.run(graph, frames)
    expected = stages.run(ir.load(folder / "model.onnx"), frames)
    np.testing.assert_allclose(found["logits"], expected["logits"], atol=1e-3, rtol=0)
    if stages.stage_of(graph) == "spiking":
        assert "raw" not in found
        return
    np.testing.assert_array_equal(found["raw"], expected["raw"])
    raw, logits = onnxruntime.load(file).infer(frames)
    np.testing.assert_array_equal(raw, expected["raw"])
    np.testing.assert_array_equal(logits, expected["logits"])


def test_the_stages_of_the_dumps(dumped):
    folder, _ = dumped
    files = sorted((folder / "passes").iterdir())
    found = [stages.stage_of(ir.load(file)) for file in files]
    assert found == sorted(found, key=["spiking", "folded", "packed"].index)
    assert set(found) == {"spiking", "folded", "packed"}


def test_the_report_knows_every_packed_op():
    names = {op.name for op in ops.PACKED_OPS}
    stages_of_report = {*_summary._RULES, *_summary._READ_OUTS}
    assert stages_of_report <= names
    assert names - stages_of_report == {
        "SpikeOrPool",
        "SpikeConvAffine",
        "WeightConvAffine",
        "SpikeLevelAdd",
        "SpikeTernaryNeuron",
        "SpikeGate",
        "StreamMaxPool",
        "StemStream",
        "StemStreamFrames",
        "ReversibleAdd",
        "StreamTokenMean",
        "StreamLevels",  # its rule follows from what it reads
        "DepthwiseLevelsAffine",
        "DepthwiseStreamAffine",
        "StreamPointwise",
        "LevelProducts",
    }


def test_one_head_is_reported_and_data_may_be_one_path(tmp_path):
    spec = replace(SPEC, variant="paper", decay_input=False)
    np.savez(tmp_path / "frames.npz", images=images_of(spec, 3))
    report = deploy.export(
        save(tmp_path / "ckpt.pt", spec), tmp_path / "model.onnx", data=tmp_path / "frames.npz"
    )
    assert report.parity["frames"] == 3
    assert [row["layer"] for row in report.unpacked][-1] == "classification heads"
