"""`verify` between any two forms of a model: the whole matrix of pairs, and 10,000 frames.

The network has pruned channels and heads where the export finds some, so pairs with and without
them are among these.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from random_nets import Spec, images_of, random_network

from bestdeploy import deploy, passes, runtime
from bestdeploy.errors import InputError, UsageError

SPEC = Spec(seed=42, dim=16, heads=2, depth=1, n_steps=2, size=8, channels=1, classes=3)
ROOT = Path(__file__).resolve().parents[2]
NEURONS = 12

# Forms by name: source as verify takes it, and whether it has raw logits and shows its spikes.
FORMS = {
    "checkpoint": ("ckpt.pt", False, True),
    "torch module": ("ckpt.pt", False, True),
    "spiking pass": ("passes/00_spiking.onnx", False, True),
    "pass of real numbers": ("passes/*_fold_batchnorm.onnx", False, True),
    "pass on the way to integers": ("passes/*_threshold_tables.onnx", False, True),
    "folded pass": ("passes/*_integer_readout.onnx", True, True),
    "packed, not fused": ("passes/*_pack.onnx", True, True),
    "model.onnx": ("model.onnx", True, True),
    "model.onnx by reference": ("reference:model.onnx", True, True),
    "model.std.onnx": ("model.std.onnx", True, False),
    "model.float.onnx": ("model.float.onnx", False, False),
    "bstm": ("bundle/model.bstm", True, True),
    "bundle": ("bundle", True, True),
}
FACTORY = "training.models.bestformer:build"


def save_for_training(path: Path, spec: Spec) -> None:
    """Write a random checkpoint that the training code's own module reads, too."""
    network = random_network(spec)
    args = {**network.settings, "family": "bestformer", "img_size": spec.size, "in_channels": 1,
            "num_classes": spec.classes, "dim": spec.dim, "layer": 1, "mlp_ratio": 4}  # fmt: skip
    args.pop("image_size")
    state = {k: torch.from_numpy(np.array(v)) for k, v in network.tensors.items()}
    content = {"state_dict": state, "args": args, "epoch": 0, "metric": 0.0, "arch": "bestformer"}
    torch.save(content, path)


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    save_for_training(folder / "ckpt.pt", SPEC)
    np.savez(folder / "frames.npz", images=images_of(SPEC, 20), labels=np.arange(20) % 3)
    deploy.export(folder / "ckpt.pt", folder / "model.onnx", dump_passes=folder / "passes")
    deploy.compile(folder / "model.onnx", output=folder / "bundle")
    return folder


def source(street, form: str) -> str:
    name = FORMS[form][0]
    if "*" in name:
        (found,) = street.glob(name)
        return str(found)
    prefix, _, file = name.rpartition(":")
    return f"{prefix}:{street / file}" if prefix else str(street / file)


PAIRS = [
    pair if (i + len(pair[0])) % 2 else pair[::-1]
    for i, pair in enumerate(itertools.combinations_with_replacement(FORMS, 2))
    if "torch module" not in pair or pair[0] != pair[1]
]


