"""Average pools and grouped convolutions of user modules: the same integers in every form."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from user_nets import WHITE, fitted, same_in_every_form  # noqa: E402

from bestdeploy import ir  # noqa: E402
from bestdeploy.errors import UnsupportedModelError  # noqa: E402
from bestdeploy.importers import traced  # noqa: E402
from bestdeploy.importers.traced import windows  # noqa: E402
from training.layers import BinaryConv2d, QuantConv2d  # noqa: E402
from training.neurons import LIF  # noqa: E402


class Net(nn.Module):
    """Spikes of an image through `parts`, on maps of T B images, then the mean and a head."""

    def __init__(self, *parts, width=8, stem=None, n_steps=3):
        super().__init__()
        self.n_steps = n_steps
        self.stem = nn.Sequential(*(stem or [nn.Conv2d(3, 8, 3, 1, 1), nn.BatchNorm2d(8)]))
        self.lif, self.parts = LIF(), nn.ModuleList(parts)
        self.head = nn.Linear(width, 4)

    def forward(self, image):
        x = self.lif(self.stem(image).unsqueeze(0).expand(self.n_steps, -1, -1, -1, -1))
        for part in self.parts:
            if isinstance(part, LIF):
                x = part(x)
            else:
                x = part(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return self.head(x).mean(0) if x.ndim == 3 else self.head(x.mean((0, 3, 4)))


def layer(kind, n_in, n_out, k, pad=0, stride=1):
    """Return a convolution without batch norm: 1-bit, of 3 trained bits, or real."""
    if kind == "binary":
        return BinaryConv2d(n_in, n_out, k, padding=pad, stride=stride)
    if kind == "trained":
        assert stride == 1
        return QuantConv2d(n_in, n_out, k, padding=pad, weight_bits=3)
    return nn.Conv2d(n_in, n_out, k, stride, pad)


def fired(conv, *between, theta=1.0):
    """A convolution, what lies between, its batch norm and a neuron."""
    return conv, *between, nn.BatchNorm2d(conv.out_channels), LIF(v_threshold=theta)


def ops(model, size, settings=WHITE):
    """Return the numbers of ops of a spiking graph."""
    graph = traced.trace(model.eval(), torch.randn(1, 3, size, size), settings).graph
    found = [node.op_type for node in graph]
    return {op: found.count(op) for op in found}


@pytest.mark.parametrize("early", [False, True])
def test_maxima_of_the_first_stream(tmp_path, early):
    """Of the batch norm of a still image, before or behind its repetition over T."""
    stem, pool = [nn.Conv2d(3, 8, 3, 1, 1), nn.BatchNorm2d(8)], nn.MaxPool2d(3, 2, 1)

    class Pooled(Net):
        def forward(self, image):
            x = self.stem(image).unsqueeze(0).expand(self.n_steps, -1, -1, -1, -1)
            x = self.lif(pool(x.flatten(0, 1)).unflatten(0, x.shape[:2]))
            return self.head(x.mean((0, 3, 4)))

    net = Net(stem=[*stem, pool]) if early else Pooled(stem=stem)
    same_in_every_form(tmp_path, fitted(net, 8), 8)


@pytest.mark.parametrize(
    ("pool", "conv", "size", "bits"),
    [
        (nn.AvgPool2d(2), ("binary", 8, 8, 3, 1), 8, None),
        (nn.AvgPool2d(3), ("trained", 8, 12, 3, 1), 12, None),
        (nn.AvgPool2d(2), ("real", 8, 8, 1), 9, 4),  # a row and a column are left over
        (nn.AvgPool2d(2), ("binary", 8, 8, 3, 1), 9, None),  # by a padded layer
        (nn.AvgPool2d(3, 2, 1), ("binary", 8, 8, 1, 0, 2), 9, None),  # windows overlap
        (nn.AvgPool2d(3, 2, 1), ("trained", 8, 8, 3, 1), 8, None),
        (nn.AvgPool2d(2, 3), ("binary", 8, 8, 2), 9, None),  # gaps
        (nn.AvgPool2d(2, 1), ("real", 8, 8, 2, 0, 2), 8, 1),
        (nn.AvgPool2d(2, 3), ("real", 8, 8, 2), 9, 1),
        (nn.Sequential(nn.AvgPool2d(2), nn.AvgPool2d(2)), ("binary", 8, 8, 3, 1), 16, None),
        (nn.AdaptiveAvgPool2d((4, 4)), ("binary", 8, 8, 3, 1), 8, None),
        (nn.AdaptiveAvgPool2d((8, None)), ("binary", 8, 8, 3, 1), 8, None),  # nothing
    ],
)  # fmt: skip
def test_a_pool_in_front_of_a_convolution(tmp_path, pool, conv, size, bits):
    model = fitted(Net(pool, *fired(layer(*conv)), width=conv[2]), size)
    same_in_every_form(tmp_path, model, size, bits)


@pytest.mark.parametrize(
    ("pool", "conv", "size", "bits"),
    [
        (nn.AvgPool2d(2), ("binary", 8, 8, 3, 1), 8, None),
        (nn.AvgPool2d(3, 2), ("trained", 8, 8, 3, 1), 9, None),
        (nn.AvgPool2d(2), ("real", 8, 8, 3, 1, 2), 12, 8),
    ],
)
def test_a_pool_between_a_convolution_and_its_batch_norm(tmp_path, pool, conv, size, bits):
    stem = nn.Conv2d(3, 8, 3, 1, 1), nn.AvgPool2d(2, 1), nn.BatchNorm2d(8)
    parts = *fired(layer(*conv), pool), nn.AvgPool2d(2), *fired(layer("binary", 8, 8, 1))
    same_in_every_form(tmp_path, fitted(Net(*parts, stem=stem), size + 1), size + 1, bits)


class Levels(nn.Module):
    """Averages that are added, pooled and read by two layers."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm0, self.lif0 = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), LIF()
        self.conv1, self.norm1, self.lif1 = BinaryConv2d(8, 8, 3, 1), nn.BatchNorm2d(8), LIF()
        self.conv2, self.norm2, self.lif2 = BinaryConv2d(8, 8, 3, 1), nn.BatchNorm2d(8), LIF()
        self.head = nn.Linear(8, 4)

    def each(self, norm, conv, s, t=4):
        return norm(conv(s)).unflatten(0, (t, -1))

    def forward(self, image):
        x = self.norm0(self.stem(F.avg_pool2d(image, kernel_size=2)))
        s = self.lif0(x.unsqueeze(0).expand(4, -1, -1, -1, -1)).flatten(0, 1)
        x = F.avg_pool2d(s, 2, stride=1)
        x = F.max_pool2d(x + x, 3, 2, 1)
        u = self.lif1(self.each(self.norm1, self.conv1, F.avg_pool2d(x, 2)))
        u = u + self.lif2(self.each(self.norm2, self.conv2, F.max_pool2d(x, 2)))
        return self.head(u.mean((0, 3, 4)))


