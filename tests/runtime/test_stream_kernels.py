# ruff: noqa: F811 - fixtures are imported by name
"""The kernels on streams and levels against plain numpy, as test_kernels.py has it."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import reference
from machines import Guarded
from test_kernels import (  # the fixtures
    check_spikes,
    random_spikes,
    rng,  # noqa: F401
    servers,  # noqa: F401
    spikes_out,
    version,  # noqa: F401
)
from test_weight_kernels import weights_of

from bestdeploy.program import Constant, level_channels

CHANNELS = (1, 15, 64, 65, 130)
I32 = np.iinfo(np.int32)


def n(value):
    return ctypes.c_size_t(value)


def stream_of(rng, *shape):
    """Every int32 is as likely as another; the ends are among them."""
    x = rng.integers(I32.min, I32.max + 1, shape).astype(np.int32)
    x.flat[0], x.flat[-1] = I32.min, I32.max
    return x


def levels_of(rng, n_planes, channels, *cells):
    """Random levels as bits and as packed planes."""
    level = rng.integers(0, 1 << n_planes, (*cells, channels))
    return level, reference.pack(reference.planes_of(level, n_planes))


# ---- sums, means, neurons of several levels -----------------------------------------------------


@pytest.mark.parametrize("n_items", (1, 63, 1000))
def test_stream_add(version, rng, n_items):
    y, x0, x1 = (stream_of(rng, n_items) for _ in range(3))
    expected = reference.residual(y, x0, x1)
    out = Guarded((n_items,), np.int32)
    version.run("bst_stream_add", n(n_items), y, x0, x1, out)
    np.testing.assert_array_equal(out.take(), expected)
    place = Guarded((n_items,), np.int32)  # x2 in the place of y
    place.memory[64 : 64 + 4 * n_items] = y.view(np.uint8)
    version.run("bst_stream_add", n(n_items), place, x0, x1, place)
    np.testing.assert_array_equal(place.take(), expected)


@pytest.mark.parametrize("cells", (1, 2, 49))
@pytest.mark.parametrize("channels", CHANNELS)
def test_stream_mean(version, rng, channels, cells):
    for x in (
        stream_of(rng, 3, cells, channels),
        rng.integers(-2, 2, (3, cells, channels)).astype(np.int32),  # ties of the rounding
        np.full((3, cells, channels), I32.min, np.int32),
        np.full((3, cells, channels), I32.max, np.int32),
    ):
        total = x.sum(axis=1, dtype=np.int64)
        out = Guarded((3, channels), np.int32)
        version.run("bst_stream_mean", 3, n(cells), channels, x, out)
        np.testing.assert_array_equal(out.take(), (2 * total + cells) // (2 * cells))


@pytest.mark.parametrize("shared", (False, True))
@pytest.mark.parametrize("n_levels", (1, 2, 3, 4, 7, 8, 15))
def test_stream_levels(version, rng, n_levels, shared):
    for channels in CHANNELS:
        x = stream_of(rng, 2, 3, 2, channels)
        theta = stream_of(rng, n_levels, 1 if shared else channels)
        x.flat[1::3] = np.resize(theta, x.flat[1::3].shape)  # many on a threshold
        for falling in (None, rng.integers(0, 3, channels).astype(np.uint8)):
            expected = reference.stream_levels(x, theta, falling)
            out = spikes_out(*expected.shape)
            version.run("bst_stream_levels", n(12), channels, n_levels, theta.shape[1],
                        version.table("stream_inner"), theta, falling, x, out)  # fmt: skip
            check_spikes(out, expected)


# ---- depthwise convolution ----------------------------------------------------------------------

WINDOWS = ((1, 1, 1, 0), (3, 3, 1, 1), (2, 3, 2, 1), (7, 7, 2, 3), (5, 2, 3, 0))


def depthwise_case(version, rng, x, packed, n_planes, bits, window):
    """Run on `packed`, which holds the whole numbers x, and compare."""
    kh, kw, stride, pad = window
    n_t, height, width, c = x.shape
    w = Constant.of_weights(weights_of(rng, bits, 1, kh, kw, c))
    ai = stream_of(rng, c)
    af = rng.integers(-16384, 16385, c).astype(np.int16)
    b = stream_of(rng, c)
    sums = reference.depthwise(x, w, (stride, pad, kh, kw))
    with np.errstate(over="ignore"):
        expected = (reference.scale_count(sums, ai, af) + b).astype(np.int32)
    shape = (n_t, height, width, c, n_planes, kh, kw, stride, pad, *sums.shape[1:3])
    sizes = np.array(shape, np.int32)
    rows = version.memory("bst_depthwise_rows_bytes", kh * kw, c)
    version.call("bst_depthwise_prepare", w.dims[0], kh * kw, c, w.data, rows)
    scratch = version.memory("bst_depthwise_scratch_bytes", sizes)
    out = Guarded(sums.shape, np.int32)
    version.run("bst_depthwise_affine", sizes, version.table("stream_inner"), packed, rows, ai, af,
                b, out, scratch)  # fmt: skip
    np.testing.assert_array_equal(out.take(), expected)
    for memory in (rows, scratch):
        memory.take()


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("bits", (1, 2, 4, 8, 16))
def test_depthwise(version, rng, bits, window):
    for c in (1, 17, 64, 130):
        x = rng.integers(-(2**30), 2**30, (2, 7, 9, c)).astype(np.int32)  # sums wrap
        depthwise_case(version, rng, x, x, 0, bits, window)
        for n_planes in (1, 3):
            level, packed = levels_of(rng, n_planes, c, 2, 7, 9)
            depthwise_case(version, rng, level, packed, n_planes, bits, window)


def test_bits_behind_the_channels_count_for_nothing(version, rng):
    """Two planes of 40 channels read from spikes of 128, as no export does."""
    spikes = random_spikes(rng, 2, 4, 5, 128, rate=0.9)
    level = reference.levels_of(spikes, 40)
    depthwise_case(version, rng, level, reference.pack(spikes), 2, 4, (3, 3, 1, 1))
    out = Guarded((2, 20, 40), np.int32)
    scratch = version.memory("bst_level_products_scratch_bytes", 20, 40, 5)
    packed = reference.pack(spikes)
    version.run("bst_level_products", 2, 20, 40, 2, 5, version.table("stream_inner"), packed,
                packed, packed, out, scratch)  # fmt: skip
    expected = reference.level_products(level, level, level, 5)
    np.testing.assert_array_equal(out.take(), expected.reshape(2, 20, 40))
    scratch.take()


# ---- 1x1 convolution of a stream ----------------------------------------------------------------


def stream_conv_case(version, rng, x, w, gain, shift):
    """x [cells, I], w [O, I]."""
    (n_cells, n_in), n_out = x.shape, len(w)
    held = Constant.of_weights(w[:, None, None])
    bits = held.dims[0]
    rows = version.memory("bst_stream_conv_rows_bytes", n_out, n_in)
    bias = version.memory("bst_stream_conv_bias_bytes", n_out)
    version.call("bst_stream_conv_prepare", bits, n_out, n_in, held.data, rows, bias)
    scratch = version.memory("bst_stream_conv_scratch_bytes", n_in)
    offset = stream_of(rng, n_out)
    out = Guarded((n_cells, n_out), np.int32)
    version.run("bst_stream_conv", n(n_cells), bits, n_in, n_out, version.table("stream_inner"), x,
                rows, bias, gain, shift, offset, out, scratch)  # fmt: skip
    expected = reference.stream_conv(x, w, gain, shift, offset)
    np.testing.assert_array_equal(out.take(), expected)
    for memory in (rows, bias, scratch):
        memory.take()


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("n_out", (1, 64, 130))
def test_stream_conv(version, rng, n_out, bits):
    for n_cells, n_in in ((1, 1), (3, 2), (4, 7), (5, 64), (9, 129)):
        w = weights_of(rng, bits, n_out, 1, 1, n_in).reshape(n_out, n_in)
        if w.size == 1:
            w[:] = -1 if bits == 1 else -(1 << (bits - 1))
        shift = rng.integers(0, 63, n_out).astype(np.uint8)
        shift[0] = rng.choice((0, 62))
        x = stream_of(rng, n_cells, n_in)
        stream_conv_case(version, rng, x, w, stream_of(rng, n_out), shift)


@pytest.mark.parametrize("n_in", (509, 510, 511, 512, 1021, 1400))
@pytest.mark.parametrize("low", (-(2**31), -(2**31) + 2**15, 2**31 - 1, -1, 0x7FFF, 2**15))
def test_stream_conv_at_the_ends_of_its_sums(version, rng, n_in, low):
    """The largest weights of 8 bits on one input: both halves at their ends, around a whole run."""
    x = np.full((2, n_in), low, np.int32)
    x[1] = ~x[1]
    w = np.where(np.arange(5) % 2 == 0, -128, 127)[:, None] + np.zeros((1, n_in), np.int64)
    gain, shift = np.ones(5, np.int32), np.array([0, 1, 9, 30, 40], np.uint8)
    stream_conv_case(version, rng, x, w, gain, shift)


# ---- products of levels -------------------------------------------------------------------------


@pytest.mark.parametrize("n_planes", (1, 2, 3, 4))
def test_level_products(version, rng, n_planes):
    sizes = ((1, 1, 1, 1), (2, 9, 15, 5), (3, 16, 64, 1), (2, 4, 130, 2), (1, 49, 192, 3))
    for n_t, n_tokens, c, heads in sizes:
        values = [levels_of(rng, n_planes, c, n_t, n_tokens, 1) for _ in range(3)]
        expected = reference.level_products(*(level for level, _ in values), heads)
        scratch = version.memory("bst_level_products_scratch_bytes", n_tokens, c, heads)
        out = Guarded((n_t, n_tokens, c), np.int32)
        version.run("bst_level_products", n_t, n_tokens, c, n_planes, heads,
                    version.table("stream_inner"), *(packed for _, packed in values), out,
                    scratch)  # fmt: skip
        np.testing.assert_array_equal(out.take(), expected.reshape(out.shape))
        scratch.take()


def test_level_products_of_zeros(version):
    zeros = np.zeros((2, 9, level_channels(70, 3) // 64), np.uint64)
    scratch = version.memory("bst_level_products_scratch_bytes", 9, 70, 2)
    out = Guarded((2, 9, 70), np.int32)
    version.run("bst_level_products", 2, 9, 70, 3, 2, version.table("stream_inner"), zeros, zeros,
                zeros, out, scratch)  # fmt: skip
    assert not out.take().any()
