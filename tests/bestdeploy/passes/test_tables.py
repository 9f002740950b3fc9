"""The integer constants against exact rationals: thresholds, stem, affine, lambda, read-out."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bestdeploy.errors import PassError
from bestdeploy.ops import lif, stem_conv, stream_affine, threshold_neuron
from bestdeploy.passes import (
    integer_readout,
    integer_stem,
    integer_stream,
    lambda_tables,
    threshold_tables,
)

gains = st.one_of(st.just(0.0), st.floats(1e-3, 3))
shifts = st.floats(-4, 4)


@given(gains, shifts, st.integers(1, 60), st.integers(0, 60), st.integers(1, 6),
       st.sampled_from([1.0, 0.5]), st.booleans(), st.integers(0, 2**32 - 1))  # fmt: skip
def test_threshold_table_fires_as_the_rational_neuron(a, b, plus, minus, steps, theta, decay, seed):
    half = Fraction(theta) if decay else Fraction(theta) / 2
    table = threshold_tables.table(
        np.array([a]), np.array([b]), np.array([-minus]), np.array([plus]), half, steps
    )
    n = np.random.default_rng(seed).integers(-minus, plus + 1, (steps, 50, 1)).astype(np.int32)
    (found,) = threshold_neuron.reference(n, table, n_steps=steps)
    for i in range(n.shape[1]):
        v = Fraction(0)
        for t in range(steps):
            x = Fraction(a) * int(n[t, i, 0]) + Fraction(b)
            h = (v + x) / 2 if decay else v / 2 + x
            spike = h >= Fraction(theta)
            assert found[t, i, 0] == spike
            v = Fraction(0) if spike else h


def test_negative_gains_are_turned_into_negated_rows():
    """-3 n + b with +-1 weights is 3 n' + b with the weights negated."""
    n = np.arange(-9, 10, dtype=np.int32).reshape(1, -1, 1)
    settings = {"tau": 2.0, "v_threshold": 1.0, "v_reset": 0.0, "soft_reset": 0, "decay_input": 1}
    x = (-3.0 * n + 1.5).reshape(1, -1, 1, 1, 1)
    (wanted,) = lif.reference(x, n_steps=1, **settings)
    table = threshold_tables.table(
        np.array([3.0]), np.array([1.5]), np.array([-9]), np.array([9]), Fraction(1), 1
    )
    (found,) = threshold_neuron.reference(-n, table, n_steps=1)
    np.testing.assert_array_equal(found.ravel(), wanted.ravel())


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_stem_equals_the_rational_convolution(height, width, channels, seed):
    rng = np.random.default_rng(seed)
    w = rng.normal(0, 0.5, (2, 3, 3, channels))
    a, b = rng.normal(0, 2, 2), rng.normal(0, 1, 2)
    mean, std = rng.uniform(0.2, 0.6, channels), rng.uniform(0.2, 0.5, channels)
    bits = 20
    classes = [integer_stem.border_classes(s, 3, 1, 1, 1) for s in (height, width)]
    image = rng.integers(0, 256, (1, height, width, channels)).astype(np.uint8)
    limbs, bias, shift = [], np.zeros((len(classes[0][0]), len(classes[1][0]), 2), np.int64), []
    for o in range(2):
        scale = [Fraction(a[o]) / (255 * Fraction(s)) for s in std]
        weights, e = integer_stem.quantise_channel(w[o], scale, bits)
        assert np.abs(weights).max() <= stem_conv.LIMIT
        assert e == 24 or np.abs(weights).max() > stem_conv.LIMIT // 3
        limbs.append(weights)
        shift.append(e)
        for r, ys in enumerate(classes[0][0]):
            for c, xs in enumerate(classes[1][0]):
                drop = sum(
                    (Fraction(a[o]) * Fraction(w[o, y, x, i]) * Fraction(mean[i]) / Fraction(std[i])
                     for y in ys for x in xs for i in range(channels)), Fraction(0))  # fmt: skip
                bias[r, c, o] = round((Fraction(b[o]) - drop) * 2 ** (bits + e))
    (found,) = stem_conv.reference(
        image, stem_conv.to_limbs(np.stack(limbs)), bias, classes[0][1], classes[1][1],
        np.array(shift), strides=[1, 1], pads=[1, 1, 1, 1],
    )  # fmt: skip
    x = np.pad((image / 255 - mean) / std, ((0, 0), (1, 1), (1, 1), (0, 0)))
    for index in np.ndindex(*found.shape):
        _, y, c, o = index
        real = a[o] * (x[0, y : y + 3, c : c + 3] * w[o]).sum() + b[o]
        # Every weight and the bias are off by half a unit of 2^-(F+e), the shift by half of 2^-F.
        units = (9 * channels * 255 / 2 + 0.5) * 2.0 ** -shift[o] + 0.5
        assert abs(found[index] - real * 2.0**bits) <= units + 1e-3


def test_border_classes_of_narrow_images():
    taps, index = integer_stem.border_classes(1, 3, 1, 1, 1)
    assert taps == [(1,)]
    assert index.tolist() == [0]
    taps, index = integer_stem.border_classes(5, 3, 1, 1, 1)
    assert taps == [(1, 2), (0, 1, 2), (0, 1)]
    assert index.tolist() == [0, 1, 1, 1, 2]


def test_stem_weights_beyond_three_limbs_are_refused():
    with pytest.raises(PassError, match="limbs"):
        integer_stem.quantise_channel(np.full((1, 1, 1), 1e9), [Fraction(1)], 20)


@given(st.floats(-100, 100), st.floats(-100, 100), st.integers(-5000, 5000))
def test_affine_is_close_and_rounds_as_written(a, b, n):
    whole, fraction, shift = integer_stream.affine_constants(np.array([a]), np.array([b]), 15)
    found = int(stream_affine.apply(np.array([n]), whole, fraction, shift)[0])
    exact = (Fraction(a) * n + Fraction(b)) * 2**15
    assert abs(found - exact) <= 1 + abs(n) * Fraction(1, 2**16) + Fraction(1, 2)
    part = (n * int(fraction[0]) + 2**14) >> 15
    assert found == n * int(whole[0]) + part + int(shift[0])


def test_lambda_table_rounds_half_to_even():
    gain = np.array([[2.0**-21, -(2.0**-21), 0.0, 0.125]])
    table = lambda_tables.table(gain, 4, 20)
    assert table[0, 0].tolist() == [0, 0, 1, 2, 2]
    assert table[0, 1].tolist() == [0, 0, -1, -2, -2]
    assert table[0, 2].tolist() == [0] * 5
    assert table[0, 3].tolist() == [m << 17 for m in range(5)]


def test_head_weights_are_rounded_once_and_bounded():
    w = np.array([[0.3, -0.7]])
    v = integer_readout.weights(w, positions=49 * 4, q=8)
    assert v.shape == (2, 1)
    assert v[0, 0] == round(Fraction(0.3) * Fraction(2**28, 196))
    with pytest.raises(PassError, match="head weight"):
        integer_readout.weights(np.array([[1e6]]), positions=1, q=0)
