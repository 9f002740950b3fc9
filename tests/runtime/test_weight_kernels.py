# ruff: noqa: F811 - fixtures are imported by name
"""The kernels on integer weights and levels against plain numpy, as test_kernels.py has it."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import reference
from machines import Guarded
from programs import F, neuron_params
from test_kernels import (  # the fixtures
    check_spikes,
    random_spikes,
    rng,  # noqa: F401
    servers,  # noqa: F401
    spikes_out,
    version,  # noqa: F401
    words,
)

from bestdeploy.program import Constant, level_channels

WINDOWS = ((1, 1, 1, 0), (3, 3, 1, 1), (3, 2, 2, 1))  # kh, kw, stride, pad
BITS = (1, 2, 3, 4, 8, 9, 16)


def weights_of(rng, bits, o, kh, kw, i):
    """Random integers of so many bits, the ends among them."""
    low, high = (-1, 1) if bits == 1 else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    w = rng.integers(low, high + 1, (o, kh, kw, i))
    w = np.where(w == 0, 1, w) if bits == 1 else w
    w.flat[0], w.flat[-1] = low, high
    return w


class Layer:
    """Weights laid out for a kernel, its input and its sums."""

    def __init__(self, version, rng, bits, n_planes, n_t, c_in, c_out, window, rate=0.3, side=4):
        kh, kw, stride, pad = window
        self.version, self.window = version, window
        w = weights_of(rng, bits, c_out, kh, kw, c_in)
        held = Constant.of_weights(w)
        assert held.dims[0] == bits
        channels = level_channels(c_in, n_planes)
        spikes = random_spikes(rng, n_t, side, side + 1, channels, rate=rate)
        if n_planes > 1:  # bits beyond the channels of a plane are 0
            spikes.reshape(*spikes.shape[:3], n_planes, -1)[..., c_in:] = 0
        self.packed = reference.pack(spikes)
        self.n = reference.conv_counts(reference.levels_of(spikes, c_in), w, stride, pad)
        sizes = (bits, c_out, kh * kw, c_in)
        self.rows = version.memory("bst_weight_conv_rows_bytes", *sizes)
        version.call("bst_weight_conv_prepare_rows", *sizes, held.data, self.rows)
        self.rows.take()
        self.scratch = version.memory("bst_weight_conv_scratch_bytes", n_t, n_planes, kh, kw, c_in)
        self.geometry = (n_t, side, side + 1, n_planes, c_in, c_out, *window, bits)

    def check_neuron(self, rng, explicit=()):
        n_t, c_out = self.n.shape[0], self.n.shape[-1]
        size = max(1, int(np.abs(self.n).max()))
        u = rng.integers(0, min(size << 18, 2**31), c_out).astype(np.int32)
        v = rng.integers(-min(size << 17, 2**31), min(size << 17, 2**31), c_out).astype(np.int32)
        index = np.array(explicit, np.int32)
        tables = rng.integers(-size, size, (len(index), n_t * (n_t + 1) // 2)).astype(np.int32)
        theta = self.version.memory("bst_weight_conv_theta_bytes", n_t, c_out)
        named = (index, tables) if len(index) else (None, None)
        self.version.call("bst_weight_conv_prepare_theta", n_t, c_out, u, v, len(index), named[0],
                          named[1], theta)  # fmt: skip
        theta.take()
        table = reference.theta_table(n_t, u, v, *((index, tables) if len(index) else ()))
        expected = reference.conv_neuron(self.n, table)
        out = spikes_out(*expected.shape)
        self.version.run("weight_conv_neuron", *self.geometry, self.packed, self.rows, theta, out,
                         self.scratch)  # fmt: skip
        check_spikes(out, expected)
        self.scratch.take()

    def check_affine(self, rng):
        c_out = self.n.shape[-1]
        most = max(1, int(np.abs(self.n).max()))
        ai = rng.integers(-(2**30) // most, 2**30 // most + 1, c_out).astype(np.int32)
        af = rng.integers(-16384, 16385, c_out).astype(np.int16)
        b = rng.integers(-(2**20), 2**20, c_out).astype(np.int32)
        out = Guarded(self.n.shape, np.int32)
        self.version.run("weight_conv_affine", *self.geometry, self.packed, self.rows, ai, af, b,
                         out, self.scratch)  # fmt: skip
        expected = (reference.scale_count(self.n, ai, af) + b).astype(np.int32)
        np.testing.assert_array_equal(out.take(), expected)
        self.scratch.take()


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("bits", BITS)
def test_weight_conv(version, rng, bits, window):
    for n_t, c_in, c_out, n_planes in ((1, 7, 65, 1), (4, 64, 130, 1), (3, 65, 300, 3)):
        layer = Layer(version, rng, bits, n_planes, n_t, c_in, c_out, window)
        layer.check_neuron(rng, explicit=(0, c_out - 1) if c_in % 2 else ())
        layer.check_affine(rng)


@pytest.mark.parametrize("n_active", (0, 1, 254, 255, 256, 510, 511, 700))
@pytest.mark.parametrize("bits", (8, 16))
def test_sums_at_the_ends_of_their_range(version, rng, bits, n_active):
    """Every weight the least or the greatest there is, lists around the edges of a run of rows."""
    layer = Layer(version, rng, bits, 1, 2, 700, 66, (1, 1, 1, 0), side=1)
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    w = np.where(np.arange(66) % 2 == 0, low, high)[:, None, None, None] + np.zeros((1, 1, 1, 700))
    spikes = np.zeros((2, 1, 2, 700), np.uint8)
    spikes[..., rng.permutation(700)[:n_active]] = 1
    held = Constant.of_weights(w.astype(np.int64))
    version.call("bst_weight_conv_prepare_rows", bits, 66, 1, 700, held.data, layer.rows)
    layer.packed = reference.pack(spikes)
    layer.n = reference.conv_counts(spikes, w.astype(np.int64), 1, 0)
    layer.check_neuron(rng)
    layer.check_affine(rng)


LEVELS = (  # T, planes, c_in, c_out
    *((1, 1, 5, 1), (4, 2, 70, 65), (4, 4, 384, 383), (2, 8, 32, 130), (3, 3, 1170, 7)),
    *((8, 2, 129, 520), (4, 4, 546, 64), (4, 3, 64, 1100)),
)


@pytest.mark.parametrize("rate", (0.0, 0.3, 1.0))
@pytest.mark.parametrize(("n_t", "n_planes", "c_in", "c_out"), LEVELS)
def test_level_neuron(version, rng, n_t, n_planes, c_in, c_out, rate):
    """Levels and signs in the bit-sliced kernel, up to the largest sum that it takes."""
    most = (1 << n_planes) - 1
    spikes = random_spikes(rng, n_t, 1, 9, level_channels(c_in, n_planes), rate=rate)
    if n_planes > 1:
        spikes.reshape(n_t, 1, 9, n_planes, -1)[..., c_in:] = 0
    w = weights_of(rng, 1, c_out, 1, 1, c_in)
    bits = Constant.of_weights(w).data
    n = reference.conv_counts(reference.levels_of(spikes, c_in), w, 1, 0)
    sigma = max(1, int(np.sqrt((n**2).mean())))
    u = (rng.integers(-sigma, 2 * sigma, c_out) << 18).astype(np.int32)
    v = rng.integers(-(sigma << 18), sigma << 18, c_out).astype(np.int32)
    index = np.array([0, c_out - 1][: min(2, c_out)], np.int32)
    tables = rng.integers(-sigma, sigma, (len(index), n_t * (n_t + 1) // 2)).astype(np.int32)
    rows = version.memory("spike_conv.rows_bytes", c_out, 1, 1, c_in, 1)
    version.call("spike_conv.prepare_rows", c_out, 1, 1, c_in, 1, bits, rows)
    theta = version.memory("spike_conv.theta_bytes", n_t, c_out, c_in * most)
    version.call("spike_conv.prepare_theta", n_t, c_out, 1, 1, c_in, most, bits, u, v, len(index),
                 index, tables, theta)  # fmt: skip
    scratch = version.memory("spike_conv.scratch_bytes", n_t * n_planes, 9, c_out, 1, 1, c_in, 1)
    expected = reference.conv_neuron(n, reference.theta_table(n_t, u, v, index, tables))
    out = spikes_out(*expected.shape)
    version.run("spike_conv.level_neuron", n_t, 9, n_planes, c_in, c_out, reference.pack(spikes),
                rows, theta, out, scratch)  # fmt: skip
    check_spikes(out, expected)
    for memory in (rows, theta, scratch):
        memory.take()


@pytest.mark.parametrize(("d", "side", "rate"), ((34, 31, 1.0), (33, 32, 1.0), (33, 32, 0.2)))
def test_products_around_the_end_of_16_bits(version, rng, d, side, rate):
    n = side * side  # N d is 32,674 and 33,792
    q, k, v = (random_spikes(rng, 2, side, side, d, rate=rate) for _ in range(3))
    params = neuron_params(theta=0.5)
    expected = reference.product_neuron(q, k, v, 1, 4, params)
    scratch = version.memory("bst_products_scratch_bytes", 2, n, d, 1)
    out = spikes_out(*expected.shape)
    version.run("products", 2, n, d, 1, 4, *params, *(reference.pack(x) for x in (q, k, v)), out,
                scratch)  # fmt: skip
    check_spikes(out, expected)
    scratch.take()


@pytest.mark.parametrize("name", ("halving", "tau1.5-soft"))
def test_products(version, rng, name):
    params = {
        "halving": neuron_params(theta=0.5),
        "tau1.5-soft": neuron_params(1.5, 0.7, soft=True),
    }
    for n_t, side, d, heads in (
        (4, 2, 1, 3),
        (2, 9, 48, 3),
        (1, 3, 65, 2),
        (3, 8, 64, 1),
        (4, 3, 32, 2),
    ):
        q, k, v = (random_spikes(rng, n_t, side, side, d * heads) for _ in range(3))
        expected = reference.product_neuron(q, k, v, heads, F - 3, params[name])
        sizes = (n_t, side * side, d * heads, heads)
        scratch = version.memory("bst_products_scratch_bytes", *sizes)
        out = spikes_out(*expected.shape)
        spikes = [reference.pack(x) for x in (q, k, v)]
        version.run("products", *sizes, F - 3, *params[name], *spikes, out, scratch)
        check_spikes(out, expected)
        scratch.take()


@pytest.mark.parametrize("channels", (1, 64, 130))
def test_levels(version, rng, channels):
    for planes in ((1, 1, 2), (2, 1, 2), (3, 3, 4), (2, 3, 1)):
        wide = [level_channels(channels, n) for n in planes]
        a, b = (random_spikes(rng, 2, 3, 2, c) for c in wide[:2])
        for bits, n in ((a, planes[0]), (b, planes[1])):
            if n > 1:
                bits.reshape(2, 3, 2, n, -1)[..., channels:] = 0
        expected = reference.level_add(a, b, channels, wide[2])
        out = spikes_out(*expected.shape)
        packed = reference.pack(a), reference.pack(b)
        version.run("bst_level_add", ctypes.c_size_t(12), words(channels), *planes, *packed, out)
        check_spikes(out, expected)
        v = rng.integers(-(2**20), 2**20, (3, channels)).astype(np.int32)
        c = rng.integers(-(2**50), 2**50, 3)
        raw = Guarded((3,), np.int64)
        scratch = version.memory("bst_level_readout_scratch_bytes", channels)
        sizes = (ctypes.c_size_t(12), planes[0], channels, 3, F, 5)
        version.run("bst_level_readout", *sizes, packed[0], v, c, raw, scratch)
        levels = reference.levels_of(a, channels)
        np.testing.assert_array_equal(raw.take(), reference.level_readout(levels, v, c, 5))
