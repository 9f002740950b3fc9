"""The rules on a whole program: sizes, buffers, constants, order of steps, arena, test vectors."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bestdeploy.program.op_table import check_step, require
from bestdeploy.program.records import (
    CONSTANT_DTYPES,
    MAX_ARENA_BYTES,
    MAX_CHANNELS,
    MAX_CONSTANTS,
    MAX_RECORDS,
    MAX_SIDE,
    MAX_STEPS_T,
    BufferKind,
    ConstantType,
    Program,
    handed_on,
)


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
        require(low <= value <= high, f"{name} = {value} is not in {low}..{high}")
    require(program.arena_bytes % 64 == 0, "arena_bytes is not a multiple of 64")
    for what, records, low, high in (
        ("buffers", program.buffers, 2, MAX_RECORDS),
        ("steps", program.steps, 1, MAX_RECORDS),
        ("constants", program.constants, 0, MAX_CONSTANTS),
    ):
        require(low <= len(records) <= high, f"{len(records)} {what}, not in {low}..{high}")


def _check_buffers(program: Program) -> None:
    for i, b in enumerate(program.buffers):
        shape = (b.t, b.h, b.w, b.c)
        wide = MAX_CHANNELS
        inside = 1 <= b.t <= MAX_STEPS_T and 1 <= b.h <= MAX_SIDE and 1 <= b.w <= MAX_SIDE
        require(inside and 1 <= b.c <= wide, f"buffer {i}: shape {shape} is out of range")
        require(b.offset % 64 == 0 and b.offset >= 0, f"buffer {i}: offset is not 64-aligned")
        require(b.offset + b.n_bytes <= program.arena_bytes, f"buffer {i} leaves the arena")
    image = (program.input_height, program.input_width, program.input_channels)
    for i, b in enumerate(program.buffers):
        shape = (b.t, b.h, b.w, b.c)
        require((b.kind == BufferKind.IMAGE) == (i == 0), "buffer 0 alone is the image")
        if b.kind == BufferKind.IMAGE:
            require(shape[1:] == image, f"buffer 0 is {shape}, the image is {image}")
            still_or_events = f"buffer 0 has t = {b.t}, expected 1 or {program.n_steps}"
            require(b.t in (1, program.n_steps), still_or_events)
        if b.kind == BufferKind.RAW:
            require(shape == (1, 1, 1, program.n_classes), f"raw buffer {i} is {shape}")


def _lifetimes(program: Program) -> Iterator[tuple[int, int, int]]:
    """Yield (buffer, step that writes it, last step that reads it), checking the order."""
    written = {0: -1}
    read: dict[int, int] = {}
    for at, step in enumerate(program.steps):
        for number in step.inputs:
            require(number in written, f"step `{step.name}` reads buffer {number} before a write")
            read[number] = at
        for number in step.outputs:
            require(number not in written, f"step `{step.name}` writes buffer {number} again")
            written[number] = at
    for number in range(len(program.buffers)):
        require(number in written, f"buffer {number} is never written")
        yield number, written[number], max(written[number], read.get(number, -1))


def _check_arena(program: Program) -> None:
    spans = sorted(_lifetimes(program))
    for at, step in enumerate(program.steps, start=1):
        is_raw = program.buffers[step.outputs[0]].kind == BufferKind.RAW
        message = f"step `{step.name}`: the last step, and no other, writes the raw logits"
        require(is_raw == (at == len(program.steps)), message)
    handed = [set(pair) for pair in handed_on(program.steps).items()]
    for i, (a, first_a, last_a) in enumerate(spans):
        one = program.buffers[a]
        for b, first_b, last_b in spans[i + 1 :]:
            two = program.buffers[b]
            apart = one.offset + one.n_bytes <= two.offset or two.offset + two.n_bytes <= one.offset
            alive = first_a <= last_b and first_b <= last_a
            allowed = apart or not alive or (one.offset == two.offset and {a, b} in handed)
            require(allowed, f"buffers {a} and {b} overlap while both are alive")


def _check_constants(program: Program) -> None:
    for i, constant in enumerate(program.constants):
        dims = constant.dims
        require(1 <= len(dims) <= 4, f"constant {i} has {len(dims)} dims, expected 1..4")
        require(all(1 <= d < 1 << 31 for d in dims), f"constant {i}: dims {dims} out of range")
        data = constant.data
        good = data.dtype == CONSTANT_DTYPES[constant.type] and data.shape == constant.stored_shape
        require(good, f"constant {i}: data is {data.dtype} {data.shape}, not {constant.type.name}")
        if constant.type == ConstantType.BITS and dims[-1] % 8:
            pad = data[..., -1].astype(np.uint8) >> np.uint8(dims[-1] % 8)
            require(not pad.any(), f"constant {i}: padding bits are not zero")


def validate(program: Program) -> None:
    """Check every rule of the format.

    Raises:
        ArtifactError: naming the step, buffer or constant, the value and what is allowed.
    """
    _check_model(program)
    _check_buffers(program)
    _check_constants(program)
    for step in program.steps:
        check_step(program, step)
    _check_arena(program)
    frame = program.frame_shape
    for i, golden in enumerate(program.golden):
        good = golden.frame.shape == frame and golden.frame.dtype == np.uint8
        good = good and golden.raw.shape == (program.n_classes,) and golden.raw.dtype == np.int64
        require(good, f"golden vector {i} has a wrong shape or type")
