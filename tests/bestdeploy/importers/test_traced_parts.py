"""Parts of the channels of one layer: q, k and v of one convolution in user modules."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from test_traced_tokens import Stem  # noqa: E402
from torch import nn  # noqa: E402
from user_nets import WHITE, fitted, same_in_every_form  # noqa: E402

from bestdeploy.errors import UnsupportedModelError  # noqa: E402
from bestdeploy.importers import traced  # noqa: E402
from training.layers import BinaryConv1d, QuantLinear  # noqa: E402
from training.neurons import LIF  # noqa: E402


class Fused(Stem):
    """Attention whose q, k and v are one layer of 3 C outputs, split as `form` says."""

    def __init__(self, form, heads=2, dim=8):
        super().__init__(width=dim)
        self.form, self.heads = form, heads
        linear = form.startswith("linear")
        self.qkv = QuantLinear(dim, 3 * dim, 4) if linear else BinaryConv1d(dim, 3 * dim, 1)
        self.qkv_bn, self.qkv_lif = nn.BatchNorm1d(3 * dim), LIF()
        self.q_lif, self.k_lif, self.v_lif = LIF(), LIF(v_threshold=0.6), LIF(tau=1.5)
        self.attn_lif, self.lif = LIF(v_threshold=0.5), LIF()
        self.proj, self.proj_bn = BinaryConv1d(dim, dim, 1), nn.BatchNorm1d(dim)
        self.head = nn.Linear(dim, 4)

    def forward(self, image):
        s = self.spikes(image).flatten(3)  # [T, B, C, N]
        t, b, c, n = s.shape
        z = self.attn_lif(self.product(s)).reshape(t, b, c, n)
        y = self.proj_bn(self.proj(z.flatten(0, 1))).reshape(t, b, c, n)
        return self.head(self.lif(y).mean(3).mean(0))

    def product(self, s):
        """q k^T v, [T, B, heads, d, N] or [T, B, C, N]."""
        t, b, c, n = s.shape
        if self.form.startswith("linear"):
            return self.of_tokens(s.transpose(-1, -2))
        x = self.qkv_bn(self.qkv(s.flatten(0, 1))).reshape(t, b, 3 * c, n)
        if self.form == "norms":  # split behind the batch norm, each with a neuron of its own
            parts = zip((self.q_lif, self.k_lif, self.v_lif), x.chunk(3, dim=2), strict=True)
            q, k, v = (lif(part).reshape(t, b, self.heads, -1, n) for lif, part in parts)
        elif self.form == "slices":
            x = self.qkv_lif(x)
            q, k, v = x[:, :, :c], x[:, :, c : 2 * c], x[..., -c:, :]
            q, k, v = (part.reshape(t, b, self.heads, -1, n) for part in (q, k, v))
        elif self.form == "split":
            parts = self.qkv_lif(x).split([c, c, c], dim=2)
            q, k, v = (part.reshape(t, b, self.heads, -1, n) for part in parts)
        elif self.form == "narrow":
            x = self.qkv_lif(x)
            q, k, v = (x.narrow(2, i * c, c).reshape(t, b, self.heads, -1, n) for i in range(3))
        else:  # as the Spikformer of spikingjelly does
            x = self.qkv_lif(x).reshape(t, b, 3, self.heads, c // self.heads, n)
            if self.form == "heads":  # [T, B, 3 heads, d, N]
                x = x.flatten(2, 3)
                q, k, v = (x[:, :, i * self.heads : (i + 1) * self.heads] for i in range(3))
            elif self.form == "select":
                q, k, v = (x.select(2, i) for i in range(3))
            else:
                q, k, v = x.flatten(2, 3).chunk(3, dim=2)
        if self.form == "overlapping":  # parts of one layer that begin alike
            whole = x.flatten(2, 4)
            both = whole[:, :, : 2 * c].unflatten(2, (2, self.heads, -1))
            q, k = both.unbind(2)
        if self.form == "scores":  # v (k^T q), transposed
            return (v @ (k.transpose(-2, -1) @ q)) * 0.5
        return ((v @ k.transpose(-2, -1)) @ q) * 0.5

    def of_tokens(self, s):
        """One Linear of [T, B, N, C], its parts in front, as vision transformers write it."""
        t, b, n, c = s.shape
        x = self.qkv_bn(self.qkv(s.flatten(0, 1)).transpose(1, 2)).transpose(1, 2)
        x = self.qkv_lif(x.reshape(t, b, n, -1))
        x = x.reshape(t, b, n, 3, self.heads, c // self.heads).permute(3, 0, 1, 4, 2, 5)
        q, k, v = x.unbind(0) if self.form == "linear unbind" else (x[0], x[1], x[2])
        return ((q @ k.transpose(-2, -1)) @ v * 0.5).transpose(-2, -1)


FORMS = ("chunk", "heads", "overlapping", "select", "scores", "norms", "slices", "split",
         "narrow", "linear", "linear unbind")  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_parts_of_one_layer(tmp_path, form):
    bits = 4 if form.startswith("linear") else None
    same_in_every_form(tmp_path, fitted(Fused(form), 12), 12, bits)


def test_one_head_and_parts(tmp_path):
    same_in_every_form(tmp_path, fitted(Fused("chunk", heads=1), 12), 12)


def test_each_part_is_a_layer_of_its_own():
    graph = traced.trace(fitted(Fused("select"), 12), torch.randn(2, 3, 12, 12), WHITE).graph
    layers = [n for n in graph if n.op_type == "BinaryConv" and n.name.startswith("qkv")]
    assert [n.outputs[0].shape[-1] for n in layers] == [8, 8, 8]


class Odd(Fused):
    """Parts that are not those of a layer."""

    def product(self, s):
        t, b, c, n = s.shape
        x = self.qkv_lif(self.qkv_bn(self.qkv(s.flatten(0, 1))).reshape(t, b, 3 * c, n))
        made = {
            "step": lambda: x[0],
            "steps": lambda: x[:2],
            "token": lambda: x[..., 0],
            "stepped": lambda: x[:, :, ::2],
            "list": lambda: x[:, :, [0, 1]],
            "two": lambda: x[:1, :, :8],
            "inner": lambda: x.reshape(t, b, 6, 4, n)[:, :, :, 1],
            "sum": lambda: (x + x)[:, :, :8],
        }[self.form]
        return made()


@pytest.mark.parametrize(("form", "words"), [
    ("step", ["a part of spikes", "all steps at once"]),
    ("steps", ["a part of spikes", "all steps at once"]),
    ("token", ["a part of spikes", "only of channels"]),
    ("stepped", ["in steps of 1"]),
    ("list", ["only numbers, slices"]),
    ("two", ["several axes"]),
    ("inner", ["only of channels, from the first on"]),
    ("sum", ["a part of levels", "only of spikes"]),
])  # fmt: skip
def test_other_parts_are_refused_by_name(form, words):
    with pytest.raises(UnsupportedModelError) as caught:
        traced.trace(Odd(form).eval(), torch.randn(2, 3, 12, 12), WHITE)
    for word in words:
        assert word in str(caught.value) + str(caught.value.hint), caught.value
