"""The teacher without spikes: size, shapes, what it refuses, that it teaches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from training import config, data, models, train  # noqa: E402
from training.losses import DistillConfig  # noqa: E402
from training.models.bestformer import BESTformerConfig  # noqa: E402
from training.models.convnet import ConvNet, ConvNetConfig  # noqa: E402

SMALL = ConvNetConfig(1, 8, 1, 1, 8, 1, 3)


def test_eighteen_layers_have_the_published_number_of_parameters():
    model = ConvNet(ConvNetConfig(2, 64, 1, 1, 32, 3, 10))
    assert sum(p.numel() for p in model.parameters()) == 11_173_962
    convs = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size[0] == 3]
    assert len(convs) + 1 == 18  # and the head; shortcuts are not counted


@pytest.mark.parametrize("change", [{"heads": 2}, {"n_steps": 4}, {"input": "events"}])
def test_time_and_heads_are_refused(change):
    with pytest.raises(ValueError, match="convnet"):
        replace(SMALL, **change)


def test_it_trains_and_teaches(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.arange(24) % 3
    frames = rng.integers(0, 60, (24, 8, 8, 1), dtype=np.uint8)
    for frame, label in zip(frames, labels, strict=True):
        frame[2 * label : 2 * label + 3] += 180
    splits = {"train": (frames, labels), "test": (frames, labels)}
    dataset = data.Dataset("tiny", 8, 1, ("a", "b", "c"), (0.5,), (0.5,))
    c = config.TrainConfig(epochs=8, batch_size=12, lr=2e-2, flip=False, warmup_epochs=0)
    out = tmp_path / "teacher.pt"
    train.run(dataset, splits, SMALL, c, out)
    teacher = models.load(out)
    assert teacher(teacher.preprocess(frames)).argmax(1).tolist() == labels.tolist()
    student = BESTformerConfig(1, 8, 2, 2, 8, 1, 3)
    train.run(dataset, splits, student, replace(c, epochs=1), tmp_path / "s.pt",
              distill=DistillConfig(teacher=str(out), kind="soft"))  # fmt: skip
