"""Networks of spikingjelly's own zoo, where it is installed: the same integers in every form."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
reason = "spikingjelly and torchvision are not installed"
zoo = pytest.importorskip(
    "spikingjelly.activation_based.model", reason=reason, exc_type=ImportError
)

from spikingjelly.activation_based import functional, layer, neuron  # noqa: E402
from spikingjelly.activation_based.model import (  # noqa: E402
    sew_resnet,
    spiking_resnet,
    spiking_vgg,
)
from torch import nn  # noqa: E402
from user_nets import WHITE, fitted, same_in_every_form  # noqa: E402

from bestdeploy.errors import UnsupportedModelError  # noqa: E402
from bestdeploy.importers import traced  # noqa: E402


class Mean(nn.Module):
    """The mean of a network's logits over 3 steps of the same image."""

    def __init__(self, net):
        super().__init__()
        self.net = net
        functional.set_step_mode(net, "m")

    def forward(self, image):
        functional.reset_net(self.net)
        return self.net(image.unsqueeze(0).repeat(3, 1, 1, 1, 1)).mean(0)


def loud(model, size):
    """Return a fitted module whose layers without a batch norm make neurons fire."""
    for part in model.modules():
        if isinstance(part, layer.Linear | layer.Conv2d):
            nn.init.normal_(part.weight, 0, 8 / part.weight[0].numel() ** 0.5)
    return fitted(model, size)


def vgg(batch_norm=True):
    net = spiking_vgg.SpikingVGG([8, "M", 12, 12, "M"], batch_norm, num_classes=5,
                                 spiking_neuron=neuron.LIFNode)  # fmt: skip
    net.classifier = nn.Sequential(layer.Linear(12 * 49, 24), neuron.LIFNode(), layer.Dropout(),
                                   layer.Linear(24, 5))  # fmt: skip
    return net


def resnet(block="BasicBlock", file=spiking_resnet, **kwargs):
    kind = getattr(file, "SEWResNet" if "cnf" in kwargs else "SpikingResNet")
    return kind(getattr(file, block), [1, 1, 1, 1], num_classes=5, spiking_neuron=neuron.LIFNode,
                **kwargs)  # fmt: skip


NETS = {
    "vgg": (vgg, 28),
    "vgg without batch norm": (lambda: vgg(False), 28),
    "resnet": (resnet, 32),
    "sew add": (lambda: resnet(file=sew_resnet, cnf="ADD"), 32),
    "sew and": (lambda: resnet(file=sew_resnet, cnf="AND"), 32),
    "sew iand": (lambda: resnet(file=sew_resnet, cnf="IAND"), 32),
    "sew resnext": (
        lambda: resnet("Bottleneck", sew_resnet, cnf="ADD", groups=4, width_per_group=4), 32,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_a_network_of_the_zoo(tmp_path, name):
    make, size = NETS[name]
    torch.manual_seed(0)
    same_in_every_form(tmp_path, loud(Mean(make()), size), size, 8, n_frames=2)


class OwnSteps(Mean):
    """The same of a network that repeats the image itself."""

    def forward(self, image):
        functional.reset_net(self.net)
        return self.net(image).mean(0)


def test_the_spikformer_of_the_zoo(tmp_path):
    """Version 2: q, k and v are parts of one layer, and the first maxima are of a stream."""
    spikformer = pytest.importorskip("spikingjelly.activation_based.model.spikformer")
    torch.manual_seed(0)
    net = spikformer.Spikformer(T=3, img_size_h=32, img_size_w=32, num_classes=5, embed_dims=64,
                                num_heads=4, depths=1)  # fmt: skip
    for part in net.modules():
        if isinstance(part, nn.Conv1d | nn.Conv2d | nn.Linear):
            nn.init.normal_(part.weight, 0, 2 / part.weight[0].numel() ** 0.5)
    same_in_every_form(tmp_path, fitted(OwnSteps(net), 32), 32, 8, n_frames=2)


class Contained(nn.Module):
    """Layers of torch in a container that joins steps and images."""

    def __init__(self, first=neuron.LIFNode):
        super().__init__()
        one = layer.SeqToANNContainer(nn.Conv2d(3, 8, 3, 1, 1), nn.BatchNorm2d(8))
        two = layer.SeqToANNContainer(nn.AvgPool2d(2), nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8))
        last = layer.AvgPool2d(2), layer.Flatten(), layer.Dropout(), layer.Linear(128, 5)
        self.parts = nn.Sequential(one, first(), two, neuron.IFNode(), *last)

    def forward(self, x):
        return self.parts(x)


def test_containers(tmp_path):
    same_in_every_form(tmp_path, fitted(Mean(Contained()), 16), 16, 8, n_frames=2)


def test_what_runs_step_by_step_is_refused():
    model = Mean(Contained(lambda: layer.MultiStepContainer(nn.Identity(), nn.Identity())))
    with pytest.raises(UnsupportedModelError, match=r"layer net\.parts\.1 uses a part of") as error:
        traced.trace(model.eval(), torch.randn(1, 3, 16, 16), WHITE | {"weight_bits": 8})
    assert "SeqToANNContainer" in error.value.hint
    with pytest.raises(UnsupportedModelError, match="4 x 4 to 7 x 7: only to one cell"):
        traced.trace(Mean(vgg()).eval(), torch.randn(1, 3, 16, 16), WHITE | {"weight_bits": 8})
