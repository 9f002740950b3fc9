"""Networks with nothing at its initial value, whose neurons fire now and then."""

from __future__ import annotations

import torch
from torch import nn


def scrambled(model, seed=0, gain=2.0, shift=0.5):
    """Random batch norms (some negative), statistics of random images; in evaluation mode."""
    torch.manual_seed(seed)
    c = model.config
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.momentum = 1.0
                module.weight.uniform_(0.5 * gain, 1.5 * gain)
                module.weight.mul_(torch.where(torch.rand_like(module.weight) < 0.2, -1.0, 1.0))
                module.bias.uniform_(-shift, 3 * shift)
            elif isinstance(module, nn.Linear):
                module.bias.uniform_(-1, 1)
                module.weight.mul_(10)
            elif isinstance(module, nn.Conv1d | nn.Conv2d) and module.bias is not None:
                module.bias.uniform_(-1, 1)
        for name, value in model.named_parameters():
            if "layer_scale" in name:
                value.uniform_(-1.5, 1.5)
            if name.endswith("alpha"):
                value.mul_(torch.empty_like(value).uniform_(0.7, 1.4))
        steps = (c.n_steps,) if c.input == "events" else ()
        model.train()(torch.randn(*steps, 16, c.channels, c.image_size, c.image_size))
    return model.eval()


def outputs_of(model, kinds):
    """Collect the outputs of every module of these classes by name, in a dict, until removed."""
    found, handles = {}, []
    for name, module in model.named_modules():
        if isinstance(module, kinds):
            handles.append(module.register_forward_hook(
                lambda _m, _i, out, name=name: found.__setitem__(name, out.detach())
            ))  # fmt: skip
    return found, handles
