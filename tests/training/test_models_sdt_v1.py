from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from equations import Equations, heads, pool, signs

torch = pytest.importorskip("torch")

from scramble import outputs_of, scrambled  # noqa: E402

from training.graded import TernaryLIF  # noqa: E402
from training.models.a2os2a import A2OS2A, A2OS2AConfig  # noqa: E402
from training.models.sdt_v1 import SDT, SDTConfig  # noqa: E402
from training.neurons import LIF  # noqa: E402

TINY = SDTConfig(depth=2, dim=16, heads=2, n_steps=4, image_size=8, channels=3, classes=5)
TINY_A = A2OS2AConfig(depth=1, dim=16, heads=2, n_steps=4, image_size=8, channels=3, classes=5)


class Network(Equations):
    """Spike-driven Transformer v1, and A2OS2A on the same backbone."""

    def weight(self, key):
        w = self.w[f"{key}.weight"]
        binary = (self.c.weights == "binary" and not key.endswith("proj_conv")) or (
            self.c.weights == "binary" and "attn" in key
        )  # fmt: skip
        return signs(w) if binary else w

    def tokens(self, image):
        p = "patch_embed.proj_"
        xs = [self.bn(f"{p}bn", self.conv(f"{p}conv", image))] * self.c.n_steps
        for stage in range(4):
            n = stage or ""
            pooled = self.c.pooling_stat[stage] == "1"
            if stage:
                xs = self.conv_bn(f"{p}conv{n}", f"{p}bn{n}", xs)
            if stage == 3 and pooled:
                xs = [pool(x) for x in xs]
            s = self.lif(f"{p}lif{n}", xs)
            if stage < 3:
                xs = [pool(y) for y in s] if pooled else s
        y = self.conv_bn("patch_embed.rpe_conv", "patch_embed.rpe_bn", s)
        return [a + b for a, b in zip(y, xs, strict=True)]

    def gate(self, key, s):
        q, k, v = (
            self.lif(f"{key}.{n}_lif", self.conv_bn(f"{key}.{n}_conv", f"{key}.{n}_bn", s))
            for n in "qkv"
        )
        out = []
        for q_, k_, v_ in zip(q, k, v, strict=True):  # an OR of ANDs: no state
            g = np.any((k_ > 0) & (v_ > 0), axis=(2, 3), keepdims=True)
            out.append(((q_ > 0) & g).astype(np.float64))
        return out

    def ternary(self, name, xs):
        c, v, out = self.c, np.zeros_like(xs[0]), []
        for x in xs:
            u = v + (x - v) * (1 - c.ternary_beta) if c.ternary_decay_input else (
                c.ternary_beta * v + x)  # fmt: skip
            s = np.sign(u) * (np.abs(u) >= c.ternary_threshold)
            v = u * (1 - np.abs(s))
            out.append(s)
        return self.kept(name, out)

    def add_only(self, key, s):
        c = self.c
        q, k, v = (self.conv_bn(f"{key}.{n}_conv", f"{key}.{n}_bn", s) for n in "qkv")
        q = self.lif(f"{key}.q_lif", q)
        k = [np.maximum(x, 0) for x in k] if c.key == "relu" else self.lif(f"{key}.k_lif", k)
        v = self.ternary(f"{key}.v_tlif", v) if c.value == "ternary" else (
            self.lif(f"{key}.v_lif", v))  # fmt: skip
        z = []
        for q_, k_, v_ in zip(q, k, v, strict=True):
            a = np.einsum("bhdn,bhdm->bhnm", heads(q_, c.heads), heads(k_, c.heads))
            z.append(np.einsum("bhnm,bhdm->bhdn", a, heads(v_, c.heads)))
        s = self.lif(f"{key}.attn_lif", z, theta=c.attn_v_threshold)
        return [y.reshape(q[0].shape) for y in s]

    def __call__(self, image):
        x = self.tokens(image)
        core = self.add_only if hasattr(self.c, "key") else self.gate
        for i in range(self.c.depth):
            p = f"block.{i}"
            s = core(f"{p}.attn", self.lif(f"{p}.attn.shortcut_lif", x))
            y = self.conv_bn(f"{p}.attn.proj_conv", f"{p}.attn.proj_bn", s)
            x = [a + b for a, b in zip(y, x, strict=True)]
            s = self.lif(f"{p}.mlp.fc1_lif", x)
            h = self.conv_bn(f"{p}.mlp.fc1_conv", f"{p}.mlp.fc1_bn", s)
            s = self.lif(f"{p}.mlp.fc2_lif", h)
            y = self.conv_bn(f"{p}.mlp.fc2_conv", f"{p}.mlp.fc2_bn", s)
            x = [a + b for a, b in zip(y, x, strict=True)]
        if self.c.readout == "mean_neuron":
            f = self.lif("head_lif", [y.mean((2, 3)) for y in x])
        else:
            f = [y.mean((2, 3)) for y in self.lif("head_lif", x)]
        return self.head("head", np.mean(f, axis=0))


