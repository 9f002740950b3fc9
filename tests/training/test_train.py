from __future__ import annotations

import gzip
import pickle
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from training import augment, checkpoint, config, data, engine, train  # noqa: E402
from training.errors import DivergedError, OutputError  # noqa: E402
from training.models.bestformer import BESTformer, BESTformerConfig, build  # noqa: E402
from training.optimisers import learning_rate, make_optimizer  # noqa: E402

CONFIGS = Path(train.__file__).parent / "configs"
MODEL = BESTformerConfig(depth=1, dim=8, heads=2, n_steps=2, image_size=28, channels=1, classes=10)
TRAIN = config.TrainConfig(epochs=3, batch_size=16, lr=2e-3, flip=True, crop_padding=2, seed=7)
FASHION = data.DATASETS["fashion-mnist"]


def pictures(n, seed=0):
    """Images whose brightest band tells the class, so that a few steps learn something."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) % 10).astype(np.uint8)
    images = rng.integers(0, 40, (n, 28, 28, 1), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[2 * label + 2 : 2 * label + 6] = 255
    return images, labels


def idx_bytes(array):
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def idx_folder(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for stem, n, seed in (("train", 200, 0), ("t10k", 50, 1)):
        images, labels = pictures(n, seed)
        raw = gzip.compress(idx_bytes(images[..., 0]))
        (folder / f"{stem}-images-idx3-ubyte.gz").write_bytes(raw)
        (folder / f"{stem}-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    return folder


def splits(n=48):
    return {"train": pictures(n), "test": pictures(20, 1)}


# --- data ---


def test_idx_compressed_and_plain(idx_folder):
    images, labels = data.load("fashion-mnist", idx_folder, "train")
    want = pictures(200)
    assert images.shape == (200, 28, 28, 1)
    assert np.array_equal(images, want[0])
    assert np.array_equal(labels, want[1])


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "not an IDX"),
        (b"\0\0\x0d\3" + b"\0" * 40, "not an IDX"),
        (b"\0\0\x08\3\0\0\0", "inside its header"),
        (idx_bytes(np.zeros((2, 28, 28), np.uint8))[:-1], "1568 bytes expected"),
        (idx_bytes(np.zeros((2, 28, 28), np.uint8)) + b"x", "1568 bytes expected"),
        (idx_bytes(np.zeros((2, 27, 27), np.uint8)), r"\(28, 28, 1\)"),
        (idx_bytes(np.zeros((2, 28), np.uint8)), "2 dimensions"),
        (idx_bytes(np.zeros((2, 28, 28), np.uint8)), "2 images but 200 labels"),
    ],
)
def test_wrong_idx_files_are_refused(idx_folder, raw, words):
    (idx_folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(raw))
    with pytest.raises(data.DataError, match=words):
        data.load("fashion-mnist", idx_folder, "train")


def test_missing_and_damaged_files_are_refused(idx_folder, tmp_path):
    with pytest.raises(data.DataError, match="does not exist"):
        data.load("mnist", tmp_path / "none", "train")
    with pytest.raises(data.DataError, match="unknown data set 'cifar11'"):
        data.load("cifar11", tmp_path, "train")
    with pytest.raises(data.DataError, match="unknown split 'val'"):
        data.load("mnist", tmp_path, "val")
    with pytest.raises(data.DataError, match="has none of"):
        data.load("cifar10", idx_folder, "train")
    (idx_folder / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(np.full(50, 10, np.uint8)))
    with pytest.raises(data.DataError, match="label 10 is outside"):
        data.load("mnist", idx_folder, "test")
    (idx_folder / "t10k-images-idx3-ubyte.gz").write_bytes(b"not gzip")
    with pytest.raises(data.DataError, match="cannot read"):
        data.load("mnist", idx_folder, "test")


def cifar(n, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8), rng.integers(
        0, 10, n, dtype=np.uint8
    )


@pytest.mark.parametrize("form", ["bin", "pickle", "webp"])
def test_cifar10_formats(tmp_path, form):
    images, labels = cifar(200)
    planes = images.transpose(0, 3, 1, 2).reshape(200, 3072)
    if form == "bin":
        (tmp_path / "test_batch.bin").write_bytes(
            np.concatenate([labels[:, None], planes], 1).tobytes()
        )
    elif form == "pickle":
        batch = {b"data": planes, b"labels": labels.tolist(), b"batch_label": b"testing"}
        (tmp_path / "test_batch").write_bytes(pickle.dumps(batch, protocol=2))
    else:
        image = pytest.importorskip("PIL.Image")
        sheet = images.reshape(2, 100, 32, 32, 3).swapaxes(1, 2).reshape(64, 3200, 3)
        image.fromarray(sheet).save(tmp_path / "test_batch.webp", lossless=True, exact=True)
        np.savez(tmp_path / "labels.npz", test=labels)
    got_images, got_labels = data.load("cifar10", tmp_path, "test")
    assert np.array_equal(got_images, images)
    assert np.array_equal(got_labels, labels)


class Evil:
    def __reduce__(self):
        return (eval, ("1/0",))


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        (Evil(), "eval is not allowed"),
        ({b"data": np.zeros((2, 3072))}, "uint8 array"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]}, "list of 2"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"labels": ["x"]}, "integers"),
        ([1], "uint8 array"),
    ],
)
def test_wrong_python_batches_are_refused(tmp_path, batch, words):
    (tmp_path / "test_batch").write_bytes(pickle.dumps(batch, protocol=2))
    with pytest.raises(data.DataError, match=words):
        data.load("cifar10", tmp_path, "test")


def test_wrong_binary_and_sprite_files_are_refused(tmp_path):
    (tmp_path / "test_batch.bin").write_bytes(b"\0" * 3000)
    with pytest.raises(data.DataError, match="3073-byte records"):
        data.load("cifar10", tmp_path, "test")
    (tmp_path / "test_batch.bin").unlink()
    (tmp_path / "test_batch.webp").write_bytes(b"RIFF")
    with pytest.raises(data.DataError, match="cannot read"):
        data.load("cifar10", tmp_path, "test")


def test_real_files_when_present():
    folder = Path(__file__).parents[3] / "shared" / "data" / "fashion_mnist"
    if not folder.is_dir():
        pytest.skip("../shared/data/fashion_mnist is absent")
    images, labels = data.load("fashion-mnist", folder, "test")
    assert images.shape == (10_000, 28, 28, 1)
    assert (np.bincount(labels) == 1000).all()


# --- checkpoint ---


def test_checkpoint_round_trip_is_atomic_and_plain(tmp_path):
    path = tmp_path / "a.pt"
    weights = {"w": torch.arange(3.0)}
    checkpoint.save(path, weights, {"tau": 2.0, "mean": [0.5]}, epoch=3, metric=0.5, arch="x")
    ckpt = checkpoint.load(path)
    assert torch.equal(ckpt["state_dict"]["w"], weights["w"])
    assert (ckpt["args"], ckpt["epoch"], ckpt["metric"], ckpt["arch"]) == (
        {"tau": 2.0, "mean": [0.5]},
        3,
        0.5,
        "x",
    )
    before = path.read_bytes()
    with pytest.raises(TypeError, match=r"args\.bad is a Path|args\.bad is a PosixPath"):
        checkpoint.save(path, weights, {"bad": tmp_path}, epoch=0, metric=0, arch="x")
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
        checkpoint.save_atomic({"bad": lambda: 0}, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


def test_bad_checkpoints_are_refused(tmp_path):
    path = tmp_path / "b.pt"
    with pytest.raises(checkpoint.CheckpointError, match="does not exist"):
        checkpoint.load(path)
    path.write_bytes(b"garbage")
    with pytest.raises(checkpoint.CheckpointError, match="not a readable"):
        checkpoint.load(path)
    torch.save({"model": Evil()}, path)
    with pytest.raises(checkpoint.CheckpointError, match="not a readable"):
        checkpoint.load(path)
    torch.save([1], path)
    with pytest.raises(checkpoint.CheckpointError, match="holds a list"):
        checkpoint.load(path)
    torch.save({"state_dict": {}}, path)
    with pytest.raises(checkpoint.CheckpointError, match="lacks args, epoch, metric, arch"):
        checkpoint.load(path)


# --- training ---


def test_schedule():
    c = config.TrainConfig(
        epochs=100, cooldown_epochs=5, lr=1.0, min_lr=0.1, warmup_lr=0.2, warmup_epochs=10
    )
    rates = [learning_rate(c, e) for e in (0, 5, 10, 50, 100, 104)]
    assert rates == pytest.approx(
        [0.2, 0.6, 0.1 + 0.45 * (1 + np.cos(0.1 * np.pi)), 0.55, 0.1, 0.1]
    )


def test_augment_moves_and_mirrors_whole_images():
    x = torch.arange(2 * 3 * 6 * 6, dtype=torch.float32).view(2, 3, 6, 6) + 1
    c = replace(TRAIN, crop_padding=2)
    padded = torch.nn.functional.pad(x, (2, 2, 2, 2))
    seen = set()
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        for i, y in enumerate(augment.flip_and_shift(x, c, generator)):
            hits = {
                (flip, dy, dx)
                for flip in (False, True)
                for dy in range(5)
                for dx in range(5)
                if torch.equal(
                    y, (padded.flip(3) if flip else padded)[i, :, dy : dy + 6, dx : dx + 6]
                )
            }
            assert len(hits) == 1
            seen |= hits
    assert len(seen) > 40
    assert augment.flip_and_shift(x, replace(TRAIN, flip=False, crop_padding=0), generator) is x


def test_weight_decay_groups():
    model = BESTformer(MODEL)
    decayed, plain = make_optimizer(model, TRAIN).param_groups
    assert any(p is model.block[0].attn.lambda_attn for p in decayed["params"])
    assert all(p.ndim == 1 for p in plain["params"])
    assert plain["weight_decay"] == 0


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    whole = train.run(FASHION, splits(), MODEL, TRAIN, tmp_path / "whole.pt")
    train.run(FASHION, splits(), MODEL, TRAIN, tmp_path / "parts.pt", stop_after=1)
    assert checkpoint.load(tmp_path / "parts.pt")["epoch"] == 0
    parts = train.run(FASHION, splits(), MODEL, TRAIN, tmp_path / "parts.pt", resume=True)
    for (name, a), b in zip(whole.state_dict().items(), parts.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    logs = [(tmp_path / f"{n}.csv").read_text().splitlines() for n in ("whole", "parts")]
    assert len(logs[0]) == len(logs[1]) == 4
    assert [line.split(",")[:5] for line in logs[0]] == [line.split(",")[:5] for line in logs[1]]
    with pytest.raises(checkpoint.CheckpointError, match=r"these differ: train\.lr"):
        train.run(
            FASHION, splits(), MODEL, replace(TRAIN, lr=1e-3), tmp_path / "parts.pt", resume=True
        )
    with pytest.raises(checkpoint.CheckpointError, match="does not exist"):
        train.run(FASHION, splits(), MODEL, TRAIN, tmp_path / "other.pt", resume=True)


def test_recalibration_takes_the_plain_average_of_the_batch_statistics():
    torch.manual_seed(0)
    model = BESTformer(MODEL).eval()
    images, _ = pictures(20)
    engine.recalibrate(model, data.Arrays(images, np.zeros(20)), 20, 10)
    with torch.inference_mode():
        y = model.patch_embed.block0_conv(model.preprocess(images))
    norm = model.patch_embed.block0_bn
    torch.testing.assert_close(norm.running_mean, y.mean((0, 2, 3)))
    variances = torch.stack([half.transpose(0, 1).flatten(1).var(1) for half in y.split(10)])
    torch.testing.assert_close(norm.running_var, variances.mean(0))
    assert norm.momentum == 0.1
    assert not model.training


def test_recalibration_does_not_change_what_is_learnt(tmp_path):
    runs = [
        train.run(FASHION, splits(), MODEL, replace(TRAIN, bn_images=n), tmp_path / f"{n}.pt")
        for n in (0, 32)
    ]
    for (name, a), b in zip(runs[0].named_parameters(), runs[1].parameters(), strict=True):
        assert torch.equal(a, b), name
    norms = [model.patch_embed.block0_bn.running_mean for model in runs]
    assert not torch.equal(*norms)


def test_the_seed_decides():
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        model = BESTformer(MODEL)
        c = replace(TRAIN, seed=seed)
        trainer = engine.Trainer(model, make_optimizer(model, c), c)
        trainer.epoch(data.Arrays(*pictures(32)), engine.Progress())
        runs.append(model.head.weight.detach())
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_nan_loss_stops_the_run(tmp_path):
    model = BESTformer(MODEL)
    with torch.no_grad():
        model.head.bias[0] = float("nan")
    trainer = engine.Trainer(model, make_optimizer(model, TRAIN), TRAIN)
    with pytest.raises(DivergedError, match="loss is nan at epoch 0, step 0"):
        trainer.epoch(data.Arrays(*pictures(16)), engine.Progress())


def test_command_line_trains_and_learns(idx_folder, tmp_path, capsys):
    config = tmp_path / "c.toml"
    config.write_text(
        "[model]\ndepth = 1\ndim = 16\nheads = 2\nn_steps = 2\n"
        "[train]\nbatch_size = 10\nlr = 5e-3\nwarmup_epochs = 0\nflip = false\n"
    )
    out = tmp_path / "ck.pt"
    argv = [
        "--data",
        "fashion-mnist",
        "--data-dir",
        str(idx_folder),
        "--config",
        str(config),
        "--out",
        str(out),
    ]
    assert train.main([*argv, "--epochs", "1", "--threads", "1"]) == 0
    captured = capsys.readouterr()
    assert "test accuracy" in captured.out
    assert "images/s" in captured.err
    ckpt = checkpoint.load(out)
    args = ckpt["args"]
    assert args["family"] == "bestformer"
    assert (args["attention"], args["tau"], args["decay_input"], args["variant"]) == (
        "qk",
        2.0,
        True,
        "official",
    )
    assert (args["num_heads"], args["time_step"], args["img_size"], args["in_channels"]) == (
        2,
        2,
        28,
        1,
    )
    assert (args["num_classes"], args["mean"], args["std"]) == (10, [0.286], [0.353])
    assert args["train"]["epochs"] == 1
    model = build(out)
    images, labels = data.load("fashion-mnist", idx_folder, "test")
    assert engine.accuracy(model, data.Arrays(images, labels)) == ckpt["metric"] > 0.2
    assert (tmp_path / "ck.csv").read_text().startswith("epoch,lr,train_loss")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[model]\ndepth = 1", "missing"),
        ("[model]\ndepth=1\ndim=16\nheads=2\nn_steps=2\nwidth=3", "unknown key width"),
        ("[model]\ndepth=1\ndim=16\nheads=2\nn_steps=2\nattention='vv'", "'vv'"),
        ("[model]\ndepth=1\ndim=16\nheads=2\nn_steps=2\nimage_size=32", "image_size is 32"),
        ("[model]\ndepth=1\ndim=16\nheads=2\nn_steps=2\n[train]\nlr=-1.0", "lr > 0"),
        ("[model]\ndepth=1\ndim=16\nheads=2\nn_steps=2\n[train]\nlr_per='year'", "year"),
        ("[teacher]\nx=1", "unknown table teacher"),
        ("depth = = 1", "cannot read config"),
    ],
)
def test_bad_configs_end_with_one_line(tmp_path, capsys, text, words):
    config = tmp_path / "c.toml"
    config.write_text(text)
    argv = [
        "--data",
        "mnist",
        "--data-dir",
        str(tmp_path),
        "--config",
        str(config),
        "--out",
        str(tmp_path / "o.pt"),
    ]
    assert train.main(argv) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert words in err
    assert not (tmp_path / "o.pt").exists()


def test_missing_data_and_output_folders_are_reported(tmp_path, capsys):
    config = str(CONFIGS / "fashion_mnist_2_32.toml")
    argv = [
        "--data",
        "mnist",
        "--data-dir",
        str(tmp_path / "no"),
        "--config",
        config,
        "--out",
        str(tmp_path / "o.pt"),
    ]
    assert train.main(argv) == 7
    assert "does not exist" in capsys.readouterr().err
    with pytest.raises(OutputError, match="output folder"):
        train.run(FASHION, splits(), MODEL, TRAIN, tmp_path / "no" / "o.pt")


@pytest.mark.parametrize(
    ("name", "dataset"), [("fashion_mnist_2_32", "fashion-mnist"), ("cifar10_4_384", "cifar10")]
)
def test_shipped_configs_are_valid(name, dataset):
    c = config.read(CONFIGS / f"{name}.toml")
    assert c.model_config(data.DATASETS[dataset]).attention == "qk"
    assert c.train.epochs >= 1
