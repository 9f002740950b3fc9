"""The op table: what the step of each op looks like, and the rules on its shapes and values.

Slots and params stand here by position; the arithmetic is in `runtime/src/kernels/*/*.h`. The C
side of this table is `runtime/src/ops*.c`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bestdeploy.errors import ArtifactError
from bestdeploy.program.records import (
    I64_LIMIT,
    MAX_CHANNELS,
    MAX_CONV_NEURON_T,
    MAX_FAN_IN,
    MAX_HEADS,
    MAX_KERNEL,
    MAX_LEVEL_PLANES,
    MAX_NEURON_LEVELS,
    MAX_STEM_WEIGHT,
    MAX_STREAM_BITS,
    MAX_STRIDE,
    MAX_TOKENS,
    MAX_WEIGHT_BITS,
    NEURON_DECAY_INPUT,
    NEURON_HALVING,
    Buffer,
    BufferKind,
    Constant,
    ConstantType,
    Op,
    Program,
    Step,
    align,
    level_channels,
    scale_half_even,
)


def require(condition: bool, message: str) -> None:
    """Raise ArtifactError where a rule does not hold."""
    if not condition:
        raise ArtifactError(message)


@dataclass(frozen=True)
class OpSpec:
    """Ports and constant slots of an op.

    Args:
        constants: per slot the element type, number of dimensions, and whether it must be there.
        n_params: params 0..n_params-1 may be non-zero, plus 4..7 when `neuron`.
        neuron: params 4..7 are a stream neuron {flags, theta, v_reset, r}.
        check: op-specific rules on shapes and values.
        neuron_by_form: ... but not in every form: `check` looks at these params itself.
    """

    inputs: tuple[BufferKind, ...]
    outputs: tuple[BufferKind, ...]
    constants: tuple[tuple[ConstantType, int, bool], ...]
    n_params: int
    neuron: bool
    check: Callable[[_Checked], None]
    neuron_by_form: bool = False


@dataclass(frozen=True)
class _Checked:
    """A step with its buffers and constants looked up; `require` raises in its name."""

    program: Program
    step: Step
    inputs: tuple[Buffer, ...]
    outputs: tuple[Buffer, ...]
    constants: tuple[Constant | None, ...]

    def require(self, condition: bool, message: str) -> None:
        if not condition:
            raise ArtifactError(f"step `{self.step.name}` ({self.step.op.name}): {message}")

    def given(self, slot: int) -> Constant | None:
        return self.constants[slot] if slot < len(self.constants) else None

    def constant(self, slot: int) -> Constant:
        found = self.given(slot)
        if found is None:
            raise ArtifactError(f"step `{self.step.name}`: constant {slot} is missing")
        return found

    def require_dims(self, slot: int, dims: tuple[int, ...]) -> None:
        got = self.constant(slot).dims
        self.require(got == dims, f"constant {slot} has dims {got}, expected {dims}")

    def require_same(self, a: Buffer, b: Buffer) -> None:
        same = (a.t, a.h, a.w, a.c) == (b.t, b.h, b.w, b.c)
        self.require(same, "its buffers must have equal shapes")


def _check_window(at: _Checked, kh: int, kw: int, stride: int, pad: int) -> None:
    source, out = at.inputs[0], at.outputs[0]
    at.require(1 <= kh <= MAX_KERNEL and 1 <= kw <= MAX_KERNEL, f"kernel {kh}x{kw} not in 1..15")
    at.require(1 <= stride <= MAX_STRIDE, f"stride {stride} not in 1..{MAX_STRIDE}")
    at.require(0 <= pad < min(kh, kw), f"pad {pad} must be below the kernel size")
    high, wide = source.h + 2 * pad - kh, source.w + 2 * pad - kw
    at.require(high >= 0 and wide >= 0, "kernel is larger than the padded input")
    expected = (high // stride + 1, wide // stride + 1)
    at.require((out.h, out.w) == expected, f"output is {out.h}x{out.w}, expected {expected}")


def _check_neuron(at: _Checked) -> None:
    flags, theta, v_reset, r = (at.step.param(i) for i in (4, 5, 6, 7))
    at.require(0 <= flags <= 7, f"unknown neuron flags {flags}")
    at.require(all(-(1 << 31) <= p < 1 << 31 for p in (theta, v_reset)), "theta leaves int32")
    if flags & NEURON_HALVING:
        at.require(r == 0, "a halving neuron has r = 0")
    else:
        low = 1 if flags & NEURON_DECAY_INPUT else 0
        at.require(low <= r <= 1 << 30, f"neuron r = {r} is not in {low}..2^30")


def _require_no_neuron(at: _Checked, message: str) -> None:
    at.require(not any(at.step.param(i) for i in (4, 5, 6, 7)), message)


def _check_stem(at: _Checked) -> None:
    image, out, (o, kh, kw, cin) = at.inputs[0], at.outputs[0], at.constant(0).dims
    at.require(cin == image.c and o == out.c, "weight does not match input or output channels")
    _check_window(at, kh, kw, at.step.param(0), at.step.param(1))
    at.require(
        bool((np.abs(at.constant(0).data.astype(np.int64)) <= MAX_STEM_WEIGHT).all()),
        f"a weight is beyond +-{MAX_STEM_WEIGHT}",
    )
    n_rows = at.constant(1).dims[0]
    n_col_classes = at.step.param(2)
    at.require_dims(1, (n_rows, o))
    at.require_dims(2, (o,))
    at.require_dims(3, (out.h,))
    at.require_dims(4, (out.w,))
    bias = at.constant(1).data
    inside = bool(((bias < I64_LIMIT) & (bias > -I64_LIMIT)).all())
    at.require(inside, "a bias is beyond 2^60")
    at.require(bool((at.constant(2).data <= 24).all()), "a shift is above 24")
    at.require(n_col_classes >= 1 and n_rows % n_col_classes == 0, "n_col_classes is wrong")
    at.require(
        bool((at.constant(3).data < n_rows // n_col_classes).all())
        and bool((at.constant(4).data < n_col_classes).all()),
        "a border class is out of range",
    )


def _check_stem_neuron(at: _Checked) -> None:
    """Either a neuron, or, for still images, the table of first steps and no neuron."""
    _check_stem(at)
    first = at.given(5)
    if first is None:
        _check_neuron(at)
        return
    at.require(at.inputs[0].t == 1, "the table of first steps is for still images, t = 1")
    _require_no_neuron(at, "the table of first steps leaves no neuron params")
    at.require_dims(5, (at.program.n_steps,))
    falling = bool((np.diff(first.data.astype(np.int64)) <= 0).all())
    at.require(falling, "the table of first steps must not increase")


def _check_pool(at: _Checked) -> None:
    at.require(at.inputs[0].c == at.outputs[0].c, "channels change")
    kernel = at.step.param(0)
    _check_window(at, kernel, kernel, at.step.param(1), at.step.param(2))


def _check_conv(at: _Checked) -> int:
    o, kh, kw, i = at.constant(0).dims
    at.require(
        i == at.inputs[0].c and o == at.outputs[0].c, "weight does not match the channels around it"
    )
    _check_window(at, kh, kw, at.step.param(0), at.step.param(1))
    at.require(kh * kw * i <= MAX_FAN_IN, f"fan-in {kh * kw * i}, at most {MAX_FAN_IN}")
    return o


def _check_conv_neuron(at: _Checked) -> None:
    _check_thresholds(at, _check_conv(at))


def _check_thresholds(at: _Checked, o: int) -> None:
    t = at.program.n_steps
    at.require(t <= MAX_CONV_NEURON_T, f"T = {t} is above {MAX_CONV_NEURON_T}")
    at.require_dims(1, (o,))
    at.require_dims(2, (o,))
    rows, tables = at.given(3), at.given(4)
    at.require((rows is None) == (tables is None), "constants 3 and 4 come together")
    if rows is not None:
        at.require_dims(4, (rows.dims[0], t * (t + 1) // 2))
        index = rows.data.astype(np.int64)
        ascending = bool((np.diff(index) > 0).all()) and index[0] >= 0 and index[-1] < o
        at.require(ascending, "row_index must ascend within the channels")


def _check_conv_affine(at: _Checked) -> None:
    _check_affine(at, _check_conv(at))


def _check_affine(at: _Checked, o: int) -> None:
    for slot in (1, 2, 3):
        at.require_dims(slot, (o,))
    at.require(bool((np.abs(at.constant(2).data.astype(int)) <= 16384).all()), "|Af| above 16384")


def _check_levels(at: _Checked, buffer: Buffer, channels: int) -> None:
    """The buffer holds spikes or levels of `channels` channels."""
    at.require(1 <= channels <= MAX_CHANNELS, f"{channels} channels")
    allowed = {level_channels(channels, n) for n in range(1, MAX_LEVEL_PLANES + 1)}
    at.require(buffer.c in allowed, f"a buffer of {buffer.c} channels holds no levels")
    if buffer.c != channels and channels % 64:
        wrote = _wrote_levels(at.program, buffer, channels)
        at.require(wrote, f"its levels were not written with {channels} channels")


def _wrote_levels(program: Program, buffer: Buffer, channels: int) -> bool:
    """Tell whether bits of a plane beyond the channels are 0: its writer has as many channels."""
    number = next(i for i, b in enumerate(program.buffers) if b is buffer)
    for step in program.steps:
        if number in step.outputs:
            return written_levels(program, step) == channels
    return True  # `validate` looks for the writer


def written_levels(program: Program, step: Step) -> int | None:
    """Return C of the levels that a step writes, whose buffer is planes of bits; else None."""
    if step.op == Op.LEVEL_ADD:
        return step.param(0)
    source = step.inputs[0] if step.inputs else -1
    if step.op != Op.STREAM_LEVELS or not 0 <= source < len(program.buffers):
        return None
    return program.buffers[source].c


def _check_weight_conv(at: _Checked) -> int:
    bits, o, taps, i = at.constant(0).dims
    kh, kw = at.step.param(2), at.step.param(3)
    at.require(bits <= MAX_WEIGHT_BITS, f"weights of {bits} bits, at most {MAX_WEIGHT_BITS}")
    at.require(taps == kh * kw and o == at.outputs[0].c, "weight does not match what is around it")
    _check_levels(at, at.inputs[0], i)
    _check_window(at, kh, kw, at.step.param(0), at.step.param(1))
    at.require(taps * i <= MAX_FAN_IN, f"fan-in {taps * i}, at most {MAX_FAN_IN}")
    return o


def _check_weight_conv_neuron(at: _Checked) -> None:
    _check_thresholds(at, _check_weight_conv(at))


def _check_weight_conv_affine(at: _Checked) -> None:
    _check_affine(at, _check_weight_conv(at))


def _check_product(at: _Checked) -> None:
    _check_equal_shapes(at)
    q, heads, shift = at.inputs[0], at.step.param(0), at.step.param(1)
    at.require(1 <= heads <= MAX_HEADS and q.c % heads == 0, f"heads {heads} do not divide C")
    n, d = q.h * q.w, q.c // heads
    at.require(n <= MAX_TOKENS and d <= MAX_TOKENS, f"{n} tokens, {d} channels per head")
    at.require(0 <= shift <= 30 and n * d << shift < 1 << 31, f"N d 2^{shift} leaves int32")


def _check_level_add(at: _Checked) -> None:
    out = at.outputs[0]
    for buffer in (*at.inputs, out):
        _check_levels(at, buffer, at.step.param(0))
        at.require((buffer.t, buffer.h, buffer.w) == (out.t, out.h, out.w), "token grids differ")


def _check_level_readout(at: _Checked) -> None:
    channels, k = at.step.param(1), at.program.n_classes
    _check_levels(at, at.inputs[0], channels)
    at.require_dims(0, (k, channels))
    at.require_dims(1, (k,))
    _check_q(at)


def _check_same_inputs(at: _Checked) -> None:
    for other in at.inputs[1:]:
        at.require_same(at.inputs[0], other)


def _check_equal_shapes(at: _Checked) -> None:
    _check_same_inputs(at)
    for other in at.outputs:
        at.require_same(at.inputs[0], other)


def _check_heads(at: _Checked, tokens: Buffer, attention: Buffer, by_channel: bool) -> int:
    """Check heads, tokens and map; return the side of the map: tokens, or channels per head."""
    heads, n = at.step.param(0), tokens.h * tokens.w
    at.require(1 <= heads <= MAX_HEADS and tokens.c % heads == 0, f"heads {heads} do not divide C")
    at.require(n <= MAX_TOKENS, f"{n} tokens, at most {MAX_TOKENS}")
    side = tokens.c // heads if by_channel else n
    at.require(side <= MAX_TOKENS, f"{side} channels per head, at most {MAX_TOKENS}")
    shape = (attention.h, attention.w, attention.c)
    at.require(shape == (heads, side, side), f"map is {shape}, expected {(heads, side, side)}")
    return side


def _check_binariser(at: _Checked, max_count: int) -> None:
    """Check form, thr1 and neuron of a binarising neuron on counts up to `max_count`."""
    form = at.step.param(1)
    at.require(form in (0, 1), f"form {form} is not 0 or 1")
    if form == 0:
        at.require(at.step.param(2) >= 1, "thr1 must be at least 1")
        at.require(max_count << at.program.n_steps < 1 << 30, "J leaves int32")
        _require_no_neuron(at, "form 0 has no neuron params")
    else:
        at.require(at.step.param(2) == 0, "form 1 has no thr1")
        at.require(max_count << at.program.frac_bits < 1 << 31, "count << F leaves int32")
        _check_neuron(at)


def _check_scale(at: _Checked, max_count: int) -> None:
    """Check the constants of the table X[T, heads, 0 .. max_count]."""
    heads, t, form = at.step.param(0), at.program.n_steps, at.step.param(1)
    at.require(form in (0, 1), f"form {form} is not 0 or 1")
    if form == 1:
        neither = at.given(0) is None and at.given(1) is None
        at.require(neither, "form 1 takes constant 2 only")
        at.require_dims(2, (t, heads, max_count + 1))
        return
    at.require(at.given(2) is None, "form 0 takes constants 0 and 1 only")
    at.require_dims(0, (t, heads))
    at.require_dims(1, (t, heads))
    for g, e in zip(at.constant(0).data.ravel(), at.constant(1).data.ravel(), strict=True):
        at.require(abs(int(g)) < 1 << 52, "|gain| is not below 2^52")
        # The table is monotone in m: its last entry decides. Beyond +-64 the answer is known.
        last = scale_half_even(int(g), max_count, max(-64, min(int(e), 64)))
        at.require(-(1 << 31) <= last < 1 << 31, "its table leaves int32")


def _check_score(at: _Checked) -> None:
    q, k = at.inputs
    at.require_same(q, k)
    _check_heads(at, q, at.outputs[0], by_channel=False)
    _check_binariser(at, q.c // at.step.param(0))


def _check_value(at: _Checked) -> None:
    attention, v = at.inputs
    at.require_same(v, at.outputs[0])
    _check_scale(at, _check_heads(at, v, attention, by_channel=False))


def _check_key_value(at: _Checked) -> None:
    k, v = at.inputs
    at.require_same(k, v)
    _check_heads(at, k, at.outputs[0], by_channel=True)
    _check_binariser(at, k.h * k.w)


def _check_query_value(at: _Checked) -> None:
    q, attention = at.inputs
    at.require_same(q, at.outputs[0])
    _check_scale(at, _check_heads(at, q, attention, by_channel=True))


def _check_readout(at: _Checked) -> None:
    x2, x1, hidden = at.inputs
    at.require_same(x2, x1)
    at.require((hidden.t, hidden.h, hidden.w) == (x2.t, x2.h, x2.w), "token grids differ")
    d, e, k = x2.c, hidden.c, at.program.n_classes
    at.require_dims(0, (d, 1, 1, e))
    for slot in (1, 2, 3):
        at.require_dims(slot, (d,))
    if at.given(4) is not None:
        at.require_dims(4, (k, d))
    at.require_dims(5, (k, d))
    at.require_dims(6, (k,))
    at.require(x2.t * x2.h * x2.w * e <= 1 << 31, "spike counts leave their range")
    _check_q(at)
    at.require(bool((np.abs(at.constant(2).data.astype(int)) <= 16384).all()), "|Af| above 16384")


def _check_residual_readout(at: _Checked) -> None:
    _check_same_inputs(at)
    k = at.program.n_classes
    at.require_dims(0, (k, at.inputs[0].c))
    at.require_dims(1, (k,))
    _check_q(at)


def _is_per_channel(b: Buffer, a: Buffer) -> bool:
    """Tell whether `b` has one cell, and the steps and channels of `a`."""
    return (b.t, b.h, b.w, b.c) == (a.t, 1, 1, a.c)


def _check_any(at: _Checked) -> None:
    at.require_same(at.inputs[0], at.inputs[1])
    at.require(_is_per_channel(at.outputs[0], at.inputs[0]), "its output has one cell")


def _check_gate(at: _Checked) -> None:
    spikes, gates = at.inputs
    at.require(at.step.param(0) in (0, 1), "invert is 0 or 1")
    at.require_same(spikes, at.outputs[0])
    if not _is_per_channel(gates, spikes):
        at.require_same(spikes, gates)


def _check_ternary(at: _Checked) -> None:
    """The output holds two planes of the channels, each padded to words."""
    x, out = at.inputs[0], at.outputs[0]
    shape = (out.t, out.h, out.w, out.c)
    at.require(shape == (x.t, x.h, x.w, level_channels(x.c, 2)), "its output has two planes")
    flags, theta, v_reset = (at.step.param(i) for i in (4, 5, 6))
    at.require(flags in (0, NEURON_DECAY_INPUT), "a ternary neuron resets to 0 and does not halve")
    at.require(theta >= 1 and v_reset == 0, "a ternary neuron has theta >= 1 and v_reset = 0")


def _check_add_neuron(at: _Checked) -> None:
    q, y, v = at.inputs
    at.require_same(q, y)
    at.require_same(q, at.outputs[0])
    shape = (v.t, v.h, v.w, v.c)
    at.require(shape == (q.t, q.h, q.w, level_channels(q.c, 2)), "v has two planes")
    heads = at.step.param(0)
    at.require(1 <= heads <= MAX_HEADS and q.c % heads == 0, f"heads {heads} do not divide C")
    at.require(q.h * q.w <= MAX_TOKENS and q.c // heads <= MAX_TOKENS, "at most 1024 a side")
    at.require(0 <= at.step.param(1) <= 30, "k_shift is in 0..30")
    halving = at.step.param(4) & ~NEURON_DECAY_INPUT == NEURON_HALVING
    at.require(halving and at.step.param(6) == 0, "its neuron halves and resets to 0")


def _check_mean_neuron(at: _Checked) -> None:
    _check_same_inputs(at)
    at.require(_is_per_channel(at.outputs[0], at.inputs[0]), "its output has one cell")


def _check_count_readout(at: _Checked) -> None:
    k = at.program.n_classes
    at.require_dims(0, (k, at.inputs[0].c))
    at.require_dims(1, (k,))


def _check_stream_mean(at: _Checked) -> None:
    at.require(_is_per_channel(at.outputs[0], at.inputs[0]), "its output has one cell")


def _check_stream_levels(at: _Checked) -> None:
    x, out, (n, width) = at.inputs[0], at.outputs[0], at.constant(0).dims
    at.require(n <= MAX_NEURON_LEVELS, f"{n} levels, at most {MAX_NEURON_LEVELS}")
    at.require(width in (1, x.c), f"thresholds of {width} channels, expected 1 or {x.c}")
    shape = (out.t, out.h, out.w, out.c)
    expected = (x.t, x.h, x.w, level_channels(x.c, n.bit_length()))
    at.require(shape == expected, f"its output is {shape}, expected {expected}")
    if at.given(1) is not None:
        at.require_dims(1, (x.c,))


def _check_depthwise(at: _Checked) -> None:
    bits, one, taps, c = at.constant(0).dims
    kh, kw = at.step.param(2), at.step.param(3)
    at.require(bits <= MAX_WEIGHT_BITS, f"weights of {bits} bits, at most {MAX_WEIGHT_BITS}")
    at.require((one, taps) == (1, kh * kw) and c == at.outputs[0].c, "weight does not match")
    if at.step.op == Op.DEPTHWISE_LEVELS:
        _check_levels(at, at.inputs[0], c)
    else:
        at.require(at.inputs[0].c == c, "weight does not match its input")
    _check_window(at, kh, kw, at.step.param(0), at.step.param(1))
    _check_affine(at, c)


def _check_stream_conv(at: _Checked) -> None:
    x, out, (bits, o, taps, i) = at.inputs[0], at.outputs[0], at.constant(0).dims
    at.require(bits <= MAX_STREAM_BITS, f"weights of {bits} bits, at most {MAX_STREAM_BITS}")
    at.require((o, taps, i) == (out.c, 1, x.c), "weight does not match the channels around it")
    at.require((x.t, x.h, x.w) == (out.t, out.h, out.w), "token grids differ")
    for slot in (1, 2, 3):
        at.require_dims(slot, (o,))
    at.require(bool((at.constant(2).data <= 62).all()), "a shift is above 62")


def _check_level_products(at: _Checked) -> None:
    _check_same_inputs(at)
    q, out, heads, c = at.inputs[0], at.outputs[0], at.step.param(0), at.step.param(1)
    _check_levels(at, q, c)
    at.require((out.t, out.h, out.w, out.c) == (q.t, q.h, q.w, c), "token grids differ")
    at.require(1 <= heads <= MAX_HEADS and c % heads == 0, f"heads {heads} do not divide C")
    n, d = q.h * q.w, c // heads
    at.require(n <= MAX_TOKENS and d <= MAX_TOKENS, f"{n} tokens, {d} channels per head")
    planes = 1 if q.c == c else q.c // align(c, 64)
    most = (1 << planes) - 1
    at.require(n * d * most**3 < 1 << 31, f"N d {most}^3 leaves int32")


def _check_q(at: _Checked) -> None:
    at.require(0 <= at.step.param(0) <= 62, "q is not in 0..62")


_IMAGE, _SPIKES, _STREAM, _RAW = (
    BufferKind.IMAGE,
    BufferKind.SPIKES,
    BufferKind.STREAM,
    BufferKind.RAW,
)
_BITS, _U8, _I16, _I32, _I64 = (
    ConstantType.BITS,
    ConstantType.U8,
    ConstantType.I16,
    ConstantType.I32,
    ConstantType.I64,
)

_DEPTHWISE = (  # weight planes, Ai, Af, B
    (_BITS, 4, True),
    (_I32, 1, True),
    (_I16, 1, True),
    (_I32, 1, True),
)

OPS: dict[Op, OpSpec] = {
    Op.STEM_NEURON: OpSpec(
        inputs=(_IMAGE,),
        outputs=(_SPIKES,),
        constants=(  # weight, bias, shift, row_class, col_class, first
            (_I32, 4, True),
            (_I64, 2, True),
            (_U8, 1, True),
            (_U8, 1, True),
            (_U8, 1, True),
            (_I32, 1, False),
        ),
        n_params=3,  # stride, pad, n_col_classes
        neuron=True,  # without `first`
        neuron_by_form=True,
        check=_check_stem_neuron,
    ),
    Op.STEM_STREAM: OpSpec(
        inputs=(_IMAGE,),
        outputs=(_STREAM,),
        constants=(  # weight, bias, shift, row_class, col_class
            (_I32, 4, True),
            (_I64, 2, True),
            (_U8, 1, True),
            (_U8, 1, True),
            (_U8, 1, True),
        ),
        n_params=3,  # stride, pad, n_col_classes
        neuron=False,
        check=_check_stem,
    ),
    Op.OR_POOL: OpSpec(
        inputs=(_SPIKES,),
        outputs=(_SPIKES,),
        constants=(),
        n_params=3,  # kernel, stride, pad
        neuron=False,
        check=_check_pool,
    ),
    Op.CONV_NEURON: OpSpec(
        inputs=(_SPIKES,),
        outputs=(_SPIKES,),
        constants=(  # weight, theta_u, theta_w, row_index, row_theta
            (_BITS, 4, True),
            (_I32, 1, True),
            (_I32, 1, True),
            (_I32, 1, False),
            (_I32, 2, False),
        ),
        n_params=2,  # stride, pad
        neuron=False,
        check=_check_conv_neuron,
    ),
    Op.CONV_AFFINE: OpSpec(
        inputs=(_SPIKES,),
        outputs=(_STREAM,),
        constants=(  # weight, Ai, Af, B
            (_BITS, 4, True),
            (_I32, 1, True),
            (_I16, 1, True),
            (_I32, 1, True),
        ),
        n_params=2,  # stride, pad
        neuron=False,
        check=_check_conv_affine,
    ),
    Op.STREAM_NEURON: OpSpec(
        inputs=(_STREAM,),
        outputs=(_SPIKES,),
        constants=(),
        n_params=0,
        neuron=True,
        check=_check_equal_shapes,
    ),
    Op.RESIDUAL_NEURON: OpSpec(
        inputs=(_STREAM, _STREAM, _STREAM),  # y, x0, x1 (or x0 again)
        outputs=(_STREAM, _SPIKES),  # x2, its spikes
        constants=(),
        n_params=0,
        neuron=True,
        check=_check_equal_shapes,
    ),
    Op.SCORE_NEURON: OpSpec(
        inputs=(_SPIKES, _SPIKES),  # q, k
        outputs=(_SPIKES,),  # [T, heads, N, N]
        constants=(),
        n_params=3,  # heads, form, thr1
        neuron=True,  # of form 1
        neuron_by_form=True,
        check=_check_score,
    ),
    Op.VALUE_NEURON: OpSpec(
        inputs=(_SPIKES, _SPIKES),  # attention map, v
        outputs=(_SPIKES,),
        constants=((_I64, 2, False), (_I32, 2, False), (_I32, 3, False)),  # gain, exponent, table
        n_params=2,  # heads, form
        neuron=True,
        check=_check_value,
    ),
    Op.READOUT: OpSpec(
        inputs=(_STREAM, _STREAM, _SPIKES),  # x2, x1 (or x2 again), last hidden spikes
        outputs=(_RAW,),
        constants=(  # weight, Ai, Af, B, V0, V1, C
            (_BITS, 4, True),
            (_I32, 1, True),
            (_I16, 1, True),
            (_I32, 1, True),
            (_I32, 2, False),
            (_I32, 2, True),
            (_I64, 1, True),
        ),
        n_params=1,  # q
        neuron=False,
        check=_check_readout,
    ),
    Op.KEY_VALUE_NEURON: OpSpec(
        inputs=(_SPIKES, _SPIKES),  # k, v
        outputs=(_SPIKES,),  # [T, heads, d, d]
        constants=(),
        n_params=3,  # heads, form, thr1
        neuron=True,  # of form 1
        neuron_by_form=True,
        check=_check_key_value,
    ),
    Op.QUERY_VALUE_NEURON: OpSpec(
        inputs=(_SPIKES, _SPIKES),  # q, map
        outputs=(_SPIKES,),
        constants=((_I64, 2, False), (_I32, 2, False), (_I32, 3, False)),  # gain, exponent, table
        n_params=2,  # heads, form
        neuron=True,
        check=_check_query_value,
    ),
    Op.RESIDUAL_READOUT: OpSpec(
        inputs=(_STREAM, _STREAM, _STREAM),  # y, x0, x1
        outputs=(_RAW,),
        constants=((_I32, 2, True), (_I64, 1, True)),  # V, C
        n_params=1,  # q
        neuron=False,
        check=_check_residual_readout,
    ),
    Op.WEIGHT_CONV_NEURON: OpSpec(
        inputs=(_SPIKES,),  # or levels
        outputs=(_SPIKES,),
        constants=(  # weight planes, theta_u, theta_w, row_index, row_theta
            (_BITS, 4, True),
            (_I32, 1, True),
            (_I32, 1, True),
            (_I32, 1, False),
            (_I32, 2, False),
        ),
        n_params=4,  # stride, pad, kh, kw
        neuron=False,
        check=_check_weight_conv_neuron,
    ),
    Op.WEIGHT_CONV_AFFINE: OpSpec(
        inputs=(_SPIKES,),  # or levels
        outputs=(_STREAM,),
        constants=(  # weight planes, Ai, Af, B
            (_BITS, 4, True),
            (_I32, 1, True),
            (_I16, 1, True),
            (_I32, 1, True),
        ),
        n_params=4,  # stride, pad, kh, kw
        neuron=False,
        check=_check_weight_conv_affine,
    ),
    Op.PRODUCT_NEURON: OpSpec(
        inputs=(_SPIKES, _SPIKES, _SPIKES),  # q, k, v
        outputs=(_SPIKES,),
        constants=(),
        n_params=2,  # heads, shift
        neuron=True,
        check=_check_product,
    ),
    Op.LEVEL_ADD: OpSpec(
        inputs=(_SPIKES, _SPIKES),  # levels or spikes
        outputs=(_SPIKES,),
        constants=(),
        n_params=1,  # channels
        neuron=False,
        check=_check_level_add,
    ),
    Op.LEVEL_READOUT: OpSpec(
        inputs=(_SPIKES,),  # levels
        outputs=(_RAW,),
        constants=((_I32, 2, True), (_I64, 1, True)),  # V, C
        n_params=2,  # q, channels
        neuron=False,
        check=_check_level_readout,
    ),
    Op.KEY_VALUE_ANY: OpSpec(
        inputs=(_SPIKES, _SPIKES),  # k, v
        outputs=(_SPIKES,),  # [T, 1, 1, C]
        constants=(),
        n_params=0,
        neuron=False,
        check=_check_any,
    ),
    Op.GATE: OpSpec(
        inputs=(_SPIKES, _SPIKES),  # spikes, gates of the same shape or [T, 1, 1, C]
        outputs=(_SPIKES,),
        constants=(),
        n_params=1,  # invert
        neuron=False,
        check=_check_gate,
    ),
    Op.MAX_POOL: OpSpec(
        inputs=(_STREAM,),
        outputs=(_STREAM,),
        constants=(),
        n_params=3,  # kernel, stride, pad
        neuron=False,
        check=_check_pool,
    ),
    Op.TERNARY_NEURON: OpSpec(
        inputs=(_STREAM,),
        outputs=(_SPIKES,),  # bits of +1, then bits of -1
        constants=(),
        n_params=0,
        neuron=True,
        check=_check_ternary,
    ),
    Op.ADD_NEURON: OpSpec(
        inputs=(_SPIKES, _STREAM, _SPIKES),  # q, y, v of two planes
        outputs=(_SPIKES,),
        constants=(),
        n_params=2,  # heads, k_shift
        neuron=True,
        check=_check_add_neuron,
    ),
    Op.MEAN_NEURON: OpSpec(
        inputs=(_STREAM, _STREAM, _STREAM),  # y, x0, x1 (or x0 again)
        outputs=(_SPIKES,),  # [T, 1, 1, C]
        constants=(),
        n_params=0,
        neuron=True,
        check=_check_mean_neuron,
    ),
    Op.COUNT_READOUT: OpSpec(
        inputs=(_SPIKES,),
        outputs=(_RAW,),
        constants=((_I32, 2, True), (_I64, 1, True)),  # V, C
        n_params=0,
        neuron=False,
        check=_check_count_readout,
    ),
    Op.STREAM_ADD: OpSpec(
        inputs=(_STREAM, _STREAM, _STREAM),  # y, x0, x1 (or x0 again)
        outputs=(_STREAM,),
        constants=(),
        n_params=0,
        neuron=False,
        check=_check_equal_shapes,
    ),
    Op.STREAM_MEAN: OpSpec(
        inputs=(_STREAM,),
        outputs=(_STREAM,),  # [T, 1, 1, C]
        constants=(),
        n_params=0,
        neuron=False,
        check=_check_stream_mean,
    ),
    Op.STREAM_LEVELS: OpSpec(
        inputs=(_STREAM,),
        outputs=(_SPIKES,),  # levels
        constants=((_I32, 2, True), (_U8, 1, False)),  # theta, falling
        n_params=0,
        neuron=False,
        check=_check_stream_levels,
    ),
    Op.DEPTHWISE_LEVELS: OpSpec(
        inputs=(_SPIKES,),  # or levels
        outputs=(_STREAM,),
        constants=_DEPTHWISE,
        n_params=4,  # stride, pad, kh, kw
        neuron=False,
        check=_check_depthwise,
    ),
    Op.DEPTHWISE_STREAM: OpSpec(
        inputs=(_STREAM,),
        outputs=(_STREAM,),
        constants=_DEPTHWISE,
        n_params=4,  # stride, pad, kh, kw
        neuron=False,
        check=_check_depthwise,
    ),
    Op.STREAM_CONV: OpSpec(
        inputs=(_STREAM,),
        outputs=(_STREAM,),
        constants=(  # weight planes, M, shift, B
            (_BITS, 4, True),
            (_I32, 1, True),
            (_U8, 1, True),
            (_I32, 1, True),
        ),
        n_params=0,
        neuron=False,
        check=_check_stream_conv,
    ),
    Op.LEVEL_PRODUCTS: OpSpec(
        inputs=(_SPIKES, _SPIKES, _SPIKES),  # levels q, k, v
        outputs=(_STREAM,),
        constants=(),
        n_params=2,  # heads, channels
        neuron=False,
        check=_check_level_products,
    ),
}


def _look_up(program: Program, step: Step) -> _Checked:
    spec = OPS.get(step.op)
    where = f"step `{step.name}`"
    if spec is None:
        raise ArtifactError(f"{where}: unknown op {step.op}")
    require(re.fullmatch(r"[A-Za-z0-9_.]{1,255}", step.name) is not None, f"{where}: bad name")
    counts = (len(step.inputs), len(step.outputs))
    require(counts == (len(spec.inputs), len(spec.outputs)), f"{where}: wrong number of buffers")
    require(len(step.constants) <= 8 and len(step.params) <= 8, f"{where}: more than 8 slots")
    for number in (*step.inputs, *step.outputs):
        require(0 <= number < len(program.buffers), f"{where}: no buffer {number}")
    for slot in step.constants:
        require(slot is None or 0 <= slot < len(program.constants), f"{where}: no constant {slot}")
    at = _Checked(
        program,
        step,
        tuple(program.buffers[i] for i in step.inputs),
        tuple(program.buffers[i] for i in step.outputs),
        tuple(None if i is None else program.constants[i] for i in step.constants),
    )
    for port, (buffer, kind) in enumerate(
        zip(at.inputs + at.outputs, spec.inputs + spec.outputs, strict=True)
    ):
        at.require(buffer.kind == kind, f"port {port} has kind {buffer.kind}, expected {kind}")
    return at


def check_step(program: Program, step: Step) -> None:
    """Check one step: its slots, its buffers, the rules of its op.

    Raises:
        ArtifactError: naming the step and the rule.
    """
    at = _look_up(program, step)
    spec = OPS[step.op]
    for buffer in (*at.inputs, *at.outputs):
        flat = buffer.kind in (BufferKind.IMAGE, BufferKind.RAW)
        at.require(flat or buffer.t == program.n_steps, f"t = {buffer.t}, not {program.n_steps}")
    for slot, (type_, n_dims, needed) in enumerate(spec.constants):
        found = at.given(slot)
        at.require(found is not None or not needed, f"constant {slot} is missing")
        if found is not None:
            good = found.type == type_ and len(found.dims) == n_dims
            at.require(good, f"constant {slot} must be {type_.name} with {n_dims} dims")
    extra = at.constants[len(spec.constants) :]
    at.require(all(c is None for c in extra), "constants beyond those of the op")
    used = set(range(spec.n_params)) | ({4, 5, 6, 7} if spec.neuron else set())
    at.require(not any(step.param(i) for i in set(range(8)) - used), "an unused param is not 0")
    at.require(all(-(1 << 31) <= p < 1 << 31 for p in step.params), "a param leaves int32")
    if spec.neuron and not spec.neuron_by_form:
        _check_neuron(at)
    spec.check(at)
