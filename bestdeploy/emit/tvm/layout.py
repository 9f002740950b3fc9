"""Where everything lies that the two functions of an object read and write; needs no tvm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bestdeploy.errors import UnsupportedModelError, UsageError
from bestdeploy.program import Buffer, BufferKind, Op, Program, Step, align

OPS = (Op.CONV_NEURON, Op.RESIDUAL_NEURON)
"""The ops that an object can hold."""

ALIGN = 64


@dataclass(frozen=True)
class Port:
    """One tensor argument."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def n_bytes(self) -> int:
        """Size in bytes."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Plan:
    """Arguments and offsets of one object.

    Attributes:
        steps: numbers of the steps.
        inputs: numbers of the buffers that come from outside, ascending.
        outputs: numbers of the buffers that somebody outside reads, ascending.
        constant_offsets: per constant of the program its byte offset in `constants`.
        weight_offsets: step number -> offsets in `weights` of its rows and its thresholds.
        scratch_offset: where the kernels' scratch starts in `arena`.
        prepare: arguments of `prepare`.
        main: arguments of `main`.
    """

    steps: range
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    constant_offsets: tuple[int, ...]
    weight_offsets: Mapping[int, tuple[int, int]]
    scratch_offset: int
    prepare: tuple[Port, ...]
    main: tuple[Port, ...]


def plan(program: Program, steps: range) -> Plan:
    """Plan an object for a contiguous range of steps.

    Raises:
        UnsupportedModelError: a step whose op is not in `OPS`.
        UsageError: the range is empty, has gaps, or leaves the program.
    """
    if steps.step != 1 or not 0 <= steps.start < steps.stop <= len(program.steps):
        raise UsageError(f"{steps} is no contiguous range within {len(program.steps)} steps")
    chosen = [program.steps[i] for i in steps]
    for step in chosen:
        if step.op not in OPS:
            raise UnsupportedModelError(
                f"backend `tvm` has no op {step.op.name}, supported are "
                + ", ".join(op.name for op in OPS),
                where=step.name,
                hint="use --backend c",
            )
    inputs, outputs = _border(program, steps)
    constant_offsets, constants_bytes = _constant_offsets(program)
    weight_offsets, weights_bytes = _weight_offsets(program, steps)
    scratch = max(_scratch_bytes(program, step) for step in chosen)
    weights = Port("weights", "uint8", (max(weights_bytes, ALIGN),))
    arena = Port("arena", "uint8", (program.arena_bytes + max(align(scratch, ALIGN), ALIGN),))
    constants = Port("constants", "uint8", (max(constants_bytes, ALIGN),))
    return Plan(
        steps=steps,
        inputs=inputs,
        outputs=outputs,
        constant_offsets=constant_offsets,
        weight_offsets=weight_offsets,
        scratch_offset=program.arena_bytes,
        prepare=(constants, weights),
        main=(
            *(_buffer_port(program, i) for i in inputs),
            weights,
            arena,
            *(_buffer_port(program, i) for i in outputs),
        ),
    )


def constants_blob(program: Program) -> bytes:
    """Return the bytes for `constants`: those of the `.bstm`'s DATA section."""
    offsets, size = _constant_offsets(program)
    blob = bytearray(max(size, ALIGN))
    for offset, constant in zip(offsets, program.constants, strict=True):
        blob[offset : offset + constant.n_bytes] = constant.data.tobytes()
    return bytes(blob)


def window_of(program: Program, step: Step) -> tuple[int, int, int, int]:
    """Return the weight dims [O, kh, kw, I] of a convolution."""
    number = step.constant(0)
    assert number is not None, "validated"
    n_out, kh, kw, n_in = program.constants[number].dims
    return n_out, kh, kw, n_in


def _border(program: Program, steps: range) -> tuple[tuple[int, ...], tuple[int, ...]]:
    read = {b for i in steps for b in program.steps[i].inputs}
    written = {b for i in steps for b in program.steps[i].outputs}
    read_outside = {
        b for i, step in enumerate(program.steps) if i not in steps for b in step.inputs
    }
    return tuple(sorted(read - written)), tuple(
        sorted(b for b in written if b in read_outside or b not in read)
    )


def _buffer_port(program: Program, number: int) -> Port:
    b: Buffer = program.buffers[number]
    name = f"buffer_{number}"
    if b.kind == BufferKind.SPIKES:
        return Port(name, "uint64", (b.t, b.h, b.w, b.n_words))
    return Port(name, "int32", (b.t, b.h, b.w, b.c))


def _offsets(sizes: Sequence[int], to: int) -> tuple[tuple[int, ...], int]:
    offsets, end = [], 0
    for size in sizes:
        start = align(end, to)
        offsets.append(start)
        end = start + size
    return tuple(offsets), end


def _constant_offsets(program: Program) -> tuple[tuple[int, ...], int]:
    return _offsets([c.n_bytes for c in program.constants], 8)


def _weight_offsets(program: Program, steps: range) -> tuple[dict[int, tuple[int, int]], int]:
    convs = [i for i in steps if program.steps[i].op == Op.CONV_NEURON]
    sizes = []
    for i in convs:
        dims = window_of(program, program.steps[i])
        sizes += [rows_bytes(*dims), theta_bytes(program.n_steps, dims[0])]
    offsets, end = _offsets(sizes, ALIGN)
    return dict(zip(convs, zip(offsets[::2], offsets[1::2], strict=True), strict=True)), end


def _scratch_bytes(program: Program, step: Step) -> int:
    if step.op != Op.CONV_NEURON:
        return 0
    _, kh, kw, n_in = window_of(program, step)
    return scratch_bytes(program.n_steps, kh, kw, n_in)


# Sizes that runtime/src/kernels/spike_conv/ states in C; a test compares the two.


def rows_bytes(n_out: int, kh: int, kw: int, n_in: int) -> int:
    """bst_spike_conv_rows_bytes."""
    return (kh * kw * n_in + 1) * -(-n_out // 64) * 8


def theta_bytes(n_steps: int, n_out: int) -> int:
    """bst_spike_conv_theta_bytes."""
    return n_steps * (n_steps + 1) // 2 * -(-n_out // 64) * 64 * 4


def scratch_bytes(n_steps: int, kh: int, kw: int, n_in: int) -> int:
    """bst_spike_conv_scratch_bytes."""
    return n_steps * (kh * kw * n_in + 8) * 4
