"""A checkpoint from the resume file of an interrupted run is what the run would have written."""

from __future__ import annotations

import gzip
import struct
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from training import checkpoint, config, data, extract, train  # noqa: E402
from training.models.bestformer import BESTformerConfig  # noqa: E402

MODEL = BESTformerConfig(1, 8, 2, 2, 28, 1, 10)
TRAIN = config.TrainConfig(epochs=3, batch_size=16, lr=2e-3, bn_images=32, test_every=3, seed=7)


def idx(array):
    head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return gzip.compress(head + array.tobytes())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for stem, n in (("train", 48), ("t10k", 20)):
        images = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        (path / f"{stem}-images-idx3-ubyte.gz").write_bytes(idx(images))
        labels = (np.arange(n) % 10).astype(np.uint8)
        (path / f"{stem}-labels-idx1-ubyte.gz").write_bytes(idx(labels))
    return path


def trained(folder, out, c, **more):
    dataset, splits = data.open_split("fashion-mnist", folder, config.DataConfig(), 2)
    return train.run(dataset, splits, MODEL, c, out, **more)


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_it_equals_what_the_run_writes(folder, tmp_path, capsys, ema):
    c = replace(TRAIN, ema=ema)
    run, out = tmp_path / "run.pt", tmp_path / "out.pt"
    trained(folder, run, c, stop_after=2)  # ends as if interrupted, and tests
    data_of = ["--data", "fashion-mnist", "--data-dir", str(folder), "--device", "cpu"]
    assert extract.main([str(run.with_suffix(".resume")), str(out), *data_of]) == 0
    assert "2 epochs and 0 steps" in capsys.readouterr().out
    found, want = checkpoint.load(out), checkpoint.load(run)
    assert found["args"] == want["args"]
    assert (found["epoch"], found["metric"]) == (1, want["metric"])
    for name, value in want["state_dict"].items():
        torch.testing.assert_close(found["state_dict"][name], value, msg=name)
    other = ["--data", "mnist", "--data-dir", str(folder)]
    assert extract.main([str(run.with_suffix(".resume")), str(out), *other]) == 2
    assert extract.main([str(run), str(out), *data_of]) == 7
    err = capsys.readouterr().err
    assert "was trained on fashion-mnist" in err
    assert "not a resume file: progress missing" in err


def test_an_epoch_that_is_not_tested_writes_no_checkpoint(folder, tmp_path):
    out = tmp_path / "a.pt"
    told = []
    trained(folder, out, TRAIN, progress=lambda p, n: told.append(out.exists()) or _nothing)
    assert told == [False, False, False]
    assert checkpoint.load(out)["epoch"] == 2
    tested = [line.split(",")[4] for line in out.with_suffix(".csv").read_text().splitlines()]
    assert tested[1:3] == ["", ""]
    assert float(tested[3]) == checkpoint.load(out)["metric"]


def _nothing(_n, _loss):
    pass
