"""Small modules that are traced, as users write them from the layers of `training`."""

from __future__ import annotations

import numpy as np
import torch
from e2e import forms
from scramble import scrambled
from torch import nn

import bestdeploy
from bestdeploy import runtime, stages
from bestdeploy._bundle import lowered_bytes
from bestdeploy.importers import traced
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


WHITE = {"mean": [0.5] * 3, "std": [0.25] * 3}
"""Settings of modules that do not hold their own."""


def fitted(model, size):
    """Return a module with random batch norms that have the statistics of random images."""
    torch.manual_seed(2)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = 1.0
            nn.init.uniform_(module.weight, 1.0, 2.0)
            nn.init.uniform_(module.bias, 0.0, 1.0)
    with torch.no_grad():
        model.train()(torch.randn(16, 3, size, size))
    return model.eval()


def white(frames):
    """Return what a module is given for frames uint8 [B, H, W, 3]."""
    return (torch.tensor(frames).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25


def same_in_every_form(folder, model, size, bits=None, n_frames=4):
    """Export a module; assert that its raw logits are the same integers in every form.

    The spiking graph is compared with the module itself, and so is the C runtime where the deployed
    weights are the trained ones (`bits` is None).
    """
    settings = WHITE | ({} if bits is None else {"weight_bits": bits})
    example, path = torch.randn(2, 3, size, size), folder / "model.onnx"
    bestdeploy.export(model, example, path, settings=settings)
    (folder / "model.bstm").write_bytes(lowered_bytes(path))
    frames = np.random.default_rng(0).integers(0, 256, (n_frames, size, size, 3), dtype=np.uint8)
    found = forms.raw_of_every_form(folder, frames)
    _, expected = next(found)
    assert len(np.unique(expected, axis=0)) > 1
    for form, raw in found:
        np.testing.assert_array_equal(raw, expected, err_msg=form)
    with torch.inference_mode():
        logits = model(white(frames)).numpy()
    graph = traced.trace(model, example, settings)
    np.testing.assert_allclose(stages.run(graph, frames)["logits"], logits, rtol=0, atol=2e-4)
    if bits is None:
        deployed = runtime.load((folder / "model.bstm").read_bytes()).run(frames)
        np.testing.assert_allclose(deployed, logits, rtol=1e-4, atol=1e-3)
