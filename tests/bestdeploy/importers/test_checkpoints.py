"""Checkpoints in: the layouts that are read, and everything that is refused."""

from __future__ import annotations

import argparse
import os
import pickle
import sys

import numpy as np
import pytest
import torch
from random_nets import Spec, images_of, random_network, save

from bestdeploy import importers, ir, stages
from bestdeploy.errors import (
    BestDeployError,
    CheckpointError,
    InputError,
    MissingToolError,
    UnsupportedModelError,
    UsageError,
)

SPEC = Spec(seed=31, dim=16, heads=2, n_steps=2, size=8, classes=3)
PUBLISHED = {"attention": "qk", "tau": "2.0", "decay_input": "true", "variant": "official"}


@pytest.fixture
def content(tmp_path):
    return torch.load(save(tmp_path / "c.pt", SPEC), weights_only=True)


def write(tmp_path, content, name="x.pt"):
    torch.save(content, tmp_path / name)
    return tmp_path / name


@pytest.mark.parametrize("wrapper", ["ours", "timm", "module", "model", "bare"])
def test_every_wrapper_gives_the_same_network(tmp_path, wrapper):
    path = save(tmp_path / "c.pt", SPEC, wrapper=wrapper)
    settings = random_network(SPEC).settings if wrapper == "bare" else {}
    settings = {k: v for k, v in settings.items() if k not in ("num_heads", "time_step")}
    model = importers.import_checkpoint(path, overrides=settings)
    images = images_of(SPEC, 2)
    expected = random_network(SPEC).logits(images)
    np.testing.assert_allclose(stages.run(model, images)["logits"], expected, atol=1e-12, rtol=0)


def test_averaged_weights_are_taken_when_asked_for(tmp_path, content):
    """A file with both sets says so; `ema` is never read from the file itself."""
    head = content["state_dict"]["head.weight"]
    averaged = {**content["state_dict"], "head.weight": head / 2}
    both = write(tmp_path, {**content, "state_dict_ema": averaged})
    frames = images_of(SPEC, 2)

    def logits(**settings):
        model = importers.import_checkpoint(both, overrides=settings)
        return model, stages.run(model, frames)["logits"]

    model, plain = logits()
    assert "--set ema=true takes the others" in model.metadata_props["warnings"]
    expected = importers.import_checkpoint(write(tmp_path, content, "one.pt"))
    np.testing.assert_array_equal(plain, stages.run(expected, frames)["logits"])
    model, found = logits(ema="true")
    assert "ema" not in model.metadata_props.get("warnings", "")
    alone = write(tmp_path, {**content, "state_dict": averaged}, "ema.pt")
    expected = importers.import_checkpoint(alone)
    np.testing.assert_array_equal(found, stages.run(expected, frames)["logits"])
    assert not np.array_equal(found, plain)
    (tmp_path / "c.toml").write_text("ema = true")
    model = importers.import_checkpoint(both, config=tmp_path / "c.toml")
    np.testing.assert_array_equal(stages.run(model, frames)["logits"], found)
    content["args"]["ema"] = 0.9999
    importers.import_checkpoint(write(tmp_path, content, "args.pt"))


def test_published_file_names_every_missing_key(golden_checkpoint):
    with pytest.raises(UnsupportedModelError) as e:
        importers.import_checkpoint(golden_checkpoint)
    for key in PUBLISHED:
        assert f"`{key}`" in str(e.value)
        assert f"--set {key}=" in e.value.hint
    assert e.value.exit_code == 4


def test_published_file_with_settings_is_the_golden_network(golden_checkpoint, golden_vectors):
    model = importers.import_checkpoint(golden_checkpoint, overrides=PUBLISHED)
    found = stages.run(model, golden_vectors["images"])["logits"]
    np.testing.assert_allclose(found, golden_vectors["float64"], atol=1e-12, rtol=0)


