"""User modules of known parts: traced, exported, the same integers in every form."""

from __future__ import annotations

import numpy as np
import pytest
from e2e import forms

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from user_nets import NETS, WHITE, fitted, network  # noqa: E402

import bestdeploy  # noqa: E402
from bestdeploy import runtime, stages  # noqa: E402
from bestdeploy._bundle import lowered_bytes  # noqa: E402
from bestdeploy.errors import UnsupportedModelError, UsageError  # noqa: E402
from bestdeploy.importers import traced  # noqa: E402
from training.layers import BinaryConv2d  # noqa: E402
from training.neurons import LIF  # noqa: E402


@pytest.mark.parametrize("name", NETS)
def test_a_module_runs_in_every_form(tmp_path, name):
    model = network(name)
    settings = {"weight_bits": 4} if name.endswith("_real") else {}
    report = bestdeploy.export(
        model, torch.randn(2, 3, 8, 8), tmp_path / "model.onnx", settings=settings
    )
    assert set(report.files) == {"model", "std", "float"}
    (tmp_path / "model.bstm").write_bytes(lowered_bytes(tmp_path / "model.onnx"))
    frames = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    found = forms.raw_of_every_form(tmp_path, frames)
    _, expected = next(found)
    for form, raw in found:
        np.testing.assert_array_equal(raw, expected, err_msg=form)
    if not settings:
        with torch.inference_mode():
            logits = model(model.preprocess(frames)).numpy()
        deployed = runtime.load((tmp_path / "model.bstm").read_bytes()).run(frames)
        np.testing.assert_allclose(deployed, logits, rtol=1e-4, atol=1e-4)


class User(nn.Module):
    """Written as users write: the image repeated first, plain functions between the parts."""

    def __init__(self, change=None, n_steps=3):
        super().__init__()
        self.n_steps, self.change = n_steps, change
        self.stem, self.norm0, self.lif0 = nn.Conv2d(3, 8, 3, 1, 1), nn.BatchNorm2d(8), LIF()
        self.conv1 = BinaryConv2d(8, 8, 3, padding=1)
        self.norm1, self.lif1 = nn.BatchNorm2d(8), LIF(v_threshold=0.5)
        self.conv2, self.norm2, self.lif2 = BinaryConv2d(8, 8, 1), nn.BatchNorm2d(8), LIF()
        self.last, self.head = LIF(tau=3.0, decay_input=False), nn.Linear(8, 4)
        self.odd = nn.GELU()
        self.pool = nn.MaxPool2d(2)
        self.lone = nn.Conv2d(8, 8, 3, (2, 1), 1)

    def forward(self, x):
        x = x.unsqueeze(0).repeat(self.n_steps, 1, 1, 1, 1)
        t, b = x.shape[:2]
        x = self.norm0(self.stem(x.flatten(0, 1)))
        s = self.lif0(x.reshape(t, b, *x.shape[1:]))
        u = self.norm1(self.conv1(self.pool(s.flatten(0, 1))))
        u = u.reshape(t, b, *u.shape[1:])
        y = self.norm2(self.conv2(self.lif1(u).flatten(0, 1))).unflatten(0, (t, b))
        if self.change == "function":
            y = torch.softmax(y, 2)
        if self.change == "module":
            y = self.odd(y)
        if self.change == "stride":
            y = self.lone(self.lif1(u).flatten(0, 1))
        if self.change == "spikes":
            y = self.lif1(u) + self.lif1(u)
        if self.change == "alpha":
            y = torch.add(y, u, alpha=2)
        return self.head(self.last(y + u).mean((0, 3, 4)))


def user(change=None):
    torch.manual_seed(1)
    model = User(change)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            nn.init.uniform_(module.weight, 1.0, 2.0)
            nn.init.uniform_(module.bias, 0.0, 1.0)
    return model.eval()


