"""Every form of the network against the independent float64 equations of tests/random_nets.py."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from random_nets import Network as Equations
from random_nets import Spec, images_of, random_network

torch = pytest.importorskip("torch")

from torch.nn import functional as F  # noqa: E402

from training import losses, models  # noqa: E402
from training.errors import CheckpointError  # noqa: E402
from training.models.bestformer import BESTformer, BESTformerConfig  # noqa: E402
from training.models.sdt_v1 import SDT, SDTConfig  # noqa: E402
from training.models.spiking_vgg import SpikingVGG, SpikingVGGConfig  # noqa: E402
from training.models.spikingformer import Spikingformer, SpikingformerConfig  # noqa: E402

BASE = Spec(seed=3, dim=16, heads=2, depth=2, n_steps=4, size=8, channels=3, classes=5)
FORMS = {
    "published": {},
    "kv": {"attention": "kv"},
    "hard binariser": {"binariser": "hard"},
    "boolean binariser": {"binariser": "boolean"},
    "plain residual": {"residual": "plain"},
    "distillation head": {"readout": "distillation"},
    "paper": {"variant": "paper", "decay_input": False},
    "imagenet layout": {"layout": "imagenet", "attention": "kv", "size": 20},
    "events": {"events": True, "channels": 2, "layout": "imagenet", "tau": 1.5, "size": 16},
}


def ours(spec: Spec, network: Equations) -> BESTformer:
    state = {k: torch.from_numpy(np.array(v)) for k, v in network.tensors.items()}
    s = network.settings
    config = BESTformerConfig(
        spec.depth, spec.dim, spec.heads, spec.n_steps, spec.size, spec.channels, spec.classes,
        attention=spec.attention, tau=spec.tau, decay_input=spec.decay_input, layout=spec.layout,
        input=s["input"], variant=spec.variant, binariser=spec.binariser, residual=spec.residual,
        readout=spec.readout or "", two_heads="head2.weight" in state and "head.weight" in state,
    )  # fmt: skip
    model = BESTformer(config)
    held = model.state_dict()
    model.load_state_dict({k: v.reshape(held[k].shape) for k, v in state.items()})
    n = spec.channels
    model.set_normalisation(s.get("mean", [0.0] * n), s.get("std", [1.0] * n))
    return model.double().eval()


@pytest.mark.parametrize("change", FORMS.values(), ids=FORMS)
def test_logits_equal_the_equations(change):
    spec = replace(BASE, **change)
    network = random_network(spec)
    frames = images_of(spec, 3)
    model = ours(spec, network)
    with torch.inference_mode():
        got = model(model.preprocess(frames)).numpy()
    np.testing.assert_allclose(got, network.logits(frames), rtol=1e-6, atol=1e-6)
    assert np.ptp(got) > 0


@pytest.mark.parametrize(
    ("channels", "dim", "heads", "layout", "kind", "classes", "count"),
    [
        (3, 384, 12, "cifar", "image", 10, 9_326_266),
        (2, 256, 16, "imagenet", "events", 10, None),
    ],
)
def test_spikingformer_has_the_published_parameters(
    channels, dim, heads, layout, kind, classes, count
):
    depth = 4 if count else 2
    config = SpikingformerConfig(
        depth, dim, heads, 4, 32, channels, classes, layout=layout, input=kind
    )
    with torch.device("meta"):
        model = Spikingformer(config)
    n = sum(p.numel() for p in model.parameters())
    # the published counts have norm1 and norm2, which nothing uses: 4 D per block
    published = 9_326_266 if count else 2_568_714
    assert n == published - 4 * dim * depth


def test_spikingformer_is_plain_attention():
    torch.manual_seed(0)
    config = SpikingformerConfig(1, 16, 2, 2, 8, 1, 3, attention="qk")
    other = SpikingformerConfig(1, 16, 2, 2, 8, 1, 3, attention="kv")
    a, b = Spikingformer(config).eval(), Spikingformer(other).eval()
    a.init_neuron_norms(2.0, 1.0)
    b.load_state_dict(a.state_dict())
    x = torch.randn(2, 1, 8, 8)
    with torch.inference_mode():
        torch.testing.assert_close(a(x), b(x))  # without a binariser both orders are one product
    assert a.train()(x)[0].shape == (2, 3)


def test_checkpoints_of_any_family_are_restored():
    model = Spikingformer(SpikingformerConfig(1, 16, 2, 2, 8, 1, 3))
    args = model.config.to_args() | {"mean": [0.5], "std": [0.5]}
    again = models.restore({"state_dict": model.state_dict(), "args": args}, "x.pt")
    assert again.config == model.config
    for bad in ({"family": "resnet"}, {"dim": 32}, {"mean": [0.5, 0.5]}):
        with pytest.raises(CheckpointError, match=r"family|fit"):
            models.restore({"state_dict": model.state_dict(), "args": args | bad}, "x.pt")


def test_one_head_alone():
    config = BESTformerConfig(1, 16, 2, 2, 8, 1, 3, readout="distillation", two_heads=False)
    model = BESTformer(config)
    assert not hasattr(model, "head")
    assert [y.shape for y in model.train()(torch.randn(2, 1, 8, 8))] == [(2, 3)]
    with pytest.raises(ValueError, match="two_heads"):
        BESTformerConfig(1, 16, 2, 2, 8, 1, 3, two_heads=False)


# --- losses ---


def test_distilled_loss_is_the_stated_sum():
    y0, y1, teacher = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    target = losses.smoothed(torch.tensor([0, 1, 2, 3]), 5, 0.1)
    assert target.sum(1).tolist() == pytest.approx([1.0] * 4)
    assert target[0, 0].item() == pytest.approx(0.92)
    ce = torch.nn.functional.cross_entropy
    hard = losses.DistillConfig("t", alpha=0.3)
    want = 0.7 * ce(y0, target) + 0.3 * ce(y1, teacher.argmax(1))
    torch.testing.assert_close(losses.loss((y0, y1), target, teacher, hard), want)
    swapped = 0.7 * ce(y1, target) + 0.3 * ce(y0, teacher.argmax(1))
    torch.testing.assert_close(
        losses.loss((y0, y1), target, teacher, replace(hard, swap=True)), swapped
    )
    soft = losses.DistillConfig("t", kind="soft", alpha=1.0, temperature=2.0)
    p, log_q = (teacher / 2).softmax(1), (y1 / 2).log_softmax(1)
    divergence = 4 * (p * (p.log() - log_q)).sum(1).mean()
    torch.testing.assert_close(losses.loss((y0, y1), target, teacher, soft), divergence)
    both = (ce(y0, target) + ce(y1, target)) / 2
    torch.testing.assert_close(losses.loss((y0, y1), target, None, None), both)


def test_the_rate_penalty_has_a_gradient():
    model = BESTformer(BESTformerConfig(1, 16, 2, 2, 8, 1, 3)).train()
    model.init_neuron_norms(1.5, 0.5)
    with losses.firing_rates(model) as rates:
        model(torch.randn(2, 1, 8, 8))
    assert len(rates) == 12
    torch.stack(rates).mean().backward()
    assert model.block[0].attn.q_bn.bias.grad.abs().sum() > 0


@pytest.mark.parametrize("pull", [0.0, 0.3])
def test_the_loss_of_every_step(pull):
    y, target = torch.randn(3, 2, 4), torch.tensor([[1.0, 0, 0, 0], [0.1, 0.2, 0.3, 0.4]])
    of_steps = [-(target * y_t.log_softmax(1)).sum(1).mean() for y_t in y]
    expected = (1 - pull) * sum(of_steps) / 3 + pull * F.mse_loss(y, torch.ones_like(y))
    torch.testing.assert_close(losses.tet([y], target, pull), expected)
    torch.testing.assert_close(losses.tet([y, y], target, pull), expected)


@pytest.mark.parametrize(
    "model",
    [SpikingVGG(SpikingVGGConfig("8 M 8", 2, 8, 1, 3)), SDT(SDTConfig(1, 16, 2, 2, 8, 1, 3))],
    ids=["spiking_vgg", "sdt_v1"],
)
def test_logits_of_every_step_are_collected(model):
    with losses.step_logits(model.train()) as logits:
        (y,) = model(torch.randn(2, 1, 8, 8))
    assert [z.shape for z in logits] == [(2, 2, 3)]
    torch.testing.assert_close(logits[0].mean(0), y)
    losses.tet(logits, torch.eye(3)[:2], 0.001).backward()
    assert model.head.weight.grad.abs().sum() > 0
