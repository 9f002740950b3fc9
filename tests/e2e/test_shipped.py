"""The shipped checkpoints: as accurate deployed as trained, on the shipped images and on test sets.

The full test sets are not in the repository. The slow tests read them from $FASHION_MNIST (a folder
with the four official files), $CIFAR10 and $NMNIST, else from folders in ../shared/data.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from e2e import forms

from bestdeploy import _verify, deploy, ir, runtime, stages
from training import data

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "examples" / "images" / "fashion_mnist_200.npz"
NAME = "fashion_mnist_2_32.pt"
TORCH = "training.models.bestformer:build"
CHECKPOINTS = (  # file, data set, variable with its folder, usual folder
    ("nmnist_1_48.pt", "nmnist", "NMNIST", "nmnist_small"),
    ("fashion_mnist_1_64.pt", "fashion-mnist", "FASHION_MNIST", "fashion_mnist"),
    (NAME, "fashion-mnist", "FASHION_MNIST", "fashion_mnist"),
    ("cifar10_4_384.pt", "cifar10", "CIFAR10", "cifar10"),
)


@pytest.fixture(scope="module")
def checkpoint():
    return ROOT / "examples" / "checkpoints" / NAME


@pytest.fixture(scope="module")
def bundle(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shipped")
    deploy.export(checkpoint, folder / "model.onnx")
    deploy.compile(folder / "model.onnx", output=folder / "bundle")
    return folder / "bundle"


def stated_accuracy(name: str = NAME) -> float:
    """Accuracy on the checkpoint's card."""
    text = (ROOT / "examples" / "checkpoints" / "README.md").read_text("utf-8")
    card = text.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    (found,) = re.findall(r"\*\*(\d\d\.\d\d) %\*\* top-1", card)
    return float(found) / 100


def test_shipped_images(bundle, checkpoint):
    report = _verify.verify(bundle, checkpoint, data=IMAGES, model=TORCH)
    assert report.n_frames == 200
    assert report.top1_agreement >= 0.99
    ours, theirs = report.top1.values()
    assert abs(ours - theirs) <= 0.01
    assert ours >= 0.84
    assert len(report.layers) == 20
    assert stated_accuracy() >= 0.84


def test_every_form_agrees_on_the_shipped_images(bundle, tmp_path):
    with np.load(IMAGES) as held:
        frames = held["images"]
    for name in ("model.onnx", "model.std.onnx"):
        shutil.copy(bundle.parent / name, tmp_path)
    shutil.copy(bundle / "model.bstm", tmp_path)
    expected = None
    for form, raw in forms.raw_of_every_form(tmp_path, frames, numpy_bodies=False):
        expected = raw if expected is None else expected
        np.testing.assert_array_equal(raw, expected, err_msg=form)
    some = frames[::20]  # the function bodies are slow in numpy
    bodies = stages.run(ir.load(tmp_path / "model.onnx"), some, bodies=True)["raw"]
    np.testing.assert_array_equal(bodies, expected[::20])
    if (reason := forms.missing()) is not None:
        pytest.skip(f"all other forms are equal; {reason}")


def test_every_checkpoint_has_its_card():
    shipped = {p.name for p in (ROOT / "examples" / "checkpoints").glob("*.pt")}
    assert shipped == {name for name, *_ in CHECKPOINTS}
    for name in shipped:
        assert 0.5 < stated_accuracy(name) < 1


def test_shipped_images_are_balanced_test_images():
    with np.load(IMAGES) as held:
        assert held["images"].shape == (200, 28, 28, 1)
        assert held["images"].dtype == np.uint8
        assert np.bincount(held["labels"]).tolist() == [20] * 10
    assert "MIT" in (IMAGES.parent / "LICENSE").read_text("utf-8")


@pytest.mark.slow
def test_all_ten_thousand(bundle, checkpoint):
    folder = Path(os.environ.get("FASHION_MNIST", ROOT.parent / "shared/data/fashion_mnist"))
    frames = folder / "t10k-images-idx3-ubyte.gz"
    if not frames.is_file():
        pytest.skip(f"{frames} is not there; set FASHION_MNIST")
    report = _verify.verify(bundle, checkpoint, data=frames, model=TORCH)
    for layer in report.layers:
        print(f"{layer.name:28s} {layer.flips_per_million:9.3f} flips per million")
    print(f"top-1 {report.top1}, agreement {report.top1_agreement:.4%}")
    assert report.n_frames == 10_000
    assert report.top1_agreement >= 0.999
    ours, theirs = report.top1.values()
    assert abs(ours - theirs) <= 0.0005
    assert abs(theirs - stated_accuracy()) < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dataset", "variable", "usual"), CHECKPOINTS)
def test_c_runtime_reaches_the_card(name, dataset, variable, usual, tmp_path):
    folder = Path(os.environ.get(variable, ROOT.parent / "shared/data" / usual))
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there; set {variable}")
    if dataset == "nmnist":  # the part that its training held out
        settings = data.DataConfig(split_by="number", fold="0/5")
        held_out = data.open_split(dataset, folder, settings, 4)[1]["test"]
        frames, labels = held_out.frames, held_out.labels
    else:
        frames, labels = data.load(dataset, folder, "test")
    deploy.export(ROOT / "examples" / "checkpoints" / name, tmp_path / "model.onnx")
    deploy.compile(tmp_path / "model.onnx", output=tmp_path / "bundle")
    logits = runtime.load(tmp_path / "bundle").run(frames)
    accuracy = float((logits.argmax(axis=1) == labels).mean())
    print(f"{name}: {accuracy:.2%} of {len(frames)} by the C runtime")
    assert len(frames) == (204 if dataset == "nmnist" else 10_000)
    assert abs(accuracy - stated_accuracy(name)) <= 0.0005
