"""Each C kernel against plain numpy, bit for bit, at awkward sizes, with guards around outputs."""

from __future__ import annotations

import ctypes
import zlib

import numpy as np
import pytest
import reference
from conftest import ISAS, usable_isas
from machines import GUARD_BYTES, Guarded, Native, Version, emulated
from programs import F, neuron_params

from bestdeploy.errors import MissingToolError

CHANNELS = (1, 7, 63, 64, 65, 130)
STEPS = (1, 2, 4, 8)
VERSIONS = (*ISAS, "arm-neon", "armv7-neon")
"""Instruction sets of this machine, and of emulated ones by target."""

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


@pytest.fixture(scope="module")
def servers():
    """Emulated machines by target, each started at its first use."""
    started = {}
    yield started
    for server in started.values():
        if not isinstance(server, str):
            server.close()


@pytest.fixture(params=VERSIONS)
def version(request, library, kernels, servers):
    """One instruction set, here or emulated; the work in one part or, by the test, in three."""
    target, _, isa = request.param.rpartition("-")
    n_parts = 1 + 2 * (zlib.crc32(request.node.name.encode()) % 2)
    if not target:
        if isa not in usable_isas(library):
            pytest.skip(f"this machine has no {isa}")
        return Version(Native(kernels), isa, n_parts)
    if target not in servers:
        try:
            servers[target] = emulated(target)
        except MissingToolError as error:
            servers[target] = f"no compiler for {target}: {error}"
    if isinstance(servers[target], str):
        pytest.skip(servers[target])
    return Version(servers[target], isa, n_parts)


# ---- stream_neuron ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NEURONS)
@pytest.mark.parametrize("n_t", STEPS)
def test_stream_neuron(version, rng, name, n_t):
    params = NEURONS[name]
    for c in CHANNELS:
        x = rng.integers(-(2 << F), 4 << F, (n_t, 3, 2, c)).astype(np.int32)
        out = spikes_out(n_t, 3, 2, c)
        version.run("stream_neuron", n_t, ctypes.c_size_t(6), c, *params, x, out)
        check_spikes(out, reference.neuron(x, params))


@pytest.mark.parametrize("name", NEURONS)
def test_stream_neuron_at_the_ends_of_int32(version, rng, name):
    ends = np.array([-(2**31), -(2**31) + 1, -1, 0, 1, 2**31 - 2, 2**31 - 1], np.int64)
    x = rng.choice(ends, (8, 5, 1, 65)).astype(np.int32)
    flags, _, _, r = NEURONS[name]
    y, x0, x1 = (rng.choice(ends, x.shape).astype(np.int32) for _ in range(3))
    x2 = reference.residual(y, x0, x1)
    for theta, v_reset in ((1, 0), (2**31 - 1, -(2**31)), (-(2**31), 2**31 - 1)):
        params = (flags, theta, v_reset, r)
        sizes = (8, ctypes.c_size_t(5), 65, *params)
        out = spikes_out(8, 5, 1, 65)
        version.run("stream_neuron", *sizes, x, out)
        check_spikes(out, reference.neuron(x, params))
        stream, out = Guarded(x.shape, np.int32), spikes_out(8, 5, 1, 65)
        version.run("residual_neuron", *sizes, y, x0, x1, stream, out)
        np.testing.assert_array_equal(stream.take(), x2)
        check_spikes(out, reference.neuron(x2, params))


@pytest.mark.parametrize("c", (15, 16, 17, 47, 48, 49, 384, 1000))
@pytest.mark.parametrize("n_t", (1, 3, 16))
def test_stream_neuron_in_blocks(version, rng, n_t, c):
    """Channels and cells around the ends of vectors, groups of them, and blocks of groups."""
    params = NEURONS["halving"]
    for n_cells in (1, 7):
        y, x0, x1 = (
            rng.integers(-(2 << F), 3 << F, (n_t, n_cells, 1, c)).astype(np.int32) for _ in range(3)
        )
        stream, out = Guarded(y.shape, np.int32), spikes_out(*y.shape)
        sizes = (n_t, ctypes.c_size_t(n_cells), c)
        version.run("residual_neuron", *sizes, *params, y, x0, x1, stream, out)
        expected = reference.residual(y, x0, x1)
        np.testing.assert_array_equal(stream.take(), expected)
        check_spikes(out, reference.neuron(expected, params))


@pytest.mark.parametrize("same_input", (False, True))
@pytest.mark.parametrize("c", CHANNELS)
def test_residual_neuron(version, rng, c, same_input):
    shape = (4, 2, 3, c)
    y, x0, x1 = (rng.integers(-(2 << F), 3 << F, shape).astype(np.int32) for _ in range(3))
    x1 = x0 if same_input else x1
    stream, out = Guarded(shape, np.int32), spikes_out(*shape)
    params = NEURONS["halving"]
    n_cells = ctypes.c_size_t(6)
    version.run("residual_neuron", 4, n_cells, c, *params, y, x0, x1, stream, out)
    expected = reference.residual(y, x0, x1)
    np.testing.assert_array_equal(stream.take(), expected)
    check_spikes(out, reference.neuron(expected, params))


@pytest.mark.parametrize("c", CHANNELS)
def test_residual_neuron_in_the_place_of_y(version, rng, c):
    shape, n_cells = (4, 3, 5, c), ctypes.c_size_t(15)
    y, x0, x1 = (rng.integers(-(2 << F), 3 << F, shape).astype(np.int32) for _ in range(3))
    for name in ("halving", "tau1.5"):
        stream, out = Guarded(shape, np.int32), spikes_out(*shape)
        inner = slice(GUARD_BYTES, GUARD_BYTES + stream.n_bytes)
        stream.memory[inner] = np.frombuffer(y.tobytes(), np.uint8)
        if not isinstance(version.machine, Native):
            pytest.skip("memory of a call is passed once")
        version.run("residual_neuron", 4, n_cells, c, *NEURONS[name], stream, x0, x1, stream, out)
        expected = reference.residual(y, x0, x1)
        np.testing.assert_array_equal(stream.take(), expected)
        check_spikes(out, reference.neuron(expected, NEURONS[name]))


