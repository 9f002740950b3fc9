"""Plain numpy versions of the runtime's kernels, written from numerics.md: slow and obvious.

Spikes are uint8 0/1 arrays [T, H, W, C] here; `pack` and `unpack` go to and from the 64-bit words
of the C side. Numbers are int64 (or Python integers), cut to int32 where the runtime stores them.
"""

from __future__ import annotations

import numpy as np
from runtime.programs import F

from bestdeploy.program import (
    NEURON_DECAY_INPUT,
    NEURON_HALVING,
    NEURON_SOFT_RESET,
    Op,
    Program,
    Step,
)


def pack(spikes: np.ndarray) -> np.ndarray:
    """Pack [..., C] of 0/1 into uint64 [..., ceil(C / 64)]."""
    c = spikes.shape[-1]
    padded = np.zeros((*spikes.shape[:-1], -(-c // 64) * 64), np.uint8)
    padded[..., :c] = spikes
    return np.ascontiguousarray(np.packbits(padded, axis=-1, bitorder="little")).view("<u8")


def unpack(words: np.ndarray, c: int) -> np.ndarray:
    """Unpack uint64 [..., n_words] to 0/1 [..., C]; padding bits must be zero."""
    bits = np.unpackbits(words.view(np.uint8), axis=-1, bitorder="little")
    assert not bits[..., c:].any(), "padding bits are set"
    return bits[..., :c]


def neuron(x: np.ndarray, params: tuple[int, int, int, int]) -> np.ndarray:
    """Stream neuron, numerics.md 5: x int [T, ...] -> spikes [T, ...]."""
    flags, theta, v_reset, r = params
    v = np.full(x.shape[1:], v_reset, np.int64)
    spikes = np.zeros(x.shape, np.uint8)
    for t in range(x.shape[0]):
        xt = x[t].astype(np.int64)
        if flags & NEURON_DECAY_INPUT:
            h = (v + xt) >> 1 if flags & NEURON_HALVING else v + (((xt - v) * r + (1 << 29)) >> 30)
        else:
            h = (v >> 1) + xt if flags & NEURON_HALVING else ((v * r + (1 << 29)) >> 30) + xt
        h = h.astype(np.int32).astype(np.int64)
        fired = h >= theta
        reset = h - theta if flags & NEURON_SOFT_RESET else np.int64(v_reset)
        v = np.where(fired, reset, h).astype(np.int32).astype(np.int64)
        spikes[t] = fired
    return spikes


def windows(x: np.ndarray, kh: int, kw: int, stride: int, pad: int) -> np.ndarray:
    """[T, H, W, C] -> [T, Ho, Wo, kh, kw, C], zeros outside."""
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    view = np.lib.stride_tricks.sliding_window_view(padded, (kh, kw), axis=(1, 2))
    return view[:, ::stride, ::stride].transpose(0, 1, 2, 4, 5, 3)


def stem_conv(image, weight, bias, shift, row_class, col_class, stride, pad, n_cols):
    """image u8 [t, H, W, Cin], weight [O, kh, kw, Cin] -> x int32 [t, Ho, Wo, O]."""
    _, kh, kw, _ = weight.shape
    seen = windows(image.astype(np.int64), kh, kw, stride, pad)
    n = np.einsum("tyxklc,oklc->tyxo", seen, weight.astype(np.int64))
    border = row_class.astype(int)[:, None] * n_cols + col_class.astype(int)[None, :]
    e = shift.astype(np.int64)
    half = np.where(e > 0, np.int64(1) << np.maximum(e - 1, 0), 0)
    return ((n + bias[border] + half) >> e).astype(np.int32)


def stem_neuron(x, n_t, params):
    """Stream neuron on x [t, ...], t = 1 (still image) or T."""
    return neuron(np.broadcast_to(x, (n_t, *x.shape[1:])), params)


def first_steps(x, first):
    """Spikes of a constant x [1, ...] at p, 2p, 3p, ..: p is the least with x >= first[p - 1]."""
    spikes = np.zeros((len(first), *x.shape[1:]), np.uint8)
    for place, value in np.ndenumerate(x[0]):
        p = next((p for p, low in enumerate(first, start=1) if value >= low), None)
        if p is not None:
            spikes[(slice(p - 1, None, p), *place)] = 1
    return spikes


def or_pool(spikes, kernel, stride, pad):
    return windows(spikes, kernel, kernel, stride, pad).max(axis=(3, 4))


def conv_counts(spikes, signs, stride, pad):
    """n = sum s * w, int64 [T, Ho, Wo, O]."""
    _, kh, kw, _ = signs.shape
    seen = windows(spikes.astype(np.int64), kh, kw, stride, pad)
    return np.einsum("tyxklc,oklc->tyxo", seen, signs.astype(np.int64), optimize=True)


def theta_table(n_t, u, w, index=None, rows=None):
    """Thresholds int64 [O, T(T+1)/2], numerics.md 4."""
    columns = [
        -((-(u.astype(np.int64) * 2**t + w.astype(np.int64) * 2**s)) >> 18)
        for t in range(1, n_t + 1)
        for s in range(t)
    ]
    table = np.stack(columns, axis=-1)
    if index is not None:
        table[index] = rows
    return table


def conv_neuron(n, table):
    """n [T, ..., O], table [O, K] -> spikes."""
    spikes = np.zeros(n.shape, np.uint8)
    potential = np.zeros(n.shape[1:], np.int64)
    last = np.zeros(n.shape[1:], np.int64)
    channel = np.broadcast_to(np.arange(n.shape[-1]), n.shape[1:])
    for t in range(1, n.shape[0] + 1):
        spiked_before = (last == t - 1) & (t > 1)
        potential = np.where(spiked_before, 0, potential) + 2 ** (t - 1) * n[t - 1]
        fired = potential >= table[channel, t * (t - 1) // 2 + last]
        spikes[t - 1] = fired
        last = np.where(fired, t, last)
    return spikes


def levels_of(bits, channels):
    """Levels int64 [T, H, W, channels] of a buffer of planes of whole words, or of spikes."""
    if bits.shape[-1] == channels:
        return bits.astype(np.int64)
    plane = -(-channels // 64) * 64
    planes = bits.reshape(*bits.shape[:-1], -1, plane)[..., :channels].astype(np.int64)
    return sum(planes[..., p, :] << p for p in range(planes.shape[-2]))


def level_add(a, b, channels, n_out):
    """The sum of two buffers of levels in a buffer of `n_out` channels, cut to its planes."""
    total = levels_of(a, channels) + levels_of(b, channels)
    if n_out == channels:
        return (total & 1).astype(np.uint8)
    plane = -(-channels // 64) * 64
    out = np.zeros((*total.shape[:-1], n_out // plane, plane), np.uint8)
    for p in range(n_out // plane):
        out[..., p, :channels] = (total >> p) & 1
    return out.reshape(*total.shape[:-1], n_out)


def level_readout(levels, v, c, q):
    s = levels.sum(axis=(0, 1, 2)) << F
    return v.astype(np.int64) @ (s >> q) + c


def product_neuron(q, k, v, heads, shift, params):
    m = heads_of(q, heads) @ (heads_of(k, heads).transpose(0, 1, 3, 2) @ heads_of(v, heads))
    x = (m << shift).transpose(0, 2, 1, 3)  # [T, N, heads, d]
    return neuron(x, params).reshape(q.shape)


def scale_count(n, ai, af):
    """n*Ai + ((n*Af + 2^14) >> 15), exact."""
    return n * ai.astype(np.int64) + ((n * af.astype(np.int64) + (1 << 14)) >> 15)


def residual(y, x0, x1):
    return (y + ((x0.astype(np.int64) + x1) >> 1)).astype(np.int32)


def heads_of(spikes, heads):
    """[T, H, W, D] -> [T, heads, N, d]."""
    t, h, w, d = spikes.shape
    return spikes.reshape(t, h * w, heads, d // heads).transpose(0, 2, 1, 3).astype(np.int64)


def binarise(counts, form, thr1, frac_bits, params):
    """Binarising neuron on counts [T, ...], numerics.md 7."""
    if form == 1:
        return neuron((counts << frac_bits).astype(np.int32), params)
    spikes = np.zeros(counts.shape, np.uint8)
    j = np.zeros(counts.shape[1:], np.int64)
    for t in range(counts.shape[0]):
        j = j + 2**t * counts[t]
        spikes[t] = j >= thr1 * 2**t
        j = j - spikes[t].astype(np.int64) * thr1 * 2**t
    return spikes


def score_neuron(q, k, heads, *rule):
    """Attention map [T, heads, N, N]; rule = form, thr1, frac_bits, params."""
    return binarise(heads_of(q, heads) @ heads_of(k, heads).transpose(0, 1, 3, 2), *rule)


def key_value_neuron(k, v, heads, *rule):
    """Attention map [T, heads, d, d]; row: channel of k, column: channel of v."""
    return binarise(heads_of(k, heads).transpose(0, 1, 3, 2) @ heads_of(v, heads), *rule)


def value_table(gain, exponent, n):
    """X[T, heads, m] by exact rationals."""
    from fractions import Fraction

    rows = [
        [round(Fraction(int(g)) * m * Fraction(2) ** int(e)) for m in range(n + 1)]
        for g, e in zip(gain.ravel(), exponent.ravel(), strict=True)
    ]
    return np.array(rows, np.int64).reshape(*gain.shape, n + 1)


def value_neuron(attention, v, heads, table, params):
    m = attention.astype(np.int64) @ heads_of(v, heads)
    return scaled_neuron(m, table, params).reshape(v.shape)


def query_value_neuron(q, attention, heads, table, params):
    m = heads_of(q, heads) @ attention.astype(np.int64)
    return scaled_neuron(m, table, params).reshape(q.shape)


def scaled_neuron(m, table, params):
    """Stream neuron on X[t, head, m]: m [T, heads, N, d] -> spikes [T, N, heads, d]."""
    t, h, n, d = m.shape
    x = np.take_along_axis(table.reshape(t, h, 1, -1), m.reshape(t, h, 1, n * d), axis=3)
    return neuron(x.reshape(m.shape).transpose(0, 2, 1, 3), params)


def readout(x2, x1, hidden, signs, ai, af, b, v0, v1, c, q):
    x2, x1 = x2.astype(np.int64), x1.astype(np.int64)
    s0 = x2.sum(axis=(0, 1, 2))
    projected = signs.reshape(signs.shape[0], -1).astype(np.int64) @ hidden.astype(np.int64).sum(
        axis=(0, 1, 2)
    )
    s1 = ((x1 + x2) >> 1).sum(axis=(0, 1, 2)) + scale_count(projected, ai, af)
    s1 += x2[..., 0].size * b.astype(np.int64)
    first = 0 if v0 is None else v0.astype(np.int64) @ (s0 >> q)
    return first + v1.astype(np.int64) @ (s1 >> q) + c


def max_pool(x, kernel, stride, pad):
    least = np.iinfo(np.int32).min
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)), constant_values=least)
    view = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), axis=(1, 2))
    return np.ascontiguousarray(view[:, ::stride, ::stride].max(axis=(-1, -2)))


def key_value_any(k, v):
    return (k & v).max(axis=(1, 2), keepdims=True)


def gate(spikes, gates, invert):
    return spikes * (gates == (0 if invert else 1)).astype(np.uint8)


def mean_neuron(y, x0, x1, params):
    x = residual(y, x0, x1)
    n = x.shape[1] * x.shape[2]
    total = x.astype(np.int64).sum(axis=(1, 2), keepdims=True)
    return neuron(np.floor_divide(2 * total + n, 2 * n).astype(np.int32), params)


def count_readout(spikes, v, c):
    return v.astype(np.int64) @ spikes.astype(np.int64).sum(axis=(0, 1, 2)) + c


def residual_readout(y, x0, x1, v, c, q):
    s = residual(y, x0, x1).astype(np.int64).sum(axis=(0, 1, 2))
    return v.astype(np.int64) @ (s >> q) + c


# ---- a whole program ----------------------------------------------------------------------------


def run_attention(program: Program, step: Step, ins, const) -> np.ndarray:
    """Spikes of one of the four attention ops."""
    heads, form, thr1, _, *params = (step.param(i) for i in range(8))
    if step.op in (Op.SCORE_NEURON, Op.KEY_VALUE_NEURON):
        kernel = score_neuron if step.op == Op.SCORE_NEURON else key_value_neuron
        return kernel(*ins, heads, form, thr1, program.frac_bits, params)
    attention, kernel = (
        (ins[0], value_neuron) if step.op == Op.VALUE_NEURON else (ins[1], query_value_neuron)
    )
    max_count = attention.shape[-1]
    table = const[2] if form == 1 else value_table(const[0], const[1], max_count)
    return kernel(*ins, heads, table, params)


def ternary_neuron(x, params):
    """Spikes of two planes, each padded to words."""
    flags, theta, _, r = params
    v, planes = np.zeros(x.shape[1:], np.int64), []
    for now in x.astype(np.int64):
        if flags & NEURON_DECAY_INPUT:
            u = v + (((now - v) * r + (1 << 29)) >> 30)
        else:
            u = now + ((v * r + (1 << 29)) >> 30)
        plus, minus = u >= theta, -u >= theta
        v = np.where(plus | minus, 0, u)
        missing = [(0, 0)] * (x.ndim - 2) + [(0, -x.shape[-1] % 64)]
        planes.append(np.concatenate([np.pad(p, missing) for p in (plus, minus)], axis=-1))
    return np.stack(planes).astype(np.uint8)


def add_neuron(q, y, v, heads, k_shift, params):
    flags, theta = params[:2]
    t, h, w, c = q.shape
    keys = (np.maximum(y, 0).astype(np.int64) + ((1 << k_shift) >> 1)) >> k_shift << k_shift
    plus, minus = np.split(v.astype(np.int64), 2, axis=-1)
    signs = (plus - minus)[..., :c]
    by_head = (x.astype(np.int64).reshape(t, h * w, heads, c // heads) for x in (q, keys, signs))
    one, two, three = by_head
    products = np.einsum("tnhi,tnhj->thij", two, three)
    z = np.einsum("tnhi,thij->tnhj", one, products).reshape(t, h, w, c)
    state, spikes = np.zeros(z.shape[1:], np.int64), []
    for now in z:
        charged = (state + now) >> 1 if flags & NEURON_DECAY_INPUT else (state >> 1) + now
        spikes.append((charged >= theta).astype(np.uint8))
        state = np.where(spikes[-1], 0, charged)
    return np.stack(spikes)


GATED = (
    Op.TERNARY_NEURON,
    Op.ADD_NEURON,
    Op.KEY_VALUE_ANY,
    Op.GATE,
    Op.MAX_POOL,
    Op.MEAN_NEURON,
    Op.COUNT_READOUT,
)


def run_gated(step: Step, ins, const) -> np.ndarray:
    """Output of an op of networks whose attention is a gate."""
    p = [step.param(i) for i in range(8)]
    match step.op:
        case Op.KEY_VALUE_ANY:
            return key_value_any(*ins)
        case Op.GATE:
            return gate(*ins, p[0])
        case Op.MAX_POOL:
            return max_pool(ins[0], p[0], p[1], p[2])
        case Op.MEAN_NEURON:
            return mean_neuron(*ins, p[4:])
        case Op.TERNARY_NEURON:
            return ternary_neuron(ins[0], p[4:])
        case Op.ADD_NEURON:
            return add_neuron(*ins, p[0], p[1], p[4:])
    return count_readout(ins[0], *const)


WEIGHTED = (
    Op.WEIGHT_CONV_NEURON,
    Op.WEIGHT_CONV_AFFINE,
    Op.PRODUCT_NEURON,
    Op.LEVEL_ADD,
    Op.LEVEL_READOUT,
)


def weight_conv_sums(bits, constant, p):
    """n of integer weights; p = stride, pad, kh, kw."""
    w = constant.weights()
    kernel = w.reshape(len(w), p[2], p[3], -1)
    return conv_counts(levels_of(bits, w.shape[-1]), kernel, p[0], p[1])


def run_weighted(program: Program, step: Step, ins, const) -> np.ndarray:
    """Output of one of the ops on integer weights and levels."""
    p = [step.param(i) for i in range(8)]
    match step.op:
        case Op.WEIGHT_CONV_NEURON:
            n = weight_conv_sums(ins[0], program.constants[step.constants[0]], p)
            return conv_neuron(n, theta_table(program.n_steps, *const[1:]))
        case Op.WEIGHT_CONV_AFFINE:
            n = weight_conv_sums(ins[0], program.constants[step.constants[0]], p)
            return (scale_count(n, const[1], const[2]) + const[3]).astype(np.int32)
        case Op.PRODUCT_NEURON:
            return product_neuron(*ins, p[0], p[1], (p[4], p[5], p[6], p[7]))
        case Op.LEVEL_ADD:
            return level_add(*ins, p[0], program.buffers[step.outputs[0]].c)
    return level_readout(levels_of(ins[0], p[1]), *const, p[0])


STREAMED = (
    Op.STREAM_ADD,
    Op.STREAM_MEAN,
    Op.STREAM_LEVELS,
    Op.DEPTHWISE_LEVELS,
    Op.DEPTHWISE_STREAM,
    Op.STREAM_CONV,
    Op.LEVEL_PRODUCTS,
)


def planes_of(levels, n_planes):
    """Levels [.., C] -> bits of their planes, each padded to words unless it is the only one."""
    planes = [(levels >> p & 1).astype(np.uint8) for p in range(n_planes)]
    if n_planes == 1:
        return planes[0]
    missing = [(0, 0)] * (levels.ndim - 1) + [(0, -levels.shape[-1] % 64)]
    return np.concatenate([np.pad(p, missing) for p in planes], axis=-1)


def stream_levels(x, theta, falling=None):
    count = sum((x >= row).astype(np.int64) for row in theta)
    level = count if falling is None else np.where(falling != 0, len(theta) - count, count)
    return planes_of(level, len(theta).bit_length())


def depthwise(x, constant, p):
    """Sums int64 of integer weights [1, kh kw, C]; p = stride, pad, kh, kw."""
    w = constant.weights().reshape(p[2], p[3], -1).astype(np.int64)
    view = windows(x.astype(np.int64), p[2], p[3], p[0], p[1])
    return (view * w).sum(axis=(3, 4)).astype(np.int32)


def stream_conv(x, w, gain, shift, offset):
    """Modulo 2^64, in Python's integers where int64 could be left."""
    n = x.astype(np.int64) @ w.astype(np.int64).T
    with np.errstate(over="ignore"):
        lifted = n * gain.astype(np.int64)
        s = shift.astype(np.int64)
        lifted = lifted + np.where(s > 0, np.int64(1) << np.maximum(s - 1, 0), 0)
        return ((lifted >> s) + offset).astype(np.int32)


def level_products(q, k, v, heads):
    t, h, w, c = q.shape
    q, k, v = (z.astype(np.int64).reshape(t, h * w, heads, c // heads) for z in (q, k, v))
    pairs = np.einsum("tnhi,tnhj->thij", k, v)
    return np.einsum("tnhi,thij->tnhj", q, pairs).reshape(t, h, w, c).astype(np.int32)


def run_streamed(program: Program, step: Step, ins, const) -> np.ndarray:
    """Output of one of the ops on streams that are no spikes yet."""
    p = [step.param(i) for i in range(8)]
    match step.op:
        case Op.STREAM_ADD:
            return residual(*ins)
        case Op.STREAM_MEAN:
            n = ins[0].shape[1] * ins[0].shape[2]
            total = ins[0].sum(axis=(1, 2), keepdims=True, dtype=np.int64)
            return ((2 * total + n) // (2 * n)).astype(np.int32)
        case Op.STREAM_LEVELS:
            return stream_levels(ins[0], *const)
        case Op.STREAM_CONV:
            constant = program.constants[step.constants[0]]
            return stream_conv(ins[0], constant.weights()[:, 0], *const[1:])
        case Op.LEVEL_PRODUCTS:
            return level_products(*(levels_of(z, p[1]) for z in ins), p[0])
    constant = program.constants[step.constants[0]]
    x = ins[0]
    if step.op == Op.DEPTHWISE_LEVELS:
        x = levels_of(x, constant.dims[-1])
    n = depthwise(x, constant, p)
    return (scale_count(n, const[1], const[2]) + const[3]).astype(np.int32)


def run_step(program: Program, step: Step, values: dict[int, np.ndarray]) -> list[np.ndarray]:
    """Outputs of one step; spikes as 0/1, streams int32, raw int64."""
    ins = [values[i] for i in step.inputs]
    const = [None if c is None else program.constants[c].data for c in step.constants]
    p = [step.param(i) for i in range(8)]
    params = (p[4], p[5], p[6], p[7])

    def signs():
        return program.constants[step.constants[0]].signs()

    match step.op:
        case Op.STEM_NEURON:
            x = stem_conv(ins[0], *const[:5], p[0], p[1], p[2])
            if len(const) == 6:
                return [first_steps(x, const[5])]
            return [stem_neuron(x, program.n_steps, params)]
        case Op.STEM_STREAM:
            x = stem_conv(ins[0], *const[:5], p[0], p[1], p[2])
            return [np.broadcast_to(x, (program.n_steps, *x.shape[1:])).copy()]
        case Op.OR_POOL:
            return [or_pool(ins[0], p[0], p[1], p[2])]
        case Op.CONV_NEURON:
            table = theta_table(program.n_steps, *const[1:])
            return [conv_neuron(conv_counts(ins[0], signs(), p[0], p[1]), table)]
        case Op.CONV_AFFINE:
            n = conv_counts(ins[0], signs(), p[0], p[1])
            return [(scale_count(n, const[1], const[2]) + const[3]).astype(np.int32)]
        case Op.STREAM_NEURON:
            return [neuron(ins[0], params)]
        case Op.RESIDUAL_NEURON:
            x2 = residual(*ins)
            return [x2, neuron(x2, params)]
        case Op.READOUT:
            return [readout(*ins, signs(), *const[1:], p[0])]
        case Op.RESIDUAL_READOUT:
            return [residual_readout(*ins, *const, p[0])]
    return [_run_other(program, step, ins, const)]


def _run_other(program: Program, step: Step, ins, const) -> np.ndarray:
    if step.op in GATED:
        return run_gated(step, ins, const)
    if step.op in STREAMED:
        return run_streamed(program, step, ins, const)
    if step.op in WEIGHTED:
        return run_weighted(program, step, ins, const)
    return run_attention(program, step, ins, const)


def run(program: Program, frame: np.ndarray) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """Raw logits of a frame, and the value of every buffer."""
    image = program.buffers[0]
    values = {0: frame.reshape(image.t, image.h, image.w, image.c)}
    for step in program.steps:
        values.update(zip(step.outputs, run_step(program, step, values), strict=True))
    return values[program.steps[-1].outputs[0]], values
