"""Products of attention in user modules: both orders, every layout, scales, what is refused."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from test_traced_tokens import Stem  # noqa: E402
from torch import nn  # noqa: E402
from user_nets import WHITE, fitted, same_in_every_form  # noqa: E402

from bestdeploy import ir  # noqa: E402
from bestdeploy.errors import BestDeployError, UnsupportedModelError  # noqa: E402
from bestdeploy.importers import traced  # noqa: E402
from training.layers import BinaryConv1d  # noqa: E402
from training.neurons import LIF  # noqa: E402

SOFT = {"tau": 2.0, "v_threshold": 1.0, "reset": "soft", "decay_input": True}


class Branch(nn.Module):
    """q, k, v, what `form` says, a projection, on the spikes of a stem [T, B, C, H, W]."""

    def __init__(self, form, dim, heads, layer, scale, **neuron):
        super().__init__()
        self.form, self.heads, self.scale = form, heads, scale
        for name in "qkv":
            setattr(self, f"{name}_conv", layer(dim, dim, 1))
            setattr(self, f"{name}_bn", nn.BatchNorm1d(dim))
            setattr(self, f"{name}_lif", LIF())
        self.map_lif = LIF(**neuron)
        self.any_lif = LIF(v_threshold=0.5)
        self.attn_lif = LIF(v_threshold=0.5)
        self.gain = nn.Parameter(torch.linspace(0.2, 0.9, heads).reshape(heads, 1, 1))
        steps = torch.linspace(1.3, 0.4, 3 * heads).reshape(3, 1, heads, 1, 1)
        self.steps = nn.Parameter(steps)
        self.proj_conv, self.proj_bn = layer(dim, dim, 1), nn.BatchNorm1d(dim)

    def normed(self, name, x):
        """A layer and its norm on [T, B, C, N]."""
        t, b = x.shape[:2]
        y = getattr(self, f"{name}_conv")(x.flatten(0, 1))
        return getattr(self, f"{name}_bn")(y).reshape(t, b, -1, x.shape[-1])

    def apart(self, x):
        """[T, B, C, N] -> [T, B, heads, N, d], as Spikformer and as those after it write it."""
        t, b, c, n = x.shape
        if self.form.endswith("late"):
            return x.reshape(t, b, self.heads, c // self.heads, n).transpose(-1, -2)
        x = x.transpose(-1, -2).reshape(t, b, n, self.heads, c // self.heads)
        return x.permute(0, 1, 3, 2, 4).contiguous()

    def forward(self, s):
        q, k, v = (self.apart(getattr(self, f"{n}_lif")(self.normed(n, s))) for n in "qkv")
        t, b, h, n, d = q.shape
        z = self.mixed(q, k, v)
        if self.form == "merged":  # heads joined before the neuron
            z = self.attn_lif(z.permute(0, 1, 2, 4, 3).flatten(2, 3))
        else:
            if self.form != "gate":
                z = self.attn_lif(z)
            z = z.transpose(3, 4).reshape(t, b, h * d, n)
        return self.normed("proj", z)

    def mixed(self, q, k, v):
        if self.form == "scores":  # binary attention
            return (self.map_lif(q @ k.transpose(-2, -1)) @ v) * self.scale
        if self.form == "lambda":
            scores = self.map_lif(torch.matmul(q, k.mT) * 2.0)
            return self.steps * (torch.matmul(scores, v) * self.gain)
        if self.form == "scores late":
            return torch.matmul(self.map_lif(torch.matmul(q, k.mT)), v) / math.sqrt(q.shape[-1])
        if self.form == "pairs":
            return (q @ self.map_lif(k.transpose(-2, -1) @ v)) * self.scale
        if self.form == "linear":
            return (q @ (k.transpose(-2, -1) @ v)) * self.scale
        if self.form == "einsum":
            scores = torch.einsum("tbhnd, tbhmd -> tbhnm", q, k) * self.scale
            return torch.einsum("tbhnm,tbhmd->tbhnd", scores, v)
        if self.form == "bmm":
            q, k, v = (x.flatten(0, 2) for x in (q, k, v))
            z = torch.bmm(torch.bmm(q, k.transpose(1, 2)) * self.scale, v)
            return z.unflatten(0, (3, -1, self.heads))
        if self.form == "gate":
            return q.mul(self.any_lif(k.mul(v).sum(dim=-2, keepdim=True)))
        return (q @ k.transpose(-2, -1)) * self.scale @ v  # quadratic, merged, late


class Net(Stem):
    """A stem, one block of attention with its residual, a head."""

    def __init__(self, form, heads=2, layer=nn.Conv1d, dim=8, scale=0.5, stride=2, **neuron):
        super().__init__(width=dim, stride=stride)
        self.attn = Branch(form, dim, heads, layer, scale, **(neuron or SOFT))
        self.lif, self.head = LIF(), nn.Linear(dim, 4)

    def forward(self, image):
        s = self.spikes(image).flatten(3)
        x = self.attn(s)
        return self.head(self.lif(x).mean(3).mean(0))


FORMS = ("scores", "scores late", "lambda", "pairs", "linear", "quadratic", "quadratic late",
         "merged", "einsum", "bmm", "gate")  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_attention_of_one_bit_layers(tmp_path, form):
    same_in_every_form(tmp_path, fitted(Net(form, layer=BinaryConv1d), 12), 12)


@pytest.mark.parametrize(
    ("form", "heads", "scale"),
    [("scores", 1, 0.3), ("linear", 1, 0.5), ("pairs", 4, 0.7), ("gate", 1, 1.0)],
)
def test_numbers_of_heads_and_scales(tmp_path, form, heads, scale):
    same_in_every_form(tmp_path, fitted(Net(form, heads, BinaryConv1d, scale=scale), 12), 12)


@pytest.mark.parametrize(
    "neuron",
    [
        {"tau": 1.5, "reset": "hard", "v_threshold": 0.8},
        {"tau": 2.0, "reset": "hard", "v_threshold": 1.0},
        {"tau": 2.0, "reset": "soft", "v_threshold": 0.75},
    ],
)
@pytest.mark.parametrize("form", ["lambda", "pairs"])
def test_neurons_on_the_first_product(tmp_path, form, neuron):
    same_in_every_form(tmp_path, fitted(Net(form, layer=BinaryConv1d, **neuron), 12), 12)


@pytest.mark.parametrize("form", ["scores", "quadratic"])
def test_attention_of_quantised_layers(tmp_path, form):
    same_in_every_form(tmp_path, fitted(Net(form), 12), 12, 4)


def test_both_orders_without_a_neuron_are_one_product():
    graphs = []
    for form in ("linear", "quadratic", "einsum", "bmm"):
        torch.manual_seed(0)
        model = traced.trace(fitted(Net(form), 12), torch.randn(1, 3, 12, 12),
                             WHITE | {"weight_bits": 4})  # fmt: skip
        graphs.append([n.op_type for n in model.graph if n.op_type != "Constant"])
    assert "QueryKeyValues" in graphs[0] and all(g == graphs[0] for g in graphs)


def test_scale_of_scores_goes_into_the_threshold():
    model = traced.trace(fitted(Net("lambda"), 12), torch.randn(1, 3, 12, 12),
                         WHITE | {"weight_bits": 4})  # fmt: skip
    (lif,) = (n for n in model.graph if n.name == "attn.map_lif")
    assert ir.attribute(lif, "v_threshold") == 0.5
    (gain,) = (n.inputs[1] for n in model.graph if n.op_type == "HeadScale")
    assert ir.array_of(gain).shape == (3, 2)


class Odd(Net):
    """One thing that is not attention."""

    def __init__(self, change, **changed):
        super().__init__("linear", **changed)
        self.change = change

    def forward(self, image):
        s = self.spikes(image).flatten(3)
        x = self.attn.apart(s)
        t = x.transpose(-2, -1)
        made = {
            "softmax": lambda: (x @ t).softmax(-1) @ x,
            "tokens": lambda: x @ t[..., :2],
            "stream": lambda: self.attn.normed("q", s) @ s.transpose(-2, -1),
            "outer": lambda: (x @ t) @ (x @ t),
            "weights": lambda: x @ torch.ones(4, 4),
            "heads": lambda: x @ x.permute(0, 1, 4, 3, 2).flatten(2, 3)[:, :, None, :4],
            "order": lambda: x.transpose(2, 3) @ t.permute(0, 1, 4, 3, 2),
            "negative": lambda: self.attn.map_lif((x @ t) * -1.0),
            "tensor": lambda: (x @ t) * torch.rand(36, 36),
            "channels": lambda: (x @ (t @ x)) * torch.rand(4),
            "sum": lambda: x.sum(-2),
            "sum of heads": lambda: x.mul(x).sum(2),
            "einsum": lambda: torch.einsum("tbhnd,tbhmd->tbnm", x, x),
            "divided": lambda: x / 2.0,
            "reused": lambda: self.attn.proj_conv((x @ (t @ x)).transpose(3, 4).flatten(2, 3)[0]),
            "mean": lambda: (x @ (t @ x)).mean(3),
            "logits": lambda: x @ t,
        }[self.change]
        return made()


@pytest.mark.parametrize(("change", "words"), [
    ("softmax", ["torch.softmax"]),
    ("tokens", ["a part of spikes", "only of channels"]),
    ("stream", ["a matrix product of a stream", "only of spikes"]),
    ("outer", ["q k^T", "only of spikes with spikes"]),
    ("weights", ["does not come from the image", "Linear"]),
    ("heads", ["torch.__getitem__"]),
    ("order", ["heads in front"]),
    ("negative", ["attn.map_lif", "q k^T times -1"]),
    ("tensor", ["q k^T", "[36, 36]", "only of a number"]),
    ("channels", ["q k^T v", "one per step and head"]),
    ("sum", ["a sum over H, W of spikes", "k.mul(v)"]),
    ("sum of heads", ["a sum over h", "all tokens"]),
    ("einsum", ["einsum", "over one axis"]),
    ("divided", ["a division"]),
    ("reused", ["a part of q k^T v", "only of channels"]),
    ("mean", ["a mean", "q k^T v"]),
    ("logits", ["q k^T", "expected logits"]),
])  # fmt: skip
def test_what_is_no_attention_is_refused_by_name(change, words):
    with pytest.raises(UnsupportedModelError) as caught:
        traced.trace(
            fitted_stem(Odd(change)), torch.randn(1, 3, 12, 12), WHITE | {"weight_bits": 4}
        )
    for word in words:
        assert word in str(caught.value), caught.value


def fitted_stem(model):
    return model.eval()


@pytest.mark.parametrize(("net", "words"), [
    (Net("quadratic", scale=0.3), ["attn.attn_lif", "0.3", "power of two", "0.125"]),
    (Net("linear", heads=1, dim=1032), ["heads of 1032 channels", "1024"]),
    (Net("linear", stride=1), ["1296 tokens", "1024"]),
])  # fmt: skip
def test_what_integers_cannot_hold_is_refused(net, words):
    size = 36 if "1296 tokens" in words else 12
    with pytest.raises(BestDeployError) as caught:
        traced.trace(net.eval(), torch.randn(1, 3, size, size), WHITE | {"weight_bits": 4})
    for word in words:
        assert word in str(caught.value) + str(caught.value.hint), caught.value
