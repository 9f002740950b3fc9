"""What looks like a known function and is another: refused by name, never exported as it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from test_traced_tokens import Stem  # noqa: E402
from torch import nn  # noqa: E402
from user_nets import WHITE, fitted, white  # noqa: E402

from bestdeploy import stages  # noqa: E402
from bestdeploy.errors import UnsupportedModelError, UsageError  # noqa: E402
from bestdeploy.importers import traced  # noqa: E402
from training.layers import BinaryConv2d, QuantConv2d, QuantLinear  # noqa: E402
from training.neurons import LIF  # noqa: E402

SETTINGS = WHITE | {"weight_bits": 8}


class Net(Stem):
    """Spikes s and streams y, z of them; `do` makes a stream or spikes of these."""

    def __init__(self, do):
        super().__init__()
        self.do = do
        self.conv, self.norm = BinaryConv2d(8, 8, 1), nn.BatchNorm2d(8)
        self.conv1, self.norm1 = BinaryConv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.same = nn.Identity()
        self.lif, self.lif1, self.head = LIF(), LIF(v_threshold=0.5), nn.Linear(8, 4)

    def forward(self, image):
        s = self.spikes(image)
        y = self.norm(self.conv(s.flatten(0, 1))).unflatten(0, s.shape[:2])
        z = self.norm1(self.conv1(s.flatten(0, 1))).unflatten(0, s.shape[:2])
        made = self.do(self, s, y, z)
        if isinstance(made, Spikes):
            return self.head(made.spikes.mean((0, 3, 4)))
        return self.head(self.lif(made).mean((0, 3, 4)))


@dataclasses.dataclass
class Spikes:
    """What needs no neuron any more."""

    spikes: torch.Tensor


def item(s, y, value):
    y[:, :, 0] = value
    return y


def data(y, other):
    y.data = other
    return y


def changed(y, alias, z):
    y += z
    return alias


def attention(n, s):
    q = s.flatten(3).unflatten(2, (2, 4)).transpose(-2, -1)
    return n.lif1(q @ q.mT), q


def summed(n, s):
    bits, q = attention(n, s)
    z = n.lif1(torch.einsum("tbhnm,tbhmd->tbhd", bits, q))
    return z.flatten(2)[..., None, None].expand_as(s)


def inner(n, s):
    x = s.flatten(3).transpose(2, 3).unflatten(-1, (2, 4)).transpose(3, 4).unflatten(3, (2, 2))
    return x[:, :, :, 0].transpose(3, 4).flatten(3).transpose(2, 3)


CASES = {
    "half of half": lambda n, s, y, z: z + 0.5 * (y + 0.5 * (y + z)),
    "set item": lambda n, s, y, z: item(s, y, 5.0),
    "set spikes": lambda n, s, y, z: Spikes(item(s, s, 0.0)),
    "set data": lambda n, s, y, z: data(y, z),
    "branch": lambda n, s, y, z: y if y.numpy().mean() > 0 else z,
    "item": lambda n, s, y, z: y * 1 if y.mean().item() > 0 else z,
    "shortcut": lambda n, s, y, z: changed(y, n.same(y), z) + y,
    "view": lambda n, s, y, z: changed(y, y.flatten(0, 1), z).unflatten(0, s.shape[:2]),
    "detached": lambda n, s, y, z: changed(y.detach(), y, z),
    "through data": lambda n, s, y, z: (y.data.add_(z), y)[1],
    "out": lambda n, s, y, z: torch.add(y, z, out=torch.empty_like(y)),
    "minus one": lambda n, s, y, z: Spikes(s * (n.lif1(y) - 1)),
    "rsub": lambda n, s, y, z: Spikes(s * torch.rsub(n.lif1(y), 1, alpha=2)),
    "floor": lambda n, s, y, z: torch.div(y + z, 2, rounding_mode="floor") + z,
    "integers": lambda n, s, y, z: y.to(torch.int32).float(),
    "bool": lambda n, s, y, z: y.to(torch.bool).float(),
    "bfloat16": lambda n, s, y, z: y.to(torch.bfloat16).float(),
    "type of": lambda n, s, y, z: y.type_as(torch.zeros(1, dtype=torch.int32)).float(),
    "einsum that sums": lambda n, s, y, z: Spikes(summed(n, s)),
    "inner heads": lambda n, s, y, z: inner(n, s),
    "sum of streams": lambda n, s, y, z: (y + z).sum((3, 4), keepdim=True).expand_as(y),
    "parameter": lambda n, s, y, z: (y + z) * nn.Parameter(torch.rand(8, 1, 1)),
    "divisor by name": lambda n, s, y, z: torch.div(y + z, other=2),
    "foreign": lambda n, s, y, z: torch.zeros(1).type_as(s) + y,
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_not_exact_is_refused(name):
    with pytest.raises(UnsupportedModelError) as caught:
        traced.trace(Net(CASES[name]).eval(), torch.randn(2, 3, 8, 8), SETTINGS)
    assert "uses" in str(caught.value)


FINE = {
    "in place": lambda n, s, y, z: y.add_(z),
    "operator": lambda n, s, y, z: changed(y, y, z),
    "half": lambda n, s, y, z: z + 0.5 * (y + z),
    "opposite": lambda n, s, y, z: Spikes(s * (1 - n.lif1(y))),
    "double": lambda n, s, y, z: y.double().float(),
    "bits": lambda n, s, y, z: Spikes(n.lif1(y).to(torch.bool).float()),
    "narrow": lambda n, s, y, z: Spikes(n.lif1(y).narrow(2, -8, 8)),
}


@pytest.mark.parametrize("name", FINE)
def test_what_is_exact_is_not(name):
    model = fitted(Net(FINE[name]), 8)
    check(model)


def check(model):
    frames = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    graph = traced.trace(model, torch.randn(2, 3, 8, 8), WHITE)
    with torch.inference_mode():
        logits = model(white(frames)).numpy()
    np.testing.assert_allclose(stages.run(graph, frames)["logits"], logits, rtol=0, atol=1e-5)


class First(nn.Module):
    """Trained integers and signs where no spikes are read: the image and the head."""

    def __init__(self, first, head, pool=None):
        super().__init__()
        self.first, self.norm, self.head = first, nn.BatchNorm2d(8), head
        self.lif, self.pool = LIF(), pool or nn.Identity()

    def forward(self, image):
        x = self.norm(self.first(self.pool(image))).unsqueeze(0).expand(3, -1, -1, -1, -1)
        return self.head(self.lif(x).mean((0, 3, 4)))


@pytest.mark.parametrize("parts", [
    (QuantConv2d(3, 8, 3, padding=1, weight_bits=2), nn.Linear(8, 4)),
    (BinaryConv2d(3, 8, 3, padding=1), nn.Linear(8, 4), nn.AvgPool2d(2)),
    (nn.Conv2d(3, 8, 3, 1, 1), QuantLinear(8, 4, 2)),
])  # fmt: skip
def test_trained_integers_are_used_everywhere(parts):
    check(fitted(First(*parts), 8))


def test_parts_in_training_mode_and_hooks():
    model = Net(FINE["half"]).eval()
    model.norm1.train()
    with pytest.raises(UsageError, match="layer norm1 is in training mode"):
        traced.trace(model, torch.randn(2, 3, 8, 8), SETTINGS)
    model.eval()
    model.conv.register_forward_hook(lambda part, inputs, out: out * 0.3)
    with pytest.raises(UnsupportedModelError, match="layer conv uses a hook"):
        traced.trace(model, torch.randn(2, 3, 8, 8), SETTINGS)
