"""The encoder's table: for every x the spikes of the recursion, at the edges above all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bestdeploy.ops import encoder, neuron
from bestdeploy.passes import encoder_table


def parameters(tau=2.0, theta=1.0, decay=True, reset=0.0, bits=20):
    return neuron.parameters(tau=tau, v_threshold=theta, v_reset=reset, soft_reset=False,
                             decay_input=decay, bits=bits)  # fmt: skip


@given(
    st.integers(1, 16), st.sampled_from([1.0, 1.5, 2.0, 3.7, 100.0]), st.floats(0.01, 4.0),
    st.booleans(), st.sampled_from([0.0, -0.25, 0.125]), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_table_is_the_recursion(steps, tau, theta, decay, reset, seed):
    kind = parameters(tau, max(theta, reset + 0.01), decay, reset)
    first = encoder_table.table(steps, kind)
    assert (np.diff(first.astype(np.int64)) <= 0).all()
    rng = np.random.default_rng(seed)
    edges = np.concatenate([first.astype(np.int64) + d for d in (-2, -1, 0, 1)])
    x = np.concatenate([edges, rng.integers(-(2**24), 2**24, 200), rng.integers(-9, 9, 20)])
    x = np.clip(x, -(2**31), 2**31 - 65).astype(np.int32)
    expected = neuron.run(np.broadcast_to(x, (steps, len(x))), **kind)
    np.testing.assert_array_equal(encoder.run(x, first, steps), expected)


def test_buckets_of_the_published_neuron():
    """models of T = 4: x >= 2, 4/3, 8/7, 16/15 fire first at steps 1, 2, 3, 4."""
    first = encoder_table.table(4, parameters())
    one = 2**20
    # The floor of each halving keeps a little: the least integers are at or just above the reals.
    assert first[0] == 2 * one
    for value, real in zip(first, (2, 4 / 3, 8 / 7, 16 / 15), strict=True):
        assert 0 <= value - real * one < 4
    patterns = encoder.run(first, first, 4).T.tolist()
    assert patterns == [[1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 1]]


@pytest.mark.parametrize("steps", [1, 3])
def test_a_threshold_out_of_reach_never_fires(steps):
    first = encoder_table.table(steps, parameters(tau=1e6, theta=2000.0))
    assert (first == 2**31 - 1).all()
