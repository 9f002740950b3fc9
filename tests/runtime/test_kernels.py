"""Each C kernel against plain numpy, bit for bit, at awkward sizes, with guards around outputs."""

from __future__ import annotations

import ctypes
import zlib

import numpy as np
import pytest
import reference
from conftest import aligned
from programs import F, neuron_params

CHANNELS = (1, 7, 63, 64, 65, 130)
STEPS = (1, 2, 4, 8)
GUARD = 0xA5
GUARD_BYTES = 64

NEURONS = {
    "halving": neuron_params(),
    "halving-soft": neuron_params(soft=True),
    "halving-no-decay": neuron_params(decay_input=False),
    "tau1.5": neuron_params(tau=1.5, theta=0.7),
    "tau1.5-soft": neuron_params(tau=1.5, soft=True),
    "tau1.5-no-decay": neuron_params(tau=1.5, decay_input=False),
    "tau1.5-no-decay-soft": neuron_params(tau=1.5, decay_input=False, soft=True),
    "reset-0.3": neuron_params(v_reset=-0.3, theta=0.5),
    "tau3-reset": neuron_params(tau=3.0, v_reset=0.25),
}


class Guarded:
    """Output memory between two guards; `take` checks them and returns the values."""

    def __init__(self, shape, dtype):
        self.shape, self.dtype = shape, np.dtype(dtype)
        self.n_bytes = int(np.prod(shape)) * self.dtype.itemsize
        self.memory = aligned(self.n_bytes + 2 * GUARD_BYTES)
        self.memory[:] = GUARD

    @property
    def _as_parameter_(self):
        return ctypes.c_void_p(self.memory.ctypes.data + GUARD_BYTES)

    def take(self):
        inner = slice(GUARD_BYTES, GUARD_BYTES + self.n_bytes)
        outside = np.delete(self.memory, np.arange(inner.start, inner.stop))
        assert (outside == GUARD).all(), "wrote outside its output"
        return self.memory[inner].copy().view(self.dtype).reshape(self.shape)


def ptr(array):
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)


def call(function, *arguments):
    """Call with ints as int32, arrays and Guarded as pointers, SizeT as is."""
    converted = [ptr(a) if isinstance(a, np.ndarray) else a for a in arguments]
    function.restype = None
    function(*converted)


def scratch(function, *arguments):
    """Guarded scratch of the size that the kernel asks for."""
    function.restype = ctypes.c_size_t
    return Guarded((int(function(*arguments)),), np.uint8)


def random_spikes(rng, *shape, rate=0.3):
    return (rng.random(shape) < rate).astype(np.uint8)


