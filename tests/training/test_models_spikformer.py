"""Spikformer and the real weights of Spikingformer: published sizes, equations step by step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from weighted_nets import Weighted, frames_of, network

from training import models
from training.layers import BITS, QuantConv2d, quantise

DVS = {"layout": "imagenet", "input": "events", "channels": 2, "image_size": 128, "n_steps": 16}
IMAGENET = {"layout": "imagenet", "image_size": 224, "classes": 1000}
# Published totals count the layer norms (4 D per block) that nothing uses, and the event file of
# Spikformer a position embedding of 64 tokens and one more norm.
SIZES = [
    ("spikformer", 4, 384, 12, {}, 9_330_874, 0),
    ("spikformer", 8, 512, 8, IMAGENET, 29_705_768, 0),
    ("spikformer", 2, 256, 16, DVS, 2_585_610, 64 * 256 + 2 * 256),
    ("spikingformer", 4, 384, 12, {}, 9_326_266, 0),
    ("spikingformer", 8, 512, 8, IMAGENET, 29_705_768, 0),
    ("spikingformer", 2, 256, 16, DVS, 2_568_714, 0),
]


@pytest.mark.parametrize(("family", "depth", "dim", "heads", "more", "total", "dead"), SIZES)
def test_parameters_are_those_of_the_published_models(family, depth, dim, heads, more, total, dead):
    known = {"n_steps": 4, "image_size": 32, "channels": 3, "classes": 10, **more}
    module = models.FAMILIES[family]
    with torch.device("meta"):
        net = module.Model(module.Config(depth=depth, dim=dim, heads=heads, **known))
    found = sum(p.numel() for p in net.parameters())
    assert found + 4 * dim * depth + dead == total


# -- the equations, in numpy ---------------------------------------------------------------------


def lif(x, theta=1.0):
    v, out = np.zeros(x.shape[1:]), np.zeros(x.shape)
    for t in range(len(x)):
        v = v + (x[t] - v) / 2
        out[t] = v >= theta
        v = v * (1 - out[t])
    return out


def linear(state, name, bn, x):
    """[T, B, N, I] -> [T, B, N, O], batch norm behind it."""
    y = x @ state[f"{name}.weight"].T + state[f"{name}.bias"]
    return normed(state, bn, y)


def normed(state, bn, y):
    gamma, beta, mean, var = (
        state[f"{bn}.{p}"] for p in ("weight", "bias", "running_mean", "running_var")
    )
    return (y - mean) / np.sqrt(var + 1e-5) * gamma + beta


def conv(state, name, bn, x):
    """3x3, same size, x [.., H, W, I]."""
    w = state[f"{name}.weight"]
    h, width = x.shape[-3:-1]
    padded = np.pad(x, [(0, 0)] * (x.ndim - 3) + [(1, 1), (1, 1), (0, 0)])
    y = sum(
        padded[..., i : i + h, j : j + width, :] @ w[:, :, i, j].T
        for i in range(3)
        for j in range(3)
    )
    return normed(state, bn, y)


def pool(s):
    padded = np.pad(s, [(0, 0), (0, 0), (1, 1), (1, 1), (0, 0)])
    h, w = s.shape[2:4]
    return np.maximum.reduce(
        [padded[:, :, i : i + h : 2, j : j + w : 2] for i in range(3) for j in range(3)]
    )


def spikformer(state, images, spec):
    """Logits of the CIFAR layout, step by step."""
    mean, std = np.array([0.4914, 0.4822, 0.4465]), np.array([0.247, 0.2435, 0.2616])
    p = "patch_embed."
    y = conv(state, f"{p}proj_conv", f"{p}proj_bn", (images / 255 - mean) / std)
    s = lif(np.broadcast_to(y, (spec.n_steps, *y.shape)))
    for i in (1, 2, 3):
        s = lif(conv(state, f"{p}proj_conv{i}", f"{p}proj_bn{i}", s))
        s = pool(s) if i > 1 else s
    x = s + lif(conv(state, f"{p}rpe_conv", f"{p}rpe_bn", s))
    t, b, h, w, d = x.shape
    x = x.reshape(t, b, h * w, d)
    for i in range(spec.depth):
        a, m = f"block.{i}.attn", f"block.{i}.mlp"
        q, k, v = (
            lif(linear(state, f"{a}.{n}_linear", f"{a}.{n}_bn", x))
            .reshape(t, b, h * w, spec.heads, -1)
            .swapaxes(2, 3)
            for n in "qkv"
        )
        z = lif((q @ k.swapaxes(-1, -2) @ v * 0.125).swapaxes(2, 3).reshape(t, b, h * w, d), 0.5)
        x = x + lif(linear(state, f"{a}.proj_linear", f"{a}.proj_bn", z))
        z = lif(linear(state, f"{m}.fc1_linear", f"{m}.fc1_bn", x))
        x = x + lif(linear(state, f"{m}.fc2_linear", f"{m}.fc2_bn", z))
    return x.mean((0, 2)) @ state["head.weight"].T + state["head.bias"], x


def test_spikformer_is_its_equations():
    spec = Weighted("spikformer", seed=21, dim=16, heads=2, depth=2, size=16)
    net, frames = network(spec), frames_of(spec, 3)
    state = {k: v.double().numpy() for k, v in net.state_dict().items()}
    expected, levels = spikformer(state, frames, spec)
    found = net(net.preprocess(frames)).detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert set(np.unique(levels)) <= set(range(3 + 2 * spec.depth)) and levels.max() > 2


@pytest.mark.parametrize("bits", BITS)
def test_gradients_pass_straight_through(bits):
    w = torch.linspace(-1, 1, 24).reshape(2, 3, 2, 2).requires_grad_()
    q = quantise(w, bits)
    q.sum().backward()
    assert len(torch.unique(q[0])) <= 2**bits
    assert set(torch.unique(w.grad).tolist()) <= {0.0, 1.0} and w.grad.sum() > 12


def test_bits_are_checked():
    with pytest.raises(ValueError, match="weight_bits must be 0 or one of"):
        QuantConv2d(1, 1, 3, weight_bits=5)
    with pytest.raises(ValueError, match="weight_bits must be one of"):
        models.FAMILIES["spikformer"].Config(1, 8, 2, 1, 8, 1, 2, weight_bits=6)


def test_a_checkpoint_restores_the_network(tmp_path):
    from weighted_nets import save

    spec = Weighted("spikformer", seed=22, dim=16, heads=2, size=8, trained_bits=3)
    net, frames = models.load(save(tmp_path / "c.pt", spec)), frames_of(spec, 2)
    assert net.config.weight_bits == 3
    expected = network(spec)(network(spec).preprocess(frames))
    torch.testing.assert_close(net(net.preprocess(frames)), expected)
