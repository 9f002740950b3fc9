"""Loading: valid files run and equal numpy; a broken rule gives a status, in C and in Python."""

from __future__ import annotations

import ctypes
import dataclasses
import struct
import subprocess
import zlib
from pathlib import Path

import numpy as np
import programs
import pytest
import reference
from conftest import STATUS, aligned, copy_aligned

from bestdeploy import toolchain
from bestdeploy.emit.bstm import read_bstm, write_bstm
from bestdeploy.errors import ArtifactError, MissingToolError, UnsupportedModelError
from bestdeploy.program import Buffer, BufferKind, Op

HEADER, SECTION = 64, 32
REFUSED = (ArtifactError, UnsupportedModelError)
MODEL, BUFFERS, STEPS, CONSTANTS, DATA, META, GOLDEN, NAMES = range(1, 9)
RECORD = {MODEL: 64, BUFFERS: 40, STEPS: 96, CONSTANTS: 48, DATA: 1, META: 1, NAMES: 1}
PROBE = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p, ctypes.c_size_t
)


class Loaded:
    """A model and a session made by the C library, with the memory they live in."""

    def __init__(self, library, content, isa=None):
        self.library = library
        name = ctypes.c_char_p(None if isa is None else isa.encode())
        self.file = copy_aligned(content, 8)
        self.model, self.session = ctypes.c_void_p(), ctypes.c_void_p()
        size = ctypes.c_size_t()
        file = (ctypes.c_void_p(self.file.ctypes.data), ctypes.c_size_t(len(content)))
        self.check(library.bst_model_bytes(*file, name, ctypes.byref(size)))
        self.buffer = aligned(size.value)
        where = ctypes.c_void_p(self.buffer.ctypes.data)
        model = ctypes.byref(self.model)
        self.check(library.bst_model_init(*file, name, where, size, model))
        self.check(library.bst_arena_bytes(self.model, 1, ctypes.byref(size)))
        self.arena = aligned(size.value)
        self.arena[:] = 0x5A  # nothing may depend on what the arena held
        where = ctypes.c_void_p(self.arena.ctypes.data)
        made = library.bst_session_init(self.model, None, where, size, ctypes.byref(self.session))
        self.check(made)

    def check(self, status):
        assert status == 0, (STATUS[status], self.library.bst_last_error())

    def run(self, frame, n_classes):
        raw = np.zeros(n_classes, np.int64)
        self.check(
            self.library.bst_session_run(
                self.session,
                ctypes.c_void_p(frame.ctypes.data),
                ctypes.c_size_t(frame.size),
                ctypes.c_void_p(raw.ctypes.data),
                ctypes.c_size_t(raw.size),
            )
        )
        return raw


