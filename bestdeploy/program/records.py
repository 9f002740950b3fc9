"""What a program is made of: enums, buffers, constants, steps, and the limits of the format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from bestdeploy.errors import ArtifactError

NEURON_DECAY_INPUT = 1
NEURON_SOFT_RESET = 2
NEURON_HALVING = 4

MAX_STEPS_T = 16
MAX_SIDE = 4096
MAX_CHANNELS = 65536
MAX_HEADS = 256
MAX_TOKENS = 1024  # rows of an attention map: tokens, or channels per head
MAX_KERNEL = 15
MAX_FAN_IN = 65536  # int32 then holds every accumulator of a binary convolution
MAX_STRIDE = 16
MAX_RECORDS = 1024  # buffers, and steps
MAX_CONSTANTS = 8192
MAX_ARENA_BYTES = 1 << 40
MAX_STEM_WEIGHT = 8355711  # three balanced int8 limbs
MAX_CONV_NEURON_T = 8
MAX_WEIGHT_BITS = 16
MAX_LEVEL_PLANES = 8
MAX_NEURON_LEVELS = 15
MAX_STREAM_BITS = 8  # of a weight on a stream
I64_LIMIT = 1 << 60  # biases: leaves room to add sums without overflow

Array = npt.NDArray[Any]


class BufferKind(IntEnum):
    """What a buffer holds, and so how its bytes follow from its shape."""

    IMAGE = 1  # uint8 [t, H, W, C], t = 1 (still image) or T (event frames, one per time step)
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
    KEY_VALUE_NEURON = 10
    QUERY_VALUE_NEURON = 11
    RESIDUAL_READOUT = 12
    WEIGHT_CONV_NEURON = 13
    WEIGHT_CONV_AFFINE = 14
    PRODUCT_NEURON = 15
    LEVEL_ADD = 16
    LEVEL_READOUT = 17
    KEY_VALUE_ANY = 24
    GATE = 25
    MAX_POOL = 26
    MEAN_NEURON = 27
    COUNT_READOUT = 28
    TERNARY_NEURON = 29
    ADD_NEURON = 30
    STEM_STREAM = 31
    STREAM_ADD = 32
    STREAM_MEAN = 33
    STREAM_LEVELS = 34
    DEPTHWISE_LEVELS = 35
    DEPTHWISE_STREAM = 36
    STREAM_CONV = 37
    LEVEL_PRODUCTS = 38


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


def level_channels(channels: int, n_planes: int) -> int:
    """Return the channels of a SPIKES buffer that holds levels in so many planes; one is spikes."""
    return channels if n_planes == 1 else 64 * -(-channels // 64) * n_planes


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

    @classmethod
    def of_weights(cls, w: npt.ArrayLike) -> Constant:
        """Make a BITS constant [bits, O, kh kw, I] of integer weights [O, kh, kw, I].

        One plane holds signs, more hold two's complement, the lowest bit first; as few as hold all.
        """
        array = np.asarray(w, np.int64)
        if np.isin(array, (-1, 1)).all():
            planes = (array > 0).astype(np.int64)[None]
        else:
            low, high = int(array.min()), int(array.max())
            n = 1 + max(1, high.bit_length(), (-low - 1).bit_length() if low < 0 else 0)
            if n > MAX_WEIGHT_BITS:
                raise ArtifactError(f"a weight needs {n} bits, at most {MAX_WEIGHT_BITS} are held")
            shifts = np.arange(n).reshape(-1, 1, 1, 1, 1)
            planes = (array[None] >> shifts) & 1
        o, kh, kw, i = array.shape
        rows = planes.reshape(-1, o, kh * kw, i)
        packed = np.packbits(rows.astype(np.uint8), axis=-1, bitorder="little")
        return cls(ConstantType.BITS, tuple(rows.shape), np.ascontiguousarray(packed))

    def weights(self) -> npt.NDArray[np.int16]:
        """Return the integer weights [O, kh kw, I] of such a constant."""
        bits = np.unpackbits(
            self.data.astype(np.uint8), axis=-1, count=self.dims[-1], bitorder="little"
        ).astype(np.int64)
        n = len(bits)
        if n == 1:
            return (2 * bits[0] - 1).astype(np.int16)
        total = sum(bits[p] << p for p in range(n)) - (bits[-1] << n)
        return np.asarray(total).astype(np.int16)

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


def handed_on(steps: Sequence[Step]) -> dict[int, int]:
    """Return, by the buffer x2 of a residual, the buffer y whose place it may take.

    It may where nothing else reads y, at this step or later: kernels read each y before they write
    the x2 of its place.
    """
    last: dict[int, int] = {}
    for at, step in enumerate(steps):
        last.update(dict.fromkeys(step.inputs, at))
    return {
        step.outputs[0]: step.inputs[0]
        for at, step in enumerate(steps)
        if step.op in (Op.RESIDUAL_NEURON, Op.STREAM_ADD)
        and last[step.inputs[0]] == at
        and step.inputs[0] not in step.inputs[1:]
    }


@dataclass(frozen=True, eq=False)
class Golden:
    """A frame and the exact raw logits (int64 `[K]`) that it must give.

    The frame is uint8 `[H, W, C]`, or `[T, H, W, C]` where the program takes event frames.
    """

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

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """Shape of one input frame: `[H, W, C]`, or `[T, H, W, C]` for event frames."""
        still = (self.input_height, self.input_width, self.input_channels)
        frame_steps = self.buffers[0].t if self.buffers else 1
        return still if frame_steps == 1 else (frame_steps, *still)