def test_averages_are_levels_where_several_read_them(tmp_path):
    same_in_every_form(tmp_path, fitted(Levels(), 20), 20)


class Shortcut(Levels):
    """A stream to which the averages of spikes are added; pools of all steps, as spikingjelly's."""

    class _Pool(nn.AvgPool2d):
        def forward(self, x):
            return super().forward(x.flatten(0, 1)).unflatten(0, x.shape[:2])

    def __init__(self, module="spikingjelly.activation_based.layer"):
        super().__init__()
        self.conv1 = BinaryConv2d(8, 8, 3, padding=1, stride=2)
        self.pool = type("AvgPool2d", (self._Pool,), {"__module__": module})(2)

    def forward(self, image):
        s = self.lif0(self.norm0(self.stem(image)).unsqueeze(0).expand(4, -1, -1, -1, -1))
        x = self.lif1(self.each(self.norm1, self.conv1, s.flatten(0, 1)) + self.pool(s))
        return self.head(self.lif2(self.each(self.norm2, self.conv2, x.flatten(0, 1))
                                   + self.pool(s + s)).mean((0, 3, 4)))  # fmt: skip


@pytest.mark.parametrize("file", ["layer", "layer.stateless_wrapper"])
def test_averages_are_added_to_a_stream(tmp_path, file):
    model = Shortcut(f"spikingjelly.activation_based.{file}")
    same_in_every_form(tmp_path, fitted(model, 10), 10)


class Unequal(nn.Module):
    """Averages plus what they are averages of."""

    def forward(self, spikes):
        return spikes + F.avg_pool2d(spikes, 3, 1, 1)


def test_averages_are_not_added_to_spikes():
    words = r"a sum of spikes and levels 0\.\.9 divided by 9: only of the same divisor"
    with pytest.raises(UnsupportedModelError, match=words) as error:
        traced.trace(Net(Unequal()).eval(), torch.randn(1, 3, 8, 8), WHITE)
    assert "behind the average pool" in error.value.hint


