"""Packing, limbs and convolution against the plainest form there is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bestdeploy.ops import arithmetic, binary_conv, stem_conv


@given(st.integers(1, 200), st.integers(0, 2**32 - 1))
def test_bits_come_back(channels, seed):
    bits = np.random.default_rng(seed).integers(0, 2, (2, 3, channels)).astype(np.uint8)
    packed = arithmetic.pack_bits(bits)
    assert packed.shape[-1] % 8 == 0
    np.testing.assert_array_equal(arithmetic.unpack_bits(packed, channels), bits)
    words = packed.view("<u8")
    assert all(int(words[0, 0, c // 64]) >> (c % 64) & 1 == bits[0, 0, c] for c in range(channels))


@given(st.lists(st.integers(-stem_conv.LIMIT, stem_conv.LIMIT), min_size=1, max_size=20))
def test_limbs_come_back(values):
    w = np.array(values, np.int64)
    np.testing.assert_array_equal(stem_conv.from_limbs(stem_conv.to_limbs(w)), w)


def test_limbs_refuse_what_does_not_fit():
    assert stem_conv.LIMIT == 8355711
    with pytest.raises(ValueError, match="limbs"):
        stem_conv.to_limbs(np.array([2**23 + 2**16]))


@given(
    st.integers(1, 7), st.integers(1, 6), st.sampled_from([1, 3, 5]), st.integers(1, 2),
    st.integers(1, 9), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_convolution_is_the_sum(height, width, kernel, stride, channels, seed):
    rng = np.random.default_rng(seed)
    pad = kernel // 2
    x = rng.integers(0, 2, (2, 1, height, width, channels)).astype(np.uint8)
    w = rng.choice([-1, 1], (4, kernel, kernel, channels)).astype(np.int8)
    found = arithmetic.counts(x, w, [stride, stride], [pad] * 4)
    padded = np.pad(x.astype(int), ((0, 0), (0, 0), (pad, pad), (pad, pad), (0, 0)))
    for index in np.ndindex(*found.shape):
        t, b, y, c, o = index
        window = padded[t, b, y * stride : y * stride + kernel, c * stride : c * stride + kernel]
        assert found[index] == (window * w[o]).sum()


def test_signs_follow_the_exact_mean():
    w = np.array([[0.1, 0.2, 0.3]], np.float32).reshape(1, 1, 1, 3)
    centred = binary_conv.deviations(w)
    assert (np.sign(centred).ravel() == [-1, np.sign(centred.ravel()[1]), 1]).all()
    constant = np.full((1, 1, 1, 4), 0.25, np.float32)
    assert (binary_conv.binarise(constant, 1) == 1).all()
    assert (binary_conv.binarise(constant, 0) == 0).all()
