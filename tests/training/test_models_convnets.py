from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from equations import Equations, pool, signs

torch = pytest.importorskip("torch")

from scramble import outputs_of, scrambled  # noqa: E402

from training.models.sew_resnet import SEWResNet, SEWResNetConfig  # noqa: E402
from training.models.spiking_vgg import SpikingVGG, SpikingVGGConfig  # noqa: E402
from training.neurons import LIF  # noqa: E402

SIZES = {"layers": "4 8 M 8", "n_steps": 4, "image_size": 8, "channels": 3, "classes": 5}
VGG, SEW = SpikingVGGConfig(**SIZES), SEWResNetConfig(**SIZES)


class Network(Equations):
    def weight(self, key):
        w = self.w[f"{key}.weight"]
        return signs(w) if self.c.weights == "binary" and not key.startswith("encoder") else w

    def layer(self, key, xs, stride=1):
        return self.lif(f"{key}.lif", self.conv_bn(f"{key}.conv", f"{key}.bn", xs, stride=stride))

    def block(self, key, s, stride):
        y = self.layer(f"{key}.layer2", self.layer(f"{key}.layer1", s, stride))
        if f"{key}.shortcut.conv.weight" in self.w:
            s = self.layer(f"{key}.shortcut", s, stride)
        how = {"add": np.add, "and": np.multiply, "iand": lambda a, b: b - a * b}
        return [how[self.c.connect](a, b) for a, b in zip(y, s, strict=True)]

    def __call__(self, image):
        s = self.layer("encoder", [image] * self.c.n_steps)
        number, stride = 0, 1
        for word in self.c.layers.split()[1:]:
            if word == "M" and getattr(self.c, "downsample", "pool") == "stride":
                stride = 2
            elif word == "M":
                s = [pool(x) for x in s]
            elif isinstance(self.c, SEWResNetConfig):
                s, number = self.block(f"blocks.{number}", s, stride), number + 1
                stride = 1
            else:
                s, number = self.layer(f"features.{number}", s), number + 1
        return self.head("head", np.mean([x.mean((2, 3)) for x in s], axis=0))


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (SpikingVGG, VGG),
        (SpikingVGG, dataclasses.replace(VGG, weights="real", layers="4 M 8 M 8 M")),
        (SEWResNet, SEW),
        (SEWResNet, dataclasses.replace(SEW, connect="and", tau=1.5)),
        (SEWResNet, dataclasses.replace(SEW, connect="add", layers="8 8 M 8 16")),
        (SEWResNet, dataclasses.replace(SEW, connect="add", layers="8 8 M 8 M 12",
                                        downsample="stride")),
    ],
)  # fmt: skip
def test_forward_equals_the_equations_in_numpy(kind, config):
    model = scrambled(kind(config)).double()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()
    spikes, _ = outputs_of(model, LIF)
    with torch.inference_mode():
        got = model(x).numpy()
    net = Network(config, state)
    np.testing.assert_allclose(got, net(x.numpy()), rtol=1e-9, atol=1e-10)
    assert set(spikes) == set(net.spikes)
    for name, value in net.spikes.items():
        assert np.array_equal(spikes[name].numpy(), value), name


@pytest.mark.parametrize(
    ("kind", "config"),
    [(SpikingVGG, VGG), (SEWResNet, SEW),
     (SEWResNet, dataclasses.replace(SEW, connect="add", downsample="stride"))],
)  # fmt: skip
def test_training_and_args(kind, config):
    model = scrambled(kind(config)).train()
    (y,) = model(torch.randn(8, 3, 8, 8))
    y.square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert type(config).from_args(config.to_args()) == config


def test_bad_configs_are_refused():
    for change, words in (
        ({"layers": "M 4"}, "layers"),
        ({"layers": ""}, "layers"),
        ({"layers": "4 x"}, "layers"),
        ({"connect": "xor"}, "connect"),
        ({"downsample": "mean"}, "downsample"),
        ({"downsample": "stride", "layers": "4 8 M"}, "layers end with M"),
        ({"weights": "no"}, "weights"),
    ):
        with pytest.raises(ValueError, match=words):
            dataclasses.replace(SEW, **change)


def test_small_configs_parse_for_every_family():
    from pathlib import Path

    from training import config as c
    from training import data, models

    folder = Path(c.__file__).parent / "configs"
    families = set()
    for path in sorted(folder.glob("fashion_mnist_*.toml")):
        read = c.read(path)
        model = read.model_config(data.DATASETS["fashion-mnist"])
        families.add(model.FAMILY)
    assert set(models.FAMILIES) - families <= {"spikingformer", "spikformer", "convnet"}