def test_config_file_and_precedence(tmp_path, golden_checkpoint):
    config = tmp_path / "c.toml"
    config.write_text('family = "bestformer"\n[model]\nattention = "qk"\ntau = 3.0\n'
                      'decay_input = true\nvariant = "official"\n')  # fmt: skip
    model = importers.import_checkpoint(golden_checkpoint, config=config)
    assert '"tau": 3.0' in model.metadata_props["config"]
    model = importers.import_checkpoint(golden_checkpoint, config=config, overrides={"tau": "2"})
    assert '"tau": 2.0' in model.metadata_props["config"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda s: s.pop("head.bias"), "`head.bias` is missing"),
        (lambda s: s.pop("block.0.mlp.mlp2_bn.running_var"), "running_var` is missing"),
        (lambda s: s.update({"surplus": torch.zeros(2)}), "`surplus`"),
        (lambda s: s["head.weight"].fill_(float("nan")), "`head.weight` is nan"),
        (
            lambda s: s["patch_embed.block2_bn.weight"].fill_(float("inf")),
            "block2_bn.weight` is inf",
        ),
        (
            lambda s: s["patch_embed.block3_bn.running_var"].fill_(-1.0),
            "block3_bn.running_var` is -1",
        ),
        (lambda s: s.update({"head.bias": torch.zeros(4)}), "has shape (4,), expected (3,)"),
        (lambda s: s.update({"block.0.attn.lambda_attn": torch.zeros(3)}), "expected 5 axes"),
        (lambda s: s.update({"head.weight": torch.zeros(0, 16)}), "`head.weight`"),
        (lambda s: s["block.0.attn.q_conv.weight"].fill_(0.5), "equal their row mean"),
    ],
)
def test_broken_tensors_are_named(tmp_path, content, change, text):
    change(content["state_dict"])
    with pytest.raises(CheckpointError) as e:
        importers.import_checkpoint(write(tmp_path, content))
    assert text in str(e.value)
    assert e.value.exit_code == 7


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        ("attention", "softmax", UsageError),
        ("variant", "printed", UsageError),
        ("binariser", "sigmoid", UsageError),
        ("residual", "dense", UsageError),
        ("readout", "teacher", UsageError),
        ("n_steps", "5", UsageError),
        ("n_steps", "0", UsageError),
        ("heads", "4", CheckpointError),
        ("tau", "0.5", UsageError),
        ("tau", "nan", UsageError),
        ("image_size", "200", UnsupportedModelError),
        ("image_size", "0", UsageError),
        ("mean", "0.5", UnsupportedModelError),
        ("std", "0,0,0", UnsupportedModelError),
        ("colour", "red", UsageError),
    ],
)
def test_bad_settings_are_named(small_checkpoint, key, value, error):
    with pytest.raises(error) as e:
        importers.import_checkpoint(small_checkpoint, overrides={key: value})
    assert key in f"{e.value} {e.value.where}"


def test_foreign_and_damaged_files(tmp_path, small_checkpoint):
    data = small_checkpoint.read_bytes()
    cases = {
        "empty.pt": b"",
        "text.pt": b"not a checkpoint\n",
        "half.pt": data[: len(data) // 2],
        "tail.pt": data[1000:],
        "pickle.pt": pickle.dumps({"a": 1}),
    }
    for name, content in cases.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(CheckpointError) as e:
            importers.import_checkpoint(path)
        assert name in f"{e.value} {e.value.where}"
    with pytest.raises(CheckpointError, match="cannot read"):
        importers.import_checkpoint(tmp_path / "missing.pt")


class Bomb:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch '{self.mark}'",)


def test_a_hostile_pickle_does_nothing(tmp_path):
    bomb = Bomb(tmp_path / "exploded")
    path = write(tmp_path, {"state_dict": {}, "args": bomb})
    with pytest.raises(CheckpointError, match="refused"):
        importers.import_checkpoint(path)
    assert not bomb.mark.exists()
    torch.load(path, weights_only=False)
    assert bomb.mark.exists(), "the file was no bomb"


def test_namespace_with_nested_values_is_read(tmp_path, content):
    args = argparse.Namespace(**content["args"], opt_betas=None, nested={"a": [1, (2, 3)]})
    path = write(tmp_path, {"state_dict": content["state_dict"], "args": args})
    assert importers.import_checkpoint(path)


def test_unknown_family(tmp_path):
    path = write(tmp_path, {"conv.weight": torch.zeros(3, 3)})
    with pytest.raises(UnsupportedModelError, match="no known model family"):
        importers.import_checkpoint(path)
    with pytest.raises(UnsupportedModelError, match=r"`resnet` is unknown"):
        importers.import_checkpoint(path, family="resnet")


def test_config_errors(tmp_path, small_checkpoint):
    bad = tmp_path / "bad.toml"
    bad.write_text("a = = 1")
    with pytest.raises(InputError, match="not a TOML file"):
        importers.import_checkpoint(small_checkpoint, config=bad)


def test_tensors_of_another_type_are_refused(tmp_path, content):
    content["state_dict"]["head.bias"] = [1, 2, 3]
    with pytest.raises(BestDeployError, match=r"head.bias"):
        importers.import_checkpoint(write(tmp_path, content))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: torch.empty(3, device="meta"), "meta device"),
        (lambda: torch.eye(3).to_sparse(), "sparse_coo"),
        (lambda: torch.eye(3).to_sparse_csr(), "sparse_csr"),
        (lambda: torch.eye(4).to_sparse_bsr((2, 2)), "sparse_bsr"),
        (lambda: torch.zeros(3, dtype=torch.complex64), "dense torch.complex64"),
        (
            lambda: torch.quantize_per_tensor(torch.zeros(3), 1.0, 0, torch.qint8),
            "dense torch.qint8",
        ),
        (lambda: torch.zeros(1).expand(1 << 40), "over 4 bytes of values"),
        (lambda: torch.zeros(1).expand(1 << 12, 1 << 12), "over 4 bytes of values"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # torch calls sparse and quantised tensors beta
def test_tensors_that_are_no_plain_arrays_are_refused(tmp_path, content, make, text):
    content["state_dict"]["head.bias"] = make()
    with pytest.raises(CheckpointError) as e:
        importers.import_checkpoint(write(tmp_path, content))
    assert "`head.bias`" in str(e.value)
    assert text in str(e.value)


def test_an_empty_state_dict_says_so(tmp_path):
    with pytest.raises(CheckpointError, match="empty state dict"):
        importers.import_checkpoint(write(tmp_path, {"state_dict": {}}))


def plain_settings():
    settings = random_network(SPEC).settings
    return {k: v for k, v in settings.items() if k not in ("num_heads", "time_step")}


def save_safetensors(path, content, dtype=None):
    pytest.importorskip("safetensors")
    from safetensors.torch import save_file

    state = {k: v.to(dtype or v.dtype).contiguous() for k, v in content["state_dict"].items()}
    save_file(state, path, metadata={"tau": "7", "format": "pt"})
    return path


@pytest.mark.parametrize("dtype", [None, torch.float16, torch.bfloat16])
def test_safetensors_hold_the_tensors_alone(tmp_path, content, dtype):
    path = save_safetensors(tmp_path / "net.safetensors", content, dtype)
    with pytest.raises(UnsupportedModelError, match="`tau`"):
        importers.import_checkpoint(path)
    model = importers.import_checkpoint(path, overrides=plain_settings())
    state = {k: v.to(dtype or v.dtype).float() for k, v in content["state_dict"].items()}
    same = importers.import_checkpoint(write(tmp_path, {**content, "state_dict": state}))
    images = images_of(SPEC, 2)
    np.testing.assert_array_equal(
        stages.run(model, images)["logits"], stages.run(same, images)["logits"]
    )


def test_damaged_safetensors_are_refused(tmp_path, content):
    data = save_safetensors(tmp_path / "net.safetensors", content).read_bytes()
    for number, damaged in enumerate(
        [b"", b"text", data[:-1], data[:100], bytes(64), b"\xff" * 64, data[8:]]
    ):
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"damaged or not a \.safetensors"):
            importers.import_checkpoint(path)