NETWORKS = {
    "plain": {},
    "forms1-tau1.5-T3": {"forms": (1, 1), "tau": 1.5, "n_t": 3},
    "T1": {"n_t": 1},
    "T8-tails": {"n_t": 8, "dim": 130, "heads": 2, "hidden": 65},
    "one-head-wide": {"side": 16, "dim": 64, "heads": 1, "hidden": 600},
    "kv": {"attention": "kv"},
    "kv-forms1-T1": {"attention": "kv", "forms": (1, 1), "n_t": 1},
    "kv-T16-odd-heads": {"attention": "kv", "n_t": 16, "dim": 130, "heads": 2, "tau": 1.5},
    "events": {"events": True, "residual": "plain", "attention": "kv"},
    "events-T10-T16": {"events": True, "n_t": 10, "heads": 8, "readout": "residual"},
    "events-T1": {"events": True, "n_t": 1},
    "first-steps": {"first": (1 << 24, 0, -(1 << 22), -(1 << 24)), "readout": "one"},
    "stream-first": {"begin": "stream", "stem": 65},
    "stream-first-events": {"begin": "stream", "events": True, "n_t": 3, "stem": 3},
    "gates": {"attention": "gate", "residual": "plain", "readout": "tokens"},
    "gates-T16-tails": {
        "attention": "gate",
        "n_t": 16,
        "dim": 130,
        "side": 12,
        "tau": 1.5,
        "readout": "tokens",
    },
    "add": {"attention": "add", "residual": "plain"},
    "add-shift-odd-heads": {"attention": "add", "dim": 130, "heads": 2, "forms": (1, 1)},
    "gates-T1-counts": {"attention": "gate", "n_t": 1, "dim": 65, "readout": "counts"},
    "weights8": {"weights": 8},
    "levels4": {"levels": 4},
    "levels8-T1-tails": {"levels": 8, "n_t": 1, "dim": 130, "heads": 2, "side": 13, "stem": 65},
    "levels16-events": {"levels": 16, "n_t": 3, "dim": 66, "heads": 1, "events": True},
    "levels1-odd": {"levels": 1, "n_t": 2, "dim": 15, "heads": 5, "stem": 7, "side": 5},
    "weights1-T1": {"weights": 1, "n_t": 1, "heads": 9},
    "weights4-T8-residual": {"weights": 4, "n_t": 8, "dim": 130, "heads": 2, "readout": "one"},
    "weights16-tau1.5": {"weights": 16, "n_t": 3, "dim": 64, "heads": 1, "tau": 1.5},
    "weights3-wide": {"weights": 3, "n_t": 2, "dim": 300, "heads": 3, "side": 6},
    "first-steps-T1": {"first": (0,), "n_t": 1, "residual": "plain", "readout": "one"},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_step_equals_numpy(library, isa, name):
    program = programs.network(**NETWORKS[name]).program()
    content = write_bstm(program)
    assert write_bstm(read_bstm(content)) == content
    loaded = Loaded(library, content, isa)
    got = {}

    @PROBE
    def probe(_user, step, output, data, n_bytes):
        got[step, output] = ctypes.string_at(data, n_bytes)

    loaded.check(library.bst_session_probe(loaded.session, probe, None))
    for seed in range(2):
        frame = programs.random_frame(program, seed)
        raw, values = reference.run(program, frame)
        np.testing.assert_array_equal(loaded.run(frame, program.n_classes), raw)
        for i, step in enumerate(program.steps):
            for o, number in enumerate(step.outputs):
                value = values[number]
                if program.buffers[number].kind == BufferKind.SPIKES:
                    value = reference.pack(value)
                assert got[i, o] == value.tobytes(), step.name


def test_arena_may_be_reused(library):
    """Buffers whose lives do not meet may share bytes; the result stays the same."""
    program = programs.network().program()
    last_use = {0: 0}
    for at, step in enumerate(program.steps, start=1):
        last_use.update(dict.fromkeys((*step.inputs, *step.outputs), at))
    placed = [dataclasses.replace(program.buffers[0], offset=0)]
    alive = {0: (0, program.buffers[0].n_bytes)}
    for at, step in enumerate(program.steps, start=1):
        for number in step.outputs:
            free = 0
            for start, end in sorted(alive.values()):
                if free + program.buffers[number].n_bytes > start:
                    free = max(free, -(-end // 64) * 64)
            alive[number] = (free, free + program.buffers[number].n_bytes)
            placed.append(dataclasses.replace(program.buffers[number], offset=free))
        alive = {n: span for n, span in alive.items() if last_use[n] > at}
    arena = -(-max(b.offset + b.n_bytes for b in placed) // 64) * 64
    assert arena < program.arena_bytes
    small = dataclasses.replace(program, buffers=tuple(placed), arena_bytes=arena)
    frame = programs.random_frame(program)
    expected, _ = reference.run(program, frame)
    loaded = Loaded(library, write_bstm(small))
    for _ in range(2):
        np.testing.assert_array_equal(loaded.run(frame, program.n_classes), expected)


def test_golden_vectors_and_logits(library):
    program = programs.with_golden(programs.network(), 3)
    loaded = Loaded(library, write_bstm(program))
    frame, raw = ctypes.POINTER(ctypes.c_uint8)(), ctypes.POINTER(ctypes.c_int64)()
    for i, golden in enumerate(program.golden):
        where = ctypes.byref(frame), ctypes.byref(raw)
        loaded.check(library.bst_model_golden(loaded.model, i, *where))
        assert bytes(frame[: golden.frame.size]) == golden.frame.tobytes()
        assert raw[: len(golden.raw)] == golden.raw.tolist()
        np.testing.assert_array_equal(loaded.run(golden.frame, program.n_classes), golden.raw)
        for value in (*golden.raw, 0, -1, 2**62, -(2**63)):
            logit = library.bst_logit(loaded.model, ctypes.c_int64(int(value)))
            assert logit == np.float32(np.float64(value) * 2.0**-program.logit_shift)
    assert library.bst_model_golden(loaded.model, 3, *where) == 1


def test_wrong_arguments_are_refused(library):
    content = write_bstm(programs.minimal())
    loaded = Loaded(library, content)
    raw, size = np.zeros(4, np.int64), ctypes.c_size_t()
    frame, out = np.zeros(8, np.uint8), ctypes.c_void_p(raw.ctypes.data)
    run = library.bst_session_run
    pixels = ctypes.c_void_p(frame.ctypes.data)
    n = ctypes.c_size_t
    assert run(loaded.session, pixels, n(2), out, n(1)) == 1
    assert b"frame_bytes = 2" in library.bst_last_error()
    assert run(loaded.session, pixels, n(1), out, n(2)) == 1
    assert run(loaded.session, None, n(1), out, n(1)) == 1
    assert run(None, pixels, n(1), out, n(1)) == 1
    file = loaded.file.ctypes.data
    total = n(len(content))
    size_of = library.bst_model_bytes
    assert size_of(None, total, None, ctypes.byref(size)) == 1
    assert size_of(ctypes.c_void_p(file), total, None, None) == 1
    assert size_of(ctypes.c_void_p(file + 1), total, None, ctypes.byref(size)) == 1
    model = ctypes.c_void_p(77)
    buffer = loaded.buffer.ctypes.data
    init = library.bst_model_init
    for address, n_bytes, status in ((buffer, 8, 4), (buffer + 8, 1 << 20, 1), (None, 1 << 20, 1)):
        where = ctypes.c_void_p(address)
        made = init(ctypes.c_void_p(file), total, None, where, n(n_bytes), ctypes.byref(model))
        assert made == status
        assert model.value == 77, "an output was written by a failing call"
    assert library.bst_session_init(
        loaded.model, None, ctypes.c_void_p(loaded.arena.ctypes.data), n(64), ctypes.byref(model)
    ) == 4  # fmt: skip
    assert library.bst_status_name(4) == b"NO_MEMORY"
    assert library.bst_status_name(99) == b"UNKNOWN"


# ---- attack files -------------------------------------------------------------------------------


class Edit:
    """A valid file whose fields can be overwritten; `done` fixes the checksum."""

    def __init__(self, content):
        self.bytes = bytearray(content)

    def section(self, kind):
        """(position of its table row, offset, bytes)."""
        for i in range(struct.unpack_from("<I", self.bytes, 12)[0]):
            at = HEADER + SECTION * i
            found, _, offset, size, _ = struct.unpack_from("<IIQQQ", self.bytes, at)
            if found == kind:
                return at, offset, size
        raise KeyError(kind)

    def header(self, offset, fmt, value):
        struct.pack_into("<" + fmt, self.bytes, offset, value)
        return self

    def table(self, kind, offset, fmt, value):
        return self.header(self.section(kind)[0] + offset, fmt, value)

    def record(self, kind, index, offset, fmt, value):
        return self.header(self.section(kind)[1] + index * RECORD[kind] + offset, fmt, value)

    def data(self, constant, item, fmt, value):
        """Overwrite one item of a constant."""
        at = self.section(CONSTANTS)[1] + constant * 48
        offset = struct.unpack_from("<Q", self.bytes, at + 24)[0]
        where = self.section(DATA)[1] + offset + item * struct.calcsize(fmt)
        return self.header(where, fmt, value)

    def done(self):
        struct.pack_into("<I", self.bytes, 24, 0)
        struct.pack_into("<I", self.bytes, 24, zlib.crc32(self.bytes))
        return bytes(self.bytes)


class Base:
    """A valid file, and changes of its steps and constants by name."""

    def __init__(self, **arguments):
        self.content = write_bstm(programs.with_golden(programs.network(**arguments), 1))
        self.program = read_bstm(self.content)
        self.index = {step.name: i for i, step in enumerate(self.program.steps)}

    def step_of(self, name):
        return self.program.steps[self.index[name]]

    def constant_of(self, name, slot):
        return self.step_of(name).constants[slot]

    def step(self, name, offset, fmt, value):
        return lambda e: e.record(STEPS, self.index[name], offset, fmt, value)

    def const(self, name, slot, item, fmt, value):
        return lambda e: e.data(self.constant_of(name, slot), item, fmt, value)


QK = Base()
BASE, PROGRAM, INDEX = QK.content, QK.program, QK.index
step, const, constant_of = QK.step, QK.const, QK.constant_of
P = {i: 64 + 4 * i for i in range(8)}  # byte offset of param i in a step record
C = {i: 32 + 4 * i for i in range(8)}  # of constant slot i
BIG = 0xFFFFFFF0


def buffer(index, offset, fmt, value):
    return lambda e: e.record(BUFFERS, index, offset, fmt, value)


def model(offset, fmt, value):
    return lambda e: e.record(MODEL, 0, offset, fmt, value)


SPLIT = struct.Struct("<Q").unpack_from(BASE, Edit(BASE).section(BUFFERS)[1] + 40)[0]

ATTACKS = {
    # header
    "magic": (lambda e: e.header(0, "B", 0x58), 2),
    "major": (lambda e: e.header(4, "H", 2), 3),
    "header-bytes": (lambda e: e.header(8, "I", 128), 2),
    "no-sections": (lambda e: e.header(12, "I", 0), 2),
    "many-sections": (lambda e: e.header(12, "I", 65), 2),
    "huge-section-count": (lambda e: e.header(12, "I", BIG), 2),
    "total-too-big": (lambda e: e.header(16, "Q", len(BASE) + 1), 2),
    "header-reserved": (lambda e: e.header(28, "I", 1), 2),
    "header-tail": (lambda e: e.header(63, "B", 1), 2),
    # section table
    "kind-unknown": (lambda e: e.table(NAMES, 0, "I", 9), 3),
    "kind-zero": (lambda e: e.table(MODEL, 0, "I", 0), 2),
    "kind-twice": (lambda e: e.table(STEPS, 0, "I", BUFFERS), 2),
    "kind-order": (lambda e: e.table(BUFFERS, 0, "I", STEPS), 2),
    "section-reserved": (lambda e: e.table(DATA, 4, "I", 1), 2),
    "section-overlap": (lambda e: e.table(STEPS, 8, "Q", SPLIT), 2),
    "section-unaligned": (lambda e: e.table(STEPS, 8, "Q", e.section(STEPS)[1] + 8), 2),
    "section-outside": (lambda e: e.table(NAMES, 8, "Q", 1 << 40), 2),
    "section-long": (lambda e: e.table(DATA, 16, "Q", (1 << 64) - 64), 2),
    "section-last-short": (lambda e: e.table(NAMES, 16, "Q", e.section(NAMES)[2] - 1), 2),
    "section-count": (lambda e: e.table(BUFFERS, 24, "Q", 3), 2),
    "section-count-huge": (lambda e: e.table(STEPS, 24, "Q", 1 << 63), 3),
    "section-padding": (lambda e: e.header(e.section(BUFFERS)[1] - 1, "B", 1), 2),
    "data-count": (lambda e: e.table(DATA, 24, "Q", 1), 2),
    "golden-count": (lambda e: e.table(GOLDEN, 24, "Q", 2), 2),
    "golden-count-huge": (lambda e: e.table(GOLDEN, 24, "Q", 1 << 32), 3),
    # model
    "height-zero": (model(0, "I", 0), 3),
    "width-huge": (model(4, "I", BIG), 3),
    "channels-huge": (model(8, "I", 65537), 3),
    "classes-zero": (model(12, "I", 0), 3),
    "steps-17": (model(16, "I", 17), 3),
    "frac-bits": (model(20, "I", 31), 3),
    "logit-shift": (model(24, "I", 63), 3),
    "model-reserved": (model(28, "I", 1), 2),
    "arena-unaligned": (model(32, "Q", 1 << 20 | 8), 2),
    "arena-huge": (model(32, "Q", 1 << 41), 3),
    "arena-small": (model(32, "Q", 64), 2),
    "model-tail": (model(63, "B", 1), 2),
    "image-differs": (model(0, "I", 9), 2),
    # buffers
    "buffer-kind": (buffer(1, 16, "I", 5), 3),
    "buffer-second-image": (buffer(1, 16, "I", 1), 2),
    "buffer-zero-not-image": (buffer(0, 16, "I", 2), 2),
    "buffer-t": (buffer(1, 20, "I", 0), 3),
    "buffer-h": (buffer(1, 24, "I", 4097), 3),
    "buffer-w": (buffer(1, 28, "I", BIG), 3),
    "buffer-c": (buffer(1, 32, "I", BIG), 3),
    "buffer-reserved": (buffer(1, 36, "I", 1), 2),
    "buffer-bytes": (buffer(1, 8, "Q", 8), 2),
    "buffer-offset-unaligned": (buffer(1, 0, "Q", 8), 2),
    "buffer-offset-outside": (buffer(1, 0, "Q", (1 << 64) - 64), 2),
    "buffers-overlap": (buffer(2, 0, "Q", PROGRAM.buffers[1].offset), 2),
    # constants
    "constant-type": (lambda e: e.record(CONSTANTS, 0, 0, "I", 6), 3),
    "constant-dims": (lambda e: e.record(CONSTANTS, 0, 4, "I", 5), 2),
    "constant-no-dims": (lambda e: e.record(CONSTANTS, 0, 4, "I", 0), 2),
    "constant-huge": (lambda e: e.record(CONSTANTS, 0, 8, "I", 0x7FFFFFFF), 2),
    "constant-zero": (lambda e: e.record(CONSTANTS, 0, 8, "I", 0), 2),
    "constant-unused-dim": (lambda e: e.record(CONSTANTS, 2, 20, "I", 2), 2),
    "constant-offset": (lambda e: e.record(CONSTANTS, 1, 24, "Q", 0), 2),
    "constant-bytes": (lambda e: e.record(CONSTANTS, 1, 32, "Q", 1 << 62), 2),
    "constant-reserved": (lambda e: e.record(CONSTANTS, 0, 40, "Q", 1), 2),
    "bits-padding": (const("embed.conv0", 0, 2, "B", 0xFF), 2),
    # steps: names, slots, order
    "op-unknown": (step("pool", 0, "I", 99), 3),
    "op-zero": (step("pool", 0, "I", 0), 3),
    "op-other": (step("pool", 0, "I", int(Op.STREAM_NEURON)), 2),
    "name-outside": (step("pool", 4, "I", BIG), 2),
    "name-middle": (step("pool", 4, "I", 1), 2),
    "name-character": (lambda e: e.record(NAMES, 0, 0, "B", 0x20), 2),
    "name-unterminated": (lambda e: e.record(NAMES, e.section(NAMES)[2] - 1, 0, "B", 0x41), 2),
    "input-outside": (step("pool", 8, "I", 1000), 2),
    "input-missing": (step("pool", 8, "I", 0xFFFFFFFF), 2),
    "input-extra": (step("pool", 12, "I", 0), 2),
    "input-later": (step("pool", 8, "I", 20), 2),
    "input-kind": (step("attn.q", 8, "I", 0), 2),
    "output-outside": (step("pool", 24, "I", 1000), 2),
    "output-twice": (step("attn.k", 24, "I", PROGRAM.steps[INDEX["attn.q"]].outputs[0]), 2),
    "output-is-input": (step("attn.q", 24, "I", PROGRAM.steps[INDEX["attn.q"]].inputs[0]), 2),
    "constant-outside": (step("attn.q", C[0], "I", 1 << 20), 2),
    "constant-missing": (step("attn.q", C[1], "I", 0xFFFFFFFF), 2),
    "constant-extra": (step("pool", C[0], "I", 0), 2),
    "constant-wrong-type": (step("attn.q", C[1], "I", constant_of("attn.q", 0)), 2),
    "constant-wrong-dims": (step("attn.q", C[0], "I", constant_of("mlp.fc1", 0)), 2),
    "param-unused": (step("pool", P[3], "i", 1), 2),
    # steps: values
    "stride-zero": (step("embed.conv0", P[0], "i", 0), 3),
    "stride-negative": (step("embed.conv0", P[0], "i", -1), 3),
    "pad-negative": (step("embed.conv0", P[1], "i", -1), 3),
    "pad-huge": (step("embed.conv0", P[1], "i", 0x7FFFFFFF), 3),
    "window-output": (step("embed.conv0", P[1], "i", 2), 2),
    "pool-kernel": (step("pool", P[0], "i", -5), 3),
    "pool-kernel-huge": (step("pool", P[0], "i", 0x7FFFFFFF), 3),
    "neuron-flags": (step("embed.lif", P[4], "i", 8), 3),
    "neuron-r-halving": (step("embed.lif", P[7], "i", 1), 2),
    "neuron-r-zero": (step("embed.lif", P[4], "i", 1), 2),
    "stem-weight": (const("stem", 0, 5, "i", 8355712), 2),
    "stem-weight-min": (const("stem", 0, 5, "i", -(1 << 31)), 2),
    "stem-bias": (const("stem", 1, 3, "q", 1 << 60), 2),
    "stem-bias-min": (const("stem", 1, 3, "q", -(1 << 63)), 2),
    "stem-shift": (const("stem", 2, 0, "B", 25), 2),
    "stem-row-class": (const("stem", 3, 0, "B", 3), 2),
    "stem-col-class": (const("stem", 4, 0, "B", 3), 2),
    "stem-col-classes": (step("stem", P[2], "i", 2), 2),
    "stem-col-classes-zero": (step("stem", P[2], "i", 0), 2),
    "row-index-order": (const("embed.conv0", 3, 0, "i", 71), 2),
    "row-index-outside": (const("embed.conv0", 3, 1, "i", 72), 2),
    "row-index-negative": (const("embed.conv0", 3, 0, "i", -1), 2),
    "row-index-alone": (step("embed.conv0", C[4], "I", 0xFFFFFFFF), 2),
    "affine-af": (const("embed.conv1", 2, 0, "h", 16385), 2),
    "score-heads": (step("attn.score", P[0], "i", 5), 2),
    "score-heads-zero": (step("attn.score", P[0], "i", 0), 2),
    "score-form": (step("attn.score", P[1], "i", 2), 3),
    "score-thr": (step("attn.score", P[2], "i", 0), 2),
    "score-thr-form1": (step("attn.score", P[1], "i", 1), 2),
    "score-neuron": (step("attn.score", P[4], "i", 1), 2),
    "value-heads": (step("attn.value", P[0], "i", 4), 2),
    "value-form": (step("attn.value", P[1], "i", 1), 2),
    "value-gain": (const("attn.value", 0, 0, "q", 1 << 52), 2),
    "value-exponent": (const("attn.value", 1, 0, "i", 0), 2),
    "value-exponent-huge": (const("attn.value", 1, 0, "i", 0x7FFFFFFF), 2),
    "readout-q": (step("head", P[0], "i", 63), 2),
    "readout-q-negative": (step("head", P[0], "i", -1), 2),
    "readout-af": (const("head", 2, 0, "h", -16385), 2),
    "readout-v1-missing": (step("head", C[5], "I", 0xFFFFFFFF), 2),
}

KV = Base(attention="kv", events=True, residual="plain", readout="residual")
STREAM = Base(begin="stream", stem=9)
GATES = Base(attention="gate", readout="tokens")
COUNTS = Base(attention="gate", readout="counts")
KV_TABLES = Base(attention="kv", forms=(1, 1), n_t=3)
FIRST = Base(first=(9, 4, 4, -7), readout="one")
W = Base(weights=8)
WR = Base(weights=3, readout="one")
LEVELS = W.step_of("embed.add").outputs[0]
MAP = KV.step_of("attn.map").outputs[0]
N_STEPS = 16  # byte offset of T in the model record


def all_of(*changes):
    """Several changes of one file."""

    def change(edit):
        for one in changes:
            one(edit)

    return change


NEW_ATTACKS = {
    # image and event frames
    "image-t": (KV, buffer(0, 20, "I", 3), 2),
    "image-t-zero": (KV, buffer(0, 20, "I", 0), 3),
    "image-t-one": (KV, buffer(0, 20, "I", 1), 2),  # its bytes are those of T frames
    "image-t-of-stills": (QK, buffer(0, 20, "I", 4), 2),
    "golden-of-stills": (KV, all_of(buffer(0, 20, "I", 1), buffer(0, 8, "Q", 192)), 2),
    "steps-differ-from-frames": (KV, model(N_STEPS, "I", 3), 2),
    # the table of first steps
    "first-rising": (FIRST, FIRST.const("stem", 5, 3, "i", 5), 2),
    "first-neuron": (FIRST, FIRST.step("stem", P[4], "i", 5), 2),
    "first-theta": (FIRST, FIRST.step("stem", P[5], "i", 1), 2),
    "first-dims": (FIRST, FIRST.step("stem", C[5], "I", FIRST.constant_of("embed.conv1", 3)), 2),
    "first-on-events": (KV, KV.step("stem", C[5], "I", KV.constant_of("embed.conv1", 3)), 2),
    "first-type": (FIRST, FIRST.step("stem", C[5], "I", FIRST.constant_of("stem", 2)), 2),
    "stem-neuron-flags": (QK, QK.step("stem", P[4], "i", 8), 3),
    "stem-stream-col-classes": (STREAM, STREAM.step("stem.conv", P[2], "i", 2), 2),
    "stem-stream-shift": (STREAM, STREAM.const("stem.conv", 2, 0, "B", 25), 2),
    "stem-stream-row-class": (STREAM, STREAM.const("stem.conv", 3, 0, "B", 3), 2),
    "stem-stream-stride": (STREAM, STREAM.step("stem.conv", P[0], "i", 0), 3),
    "stem-stream-neuron": (STREAM, STREAM.step("stem.conv", P[4], "i", 1), 2),
    # key_value_neuron
    "map-heads": (KV, KV.step("attn.map", P[0], "i", 4), 2),
    "map-heads-zero": (KV, KV.step("attn.map", P[0], "i", 0), 2),
    "map-heads-negative": (KV, KV.step("attn.map", P[0], "i", -3), 2),
    "map-heads-not-a-divisor": (KV, KV.step("attn.map", P[0], "i", 5), 2),
    "map-form": (KV, KV.step("attn.map", P[1], "i", 2), 3),
    "map-thr": (KV, KV.step("attn.map", P[2], "i", 0), 2),
    "map-thr-form1": (KV, KV.step("attn.map", P[1], "i", 1), 2),
    "map-neuron": (KV, KV.step("attn.map", P[7], "i", 1), 2),
    "map-neuron-flags": (KV_TABLES, KV_TABLES.step("attn.map", P[4], "i", 9), 3),
    "map-neuron-r": (KV_TABLES, KV_TABLES.step("attn.map", P[7], "i", 1), 2),
    "map-count-too-big": (KV_TABLES, model(20, "I", 28), 2),  # 16 tokens 2^28
    "map-side": (KV, buffer(MAP, 32, "I", 25), 2),
    "map-inputs-differ": (KV, KV.step("attn.map", 12, "I", KV.step_of("pool").inputs[0]), 2),
    "map-input-kind": (KV, KV.step("attn.map", 8, "I", KV.step_of("attn.proj").outputs[0]), 2),
    "map-as-score": (KV, KV.step("attn.map", 0, "I", int(Op.SCORE_NEURON)), 2),
    "score-as-map": (QK, QK.step("attn.score", 0, "I", int(Op.KEY_VALUE_NEURON)), 2),
    # query_value_neuron
    "query-heads": (KV, KV.step("attn.value", P[0], "i", 2), 2),
    "query-form": (KV, KV.step("attn.value", P[1], "i", 1), 2),
    "query-form-unknown": (KV, KV.step("attn.value", P[1], "i", -1), 3),
    "query-gain": (KV, KV.const("attn.value", 0, 0, "q", -(1 << 52)), 2),
    "query-exponent": (KV, KV.const("attn.value", 1, 0, "i", 4), 2),
    "query-table-missing": (KV_TABLES, KV_TABLES.step("attn.value", C[2], "I", 0xFFFFFFFF), 2),
    "query-inputs-swapped": (
        KV,
        all_of(
            KV.step("attn.value", 8, "I", MAP),
            KV.step("attn.value", 12, "I", KV.step_of("attn.value").inputs[0]),
        ),
        2,
    ),
    "query-as-value": (KV, KV.step("attn.value", 0, "I", int(Op.VALUE_NEURON)), 2),
    # read-outs
    "residual-q": (KV, KV.step("head", P[0], "i", 63), 2),
    "residual-q-negative": (KV, KV.step("head", P[0], "i", -1), 2),
    "residual-neuron": (KV, KV.step("head", P[4], "i", 1), 2),
    "residual-v-missing": (KV, KV.step("head", C[0], "I", 0xFFFFFFFF), 2),
    "residual-c-type": (KV, KV.step("head", C[1], "I", KV.constant_of("head", 0)), 2),
    "residual-input-kind": (KV, KV.step("head", 8, "I", KV.step_of("attn.residual").outputs[1]), 2),
    "residual-other-shape": (
        KV,
        KV.step("head", 12, "I", KV.step_of("embed.lif").outputs[0]),
        2,
    ),
    "residual-as-readout": (KV, KV.step("head", 0, "I", int(Op.READOUT)), 2),
    # gates, maxima, mean neuron, counts
    "any-input-kind": (
        GATES,
        GATES.step("attn.any", 8, "I", GATES.step_of("maxima").outputs[0]),
        2,
    ),
    "any-inputs-differ": (
        GATES,
        GATES.step("attn.any", 12, "I", GATES.step_of("pool").inputs[0]),
        2,
    ),
    "any-param": (GATES, GATES.step("attn.any", P[0], "i", 1), 2),
    "any-output": (
        GATES,
        all_of(
            GATES.step("attn.any", 0, "I", int(Op.GATE)),
            buffer(GATES.step_of("attn.any").outputs[0], 32, "I", 71),
        ),
        2,
    ),
    "any-as-gate": (GATES, GATES.step("attn.any", 0, "I", int(Op.GATE)), 2),
    "gate-as-any": (GATES, GATES.step("attn.gate", 0, "I", int(Op.KEY_VALUE_ANY)), 2),
    "gate-invert": (GATES, GATES.step("attn.gate", P[0], "i", 2), 3),
    "gate-swapped": (
        GATES,
        all_of(
            GATES.step("attn.gate", 8, "I", GATES.step_of("attn.any").outputs[0]),
            GATES.step("attn.gate", 12, "I", GATES.step_of("attn.gate").inputs[0]),
        ),
        2,
    ),
    "gate-other-shape": (
        COUNTS,
        COUNTS.step("mlp.gate", 12, "I", COUNTS.step_of("pool").outputs[0]),
        2,
    ),
    "maxima-kernel": (GATES, GATES.step("maxima", P[0], "i", 0), 3),
    "maxima-pad": (GATES, GATES.step("maxima", P[2], "i", 3), 3),
    "maxima-window": (GATES, GATES.step("maxima", P[1], "i", 1), 2),
    "maxima-channels": (GATES, buffer(GATES.step_of("maxima").outputs[0], 32, "I", 71), 2),
    "mean-flags": (GATES, GATES.step("head.lif", P[4], "i", 8), 3),
    "mean-inputs-differ": (
        GATES,
        GATES.step("head.lif", 12, "I", GATES.step_of("maxima").inputs[0]),
        2,
    ),
    "mean-output": (GATES, buffer(GATES.step_of("head.lif").outputs[0], 24, "I", 2), 2),
    "counts-dims": (
        COUNTS,
        COUNTS.step("head", C[0], "I", COUNTS.constant_of("embed.conv0", 4)),
        2,
    ),
    "counts-missing": (COUNTS, COUNTS.step("head", C[1], "I", 0xFFFFFFFF), 2),
    "counts-param": (COUNTS, COUNTS.step("head", P[0], "i", 1), 2),
    # integer weights and levels
    "weights-bits": (W, W.step("attn.q", C[0], "I", W.constant_of("head", 0)), 2),
    "weights-taps": (W, W.step("embed.conv1", P[2], "i", 1), 2),
    "weights-kernel-zero": (W, W.step("embed.conv1", P[2], "i", 0), 3),
    "weights-kernel-big": (W, W.step("embed.conv1", P[3], "i", 16), 3),
    "weights-kernel-negative": (W, W.step("embed.conv1", P[2], "i", -3), 3),
    "weights-stride": (W, W.step("embed.conv1", P[0], "i", 0), 3),
    "weights-pad": (W, W.step("embed.conv1", P[1], "i", 3), 3),
    "weights-param": (W, W.step("embed.conv1", P[4], "i", 1), 2),
    "weights-planes-of-levels": (W, buffer(LEVELS, 32, "I", 129), 2),
    "weights-as-signs": (W, W.step("attn.q", 0, "I", int(Op.CONV_NEURON)), 2),
    "signs-as-weights": (QK, QK.step("attn.q", 0, "I", int(Op.WEIGHT_CONV_NEURON)), 3),
    "weights-theta-missing": (W, W.step("attn.q", C[1], "I", 0xFFFFFFFF), 2),
    "weights-row-index": (W, W.const("embed.conv0", 3, 0, "i", 71), 2),
    "weights-af": (WR, WR.const("mlp.fc", 2, 0, "h", 16385), 2),
    "product-heads": (W, W.step("attn.product", P[0], "i", 5), 2),
    "product-heads-zero": (W, W.step("attn.product", P[0], "i", 0), 2),
    "product-shift": (W, W.step("attn.product", P[1], "i", 31), 2),
    "product-shift-negative": (W, W.step("attn.product", P[1], "i", -1), 2),
    "product-neuron": (W, W.step("attn.product", P[4], "i", 9), 3),
    "level-add-channels": (W, W.step("embed.add", P[0], "i", 71), 2),
    "level-add-channels-zero": (W, W.step("embed.add", P[0], "i", 0), 2),
    "level-add-channels-negative": (W, W.step("embed.add", P[0], "i", -72), 2),
    "level-add-grid": (W, W.step("embed.add", 8, "I", W.step_of("stem").outputs[0]), 2),
    "level-readout-channels": (W, W.step("head", P[1], "i", 64), 2),
    "level-readout-q": (W, W.step("head", P[0], "i", 63), 2),
    "one-head-dims": (FIRST, FIRST.step("head", C[4], "I", FIRST.constant_of("stem", 5)), 2),
}


def status_of(library, content):
    memory, size = copy_aligned(content, 8), ctypes.c_size_t(12345)
    file = (ctypes.c_void_p(memory.ctypes.data), ctypes.c_size_t(len(content)))
    status = library.bst_model_bytes(*file, None, ctypes.byref(size))
    assert (size.value != 12345) == (status == 0)
    return status


@pytest.mark.parametrize("base", (QK, KV, KV_TABLES, FIRST, GATES, COUNTS, W, WR))
def test_base_of_the_attacks_is_valid(library, base):
    assert status_of(library, base.content) == 0
    assert Edit(base.content).done() == base.content


ALL_ATTACKS = {name: (QK, *attack) for name, attack in ATTACKS.items()} | NEW_ATTACKS


@pytest.mark.parametrize("name", ALL_ATTACKS)
def test_attack_is_refused(library, name):
    base, change, status = ALL_ATTACKS[name]
    edit = Edit(base.content)
    change(edit)
    content = edit.done()
    assert content != base.content
    got = status_of(library, content)
    assert STATUS[got] == STATUS[status], library.bst_last_error()
    with pytest.raises(REFUSED):
        read_bstm(content)


def read_as_levels(kind):
    """128 channels of spikes, or levels of 70 channels, read as two planes of 40 channels."""
    b = programs.Builder(6, 6, 3, 5, 2)
    x = b.stem(128)
    if kind == "residual":
        y = b.conv_affine("y", x, 128)
        x = b.residual("r", y, y, y, programs.neuron_params())[1]
    if kind == "depthwise":
        y = b.depthwise("dw", x, 4, 3, pad=1, channels=40)
        x = b.stream_levels("s", y, 3, 1 << 10)
    elif kind != "head":
        x = b.weight_neuron("conv", x, 40, 1 if kind == "signs" else 4, channels=40)
    b.level_readout(x, 40)
    return b.program()


@pytest.mark.parametrize("kind", ("conv", "signs", "residual", "depthwise", "head"))
def test_levels_are_read_with_the_channels_that_they_were_written_with(library, monkeypatch, kind):
    """Bits beyond the channels of a plane would be inputs that no layer has."""
    with monkeypatch.context() as patch:
        patch.setattr("bestdeploy.emit.bstm.validate", lambda program: None)
        content = write_bstm(read_as_levels(kind))
    assert STATUS[status_of(library, content)] == STATUS[2], library.bst_last_error()
    with pytest.raises(REFUSED, match="channels"):
        read_bstm(content)


BEYOND = {
    "kv-channels-per-head": ({"attention": "kv", "dim": 1025, "heads": 1, "side": 2}, 3),
    "kv-tokens": ({"attention": "kv", "dim": 8, "heads": 1, "side": 66}, 3),
    "conv-neuron-steps": ({"n_t": 9}, 3),
    "first-on-events": ({"events": True, "first": (3, 2, 1, 0)}, 2),
    "first-too-long": ({"first": (3, 2, 1, 0, -1)}, 2),
}


@pytest.mark.parametrize("name", BEYOND)
def test_beyond_the_limits(library, monkeypatch, name):
    """Well-formed files of programs that break one rule."""
    arguments, status = BEYOND[name]
    if name == "conv-neuron-steps":
        monkeypatch.setattr(programs.Builder, "conv_spikes", programs.Builder.conv_neuron)
    with monkeypatch.context() as patch:
        patch.setattr("bestdeploy.emit.bstm.validate", lambda program: None)
        content = write_bstm(programs.network(**arguments).program())
    got = status_of(library, content)
    assert STATUS[got] == STATUS[status], library.bst_last_error()
    with pytest.raises(REFUSED):
        read_bstm(content)


@pytest.mark.parametrize("n_bytes", (0, 1, 63, 64, 65, 319, len(BASE) - 1))
def test_truncated_file_is_refused(library, n_bytes):
    assert status_of(library, BASE[:n_bytes]) == 2
    with pytest.raises(REFUSED):
        read_bstm(BASE[:n_bytes])


NEWER = ("major", "kind-unknown", "buffer-kind", "constant-type", "op-unknown")


@pytest.mark.parametrize("name", NEWER)
def test_newer_file_is_unsupported_in_both_readers(library, name):
    edit = Edit(BASE)
    ALL_ATTACKS[name][1](edit)
    assert STATUS[status_of(library, edit.done())] == "UNSUPPORTED"
    with pytest.raises(UnsupportedModelError, match="newer than this program") as caught:
        read_bstm(edit.done())
    assert caught.value.hint == "pip install -U bestdeploy"


def test_appended_byte_is_refused(library):
    assert status_of(library, BASE + b"\0") == 2


def test_damaged_byte_is_refused(library):
    for at in range(64, len(BASE), 997):
        content = bytearray(BASE)
        content[at] ^= 0x10
        assert status_of(library, bytes(content)) == 2


def test_last_error_names_the_place(library):
    content = Edit(BASE).record(STEPS, INDEX["attn.q"], P[0], "i", 77).done()
    assert status_of(library, content) == 3
    text = library.bst_last_error().decode()
    assert text == f"step[{INDEX['attn.q']}] `attn.q`: stride = 77, must be in 1..16"


def test_optional_sections_are_skipped(library):
    """A minor version may add kinds from 64 on."""
    edit = Edit(write_bstm(programs.minimal()))
    n = struct.unpack_from("<I", edit.bytes, 12)[0]
    end, offsets = len(edit.bytes), [edit.section(k)[1] for k in (1, 2, 3, 4, 5, 6, 8)]
    first = offsets[0]
    assert HEADER + SECTION * (n + 1) <= first, "no room for one more row: move the sections"
    extra = -(-end // 64) * 64
    row = struct.pack("<IIQQQ", 64, 0, extra, 5, 5)
    edit.bytes[HEADER + SECTION * n : HEADER + SECTION * (n + 1)] = row
    edit.bytes += bytes(extra - end) + b"extra"
    edit.header(6, "H", 2).header(12, "I", n + 1).header(16, "Q", len(edit.bytes))
    content = edit.done()
    assert status_of(library, content) == 0
    assert read_bstm(content).n_classes == 1


def test_writer_refuses_a_bad_program():
    program = programs.minimal()
    bad = dataclasses.replace(
        program, buffers=(*program.buffers, Buffer(BufferKind.RAW, 1, 1, 1, 1))
    )
    with pytest.raises(ArtifactError, match="never written"):
        write_bstm(bad)


def test_writer_is_atomic(tmp_path: Path):
    path = tmp_path / "a.bstm"
    content = write_bstm(programs.minimal(), path)
    assert path.read_bytes() == content
    assert [p.name for p in tmp_path.iterdir()] == ["a.bstm"]


# ---- random changes: both readers decide alike --------------------------------------------------

ODD = (0, 1, 2, 7, 8, 64, 255, 1 << 16, (1 << 31) - 1, 1 << 31, 1 << 60, 1 << 63, (1 << 64) - 1)
FORMATS = {1: "B", 2: "H", 4: "I", 8: "Q"}


def changed(content, rng):
    """The file with one to three fields changed, of records or of a constant's values."""
    original, edit = Edit(content), Edit(content)
    constants, data = original.section(CONSTANTS), original.section(DATA)[1]
    for _ in range(rng.integers(1, 4)):
        if rng.random() < 0.4:
            record = constants[1] + RECORD[CONSTANTS] * int(
                rng.integers(constants[2] // RECORD[CONSTANTS])
            )
            (kind,) = struct.unpack_from("<I", content, record)
            offset, n_bytes = struct.unpack_from("<QQ", content, record + 24)
            width = (1, 1, 1, 2, 4, 8)[kind]
            at = data + offset + width * int(rng.integers(n_bytes // width))
        else:
            width = int(rng.choice((1, 2, 4, 4, 8)))
            at = width * int(rng.integers(32 // width, data // width))
        (old,) = struct.unpack_from("<" + FORMATS[width], edit.bytes, at)
        odd, near = ODD[rng.integers(len(ODD))], old + int(rng.integers(-4, 5))
        value = (odd, near, old ^ (1 << int(rng.integers(8 * width))))[rng.integers(3)]
        edit.header(at, FORMATS[width], value % (1 << (8 * width)))
    return edit.done()


def is_valid(content):
    try:
        read_bstm(content)
    except REFUSED:
        return False
    return True


@pytest.mark.parametrize(
    "arguments",
    (
        {},
        {"n_t": 2, "attention": "kv", "events": True, "residual": "plain", "readout": "residual"},
        {"attention": "kv", "forms": (1, 1), "first": (9, 4, 4, -7), "readout": "one"},
        {"weights": 5},
        {"weights": 9, "readout": "one"},
        {"levels": 3, "n_t": 2},
    ),
)
def test_python_and_c_refuse_the_same_files(library, arguments):
    small = programs.network(side=4, stem=5, dim=12, hidden=9, **arguments)
    content, rng = write_bstm(programs.with_golden(small, 1)), np.random.default_rng(5)
    n_valid = 0
    for _ in range(500):
        file = changed(content, rng)
        status = status_of(library, file)
        assert is_valid(file) == (status == 0), library.bst_last_error()
        n_valid += status == 0
    assert 20 < n_valid < 480


# ---- mutations under sanitizers -----------------------------------------------------------------

SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O1")


@pytest.mark.parametrize(
    "base", ("network", "forms1", "kv-events", "kv-tables-first", "weights", "levels", "minimal")
)
def test_mutations_never_leave_the_buffers(tmp_path, base):
    """Random field changes with a right checksum: a status or a clean run, under ASan and UBSan."""
    program = {
        "network": lambda: programs.network(side=4, stem=9, dim=12, hidden=20, n_t=2),
        "forms1": lambda: programs.network(side=4, stem=9, dim=66, hidden=7, forms=(1, 1), tau=1.5),
        "kv-events": lambda: programs.network(
            side=4, dim=12, n_t=2, attention="kv", events=True, residual="plain", readout="residual"
        ),
        "kv-tables-first": lambda: programs.network(
            side=4, dim=66, attention="kv", forms=(1, 1), first=(9, 4, 4, -7), readout="one"
        ),
        "weights": lambda: programs.network(side=4, stem=9, dim=12, heads=2, n_t=2, weights=6),
        "levels": lambda: programs.network(side=4, stem=9, dim=12, heads=2, n_t=2, levels=3),
        "minimal": programs.minimal,
    }[base]()
    if isinstance(program, programs.Builder):
        program = program.program()
    path = tmp_path / "base.bstm"
    write_bstm(program, path)
    driver = Path(__file__).with_name("mutate.c")
    try:
        binary = toolchain.build_program(driver, static=False, extra_flags=SANITIZE)
    except MissingToolError as error:
        pytest.skip(f"no sanitizers: {error}")
    done = subprocess.run(
        [binary, path, "4000", "7"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    n_valid, n_refused = map(int, done.stdout.split())
    assert n_valid + n_refused == 4000
    assert n_valid > 50
    assert n_refused > 500