class Strided(nn.Module):
    """A ResNet of membranes: a 7x7 stem that begins the stream, strides, kernels of other sizes."""

    def __init__(self, stem=(7, 2, 3), weights="binary"):
        super().__init__()
        conv = BinaryConv2d if weights == "binary" else nn.Conv2d
        k, stride, pad = stem
        self.stem, self.norm0 = nn.Conv2d(3, 8, k, stride, pad), nn.BatchNorm2d(8)
        self.lif0 = LIF()
        self.conv1, self.norm1 = conv(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.lif1, self.lif2 = LIF(), LIF()
        self.down, self.norm2 = conv(8, 12, 2, stride=2, padding=0), nn.BatchNorm2d(12)
        self.wide, self.norm3 = conv(12, 12, 5, padding=1), nn.BatchNorm2d(12)
        self.lif3, self.head = LIF(), nn.Linear(12, 4)

    def each(self, conv, norm, s):
        return norm(conv(s.flatten(0, 1))).unflatten(0, s.shape[:2])

    def forward(self, image):
        x = self.norm0(self.stem(image)).unsqueeze(0).expand(3, -1, -1, -1, -1)
        x = x + self.each(self.conv1, self.norm1, self.lif0(x))
        s = self.lif2(self.each(self.down, self.norm2, self.lif1(x)))
        u = self.each(self.wide, self.norm3, s)
        return self.head(self.lif3(u).mean((0, 3, 4)))


@pytest.mark.parametrize(
    ("stem", "size", "weights"),
    [((7, 2, 3), 24, "binary"), ((4, 4, 0), 32, "binary"), ((1, 1, 0), 9, "real"),
     ((3, 2, 1), 19, "real")],
)  # fmt: skip
def test_kernels_and_strides_of_any_size(tmp_path, stem, size, weights):
    model = fitted(Strided(stem, weights), size)
    settings = WHITE | ({} if weights == "binary" else {"weight_bits": 16})
    path = tmp_path / "model.onnx"
    bestdeploy.export(model, torch.randn(2, 3, size, size), path, settings=settings)
    (tmp_path / "model.bstm").write_bytes(lowered_bytes(path))
    frames = np.random.default_rng(0).integers(0, 256, (4, size, size, 3), dtype=np.uint8)
    found = forms.raw_of_every_form(tmp_path, frames)
    _, expected = next(found)
    for form, raw in found:
        np.testing.assert_array_equal(raw, expected, err_msg=form)
    x = (torch.tensor(frames).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    graph = traced.trace(model, torch.randn(2, 3, size, size), settings)
    with torch.inference_mode():
        logits = model(x).numpy()
    np.testing.assert_allclose(stages.run(graph, frames)["logits"], logits, rtol=0, atol=2e-4)


@pytest.mark.parametrize("change", [None, "spikes"])
def test_a_user_module_with_its_own_functions(tmp_path, change):
    """Of spikes that are added to a stream, too."""
    model = user(change)
    path = tmp_path / "model.onnx"
    bestdeploy.export(model, torch.randn(2, 3, 8, 8), path, settings=WHITE)
    frames = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    x = (torch.tensor(frames).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    with torch.inference_mode():
        logits = model(x).numpy()
    deployed = runtime.load(lowered_bytes(path)).run(frames)
    np.testing.assert_allclose(deployed, logits, rtol=1e-4, atol=1e-4)
    assert logits.std() > 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("function", "layer the module uses torch.softmax: not supported; supported are"),
        ("module", "layer odd uses torch.gelu: not supported; supported are"),
        ("stride", "layer lone uses torch.nn.modules.conv.Conv2d: only square kernels"),
        ("alpha", "uses a sum: only of two that are streams"),
    ],
)
def test_unknown_parts_are_refused_by_name(change, words):
    with pytest.raises(UnsupportedModelError, match=words):
        traced.trace(user(change), torch.randn(2, 3, 8, 8), WHITE)


def test_what_is_missing_is_named():
    with pytest.raises(UsageError, match="training mode"):
        traced.trace(user().train(), torch.randn(2, 3, 8, 8), WHITE)
    with pytest.raises(UsageError, match="expected images"):
        traced.trace(user(), torch.randn(3, 8, 8), WHITE)
    with pytest.raises(UsageError, match="mean has 0 usable numbers"):
        traced.trace(user(), torch.randn(2, 3, 8, 8), {})
    with pytest.raises(UsageError, match="real weights and nothing says"):
        traced.trace(network("vgg_real"), torch.randn(2, 3, 8, 8), {})


class Added(nn.Module):
    """Spikes that are added as whole numbers, `doubled` times over, then convolved and pooled."""

    def __init__(self, doubled=1, change=None, weights="binary"):
        super().__init__()
        conv = BinaryConv2d if weights == "binary" else nn.Conv2d
        self.doubled, self.change = doubled, change
        self.stem, self.norm0, self.lif0 = nn.Conv2d(3, 8, 3, 1, 1), nn.BatchNorm2d(8), LIF()
        self.conv1, self.norm1, self.lif1 = conv(8, 8, 3, padding=1), nn.BatchNorm2d(8), LIF()
        self.conv2, self.norm2 = conv(8, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8)
        self.conv3, self.norm3 = conv(8, 8, 2, stride=2), nn.BatchNorm2d(8)
        self.lif2, self.pool, self.head = LIF(), nn.MaxPool2d(2), nn.Linear(8, 4)

    def each(self, conv, norm, s):
        return norm(conv(s.flatten(0, 1))).unflatten(0, s.shape[:2])

    def changed(self, x, s):
        """One more thing to do with levels x and spikes s."""
        made = {
            "neuron": lambda: self.lif2(x),
            "gate": lambda: x * s,
            "opposite": lambda: 1 - x,
            "shapes": lambda: x + s.flatten(0, 1),
            "softmax": lambda: torch.softmax(x, 2),
        }
        return made[self.change]()

    def forward(self, image):
        x = self.norm0(self.stem(image)).unsqueeze(0).expand(3, -1, -1, -1, -1)
        s = self.lif0(x)
        x = self.lif1(self.each(self.conv1, self.norm1, s))
        x += s
        for _ in range(self.doubled - 1):
            x.add_(x)
        if self.change == "pool":
            x = self.pool(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        elif self.change is not None:
            x = self.changed(x, s)
        u = self.each(self.conv2, self.norm2, x) + self.each(self.conv3, self.norm3, x)
        return self.head((self.lif2(u) + self.pool(x.flatten(0, 1)).unflatten(0, (3, -1))
                          if self.doubled < 4 else self.lif2(u)).mean((0, 3, 4)))  # fmt: skip


@pytest.mark.parametrize(
    ("doubled", "weights", "bits"),
    [(1, "binary", None), (3, "real", 1), (2, "real", 3), (7, "binary", None), (4, "real", 16)],
)
def test_sums_of_spikes_are_whole_numbers(tmp_path, doubled, weights, bits):
    """Levels 0..2 to 0..128 through 1-bit and wider weights, into a stream, pooled, averaged."""
    model = fitted(Added(doubled, weights=weights), 8)
    settings = WHITE | ({} if bits is None else {"weight_bits": bits})
    path = tmp_path / "model.onnx"
    bestdeploy.export(model, torch.randn(2, 3, 8, 8), path, settings=settings)
    (tmp_path / "model.bstm").write_bytes(lowered_bytes(path))
    frames = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    found = forms.raw_of_every_form(tmp_path, frames)
    _, expected = next(found)
    assert len(np.unique(expected, axis=0)) > 1
    for form, raw in found:
        np.testing.assert_array_equal(raw, expected, err_msg=form)
    x = (torch.tensor(frames).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    graph = traced.trace(model, torch.randn(2, 3, 8, 8), settings)
    with torch.inference_mode():
        logits = model(x).numpy()
    np.testing.assert_allclose(stages.run(graph, frames)["logits"], logits, rtol=0, atol=2e-4)
    if bits is None:  # the deployed network is the trained one
        deployed = runtime.load((tmp_path / "model.bstm").read_bytes()).run(frames)
        np.testing.assert_allclose(deployed, logits, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("doubled", "change", "words"),
    [
        (
            8,
            None,
            "a sum of levels 0..128 and levels 0..128: levels 0..256, and 255 is the largest",
        ),
        (4, "pool", "layer pool uses a maximum of levels 0..16: at most 0..15"),
        (1, "neuron", "layer lif2 uses a neuron: its input is levels 0..2, expected a batch norm"),
        (1, "gate", "a product of levels 0..2 and spikes: only of spikes with spikes"),
        (1, "opposite", "a difference with levels 0..2: only 1 - spikes"),
        (1, "shapes", "a sum: levels 0..2 and spikes of other shapes"),
        (1, "softmax", "torch.softmax: not supported"),
    ],
)
def test_levels_are_refused_by_name_where_nothing_reads_them(doubled, change, words):
    with pytest.raises(UnsupportedModelError, match=words) as error:
        traced.trace(Added(doubled, change).eval(), torch.randn(1, 3, 8, 8), WHITE)
    assert error.value.hint


class Node(nn.Module):
    """Stands for a neuron of spikingjelly: the same name, attributes and equations."""

    def __init__(self, tau=None, decay_input=False):
        super().__init__()
        self.v_threshold, self.v_reset, self.step_mode = 1.0, 0.0, "m"
        if tau is not None:
            self.tau, self.decay_input = tau, decay_input

    def forward(self, x):
        leak = 1 / self.tau if hasattr(self, "tau") else 0.0
        gain = leak if getattr(self, "decay_input", False) else 1.0
        v, out = torch.zeros_like(x[0]), []
        for x_t in x:
            h = v * (1 - leak) + gain * x_t
            s = (h >= self.v_threshold).to(x.dtype)
            v = h * (1 - s)
            out.append(s)
        return torch.stack(out)


@pytest.mark.parametrize(
    ("kind", "kwargs"),
    [("LIFNode", {"tau": 2.0, "decay_input": True}), ("IFNode", {}), ("LIFNode", {"tau": 4.0})],
)
def test_neurons_of_spikingjelly_by_their_names(tmp_path, kind, kwargs):
    named = type(kind, (Node,), {"__module__": "spikingjelly.activation_based.neuron"})
    model = user()
    model.lif1, model.lif0 = named(**kwargs), named(**kwargs)
    path = tmp_path / "model.onnx"
    bestdeploy.export(model, torch.randn(1, 3, 8, 8), path, settings=WHITE)
    frames = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    x = (torch.tensor(frames).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    with torch.inference_mode():
        logits = model(x).numpy()
    deployed = runtime.load(lowered_bytes(path)).run(frames)
    np.testing.assert_allclose(deployed, logits, rtol=1e-4, atol=1e-4)
    model.lif1.step_mode = "s"
    with pytest.raises(UnsupportedModelError, match="multi-step"):
        traced.trace(model, torch.randn(1, 3, 8, 8), WHITE)


def jelly(base, file):
    """Return a class that stands for one of spikingjelly: the same name, maps of all steps."""

    class Layer(base):
        def forward(self, x):
            if base is nn.Linear:
                return super().forward(x)
            return super().forward(x.flatten(0, 1)).unflatten(0, x.shape[:2])

    module = f"spikingjelly.activation_based.{file}"
    return type(base.__name__, (Layer,), {"__module__": module})


class JellyBlock(nn.Module):
    """The basic block of SEW-ResNet."""

    def __init__(self, conv, norm, node, n_in, n_out, stride=1):
        super().__init__()
        self.conv1 = conv(n_in, n_out, 3, stride, 1, bias=False)
        self.bn1, self.sn1 = norm(n_out), node()
        self.conv2 = conv(n_out, n_out, 3, 1, 1, bias=False)
        self.bn2, self.sn2 = norm(n_out), node()
        self.downsample = None
        if stride != 1:
            down = conv(n_in, n_out, 1, stride, bias=False)
            self.downsample, self.down_sn = nn.Sequential(down, norm(n_out)), node()

    def forward(self, x):
        out = self.sn2(self.bn2(self.conv2(self.sn1(self.bn1(self.conv1(x))))))
        identity = x if self.downsample is None else self.down_sn(self.downsample(x))
        out += identity
        return out


class Jelly(nn.Module):
    """SEW-ResNet with "ADD" as spikingjelly writes it, logits of each step, their mean."""

    def __init__(self, node, files, change=None):
        super().__init__()
        conv, norm = jelly(nn.Conv2d, files[0]), jelly(nn.BatchNorm2d, files[1])
        self.conv1, self.bn1 = conv(3, 8, 3, 1, 1, bias=False), norm(8)
        self.sn1, self.maxpool = node(), jelly(nn.MaxPool2d, files[0])(3, 2, 1)
        blocks = [(8, 8), (8, 8), (8, 12, 2), (12, 12)]
        self.layers = nn.Sequential(*(JellyBlock(conv, norm, node, *b) for b in blocks))
        cells = 3 if change == "cells" else 1
        self.avgpool = jelly(nn.AdaptiveAvgPool2d, files[0])((cells, cells))
        self.fc, self.change = jelly(nn.Linear, files[0])(12, 4), change

    def forward(self, image):
        x = image.unsqueeze(0).repeat(3, 1, 1, 1, 1)
        x = self.layers(self.maxpool(self.sn1(self.bn1(self.conv1(x)))))
        if self.change == "functions":
            x = nn.functional.adaptive_avg_pool2d(x.flatten(0, 1), 1).squeeze(-1).squeeze(-1)
            return self.fc(x.view(3, -1, 12).mean(0))
        if self.change == "axes":
            return self.fc(x.mean((-1, -2))).mean(dim=0)
        x = torch.flatten(self.avgpool(x), 1 if self.change == "steps" else 2)
        y = self.fc(x)
        return y if self.change == "each" else y.mean(1 if self.change == "batch" else 0)


VERSION_1 = ("layer",) * 2
VERSION_2 = ("layer.stateless_wrapper", "layer.bn")


@pytest.mark.parametrize(
    ("node", "files", "change"),
    [
        ("neuron.LIFNode", VERSION_1, None),
        ("neuron.lif.LIFNode", VERSION_2, "functions"),
        ("neuron.integrate_and_fire.IFNode", VERSION_2, "axes"),
    ],
)
def test_a_sew_resnet_of_spikingjelly_that_adds(tmp_path, node, files, change):
    place, _, kind = f"spikingjelly.activation_based.{node}".rpartition(".")
    named = type(kind, (Node,), {"__module__": place})
    settings = {"tau": 2.0, "decay_input": True} if kind == "LIFNode" else {}
    model = fitted(Jelly(lambda: named(**settings), files, change), 16)
    path, bits = tmp_path / "model.onnx", WHITE | {"weight_bits": 8}
    bestdeploy.export(model, torch.randn(2, 3, 16, 16), path, settings=bits)
    (tmp_path / "model.bstm").write_bytes(lowered_bytes(path))
    frames = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    found = forms.raw_of_every_form(tmp_path, frames)
    _, expected = next(found)
    assert len(np.unique(expected, axis=0)) > 1
    for form, raw in found:
        np.testing.assert_array_equal(raw, expected, err_msg=form)
    x = (torch.tensor(frames).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    graph = traced.trace(model, torch.randn(2, 3, 16, 16), bits)
    with torch.inference_mode():
        logits = model(x).numpy()
    np.testing.assert_allclose(stages.run(graph, frames)["logits"], logits, rtol=0, atol=2e-4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("each", "logits of each step: expected"),
        ("batch", "a mean: of logits: only over T"),
        ("steps", "a reshape .*: features stay apart"),
        ("cells", "4 x 4 to 3 x 3: only to one cell"),
    ],
)
def test_means_of_another_kind_are_refused(change, words):
    named = type("IFNode", (Node,), {"__module__": "spikingjelly.activation_based.neuron"})
    model = Jelly(named, VERSION_1, change).eval()
    if change in ("steps", "cells"):
        model.fc = nn.Identity().eval()
    with pytest.raises(UnsupportedModelError, match=words):
        traced.trace(model, torch.randn(2, 3, 16, 16), WHITE | {"weight_bits": 8})
