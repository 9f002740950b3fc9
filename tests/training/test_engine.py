"""Exact resume, several processes, mixed precision, teachers, what is refused before training."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from training import augment as augmentation  # noqa: E402
from training import checkpoint, config, data, engine, neurons, optimisers, train  # noqa: E402
from training.errors import (  # noqa: E402
    CheckpointError,
    ConfigError,
    InterruptedTraining,
    MissingPackageError,
    UnsupportedError,
)
from training.losses import DistillConfig  # noqa: E402
from training.models.bestformer import BESTformerConfig  # noqa: E402
from training.models.spiking_vgg import SpikingVGGConfig  # noqa: E402
from training.models.spikingformer import SpikingformerConfig  # noqa: E402

ROOT = Path(__file__).parents[2]
SET = data.Dataset("tiny", 8, 1, ("a", "b", "c"), (0.5,), (0.5,))
MODEL = BESTformerConfig(1, 8, 2, 2, 8, 1, 3)
TRAIN = config.TrainConfig(epochs=2, batch_size=8, lr=2e-3, crop_padding=1, seed=5)


def splits(n=32):
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 3
    frames = rng.integers(0, 60, (n, 8, 8, 1), dtype=np.uint8)
    for frame, label in zip(frames, labels, strict=True):
        frame[2 * label : 2 * label + 3] += 180
    return {"train": (frames, labels), "test": (frames[:12], labels[:12])}


def run(out, c=TRAIN, model=MODEL, **more):
    return train.run(SET, splits(), model, c, out, **more)


def logged(out):
    """Every column of the log that is not a time."""
    return [line.split(",")[:5] for line in out.with_suffix(".csv").read_text().splitlines()]


def interrupting(after):
    """A ``progress`` that sends SIGINT to this process after some steps."""
    seen = [0]

    def tick(n, loss):
        seen[0] += 1
        if seen[0] == after:
            os.kill(os.getpid(), signal.SIGINT)

    return lambda p, total: tick


def test_an_interrupt_in_an_epoch_saves_and_the_resumed_run_is_the_same(tmp_path):
    c = replace(TRAIN, ema=0.9, mixup=0.5, rate_penalty=0.1)
    whole = run(tmp_path / "whole.pt", c)
    with pytest.raises(InterruptedTraining, match="epoch 1 after step 2") as stopped:
        run(tmp_path / "parts.pt", c, progress=interrupting(6))
    assert "--resume" in stopped.value.hint
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    parts = run(tmp_path / "parts.pt", c, resume=True)
    for (name, a), b in zip(whole.state_dict().items(), parts.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert logged(tmp_path / "whole.pt") == logged(tmp_path / "parts.pt")


def test_a_resume_file_of_another_recipe_or_kind_is_refused(tmp_path):
    out = tmp_path / "a.pt"
    run(out, stop_after=1)
    run(out, replace(TRAIN, save_every=7), resume=True, stop_after=1)
    with pytest.raises(CheckpointError, match=r"differ: dim.*train\.lr|differ: .*"):
        run(out, model=replace(MODEL, dim=16), resume=True)
    out.with_suffix(".resume").write_bytes(out.read_bytes())
    with pytest.raises(CheckpointError, match="not a resume file: optimizer"):
        run(out, resume=True)
    out.with_suffix(".resume").write_bytes(b"PK")
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        run(out, resume=True)


def test_two_processes_do_what_one_does_with_twice_the_micro_batches(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(
        "import importlib.util, sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        f"spec = importlib.util.spec_from_file_location('held', {__file__!r})\n"
        "held = importlib.util.module_from_spec(spec); spec.loader.exec_module(held)\n"
        "from pathlib import Path\n"
        "held.torch.set_num_threads(1)\n"
        "with held.engine.world('cpu') as w:\n"
        f"    held.run(Path({str(tmp_path / 'two.pt')!r}), world=w)\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
               "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0",
               str(script)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=240,
                          env=os.environ | {"OMP_NUM_THREADS": "1"})  # fmt: skip
    assert done.returncode == 0, done.stderr
    run(tmp_path / "one.pt", replace(TRAIN, batch_size=4, accumulate=2))
    one, two = (logged(tmp_path / f"{name}.pt") for name in ("one", "two"))
    assert len(one) == len(two) == 3
    for a, b in zip(one[1:], two[1:], strict=True):
        assert float(a[2]) == pytest.approx(float(b[2]), abs=2e-4)
        assert a[3] == b[3]


def test_mixed_precision_lamb_clipping_and_recompute_train(tmp_path):
    for amp in ("bf16", "fp16"):
        c = replace(TRAIN, epochs=1, amp=amp, optimizer="lamb", clip_grad=1.0, recompute=True,
                    channels_last=True, bn_images=16, cooldown_epochs=1)  # fmt: skip
        run(tmp_path / f"{amp}.pt", c)
        ckpt = checkpoint.load(tmp_path / f"{amp}.pt")
        assert ckpt["epoch"] == 1
        assert all(v.dtype != torch.bfloat16 for v in ckpt["state_dict"].values())


def test_lamb_scales_the_adam_direction():
    w = torch.nn.Parameter(torch.tensor([[3.0, 4.0]]))
    w.grad = torch.tensor([[0.5, -0.5]])
    optimisers.LAMB([w], lr=0.1, weight_decay=0.01).step()
    u = torch.tensor([[1.0 + 0.03, -1.0 + 0.04]])  # the first Adam step is the sign
    want = torch.tensor([[3.0, 4.0]]) - 0.1 * min(1.0, 5.0 / float(u.norm())) * u
    torch.testing.assert_close(w.detach(), want, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    out = tmp_path_factory.mktemp("teacher") / "t.pt"
    run(out, replace(TRAIN, epochs=1), SpikingformerConfig(1, 8, 2, 2, 8, 1, 3))
    return out


def linear_teacher(classes):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, classes))


def four_classes(classes):
    return linear_teacher(4)


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_distillation_from_our_teacher(tmp_path, teacher, kind):
    d = DistillConfig(str(teacher), kind=kind, swap=kind == "soft")
    run(tmp_path / "s.pt", replace(TRAIN, epochs=1), distill=d)
    assert checkpoint.load(tmp_path / "s.pt")["args"]["distill"]["kind"] == kind


def test_teachers_by_dotted_path_and_what_is_refused(tmp_path, teacher, monkeypatch):
    monkeypatch.setitem(sys.modules, "held_teachers", sys.modules[__name__])
    c = replace(TRAIN, epochs=1)
    run(tmp_path / "s.pt", c, distill=DistillConfig("held_teachers:linear_teacher"))
    out = tmp_path / "no.pt"
    refused = [
        ("held_teachers:four_classes", ConfigError, "has 4 classes, the data has 3"),
        ("held_teachers:nobody", ConfigError, "has no nobody"),
        ("timm:vit_tiny", MissingPackageError, "timm, which is not installed"),
        ("", ConfigError, "no teacher is given"),
        (str(tmp_path / "missing.pt"), CheckpointError, "does not exist"),
    ]
    for spec, error, words in refused:
        with pytest.raises(error, match=words):
            run(out, c, distill=DistillConfig(spec))
    with pytest.raises(ConfigError, match="two heads"):
        run(out, c, SpikingformerConfig(1, 8, 2, 2, 8, 1, 3),
            distill=DistillConfig(str(teacher)))  # fmt: skip
    assert not out.exists()


def test_starting_from_weights_checks_them(tmp_path):
    out = tmp_path / "a.pt"
    run(out, replace(TRAIN, epochs=1))
    trainer = train.build(SET, MODEL, TRAIN, init=out)
    held = checkpoint.load(out)["state_dict"]
    assert torch.equal(trainer.model.head.weight, held["head.weight"])
    with pytest.raises(CheckpointError, match=r"2 time steps, the config has n_steps = 4"):
        train.build(SET, replace(MODEL, n_steps=4), TRAIN, init=out)
    with pytest.raises(CheckpointError, match="has shape"):
        train.build(SET, replace(MODEL, classes=4), TRAIN, init=out)
    with pytest.raises(CheckpointError, match=r"lacks block\.1"):
        train.build(SET, replace(MODEL, depth=2), TRAIN, init=out)


@pytest.mark.parametrize(
    ("change", "model", "error", "words"),
    [
        ({"recompute": True}, {"residual": "plain"}, ConfigError, "residual = reversible"),
        ({"recompute": True, "rate_penalty": 1.0}, {}, UnsupportedError, "rate_penalty"),
        ({"compile_network": True, "tet": True}, {}, UnsupportedError, "rate_penalty and tet"),
        ({"tet": True}, {}, UnsupportedError, "the logits of each step"),
        ({"event_roll": 2}, {}, UnsupportedError, "for events"),
        ({"cutmix": 1.0}, {"input": "events", "channels": 2}, UnsupportedError, "for images"),
        ({"accumulate": 9}, {}, ConfigError, "fewer than one step"),
    ],
)
def test_settings_that_do_not_go_together(tmp_path, change, model, error, words):
    with pytest.raises(error, match=words):
        run(tmp_path / "a.pt", replace(TRAIN, **change), replace(MODEL, **model))


@pytest.mark.parametrize(
    "change",
    [{"epochs": 0}, {"batch_size": 1}, {"amp": "int8"}, {"optimizer": "sgd"}, {"erasing": 2.0},
     {"ema": 1.0}, {"tet_lambda": 1.5}, {"lr_per": "year"},
     {"mixup": -1.0}, {"warmup_epochs": float("nan")}],
)  # fmt: skip
def test_bad_train_tables(change):
    with pytest.raises(ConfigError):
        replace(TRAIN, **change)


def test_the_loss_of_every_step_trains(tmp_path):
    vgg = SpikingVGGConfig("8 8", 2, 8, 1, 3)
    c = replace(TRAIN, tet=True, tet_lambda=0.01)
    run(tmp_path / "a.pt", c, vgg)
    run(tmp_path / "b.pt", replace(c, tet=False), vgg)
    loss = [float(logged(tmp_path / f"{name}.pt")[-1][2]) for name in "ab"]
    assert np.isfinite(loss).all() and loss[0] != loss[1]


def test_wrong_types_in_a_config_are_named():
    with pytest.raises(ConfigError, match="epochs must be of type int, got 'many'"):
        config.parse({"train": {"epochs": "many"}}, "c.toml")
    with pytest.raises(ConfigError, match="flip must be of type bool"):
        config.parse({"train": {"flip": 1}}, "c.toml")
    with pytest.raises(ConfigError, match="kind must be"):
        config.parse({"distill": {"teacher": "t", "kind": "warm"}}, "c.toml")


def test_the_plain_neuron_and_the_unrolled_one_equal_the_fused_one():
    x = torch.randn(4, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2
    g = torch.randn(4, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for p in (neurons.LIFParameters(), neurons.LIFParameters(reset="soft", decay_input=False),
              neurons.LIFParameters(tau=1.0), neurons.LIFParameters(detach_reset=False),
              neurons.LIFParameters(1.5, 0.5, -0.25)):  # fmt: skip
        a, b = (x.clone().requires_grad_() for _ in range(2))
        fused = neurons._MultiStepLIF.apply(a, p)
        plain = neurons.plain_lif(b, p)
        fused.backward(g)
        plain.backward(g)
        assert torch.equal(fused, plain)
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-12, atol=1e-14)
        h, s = neurons._unrolled_forward(x, p)
        assert torch.equal(s, fused)
        unrolled = neurons._unrolled_backward(g, h, p)
        torch.testing.assert_close(unrolled, a.grad, rtol=1e-12, atol=1e-14)


@pytest.mark.slow
def test_compiled_neurons_give_the_same_spikes_and_gradients():
    x = torch.randn(4, 3, 40, generator=torch.Generator().manual_seed(0)) * 2
    lif = neurons.LIF()
    a, b = (x.clone().requires_grad_() for _ in range(2))
    want = lif(a)
    want.sum().backward()
    neurons.use_compiled(True)
    try:
        got = lif(b)
        got.sum().backward()
    finally:
        neurons.use_compiled(False)
    assert torch.equal(got, want)
    torch.testing.assert_close(b.grad, a.grad)


# --- augmentation ---


def augmented(c, frames, labels, model, seed=1):
    network = train.build(SET, model, c).model
    return augmentation.augment(network, frames, torch.from_numpy(labels), c, 0, seed)


def test_mixup_mixes_images_and_targets_alike():
    frames, labels = splits(6)["train"]
    c = replace(TRAIN, flip=False, crop_padding=0, mixup=0.5, label_smoothing=0.0)
    before = torch.random.get_rng_state()
    x, target = augmented(c, frames, labels, MODEL)
    again, _ = augmented(c, frames, labels, MODEL)
    assert torch.equal(x, again)
    torch.random.set_rng_state(before)
    assert target.sum(1).tolist() == pytest.approx([1.0] * 6)
    plain, one_hot = augmented(replace(c, mixup=0.0), frames, labels, MODEL)
    i = int(target.max(1).values.argmin())  # a row whose partner is of another class
    weight = target[i, labels[i]]
    assert 0 < weight < 1
    mixtures = weight * plain[i] + (1 - weight) * plain
    partners = [j for j in range(6) if torch.allclose(x[i], mixtures[j], atol=1e-5)]
    assert len(partners) == 1
    assert target[i, labels[partners[0]]] == pytest.approx(float(1 - weight), abs=1e-5)
    off, _ = augmentation.augment(
        train.build(SET, MODEL, c).model, frames, torch.from_numpy(labels),
        replace(c, mix_off_epoch=1), 1, 1,
    )  # fmt: skip
    assert torch.equal(off, plain)
    assert one_hot.max() == 1


def test_kornia_augmentations_keep_shapes_and_repeat():
    pytest.importorskip("kornia")
    rgb = replace(MODEL, channels=3)
    frames = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
    labels = np.arange(8) % 3
    c = replace(TRAIN, rand_augment_n=1, erasing=0.5, cutmix=1.0, label_smoothing=0.0)
    set_ = replace(SET, channels=3, mean=(0.5,) * 3, std=(0.5,) * 3)
    model = train.build(set_, rgb, c).model
    y = torch.from_numpy(labels)
    x, target = augmentation.augment(model, frames, y, c, 0, 3)
    again, _ = augmentation.augment(model, frames, y, c, 0, 3)
    other, _ = augmentation.augment(model, frames, y, c, 0, 4)
    assert x.shape == (8, 3, 8, 8)
    assert torch.equal(x, again)
    assert not torch.equal(x, other)
    assert target.sum(1).tolist() == pytest.approx([1.0] * 8)


def test_events_move_together_over_all_steps():
    pytest.importorskip("kornia")
    model_config = replace(MODEL, channels=2, input="events", n_steps=3)
    frame = np.random.default_rng(0).integers(0, 5, (4, 1, 8, 8, 2), dtype=np.uint8)
    frames = np.repeat(frame, 3, axis=1)  # the same at every step
    c = replace(TRAIN, event_roll=2, event_affine=True, crop_padding=2)
    set_ = replace(SET, channels=2, mean=(0.0, 0.0), std=(1.0, 1.0), input="events")
    model = train.build(set_, model_config, c).model
    x, _ = augmentation.augment(model, frames, torch.arange(4) % 3, c, 0, 3)
    assert x.shape == (3, 4, 2, 8, 8)
    assert torch.equal(x[0], x[1])
    assert torch.equal(x[0], x[2])
    assert not torch.equal(x[0], model.preprocess(frames)[0])


def test_every_batch_has_its_own_seed():
    seeds = {augmentation.batch_seed(1, e, s, r) for e in range(5) for s in range(5)
             for r in range(3)}  # fmt: skip
    assert len(seeds) == 75


def test_world_without_torchrun_is_one_process():
    with engine.world("cpu") as w:
        assert (w.rank, w.size, w.total([1.0, 2.0])) == (0, 1, [1.0, 2.0])
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no CUDA device"), engine.world("cuda"):
            pass
