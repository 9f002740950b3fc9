"""The curve over firing rates: networks reach their rates, and the script runs."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from random_nets import Network, Spec, images_of, random_network

CURVE = Path(__file__).with_name("curve.py")
SPEC = Spec(seed=5, dim=32, heads=4, depth=2, n_steps=4, size=16, channels=3, classes=4)


class Counting(Network):
    """Notes the rate of every neuron that has a batch norm before it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.rates: list[float] = []

    def lif(self, x, theta=1.0, soft=False):
        spikes = super().lif(x, theta, soft)
        if theta == 1.0 and not soft:
            self.rates.append(float(spikes.mean()))
        return spikes


@pytest.mark.parametrize("residual", ["reversible", "plain"])
@pytest.mark.parametrize("rate", [0.02, 0.1, 0.5])
def test_networks_fire_at_the_rate_asked_for(rate, residual):
    spec = replace(SPEC, rate=rate, residual=residual)
    made = random_network(spec)
    again = Counting(spec, made.tensors)
    again.logits(images_of(spec, 4, seed=99))
    assert len(again.rates) == 4 + 6 * spec.depth
    np.testing.assert_allclose(again.rates[:3], rate, rtol=0.35)  # 4 to 16 channels
    np.testing.assert_allclose(again.rates[3:], rate, rtol=0.05)


def test_a_rate_only_shifts_biases_and_scales_lambda():
    usual, shifted = (random_network(replace(SPEC, rate=rate)).tensors for rate in (None, 0.1))
    changed = {name for name in usual if not np.array_equal(usual[name], shifted[name])}
    kinds = ("bias", "running_mean", "running_var", "lambda_attn")
    assert changed and all(name.endswith(kinds) for name in changed)


def test_the_script(tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra `bench`)")
    words = [sys.executable, str(CURVE), "--small", "--rates", "0.1,0.4", "--seconds", "0.1"]
    for _ in range(2):  # the second run finds the exports of the first
        done = subprocess.run([*words, "--out", tmp_path], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "curve.json").read_text())
    found = [point["report"]["firing_rate"] for point in document["points"]]
    assert found[0] < 0.25 < found[1]
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert len(list((tmp_path / "nets").iterdir())) == 2
