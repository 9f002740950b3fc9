"""Small random checkpoints of the families beside BESTformer, made by `training`.

Their batch norms are random, some of negative gain, and their statistics those of random images, so
that every neuron fires now and then.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

SDT = {"depth": 1, "dim": 24, "heads": 3, "n_steps": 4, "image_size": 8, "channels": 3,
       "classes": 5, "weights": "binary"}  # fmt: skip
META = {"widths": [4, 8, 8, 12], "depth": 2, "heads": 4, "n_steps": 4, "image_size": 40,
        "channels": 3, "classes": 5, "attn_scale": 1.0}  # fmt: skip
QSD = {"widths": [4, 8, 8, 12], "depth": 2, "heads": 4, "n_steps": 1, "image_size": 40,
       "channels": 3, "classes": 5, "attn_scale": 1.0, "layer_scale_init": 0.5}  # fmt: skip
NETS: dict[str, tuple[str, dict[str, Any]]] = {
    "sdt_v1": ("sdt_v1", SDT),
    "sdt_v1_T1": ("sdt_v1", SDT | {"n_steps": 1, "dim": 72, "image_size": 12,
                                   "channels": 1, "pooling_stat": "1111", "variant": "paper"}),
    "sdt_v1_tau": ("sdt_v1", SDT | {"tau": 1.5, "n_steps": 2, "dim": 16, "heads": 2,
                                    "pooling_stat": "0100", "decay_input": False}),
    "sdt_v1_events": ("sdt_v1", SDT | {"input": "events", "channels": 2,
                                       "n_steps": 3, "readout": "neuron_mean"}),
    "a2os2a": ("a2os2a", SDT | {"attn_v_threshold": 4.0}),
    "a2os2a_learned": ("a2os2a", SDT | {"n_steps": 3, "dim": 72, "heads": 3, "pooling_stat": "1111",
                                        "image_size": 16, "ternary_decay_input": True,
                                        "learn_amplitude": True, "ternary_amplitude": 0.75,
                                        "decay_input": False, "readout": "mean_neuron"}),
    "a2os2a_binary": ("a2os2a", SDT | {"key": "binary", "value": "binary"}),
    "a2os2a_real": ("a2os2a", SDT | {"weights": "real", "ternary_beta": 0.3, "n_steps": 2}),
    "sdt_v1_real": ("sdt_v1", SDT | {"weights": "real"}),
    "sdt_v2": ("sdt_v2", META),
    "sdt_v2_heads": ("sdt_v2", META | {"two_heads": True, "n_steps": 1, "tau": 1.5, "depth": 4,
                                       "image_size": 33, "channels": 1, "mlp_ratio": 2}),
    "sdt_v2_events": ("sdt_v2", META | {"input": "events", "channels": 2, "n_steps": 3,
                                        "widths": [2, 4, 6, 66], "heads": 2}),
    "qsd": ("qsd", QSD),
    "qsd_3bit": ("qsd", QSD | {"weight_bits": 3, "two_heads": True, "n_steps": 2, "heads": 2,
                               "widths": [2, 4, 6, 66], "depth": 4, "image_size": 33,
                               "channels": 1, "mlp_ratio": 2, "attn_scale": 0.03}),
    "qsd_lif": ("qsd", QSD | {"neuron_kind": "lif", "n_steps": 2, "weight_bits": 2}),
}  # fmt: skip
"""Family and settings of each by its name."""
FEW = ("sdt_v1", "a2os2a", "sdt_v2", "sdt_v2_events", "qsd")
"""Networks that together hold every op; tests of each pass take these alone."""
BITS = {"sdt_v1_real": 4, "a2os2a_real": 8, "sdt_v2": 8, "sdt_v2_heads": 16, "sdt_v2_events": 4}
"""Bits of the deployed weights of networks whose weights are real."""


def network(name: str, seed: int = 0):
    """Return the torch module, in evaluation mode."""
    import torch
    from scramble import scrambled

    from training.models import FAMILIES

    family, settings = NETS[name]
    module = FAMILIES[family]
    torch.manual_seed(seed)
    model = scrambled(module.Model(module.Config(**settings)), seed=seed)
    n = settings["channels"]
    events = settings.get("input") == "events"
    model.set_normalisation([0.0] * n if events else [0.4] * n, [1.0] * n if events else [0.3] * n)
    return model


def save(path: Path, name: str, *, seed: int = 0, n_images: int = 1) -> np.ndarray:
    """Write the checkpoint of a network; return images that fit it."""
    from training import checkpoint

    model = network(name, seed)
    args = model.config.to_args() | {"mean": model.mean.tolist(), "std": model.std.tolist()}
    args |= {"weight_bits": BITS[name]} if name in BITS else {}
    checkpoint.save(path, model.state_dict(), args, epoch=0, metric=0.0, arch=name)
    return images(name, n_images)


def images(name: str, n: int) -> np.ndarray:
    """Random frames uint8 [n, H, W, C], events [n, T, H, W, C]."""
    settings = NETS[name][1]
    size, channels = settings["image_size"], settings["channels"]
    rng = np.random.default_rng(n)
    if settings.get("input") == "events":
        shape = (n, settings["n_steps"], size, size, channels)
        return rng.poisson(0.7, shape).astype(np.uint8)
    return rng.integers(0, 256, (n, size, size, channels), dtype=np.uint8)