def words(c):
    return -(-c // 64)


def spikes_out(t, h, w, c):
    return Guarded((t, h, w, words(c)), "<u8")


def check_spikes(out, expected):
    got = reference.unpack(out.take(), expected.shape[-1])
    np.testing.assert_array_equal(got, expected)


@pytest.fixture
def rng(request):
    return np.random.default_rng(zlib.crc32(request.node.name.encode()))


# ---- stream_neuron ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NEURONS)
@pytest.mark.parametrize("n_t", STEPS)
def test_stream_neuron(kernels, rng, name, n_t):
    params = NEURONS[name]
    for c in CHANNELS:
        x = rng.integers(-(2 << F), 4 << F, (n_t, 3, 2, c)).astype(np.int32)
        out = spikes_out(n_t, 3, 2, c)
        call(kernels.bst_stream_neuron__scalar, n_t, ctypes.c_size_t(6), c, *params, x, out)
        check_spikes(out, reference.neuron(x, params))


@pytest.mark.parametrize("name", NEURONS)
def test_stream_neuron_at_the_ends_of_int32(kernels, rng, name):
    ends = np.array([-(2**31), -(2**31) + 1, -1, 0, 1, 2**31 - 2, 2**31 - 1], np.int64)
    x = rng.choice(ends, (8, 5, 1, 65)).astype(np.int32)
    flags, _, _, r = NEURONS[name]
    for theta, v_reset in ((1, 0), (2**31 - 1, -(2**31)), (-(2**31), 2**31 - 1)):
        params = (flags, theta, v_reset, r)
        out = spikes_out(8, 5, 1, 65)
        call(kernels.bst_stream_neuron__scalar, 8, ctypes.c_size_t(5), 65, *params, x, out)
        check_spikes(out, reference.neuron(x, params))


@pytest.mark.parametrize("same_input", (False, True))
@pytest.mark.parametrize("c", CHANNELS)
def test_residual_neuron(kernels, rng, c, same_input):
    shape = (4, 2, 3, c)
    y, x0, x1 = (rng.integers(-(2 << F), 3 << F, shape).astype(np.int32) for _ in range(3))
    x1 = x0 if same_input else x1
    stream, out = Guarded(shape, np.int32), spikes_out(*shape)
    params = NEURONS["halving"]
    kernel = kernels.bst_residual_neuron__scalar
    call(kernel, 4, ctypes.c_size_t(6), c, *params, y, x0, x1, stream, out)
    expected = reference.residual(y, x0, x1)
    np.testing.assert_array_equal(stream.take(), expected)
    check_spikes(out, reference.neuron(expected, params))


# ---- or_pool ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel, stride, pad", ((2, 2, 0), (3, 2, 1), (3, 1, 1), (1, 1, 0)))
@pytest.mark.parametrize("c", CHANNELS)
def test_or_pool(kernels, rng, c, kernel, stride, pad):
    spikes = random_spikes(rng, 2, 7, 6, c, rate=0.1)
    expected = reference.or_pool(spikes, kernel, stride, pad)
    out = spikes_out(*expected.shape)
    packed = reference.pack(spikes)
    call(kernels.bst_or_pool__scalar, 2, 7, 6, words(c), kernel, stride, pad, packed, out)
    check_spikes(out, expected)


# ---- stem_neuron --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ("halving", "halving-no-decay", "tau1.5-soft"))
@pytest.mark.parametrize(
    "k, stride, pad, side", ((3, 1, 1, 5), (3, 2, 1, 6), (1, 1, 0, 3), (5, 2, 2, 7), (4, 4, 0, 8))
)
def test_stem_neuron(kernels, rng, k, stride, pad, side, name):
    params = NEURONS[name]
    for o in CHANNELS:
        cin, n_t = int(rng.integers(1, 5)), 4
        image = rng.integers(0, 256, (side, side + 1, cin)).astype(np.uint8)
        weight = rng.integers(-8355711, 8355712, (o, k, k, cin)).astype(np.int32)
        out_h, out_w = (side + 2 * pad - k) // stride + 1, (side + 1 + 2 * pad - k) // stride + 1
        bias = rng.integers(-(1 << 40), 1 << 40, (4, o))
        shift = rng.integers(0, 25, o).astype(np.uint8)
        bias >>= 24 - shift.astype(np.int64)
        rows = rng.integers(0, 2, out_h).astype(np.uint8)
        cols = rng.integers(0, 2, out_w).astype(np.uint8)
        kernels.bst_stem_neuron_weight_bytes.restype = ctypes.c_size_t
        n_bytes = kernels.bst_stem_neuron_weight_bytes(o, k, k, cin)
        prepared = Guarded((n_bytes,), np.uint8)
        call(kernels.bst_stem_neuron_prepare_weight, o, k, k, cin, weight, prepared)
        prepared.take()
        out = spikes_out(n_t, out_h, out_w, o)
        call(
            kernels.bst_stem_neuron__scalar,
            *(n_t, side, side + 1, cin, o, k, k, stride, pad, *params),
            *(image, prepared, bias, shift, rows, cols, 2, out),
        )
        expected = reference.stem_neuron(
            image, weight, bias, shift, rows, cols, stride, pad, 2, n_t, params
        )
        check_spikes(out, expected)


# ---- spike_conv ---------------------------------------------------------------------------------

WINDOWS = ((1, 1, 1, 0), (3, 3, 1, 1), (3, 3, 2, 1), (5, 5, 1, 2), (2, 3, 2, 0))


def conv_case(kernels, rng, n_t, c_in, c_out, window, rate=0.3, side=5):
    kh, kw, stride, pad = window
    spikes = random_spikes(rng, n_t, side, side + 1, c_in, rate=rate)
    bits = rng.random((c_out, kh, kw, c_in)) < 0.5
    packed = np.ascontiguousarray(np.packbits(bits, axis=-1, bitorder="little"))
    rows = scratch(kernels.bst_spike_conv_rows_bytes, c_out, kh, kw, c_in)
    call(kernels.bst_spike_conv_prepare_rows, c_out, kh, kw, c_in, packed, rows)
    rows.take()
    n = reference.conv_counts(spikes, 2 * bits.astype(np.int8) - 1, stride, pad)
    geometry = (n_t, side, side + 1, c_in, c_out, kh, kw, stride, pad)
    space = scratch(kernels.bst_spike_conv_scratch_bytes, n_t, kh, kw, c_in)
    return spikes, rows, n, geometry, space


def check_conv_neuron(kernels, rng, n_t, c_in, c_out, window, rate=0.3, explicit=False):
    spikes, rows, n, geometry, space = conv_case(kernels, rng, n_t, c_in, c_out, window, rate)
    sigma = max(1, int(np.sqrt((n**2).mean())))
    u = rng.integers(-sigma, 4 * sigma, c_out) << 18
    u = (u + rng.integers(0, 1 << 18, c_out)).astype(np.int32)
    w = rng.integers(-(sigma << 18), sigma << 18, c_out).astype(np.int32)
    index, tables = np.zeros(0, np.int32), np.zeros((0, n_t * (n_t + 1) // 2), np.int32)
    if explicit:
        index = np.flatnonzero(rng.random(c_out) < 0.3).astype(np.int32)
        tables = rng.integers(-sigma, 4 * sigma, (len(index), tables.shape[1])).astype(np.int32)
    theta = scratch(kernels.bst_spike_conv_theta_bytes, n_t, c_out)
    prepare = kernels.bst_spike_conv_prepare_theta
    call(prepare, n_t, c_out, u, w, len(index), index, tables, theta)
    theta.take()
    expected = reference.conv_neuron(n, reference.theta_table(n_t, u, w, index, tables))
    out = spikes_out(*expected.shape)
    packed = reference.pack(spikes)
    call(kernels.bst_spike_conv_neuron__scalar, *geometry, packed, rows, theta, out, space)
    check_spikes(out, expected)
    space.take()
    return expected.mean()


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("n_t", STEPS)
def test_conv_neuron(kernels, rng, n_t, window):
    rates = [
        check_conv_neuron(kernels, rng, n_t, c_in, c_out, window, explicit=c_in % 2 == 0)
        for c_in, c_out in zip(CHANNELS, CHANNELS[::-1], strict=True)
    ]
    assert 0.02 < np.mean(rates) < 0.98


@pytest.mark.parametrize("rate", (0.0, 0.02, 0.97, 1.0))
@pytest.mark.parametrize("c_out", (600, 512, 513))
def test_conv_neuron_wide(kernels, rng, c_out, rate):
    """More than one pass of 512 lanes, empty and full lists, more than 8 planes."""
    check_conv_neuron(kernels, rng, 4, 96, c_out, (3, 3, 1, 1), rate=rate)


@pytest.mark.parametrize("n_active", (0, 1, 7, 8, 9, 15, 16, 255, 256, 257))
def test_conv_list_lengths(kernels, rng, n_active):
    """The edges of a group of rows and of a byte of planes: one input pixel, n_active spikes."""
    c_in, c_out = 300, 70
    spikes = np.zeros((1, 1, 1, c_in), np.uint8)
    spikes[..., rng.permutation(c_in)[:n_active]] = 1
    bits = np.ones((c_out, 1, 1, c_in), bool)
    bits[::2] = rng.random((c_out // 2, 1, 1, c_in)) < 0.5
    packed = np.ascontiguousarray(np.packbits(bits, axis=-1, bitorder="little"))
    rows = scratch(kernels.bst_spike_conv_rows_bytes, c_out, 1, 1, c_in)
    call(kernels.bst_spike_conv_prepare_rows, c_out, 1, 1, c_in, packed, rows)
    space = scratch(kernels.bst_spike_conv_scratch_bytes, 1, 1, 1, c_in)
    out = Guarded((1, 1, 1, c_out), np.int32)
    ai, af, b = np.ones(c_out, np.int32), np.zeros(c_out, np.int16), np.zeros(c_out, np.int32)
    call(
        kernels.bst_spike_conv_affine__scalar,
        *(1, 1, 1, c_in, c_out, 1, 1, 1, 0, reference.pack(spikes), rows, ai, af, b, out, space),
    )
    expected = reference.conv_counts(spikes, 2 * bits.astype(np.int8) - 1, 1, 0)
    np.testing.assert_array_equal(out.take(), expected)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("n_t", (1, 4))
def test_conv_affine(kernels, rng, n_t, window):
    for c_in, c_out in zip(CHANNELS, CHANNELS[::-1], strict=True):
        spikes, rows, n, geometry, space = conv_case(kernels, rng, n_t, c_in, c_out, window)
        ai = rng.integers(-(1 << 19), 1 << 19, c_out).astype(np.int32)
        af = rng.integers(-16384, 16385, c_out).astype(np.int16)
        b = rng.integers(-(1 << 24), 1 << 24, c_out).astype(np.int32)
        out = Guarded(n.shape, np.int32)
        packed = reference.pack(spikes)
        call(kernels.bst_spike_conv_affine__scalar, *geometry, packed, rows, ai, af, b, out, space)
        expected = (reference.scale_count(n, ai, af) + b).astype(np.int32)
        np.testing.assert_array_equal(out.take(), expected)
        space.take()


# ---- spike_attention ----------------------------------------------------------------------------

ATTENTION = ((1, 1, 1), (7, 2, 14), (16, 3, 96), (64, 12, 384), (65, 2, 130), (130, 1, 7))


@pytest.mark.parametrize("n, heads, d", ATTENTION)
@pytest.mark.parametrize("form", (0, 1))
@pytest.mark.parametrize("n_t", STEPS)
def test_score(kernels, rng, n_t, form, n, heads, d):
    q, k = (random_spikes(rng, n_t, 1, n, d) for _ in range(2))
    thr1 = int(rng.integers(1, 4)) if form == 0 else 0
    params = (0, 0, 0, 0) if form == 0 else neuron_params(tau=1.5, soft=True)
    expected = reference.score_neuron(q, k, heads, form, thr1, F, params)
    out = spikes_out(*expected.shape)
    space = scratch(kernels.bst_spike_attention_score_scratch_bytes, n_t, n, d, heads)
    call(
        kernels.bst_spike_attention_score__scalar,
        *(n_t, n, d, heads, form, thr1, F, *params),
        *(reference.pack(q), reference.pack(k), out, space),
    )
    check_spikes(out, expected)
    space.take()


@pytest.mark.parametrize("thr1", (1, 5, (1 << 31) - 1))
def test_score_thresholds(kernels, rng, thr1):
    q, k = (random_spikes(rng, 8, 1, 9, 200, rate=0.8) for _ in range(2))
    expected = reference.score_neuron(q, k, 2, 0, thr1, F, (0, 0, 0, 0))
    out = spikes_out(*expected.shape)
    space = scratch(kernels.bst_spike_attention_score_scratch_bytes, 8, 9, 200, 2)
    call(
        kernels.bst_spike_attention_score__scalar,
        *(8, 9, 200, 2, 0, thr1, F, 0, 0, 0, 0, reference.pack(q), reference.pack(k), out, space),
    )
    check_spikes(out, expected)


@pytest.mark.parametrize("n, heads, d", ATTENTION)
@pytest.mark.parametrize("n_t", STEPS)
def test_value(kernels, rng, n_t, n, heads, d):
    attention = random_spikes(rng, n_t, heads, n, n)
    v = random_spikes(rng, n_t, 1, n, d)
    table = rng.integers(-(1 << F), 3 << F, (n_t, heads, n + 1)).astype(np.int32)
    for params in (neuron_params(), neuron_params(tau=1.5)):
        expected = reference.value_neuron(attention, v, heads, table, params)
        out = spikes_out(*expected.shape)
        space = scratch(kernels.bst_spike_attention_value_scratch_bytes, n_t, n, d, heads)
        call(
            kernels.bst_spike_attention_value__scalar,
            *(n_t, n, d, heads, *params, reference.pack(attention), reference.pack(v), table),
            *(out, space),
        )
        check_spikes(out, expected)
        space.take()


def test_value_table_is_exact(kernels, rng):
    """rint(gain * m * 2^exponent): ties to even, any exponent, both signs."""
    from fractions import Fraction

    scale = kernels.bst_spike_attention_scale
    scale.restype = ctypes.c_int64
    cases = [
        (int(g), int(m), int(e))
        for g, m, e in zip(
            rng.integers(-(1 << 52) + 1, 1 << 52, 3000),
            rng.integers(0, 1025, 3000),
            rng.integers(-75, 3, 3000),
            strict=True,
        )
    ]
    cases += [(g, m, e) for g in (-3, -2, -1, 0, 1, 2, 3) for m in (1, 3, 5) for e in range(-4, 3)]
    cases += [((1 << 52) - 1, 1024, e) for e in (-64, -63, -62, -61, -(2**31))]
    cases += [(-(1 << 51), 1024, e) for e in (-64, -63, -62, -61)]
    for gain, m, exponent in cases:
        exact = round(Fraction(gain) * m * Fraction(2) ** max(exponent, -200))
        got = scale(ctypes.c_int64(gain), m, exponent)
        if abs(exact) < 1 << 62:
            assert got == exact, (gain, m, exponent)
    assert scale(ctypes.c_int64(1), 1, 2**31 - 1) == (1 << 63) - 1
    assert scale(ctypes.c_int64(0), 5, 2**31 - 1) == 0


# ---- readout ------------------------------------------------------------------------------------


@pytest.mark.parametrize("e", CHANNELS)
@pytest.mark.parametrize("d", CHANNELS)
def test_readout(kernels, rng, d, e):
    n_t, h, w, k, q = 3, 2, 3, 5, 5
    x2, x1 = (rng.integers(-(1 << 28), 1 << 28, (n_t, h, w, d)).astype(np.int32) for _ in range(2))
    hidden = random_spikes(rng, n_t, h, w, e)
    bits = rng.random((d, 1, 1, e)) < 0.5
    packed = np.ascontiguousarray(np.packbits(bits, axis=-1, bitorder="little"))
    ai = rng.integers(-(2**31), 2**31, d).astype(np.int32)
    af = rng.integers(-16384, 16385, d).astype(np.int16)
    b = rng.integers(-(1 << 31), 1 << 31, d).astype(np.int32)
    v0, v1 = (rng.integers(-(1 << 12), 1 << 12, (k, d)).astype(np.int32) for _ in range(2))
    c = rng.integers(-(1 << 50), 1 << 50, k)
    raw = Guarded((k,), np.int64)
    space = scratch(kernels.bst_readout_scratch_bytes, d, e)
    call(
        kernels.bst_readout__scalar,
        *(n_t, ctypes.c_size_t(h * w), d, e, k, q, x2, x1, reference.pack(hidden), packed),
        *(ai, af, b, v0, v1, c, raw, space),
    )
    signs = 2 * bits.astype(np.int8) - 1
    expected = reference.readout(x2, x1, hidden, signs, ai, af, b, v0, v1, c, q)
    np.testing.assert_array_equal(raw.take(), expected)
    space.take()
