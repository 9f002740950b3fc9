"""Small modules that are traced, as users write them from the layers of `training`."""

from __future__ import annotations

from scramble import scrambled

from training.models.sew_resnet import SEWResNet, SEWResNetConfig
from training.models.spiking_vgg import SpikingVGG, SpikingVGGConfig

SIZES = {"layers": "8 16 M 24", "n_steps": 4, "image_size": 8, "channels": 3, "classes": 5}
NETS = {
    "vgg": (SpikingVGG, SpikingVGGConfig(**SIZES)),
    "vgg_real": (SpikingVGG, SpikingVGGConfig(**SIZES, weights="real", tau=1.5)),
    "iand": (SEWResNet, SEWResNetConfig(**SIZES)),
    "and": (SEWResNet, SEWResNetConfig(**(SIZES | {"n_steps": 2}), connect="and")),
    "add": (SEWResNet, SEWResNetConfig(**SIZES, connect="add")),
    "add_stride": (SEWResNet, SEWResNetConfig(**(SIZES | {"layers": "8 8 M 72 72", "n_steps": 3}),
                                              connect="add", downsample="stride")),
    "add_real": (SEWResNet, SEWResNetConfig(**(SIZES | {"layers": "8 8 8 M 12", "n_steps": 2}),
                                            weights="real", tau=1.5, connect="add")),
}  # fmt: skip


def network(name):
    kind, config = NETS[name]
    model = scrambled(kind(config))
    model.set_normalisation([0.4] * 3, [0.3] * 3)
    return model
