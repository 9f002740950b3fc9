"""The custom-op library where users are: the commands, exports, other ONNX Runtimes."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from e2e import forms
from one_op import break_body
from random_nets import Spec, images_of, save

from bestdeploy import cli, deploy, ops, toolchain
from bestdeploy.errors import MissingToolError, VerificationError

SPECS = (
    Spec(seed=31, dim=48, heads=4, depth=2, n_steps=4, size=12),
    Spec(seed=32, dim=130, heads=10, n_steps=2, size=8, channels=1, attention="kv"),
    Spec(seed=33, dim=21, heads=7, n_steps=1, size=8, variant="paper", decay_input=False),
    Spec(seed=34, dim=24, heads=2, n_steps=4, size=16, channels=2, events=True, tau=1.5,
         layout="imagenet"),
)  # fmt: skip
SMALL = Spec(seed=35, dim=16, heads=2, n_steps=2, size=8, channels=1)
TOO_OLD = ("onnxruntime==1.16.3", "numpy<2")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def library() -> Path:
    try:
        return toolchain.ort_library()
    except MissingToolError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("net")
    deploy.export(save(folder / "ckpt.pt", SMALL), folder / "model.onnx")
    np.savez(folder / "frames.npz", images=images_of(SMALL, 5))
    return folder


def test_run_gives_the_integers_of_every_engine(exported, capsys):
    raw = {}
    for engine in ("c", "ort", "std", "reference"):
        words = [f"{exported}/model.onnx", f"{exported}/frames.npz", "--engine", engine, "--json"]
        assert cli.main(["run", *words]) == 0
        frames = json.loads(capsys.readouterr().out)["result"]["frames"]
        raw[engine] = [frame["raw"] for frame in frames]
    assert len(raw["c"]) == 5
    assert all(found == raw["c"] for found in raw.values())


def test_run_uses_the_kernels(exported, tmp_path, capsys):
    """Bodies that are wrong do not show with engine ort, and do in `verify`, which runs them."""
    proto = onnx.load(exported / "model.onnx")
    for function in proto.functions:
        if function.name.startswith("SpikeConvNeuron"):
            break_body(function)
    onnx.save(proto, tmp_path / "model.onnx")
    words = [f"{tmp_path}/model.onnx", f"{exported}/frames.npz"]
    assert cli.main(["run", *words, "--engine", "ort"]) == 0
    assert cli.main(["verify", f"ort:{words[0]}", "--against", f"{exported}/model.onnx"]) == 0
    assert cli.main(["verify", words[0], "--golden"]) == 5
    capsys.readouterr()


def test_verify_compares_the_kernels_spike_by_spike(exported, capsys):
    model, frames = f"{exported}/model.onnx", f"{exported}/frames.npz"
    words = [f"ort:{model}", "--against", f"reference:{model}", "--data", frames, "--json"]
    assert cli.main(["verify", *words]) == 0
    report = json.loads(capsys.readouterr().out)["result"]
    assert report["n_raw_different"] == 0 and report["n_frames"] == 5
    assert "our kernels" in report["forms"][0]
    assert len(report["layers"]) > 10


def test_export_finds_a_broken_body(tmp_path, monkeypatch):
    """ONNX Runtime ignores bodies where the library is registered: export runs them without it."""
    op = ops.OPS["SpikeConvNeuron"]

    def body(b, x, n_steps):
        (out,) = op.body(b, x, n_steps)
        return [b.op("BitShift", out, b.constant(np.uint8(1)), direction="RIGHT")]

    checkpoint = save(tmp_path / "ckpt.pt", SMALL)
    monkeypatch.setitem(ops.OPS, op.name, dataclasses.replace(op, body=body))
    with pytest.raises(VerificationError, match=r"^model.onnx in onnxruntime gives raw logit"):
        deploy.export(checkpoint, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_export_compares_the_library(exported, monkeypatch, tmp_path):
    """A kernel that computes wrong ends an export too; without a compiler it says so."""
    report = deploy.export(exported / "ckpt.pt", tmp_path / "model.onnx")
    name = "differing raw logits, reference against the custom ops in onnxruntime"
    assert report.parity[name] == 0

    def missing():
        raise MissingToolError("no C compiler", hint="get one")

    monkeypatch.setattr(toolchain, "ort_library", missing)
    report = deploy.export(exported / "ckpt.pt", tmp_path / "model.onnx")
    assert report.parity[name] is None
    assert "not compared with the custom ops in onnxruntime: no C compiler" in report.warnings


# ---- other versions and machines ----------------------------------------------------------------


@pytest.fixture(scope="module")
def held(tmp_path_factory) -> list[Path]:
    """Exports of several networks with frames and raw logits of the references."""
    folders = []
    for spec in SPECS:
        folder = tmp_path_factory.mktemp("held")
        deploy.export(save(folder / "ckpt.pt", spec), folder / "model.onnx")
        forms.hold(folder, images_of(spec, 3, seed=5))
        folders.append(folder)
    return folders


@pytest.fixture(scope="module")
def two_held(tmp_path_factory) -> list[Path]:
    """As `held`, one network of each form of attention."""
    folders = []
    for spec in (SPECS[1], SMALL):
        folder = tmp_path_factory.mktemp("two")
        deploy.export(save(folder / "ckpt.pt", spec), folder / "model.onnx")
        forms.hold(folder, images_of(spec, 2, seed=6))
        folders.append(folder)
    return folders


@pytest.mark.parametrize("version", ("oldest", "installed"))
def test_every_form_in_both_versions(two_held, library, version):
    """The matrix of every run: {library, bodies, std} x {1.17, the one that is installed}."""
    python = Path(sys.executable)
    if version == "oldest":
        if not (forms.OLDEST_PLACE / "done").is_file():
            pytest.skip(f"{forms.OLDEST[0]} is not installed in {forms.OLDEST_PLACE}: make test")
        python = forms.OLDEST_PLACE / "bin" / "python"
    told = forms.run_elsewhere([str(python)], library, two_held)
    assert (" 1.17.3" in told) == (version == "oldest"), told


@pytest.mark.slow
def test_library_bodies_and_standard_file_here(held, library):
    """The newest onnxruntime: the one that is installed."""
    print("\n" + forms.run_elsewhere([sys.executable], library, held))


@pytest.mark.slow
def test_library_bodies_and_standard_file_in_the_oldest(held, library, tmp_path):
    if sys.version_info >= forms.NO_WHEEL_FROM:
        pytest.skip(f"{forms.OLDEST[0]} has no wheel for this Python")
    python = forms.old_python(tmp_path / "venv", forms.OLDEST)
    print("\n" + forms.run_elsewhere([str(python)], library, held))


REGISTER = """
import onnxruntime
from bestdeploy import errors
from bestdeploy.onnxruntime import register
options = onnxruntime.SessionOptions()
try:
    library = register(options)
    assert register(options) == library
    print("registered")
