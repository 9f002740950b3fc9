"""The reversible encoder: exact inverse, gradients, memory."""

from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from training import memory, reversible  # noqa: E402
from training.models.bestformer import BESTformer, BESTformerConfig  # noqa: E402

CONFIG = BESTformerConfig(depth=2, dim=16, heads=2, n_steps=4, image_size=8, channels=3, classes=5)


def network(config=CONFIG, seed=0):
    torch.manual_seed(seed)
    model = BESTformer(config)
    model.init_neuron_norms(1.5, 0.5)
    return model.train()


def images(n=6, size=8):
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2


def gradients(model, x, recompute):
    model.recompute = recompute
    model.zero_grad()
    y0, y1 = model(x)
    (y0.square().sum() + (y1 * torch.arange(5)).sum()).backward()
    return y0.detach(), {n: p.grad.clone() for n, p in model.named_parameters()}


@pytest.mark.parametrize("depth", [1, 8, 12])
def test_the_inverse_gives_back_every_bit(depth):
    model = network(replace(CONFIG, depth=depth))
    tokens = model.patch_embed(images()).detach()
    x0, x1 = reversible.forward(model.block, tokens)
    a, b = reversible.inverse(model.block, x0, x1)
    assert torch.equal(a, b)
    grid = reversible._grid(depth)
    assert torch.equal(a, (tokens.double() * grid).round() / grid)
    assert (a.float() - tokens).abs().max() <= 2.0**-20


def test_the_inverse_of_sixteen_blocks_stays_at_float_rounding():
    model = network(replace(CONFIG, depth=16))
    tokens = model.patch_embed(images()).detach()
    a, b = reversible.inverse(model.block, *reversible.forward(model.block, tokens))
    scale = tokens.abs().max()
    assert (a - tokens).abs().max() <= 1e-6 * scale
    assert (b - tokens).abs().max() <= 1e-6 * scale


def test_recomputed_gradients_are_those_of_the_stored_graph():
    y, want = gradients(network(), images(), False)
    y_again, got = gradients(network(), images(), True)
    torch.testing.assert_close(y_again, y, rtol=1e-5, atol=1e-6)
    for name, grad in want.items():
        tolerance = 1e-4 * float(grad.abs().max()) + 1e-6
        torch.testing.assert_close(got[name], grad, rtol=1e-3, atol=tolerance, msg=name)


def test_running_statistics_are_updated_once():
    stored, again = network(), network()
    gradients(stored, images(), False)
    gradients(again, images(), True)
    for (name, a), b in zip(stored.named_buffers(), again.buffers(), strict=True):
        torch.testing.assert_close(a.float(), b.float(), rtol=1e-3, atol=1e-3, msg=name)
        if name.endswith("num_batches_tracked"):
            assert a == b == 1, name
    assert all(m.track_running_stats for m in again.modules() if hasattr(m, "running_mean"))


def test_evaluation_does_not_depend_on_recompute():
    model = network().eval()
    with torch.no_grad():
        want = model(images())
        model.recompute = True
        assert torch.equal(model(images()), want)


def kept(depth, recompute):
    model = network(replace(CONFIG, depth=depth))
    model.recompute = recompute
    return memory.kept_bytes(model, images())[0]


def test_what_is_kept_does_not_grow_with_depth():
    assert kept(6, True) == kept(1, True)
    assert kept(6, False) > 2 * kept(1, False)


@pytest.mark.parametrize("variant", ["official", "paper"])
def test_mixed_precision_reaches_the_branches(variant):
    model = network(replace(CONFIG, variant=variant))
    model.recompute = True
    with torch.autocast("cpu", torch.bfloat16):
        y0, y1 = model(images())
    (y0.float().sum() + y1.float().sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
