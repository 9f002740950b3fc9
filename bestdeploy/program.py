"""Program: the flat form of a deployed network, exactly what a `.bstm` file holds.

A program is a list of steps over numbered buffers. All shapes are for one frame (B = 1), channel
last, time steps outermost: `[T, H, W, C]`. Buffer 0 is the image, every other buffer is written by
exactly one step, the last step writes the raw logits. The same rules are checked by `validate` here
and by `runtime/src/model.c` when a device loads the file; `runtime/FORMAT.md` states them.

Constants are positional: slot `i` of a step is the constant `i` of its op (`None` = absent). The
arithmetic of each op is `numerics.md`; the slots and params of each op are the `OPS` table below.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from bestdeploy.errors import ArtifactError

__all__ = [
    "NEURON_DECAY_INPUT",
    "NEURON_HALVING",
    "NEURON_SOFT_RESET",
    "OPS",
    "Buffer",
    "BufferKind",
    "Constant",
    "ConstantType",
    "Golden",
    "Op",
    "OpSpec",
    "Program",
    "Step",
    "align",
    "scale_half_even",
    "validate",
]

NEURON_DECAY_INPUT = 1
NEURON_SOFT_RESET = 2
NEURON_HALVING = 4

MAX_STEPS_T = 16
MAX_SIDE = 4096
MAX_CHANNELS = 65536
MAX_HEADS = 256
MAX_TOKENS = 1024
MAX_KERNEL = 15
MAX_FAN_IN = 65536  # int32 then holds every accumulator of a binary convolution
MAX_STRIDE = 16
MAX_RECORDS = 1024  # buffers, and steps
MAX_CONSTANTS = 8192
MAX_ARENA_BYTES = 1 << 40
MAX_STEM_WEIGHT = 8355711  # three balanced int8 limbs
MAX_CONV_NEURON_T = 8
I64_LIMIT = 1 << 60  # biases: leaves room to add sums without overflow

Array = npt.NDArray[Any]


class BufferKind(IntEnum):
    """What a buffer holds, and so how its bytes follow from its shape."""

    IMAGE = 1  # uint8 [1, H, W, C]
    SPIKES = 2  # bits  [T, H, W, C], each row of C bits padded to 64
    STREAM = 3  # int32 [T, H, W, C], units of 2^-F
    RAW = 4  # int64 [K]


class ConstantType(IntEnum):
    """Element type of a constant."""

    BITS = 1  # +1 / -1 as bits, each innermost row padded to whole bytes, little bit order
    U8 = 2
    I16 = 3
    I32 = 4
    I64 = 5


CONSTANT_DTYPES: dict[ConstantType, np.dtype[np.generic]] = {
    ConstantType.BITS: np.dtype("u1"),
    ConstantType.U8: np.dtype("u1"),
    ConstantType.I16: np.dtype("<i2"),
    ConstantType.I32: np.dtype("<i4"),
    ConstantType.I64: np.dtype("<i8"),
}


class Op(IntEnum):
    """Op codes of the file format: append only, never reused."""

    STEM_NEURON = 1
    OR_POOL = 2
    CONV_NEURON = 3
    CONV_AFFINE = 4
    STREAM_NEURON = 5
    RESIDUAL_NEURON = 6
    SCORE_NEURON = 7
    VALUE_NEURON = 8
    READOUT = 9


def align(n_bytes: int, to: int) -> int:
    """Round `n_bytes` up to a multiple of `to`."""
    return -(-n_bytes // to) * to


def scale_half_even(gain: int, m: int, exponent: int) -> int:
    """Return rint(gain * m * 2^exponent), exactly, half to even."""
    product = gain * m
    if exponent >= 0:
        return product << exponent
    shift = -exponent
    floor, rest, half = product >> shift, product & ((1 << shift) - 1), 1 << (shift - 1)
    return floor + int(rest > half or (rest == half and floor & 1 == 1))


@dataclass(frozen=True)
class Buffer:
    """One region of the arena: `[t, h, w, c]` of `kind` at byte `offset` (a multiple of 64)."""

    kind: BufferKind
    t: int
    h: int
    w: int
    c: int
    offset: int = 0

    @property
    def n_words(self) -> int:
        """Number of 64-bit words of one row of a spike tensor."""
        return -(-self.c // 64)

    @property
    def n_bytes(self) -> int:
        """Exact size in bytes."""
        cells = self.t * self.h * self.w
        match self.kind:
            case BufferKind.IMAGE:
                return cells * self.c
            case BufferKind.SPIKES:
                return cells * self.n_words * 8
            case BufferKind.STREAM:
                return cells * self.c * 4
        return cells * self.c * 8


@dataclass(frozen=True, eq=False)
class Constant:
    """One weight or table.

    `dims` are the logical dimensions; `data` holds the values in C order, for BITS the packed bytes
    `[..., ceil(dims[-1] / 8)]`.
    """

    type: ConstantType
    dims: tuple[int, ...]
    data: Array

    @classmethod
    def of(cls, values: npt.ArrayLike, type_: ConstantType) -> Constant:
        """Make a U8, I16, I32 or I64 constant; a value that does not fit is refused."""
        array = np.asarray(values)
        packed = array.astype(CONSTANT_DTYPES[type_])
        if not np.array_equal(packed, array):
            raise ArtifactError(f"constant has values that do not fit {type_.name}")
        return cls(type_, tuple(array.shape), np.ascontiguousarray(packed))

    @classmethod
    def of_signs(cls, signs: npt.ArrayLike) -> Constant:
        """Make a BITS constant from +1 / -1 values (or booleans: True = +1)."""
        array = np.asarray(signs)
        if array.dtype != np.bool_ and not np.isin(array, (-1, 1)).all():
            raise ArtifactError("binary weights must all be +1 or -1")
        packed = np.packbits(array > 0, axis=-1, bitorder="little")
        return cls(ConstantType.BITS, tuple(array.shape), np.ascontiguousarray(packed))

    def signs(self) -> npt.NDArray[np.int8]:
        """Return the +1 / -1 values of a BITS constant, shape `dims`."""
        bits = np.unpackbits(
            self.data.astype(np.uint8), axis=-1, count=self.dims[-1], bitorder="little"
        )
        return (2 * bits.astype(np.int8) - 1).astype(np.int8)

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Shape of `data` that `dims` demands."""
        if self.type == ConstantType.BITS:
            return (*self.dims[:-1], -(-self.dims[-1] // 8))
        return self.dims

    @property
    def n_bytes(self) -> int:
        """Size in the file, without padding."""
        return int(np.prod(self.stored_shape)) * CONSTANT_DTYPES[self.type].itemsize


@dataclass(frozen=True)
class Step:
    """One operation: buffer numbers in and out, constant numbers by slot, up to 8 int32 params."""

    op: Op
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    constants: tuple[int | None, ...] = ()
    params: tuple[int, ...] = ()

    def param(self, index: int) -> int:
        """Return param `index`, 0 where it was not given."""
        return self.params[index] if index < len(self.params) else 0

    def constant(self, slot: int) -> int | None:
        """Return the number of the constant in `slot`, None where absent."""
        return self.constants[slot] if slot < len(self.constants) else None


@dataclass(frozen=True, eq=False)
class Golden:
    """A frame (uint8 `[H, W, C]`) and the exact raw logits (int64 `[K]`) that it must give."""

    frame: npt.NDArray[np.uint8]
    raw: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Program:
    """A whole deployed network; see the module docstring.

    Args:
        n_steps: T, time steps.
        frac_bits: F, fraction bits of the residual stream.
        logit_shift: logit = raw * 2^-logit_shift.
        arena_bytes: size of the arena that the buffers' offsets lie in.
        meta: JSON text for people and tools; the C runtime never reads it.
    """

    input_height: int
    input_width: int
    input_channels: int
    n_classes: int
    n_steps: int
    frac_bits: int
    logit_shift: int
    arena_bytes: int
    buffers: tuple[Buffer, ...]
    steps: tuple[Step, ...]
    constants: tuple[Constant, ...]
    meta: str = "{}"
    golden: tuple[Golden, ...] = field(default=())


@dataclass(frozen=True)
class OpSpec:
    """Ports and constant slots of an op.

    Args:
        constants: per slot the element type, number of dimensions, and whether it must be there.
        n_params: params 0..n_params-1 may be non-zero, plus 4..7 when `neuron`.
        neuron: params 4..7 are a stream neuron {flags, theta, v_reset, r}.
        check: op-specific rules on shapes and values.
    """

    inputs: tuple[BufferKind, ...]
    outputs: tuple[BufferKind, ...]
    constants: tuple[tuple[ConstantType, int, bool], ...]
    n_params: int
    neuron: bool
    check: Callable[[_Checked], None]


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

    def constant(self, slot: int) -> Constant:
        found = self.constants[slot] if slot < len(self.constants) else None
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
    at.require(bool((np.abs(at.constant(1).data) < I64_LIMIT).all()), "a bias is beyond 2^60")
    at.require(bool((at.constant(2).data <= 24).all()), "a shift is above 24")
    at.require(n_col_classes >= 1 and n_rows % n_col_classes == 0, "n_col_classes is wrong")
    at.require(
        bool((at.constant(3).data < n_rows // n_col_classes).all())
        and bool((at.constant(4).data < n_col_classes).all()),
        "a border class is out of range",
    )


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
    o = _check_conv(at)
    t = at.program.n_steps
    at.require(t <= MAX_CONV_NEURON_T, f"T = {t} is above {MAX_CONV_NEURON_T}")
    at.require_dims(1, (o,))
    at.require_dims(2, (o,))
    rows, tables = (at.constants + (None,) * 5)[3:5]
    at.require((rows is None) == (tables is None), "constants 3 and 4 come together")
    if rows is not None:
        at.require_dims(4, (rows.dims[0], t * (t + 1) // 2))
        index = rows.data.astype(np.int64)
        ascending = bool((np.diff(index) > 0).all()) and index[0] >= 0 and index[-1] < o
        at.require(ascending, "row_index must ascend within the channels")


def _check_conv_affine(at: _Checked) -> None:
    o = _check_conv(at)
    for slot in (1, 2, 3):
        at.require_dims(slot, (o,))
    at.require(bool((np.abs(at.constant(2).data.astype(int)) <= 16384).all()), "|Af| above 16384")


def _check_equal_shapes(at: _Checked) -> None:
    for other in (*at.inputs[1:], *at.outputs):
        at.require_same(at.inputs[0], other)


def _check_heads(at: _Checked, tokens: Buffer, attention: Buffer) -> None:
    heads, n = at.step.param(0), tokens.h * tokens.w
    at.require(1 <= heads <= MAX_HEADS and tokens.c % heads == 0, f"heads {heads} do not divide C")
    at.require(n <= MAX_TOKENS, f"{n} tokens, at most {MAX_TOKENS}")
    shape = (attention.h, attention.w, attention.c)
    at.require(shape == (heads, n, n), f"attention map is {shape}, expected {(heads, n, n)}")


def _check_score(at: _Checked) -> None:
    at.require_same(at.inputs[0], at.inputs[1])
    _check_heads(at, at.inputs[0], at.outputs[0])
    form, d = at.step.param(1), at.inputs[0].c // at.step.param(0)
    at.require(form in (0, 1), f"form {form} is not 0 or 1")
    if form == 0:
        at.require(at.step.param(2) >= 1, "thr1 must be at least 1")
        at.require(d << at.program.n_steps < 1 << 30, "J leaves int32")
        at.require(not any(at.step.param(i) for i in (4, 5, 6, 7)), "form 0 has no neuron params")
    else:
        at.require(at.step.param(2) == 0, "form 1 has no thr1")
        at.require(d << at.program.frac_bits < 1 << 31, "A << F leaves int32")
        _check_neuron(at)


def _check_value(at: _Checked) -> None:
    at.require_same(at.inputs[1], at.outputs[0])
    _check_heads(at, at.inputs[1], at.inputs[0])
    heads, t, n = at.step.param(0), at.program.n_steps, at.inputs[0].c
    form = at.step.param(1)
    at.require(form in (0, 1), f"form {form} is not 0 or 1")
    gain, exponent, table = (at.constants + (None,) * 3)[:3]
    if form == 1:
        at.require(gain is None and exponent is None, "form 1 takes constant 2 only")
        at.require_dims(2, (t, heads, n + 1))
        return
    at.require(table is None, "form 0 takes constants 0 and 1 only")
    at.require_dims(0, (t, heads))
    at.require_dims(1, (t, heads))
    for g, e in zip(at.constant(0).data.ravel(), at.constant(1).data.ravel(), strict=True):
        at.require(abs(int(g)) < 1 << 52, "|gain| is not below 2^52")
        # The table is monotone in m: its last entry decides. Beyond +-64 the answer is known.
        last = scale_half_even(int(g), n, max(-64, min(int(e), 64)))
        at.require(-(1 << 31) <= last < 1 << 31, "its table leaves int32")


def _check_readout(at: _Checked) -> None:
    x2, x1, hidden = at.inputs
    at.require_same(x2, x1)
    at.require((hidden.t, hidden.h, hidden.w) == (x2.t, x2.h, x2.w), "token grids differ")
    d, e, k = x2.c, hidden.c, at.program.n_classes
    at.require_dims(0, (d, 1, 1, e))
    for slot in (1, 2, 3):
        at.require_dims(slot, (d,))
    at.require_dims(4, (k, d))
    at.require_dims(5, (k, d))
    at.require_dims(6, (k,))
    at.require(x2.t * x2.h * x2.w * e <= 1 << 31, "spike counts leave their range")
    at.require(0 <= at.step.param(0) <= 62, "q is not in 0..62")
    at.require(bool((np.abs(at.constant(2).data.astype(int)) <= 16384).all()), "|Af| above 16384")


def _nothing_more(at: _Checked) -> None:
    del at


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

OPS: dict[Op, OpSpec] = {
    Op.STEM_NEURON: OpSpec(
        inputs=(_IMAGE,),
        outputs=(_SPIKES,),
        constants=(  # weight, bias, shift, row_class, col_class
            (_I32, 4, True),
            (_I64, 2, True),
            (_U8, 1, True),
            (_U8, 1, True),
            (_U8, 1, True),
        ),
        n_params=3,  # stride, pad, n_col_classes
        neuron=True,
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
        inputs=(_STREAM, _STREAM, _STREAM),  # y, x0, x1
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
        inputs=(_STREAM, _STREAM, _SPIKES),  # x2, x1, last hidden spikes
        outputs=(_RAW,),
        constants=(  # weight, Ai, Af, B, V0, V1, C
            (_BITS, 4, True),
            (_I32, 1, True),
            (_I16, 1, True),
            (_I32, 1, True),
            (_I32, 2, True),
            (_I32, 2, True),
            (_I64, 1, True),
        ),
        n_params=1,  # q
        neuron=False,
        check=_check_readout,
    ),
}


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ArtifactError(message)


def _check_neuron(at: _Checked) -> None:
    flags, theta, v_reset, r = (at.step.param(i) for i in (4, 5, 6, 7))
    at.require(0 <= flags <= 7, f"unknown neuron flags {flags}")
    at.require(all(-(1 << 31) <= p < 1 << 31 for p in (theta, v_reset)), "theta leaves int32")
    if flags & NEURON_HALVING:
        at.require(r == 0, "a halving neuron has r = 0")
    else:
        low = 1 if flags & NEURON_DECAY_INPUT else 0
        at.require(low <= r <= 1 << 30, f"neuron r = {r} is not in {low}..2^30")


def _look_up(program: Program, step: Step) -> _Checked:
    spec = OPS.get(step.op)
    where = f"step `{step.name}`"
    if spec is None:
        raise ArtifactError(f"{where}: unknown op {step.op}")
    _require(re.fullmatch(r"[A-Za-z0-9_.]{1,255}", step.name) is not None, f"{where}: bad name")
    counts = (len(step.inputs), len(step.outputs))
    _require(counts == (len(spec.inputs), len(spec.outputs)), f"{where}: wrong number of buffers")
    _require(len(step.constants) <= 8 and len(step.params) <= 8, f"{where}: more than 8 slots")
    for number in (*step.inputs, *step.outputs):
        _require(0 <= number < len(program.buffers), f"{where}: no buffer {number}")
    for slot in step.constants:
        _require(slot is None or 0 <= slot < len(program.constants), f"{where}: no constant {slot}")
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


def _check_step(program: Program, step: Step) -> None:
    at = _look_up(program, step)
    spec = OPS[step.op]
    for buffer in (*at.inputs, *at.outputs):
        flat = buffer.kind in (BufferKind.IMAGE, BufferKind.RAW)
        at.require(flat or buffer.t == program.n_steps, f"t = {buffer.t}, not {program.n_steps}")
    for slot, (type_, n_dims, needed) in enumerate(spec.constants):
        found = at.constants[slot] if slot < len(at.constants) else None
        at.require(found is not None or not needed, f"constant {slot} is missing")
        if found is not None:
            good = found.type == type_ and len(found.dims) == n_dims
            at.require(good, f"constant {slot} must be {type_.name} with {n_dims} dims")
    extra = at.constants[len(spec.constants) :]
    at.require(all(c is None for c in extra), "constants beyond those of the op")
    used = set(range(spec.n_params)) | ({4, 5, 6, 7} if spec.neuron else set())
    at.require(not any(step.param(i) for i in set(range(8)) - used), "an unused param is not 0")
    at.require(all(-(1 << 31) <= p < 1 << 31 for p in step.params), "a param leaves int32")
    if spec.neuron and step.op != Op.SCORE_NEURON:
        _check_neuron(at)
    spec.check(at)


def _check_model(program: Program) -> None:
    caps = (
        ("input_height", 1, MAX_SIDE),
        ("input_width", 1, MAX_SIDE),
        ("input_channels", 1, MAX_CHANNELS),
        ("n_classes", 1, MAX_CHANNELS),
        ("n_steps", 1, MAX_STEPS_T),
        ("frac_bits", 0, 30),
        ("logit_shift", 0, 62),
        ("arena_bytes", 0, MAX_ARENA_BYTES),
    )
    for name, low, high in caps:
        value = getattr(program, name)
        _require(low <= value <= high, f"{name} = {value} is not in {low}..{high}")
    _require(program.arena_bytes % 64 == 0, "arena_bytes is not a multiple of 64")
    for what, records, low, high in (
        ("buffers", program.buffers, 2, MAX_RECORDS),
        ("steps", program.steps, 1, MAX_RECORDS),
        ("constants", program.constants, 0, MAX_CONSTANTS),
    ):
        _require(low <= len(records) <= high, f"{len(records)} {what}, not in {low}..{high}")


def _check_buffers(program: Program) -> None:
    for i, b in enumerate(program.buffers):
        shape = (b.t, b.h, b.w, b.c)
        wide = MAX_CHANNELS
        inside = 1 <= b.t <= MAX_STEPS_T and 1 <= b.h <= MAX_SIDE and 1 <= b.w <= MAX_SIDE
        _require(inside and 1 <= b.c <= wide, f"buffer {i}: shape {shape} is out of range")
        _require(b.offset % 64 == 0 and b.offset >= 0, f"buffer {i}: offset is not 64-aligned")
        _require(b.offset + b.n_bytes <= program.arena_bytes, f"buffer {i} leaves the arena")
    image = (1, program.input_height, program.input_width, program.input_channels)
    for i, b in enumerate(program.buffers):
        shape = (b.t, b.h, b.w, b.c)
        _require((b.kind == BufferKind.IMAGE) == (i == 0), "buffer 0 alone is the image")
        if b.kind == BufferKind.IMAGE:
            _require(shape == image, f"buffer 0 is {shape}, the image is {image}")
        if b.kind == BufferKind.RAW:
            _require(shape == (1, 1, 1, program.n_classes), f"raw buffer {i} is {shape}")


def _lifetimes(program: Program) -> Iterator[tuple[int, int, int]]:
    """Yield (buffer, step that writes it, last step that reads it), checking the order."""
    written = {0: -1}
    read: dict[int, int] = {}
    for at, step in enumerate(program.steps):
        for number in step.inputs:
            _require(number in written, f"step `{step.name}` reads buffer {number} before a write")
            read[number] = at
        for number in step.outputs:
            _require(number not in written, f"step `{step.name}` writes buffer {number} again")
            written[number] = at
    for number in range(len(program.buffers)):
        _require(number in written, f"buffer {number} is never written")
        yield number, written[number], max(written[number], read.get(number, -1))


def _check_arena(program: Program) -> None:
    spans = sorted(_lifetimes(program))
    for at, step in enumerate(program.steps, start=1):
        is_raw = program.buffers[step.outputs[0]].kind == BufferKind.RAW
        message = f"step `{step.name}`: the last step, and no other, writes the raw logits"
        _require(is_raw == (at == len(program.steps)), message)
    for i, (a, first_a, last_a) in enumerate(spans):
        one = program.buffers[a]
        for b, first_b, last_b in spans[i + 1 :]:
            two = program.buffers[b]
            apart = one.offset + one.n_bytes <= two.offset or two.offset + two.n_bytes <= one.offset
            alive = first_a <= last_b and first_b <= last_a
            _require(apart or not alive, f"buffers {a} and {b} overlap while both are alive")


def _check_constants(program: Program) -> None:
    for i, constant in enumerate(program.constants):
        dims = constant.dims
        _require(1 <= len(dims) <= 4, f"constant {i} has {len(dims)} dims, expected 1..4")
        _require(all(1 <= d < 1 << 31 for d in dims), f"constant {i}: dims {dims} out of range")
        data = constant.data
        good = data.dtype == CONSTANT_DTYPES[constant.type] and data.shape == constant.stored_shape
        _require(good, f"constant {i}: data is {data.dtype} {data.shape}, not {constant.type.name}")
        if constant.type == ConstantType.BITS and dims[-1] % 8:
            pad = data[..., -1].astype(np.uint8) >> np.uint8(dims[-1] % 8)
            _require(not pad.any(), f"constant {i}: padding bits are not zero")


def validate(program: Program) -> None:
    """Check every rule of the format.

    Raises:
        ArtifactError: naming the step, buffer or constant, the value and what is allowed.
    """
    _check_model(program)
    _check_buffers(program)
    _check_constants(program)
    for step in program.steps:
        _check_step(program, step)
    _check_arena(program)
    frame = (program.input_height, program.input_width, program.input_channels)
    for i, golden in enumerate(program.golden):
        good = golden.frame.shape == frame and golden.frame.dtype == np.uint8
        good = good and golden.raw.shape == (program.n_classes,) and golden.raw.dtype == np.int64
        _require(good, f"golden vector {i} has a wrong shape or type")
