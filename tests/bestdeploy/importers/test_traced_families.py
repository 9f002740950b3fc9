"""Networks of `training` exported as plain modules: what their checkpoints give, in every form."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from user_nets import WHITE, fitted, same_in_every_form  # noqa: E402

from bestdeploy import deploy, runtime  # noqa: E402
from bestdeploy._bundle import lowered_bytes  # noqa: E402
from bestdeploy.errors import UnsupportedModelError  # noqa: E402
from bestdeploy.importers import traced  # noqa: E402
from training import checkpoint  # noqa: E402
from training.models.a2os2a import A2OS2A, A2OS2AConfig  # noqa: E402
from training.models.bestformer import BESTformer, BESTformerConfig  # noqa: E402
from training.models.sdt_v1 import SDT, SDTConfig  # noqa: E402
from training.models.spikformer import Spikformer, SpikformerConfig  # noqa: E402
from training.models.spikingformer import Spikingformer, SpikingformerConfig  # noqa: E402

SIZES = {"depth": 1, "dim": 32, "heads": 2, "n_steps": 2, "image_size": 16, "channels": 3,
         "classes": 5}  # fmt: skip
NETS = {
    "bestformer": (BESTformer, BESTformerConfig(**SIZES, two_heads=False,
                                                readout="classification")),
    "bestformer kv": (BESTformer, BESTformerConfig(**SIZES, two_heads=False, attention="kv",
                                                   readout="classification")),
    "spikingformer": (Spikingformer, SpikingformerConfig(**SIZES)),
    "spikformer": (Spikformer, SpikformerConfig(**SIZES)),
    "sdt_v1": (SDT, SDTConfig(**SIZES)),
    "sdt_v1 mean": (SDT, SDTConfig(**SIZES, readout="mean_neuron")),
}  # fmt: skip


def network(name):
    kind, config = NETS[name]
    model = kind(config)
    model.set_normalisation([0.5] * 3, [0.25] * 3)
    return fitted(model, 16)


@pytest.mark.parametrize("name", NETS)
def test_a_family_is_a_module_of_known_parts(tmp_path, name):
    model = network(name)
    same_in_every_form(tmp_path, model, 16, 8, n_frames=3)
    frames = np.random.default_rng(1).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    found = [runtime.load((tmp_path / "model.bstm").read_bytes()).run(frames)]
    args = {**model.config.to_args(), "mean": [0.5] * 3, "std": [0.25] * 3}
    checkpoint.save(tmp_path / "net.pt", model.state_dict(), args, epoch=1, metric=0.0,
                    arch=model.config.FAMILY)  # fmt: skip
    settings = {} if "best" in name else {"weight_bits": 8}
    deploy.export(tmp_path / "net.pt", tmp_path / "other.onnx", settings=settings)
    found.append(runtime.load(lowered_bytes(tmp_path / "other.onnx")).run(frames))
    np.testing.assert_allclose(*found, rtol=0, atol=1e-5)


class Halves(nn.Module):
    """Half the sum of two streams, used as it must not be."""

    def __init__(self, change):
        super().__init__()
        self.net, self.change = network("bestformer"), change

    def forward(self, image):
        """Logits that are none, or the error before."""
        x = self.net.patch_embed(image)
        block = self.net.block[0]
        half = (block.attend(x) + x) / 2
        made = {
            "neuron": lambda: block.attend(half),
            "third": lambda: (x + x) / 3,
            "half": lambda: half + half,
            "stream": lambda: x / 2,
        }[self.change]
        return made()


@pytest.mark.parametrize(("change", "words"), [
    ("neuron", "its input is half a sum"),
    ("third", "a division"),
    ("half", "a sum of half a sum and half a sum"),
    ("stream", "a division"),
])  # fmt: skip
def test_halves_are_for_reversible_blocks(change, words):
    with pytest.raises(UnsupportedModelError, match=words):
        traced.trace(Halves(change).eval(), torch.randn(2, 3, 16, 16), WHITE)


@pytest.mark.parametrize(("model", "words"), [
    (BESTformer(BESTformerConfig(**SIZES)), "a sum of logits and logits"),
    (A2OS2A(A2OS2AConfig(**SIZES)), "torch.relu"),
])  # fmt: skip
def test_what_is_left_to_the_importers(model, words):
    """Two heads, real-valued keys."""
    with pytest.raises(UnsupportedModelError, match=words):
        traced.trace(model.eval(), torch.randn(2, 3, 16, 16), WHITE | {"weight_bits": 8})