def test_safetensors_without_the_package(tmp_path, content, monkeypatch):
    path = save_safetensors(tmp_path / "net.safetensors", content)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(MissingToolError, match="safetensors") as e:
        importers.import_checkpoint(path)
    assert "bestdeploy[export]" in e.value.hint


def test_half_precision_weights_are_read(tmp_path, content):
    content["state_dict"] = {k: v.half() if v.is_floating_point() else v
                             for k, v in content["state_dict"].items()}  # fmt: skip
    model = importers.import_checkpoint(write(tmp_path, content))
    assert isinstance(model, ir.Model)


def test_args_of_a_timm_run_do_not_disturb(tmp_path, content):
    """Options of the training script that share a word with ours, or are unset."""
    extra = {
        "scale": [1.0, 1.0],
        "interpolation": "",
        "crop_pct": None,
        "amp": True,
        "opt": "adamw",
    }
    args = argparse.Namespace(**{**content["args"], **extra})
    path = write(tmp_path, {"state_dict": content["state_dict"], "args": args, "epoch": 1})
    model = importers.import_checkpoint(path)
    assert '"filter": "bicubic"' in model.metadata_props["preprocessing"]


@pytest.mark.parametrize("size", [5, 6, 11, "9,14"])
def test_any_image_size(tmp_path, size):
    """Sizes that are no multiple of 4 pool as the published MaxPool does, rounding up."""
    from bestdeploy import lower, passes

    path = save(tmp_path / "c.pt", SPEC)
    model = importers.import_checkpoint(path, overrides={"image_size": size})
    passes.run(model)
    program = lower.lower(model)
    height, width = (9, 14) if size == "9,14" else (size, size)
    stream = next(b for b in program.buffers if b.kind.name == "STREAM")
    assert (stream.h, stream.w) == ((height + 3) // 4, (width + 3) // 4)


def test_class_names_travel(tmp_path, content):
    content["args"]["class_names"] = ["a", "b", "c"]
    model = importers.import_checkpoint(write(tmp_path, content))
    assert model.metadata_props["class_names"] == '["a", "b", "c"]'
    content["args"]["class_names"] = ["a"]
    model = importers.import_checkpoint(write(tmp_path, content))
    assert "class_names" not in model.metadata_props
    assert "class names" in model.metadata_props["warnings"]


def test_a_misspelt_key_in_a_config_file_is_not_ignored(tmp_path, small_checkpoint):
    config = tmp_path / "c.toml"
    config.write_text("v_treshold = 3.0\n")
    with pytest.raises(UsageError, match="v_treshold") as e:
        importers.import_checkpoint(small_checkpoint, config=config)
    assert "v_threshold" in e.value.hint
    config.write_text('model = "vitsnn"\n')
    with pytest.raises(InputError, match="table"):
        importers.import_checkpoint(small_checkpoint, config=config)


def test_an_empty_setting_is_refused(small_checkpoint):
    with pytest.raises(UsageError, match="tau=''"):
        importers.import_checkpoint(small_checkpoint, overrides={"tau": ""})


def test_heads_must_agree_with_lambda(tmp_path, content):
    content["args"]["num_heads"] = 8
    with pytest.raises(CheckpointError, match=r"heads=8 \(from checkpoint args\)"):
        importers.import_checkpoint(write(tmp_path, content))
