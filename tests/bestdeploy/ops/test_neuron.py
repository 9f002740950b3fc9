"""Neuron arithmetic: the vectors of the method, the integer forms against exact rationals."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bestdeploy.ops import count_neuron, lif, neuron, threshold_neuron

HARD = {"tau": 2.0, "v_threshold": 1.0, "v_reset": 0.0, "soft_reset": 0, "decay_input": 1}
F = 20


def column(values):
    return np.array(values, np.float64).reshape(-1, 1, 1, 1, 1)


@pytest.mark.parametrize(
    ("x", "spikes"), [([2, 1, 1.5, 1.5], [1, 0, 1, 0]), ([1, 1.2, 1.5, 0.5], [0, 0, 1, 0])]
)
def test_hard_reset_vectors(x, spikes):
    (found,) = lif.reference(column(x), n_steps=4, **HARD)
    assert found.ravel().tolist() == spikes


ATTENTION = [
    ([1, 5, 0, 0], [0, 1, 0, 0]),
    ([0, 3, 1, 0], [0, 1, 0, 0]),
    ([2, 2, 2, 2], [1, 1, 1, 1]),
    ([1, 1, 1, 1], [0, 0, 0, 0]),
    ([1, 2, 1, 1], [0, 1, 0, 0]),
    ([3, 1, 1, 1], [1, 0, 0, 0]),
]


@pytest.mark.parametrize(("counts", "spikes"), ATTENTION)
def test_soft_reset_vectors(counts, spikes):
    (found,) = lif.reference(column(counts), n_steps=4, **{**HARD, "soft_reset": 1})
    assert found.ravel().tolist() == spikes
    integers = count_neuron.run(np.array(counts, np.int32).reshape(-1, 1), first=2)
    assert integers.ravel().tolist() == spikes


@pytest.mark.parametrize(
    ("m", "spikes"),
    [([8, 0, 0, 0], [1, 0, 0, 0]), ([7, 4, 5, 0], [0, 0, 1, 0]), ([7, 4, 4, 4], [0, 0, 0, 0]),
     ([7, 7, 0, 0], [0, 1, 0, 0])],
)  # fmt: skip
def test_value_neuron_vectors(m, spikes):
    parameters = neuron.parameters(
        tau=2.0, v_threshold=0.5, v_reset=0.0, soft_reset=False, decay_input=True, bits=F
    )
    x = (np.array(m, np.int64) << F) // 8
    assert neuron.run(x.astype(np.int32).reshape(-1, 1), **parameters).ravel().tolist() == spikes


def page(x, tau, theta, v_reset, soft, decay):
    """The stream neuron written from the page, in Python integers."""
    threshold, reset = round(Fraction(theta) * 2**F), 0 if soft else round(Fraction(v_reset) * 2**F)
    v, out = reset, []
    for now in x:
        if decay and tau == 2:
            h = (v + now) >> 1
        elif decay:
            h = v + (((now - v) * round(Fraction(2**30) / Fraction(tau)) + 2**29) >> 30)
        elif tau == 2:
            h = (v >> 1) + now
        else:
            h = ((v * round(2**30 * (1 - 1 / Fraction(tau))) + 2**29) >> 30) + now
        spike = h >= threshold
        out.append(int(spike))
        v = h - spike * threshold if soft else (reset if spike else h)
    return out


streams = st.lists(st.integers(-(2**23), 2**23), min_size=1, max_size=8)


@given(
    streams,
    st.sampled_from([2.0, 1.5, 1.0, 3.0, 1.1]),
    st.sampled_from([1.0, 0.5, 0.3]),
    st.sampled_from([0.0, 0.25, -0.1]),
    st.booleans(),
    st.booleans(),
)
def test_stream_neuron_is_the_page(x, tau, theta, v_reset, soft, decay):
    parameters = neuron.parameters(
        tau=tau, v_threshold=theta, v_reset=v_reset, soft_reset=soft, decay_input=decay, bits=F
    )
    found = neuron.run(np.array(x, np.int32).reshape(-1, 1), **parameters)
    assert found.ravel().tolist() == page(x, tau, theta, v_reset, soft, decay)


@given(st.lists(st.integers(-300, 300), min_size=1, max_size=8), st.integers(-50, 400))
def test_threshold_neuron_keeps_the_last_spike(n, base):
    """A table that differs in every row tells apart every (t, s)."""
    steps = len(n)
    theta = [base + 7 * t - 13 * s for t in range(1, steps + 1) for s in range(t)]
    (found,) = threshold_neuron.reference(
        np.array(n, np.int32).reshape(-1, 1), np.array(theta, np.int32)[:, None], n_steps=steps
    )
    total, last, expected = 0, 0, []
    for t in range(1, steps + 1):
        total = (0 if last == t - 1 and t > 1 else total) + 2 ** (t - 1) * n[t - 1]
        fired = total >= theta[threshold_neuron.row(t, last)]
        expected.append(int(fired))
        last = t if fired else last
    assert found.ravel().tolist() == expected
