"""The `.bstm` file: `Program` to bytes and back. The layout is specified in `runtime/FORMAT.md`.

Writing is deterministic (equal programs give equal bytes) and, to a path, atomic. The reader serves
`inspect` and the tests; devices read the file in place with `runtime/src/model.c`. Both refuse the
same files.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from bestdeploy.errors import ArtifactError, UnsupportedModelError
from bestdeploy.files import write_file
from bestdeploy.program import (
    CONSTANT_DTYPES,
    Buffer,
    BufferKind,
    Constant,
    ConstantType,
    Golden,
    Op,
    Program,
    Step,
    align,
    validate,
)

__all__ = ["read_bstm", "write_bstm"]

MAGIC = b"BSTM"
MAJOR, MINOR = 1, 2
HEADER = struct.Struct("<4sHHIIQII32x")
SECTION = struct.Struct("<IIQQQ")
MODEL = struct.Struct("<8IQ24x")
BUFFER = struct.Struct("<QQ6I")
STEP = struct.Struct("<16I8i")
CONSTANT = struct.Struct("<6IQQQ")
NONE = 0xFFFFFFFF
CRC_OFFSET = 24
SECTION_ALIGN = 64

K_MODEL, K_BUFFERS, K_STEPS, K_CONSTANTS, K_DATA, K_META, K_GOLDEN, K_NAMES = range(1, 9)
REQUIRED = (K_MODEL, K_BUFFERS, K_STEPS, K_CONSTANTS, K_DATA, K_META, K_NAMES)
FIRST_OPTIONAL_KIND = 64
RECORD_BYTES = {
    K_MODEL: MODEL.size,
    K_BUFFERS: BUFFER.size,
    K_STEPS: STEP.size,
    K_CONSTANTS: CONSTANT.size,
    K_DATA: 1,
    K_META: 1,
    K_NAMES: 1,
}


def write_bstm(program: Program, path: str | Path | None = None) -> bytes:
    """Serialise a program; with `path` also write it there, atomically.

    Raises:
        ArtifactError: the program breaks a rule of the format.
        OutputError: the file cannot be written.
    """
    validate(program)
    content = _assemble(_sections(program))
    if path is not None:
        write_file(path, content)
    return content


def read_bstm(content: bytes) -> Program:
    """Parse and check a whole file.

    Raises:
        ArtifactError: the bytes are not a valid `.bstm`, with the rule that is broken.
        UnsupportedModelError: a newer version of the format.
    """
    parts = _split(content)
    fields = MODEL.unpack(parts[K_MODEL][0])
    height, width, channels, n_classes, n_steps, frac_bits, logit_shift, reserved, arena = fields
    _require(reserved == 0 and not any(parts[K_MODEL][0][40:]), "MODEL: reserved is not 0")
    program = Program(
        input_height=height,
        input_width=width,
        input_channels=channels,
        n_classes=n_classes,
        n_steps=n_steps,
        frac_bits=frac_bits,
        logit_shift=logit_shift,
        arena_bytes=arena,
        buffers=_read_buffers(parts[K_BUFFERS][0]),
        steps=_read_steps(parts[K_STEPS][0], parts[K_NAMES][0]),
        constants=_read_constants(parts[K_CONSTANTS][0], parts[K_DATA][0]),
        meta=_decode(parts[K_META][0]),
    )
    if K_GOLDEN in parts:
        golden = _read_golden(*parts[K_GOLDEN], program.frame_shape, n_classes)
        program = replace(program, golden=golden)
    validate(program)
    return program


# ---- writing ------------------------------------------------------------------------------------


def _sections(program: Program) -> list[tuple[int, bytes, int]]:
    """Return (kind, bytes, count) of each section in file order."""
    model = MODEL.pack(
        program.input_height,
        program.input_width,
        program.input_channels,
        program.n_classes,
        program.n_steps,
        program.frac_bits,
        program.logit_shift,
        0,
        program.arena_bytes,
    )
    buffers = b"".join(
        BUFFER.pack(b.offset, b.n_bytes, b.kind, b.t, b.h, b.w, b.c, 0) for b in program.buffers
    )
    names, steps = bytearray(), bytearray()
    for step in program.steps:
        steps += _pack_step(step, len(names))
        names += step.name.encode("ascii") + b"\0"
    records, data = bytearray(), bytearray()
    for constant in program.constants:
        data += bytes(align(len(data), 8) - len(data))
        dims = (*constant.dims, 1, 1, 1)[:4]
        records += CONSTANT.pack(
            constant.type, len(constant.dims), *dims, len(data), constant.n_bytes, 0
        )
        data += constant.data.tobytes()
    meta = program.meta.encode("utf-8")
    sections = [
        (K_MODEL, model, 1),
        (K_BUFFERS, buffers, len(program.buffers)),
        (K_STEPS, bytes(steps), len(program.steps)),
        (K_CONSTANTS, bytes(records), len(program.constants)),
        (K_DATA, bytes(data), len(data)),
        (K_META, meta, len(meta)),
    ]
    if program.golden:
        golden = b"".join(_pack_golden(g) for g in program.golden)
        sections.append((K_GOLDEN, golden, len(program.golden)))
    sections.append((K_NAMES, bytes(names), len(names)))
    return sections


def _pack_step(step: Step, name_offset: int) -> bytes:
    inputs = (*step.inputs, *(NONE,) * 4)[:4]
    outputs = (*step.outputs, *(NONE,) * 2)[:2]
    constants = tuple(NONE if c is None else c for c in (*step.constants, *(None,) * 8)[:8])
    params = (*step.params, *(0,) * 8)[:8]
    return STEP.pack(step.op, name_offset, *inputs, *outputs, *constants, *params)


def _pack_golden(golden: Golden) -> bytes:
    frame = golden.frame.tobytes()
    return frame + bytes(align(len(frame), 8) - len(frame)) + golden.raw.astype("<i8").tobytes()


def _assemble(sections: list[tuple[int, bytes, int]]) -> bytes:
    table, body = bytearray(), bytearray()
    start = HEADER.size + SECTION.size * len(sections)
    end = start
    for kind, content, count in sections:
        offset = align(end, SECTION_ALIGN)
        table += SECTION.pack(kind, 0, offset, len(content), count)
        body += bytes(offset - end) + content
        end = offset + len(content)
    header = HEADER.pack(MAGIC, MAJOR, MINOR, HEADER.size, len(sections), end, 0, 0)
    whole = bytearray(header + table + body)
    struct.pack_into("<I", whole, CRC_OFFSET, zlib.crc32(whole))
    return bytes(whole)


# ---- reading ------------------------------------------------------------------------------------


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ArtifactError(f"not a valid .bstm: {message}")


def _require_known(condition: bool, message: str) -> None:
    """Check what a newer version of the format may have more of."""
    if not condition:
        raise UnsupportedModelError(
            f"newer than this program: {message}", hint="pip install -U bestdeploy"
        )


def _decode(content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ArtifactError("not a valid .bstm: text is not UTF-8") from error


def _check_header(content: bytes) -> int:
    """Check the 64-byte header and the checksum; return the number of sections."""
    _require(len(content) >= HEADER.size, f"{len(content)} bytes, shorter than the 64-byte header")
    magic, major, _, header_bytes, n_sections, total, crc, reserved = HEADER.unpack_from(content)
    _require(magic == MAGIC, f"magic is {magic!r}, expected {MAGIC!r}")
    _require(major > 0, "format version 0")
    _require_known(major == MAJOR, f"format version {major}, this program reads {MAJOR}")
    _require(header_bytes == HEADER.size, f"header_bytes is {header_bytes}, expected 64")
    _require(total == len(content), f"file has {len(content)} bytes, its header says {total}")
    _require(reserved == 0 and not any(content[32:64]), "reserved header bytes are not 0")
    zeroed = content[:CRC_OFFSET] + bytes(4) + content[CRC_OFFSET + 4 :]
    _require(zlib.crc32(zeroed) == crc, "checksum is wrong, the file is damaged")
    _require(1 <= n_sections <= 64, f"{n_sections} sections, expected 1..64")
    _require(HEADER.size + SECTION.size * n_sections <= total, "section table leaves the file")
    return int(n_sections)


def _split(content: bytes) -> dict[int, tuple[bytes, int]]:
    """Return {kind: (bytes, count)} of the sections this version knows."""
    n_sections = _check_header(content)
    parts: dict[int, tuple[bytes, int]] = {}
    end, previous = HEADER.size + SECTION.size * n_sections, 0
    for i in range(n_sections):
        kind, reserved, offset, size, count = SECTION.unpack_from(
            content, HEADER.size + SECTION.size * i
        )
        _require(kind > previous, f"section kind {kind} after {previous}, must ascend")
        known = kind in RECORD_BYTES or kind == K_GOLDEN or kind >= FIRST_OPTIONAL_KIND
        _require_known(known, f"unknown section kind {kind}")
        _require(reserved == 0, f"section {kind}: reserved is not 0")
        _require(offset == align(end, SECTION_ALIGN), f"section {kind}: offset {offset} is wrong")
        _require(offset + size <= len(content), f"section {kind} leaves the file")
        _require(not any(content[end:offset]), f"padding before section {kind} is not 0")
        record = RECORD_BYTES.get(kind)
        _require(record is None or count * record == size, f"section {kind}: count and bytes")
        parts[kind] = (content[offset : offset + size], count)
        end, previous = offset + size, kind
    _require(end == len(content), "bytes after the last section")
    for kind in REQUIRED:
        _require(kind in parts, f"section {kind} is missing")
    _require(parts[K_MODEL][1] == 1, "MODEL count is not 1")
    return parts


def _read_buffers(content: bytes) -> tuple[Buffer, ...]:
    buffers = []
    for i, (offset, size, kind, t, h, w, c, reserved) in enumerate(BUFFER.iter_unpack(content)):
        _require_known(kind in list(BufferKind), f"buffer {i}: unknown kind {kind}")
        _require(reserved == 0, f"buffer {i}: reserved is not 0")
        buffer = Buffer(BufferKind(kind), t, h, w, c, offset)
        _require(buffer.n_bytes == size, f"buffer {i}: {size} bytes, its shape needs another size")
        buffers.append(buffer)
    return tuple(buffers)


def _trim(numbers: tuple[int, ...], what: str) -> tuple[int, ...]:
    used = tuple(n for n in numbers if n != NONE)
    _require(used == numbers[: len(used)], f"{what} has a gap")
    return used


def _read_steps(content: bytes, names: bytes) -> tuple[Step, ...]:
    _require(names[-1:] == b"\0", "NAMES does not end with a zero byte")
    steps = []
    for i, fields in enumerate(STEP.iter_unpack(content)):
        op, name = fields[:2]
        _require_known(op in list(Op), f"step {i}: unknown op {op}")
        starts = name < len(names) and (name == 0 or names[name - 1] == 0)
        _require(starts, f"step {i}: name offset {name} is not the start of a name")
        constants = [None if c == NONE else c for c in fields[8:16]]
        while constants and constants[-1] is None:
            constants.pop()
        steps.append(
            Step(
                op=Op(op),
                name=_decode(names[name : names.index(b"\0", name)]),
                inputs=_trim(fields[2:6], f"step {i} inputs"),
                outputs=_trim(fields[6:8], f"step {i} outputs"),
                constants=tuple(constants),
                params=fields[16:24],
            )
        )
    return tuple(steps)


def _read_constants(content: bytes, data: bytes) -> tuple[Constant, ...]:
    constants, end = [], 0
    for i, fields in enumerate(CONSTANT.iter_unpack(content)):
        type_, n_dims, dims, (offset, size, reserved) = (
            fields[0],
            fields[1],
            fields[2:6],
            fields[6:],
        )
        _require_known(type_ in list(ConstantType), f"constant {i}: unknown type {type_}")
        _require(reserved == 0 and 1 <= n_dims <= 4, f"constant {i}: bad record")
        _require(all(d == 1 for d in dims[n_dims:]), f"constant {i}: unused dims are not 1")
        _require(all(1 <= d < 1 << 31 for d in dims), f"constant {i}: dims {dims} out of range")
        _require(offset == align(end, 8), f"constant {i}: offset {offset} is wrong")
        _require(offset + size <= len(data), f"constant {i} leaves DATA")
        _require(not any(data[end:offset]), f"padding before constant {i} is not 0")
        kind = ConstantType(type_)
        shell = Constant(kind, tuple(dims[:n_dims]), np.empty(0, np.uint8))
        n_items = 1
        for d in shell.stored_shape:
            n_items *= d
        _require(n_items * CONSTANT_DTYPES[kind].itemsize == size, f"constant {i}: wrong size")
        array = np.frombuffer(data, CONSTANT_DTYPES[kind], n_items, offset)
        constants.append(Constant(kind, shell.dims, array.reshape(shell.stored_shape)))
        end = offset + size
    _require(end == len(data), "DATA does not end with the last constant")
    return tuple(constants)


def _read_golden(
    content: bytes, count: int, frame: tuple[int, ...], n_classes: int
) -> tuple[Golden, ...]:
    n_pixels = math.prod(frame)
    record = align(n_pixels, 8) + 8 * n_classes
    good = record > 0 and count * record == len(content)
    _require(good, "GOLDEN: count and bytes")
    golden = []
    for start in range(0, len(content), record):
        pixels = np.frombuffer(content, np.uint8, n_pixels, start).reshape(frame)
        padding = content[start + n_pixels : start + align(n_pixels, 8)]
        _require(not any(padding), "GOLDEN: padding is not 0")
        raw = np.frombuffer(content, "<i8", n_classes, start + align(n_pixels, 8))
        golden.append(Golden(pixels, raw.astype(np.int64)))
    return tuple(golden)
