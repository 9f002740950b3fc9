"""Values, entropy and bimodality of attention: known distributions, networks, the command."""

from __future__ import annotations

import dataclasses
import gzip
import json
import struct

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from scramble import scrambled  # noqa: E402

from training import attention, checkpoint, data  # noqa: E402
from training.errors import ConfigError  # noqa: E402
from training.models.a2os2a import A2OS2A, A2OS2AConfig  # noqa: E402
from training.models.sew_resnet import SEWResNet, SEWResNetConfig  # noqa: E402

TINY = A2OS2AConfig(depth=2, dim=16, heads=2, n_steps=3, image_size=8, channels=3, classes=5)
FRAMES = np.random.default_rng(1).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
SPLIT = data.Arrays(FRAMES, np.zeros(6))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (torch.tensor([0.0, 1.0] * 50), 1.0),
        (torch.tensor([0.0, 1.0, 1.0, 1.0]), 1.0),  # whatever the two weigh
        (torch.linspace(-1, 1, 100_001), 5 / 9),
        (torch.tensor([3.0] * 10), None),
    ],
)
def test_bimodality_of_known_distributions(values, expected):
    found = attention.bimodality(values)
    assert found is None if expected is None else found == pytest.approx(expected, abs=1e-4)


def test_bimodality_of_a_normal_distribution():
    values = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    assert attention.bimodality(values) == pytest.approx(1 / 3, abs=0.01)


def test_values_of_an_attention_are_those_of_its_neurons():
    """Every number again from q, k, v of each block, taken by the network's own functions."""
    model = scrambled(A2OS2A(TINY)).eval()
    found = attention.measure(model, SPLIT, 6)
    assert found["q"].value_set == 2 and found["v"].value_set == 3
    seen = []
    blocks = attention.attention_layers(model)
    handles = [b.attn_lif.register_forward_hook(lambda m, x, y: seen.append(x[0])) for b in blocks]
    with torch.inference_mode():
        model(model.preprocess(FRAMES))
    for handle in handles:
        handle.remove()
    assert len(seen) == 2
    entropies = []
    for product in seen:
        _, counts = np.unique(np.rint(product.double().numpy() * 2**20), return_counts=True)
        p = counts / counts.sum()
        entropies.append(-(p * np.log2(p)).sum())
    assert found["product"].entropy == pytest.approx(np.mean(entropies))


def test_real_keys_and_ternary_values_hold_more_than_spikes():
    """[a2os2a] Proposition 1, on one set of weights."""
    model = scrambled(A2OS2A(TINY)).eval()
    binary = A2OS2A(dataclasses.replace(TINY, key="binary", value="binary")).eval()
    binary.load_state_dict(model.state_dict())
    full, plain = (attention.measure(m, SPLIT, 6) for m in (model, binary))
    assert full["product"].value_set > plain["product"].value_set
    assert full["product"].entropy > plain["product"].entropy
    assert plain["k"].value_set == 2


def test_a_network_without_attention_is_refused():
    config = SEWResNetConfig(layers="8 M 8", n_steps=2, image_size=8, channels=3, classes=4)
    with pytest.raises(ConfigError, match="no attention"):
        attention.measure(SEWResNet(config), SPLIT, 2)


def test_the_command(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for what, array in (
        ("images-idx3", rng.integers(0, 256, (20, 28, 28), np.uint8)),
        ("labels-idx1", np.arange(20, dtype=np.uint8) % 10),
    ):
        head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
        for stem in ("train", "t10k"):
            path = tmp_path / f"{stem}-{what}-ubyte.gz"
            path.write_bytes(gzip.compress(head + array.tobytes()))
    model = scrambled(A2OS2A(dataclasses.replace(TINY, image_size=28, channels=1, classes=10)))
    args = model.config.to_args() | {"mean": [0.5], "std": [0.5]}
    for name in ("a", "b"):
        path = tmp_path / f"{name}.pt"
        checkpoint.save(path, model.state_dict(), args, epoch=1, metric=0.5, arch="a2os2a")
    words = ["--data", "mnist", "--data-dir", str(tmp_path), "--images", "5"]
    words += ["--out", str(tmp_path / "r")]
    assert attention.main([f"two={tmp_path / 'a.pt'},{tmp_path / 'b.pt'}", *words]) == 0
    text = capsys.readouterr().out
    assert text == (tmp_path / "r.md").read_text()
    assert "| two | product |" in text
    held = json.loads((tmp_path / "r.json").read_text())
    assert len(held["two"]) == 2 and held["two"][0] == held["two"][1]
    assert attention.main([str(tmp_path / "none.pt"), *words]) != 0
    assert "does not exist" in capsys.readouterr().err