# ---- or_pool ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kernel, stride, pad", ((2, 2, 0), (3, 2, 1), (3, 1, 1), (1, 1, 0), (5, 4, 3), (2, 1, 1))
)
@pytest.mark.parametrize("c", (*CHANNELS, 192, 384, 600))
def test_or_pool(version, rng, c, kernel, stride, pad):
    for height, width, rate in ((7, 6, 0.1), (5, 9, 0.0), (5, 5, 1.0)):
        spikes = random_spikes(rng, 2, height, width, c, rate=rate)
        expected = reference.or_pool(spikes, kernel, stride, pad)
        out = spikes_out(*expected.shape)
        sizes = (2, height, width, words(c), kernel, stride, pad)
        version.run("or_pool", *sizes, reference.pack(spikes), out)
        check_spikes(out, expected)


# ---- stem_neuron --------------------------------------------------------------------------------


STEMS = ((3, 1, 1, 5), (3, 2, 1, 6), (1, 1, 0, 3), (5, 2, 2, 7), (4, 4, 0, 8))
NO_NEURON = (0, 0, 0, 0)


class StemCase:
    """Random image [t, side, side + 1, c] and constants of a stem with `o` outputs."""

    def __init__(self, version, rng, n_frames, o, k, stride, pad, side, cin=None):
        cin = int(rng.integers(1, 5)) if cin is None else cin
        width = side + 1
        image = rng.integers(0, 256, (n_frames, side, width, cin)).astype(np.uint8)
        weight = rng.integers(-8355711, 8355712, (o, k, k, cin)).astype(np.int32)
        out_h, out_w = (side + 2 * pad - k) // stride + 1, (width + 2 * pad - k) // stride + 1
        shift = rng.integers(0, 25, o).astype(np.uint8)
        bias = rng.integers(-(1 << 40), 1 << 40, (4, o)) >> (24 - shift.astype(np.int64))
        rows = rng.integers(0, 2, out_h).astype(np.uint8)
        cols = rng.integers(0, 2, out_w).astype(np.uint8)
        self.version, self.n_frames = version, n_frames
        self.geometry = (side, width, cin, o, k, k, stride, pad)
        self.place = (stride, pad, 2)
        self.set(image, weight, bias, shift, rows, cols)

    def set(self, image, weight, bias, shift, rows, cols):
        _, width, cin, o, k, _, _, pad = self.geometry
        self.image, self.constants = image, (bias, shift, rows, cols)
        sizes = (o, k, k, cin, len(bias))
        self.prepared = self.version.memory("stem_neuron.constant_bytes", *sizes)
        self.version.call("stem_neuron.prepare", *sizes, weight, bias, shift, self.prepared)
        self.prepared.take()
        shape = (self.n_frames, width, cin, k, k, pad)
        self.space = self.version.memory("stem_neuron.scratch_bytes", *shape)
        self.x = reference.stem_conv(image, weight, *self.constants, *self.place)

    def check(self, n_t, params, first, expected):
        out = spikes_out(*expected.shape)
        self.version.run(
            "stem_neuron.run",
            *(n_t, self.n_frames, *self.geometry, *params),
            *(self.image, self.prepared, *self.constants, 2, first, out, None, self.space),
        )
        check_spikes(out, expected)
        self.space.take()

    def check_stream(self, n_t):
        """x itself, the same at every step of a still image."""
        expected = np.broadcast_to(self.x, (n_t, *self.x.shape[1:]))
        out = Guarded(expected.shape, np.int32)
        self.version.run(
            "stem_neuron.run",
            *(n_t, self.n_frames, *self.geometry, *NO_NEURON),
            *(self.image, self.prepared, *self.constants, 2, None, None, out, self.space),
        )
        np.testing.assert_array_equal(out.take(), expected)
        self.space.take()


@pytest.mark.parametrize("name", ("halving", "halving-no-decay", "tau1.5-soft"))
@pytest.mark.parametrize("window", STEMS)
def test_stem_neuron(version, rng, window, name):
    params = NEURONS[name]
    for o in CHANNELS:
        case = StemCase(version, rng, 1, o, *window)
        case.check(4, params, None, reference.stem_neuron(case.x, 4, params))


@pytest.mark.parametrize("o", (1, 15, 17, 33, 47, 48, 49, 64, 65, 130))
@pytest.mark.parametrize(
    "window, cin",
    (((3, 1, 1, 4), 3), ((15, 7, 14, 9), 2), ((15, 1, 0, 15), 18), ((1, 1, 0, 2), 4097)),
)
def test_stem_neuron_over_its_range(version, rng, window, cin, o):
    """Bits of x exactly: thresholds at values of x; up to 4096 taps and beyond; ends of the range.

    Outputs 0 and 1 have the largest weights of either sign throughout, on an image of 255.
    """
    case = StemCase(version, rng, 1, o, *window, cin=cin)
    k, n_bias = window[0], 4
    weight = rng.choice(np.array([-8355711, -2049, -2048, 2047, 2048, 8355711]), (o, k, k, cin))
    weight[0] = 8355711
    weight[1:2] = -8355711
    bias = rng.integers(-(1 << 60) + 1, 1 << 60, (n_bias, o))
    bias[:2] = -case.x.size  # small ones, so that the sums decide
    shift = case.constants[1]
    shift[:3] = (0, 24, 12)[: len(shift[:3])]
    image = rng.choice(
        np.array([0, 1, 254, 255], np.uint8), case.image.shape, p=(0.1, 0.1, 0.1, 0.7)
    )
    image[:, : k + 1] = 255
    case.set(image, weight.astype(np.int32), bias, *case.constants[1:])
    seen = np.sort(rng.choice(case.x.ravel(), 16))[::-1]
    for first in (seen, np.minimum(seen.astype(np.int64) + 1, 2**31 - 1)):
        first = np.ascontiguousarray(first.astype(np.int32))
        case.check(16, NO_NEURON, first, reference.first_steps(case.x, first))


@pytest.mark.parametrize("n_t", (1, 4, 10, 16))
@pytest.mark.parametrize("name", ("halving", "tau1.5", "tau1.5-no-decay-soft"))
def test_stem_neuron_on_event_frames(version, rng, name, n_t):
    params = NEURONS[name]
    for o, window in zip(CHANNELS, (*STEMS, STEMS[0]), strict=True):
        case = StemCase(version, rng, n_t, o, *window)
        case.check(n_t, params, None, reference.neuron(case.x, params))


