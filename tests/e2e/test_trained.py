"""What `training` writes is exported and deployed as it was trained, every form of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from bestdeploy import _verify, deploy, runtime  # noqa: E402
from training import config, data, engine, train  # noqa: E402
from training.models.bestformer import BESTformerConfig  # noqa: E402

SET = data.Dataset("tiny", 8, 1, ("a", "b", "c"), (0.5,), (0.5,))
EVENTS = replace(SET, channels=2, mean=(0.0, 0.0), std=(1.0, 1.0), input="events")
FORMS = {
    "official": {},
    "paper": {"variant": "paper", "decay_input": False},
    "baseline of Table 4": {
        "residual": "plain",
        "two_heads": False,
        "readout": "classification",
    },
    "reversible, one head": {"two_heads": False, "readout": "distillation"},
    "plain, two heads": {"residual": "plain"},
    "k^T v, hard binariser": {"attention": "kv", "binariser": "hard"},
    "boolean binariser": {"binariser": "boolean"},
    "events": {"input": "events", "channels": 2},
}


def frames_and_labels(events, n=48):
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 3
    shape = (n, 2, 8, 8, 2) if events else (n, 8, 8, 1)
    frames = rng.integers(0, 6 if events else 60, shape, dtype=np.uint8)
    for frame, label in zip(frames, labels, strict=True):
        rows = (slice(None), slice(2 * label, 2 * label + 3)) if events else (
            slice(2 * label, 2 * label + 3),)  # fmt: skip
        frame[rows] += 6 if events else 180
    return frames, labels


@pytest.mark.parametrize("change", FORMS.values(), ids=FORMS)
def test_deployed_accuracy_is_the_trained_one(tmp_path, change):
    events = change.get("input") == "events"
    frames, labels = frames_and_labels(events)
    c = config.TrainConfig(
        epochs=2, batch_size=12, lr=5e-3, flip=False, bn_weight_init=2.0, bn_bias_init=1.0
    )
    model = BESTformerConfig(**{"depth": 1, "dim": 16, "heads": 2, "n_steps": 2, "image_size": 8,
                                "channels": 1, "classes": 3} | change)  # fmt: skip
    splits = {"train": (frames, labels), "test": (frames, labels)}
    out = tmp_path / "ckpt.pt"
    trained = train.run(EVENTS if events else SET, splits, model, c, out)
    deploy.export(out, tmp_path / "model.onnx")
    deploy.compile(tmp_path / "model.onnx", output=tmp_path / "bundle")
    logits = runtime.load(tmp_path / "bundle" / "model.bstm").run(frames)
    ours = float((logits.argmax(1) == labels).mean())
    assert ours == pytest.approx(
        engine.accuracy(trained, data.Arrays(frames, labels)), abs=1 / len(labels)
    )
    with torch.inference_mode():
        want = trained(trained.preprocess(frames)).numpy()
    close = np.isclose(logits, want, atol=1e-3).all(
        1
    )  # a spike at the threshold may flip in float32
    assert close.mean() > 0.9
    np.savez(tmp_path / "frames.npz", images=frames, labels=labels)
    report = _verify.verify(
        tmp_path / "bundle", out, data=tmp_path / "frames.npz",
        model="training.models.bestformer:build",
    )  # fmt: skip
    assert report.top1_agreement >= 0.95