@pytest.mark.parametrize(
    ("parts", "size", "bits"),
    [
        ([nn.AvgPool2d(4)], 8, None),  # the mean of the map is that of its averages
        ([nn.AvgPool2d(8), nn.Flatten()], 8, None),
        ([nn.AvgPool2d(3, 2, 1)], 8, None),
        ([nn.AvgPool2d(2)], 9, None),
        ([nn.AvgPool2d(2), nn.Flatten()], 8, 8),
        ([nn.AvgPool2d(2), nn.Dropout(), nn.Flatten(), nn.Identity()], 9, 4),
        ([nn.AdaptiveAvgPool2d(2), nn.Flatten()], 8, 3),
        ([nn.AvgPool2d(16), nn.Flatten()], 16, None),  # beyond any kernel: the mean of the map
        ([nn.AvgPool2d(2), nn.Flatten()], 20, 2),
    ],
)
def test_a_pool_in_front_of_the_head(tmp_path, parts, size, bits):
    model = Net(*fired(layer("binary", 8, 8, 3, 1)), *parts)
    with torch.no_grad():
        cells = nn.Sequential(*parts)(torch.zeros(1, 8, size, size))
    if cells.ndim == 2:
        model.head = nn.Linear(cells.shape[1], 4)
    same_in_every_form(tmp_path, fitted(model, size), size, bits)


class MeanFirst(Net):
    """The mean over T in front of a head."""

    def forward(self, image):
        x = self.lif(self.stem(image).unsqueeze(0).expand(3, -1, -1, -1, -1)).flatten(0, 1)
        for part in self.parts:
            x = part(x)
        return self.head(x.unflatten(0, (3, -1)).mean(0).flatten(1))


@pytest.mark.parametrize(
    ("parts", "size", "width", "bits"),
    [
        ([nn.AvgPool2d(2)], 8, 128, 4),
        ([nn.AvgPool2d(2)], 20, 800, 4),  # as levels
        ([nn.AvgPool2d(4), nn.AvgPool2d(2)], 8, 8, None),
        ([nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.AvgPool2d(8)], 8, 8, 8),  # of a stream
        ([nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1)], 8, 8, 8),
    ],
)
def test_means_of_steps_in_front_of_the_head(tmp_path, parts, size, width, bits):
    same_in_every_form(tmp_path, fitted(MeanFirst(*parts, width=width), size), size, bits)


def test_a_flattened_stream_is_refused():
    model = MeanFirst(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), width=512).eval()
    with pytest.raises(UnsupportedModelError, match="a stream that is flattened for head") as error:
        traced.trace(model, torch.randn(1, 3, 8, 8), WHITE | {"weight_bits": 8})
    assert "a neuron in front" in error.value.hint


def test_signs_stay_signs_where_windows_lie_side_by_side():
    found = ops(Net(nn.AvgPool2d(2), *fired(layer("binary", 8, 8, 3, 1))), 8)
    assert found["WeightConv"] == 1 and "LevelNeuron" not in found
    model = Net(nn.AvgPool2d(2), *fired(layer("binary", 8, 8, 3, 1)))
    graph = traced.trace(model.eval(), torch.randn(1, 3, 8, 8), WHITE).graph
    (conv,) = [node for node in graph if node.op_type == "WeightConv"]
    assert ir.attribute(conv, "weight_bits") == 1
    assert ir.attribute(conv, "strides") == (2, 2) and ir.attribute(conv, "pads") == (2,) * 4
    assert ir.array_of(conv.inputs[1]).shape == (8, 6, 6, 8)
    assert ops(Net(nn.AvgPool2d(2), *fired(layer("binary", 8, 8, 3, 1))), 9)["LevelNeuron"] == 1


@pytest.mark.parametrize(
    ("window", "conv"),
    [
        ((2, 2, 0), (3, 1, 1)),
        ((3, 2, 1), (1, 2, 0)),
        ((3, 2, 1), (3, 1, 0)),
        ((2, 3, 0), (2, 1, 0)),
    ],
)
def test_two_linear_maps_are_one_kernel(window, conv):
    """Averages and a convolution, either first, against torch."""
    (k, s, p), (kernel, stride, pad) = window, conv
    x, w = torch.randn(1, 5, 12, 12).double(), torch.randn(4, 5, kernel, kernel).double()
    pool = nn.AvgPool2d(k, s, p)
    before = F.conv2d(pool(x), w, stride=stride, padding=pad)
    ones = np.ones((1, 1, k, k))
    both = torch.tensor(windows.composed(ones, w.numpy(), s)) / k**2
    np.testing.assert_allclose(F.conv2d(x, both, stride=s * stride, padding=pad * s + p), before)
    behind = F.avg_pool2d(F.conv2d(x, w, stride=stride, padding=pad), k, s)
    both = torch.tensor(windows.composed(w.numpy(), ones, stride)) / k**2
    np.testing.assert_allclose(F.conv2d(x, both, stride=s * stride, padding=pad), behind)


