"""Layers on tokens in user modules: Linear on [.., N, C], Conv1d on [.., C, N], BatchNorm1d."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from user_nets import WHITE, fitted, same_in_every_form  # noqa: E402

from bestdeploy.errors import UnsupportedModelError, UsageError  # noqa: E402
from bestdeploy.importers import traced  # noqa: E402
from training.layers import BinaryConv1d, QuantConv1d, QuantLinear  # noqa: E402
from training.neurons import LIF  # noqa: E402


class Stem(nn.Module):
    """Pixels to spikes [T, B, C, H, W]."""

    def __init__(self, n_steps=3, width=8, stride=2):
        super().__init__()
        self.n_steps = n_steps
        self.stem, self.norm0 = nn.Conv2d(3, width, 3, stride, 1), nn.BatchNorm2d(width)
        self.lif0 = LIF()

    def spikes(self, image):
        x = self.norm0(self.stem(image)).unsqueeze(0)
        return self.lif0(x.expand(self.n_steps, -1, -1, -1, -1))


class LinearTokens(Stem):
    """An MLP of linear layers on tokens [T, B, N, C], as Spikformer for CIFAR writes it."""

    def __init__(self, change=None, layer=nn.Linear, bias=True):
        super().__init__()
        self.change = change
        self.fc1, self.bn1, self.lif1 = layer(8, 12), nn.BatchNorm1d(12), LIF()
        self.fc2, self.bn2, self.lif2 = layer(12, 8), nn.BatchNorm1d(8), LIF(v_threshold=0.7)
        self.fc3, self.bn3 = layer(8, 12), nn.BatchNorm1d(12)
        self.fc4, self.bn4, self.lif4 = layer(12, 8), nn.BatchNorm1d(8), LIF(v_threshold=0.1)
        self.ln, self.head = nn.LayerNorm(12), nn.Linear(8, 4, bias=bias)

    def normed(self, x, norm):
        """On [T, B, N, C] or [T B, N, C]: the channels come second for the norm."""
        t, b = x.shape[:2]
        return norm(x.flatten(0, 1).transpose(-1, -2)).transpose(-1, -2).reshape(t, b, *x.shape[2:])

    def forward(self, image):
        s = self.spikes(image)
        s = s.flatten(3).permute(0, 1, 3, 2).contiguous()
        t, b, n, _ = s.shape
        if self.change == "layer_norm":
            return self.lif1(self.ln(self.fc1(s)))
        if self.change == "axis":  # as many tokens as channels
            return self.lif1(self.bn1(self.fc1(s).reshape(t * b, n, -1)))
        if self.change == "neuron":
            y = self.normed(self.fc1(s), self.bn1)
            return self.lif1(y.transpose(0, 1))
        if self.change == "map":
            return self.lif1(self.bn1(self.fc1(s[:, :, :8])))
        x = s + self.lif2(self.normed(self.fc2(self.lif1(self.normed(self.fc1(s), self.bn1))),
                                      self.bn2))  # fmt: skip
        if self.change == "flat":  # one row per token
            x = self.lif4(self.bn4(self.fc4(self.fired(x).flatten(0, 2))).reshape(t, b, n, -1))
        if self.change == "bare":  # no batch norm: the layer's own bias
            x = self.lif4(self.fc4(self.fired(x)))
        if self.change == "twice":
            x = self.fc1(x)
        return self.head(x.mean(2)).mean(0)

    def fired(self, x):
        """Through a neuron that has run before: it has no state."""
        return self.lif1(self.bn3(self.fc3(x.flatten(0, 1)).mT).mT.unflatten(0, x.shape[:2]))


class Conv1dTokens(Stem):
    """The same of Conv1d with kernels of 1 on [T B, C, N]."""

    def __init__(self, layer=nn.Conv1d, **changed):
        super().__init__()
        self.fc1, self.bn1, self.lif1 = layer(8, 12, 1, **changed), nn.BatchNorm1d(12), LIF()
        self.fc2, self.bn2, self.lif2 = layer(12, 8, 1), nn.BatchNorm1d(8), LIF(v_threshold=0.7)
        self.head = nn.Linear(8, 4)

    def forward(self, image):
        s = self.spikes(image).flatten(3)
        t, b, c, n = s.shape
        x = self.lif1(self.bn1(self.fc1(s.flatten(0, 1))).reshape(t, b, -1, n))
        x = self.bn2(self.fc2(x.flatten(0, 1))).reshape(t, b, c, n)
        return self.head(self.lif2(x).mean(3).mean(0))


@pytest.mark.parametrize(("change", "bits"), [(None, 4), ("flat", 1), ("bare", 8)])
def test_linear_layers_of_tokens(tmp_path, change, bits):
    same_in_every_form(tmp_path, fitted(LinearTokens(change), 12), 12, bits)


def test_layers_that_were_trained_with_few_bits(tmp_path):
    """Their integers are deployed as they were trained, so nothing is quantised here."""
    model = fitted(LinearTokens(layer=lambda i, o: QuantLinear(i, o, weight_bits=3)), 12)
    same_in_every_form(tmp_path, model, 12)
    with pytest.raises(UsageError, match="layer fc1 was trained with 3-bit weights"):
        traced.trace(model, torch.randn(1, 3, 12, 12), WHITE | {"weight_bits": 4})


@pytest.mark.parametrize("weights", ["binary", "real", "trained"])
def test_convolutions_of_tokens(tmp_path, weights):
    layer = {
        "binary": BinaryConv1d,
        "real": nn.Conv1d,
        "trained": lambda *shape: QuantConv1d(*shape, weight_bits=2),
    }[weights]
    model = fitted(Conv1dTokens(layer), 8)
    same_in_every_form(tmp_path, model, 8, 16 if weights == "real" else None)


def test_a_head_without_a_bias_on_tokens(tmp_path):
    same_in_every_form(tmp_path, fitted(LinearTokens(bias=False), 8), 8, 2)


@pytest.mark.parametrize(
    ("change", "words", "hint"),
    [
        ("layer_norm", "layer ln uses torch.layer_norm: not supported", "BatchNorm1d over the"),
        ("axis", r"layer bn1 uses torch.*: its input is \[T B, H W, C\], expected the channels in "
                 "axis 1", "transpose"),
        ("neuron", r"layer lif1 uses a neuron: its input is \[B, T, H W, C\]", "reshape to"),
        ("twice", r"layer fc1 uses torch.*Linear: a second time", "a layer of its own"),
        ("map", r"uses a part of spikes \[T, B, H W, C\]: only of channels", "all steps at once"),
    ],
)  # fmt: skip
def test_what_tokens_cannot_be_is_refused(change, words, hint):
    model = LinearTokens(change)
    if change == "axis":
        model.fc1 = nn.Linear(8, 12)
        model.stem.stride = (1, 1)
        model.stem.kernel_size, model.stem.padding = (3, 3), (1, 1)
        size = (3, 4)
    else:
        size = (8, 8)
    with pytest.raises(UnsupportedModelError, match=words) as error:
        traced.trace(model.eval(), torch.randn(2, 3, *size), WHITE | {"weight_bits": 4})
    assert hint in error.value.hint


def test_a_convolution_along_tokens_is_refused():
    model = Conv1dTokens()
    model.fc1 = nn.Conv1d(8, 12, 3, padding=1)
    with pytest.raises(UnsupportedModelError, match=r"layer fc1 uses .*Conv1d: kernel 3") as error:
        traced.trace(model.eval(), torch.randn(1, 3, 8, 8), WHITE | {"weight_bits": 4})
    assert "Conv2d" in error.value.hint