@pytest.mark.parametrize("n_t", (1, 2, 4, 10, 16))
def test_stem_neuron_with_the_table_of_first_steps(version, rng, n_t):
    for o, window in zip(CHANNELS, (*STEMS, STEMS[0]), strict=True):
        case = StemCase(version, rng, 1, o, *window)
        falling = np.sort(rng.choice(case.x.ravel(), n_t))[::-1].astype(np.int32)
        never = np.full(n_t, 2**31 - 1, np.int32)
        always = np.full(n_t, -(2**31), np.int32)
        for first in (falling, never, always):
            expected = reference.first_steps(case.x, first)
            case.check(n_t, NO_NEURON, np.ascontiguousarray(first), expected)


@pytest.mark.parametrize("frames", (False, True))
@pytest.mark.parametrize("n_t", (1, 4, 16))
@pytest.mark.parametrize("window", STEMS)
def test_stem_stream(version, rng, window, n_t, frames):
    for o in CHANNELS:
        case = StemCase(version, rng, n_t if frames else 1, o, *window)
        case.check_stream(n_t)


@pytest.mark.parametrize("cin", (3, 4097))
def test_stem_stream_stays_inside_its_output(version, rng, cin):
    """One channel, one pixel, an odd number of pixels; more taps than the vectors take."""
    for o in (1, 3, 17):
        StemCase(version, rng, 1, o, 1, 1, 0, 1, cin=cin).check_stream(2)


@pytest.mark.parametrize("n_t", (1, 4, 16))
@pytest.mark.parametrize("decay_input", (True, False))
@pytest.mark.parametrize("tau", (2.0, 1.5, 3.0))
def test_table_of_first_steps_can_be_the_neuron(tau, decay_input, n_t):
    """For a constant input and a hard reset to 0 the table says what the neuron does, for all x."""
    flags, _, _, r = neuron_params(tau=tau, decay_input=decay_input)
    x = np.arange(-50, 700, dtype=np.int32)[None]
    spikes = reference.stem_neuron(x, n_t, (flags, 200, 0, r))
    fired = np.maximum.accumulate(spikes, axis=0)
    first = [int(x[0, row.argmax()]) if row.any() else 2**31 - 1 for row in fired]
    assert first == sorted(first, reverse=True)
    np.testing.assert_array_equal(reference.first_steps(x, first), spikes)


# ---- spike_conv ---------------------------------------------------------------------------------

WINDOWS = ((1, 1, 1, 0), (3, 3, 1, 1), (3, 3, 2, 1), (5, 5, 1, 2), (2, 3, 2, 0))


def periodic_spikes(rng, n_t, *shape, rate=0.3):
    """Trains that fire at p, 2p, 3p, .. or never."""
    period = np.where(rng.random(shape) < rate, rng.integers(1, n_t + 1, shape), n_t + 1)
    steps = np.arange(1, n_t + 1).reshape(-1, *[1] * len(shape))
    return (steps % period == 0).astype(np.uint8)


def conv_case(version, rng, n_t, c_in, c_out, window, rate=0.3, side=5, periodic=0):
    kh, kw, stride, pad = window
    make = periodic_spikes if periodic else random_spikes
    spikes = make(rng, n_t, side, side + 1, c_in, rate=rate)
    bits = rng.random((c_out, kh, kw, c_in)) < 0.5
    packed = np.ascontiguousarray(np.packbits(bits, axis=-1, bitorder="little"))
    rows = version.memory("spike_conv.rows_bytes", c_out, kh, kw, c_in, stride)
    version.call("spike_conv.prepare_rows", c_out, kh, kw, c_in, stride, packed, rows)
    rows.take()
    n = reference.conv_counts(spikes, 2 * bits.astype(np.int8) - 1, stride, pad)
    geometry = (n_t, side, side + 1, c_in, c_out, kh, kw, stride, pad)
    space = version.memory("spike_conv.scratch_bytes", n_t, side + 1, c_out, kh, kw, c_in, stride)
    return spikes, packed, rows, n, geometry, space


