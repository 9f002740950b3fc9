"""The whole street for a network of events: recordings in, the same integers out of every form."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from random_nets import Spec, save

from bestdeploy import images

SPEC = Spec(seed=43, dim=16, heads=2, depth=1, n_steps=3, size=34, channels=2, classes=10,
            events=True)  # fmt: skip
SHAPE = (3, 34, 34, 2)
NMNIST = Path(__file__).resolve().parents[3] / "shared/data/nmnist_small/nmnist_test.npz"


def call(*words, cwd, code=0, stdin=b""):
    done = subprocess.run(
        [sys.executable, "-m", "bestdeploy.cli", *map(str, words)],
        cwd=cwd, input=stdin, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr.decode()
    return done.stdout.decode(), done.stderr.decode()


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    """A checkpoint, its export, a bundle and three recordings of 500 events with labels."""
    folder = tmp_path_factory.mktemp("events")
    save(folder / "ckpt.pt", SPEC)
    rng = np.random.default_rng(3)
    columns = {key: rng.integers(0, top, 1500) for key, top in (("x", 34), ("y", 34), ("p", 2))}
    np.savez(folder / "rec.npz", **columns, offsets=[0, 500, 1000, 1500], labels=[3, 1, 4])
    call("export", "ckpt.pt", "-o", "model.onnx", cwd=folder)
    call("compile", "model.onnx", "-o", "bundle", cwd=folder)
    return folder


def frames_of(street) -> np.ndarray:
    (batch,) = images.read_batches(street / "rec.npz", SHAPE)
    return batch.frames


@pytest.mark.parametrize("engine", ["c", "ort", "std", "reference"])
def test_run_on_recordings(street, engine):
    out, err = call("run", "model.onnx", "rec.npz", "--engine", engine, "--json", cwd=street)
    result = json.loads(out)["result"]
    assert [f["frame"] for f in result["frames"]] == [f"rec.npz[{k}]" for k in range(3)]
    assert [f["label"] for f in result["frames"]] == [3, 1, 4]
    assert result["events"] == {"binning": "number", "n_steps": 3, "n_recordings": 3,
                                "n_saturated": 0, "n_frames_saturated": 0}  # fmt: skip
    assert "3 recordings binned by number of events into 3 steps" in err
    raw = [f["raw"] for f in result["frames"]]
    out, _ = call("run", "bundle", "rec.npz", "--json", cwd=street)
    assert raw == [f["raw"] for f in json.loads(out)["result"]["frames"]]


def test_raw_frames_of_all_steps_on_standard_input(street):
    frames = frames_of(street)
    out, _ = call("run", "bundle", "-", "--json", cwd=street, stdin=frames.tobytes())
    lines = [json.loads(line) for line in out.splitlines()]
    out, _ = call("run", "bundle", "rec.npz", "--json", cwd=street)
    assert [x["raw"] for x in lines] == [f["raw"] for f in json.loads(out)["result"]["frames"]]
    cut = frames.tobytes()[:-1]
    out, err = call("run", "bundle", "-", "--json", cwd=street, stdin=cut, code=7)
    assert len(out.splitlines()) == 2
    assert "error: frame 2 ends after 6935 bytes, expected 6936 (3x34x34x2)" in err


def test_counts_above_255_are_reported_or_refused(street, tmp_path):
    """1,000 events on one pixel: three steps with 333, 333 and 334 of them."""
    ones = np.ones(1000, int)
    np.savez(tmp_path / "hot.npz", x=ones, y=ones, p=ones)
    out, err = call("run", street / "bundle", "hot.npz", "--json", cwd=tmp_path)
    result = json.loads(out)["result"]
    assert result["frames"][0]["n_saturated"] == result["events"]["n_saturated"] == 3
    assert "warning: 3 event counts above 255 became 255, in 1 frames" in err
    for words in (
        ("run", street / "bundle", "hot.npz"),
        ("verify", street / "bundle", "--against", street / "model.onnx", "--data", "hot.npz"),
        ("export", street / "ckpt.pt", "-o", "m.onnx", "--data", "hot.npz"),
    ):
        _, err = call(*words, "--strict-events", cwd=tmp_path, code=7)
        assert "counts 333 events at step 1, x 1, y 1, channel 1" in err
    out, err = call("export", street / "ckpt.pt", "-o", "m.onnx", "--data", "hot.npz", "--json",
                    cwd=tmp_path)  # fmt: skip
    assert json.loads(out)["result"]["events"]["n_saturated"] == 3
    assert "became 255" in err


def test_verify_on_recordings(street):
    words = ("--against", "ckpt.pt", "--data", "rec.npz", "--budget", "flips_per_million=50")
    out, err = call("verify", "bundle", *words, "--json", cwd=street)
    report = json.loads(out)["result"]
    assert report["n_frames"] == report["events"]["n_recordings"] == 3
    assert "3 recordings binned by number" in err
    out, _ = call("verify", "bundle", "--against", "model.std.onnx", "--golden", "--json",
                  cwd=street)  # fmt: skip
    report = json.loads(out)["result"]
    assert report["exact"] and list(report["golden"]["n_equal"].values()) == [4, 4]


def test_events_outside_the_frame(street, tmp_path):
    np.savez(tmp_path / "wide.npz", x=[1, 2, 34, 40], y=[0, 0, 5, 0], p=[0, 1, 0, 1])
    _, err = call("run", street / "bundle", "wide.npz", cwd=tmp_path, code=7)
    first = err.splitlines()[0]
    assert first == ("error: events outside the frame: event 2 of `wide.npz` is at x 34, y 5, "
                     "the model's frame is 34x34")  # fmt: skip


@pytest.mark.skipif(not NMNIST.is_file(), reason=f"{NMNIST} is not there")
def test_real_recordings_through_every_form(street):
    """100 N-MNIST digits: C, both ONNX files and the references give the same integers."""
    for other in ("model.onnx", "model.std.onnx", "reference:model.onnx"):
        out, _ = call("verify", "bundle", "--against", other, "--data", NMNIST, "--json",
                      cwd=street)  # fmt: skip
        report = json.loads(out)["result"]
        assert report["exact"] and report["n_frames"] == 100
    out, _ = call("verify", "bundle", "--against", "ckpt.pt", "--data", NMNIST, "--limit", 20,
                  "--json", cwd=street)  # fmt: skip
    report = json.loads(out)["result"]
    assert report["top1_agreement"] == 1.0
    flips = sum(layer["n_flips"] for layer in report["layers"])
    assert flips / sum(layer["n_neuron_steps"] for layer in report["layers"]) < 1e-5
