from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from training import graded, quantisers  # noqa: E402


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_lsq_rounds_to_the_nearest_of_its_integers(bits):
    rng = np.random.default_rng(bits)
    w = rng.normal(size=(3, 5, 3, 3)).astype(np.float32)
    alpha = np.array([0.3, 0.05, -0.2], np.float32)
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    want = np.clip(np.rint(np.clip(w / alpha[:, None, None, None], low, high)), low, high)
    q = quantisers.integers(torch.tensor(w), torch.tensor(alpha), bits).numpy()
    assert np.array_equal(q, want)
    got = quantisers.lsq(torch.tensor(w), torch.tensor(alpha), bits).numpy()
    np.testing.assert_allclose(got, want * alpha[:, None, None, None], rtol=1e-6)


def test_lsq_rounds_half_to_even():
    w = torch.tensor([[0.5, 1.5, 2.5, -0.5, -1.5]])
    assert quantisers.integers(w, torch.ones(1), 4).tolist() == [[0, 2, 2, 0, -2]]


@pytest.mark.parametrize("bits", [2, 4])
def test_lsq_gradients_are_those_of_the_paper(bits):
    torch.manual_seed(0)
    w = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    alpha = torch.tensor([0.1, 0.3, 0.9, 2.0], dtype=torch.float64, requires_grad=True)
    up = torch.randn(4, 6, dtype=torch.float64)
    (quantisers.lsq(w, alpha, bits) * up).sum().backward()
    low, high = quantisers.weight_range(bits)
    u = w.detach() / alpha.detach()[:, None]
    inside = (u > low) & (u < high)
    assert torch.allclose(w.grad, up * inside)
    d = torch.where(inside, torch.round(u) - u, u.clamp(low, high))
    want = (up * d).sum(1) / (w.numel() * high) ** 0.5
    assert torch.allclose(alpha.grad, want)


def test_lsq_starts_at_twice_the_mean_over_the_root_of_the_range():
    layer = quantisers.LSQConv2d(3, 4, 3, bits=4, bias=False)
    want = 2 * layer.weight.abs().mean() / 7**0.5
    assert torch.allclose(layer.alpha, want.expand(4))
    assert set(layer.state_dict()) == {"weight", "alpha", "init_state"}
    with pytest.raises(ValueError, match="2, 3, 4, 8"):
        quantisers.LSQLinear(2, 2, bits=5)


def test_quantised_layers_use_their_quantised_weight():
    torch.manual_seed(1)
    x = torch.randn(2, 4, 6, 6)
    conv = quantisers.LSQConv2d(4, 4, 3, padding=1, groups=4, bits=3)
    want = torch.nn.functional.conv2d(x, conv.quantised(), conv.bias, padding=1, groups=4)
    assert torch.equal(conv(x), want)
    assert len(conv.quantised().detach()[0].unique()) <= 8
    line = quantisers.LSQConv1d(4, 2, 1, bits=2)
    assert torch.equal(
        line(x.flatten(2)),
        torch.nn.functional.conv1d(x.flatten(2), line.quantised(), line.bias),
    )


def test_levels_are_rounded_half_upwards_and_pass_inside_the_range():
    x = torch.tensor([-1.0, 0.124, 0.125, 0.374, 0.375, 0.625, 0.875, 1.0, 9.0])
    neuron = graded.IELIF()
    got = neuron(x.unsqueeze(0))[0]
    assert got.tolist() == [0, 0, 0.25, 0.25, 0.5, 0.75, 1, 1, 1]
    x.requires_grad_()
    neuron(x.unsqueeze(0)).sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 1, 1, 1, 1, 0, 0]
    y = torch.tensor([[0.3]], requires_grad=True)
    graded.IELIF(divisor=2.0)(y).sum().backward()
    assert y.grad.item() == 2  # the attention neuron divides by half as much


def test_attention_levels_are_a_shift_of_the_integer_product():
    m = torch.arange(0, 400)
    got = graded.IELIF(divisor=2.0)((m / 64 / 4).double().unsqueeze(0))[0]
    want = torch.minimum((m + 32) // 64, torch.tensor(4)) / 2
    assert torch.equal(got, want.double())
    assert (got[32], got[31], got[224]) == (0.5, 0.0, 2.0)


def test_a_level_is_its_virtual_steps():
    x = torch.rand(2, 500, dtype=torch.float64) * 1.6 - 0.3
    level = graded.IELIF(divisor=1.0)(x)
    steps = graded.thermometer(level, 4)
    assert torch.equal(steps.sum(1), level)
    v = torch.full_like(x, 0.5) + 4 * x  # integrate and fire, soft reset, input at step 1 only
    for k in range(4):
        fired = (v >= 1).double()
        assert torch.equal(fired, steps[:, k])
        v = v - fired


def test_a_leaky_level_keeps_what_it_did_not_fire():
    x = np.random.default_rng(3).normal(0.3, 0.4, (5, 40))
    neuron = graded.IELIF(leak=0.25)
    v, want = np.zeros(40), []
    for x_t in x:
        u = v + x_t
        level = np.floor(np.clip(4 * u, 0, 4) + 0.5)
        want.append(level / 4)
        v = 0.25 * (u - level / 4)
    np.testing.assert_array_equal(neuron(torch.tensor(x)).numpy(), np.stack(want))
    with pytest.raises(ValueError, match="leak"):
        graded.IELIF(leak=1.0)


@pytest.mark.parametrize("decay_input", [False, True])
def test_ternary_neuron_step_by_step(decay_input):
    x = np.random.default_rng(4).normal(0, 0.8, (6, 50))
    v, want = np.zeros(50), []
    for x_t in x:
        u = v + (x_t - v) * 0.75 if decay_input else 0.25 * v + x_t
        s = np.sign(u) * (np.abs(u) >= 0.5)
        v = u * (1 - np.abs(s))
        want.append(s)
    neuron = graded.TernaryLIF(0.25, 0.5, decay_input)
    np.testing.assert_array_equal(neuron(torch.tensor(x)).numpy(), np.stack(want))
    assert {-1.0, 0.0, 1.0} == set(np.unique(want))
    louder = graded.TernaryLIF(0.25, 0.5, decay_input, amplitude=0.5)
    np.testing.assert_array_equal(louder(torch.tensor(x)).numpy(), 0.5 * np.stack(want))


def test_ternary_gradients():
    x = torch.tensor([[-1.5, -0.7, 0.1, 0.9, 1.2], [0.2] * 5], requires_grad=True)
    (graded.TernaryLIF()(x) * torch.tensor([[1.0], [10.0]])).sum().backward()
    # the second step sees a quarter of an u that did not fire: only channel 2
    assert x.grad[1].tolist() == [10.0] * 5
    assert x.grad[0].tolist() == [0.0, 1.0, 1.0 + 2.5, 1.0, 0.0]
    loud = graded.TernaryLIF(learn_amplitude=True)
    loud(x.detach()).sum().backward()
    assert loud.amplitude.grad.item() == loud.signs(x.detach()).sum().item()


def test_entropy_of_levels():
    even = torch.tensor([0.0, 1, 2, 3, 4])
    assert graded.level_entropy(even, 4).item() == pytest.approx(np.log2(5), abs=1e-5)
    assert graded.level_entropy(torch.zeros(9), 4).item() == pytest.approx(0.0, abs=1e-5)
    u = torch.tensor([0.2, 0.3, 0.9, 0.1], requires_grad=True)
    graded.level_entropy(u, 4).backward()
    assert u.grad.abs().min() > 0