def compare(model, config):
    state = {k: v.clone() for k, v in model.state_dict().items()}
    x = torch.randn(3, config.channels, 8, 8, generator=torch.Generator().manual_seed(1)).double()
    spikes, _ = outputs_of(model, (LIF, TernaryLIF))
    with torch.inference_mode():
        got = model.double()(x).numpy()
    net = Network(config, state)
    want = net(x.numpy())
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-10)
    for name, value in net.spikes.items():
        assert np.array_equal(spikes[name].numpy().reshape(value.shape), value), name
    extra = set(spikes) - set(net.spikes)
    assert all(name.endswith("talking_heads_lif") for name in extra), extra
    silent = [n for n, value in net.spikes.items() if value.std() == 0]
    assert len(silent) <= len(net.spikes) // 4, silent


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"weights": "binary"},
        {"decay_input": False, "weights": "binary"},
        {"tau": 1.5},
        {"pooling_stat": "1101"},
        {"readout": "neuron_mean", "depth": 1},
        {"n_steps": 1, "channels": 1},
    ],
)
def test_sdt_forward_equals_the_equations_in_numpy(change):
    config = dataclasses.replace(TINY, **change)
    if config.tau == 1.5 or not config.decay_input:  # the gate is an OR there, too
        assert config.tau <= 2
    compare(scrambled(SDT(config)), config)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"weights": "binary", "ternary_decay_input": True},
        {"key": "binary", "value": "binary"},
        {"attn_v_threshold": 4.0, "ternary_beta": 0.5, "ternary_threshold": 1.0},
        {"readout": "mean_neuron"},
    ],
)
def test_a2os2a_forward_equals_the_equations_in_numpy(change):
    config = dataclasses.replace(TINY_A, **change)
    compare(scrambled(A2OS2A(config)), config)


