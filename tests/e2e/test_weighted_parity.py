"""Spikformer and Spikingformer: every layout and number of bits, one arithmetic in every form.

The trained network in float32 (torch) is compared with the spiking graph (float64) and with what is
deployed; the deployed forms with each other, bit for bit, on random frames and on real images.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from e2e import forms
from weighted_nets import Weighted, frames_of, network, save

from bestdeploy import _export, images, importers, ir, stages
from bestdeploy._bundle import lowered_bytes

FAST = {
    "spikingformer-8": (Weighted(size=16, heads=2), 8),
    "spikformer-4": (Weighted(family="spikformer", size=16, depth=2, dead_keys=True), 4),
    "spikformer-events-2": (
        Weighted("spikformer", channels=2, events=True, layout="imagenet", n_steps=3, size=32), 2,
    ),
}  # fmt: skip
MORE = {
    "spikingformer-16-T10": (Weighted(n_steps=10, tau=1.5, layout="imagenet", size=32), 16),
    "spikformer-1": (Weighted("spikformer", seed=3, size=16, dim=72, heads=6), 1),
    "spikformer-8-trained": (Weighted("spikformer", seed=4, size=16, trained_bits=8), None),
    "spikformer-16": (Weighted("spikformer", seed=5, n_steps=2, size=12, decay_input=False), 16),
    "spikformer-imagenet-3": (Weighted("spikformer", seed=6, layout="imagenet", size=48), 3),
    "spikformer-T16": (Weighted("spikformer", seed=7, n_steps=16, size=8, tau=3.0), 8),
    "spikingformer-1-T1": (Weighted(seed=8, n_steps=1, size=16, dim=40, heads=5), 1),
    "spikingformer-2-T8": (Weighted(seed=9, n_steps=8, size=16, channels=1), 2),
    "spikingformer-3-events": (
        Weighted(seed=10, channels=2, events=True, layout="imagenet", size=32), 3,
    ),
    "spikingformer-4-trained": (Weighted(seed=11, size=16, depth=3, trained_bits=4), None),
}  # fmt: skip
PULLOVER = Path(__file__).resolve().parents[2] / "examples" / "images" / "fashion_mnist_200.npz"


def export(spec: Weighted, bits: int | None, folder: Path) -> Path:
    """Export a random network and compile it; `bits` None = as the checkpoint says."""
    checkpoint = save(folder / "net.pt", spec)
    settings = {} if bits is None else {"weight_bits": bits}
    report = _export.export(checkpoint, folder / "model.onnx", settings=settings)
    assert not any(v for k, v in report.parity.items() if k.startswith("differing raw"))
    (folder / "model.bstm").write_bytes(lowered_bytes(folder / "model.onnx"))
    return checkpoint


def check(spec: Weighted, bits: int | None, folder: Path) -> None:
    export(spec, bits, folder)
    frames = np.concatenate([images.builtin_images(spec.frames.frame_shape, 2), frames_of(spec, 4)])
    found = forms.raw_of_every_form(folder, frames)
    _, expected = next(found)
    for form, raw in found:
        np.testing.assert_array_equal(raw, expected, err_msg=form)
    assert len(np.unique(expected, axis=0)) > 1


@pytest.mark.parametrize("name", FAST)
def test_every_form_gives_identical_integers(name, tmp_path):
    check(*FAST[name], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE)
def test_more_forms_give_identical_integers(name, tmp_path):
    check(*MORE[name], tmp_path)


def check_trained(spec: Weighted, tmp_path: Path) -> None:
    model = importers.import_checkpoint(save(tmp_path / "net.pt", spec), deployed=False)
    frames, net = frames_of(spec, 3), network(spec)
    ours = stages.run(model, frames)["logits"]
    theirs = net(net.preprocess(frames)).detach().numpy()
    np.testing.assert_allclose(ours, theirs, atol=2e-5)


@pytest.mark.parametrize("name", FAST)
def test_the_spiking_graph_is_the_trained_network(name, tmp_path):
    """float64 numpy against float32 torch, which was written apart from it."""
    check_trained(FAST[name][0], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE)
def test_more_spiking_graphs_are_the_trained_networks(name, tmp_path):
    check_trained(MORE[name][0], tmp_path)


def test_weights_that_were_trained_in_bits_lose_nothing(tmp_path):
    """Spikes of a network trained with 4-bit weights are those of its deployed integers."""
    spec = Weighted("spikformer", seed=12, size=16, trained_bits=4)
    report = _export.export(save(tmp_path / "net.pt", spec), tmp_path / "model.onnx")
    assert report.parity["flips per million neuron-steps"] < 50
    assert report.parity["largest logit difference to the trained model"] < 1e-3
    model = ir.load(tmp_path / "model.onnx")
    assert json.loads(model.metadata_props["config"])["weight_bits"] == 4


@pytest.mark.slow
def test_real_images(tmp_path):
    """200 images of Fashion-MNIST through every form of both families."""
    pictures = np.load(PULLOVER)["images"][:, :, :, :]
    for family in ("spikingformer", "spikformer"):
        folder = tmp_path / family
        folder.mkdir()
        export(Weighted(family, seed=13, size=28, channels=1, classes=10), 8, folder)
        found = forms.raw_of_every_form(folder, pictures[:40], numpy_bodies=False)
        _, expected = next(found)
        names = [form for form, raw in found if np.array_equal(raw, expected)]
        print(f"{family}: 0 differing raw logits on 40 real images, {len(names)} forms")
        assert len(names) >= 5
