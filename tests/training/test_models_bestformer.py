from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from training import checkpoint  # noqa: E402
from training.models.bestformer import (  # noqa: E402
    BESTformer,
    BESTformerConfig,
    build,
    from_args,
    record_spikes,
    to_args,
)

TINY = BESTformerConfig(depth=2, dim=16, heads=2, n_steps=4, image_size=8, channels=3, classes=5)


def published_shapes(depth, d, heads, t, channels, classes):
    """The key table of the published CIFAR code."""
    shapes = {
        "patch_embed.block0_conv.weight": (d // 8, channels, 3, 3),
        "patch_embed.block1_conv.weight": (d // 4, d // 8, 3, 3),
        "patch_embed.block2_conv.weight": (d // 2, d // 4, 3, 3),
        "patch_embed.block3_conv.weight": (d, d // 2, 3, 3),
        "patch_embed.block4_conv.weight": (d, d, 3, 3),
    }
    norms = {f"patch_embed.block{i}_bn": w for i, w in enumerate((d // 8, d // 4, d // 2, d, d))}
    for i in range(depth):
        for name in ("q", "k", "v", "proj"):
            shapes[f"block.{i}.attn.{name}_conv.weight"] = (d, d, 1)
            norms[f"block.{i}.attn.{name}_bn"] = d
        shapes[f"block.{i}.attn.lambda_attn"] = (t, 1, heads, 1, 1)
        shapes[f"block.{i}.mlp.mlp1_conv.weight"] = (4 * d, d, 1, 1)
        shapes[f"block.{i}.mlp.mlp2_conv.weight"] = (d, 4 * d, 1, 1)
        norms[f"block.{i}.mlp.mlp1_bn"] = 4 * d
        norms[f"block.{i}.mlp.mlp2_bn"] = d
    for key, width in norms.items():
        shapes |= {
            f"{key}.{k}": (width,) for k in ("weight", "bias", "running_mean", "running_var")
        }
        shapes[f"{key}.num_batches_tracked"] = ()
    for head in ("head", "head2"):
        shapes |= {f"{head}.weight": (classes, d), f"{head}.bias": (classes,)}
    return shapes


@pytest.mark.parametrize(
    ("depth", "classes", "count"), [(4, 10, 9_314_884), (4, 100, 9_384_184), (2, 10, 5_762_052)]
)
def test_published_keys_shapes_and_parameter_counts(depth, classes, count):
    with torch.device("meta"):
        model = BESTformer(BESTformerConfig(depth, 384, 8, 4, 32, 3, classes))
    shapes = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    assert shapes == published_shapes(depth, 384, 8, 4, 3, classes)
    assert sum(p.numel() for p in model.parameters()) == count


def scrambled(config, seed=0):
    """A network with nothing at its initial value, whose neurons fire now and then."""
    torch.manual_seed(seed)
    model = BESTformer(config)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("_bn.weight"):
                value.uniform_(1.0, 3.0).mul_(torch.where(torch.rand_like(value) < 0.2, -1.0, 1.0))
            elif name.endswith(("_bn.bias", "head.bias", "head2.bias")):
                value.uniform_(-0.5, 1.5)
            elif name.endswith("lambda_attn"):
                value.uniform_(4.0, 12.0)
        for module in model.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.momentum = 1.0
        model.train()(torch.randn(16, config.channels, config.image_size, config.image_size))
    return model.eval()


class Numpy:
    """The equations once more, step by step, in float64 numpy with explicit loops over time."""

    def __init__(self, config, state):
        self.c = config
        self.w = {k: v.double().numpy() for k, v in state.items()}
        self.spikes = {}

    def lif(self, name, xs, theta=1.0, soft=False):
        out, v = [], np.zeros_like(xs[0])
        for x in xs:
            leak = 1 / self.c.tau
            h = v + (x - v) * leak if self.c.decay_input else v * (1 - leak) + x
            s = (h >= theta).astype(np.float64)
            v = h - theta * s if soft else h * (1 - s)
            out.append(s)
        self.spikes[name] = np.stack(out)
        return out

    def conv(self, key, x, binary=True):
        """Stride 1, same padding; x [B, C, H, W] or [B, C, N]."""
        w = self.w[f"{key}_conv.weight"]
        flat = w.reshape(len(w), -1)
        if binary:
            flat = np.sign(flat - flat.mean(1, keepdims=True))
        if x.ndim == 3:
            return np.einsum("oc,bcn->bon", flat, x)
        k = w.shape[2]
        w, p = flat.reshape(w.shape), k // 2
        padded = np.pad(x, ((0, 0), (0, 0), (p, p), (p, p)))
        out = 0.0
        for i in range(k):
            for j in range(k):
                window = padded[:, :, i : i + x.shape[2], j : j + x.shape[3]]
                out = out + np.einsum("oc,bchw->bohw", w[:, :, i, j], window)
        return out

    def bn(self, key, x):
        g, b, m, v = (
            self.w[f"{key}_bn.{k}"].reshape(-1, *([1] * (x.ndim - 2)))
            for k in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - m) / np.sqrt(v + 1e-5) * g + b

    def conv_bn(self, key, xs):
        return [self.bn(key, self.conv(key, x)) for x in xs]

    @staticmethod
    def pool(x):
        b, c, h, w = x.shape
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        out = np.zeros((b, c, h // 2, w // 2))
        for i in range(h // 2):
            for j in range(w // 2):
                out[:, :, i, j] = padded[:, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((2, 3))
        return out

    def attention(self, key, xs):
        b, d = xs[0].shape[:2]
        heads = self.c.heads
        s = self.lif(f"{key}.proj_lif", [x.reshape(b, d, -1) for x in xs])
        q, k, v = (
            [
                y.reshape(b, heads, d // heads, -1)
                for y in self.lif(f"{key}.{n}_lif", self.conv_bn(f"{key}.{n}", s))
            ]
            for n in "qkv"
        )
        scores = [np.einsum("bhdn,bhdm->bhnm", q_, k_) for q_, k_ in zip(q, k, strict=True)]
        ab = self.lif(f"{key}.attn_lif0", scores, soft=True)
        lam = self.w[f"{key}.lambda_attn"]
        z = [
            0.125 * lam[t, 0, :, 0][None, :, None] * np.einsum("bhnm,bhdm->bhdn", ab[t], v[t])
            for t in range(len(xs))
        ]
        s = self.lif(f"{key}.attn_lif", z, theta=0.5)
        out = self.conv_bn(f"{key}.proj", [y.reshape(b, d, -1) for y in s])
        return [y.reshape(xs[0].shape) for y in out]

    def mlp(self, key, xs):
        hidden = self.conv_bn(f"{key}.mlp1", self.lif(f"{key}.mlp1_lif", xs))
        return self.conv_bn(f"{key}.mlp2", self.lif(f"{key}.mlp2_lif", hidden))

    def __call__(self, image):
        key = "patch_embed.block"
        xs = [self.bn(f"{key}0", self.conv(f"{key}0", image, binary=False))] * self.c.n_steps
        for i in range(1, 5):
            s = self.lif(f"{key}{i}_lif", xs)
            xs = self.conv_bn(f"{key}{i}", [self.pool(y) for y in s] if i >= 3 else s)
        x0 = x1 = xs
        for i in range(self.c.depth):
            y = self.attention(f"block.{i}.attn", x1)
            x2 = [y_ + (a + b) / 2 for y_, a, b in zip(y, x0, x1, strict=True)]
            y = self.mlp(f"block.{i}.mlp", x2)
            x3 = [y_ + (a + b) / 2 for y_, a, b in zip(y, x1, x2, strict=True)]
            x0, x1 = x2, x3
        f0, f1 = (np.stack(x).mean((0, 3, 4)) for x in (x0, x1))
        y0 = f0 @ self.w["head.weight"].T + self.w["head.bias"]
        y1 = f1 @ self.w["head2.weight"].T + self.w["head2.bias"]
        return y0, y1


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"decay_input": False},
        {"decay_input": False, "variant": "paper"},
        {"tau": 1.5},
        {"n_steps": 2, "depth": 1},
        {"channels": 1, "heads": 4},
        {"image_size": 10},
    ],
)
def test_forward_equals_the_equations_in_numpy(change):
    config = BESTformerConfig(**{**TINY.__dict__, **change})
    model = scrambled(config)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    x = (
        torch.randn(3, config.channels, 8, 8, generator=torch.Generator().manual_seed(1)).double()
        * 2
    )
    with torch.inference_mode(), record_spikes(model.double()) as spikes:
        got = model(x).numpy()
    net = Numpy(config, state)
    y0, y1 = net(x.numpy())
    want = y0 if config.variant == "paper" else (y0 + y1) / 2
    np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)
    assert set(spikes) == set(net.spikes)
    for name, want in net.spikes.items():
        assert np.array_equal(spikes[name].numpy().reshape(want.shape), want), name
    rates = {name: value.mean() for name, value in net.spikes.items()}
    assert {n: r for n, r in rates.items() if not 0 < r < 1} == {}


def test_neuron_names():
    model = scrambled(TINY)
    with record_spikes(model) as spikes, torch.inference_mode():
        model(torch.zeros(1, 3, 8, 8))
    attn = ("proj_lif", "q_lif", "k_lif", "v_lif", "attn_lif0", "attn_lif")
    want = {f"patch_embed.block{i}_lif" for i in range(1, 5)}
    want |= {f"block.{b}.attn.{n}" for b in range(2) for n in attn}
    want |= {f"block.{b}.mlp.mlp{i}_lif" for b in range(2) for i in (1, 2)}
    assert set(spikes) == want
    assert all(s.shape[0] == 4 for s in spikes.values())
    assert not any(m._forward_hooks for m in model.modules())


def test_training_returns_both_heads_and_every_parameter_gets_a_gradient():
    model = scrambled(TINY).train()
    y0, y1 = model(torch.randn(4, 3, 8, 8))
    assert y0.shape == y1.shape == (4, 5)
    (y0.square().sum() + y1.square().sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert [n for n, p in model.named_parameters() if not p.grad.any()] == []


def test_preprocess():
    model = BESTformer(TINY)
    model.set_normalisation([0.5, 0.25, 0.0], [0.5, 0.25, 1.0])
    image = np.zeros((1, 8, 8, 3), np.uint8)
    image[0, 0, 1] = (255, 0, 51)
    x = model.preprocess(image)
    assert x.shape == (1, 3, 8, 8)
    assert x[0, :, 0, 1].tolist() == pytest.approx([1.0, -1.0, 0.2])
    assert model.double().preprocess(image).dtype == torch.float64
    for bad in (image.astype(np.float32), image[0], image[:, :4]):
        with pytest.raises(ValueError, match="images must be"):
            model.preprocess(bad)
    with pytest.raises(ValueError, match="3 values"):
        model.set_normalisation([0.5], [0.5])
    with pytest.raises(ValueError, match="positive"):
        model.set_normalisation([0.5] * 3, [0.0] * 3)


def test_build_restores_the_network(tmp_path):
    model = scrambled(TINY)
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.2, 0.3]
    model.set_normalisation(mean, std)
    args = to_args(TINY) | {"mean": mean, "std": std}
    checkpoint.save(
        tmp_path / "m.pt", model.state_dict(), args, epoch=1, metric=0.5, arch="bestformer_2_16"
    )
    again = build(tmp_path / "m.pt")
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    assert not again.training
    assert again.config == TINY
    with torch.inference_mode():
        assert torch.equal(again(again.preprocess(images)), model(model.preprocess(images)))


def test_args_round_trip_and_refusals():
    args = to_args(TINY)
    assert from_args(args | {"unrelated": 1}) == TINY
    assert args["num_heads"] == 2 and args["time_step"] == 4 and args["img_size"] == 8
    with pytest.raises(ValueError, match="qsd"):
        from_args(args | {"family": "qsd"})
    with pytest.raises(ValueError, match="num_heads"):
        from_args({k: v for k, v in args.items() if k != "num_heads"})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"attention": "vv"}, "'vv'"),
        ({"dim": 12}, "multiple of 8"),
        ({"heads": 3}, "divisible by heads 3"),
        ({"depth": 0}, "depth"),
        ({"n_steps": 2.0}, "n_steps"),
        ({"variant": "other"}, "other"),
    ],
)
def test_bad_configs_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        BESTformerConfig(**{**TINY.__dict__, **change})