def test_widening_for_event_cameras_is_a_maximum_over_neighbours():
    config = dataclasses.replace(TINY, dvs_mode=True, channels=2, input="events", depth=1)
    model = scrambled(SDT(config))
    spikes, _ = outputs_of(model, LIF)
    taken = {}
    attn = model.block[0].attn
    attn.proj_conv.register_forward_hook(lambda _m, i, _o: taken.__setitem__("s", i[0]))
    with torch.inference_mode():
        model(torch.rand(4, 2, 2, 8, 8) * 3)
    q, k, v = (spikes[f"block.0.attn.{n}_lif"].numpy() for n in "qkv")

    def wide(x):
        padded = np.pad(x, [(0, 0)] * (x.ndim - 2) + [(1, 1)] * 2)
        h, w = x.shape[-2:]
        views = [padded[..., i : i + h, j : j + w] for i in range(3) for j in range(3)]
        return np.max(views, axis=0)

    t, b, d, h, w = q.shape
    k, v = wide(k), wide(v)
    parts = [x.reshape(t, b, 2, d // 2, h * w).swapaxes(-1, -2) for x in (q, k, v)]
    g = wide(parts[1] * parts[2]).max(-2, keepdims=True)
    want = wide(parts[0] * g).swapaxes(-1, -2).reshape(t * b, d, h, w)
    assert np.array_equal(taken["s"].numpy(), want)


@pytest.mark.parametrize(
    ("kwargs", "count"),
    [
        ({"depth": 2, "dim": 512, "classes": 10}, 10_233_546),
        ({"depth": 8, "dim": 512, "classes": 1000, "pooling_stat": "1111"}, 29_689_896),
        ({"depth": 10, "dim": 512, "classes": 1000, "pooling_stat": "1111"}, 36_006_056),
        ({"depth": 8, "dim": 768, "classes": 1000, "pooling_stat": "1111"}, 66_339_144),
        ({"depth": 2, "dim": 256, "classes": 10, "channels": 2, "pooling_stat": "1111"}, 2_566_794),
    ],
)
def test_published_parameter_counts(kwargs, count):
    settings = {"heads": 8, "n_steps": 4, "image_size": 32, "channels": 3} | kwargs
    with torch.device("meta"):
        sdt, addition = SDT(SDTConfig(**settings)), A2OS2A(A2OS2AConfig(**settings))
    assert sum(p.numel() for p in sdt.parameters()) == count
    heads_alone = kwargs["depth"] * 8 * 8  # talking_heads, which nothing uses
    assert sum(p.numel() for p in addition.parameters()) == count - heads_alone


def published_shapes(d):
    """The key table of the published code, one block."""
    p = "patch_embed."
    shapes = {
        f"{p}proj_conv.weight": (d // 8, 3, 3, 3),
        f"{p}proj_conv1.weight": (d // 4, d // 8, 3, 3),
        f"{p}proj_conv2.weight": (d // 2, d // 4, 3, 3),
        f"{p}proj_conv3.weight": (d, d // 2, 3, 3),
        f"{p}rpe_conv.weight": (d, d, 3, 3),
        "block.0.attn.talking_heads.weight": (2, 2, 1),
        "block.0.attn.proj_conv.bias": (d,),
        "block.0.mlp.fc1_conv.weight": (4 * d, d, 1, 1),
        "block.0.mlp.fc1_conv.bias": (4 * d,),
        "block.0.mlp.fc2_conv.weight": (d, 4 * d, 1, 1),
        "block.0.mlp.fc2_conv.bias": (d,),
        "head.weight": (5, d),
        "head.bias": (5,),
    }
    norms = {f"{p}proj_bn": d // 8, f"{p}proj_bn1": d // 4, f"{p}proj_bn2": d // 2,
             f"{p}proj_bn3": d, f"{p}rpe_bn": d,
             "block.0.mlp.fc1_bn": 4 * d, "block.0.mlp.fc2_bn": d}  # fmt: skip
    for n in ("q", "k", "v", "proj"):
        shapes[f"block.0.attn.{n}_conv.weight"] = (d, d, 1, 1)
        norms[f"block.0.attn.{n}_bn"] = d
    for key, width in norms.items():
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{key}.{part}"] = (width,)
        shapes[f"{key}.num_batches_tracked"] = ()
    return shapes


def test_published_keys_and_shapes():
    model = SDT(dataclasses.replace(TINY, depth=1))
    shapes = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    assert shapes == published_shapes(16)
    binary = SDT(dataclasses.replace(TINY, depth=1, weights="binary"))
    biases = {k for k in shapes if k.endswith("_conv.bias")}
    assert set(binary.state_dict()) == set(shapes) - biases


@pytest.mark.parametrize(
    ("kind", "config"), [(SDT, TINY), (A2OS2A, TINY_A), (A2OS2A, TINY_A)], ids=str
)
def test_every_parameter_gets_a_gradient(kind, config):
    model = scrambled(kind(config)).train()
    (y,) = model(torch.randn(8, 3, 8, 8))
    y.square().sum().backward()
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    assert [n for n, p in trained if p.grad is None or not p.grad.any()] == []
    assert all(p.grad.isfinite().all() for _, p in trained)


def test_args_round_trip_and_refusals():
    args = TINY_A.to_args()
    assert args["family"] == "a2os2a" and args["num_heads"] == 2
    assert A2OS2AConfig.from_args(args) == TINY_A
    assert SDTConfig.from_args(TINY.to_args()) == TINY
    with pytest.raises(ValueError, match="sdt_v1"):
        A2OS2AConfig.from_args(TINY.to_args())
    with pytest.raises(ValueError, match="ternary_beta"):
        A2OS2AConfig.from_args({k: v for k, v in args.items() if k != "ternary_beta"})
    for change, words in (
        ({"pooling_stat": "011"}, "pooling_stat"),
        ({"heads": 3}, "heads 3"),
        ({"weights": "ternary"}, "ternary"),
        ({"readout": "none"}, "readout"),
    ):
        with pytest.raises(ValueError, match=words):
            dataclasses.replace(TINY, **change)
    with pytest.raises(ValueError, match="dvs_mode"):
        dataclasses.replace(TINY_A, dvs_mode=True)
