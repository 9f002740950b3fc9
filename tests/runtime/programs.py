"""Hand-made programs for the tests: a builder, a small network, the smallest valid file."""

from __future__ import annotations

import numpy as np

from bestdeploy.program import (
    NEURON_DECAY_INPUT,
    NEURON_HALVING,
    NEURON_SOFT_RESET,
    Buffer,
    BufferKind,
    Constant,
    ConstantType,
    Golden,
    Op,
    Program,
    Step,
    align,
    level_channels,
)

F = 20


def neuron_params(tau=2.0, theta=1.0, v_reset=0.0, decay_input=True, soft=False):
    """Step params 4..7 of a stream neuron."""
    flags = (
        NEURON_DECAY_INPUT * decay_input + NEURON_SOFT_RESET * soft + NEURON_HALVING * (tau == 2.0)
    )
    r = 0 if tau == 2.0 else round(2**30 / tau) if decay_input else round(2**30 * (1 - 1 / tau))
    return flags, round(theta * 2**F), round(v_reset * 2**F), r


class Builder:
    """Collects buffers, constants and steps; lays the arena out without reuse."""

    def __init__(self, height, width, channels, n_classes, n_t, seed=0, events=False):
        self.rng = np.random.default_rng(seed)
        self.shape = (height, width, channels)
        self.n_classes, self.n_t = n_classes, n_t
        self.buffers, self.constants, self.steps, self.arena = [], [], [], 0
        self.image = self.buffer(BufferKind.IMAGE, n_t if events else 1, height, width, channels)

    def buffer(self, kind, t, h, w, c):
        made = Buffer(kind, t, h, w, c, self.arena)
        self.arena = align(self.arena + made.n_bytes, 64)
        self.buffers.append(made)
        return len(self.buffers) - 1

    def spikes(self, h, w, c):
        return self.buffer(BufferKind.SPIKES, self.n_t, h, w, c)

    def stream(self, h, w, c):
        return self.buffer(BufferKind.STREAM, self.n_t, h, w, c)

    def constant(self, values, type_):
        self.constants.append(Constant.of(np.asarray(values), type_))
        return len(self.constants) - 1

    def signs(self, *dims):
        self.constants.append(Constant.of_signs(self.rng.random(dims) < 0.5))
        return len(self.constants) - 1

    def ints(self, low, high, shape, type_=ConstantType.I32):
        return self.constant(self.rng.integers(low, high, shape), type_)

    def step(self, op, name, inputs, outputs, constants=(), params=()):
        self.steps.append(
            Step(op, name, tuple(inputs), tuple(outputs), tuple(constants), tuple(params))
        )
        return outputs[0]

    def window(self, source, k, stride, pad):
        b = self.buffers[source]
        return (b.h + 2 * pad - k) // stride + 1, (b.w + 2 * pad - k) // stride + 1

    def stem_constants(self, o, k, h, w):
        """Weights, biases, shifts and border classes of a first convolution."""
        rows = np.minimum(np.arange(h), 1) + (np.arange(h) == h - 1)
        cols = np.minimum(np.arange(w), 1) + (np.arange(w) == w - 1)
        return (
            self.ints(-8355711, 8355712, (o, k, k, self.shape[2])),
            self.ints(-(1 << 30), 1 << 30, (9, o), ConstantType.I64),
            self.ints(3, 11, (o,), ConstantType.U8),
            self.constant(np.minimum(rows, 2), ConstantType.U8),
            self.constant(np.minimum(cols, 2), ConstantType.U8),
        )

    def stem_stream(self, o, k=3, stride=1, pad=1):
        """First convolution into the stream."""
        h, w = self.window(self.image, k, stride, pad)
        constants, out = self.stem_constants(o, k, h, w), self.stream(h, w, o)
        params = (stride, pad, 3)
        return self.step(Op.STEM_STREAM, "stem.conv", [self.image], [out], constants, params)

    def stem(self, o, k=3, stride=1, pad=1, neuron=None, first=None):
        """Encoder with a neuron, or with `first`, the table of first steps."""
        h, w = self.window(self.image, k, stride, pad)
        constants = self.stem_constants(o, k, h, w)
        params = (stride, pad, 3, 0, *(neuron or neuron_params()))
        if first is not None:
            constants += (self.constant(first, ConstantType.I32),)
            params = (stride, pad, 3)
        return self.step(
            Op.STEM_NEURON, "stem", [self.image], [self.spikes(h, w, o)], constants, params
        )

    def pool(self, source, k=3, stride=2, pad=1):
        h, w = self.window(source, k, stride, pad)
        out = self.spikes(h, w, self.buffers[source].c)
        return self.step(Op.OR_POOL, "pool", [source], [out], (), (k, stride, pad))

    def conv_neuron(self, name, source, o, k=1, stride=1, pad=0, explicit=()):
        i = self.buffers[source].c
        h, w = self.window(source, k, stride, pad)
        constants = [
            self.signs(o, k, k, i),
            self.ints(0, 4 << 18, (o,)),
            self.ints(-(2 << 18), 2 << 18, (o,)),
        ]
        if explicit:
            n_rows = self.n_t * (self.n_t + 1) // 2
            constants.append(self.constant(explicit, ConstantType.I32))
            constants.append(self.ints(-8, 8, (len(explicit), n_rows)))
        out = self.spikes(h, w, o)
        return self.step(Op.CONV_NEURON, name, [source], [out], constants, (stride, pad))

    def conv_spikes(self, name, source, o, k=1, pad=0, explicit=()):
        """conv_neuron, or what stands for it where T is above 8: affine and stream neuron."""
        if self.n_t <= 8:
            return self.conv_neuron(name, source, o, k=k, pad=pad, explicit=explicit)
        x = self.conv_affine(f"{name}.conv", source, o, k=k, pad=pad)
        return self.stream_neuron(f"{name}.lif", x, neuron_params(tau=1.5))

    def conv_affine(self, name, source, o, k=1, stride=1, pad=0):
        i = self.buffers[source].c
        h, w = self.window(source, k, stride, pad)
        constants = (
            self.signs(o, k, k, i),
            self.ints(-(1 << 18), 1 << 18, (o,)),
            self.ints(-16384, 16385, (o,), ConstantType.I16),
            self.ints(-(1 << 20), 1 << 20, (o,)),
        )
        out = self.stream(h, w, o)
        return self.step(Op.CONV_AFFINE, name, [source], [out], constants, (stride, pad))

    def weights(self, bits, o, k, i):
        """Integer weights of so many bits, every one of them needed."""
        low, high = (-1, 1) if bits == 1 else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
        w = self.rng.integers(low, high + 1, (o, k, k, i))
        w = np.where(w == 0, 1, w) if bits == 1 else w
        w.flat[0] = low
        self.constants.append(Constant.of_weights(w))
        return len(self.constants) - 1

    def weight_neuron(
        self, name, source, o, bits, channels=None, k=1, stride=1, pad=0, explicit=()
    ):
        """weight_conv_neuron on spikes, or on levels of `channels`."""
        i = channels or self.buffers[source].c
        h, w = self.window(source, k, stride, pad)
        unit = 1 << (bits - 1)
        constants = [
            self.weights(bits, o, k, i),
            self.ints(0, min(unit << 20, 2**31), (o,)),
            self.ints(-min(unit << 19, 2**31), min(unit << 19, 2**31), (o,)),
        ]
        if explicit:
            n_rows = self.n_t * (self.n_t + 1) // 2
            constants.append(self.constant(explicit, ConstantType.I32))
            constants.append(self.ints(-8 * unit, 8 * unit, (len(explicit), n_rows)))
        out, params = self.spikes(h, w, o), (stride, pad, k, k)
        return self.step(Op.WEIGHT_CONV_NEURON, name, [source], [out], constants, params)

    def weight_affine(self, name, source, o, bits, channels=None, k=1, stride=1, pad=0):
        i = channels or self.buffers[source].c
        h, w = self.window(source, k, stride, pad)
        constants = (
            self.weights(bits, o, k, i),
            self.ints(-(1 << 10), 1 << 10, (o,)),
            self.ints(-16384, 16385, (o,), ConstantType.I16),
            self.ints(-(1 << 20), 1 << 20, (o,)),
        )
        out, params = self.stream(h, w, o), (stride, pad, k, k)
        return self.step(Op.WEIGHT_CONV_AFFINE, name, [source], [out], constants, params)

    def product(self, q, k, v, heads, shift, neuron):
        b = self.buffers[q]
        out = self.spikes(b.h, b.w, b.c)
        params = (heads, shift, 0, 0, *neuron)
        return self.step(Op.PRODUCT_NEURON, "attn.product", [q, k, v], [out], (), params)

    def level_add(self, name, x, y, channels, n_planes):
        b = self.buffers[x]
        out = self.spikes(b.h, b.w, level_channels(channels, n_planes))
        return self.step(Op.LEVEL_ADD, name, [x, y], [out], (), (channels,))

    def level_readout(self, levels, channels):
        k = self.n_classes
        constants = (
            self.ints(-(1 << 16), 1 << 16, (k, channels)),
            self.ints(-(1 << 40), 1 << 40, (k,), ConstantType.I64),
        )
        raw = self.buffer(BufferKind.RAW, 1, 1, 1, k)
        return self.step(Op.LEVEL_READOUT, "head", [levels], [raw], constants, (4, channels))

    def stream_neuron(self, name, source, neuron):
        b = self.buffers[source]
        out = self.spikes(b.h, b.w, b.c)
        return self.step(Op.STREAM_NEURON, name, [source], [out], (), (0, 0, 0, 0, *neuron))

    def residual(self, name, y, x0, x1, neuron):
        b = self.buffers[y]
        outs = [self.stream(b.h, b.w, b.c), self.spikes(b.h, b.w, b.c)]
        self.step(Op.RESIDUAL_NEURON, name, [y, x0, x1], outs, (), (0, 0, 0, 0, *neuron))
        return outs

    def attention(self, q, k, v, heads, score_form=0, value_form=0):
        b = self.buffers[q]
        n = b.h * b.w
        a = self.spikes(heads, n, n)
        params = self.binariser(heads, score_form)
        self.step(Op.SCORE_NEURON, "attn.score", [q, k], [a], (), params)
        constants = self.scale(heads, value_form, n)
        out = self.spikes(b.h, b.w, b.c)
        params = (heads, value_form, 0, 0, *neuron_params())
        return self.step(Op.VALUE_NEURON, "attn.value", [a, v], [out], constants, params)

    def kv_attention(self, q, k, v, heads, map_form=0, value_form=0):
        b = self.buffers[q]
        d = b.c // heads
        a = self.spikes(heads, d, d)
        params = self.binariser(heads, map_form)
        self.step(Op.KEY_VALUE_NEURON, "attn.map", [k, v], [a], (), params)
        constants = self.scale(heads, value_form, d)
        out = self.spikes(b.h, b.w, b.c)
        params = (heads, value_form, 0, 0, *neuron_params())
        return self.step(Op.QUERY_VALUE_NEURON, "attn.value", [q, a], [out], constants, params)

    def binariser(self, heads, form):
        """Params of a binarising neuron."""
        return (heads, 0, 1) if form == 0 else (heads, 1, 0, 0, *neuron_params(soft=True))

    def scale(self, heads, form, max_count):
        """Constants of the table of counts 0 .. max_count: gain and exponent, or the table."""
        if form == 0:
            gain = self.rng.integers(-(1 << 51), 1 << 51, (self.n_t, heads))
            exponent = self.ints(-36, -30, (self.n_t, heads))
            return [self.constant(gain, ConstantType.I64), exponent]
        table = self.rng.integers(-(1 << 21), 1 << 22, (self.n_t, heads, max_count + 1))
        return [None, None, self.constant(table, ConstantType.I32)]

    def readout(self, x2, x1, hidden, both=True):
        """Both heads, or the second alone."""
        d, e, k = self.buffers[x2].c, self.buffers[hidden].c, self.n_classes
        constants = (
            self.signs(d, 1, 1, e),
            self.ints(-(1 << 18), 1 << 18, (d,)),
            self.ints(-16384, 16385, (d,), ConstantType.I16),
            self.ints(-(1 << 30), 1 << 30, (d,)),
            self.ints(-(1 << 16), 1 << 16, (k, d)) if both else None,
            self.ints(-(1 << 16), 1 << 16, (k, d)),
            self.ints(-(1 << 40), 1 << 40, (k,), ConstantType.I64),
        )
        raw = self.buffer(BufferKind.RAW, 1, 1, 1, k)
        return self.step(Op.READOUT, "head", [x2, x1, hidden], [raw], constants, (4,))

    def residual_readout(self, y, x0, x1):
        d, k = self.buffers[y].c, self.n_classes
        constants = (
            self.ints(-(1 << 16), 1 << 16, (k, d)),
            self.ints(-(1 << 40), 1 << 40, (k,), ConstantType.I64),
        )
        raw = self.buffer(BufferKind.RAW, 1, 1, 1, k)
        return self.step(Op.RESIDUAL_READOUT, "head", [y, x0, x1], [raw], constants, (4,))

    def max_pool(self, source, k=3, stride=2, pad=1):
        h, w = self.window(source, k, stride, pad)
        out = self.stream(h, w, self.buffers[source].c)
        return self.step(Op.MAX_POOL, "maxima", [source], [out], (), (k, stride, pad))

    def gate(self, name, spikes, gates, invert=0):
        b = self.buffers[spikes]
        out = self.spikes(b.h, b.w, b.c)
        return self.step(Op.GATE, name, [spikes, gates], [out], (), (invert,))

    def gated_attention(self, q, k, v):
        g = self.spikes(1, 1, self.buffers[k].c)
        self.step(Op.KEY_VALUE_ANY, "attn.any", [k, v], [g])
        return self.gate("attn.gate", q, g)

    def addition(self, q, y, x, heads, k_shift=0):
        b = self.buffers[q]
        v = self.spikes(b.h, b.w, level_channels(b.c, 2))
        ternary = (1, 1 << 19, 0, 3 << 28)  # decay_input, theta 1/2, r = 3/4
        self.step(Op.TERNARY_NEURON, "attn.v_tlif", [x], [v], (), (0, 0, 0, 0, *ternary))
        out = self.spikes(b.h, b.w, b.c)
        params = (heads, k_shift, 0, 0, *neuron_params(theta=4.0))
        return self.step(Op.ADD_NEURON, "attn.sums", [q, y, v], [out], (), params)

    def mean_neuron(self, y, x0, x1, neuron):
        out = self.spikes(1, 1, self.buffers[y].c)
        params = (0, 0, 0, 0, *neuron)
        return self.step(Op.MEAN_NEURON, "head.lif", [y, x0, x1], [out], (), params)

    def count_readout(self, spikes):
        d, k = self.buffers[spikes].c, self.n_classes
        constants = (
            self.ints(-(1 << 31), 1 << 31, (k, d)),
            self.ints(-(1 << 40), 1 << 40, (k,), ConstantType.I64),
        )
        raw = self.buffer(BufferKind.RAW, 1, 1, 1, k)
        return self.step(Op.COUNT_READOUT, "head", [spikes], [raw], constants)

    def stream_add(self, name, y, x0, x1):
        b = self.buffers[y]
        return self.step(Op.STREAM_ADD, name, [y, x0, x1], [self.stream(b.h, b.w, b.c)])

    def stream_mean(self, name, x):
        return self.step(Op.STREAM_MEAN, name, [x], [self.stream(1, 1, self.buffers[x].c)])

    def stream_levels(self, name, x, n, reach, shared=False):
        """Neuron of n levels, thresholds of size up to `reach`; some channels fall."""
        b = self.buffers[x]
        theta = self.ints(-reach, reach, (n, 1 if shared else b.c))
        falling = None if shared else self.ints(0, 2, (b.c,), ConstantType.U8)
        out = self.spikes(b.h, b.w, level_channels(b.c, n.bit_length()))
        return self.step(Op.STREAM_LEVELS, name, [x], [out], (theta, falling))

    def depthwise(self, name, source, bits, k, stride=1, pad=0, channels=None):
        """Of levels of `channels`, or of a stream."""
        b = self.buffers[source]
        c = channels or b.c
        h, w = self.window(source, k, stride, pad)
        low, high = (-1, 1) if bits == 1 else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
        weights = self.rng.integers(low, high + 1, (1, k, k, c))
        weights = np.where(weights == 0, 1, weights) if bits == 1 else weights
        weights.flat[0] = low
        self.constants.append(Constant.of_weights(weights))
        constants = (
            len(self.constants) - 1,
            self.ints(-(1 << 9), 1 << 9, (c,)),
            self.ints(-16384, 16385, (c,), ConstantType.I16),
            self.ints(-(1 << 20), 1 << 20, (c,)),
        )
        op = Op.DEPTHWISE_STREAM if channels is None else Op.DEPTHWISE_LEVELS
        return self.step(op, name, [source], [self.stream(h, w, c)], constants,
                         (stride, pad, k, k))  # fmt: skip

    def stream_conv(self, name, x, o, bits):
        b = self.buffers[x]
        shift = self.rng.integers(0, 63, o)
        shift[: o // 2] = 30
        constants = (
            self.weights(bits, o, 1, b.c),
            self.ints(-(1 << 24), 1 << 24, (o,)),
            self.constant(shift, ConstantType.U8),
            self.ints(-(1 << 20), 1 << 20, (o,)),
        )
        return self.step(Op.STREAM_CONV, name, [x], [self.stream(b.h, b.w, o)], constants)

    def level_products(self, q, k, v, heads, channels):
        b = self.buffers[q]
        out = self.stream(b.h, b.w, channels)
        return self.step(Op.LEVEL_PRODUCTS, "attn.product", [q, k, v], [out], (), (heads, channels))

    def program(self, meta='{"made_by": "tests"}', golden=()):
        height, width, channels = self.shape
        return Program(
            input_height=height,
            input_width=width,
            input_channels=channels,
            n_classes=self.n_classes,
            n_steps=self.n_t,
            frac_bits=F,
            logit_shift=40,
            arena_bytes=self.arena,
            buffers=tuple(self.buffers),
            steps=tuple(self.steps),
            constants=tuple(self.constants),
            meta=meta,
            golden=tuple(golden),
        )


def network(
    side=8,
    n_t=4,
    stem=20,
    dim=72,
    hidden=130,
    heads=3,
    n_classes=10,
    seed=0,
    forms=(0, 0),
    tau=2.0,
    attention="qk",
    events=False,
    first=None,
    residual="reversible",
    readout="both",
    weights=None,
    begin="spikes",
    levels=None,
):
    """Stem, pool, one attention block with both residuals, read-out.

    The defaults hold ops 1 to 9; `attention="kv"`, `events`, `first` (the table of first steps),
    `residual="plain"` and `readout="one"` or "residual" give the others and their other forms;
    `attention="gate"` is that of bits alone behind maxima of a stream, `readout="tokens"` reads
    the neuron on the mean over tokens, "counts" spikes of the last residual where others are not.
    `weights`, a number of bits, those of `weighted_network`. `begin="stream"`: the first
    convolution is the stream, a neuron reads it. `levels`, a number of bits, those of
    `levels_network`.
    """
    if levels is not None:
        return levels_network(side, n_t, stem, dim, heads, n_classes, seed, events, levels)
    if weights is not None:
        return weighted_network(side, n_t, stem, dim, heads, n_classes, seed, tau, weights, readout)
    b = Builder(side, side, 3, n_classes, n_t, seed, events)
    if begin == "stream":
        x = b.stream_neuron("stem.lif", b.stem_stream(stem), neuron_params(tau))
    else:
        x = b.stem(stem, first=first)
    x = b.conv_spikes("embed.conv0", x, dim, k=3, pad=1, explicit=(1, dim - 1))
    x = b.pool(x)
    x0 = b.conv_affine("embed.conv1", x, dim, k=3, pad=1)
    if attention == "gate":
        x0 = b.max_pool(x0)
    s = b.stream_neuron("embed.lif", x0, neuron_params(tau))
    q, k, v = (b.conv_spikes(f"attn.{n}", s, dim) for n in "qkv")
    if attention == "gate":
        a = b.gated_attention(q, k, v)
    elif attention == "add":
        keys, values = (b.conv_affine(f"attn.{n}_conv", s, dim) for n in "kv")
        a = b.addition(q, keys, values, heads, forms[0] * 9)
    else:
        a = (b.attention if attention == "qk" else b.kv_attention)(q, k, v, heads, *forms)
    y = b.conv_affine("attn.proj", a, dim)
    x2, s2 = b.residual("attn.residual", y, x0, x0, neuron_params(tau, decay_input=tau == 2.0))
    h = b.conv_spikes("mlp.fc1", s2, hidden)
    z = b.conv_affine("mlp.fc2", h, dim)
    previous = x0 if residual == "reversible" else x2
    if readout == "residual":
        b.residual_readout(z, previous, x2)
        return b
    if readout == "tokens":
        b.count_readout(b.mean_neuron(z, previous, x2, neuron_params(tau, theta=0.25)))
        return b
    x3, s3 = b.residual("mlp.residual", z, previous, x2, neuron_params(tau, soft=True))
    if readout == "counts":
        b.count_readout(b.gate("mlp.gate", s3, s2, invert=1))
        return b
    h = b.conv_spikes("mlp2.fc1", s3, hidden)
    b.readout(x3, x2 if residual == "reversible" else x3, h, both=readout == "both")
    return b


def levels_network(side, n_t, stem, dim, heads, n_classes, seed, events, bits):
    """Ops 31 to 38: neurons of several levels, convolutions in stages, products of levels."""
    b = Builder(side, side, 3, n_classes, n_t, seed, events)
    x = b.stem_stream(stem)
    s = b.stream_levels("embed.lif", x, 4, 1 << 29, shared=True)
    y = b.weight_affine("embed.conv", s, dim, bits, channels=stem, k=3, pad=1)
    x = b.stream_add("embed.residual", y, y, y)
    s = b.stream_levels("embed.lif2", x, 5, 1 << 21)
    z = b.depthwise("embed.dw", s, bits, 7, stride=2, pad=3, channels=dim)
    x = b.stream_conv("embed.pw", z, dim, min(bits, 8))
    fine = b.depthwise("attn.dw", x, bits, 3, pad=1)
    neurons = []
    for name, n in (("q", 4), ("k", 7), ("v", 4)):
        x = b.stream_conv(f"attn.{name}", fine, dim, min(bits, 8))
        neurons.append(b.stream_levels(f"attn.{name}_lif", x, n, 1 << 30))
    m = b.level_products(*neurons, heads, dim)
    s = b.stream_levels("attn.lif", m, 1, 1 << 9, shared=True)
    s = b.stream_levels("attn.lif2", b.depthwise("attn.dw2", s, bits, 2, channels=dim), 15, 1 << 20)
    y = b.weight_affine("attn.proj", s, dim, bits, channels=dim)
    x = b.stream_add("attn.residual", y, y, y)
    s = b.stream_levels("head.lif", b.stream_mean("head.mean", x), 4, 1 << 18)
    b.level_readout(s, dim)
    return b


def weighted_network(side, n_t, stem, dim, heads, n_classes, seed, tau, bits, readout):
    """Ops 13 to 17: integer weights on spikes and levels, attention, residuals of both kinds."""
    b = Builder(side, side, 3, n_classes, n_t, seed)
    s = b.weight_neuron("embed.conv0", b.stem(stem), dim, bits, k=3, pad=1, explicit=(1, dim - 1))
    s = b.pool(s)
    r = b.weight_neuron("embed.conv1", s, dim, bits, k=3, pad=1)
    x = b.level_add("embed.add", s, r, dim, 2)
    x = b.level_add("embed.twice", x, x, dim, 3)
    q, k, v = (b.weight_neuron(f"attn.{n}", x, dim, bits, channels=dim) for n in "qkv")
    a = b.product(q, k, v, heads, F - 3, neuron_params(tau, theta=0.5))
    x = b.level_add("attn.add", x, b.weight_neuron("attn.proj", a, dim, bits), dim, 3)
    if readout == "both":
        b.level_readout(x, dim)
        return b
    y = b.weight_affine("mlp.fc", x, dim, bits, channels=dim, k=3, pad=1)
    x2, _ = b.residual("mlp.residual", y, y, y, neuron_params(tau))
    b.residual_readout(y, x2, x2)
    return b


def random_frame(program, seed=0):
    return np.random.default_rng(seed).integers(0, 256, program.frame_shape).astype(np.uint8)


def with_golden(builder, n=2):
    """The builder's program with golden vectors from the numpy reference."""
    from runtime import reference

    plain = builder.program()
    frames = [random_frame(plain, seed) for seed in range(n)]
    return builder.program(golden=[Golden(f, reference.run(plain, f)[0]) for f in frames])


def minimal():
    """The smallest valid program: one pixel, one channel, one step, one class."""
    b = Builder(1, 1, 1, 1, 1)
    spikes, stream = b.spikes(1, 1, 1), b.stream(1, 1, 1)
    raw = b.buffer(BufferKind.RAW, 1, 1, 1, 1)
    i32, i64, u8 = ConstantType.I32, ConstantType.I64, ConstantType.U8
    one = b.constant(np.ones((1, 1, 1, 1)), i32)
    bias = b.constant(np.zeros((1, 1)), i64)
    zero = b.constant(np.zeros(1), u8)
    plus = len(b.constants)
    b.constants.append(Constant.of_signs(np.ones((1, 1, 1, 1), bool)))
    ai = b.constant([1 << F], i32)
    af = b.constant([0], ConstantType.I16)
    offset = b.constant([0], i32)
    total = b.constant([0], i64)
    v = b.constant([[1]], i32)
    halving = neuron_params(theta=0.0001)
    b.step(
        Op.STEM_NEURON, "a", [0], [spikes], (one, bias, zero, zero, zero), (1, 0, 1, 0, *halving)
    )
    b.step(Op.CONV_AFFINE, "b", [spikes], [stream], (plus, ai, af, offset), (1, 0))
    b.step(Op.READOUT, "c", [stream, stream, spikes], [raw], (plus, ai, af, offset, v, v, total))
    return b.program(meta="{}")