@pytest.mark.parametrize("pair", PAIRS, ids="|".join)
def test_every_pair(street, pair, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    if set(pair) == {"checkpoint", "torch module"}:
        pair = ("spiking pass", "torch module")  # --model says how the checkpoint is evaluated
    report = deploy.verify(
        *(source(street, form) for form in pair),
        data=street / "frames.npz",
        limit=3,
        model=FACTORY if "torch module" in pair else None,
    )
    has_raw = all(FORMS[form][1] for form in pair)
    has_spikes = all(FORMS[form][2] for form in pair)
    assert report.n_frames == 3 and report.top1_agreement == 1.0
    assert set(report.top1) == set(report.forms)
    assert len(report.layers) == (NEURONS if has_spikes else 0)
    assert sum(layer.n_flips for layer in report.layers) == 0
    assert all(layer.n_neuron_steps > 0 for layer in report.layers)
    assert report.first_divergence is None and report.failure is None
    if has_raw:
        assert report.exact and report.n_raw_different == report.max_logit_difference == 0
    else:
        assert not report.exact and report.n_raw_different is None
        assert report.max_logit_difference < 1e-3


@pytest.mark.parametrize("number", range(len(passes.PIPELINE) + 1))
def test_every_dumped_pass_against_the_checkpoint(street, number):
    (file,) = street.glob(f"passes/{number:02d}_*.onnx")
    report = deploy.verify(file, street / "ckpt.pt", limit=4)
    assert len(report.layers) == NEURONS
    assert sum(layer.n_flips for layer in report.layers) == 0
    assert report.max_logit_difference < 1e-3


def test_pruned_channels_are_left_out_and_counted(street):
    report = deploy.verify(street / "bundle", street / "ckpt.pt")
    pruned = runtime.load(street / "bundle").meta["pruned"]
    assert pruned, "this network is to have a neuron that cannot fire"
    found = {layer.name: layer.n_pruned for layer in report.layers if layer.n_pruned}
    assert found == {name: len(note["cut"]) for name, note in pruned.items()}


# ------------------------------------------------------------------- golden vectors


@pytest.mark.parametrize("form", ["model.onnx", "model.onnx by reference", "bstm", "bundle"])
def test_golden_vectors_of_one_form(street, form):
    report = deploy.verify(source(street, form), golden=True)
    assert report.golden.n == report.n_frames == 4
    assert list(report.golden.n_equal.values()) == [4]
    assert report.exact and report.failure is None


def test_golden_vectors_of_the_other_form(street):
    report = deploy.verify(street / "model.std.onnx", street / "bundle", golden=True)
    assert list(report.golden.n_equal.values()) == [4, 4]
    report = deploy.verify(street / "ckpt.pt", street / "bundle", golden=True)
    assert list(report.golden.n_equal) == [report.forms[1]]


def test_golden_vectors_find_a_changed_model(street, tmp_path):
    from bestdeploy import ir

    model = ir.load(street / "model.onnx")
    golden = json.loads(model.metadata_props["golden"])
    golden["raw"][2][0] += 1
    model.metadata_props["golden"] = json.dumps(golden)
    (tmp_path / "changed.onnx").write_bytes(ir.to_bytes(model))
    report = deploy.verify(tmp_path / "changed.onnx", golden=True)
    assert list(report.golden.n_equal.values()) == [3]
    assert "fails 1 of 4 golden vectors" in report.failure
    assert report.first_divergence["raw logit"] == 0 and report.first_divergence["frame"] == 2


def test_no_golden_vectors_and_nothing_to_compare(street):
    with pytest.raises(InputError, match="no golden vectors in there"):
        deploy.verify(street / "ckpt.pt", golden=True)
    with pytest.raises(UsageError, match="nothing to compare with"):
        deploy.verify(street / "bundle")
    with pytest.raises(UsageError, match="--data is for a comparison"):
        deploy.verify(street / "bundle", golden=True, data=street / "frames.npz")


# ------------------------------------------------------------------- memory

# VmHWM: ru_maxrss would be that of the test process, which a child inherits.
MEASURE = """
import sys
from pathlib import Path
from bestdeploy import deploy
report = deploy.verify(sys.argv[1], sys.argv[2], data=sys.argv[3], limit=int(sys.argv[4]))
lines = Path("/proc/self/status").read_text().splitlines()
(peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM"))
print(report.n_frames, report.exact, peak)
"""


@pytest.mark.slow
@pytest.mark.parametrize("pair", [("bundle", "model.onnx"), ("bundle", "ckpt.pt")])
def test_memory_does_not_grow_with_the_frames(street, tmp_path, pair):
    frames = np.random.default_rng(0).integers(0, 256, (10_000, 8, 8, 1), np.uint8)
    np.savez_compressed(tmp_path / "many.npz", images=frames)
    peaks = []
    for limit in (300, 10_000):
        words = [street / pair[0], street / pair[1], tmp_path / "many.npz", limit]
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, *map(str, words)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        n_frames, exact, peak_kb = done.stdout.split()
        assert int(n_frames) == limit and exact == str(pair[1] == "model.onnx")
        peaks.append(int(peak_kb) / 1024)
    print(f"{pair}: peak {peaks[0]:.0f} MiB after 300 frames, {peaks[1]:.0f} after 10,000")
    assert peaks[1] - peaks[0] < 24


# ------------------------------------------------------------------- progress


def test_progress_is_for_terminals_only(street):
    """On a terminal a bar counts the frames on stderr; into a file nothing is written."""
    import os
    import pty

    command = [sys.executable, "-m", "bestdeploy.cli", "verify", "bundle", "--against",
               "model.onnx", "--data", "frames.npz"]  # fmt: skip
    done = subprocess.run(command, cwd=street, capture_output=True, text=True, check=True)
    assert done.stderr == "" and "frames                    20" in done.stdout

    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen(command, cwd=street, stdout=subprocess.PIPE, stderr=theirs,
                               env=environment)  # fmt: skip
    os.close(theirs)
    seen = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # that is how Linux says that the other side is closed
            break
        if not part:
            break
        seen += part
    os.close(ours)
    out, _ = process.communicate()
    assert process.returncode == 0 and out.decode() == done.stdout
    assert b"verifying" in seen and b"20/20" in seen


@pytest.mark.parametrize("heads", [2, 4])
def test_attention_maps_of_a_torch_module(tmp_path, monkeypatch, heads):
    """Four tokens and four heads: a map [T, B, heads, N, N] looks like any image of 4 channels."""
    spec = Spec(seed=5, dim=16, heads=heads, depth=1, n_steps=2, size=8, channels=1, classes=3)
    save_for_training(tmp_path / "ckpt.pt", spec)
    deploy.export(tmp_path / "ckpt.pt", tmp_path / "model.onnx")
    monkeypatch.syspath_prepend(ROOT)
    report = deploy.verify(tmp_path / "ckpt.pt", tmp_path / "model.onnx", model=FACTORY)
    flips = {layer.name: layer.n_flips for layer in report.layers}
    assert "block.0.attn.attn_lif0" in flips and sum(flips.values()) == 0
