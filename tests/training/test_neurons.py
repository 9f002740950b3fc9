from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from training.neurons import LIF, LIFParameters  # noqa: E402

HARD = {"tau": 2.0, "v_threshold": 1.0, "reset": "hard"}
SOFT = {"tau": 2.0, "v_threshold": 1.0, "reset": "soft"}
ATTN = {"tau": 2.0, "v_threshold": 0.5, "reset": "hard"}


def fire(x, **kwargs):
    return LIF(**kwargs)(torch.tensor(x, dtype=torch.float32)).int().tolist()


@pytest.mark.parametrize(
    ("kwargs", "x", "spikes"),
    [
        (HARD, [2, 1, 1.5, 1.5], [1, 0, 1, 0]),  # fires at equality in step 3
        (HARD, [1, 1.2, 1.5, 0.5], [0, 0, 1, 0]),
        (SOFT, [1, 5, 0, 0], [0, 1, 0, 0]),
        (SOFT, [0, 3, 1, 0], [0, 1, 0, 0]),
        (SOFT, [2, 2, 2, 2], [1, 1, 1, 1]),
        (SOFT, [1, 1, 1, 1], [0, 0, 0, 0]),
        (SOFT, [1, 2, 1, 1], [0, 1, 0, 0]),
        (SOFT, [3, 1, 1, 1], [1, 0, 0, 0]),
        (ATTN, [1, 0, 0, 0], [1, 0, 0, 0]),
        (ATTN, [7 / 8, 4 / 8, 5 / 8, 0], [0, 0, 1, 0]),
        (ATTN, [7 / 8, 4 / 8, 4 / 8, 4 / 8], [0, 0, 0, 0]),
        (ATTN, [7 / 8, 7 / 8, 0, 0], [0, 1, 0, 0]),
        # Table 1 of the paper: no input decay
        (SOFT | {"decay_input": False}, [1, 5, 0, 0], [1, 1, 1, 0]),
        (SOFT | {"decay_input": False}, [0, 3, 1, 0], [0, 1, 1, 0]),
    ],
)
def test_known_spike_trains(kwargs, x, spikes):
    assert fire(x, **kwargs) == spikes


def reference(x, p):
    """Written-out loop in ordinary operations; only the step has a surrogate gradient."""

    class Step(torch.autograd.Function):
        @staticmethod
        def forward(ctx, u):
            ctx.save_for_backward(u)
            return (u >= 0).to(u)

        @staticmethod
        def backward(ctx, g):
            (u,) = ctx.saved_tensors
            s = torch.sigmoid(p.alpha * u)
            return g * p.alpha * s * (1 - s)

    soft = p.reset == "soft"
    rest = 0.0 if soft else p.v_reset
    v = torch.full_like(x[0], rest)
    out = []
    for x_t in x:
        if p.decay_input:
            h = v + (x_t - (v - rest)) / p.tau
        elif rest == 0.0:
            h = v * (1 - 1 / p.tau) + x_t
        else:
            h = v - (v - rest) / p.tau + x_t
        s = Step.apply(h - p.v_threshold)
        out.append(s)
        mask = s.detach() if p.detach_reset else s
        v = h - mask * p.v_threshold if soft else (1 - mask) * h + mask * p.v_reset
    return torch.stack(out)


@pytest.mark.parametrize("reset", ["hard", "soft"])
@pytest.mark.parametrize("decay_input", [True, False])
@pytest.mark.parametrize("detach_reset", [True, False])
@pytest.mark.parametrize(
    ("tau", "theta", "v_reset"), [(2.0, 1.0, 0.0), (1.5, 0.5, 0.0), (3.0, 0.7, -0.25)]
)
def test_gradient_equals_autograd_of_the_loop(
    reset, decay_input, detach_reset, tau, theta, v_reset
):
    lif = LIF(tau, theta, v_reset, reset, decay_input, detach_reset=detach_reset)
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(6, 5, 7, generator=generator, dtype=torch.float64) * 2).requires_grad_()
    weight = torch.randn(6, 5, 7, generator=generator, dtype=torch.float64)
    y = lif(x)
    (got,) = torch.autograd.grad((y * weight).sum(), x)
    y_ref = reference(x, lif.parameters_)
    (want,) = torch.autograd.grad((y_ref * weight).sum(), x)
    assert torch.equal(y, y_ref)
    assert 0 < y.mean() < 1
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-14)


def test_float32_charge_has_the_stated_rounding_order():
    x = torch.randn(2, 100_000, generator=torch.Generator().manual_seed(1))
    lif = LIF(tau=1.5, v_threshold=1.0)
    h0 = torch.zeros(100_000) + (x[0] - 0.0) / 1.5
    v0 = h0 * (h0 < 1)
    h1 = v0 + (x[1] - v0) / 1.5
    assert torch.equal(lif(x), torch.stack([h0 >= 1, h1 >= 1]).float())


def test_a_sequence_that_repeats_one_tensor_is_accepted():
    x = torch.randn(1, 3, 4).expand(4, 3, 4).requires_grad_()
    y = LIF()(x)
    y.sum().backward()
    assert y.shape == (4, 3, 4)


def test_no_state_dict_keys_and_no_memory_between_calls():
    lif = LIF()
    x = torch.tensor([[1.5], [1.0]])
    assert torch.equal(lif(x), lif(x))
    assert not lif.state_dict()


@pytest.mark.parametrize(
    "kwargs",
    [
        {"tau": 0.9},
        {"tau": float("nan")},
        {"reset": "medium"},
        {"v_threshold": float("inf")},
        {"v_threshold": 0.5, "v_reset": 0.5},
    ],
)
def test_bad_constants_are_refused(kwargs):
    with pytest.raises(ValueError, match=r"tau|reset|finite"):
        LIF(**kwargs)


@pytest.mark.parametrize("p", [LIFParameters(), LIFParameters(reset="soft", decay_input=False)])
def test_a_compiled_network_traces_the_neuron_as_plain_operations(p):
    """What the compiler is given: the same spikes and gradients, without our own function."""
    layer = LIF()
    layer.parameters_ = p
    seen = []

    def backend(graph, example):
        seen.append(str(graph.code))
        return graph

    compiled = torch.compile(layer, backend=backend)
    torch.manual_seed(0)
    a = torch.randn(4, 50, requires_grad=True)
    b = a.detach().clone().requires_grad_()
    weight = torch.linspace(-1, 1, 50)
    ours, theirs = layer(a), compiled(b)
    assert torch.equal(ours, theirs)
    (ours * weight).sum().backward()
    (theirs * weight).sum().backward()
    torch.testing.assert_close(a.grad, b.grad)
    assert len(seen) == 1
    assert "_MultiStepLIF" not in seen[0]