@pytest.mark.parametrize(
    ("parts", "size", "words", "hint"),
    [
        ([nn.AvgPool2d(4), *fired(layer("binary", 8, 8, 5, 2))], 16,
         r"uses averages over 4 x 4: are sums 0\.\.16 here, and 15 is the largest", "at most 15"),
        ([layer("binary", 8, 8, 3, 1), nn.BatchNorm2d(8), nn.AvgPool2d(2), LIF()], 8,
         "layer parts.2 uses an average over windows of a stream: only of spikes",
         "the same numbers"),
        ([layer("binary", 8, 8, 5, 2), nn.AvgPool2d(12), nn.BatchNorm2d(8), LIF()], 12,
         "averages over 12 x 12 of a convolution: they are one kernel", "behind the neuron"),
        ([nn.AvgPool2d(2, padding=1, count_include_pad=False)], 8,
         "avg_pool2d: only square, divided by the cells", "supported parts"),
        ([nn.AvgPool2d((2, 1))], 8, "avg_pool2d: only square", "supported parts"),
        ([nn.AvgPool2d(2, divisor_override=3)], 8, "avg_pool2d: only square", "supported parts"),
        ([nn.AvgPool2d(2, ceil_mode=True)], 9, "avg_pool2d: ceil_mode on 9 x 9", "ceil_mode away"),
        ([nn.AvgPool2d(2), LIF()], 8, "a neuron: its input is averages", "supported parts"),
        ([nn.AdaptiveAvgPool2d(3)], 8, "adaptive_avg_pool2d: 8 x 8 to 3 x 3: only to one cell",
         "a divisor of them"),
    ],
)  # fmt: skip
def test_pools_that_have_no_exact_form_are_refused(parts, size, words, hint):
    with pytest.raises(UnsupportedModelError, match=words) as error:
        traced.trace(Net(*parts).eval(), torch.randn(2, 3, size, size), WHITE)
    assert hint in error.value.hint


# -- groups --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("conv", "size", "bits"),
    [
        (nn.Conv2d(8, 12, 3, 1, 1, groups=4), 8, 4),
        (nn.Conv2d(8, 16, 3, 2, 1, groups=8), 8, 3),  # two outputs of every channel
        (nn.Conv2d(8, 8, 1, groups=2), 8, 1),  # signs and zeros
        (nn.Conv2d(8, 8, 3, 1, 1, groups=8), 8, 8),
        (nn.Conv2d(8, 8, 5, 2, 2, groups=8), 9, 1),
        (nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False), 8, 16),
    ],
)
def test_groups_of_channels(tmp_path, conv, size, bits):
    last = fired(layer("binary", conv.out_channels, 8, 1))
    same_in_every_form(tmp_path, fitted(Net(*fired(conv), *last), size), size, bits)


@pytest.mark.parametrize("groups", [2, 8])
def test_groups_read_averages_and_pools_read_groups(tmp_path, groups):
    stem = nn.Conv2d(3, 9, 3, 1, 1, groups=3), nn.BatchNorm2d(9)
    first = fired(layer("binary", 9, 8, 1))
    second = fired(nn.Conv2d(8, 8, 3, 1, 1, groups=groups))
    last = fired(nn.Conv2d(8, 8, 3, 1, 1, groups=groups), nn.AvgPool2d(2))
    model = fitted(Net(*first, nn.AvgPool2d(2), *second, *last, stem=stem), 16)
    same_in_every_form(tmp_path, model, 16, 4)


def test_a_depthwise_convolution_stays_one():
    settings = WHITE | {"weight_bits": 1}
    found = ops(Net(*fired(nn.Conv2d(8, 8, 3, 1, 1, groups=8))), 8, settings)
    assert found["DepthwiseConv"] == 1 and "WeightConv" not in found
    found = ops(Net(*fired(nn.Conv2d(8, 8, 3, 1, 1, groups=4))), 8, settings)
    assert found["WeightConv"] == 1
