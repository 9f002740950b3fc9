"""The smallest sensible program, made by hand: 4x4 images, T = 2, 3 classes. Random but seeded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bestdeploy.program import (
    NEURON_DECAY_INPUT,
    NEURON_HALVING,
    Buffer,
    BufferKind,
    Constant,
    ConstantType,
    Golden,
    Op,
    Program,
    Step,
    align,
)

T, H, W, CIN, D, K, F = 2, 4, 4, 1, 10, 3, 20
META = json.dumps(
    {
        "family": "tiny",
        "preprocessing": {"resize": "short-side", "color": "gray"},
        "class_names": ["a", "b", "c"],
    }
)


def tiny_program(golden: Sequence[Golden] = (), seed: int = 3) -> Program:
    """Return stem -> affine -> neuron -> affine -> residual neuron -> read-out."""
    rng = np.random.default_rng(seed)
    spikes = [(BufferKind.SPIKES, T, H, W, D)]
    stream = [(BufferKind.STREAM, T, H, W, D)]
    shapes = [
        (BufferKind.IMAGE, 1, H, W, CIN),
        *spikes,  # 1 stem
        *stream,  # 2 x0
        *spikes,  # 3 neuron on x0
        *stream,  # 4 y
        *stream,  # 5 x2
        *spikes,  # 6 its spikes
        (BufferKind.RAW, 1, 1, 1, K),
    ]
    buffers, offset = [], 0
    for shape in shapes:
        buffer = Buffer(*shape, offset=offset)
        buffers.append(buffer)
        offset += align(buffer.n_bytes, 64)

    constants: list[Constant] = []

    def add(values: object, type_: ConstantType) -> int:
        constants.append(Constant.of(np.asarray(values), type_))
        return len(constants) - 1

    def signs(*shape: int) -> int:
        constants.append(Constant.of_signs(rng.choice([-1, 1], shape)))
        return len(constants) - 1

    def affine() -> tuple[int, ...]:
        return (
            signs(D, 1, 1, D),
            add(rng.integers(1 << 16, 1 << 18, D), ConstantType.I32),
            add(rng.integers(-16384, 16385, D), ConstantType.I16),
            add(rng.integers(0, 1 << 19, D), ConstantType.I32),
        )

    neuron = (NEURON_DECAY_INPUT | NEURON_HALVING, 1 << (F - 1), 0, 0)
    window = (1, 0, 0, 0)
    stem = (
        add(rng.integers(-8000, 24000, (D, 1, 1, CIN)), ConstantType.I32),
        add(np.zeros((1, D)), ConstantType.I64),
        add(np.zeros(D), ConstantType.U8),
        add(np.zeros(H), ConstantType.U8),
        add(np.zeros(W), ConstantType.U8),
    )
    read_out = (
        *affine()[:3],
        add(rng.integers(0, 1 << 20, D), ConstantType.I32),
        add(rng.integers(-(1 << 18), 1 << 18, (K, D)), ConstantType.I32),
        add(rng.integers(-(1 << 18), 1 << 18, (K, D)), ConstantType.I32),
        add(rng.integers(-(1 << 30), 1 << 30, K), ConstantType.I64),
    )
    steps = (
        Step(Op.STEM_NEURON, "stem", (0,), (1,), stem, (1, 0, 1, 0, *neuron)),
        Step(Op.CONV_AFFINE, "embed", (1,), (2,), affine(), window),
        Step(Op.STREAM_NEURON, "block.neuron", (2,), (3,), (), (0, 0, 0, 0, *neuron)),
        Step(Op.CONV_AFFINE, "block.fc", (3,), (4,), affine(), window),
        Step(Op.RESIDUAL_NEURON, "block.residual", (4, 2, 2), (5, 6), (), (0, 0, 0, 0, *neuron)),
        Step(Op.READOUT, "head", (5, 2, 6), (7,), read_out, (5,)),
    )
    return Program(
        input_height=H,
        input_width=W,
        input_channels=CIN,
        n_classes=K,
        n_steps=T,
        frac_bits=F,
        logit_shift=40,
        arena_bytes=offset,
        buffers=tuple(buffers),
        steps=steps,
        constants=tuple(constants),
        meta=META,
        golden=tuple(golden),
    )


def tiny_bytes(n_golden: int = 2, *, wrong: bool = False) -> bytes:
    """Return a `.bstm` whose golden vectors are the C runtime's own answers (or wrong ones)."""
    from bestdeploy import images, runtime
    from bestdeploy.emit.bstm import write_bstm

    program = tiny_program()
    model = runtime.load(write_bstm(program))
    frames = images.builtin_images(model.input_shape)[2 : 2 + n_golden]
    golden = [
        Golden(frame, raw + int(wrong))
        for frame, raw in zip(frames, model.run_raw(frames), strict=True)
    ]
    return write_bstm(replace(program, golden=tuple(golden)))