def check_conv_neuron(
    version, rng, n_t, c_in, c_out, window, rate=0.3, explicit=False, periodic=0, side=5
):
    case = conv_case(version, rng, n_t, c_in, c_out, window, rate, side, periodic)
    spikes, bits, rows, n, geometry, space = case
    sigma = max(1, int(np.sqrt((n**2).mean())))
    u = rng.integers(-sigma, 4 * sigma, c_out) << 18
    u = (u + rng.integers(0, 1 << 18, c_out)).astype(np.int32)
    w = rng.integers(-(sigma << 18), sigma << 18, c_out).astype(np.int32)
    index, tables = np.zeros(0, np.int32), np.zeros((0, n_t * (n_t + 1) // 2), np.int32)
    if explicit:
        index = np.flatnonzero(rng.random(c_out) < 0.3).astype(np.int32)
        tables = rng.integers(-sigma, 4 * sigma, (len(index), tables.shape[1])).astype(np.int32)
    kh, kw, _, _ = window
    theta = version.memory("spike_conv.theta_bytes", n_t, c_out, kh * kw * c_in)
    tables_of = (u, w, len(index), index, tables)
    version.call("spike_conv.prepare_theta", n_t, c_out, kh, kw, c_in, 1, bits, *tables_of, theta)
    theta.take()
    expected = reference.conv_neuron(n, reference.theta_table(n_t, u, w, index, tables))
    out = spikes_out(*expected.shape)
    packed = reference.pack(spikes)
    version.run("spike_conv.neuron", *geometry, periodic, packed, rows, theta, out, space)
    check_spikes(out, expected)
    space.take()
    return expected.mean()


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("n_t", STEPS)
def test_conv_neuron(version, rng, n_t, window):
    rates = [
        check_conv_neuron(version, rng, n_t, c_in, c_out, window, explicit=c_in % 2 == 0)
        for c_in, c_out in zip(CHANNELS, CHANNELS[::-1], strict=True)
    ]
    assert 0.02 < np.mean(rates) < 0.98


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("n_t", STEPS)
def test_conv_neuron_behind_the_encoder(version, rng, n_t, window):
    for c_in, c_out in zip(CHANNELS, CHANNELS[::-1], strict=True):
        rate = (0.1, 0.9)[c_in % 2]
        check_conv_neuron(version, rng, n_t, c_in, c_out, window, rate, periodic=1)


@pytest.mark.parametrize("n_t", (3, 4, 8))
@pytest.mark.parametrize("c_out", (5, 64, 100, 192, 320))
def test_conv_neuron_tiles(version, rng, c_out, n_t):
    """Rows longer than a tile, pixels that share a vector, every density of the input."""
    for rate in (0.0, 0.05, 0.5, 0.95):
        for window in ((1, 1, 1, 0), (3, 3, 1, 1)):
            check_conv_neuron(version, rng, n_t, 40, c_out, window, rate=rate, side=9)


@pytest.mark.parametrize("rate", (0.0, 0.02, 0.97, 1.0))
@pytest.mark.parametrize("c_out", (600, 512, 513, 449, 384, 257))
def test_conv_neuron_wide(version, rng, c_out, rate):
    """More than one pass of 512 lanes, empty and full lists, more than 8 planes."""
    check_conv_neuron(version, rng, 4, 96, c_out, (3, 3, 1, 1), rate=rate)


@pytest.mark.parametrize(
    "n_t, fan_in", ((1, 300), (4, 2183), (4, 2184), (4, 2185), (8, 127), (8, 129), (8, 65536))
)
def test_conv_neuron_at_the_ends_of_its_range(version, rng, n_t, fan_in):
    """Weights all +1, all -1 and mixed, every input active: |I_t| up to (2^T - 1) fan-in."""
    bits = rng.random((5, 1, 1, fan_in)) < 0.5
    bits[0], bits[1] = True, False
    packed = np.ascontiguousarray(np.packbits(bits, axis=-1, bitorder="little"))
    spikes = np.ones((n_t, 1, 2, fan_in), np.uint8)
    spikes[:, 0, 1] = rng.random((n_t, fan_in)) < 0.999
    rows = version.memory("spike_conv.rows_bytes", 5, 1, 1, fan_in, 1)
    version.call("spike_conv.prepare_rows", 5, 1, 1, fan_in, 1, packed, rows)
    n = reference.conv_counts(spikes, 2 * bits.astype(np.int8) - 1, 1, 0)
    most = (2**n_t - 1) * fan_in
    ends = np.array([0, 1, most - 1, most, most + 1, 2**15 - 2, 2**15 - 1, 2**15, 2**31 - 1])
    index, zero = np.arange(5, dtype=np.int32), np.zeros(5, np.int32)
    space = version.memory("spike_conv.scratch_bytes", n_t, 2, 5, 1, 1, fan_in, 1)
    for _ in range(6):
        signs = rng.choice([-1, 1], (5, n_t * (n_t + 1) // 2))
        tables = (rng.choice(ends, signs.shape) * signs).astype(np.int32)
        theta = version.memory("spike_conv.theta_bytes", n_t, 5, fan_in)
        explicit = (zero, zero, 5, index, tables)
        version.call("spike_conv.prepare_theta", n_t, 5, 1, 1, fan_in, 1, packed, *explicit, theta)
        expected = reference.conv_neuron(n, tables)
        out = spikes_out(*expected.shape)
        geometry = (n_t, 1, 2, fan_in, 5, 1, 1, 1, 0)
        words = reference.pack(spikes)
        version.run("spike_conv.neuron", *geometry, 0, words, rows, theta, out, space)
        check_spikes(out, expected)


@pytest.mark.parametrize("window, c_in", (((1, 1, 1, 0), 701), ((3, 3, 1, 1), 67)))
@pytest.mark.parametrize("n_t", (2, 3, 4))
def test_conv_by_pattern(version, rng, n_t, window, c_in):
    """Inputs dense enough for lists by the pattern of steps: wide, narrow and strips of outputs."""
    for c_out, rate in ((5, 0.8), (100, 0.5), (192, 0.4), (385, 0.4)):
        check_conv_neuron(version, rng, n_t, c_in, c_out, window, rate=rate, side=4)
        check_conv_affine(version, rng, n_t, c_in, c_out, window, rate=rate)


@pytest.mark.parametrize("n_active", (0, 1, 7, 8, 9, 15, 16, 255, 256, 257))
def test_conv_list_lengths(version, rng, n_active):
    """The edges of a group of rows and of a byte of planes: one input pixel, n_active spikes."""
    c_in, c_out = 300, 70
    spikes = np.zeros((1, 1, 1, c_in), np.uint8)
    spikes[..., rng.permutation(c_in)[:n_active]] = 1
    bits = np.ones((c_out, 1, 1, c_in), bool)
    bits[::2] = rng.random((c_out // 2, 1, 1, c_in)) < 0.5
    packed = np.ascontiguousarray(np.packbits(bits, axis=-1, bitorder="little"))
    rows = version.memory("spike_conv.rows_bytes", c_out, 1, 1, c_in, 1)
    version.call("spike_conv.prepare_rows", c_out, 1, 1, c_in, 1, packed, rows)
    space = version.memory("spike_conv.scratch_bytes", 1, 1, c_out, 1, 1, c_in, 1)
    out = Guarded((1, 1, 1, c_out), np.int32)
    ai, af, b = np.ones(c_out, np.int32), np.zeros(c_out, np.int16), np.zeros(c_out, np.int32)
    version.run(
        "spike_conv.affine",
        *(1, 1, 1, c_in, c_out, 1, 1, 1, 0, reference.pack(spikes), rows, ai, af, b, out, space),
    )
    expected = reference.conv_counts(spikes, 2 * bits.astype(np.int8) - 1, 1, 0)
    np.testing.assert_array_equal(out.take(), expected)


def check_conv_affine(version, rng, n_t, c_in, c_out, window, rate=0.3):
    case = conv_case(version, rng, n_t, c_in, c_out, window, rate)
    spikes, _, rows, n, geometry, space = case
    ai = rng.integers(-(1 << 19), 1 << 19, c_out).astype(np.int32)
    af = rng.integers(-16384, 16385, c_out).astype(np.int16)
    b = rng.integers(-(1 << 24), 1 << 24, c_out).astype(np.int32)
    out = Guarded(n.shape, np.int32)
    packed = reference.pack(spikes)
    version.run("spike_conv.affine", *geometry, packed, rows, ai, af, b, out, space)
    expected = (reference.scale_count(n, ai, af) + b).astype(np.int32)
    np.testing.assert_array_equal(out.take(), expected)
    space.take()


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("n_t", (1, 4))
def test_conv_affine(version, rng, n_t, window):
    for c_in, c_out in zip(CHANNELS, CHANNELS[::-1], strict=True):
        check_conv_affine(version, rng, n_t, c_in, c_out, window)


# ---- spike_attention ----------------------------------------------------------------------------

ATTENTION = ((1, 1, 1), (7, 2, 14), (16, 3, 96), (64, 12, 384), (65, 2, 130), (130, 1, 7))


@pytest.mark.parametrize("n, heads, d", ATTENTION)
@pytest.mark.parametrize("form", (0, 1))
@pytest.mark.parametrize("n_t", STEPS)
def test_score(version, rng, n_t, form, n, heads, d):
    q, k = (random_spikes(rng, n_t, 1, n, d) for _ in range(2))
    thr1 = int(rng.integers(1, 4)) if form == 0 else 0
    params = (0, 0, 0, 0) if form == 0 else neuron_params(tau=1.5, soft=True)
    expected = reference.score_neuron(q, k, heads, form, thr1, F, params)
    out = spikes_out(*expected.shape)
    space = version.memory("bst_spike_attention_score_scratch_bytes", n_t, n, d, heads)
    version.run(
        "spike_attention_score",
        *(n_t, n, d, heads, form, thr1, F, *params),
        *(reference.pack(q), reference.pack(k), out, space),
    )
    check_spikes(out, expected)
    space.take()


@pytest.mark.parametrize("thr1", (1, 5, (1 << 31) - 1))
def test_score_thresholds(version, rng, thr1):
    q, k = (random_spikes(rng, 8, 1, 9, 200, rate=0.8) for _ in range(2))
    expected = reference.score_neuron(q, k, 2, 0, thr1, F, (0, 0, 0, 0))
    out = spikes_out(*expected.shape)
    space = version.memory("bst_spike_attention_score_scratch_bytes", 8, 9, 200, 2)
    version.run(
        "spike_attention_score",
        *(8, 9, 200, 2, 0, thr1, F, 0, 0, 0, 0, reference.pack(q), reference.pack(k), out, space),
    )
    check_spikes(out, expected)


@pytest.mark.parametrize("n, heads, d", ATTENTION)
@pytest.mark.parametrize("n_t", STEPS)
def test_value(version, rng, n_t, n, heads, d):
    attention = random_spikes(rng, n_t, heads, n, n)
    v = random_spikes(rng, n_t, 1, n, d)
    table = rng.integers(-(1 << F), 3 << F, (n_t, heads, n + 1)).astype(np.int32)
    for params in (neuron_params(), neuron_params(tau=1.5)):
        expected = reference.value_neuron(attention, v, heads, table, params)
        out = spikes_out(*expected.shape)
        space = version.memory("bst_spike_attention_value_scratch_bytes", n_t, n, d, heads)
        version.run(
            "spike_attention_value",
            *(n_t, n, d, heads, *params, reference.pack(attention), reference.pack(v), table),
            *(out, space),
        )
        check_spikes(out, expected)
        space.take()


# (tokens, heads, channels per head): every edge of words, bytes and vectors once
ATTENTION_EDGES = (
    *((1, 2, 128), (63, 3, 33), (64, 4, 32), (64, 4, 48), (65, 5, 31), (65, 2, 127)),
    *((196, 1, 64), (196, 2, 65), (64, 3, 1), (63, 9, 7), (196, 5, 16), (1024, 1, 7)),
)
RATES = ("none", "one", 0.02, 0.5, 1.0)


def edge_spikes(rng, *shape, rate):
    """Spikes at a rate, none, or a single one."""
    spikes = random_spikes(rng, *shape, rate=rate if isinstance(rate, float) else 0.0)
    if rate == "one":
        spikes.ravel()[rng.integers(spikes.size)] = 1
    return spikes


def linear_table(n_t, gains, max_count):
    """X[T, heads, m] = rint(gain * m), the same at every step, gains per head in units of 2^-F."""
    row = np.rint(np.outer(gains, np.arange(max_count + 1))).astype(np.int32)
    return np.ascontiguousarray(np.broadcast_to(row, (n_t, *row.shape)))


def check_value(version, attention, v, heads, table, params):
    n_t, _, n, channels = v.shape
    expected = reference.value_neuron(attention, v, heads, table, params)
    out = spikes_out(*expected.shape)
    sizes = (n_t, n, channels, heads)
    space = version.memory("bst_spike_attention_value_scratch_bytes", *sizes)
    packed = (reference.pack(attention), reference.pack(v))
    version.run("spike_attention_value", *sizes, *params, *packed, table, out, space)
    check_spikes(out, expected)
    space.take()
    return expected.mean()


@pytest.mark.parametrize("n, heads, d", ATTENTION_EDGES)
@pytest.mark.parametrize("rate", RATES)
def test_score_edges(version, rng, rate, n, heads, d):
    n_t = 3
    q, k = (edge_spikes(rng, n_t, 1, n, heads * d, rate=rate) for _ in range(2))
    sizes = (n_t, n, heads * d, heads)
    space = version.memory("bst_spike_attention_score_scratch_bytes", *sizes)
    for thr1 in (1, max(1, d // 3), d, 2 * d):
        expected = reference.score_neuron(q, k, heads, 0, thr1, F, NO_NEURON)
        out = spikes_out(*expected.shape)
        packed = (reference.pack(q), reference.pack(k))
        version.run("spike_attention_score", *sizes, 0, thr1, F, *NO_NEURON, *packed, out, space)
        check_spikes(out, expected)
        space.take()


@pytest.mark.parametrize("d", (1024, 1025, 2048, 65535, 65536))
def test_score_of_very_wide_heads(version, rng, d):
    """Counts beyond 1024: more planes, and no thresholds for the stream neuron."""
    n_t, n, frac_bits = 2, 3, 10
    q, k = (random_spikes(rng, n_t, 1, n, d, rate=0.99) for _ in range(2))
    q[0, 0, 0], k[0, 0, :2] = 1, 1
    space = version.memory("bst_spike_attention_score_scratch_bytes", n_t, n, d, 1)
    stream = (neuron_params()[0], d << frac_bits >> 1, 0, 0)
    for rule in ((0, d, NO_NEURON), (0, d - d // 50, NO_NEURON), (1, 0, stream)):
        form, thr1, params = rule
        expected = reference.score_neuron(q, k, 1, form, thr1, frac_bits, params)
        out = spikes_out(*expected.shape)
        packed = (reference.pack(q), reference.pack(k))
        sizes = (n_t, n, d, 1, form, thr1, frac_bits)
        version.run("spike_attention_score", *sizes, *params, *packed, out, space)
        check_spikes(out, expected)
        space.take()


@pytest.mark.parametrize("n, heads, d", ATTENTION_EDGES)
@pytest.mark.parametrize("rate", RATES)
def test_value_edges(version, rng, rate, n, heads, d):
    attention = edge_spikes(rng, 3, heads, n, n, rate=rate)
    v = edge_spikes(rng, 3, 1, n, heads * d, rate=rate)
    table = linear_table(3, (1 + rng.random(heads)) * (1 << F) / n, n)
    check_value(version, attention, v, heads, table, neuron_params(theta=0.3))


@pytest.mark.parametrize("decay_input", (True, False))
@pytest.mark.parametrize("n_t", (1, 4, 16))
def test_value_on_tables_that_are_nearly_linear(version, rng, n_t, decay_input):
    """Integer thresholds on counts stand for the neuron only where they are proved.

    Steep and flat tables, ties of theta with a sum of counts, one entry or one step that differs,
    negative slopes, entries at the ends of int32.
    """
    n, heads, d = 20, 9, 5
    attention = random_spikes(rng, n_t, heads, n, n, rate=0.4)
    v = random_spikes(rng, n_t, 1, n, heads * d, rate=0.4)
    flags = neuron_params(decay_input=decay_input)[0]
    gains = np.array([0.1, 0.125, 1 / 3, 0.0471, 1e-5, 0.0, -0.2, 1.7, 0.25]) * (1 << F)
    exact = linear_table(n_t, gains, n)
    flat = linear_table(n_t, np.array([0.3, 0.5, 0.7, 1.0, 1.4, 2.5, -1.3, 3.3, 6.9]), n)
    bent = exact.copy()
    bent[-1, :, rng.integers(n + 1)] += rng.integers(-(1 << 16), 1 << 16, heads)
    by_step = exact * (1 + np.arange(n_t, dtype=np.int32) % 3)[:, None, None]
    ends = np.where(exact > 1 << F, 2**31 - 1, -(2**31)).astype(np.int32)
    rates = [
        check_value(version, attention, v, heads, np.ascontiguousarray(table), (flags, theta, 0, 0))
        for table in (exact, flat, bent, by_step, ends)
        for theta in (1, 5, 1 << (F - 1), 1 << F, 2**31 - 1, 0, -3)
    ]
    assert 0.1 < np.mean(rates) < 0.9


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


# ---- kv_attention -------------------------------------------------------------------------------

# (tokens, heads, channels per head)
KV_ATTENTION = (
    (1, 1, 1),
    (5, 2, 7),
    (64, 3, 64),
    (196, 1, 65),
    (5, 1, 130),
    (196, 8, 4),
    (1, 3, 130),
)


def kv_case(version, rng, n_t, n, heads, d, kernel):
    channels = heads * d
    one, two = (random_spikes(rng, n_t, 1, n, channels) for _ in range(2))
    size = f"bst_kv_attention_{kernel}_scratch_bytes"
    return one, two, (n_t, n, channels, heads), version.memory(size, n_t, n, channels, heads)


def check_key_value(version, k, v, heads, rule, space, f=F):
    form, thr1, params = rule
    n_t, _, n, channels = k.shape
    expected = reference.key_value_neuron(k, v, heads, form, thr1, f, params)
    out = spikes_out(*expected.shape)
    version.run(
        "kv_attention_key_value",
        *(n_t, n, channels, heads, form, thr1, f, *params),
        *(reference.pack(k), reference.pack(v), out, space),
    )
    check_spikes(out, expected)
    space.take()
    return expected.mean()


@pytest.mark.parametrize("n, heads, d", KV_ATTENTION)
@pytest.mark.parametrize("n_t", (1, 4, 10, 16))
def test_key_value(version, rng, n_t, n, heads, d):
    k, v, _, space = kv_case(version, rng, n_t, n, heads, d, "key_value")
    for rule in (
        (0, 1, NO_NEURON),
        (0, max(1, n // 8), NO_NEURON),
        (1, 0, neuron_params(tau=1.5, soft=True)),
        (1, 0, neuron_params(decay_input=False, theta=max(1, n // 8))),
        (1, 0, neuron_params(tau=3.0, decay_input=False, soft=True)),
    ):
        check_key_value(version, k, v, heads, rule, space)


@pytest.mark.parametrize("rate", (0.0, 0.05, 1.0))
@pytest.mark.parametrize("n", (8, 255, 256, 1024))
def test_key_value_edges(version, rng, n, rate):
    """Empty and full lists, counts beyond a byte of planes, the most tokens; extreme thresholds."""
    k, v = (random_spikes(rng, 3, 1, n, 66, rate=rate) for _ in range(2))
    space = version.memory("bst_kv_attention_key_value_scratch_bytes", 3, n, 66, 1)
    for thr1 in (1, n, 2**31 - 1):
        check_key_value(version, k, v, 1, (0, thr1, NO_NEURON), space)


def test_key_value_fires_in_part(version, rng):
    """The random cases above are no foregone conclusions."""
    k, v, _, space = kv_case(version, rng, 4, 196, 2, 64, "key_value")
    assert 0.1 < check_key_value(version, k, v, 2, (0, 20, NO_NEURON), space) < 0.9


@pytest.mark.parametrize("n, heads, d", ATTENTION_EDGES)
@pytest.mark.parametrize("rate", RATES)
def test_kv_at_the_edges(version, rng, rate, n, heads, d):
    """Both products; stream neurons that are thresholds on counts, and those that are not."""
    channels = heads * d
    q, k, v = (edge_spikes(rng, 3, 1, n, channels, rate=rate) for _ in range(3))
    sizes = (3, n, channels, heads)
    space = version.memory("bst_kv_attention_key_value_scratch_bytes", *sizes)
    for rule in (
        (0, max(1, n // 5), NO_NEURON),
        (1, 0, neuron_params(theta=max(1, n // 8))),
        (1, 0, neuron_params(theta=max(1, n // 8), soft=True)),
    ):
        check_key_value(version, k, v, heads, rule, space)
    attention = edge_spikes(rng, 3, heads, d, d, rate=rate)
    table = linear_table(3, (1 + rng.random(heads)) * (1 << F) / d, d)
    params = neuron_params(theta=0.3)
    out = spikes_out(*q.shape)
    space = version.memory("bst_kv_attention_query_value_scratch_bytes", *sizes)
    packed = (reference.pack(q), reference.pack(attention))
    version.run("kv_attention_query_value", *sizes, *params, *packed, table, out, space)
    check_spikes(out, reference.query_value_neuron(q, attention, heads, table, params))
    space.take()


@pytest.mark.parametrize("n, heads, d", KV_ATTENTION)
@pytest.mark.parametrize("n_t", (1, 4, 10, 16))
def test_query_value(version, rng, n_t, n, heads, d):
    q, _, sizes, space = kv_case(version, rng, n_t, n, heads, d, "query_value")
    attention = random_spikes(rng, n_t, heads, d, d)
    table = rng.integers(-(1 << F), 3 << F, (n_t, heads, d + 1)).astype(np.int32)
    packed = (reference.pack(q), reference.pack(attention))
    for params in (
        neuron_params(theta=0.5),
        neuron_params(tau=1.5),
        neuron_params(decay_input=False, soft=True),
        neuron_params(tau=3.0, decay_input=False, v_reset=-0.25),
    ):
        out = spikes_out(*q.shape)
        version.run("kv_attention_query_value", *sizes, *params, *packed, table, out, space)
        check_spikes(out, reference.query_value_neuron(q, attention, heads, table, params))
        space.take()


# ---- readout ------------------------------------------------------------------------------------


def check_readout(version, rng, sizes, form, rate=0.3, widest=1 << 28):
    """sizes = T, h, w, n_dim, n_hidden, n_classes, q; streams below `widest` in size."""
    n_t, h, w, d, e, k, q = sizes
    x2, x1 = (rng.integers(-widest, widest, (n_t, h, w, d)).astype(np.int32) for _ in range(2))
    x1 = x2 if form == "same-stream" else x1
    hidden = random_spikes(rng, n_t, h, w, e, rate=rate)
    bits = rng.random((d, 1, 1, e)) < 0.5
    packed = np.ascontiguousarray(np.packbits(bits, axis=-1, bitorder="little"))
    ai = rng.integers(-(2**31), 2**31, d).astype(np.int32)
    af = rng.integers(-16384, 16385, d).astype(np.int16)
    b = rng.integers(-(1 << 31), 1 << 31, d).astype(np.int32)
    v0, v1 = (rng.integers(-(1 << 12), 1 << 12, (k, d)).astype(np.int32) for _ in range(2))
    v0 = v0 if form == "both" else None
    c = rng.integers(-(1 << 50), 1 << 50, k)
    raw = Guarded((k,), np.int64)
    space = version.memory("bst_readout_scratch_bytes", d, e)
    version.run(
        "readout",
        *(n_t, ctypes.c_size_t(h * w), d, e, k, q, x2, x1, reference.pack(hidden), packed),
        *(ai, af, b, v0, v1, c, raw, space),
    )
    signs = 2 * bits.astype(np.int8) - 1
    expected = reference.readout(x2, x1, hidden, signs, ai, af, b, v0, v1, c, q)
    np.testing.assert_array_equal(raw.take(), expected)
    space.take()


@pytest.mark.parametrize("form", ("both", "one-head", "same-stream"))
@pytest.mark.parametrize("e", CHANNELS)
@pytest.mark.parametrize("d", CHANNELS)
def test_readout(version, rng, d, e, form):
    check_readout(version, rng, (3, 2, 3, d, e, 5, 5), form)


@pytest.mark.parametrize("rate", (0.0, 0.02, 0.97, 1.0))
@pytest.mark.parametrize("n_t, h, w", ((1, 1, 1), (1, 3, 5), (2, 2, 4), (1, 1, 17), (16, 9, 9)))
def test_readout_counts(version, rng, n_t, h, w, rate):
    """Numbers of positions around a group of sixteen rows; more hidden channels than one pass."""
    for d, e in ((20, 1536), (3, 8200)):
        check_readout(version, rng, (n_t, h, w, d, e, 3, 7), "both", rate=rate)


@pytest.mark.parametrize("q", (0, 62))
def test_readout_at_the_ends_of_int32(version, rng, q):
    """Sums of full-range streams that leave 32 bits, unshifted and shifted out."""
    for d in (1, 33, 130):
        check_readout(version, rng, (4, 3, 3, d, 65, 3, q), "both", widest=1 << 31)


@pytest.mark.parametrize("n_t, h, w", ((1, 1, 1), (4, 2, 3), (10, 8, 8), (16, 14, 14)))
@pytest.mark.parametrize("d", CHANNELS)
@pytest.mark.parametrize("q", (0, 7))
def test_residual_readout(version, rng, q, d, n_t, h, w):
    k = 5
    shape = (3, n_t, h, w, d)
    streams = rng.integers(-(1 << 31), 1 << 31, shape).astype(np.int32)
    v = rng.integers(-(1 << 12), 1 << 12, (k, d)).astype(np.int32)
    c = rng.integers(-(1 << 50), 1 << 50, k)
    raw = Guarded((k,), np.int64)
    space = version.memory("bst_residual_readout_scratch_bytes", d)
    sizes = (n_t, ctypes.c_size_t(h * w), d, k, q)
    version.run("residual_readout", *sizes, *streams, v, c, raw, space)
    np.testing.assert_array_equal(raw.take(), reference.residual_readout(*streams, v, c, q))
    space.take()


# ---- gate, max_pool, mean_neuron, count_readout -------------------------------------------------


@pytest.mark.parametrize("n_t, h, w", ((1, 1, 1), (4, 3, 5)))
@pytest.mark.parametrize("c", (1, 64, 65, 530))
def test_gates(version, rng, c, n_t, h, w):
    q, k, v = (random_spikes(rng, n_t, h, w, c, rate=0.3) for _ in range(3))
    n_words = -(-c // 64)
    found = spikes_out(n_t, 1, 1, c)
    sizes = (n_t, ctypes.c_size_t(h * w))
    version.run("key_value_any", *sizes, n_words, reference.pack(k), reference.pack(v), found)
    any_ = reference.key_value_any(k, v)
    check_spikes(found, any_)
    for gates, n_gates in ((any_, 1), (k, h * w)):
        for invert in (0, 1):
            out = spikes_out(n_t, h, w, c)
            packed = (reference.pack(q), reference.pack(gates))
            version.run("gate", *sizes, ctypes.c_size_t(n_gates), n_words, invert, *packed, out)
            check_spikes(out, reference.gate(q, gates, invert))


@pytest.mark.parametrize("kernel, stride, pad", ((3, 2, 1), (2, 2, 0), (3, 1, 2), (1, 3, 0)))
@pytest.mark.parametrize("c", (1, 64, 130))
def test_max_pool(version, rng, c, kernel, stride, pad):
    for n_t, h, w in ((1, 3, 3), (3, 5, 7)):
        x = rng.integers(-(1 << 31), 1 << 31, (n_t, h, w, c)).astype(np.int32)
        x[0, 0, 0, 0] = -(1 << 31)
        expected = reference.max_pool(x, kernel, stride, pad)
        out = Guarded(expected.shape, np.int32)
        version.run("max_pool", n_t, h, w, c, kernel, stride, pad, x, out)
        np.testing.assert_array_equal(out.take(), expected)


@pytest.mark.parametrize("name", NEURONS)
@pytest.mark.parametrize("c, n_t, h, w", ((1, 4, 2, 3), (64, 1, 1, 1), (130, 10, 7, 7)))
def test_mean_neuron(version, rng, c, n_t, h, w, name):
    params = NEURONS[name]
    rates = []
    for widest in (1 << 22, 1 << 31):
        streams = rng.integers(-widest, widest, (3, n_t, h, w, c)).astype(np.int32)
        streams[:, :, :, :, 0] = -(1 << 31) if widest == 1 << 31 else -1
        expected = reference.mean_neuron(*streams, params)
        out = spikes_out(n_t, 1, 1, c)
        version.run("mean_neuron", n_t, ctypes.c_size_t(h * w), c, *params, *streams, out)
        check_spikes(out, expected)
        rates.append(expected.mean())
    assert c < 64 or max(rates) > 0


@pytest.mark.parametrize("n_t, h, w", ((1, 1, 1), (4, 2, 3), (16, 17, 16)))
@pytest.mark.parametrize("c", (1, 64, 130))
def test_count_readout(version, rng, c, n_t, h, w):
    """More rows than a byte counts; weights at the ends of int32."""
    for rate in (0.0, 0.3, 1.0):
        spikes = random_spikes(rng, n_t, h, w, c, rate=rate)
        v = rng.integers(-(1 << 31), 1 << 31, (5, c)).astype(np.int32)
        v[0], v[1] = -(1 << 31), (1 << 31) - 1
        constant = rng.integers(-(1 << 50), 1 << 50, 5)
        raw = Guarded((5,), np.int64)
        space = version.memory("bst_count_readout_scratch_bytes", c)
        rows = ctypes.c_size_t(n_t * h * w)
        version.run("count_readout", rows, c, 5, reference.pack(spikes), v, constant, raw, space)
        np.testing.assert_array_equal(raw.take(), reference.count_readout(spikes, v, constant))
        space.take()


# ---- add_attention ------------------------------------------------------------------------------


@pytest.mark.parametrize("c, n_t, h, w", ((1, 4, 2, 3), (64, 1, 1, 1), (130, 10, 3, 3)))
@pytest.mark.parametrize("decay", (0, 1))
def test_ternary_neuron(version, rng, decay, c, n_t, h, w):
    for theta, r, widest in (
        (1 << 19, 1 << 28, 1 << 20),
        (1, 0, 4),
        (5, 1 << 30, 1 << 31),
        (2**31 - 1, 7 << 27, 1 << 31),
    ):
        x = rng.integers(-widest, widest, (n_t, h, w, c)).astype(np.int32)
        x[0, 0, 0, 0] = -widest
        expected = reference.ternary_neuron(x, (decay, theta, 0, r))
        out = spikes_out(*expected.shape)
        sizes = (n_t, ctypes.c_size_t(h * w), c)
        version.run("ternary_neuron", *sizes, decay, theta, r, x, out)
        check_spikes(out, expected)


@pytest.mark.parametrize(
    "n_t, h, w, heads, d",
    ((1, 1, 1, 1, 1), (4, 3, 3, 3, 24), (3, 8, 8, 2, 64), (2, 2, 5, 1, 130), (2, 5, 5, 5, 65)),
)
@pytest.mark.parametrize("decay", (0, 1))
def test_add_neuron(version, rng, decay, n_t, h, w, heads, d):
    c, n_cells = heads * d, ctypes.c_size_t(h * w)
    q = random_spikes(rng, n_t, h, w, c, rate=0.3)
    x = rng.integers(-(1 << 21), 1 << 21, q.shape).astype(np.int32)
    v = reference.ternary_neuron(x, (1, 1 << 19, 0, 3 << 28))
    space = version.memory("bst_add_neuron_scratch_bytes", n_cells, c, heads)
    for k_shift, widest, theta in ((0, 1 << 20, 1 << 20), (13, 1 << 31, 1 << 30), (30, 1 << 31, 1)):
        y = rng.integers(-widest, widest, q.shape).astype(np.int32)
        expected = reference.add_neuron(q, y, v, heads, k_shift, (4 | decay, theta))
        out = spikes_out(*expected.shape)
        sizes = (n_t, n_cells, c, heads, k_shift, decay, theta)
        packed = (reference.pack(q), y, reference.pack(v))
        version.run("add_neuron", *sizes, *packed, out, space)
        check_spikes(out, expected)
        space.take()