except errors.MissingToolError as error:
    print(error, error.hint, sep="\\n")
try:
    onnxruntime.SessionOptions().register_custom_ops_library({library!r})
except Exception as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize("packages", (TOO_OLD, forms.OLDEST), ids=lambda p: p[0])
def test_register_in_old_versions(library, packages, tmp_path):
    if sys.version_info >= (3, 12) and packages is TOO_OLD:
        pytest.skip(f"{packages[0]} has no wheel for this Python")
    if sys.version_info >= forms.NO_WHEEL_FROM:
        pytest.skip(f"{packages[0]} has no wheel for this Python")
    python = forms.old_python(tmp_path / "venv", packages)
    done = subprocess.run(
        [python, "-c", REGISTER.format(library=str(library))],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    if packages is TOO_OLD:
        assert "onnxruntime 1.16.3 is too old for the custom ops, which need 1.17" in done.stdout
        assert "pip install -U onnxruntime" in done.stdout
        assert "its custom ops need ONNX Runtime 1.17" in done.stdout
    else:
        assert done.stdout == "registered\n"


@pytest.mark.slow
def test_library_bodies_and_standard_file_on_arm64(held):
    if (reason := forms.why_no_arm64()) is not None:
        pytest.skip(reason)
    print("\n" + forms.run_on_arm64(held))
