"""Program: the flat form of a deployed network, exactly what a `.bstm` file holds.

A program is a list of steps over numbered buffers. All shapes are for one frame (B = 1), channel
last, time steps outermost: `[T, H, W, C]`. Buffer 0 is the image (or event frames, one per time
step), every other buffer is written by exactly one step, the last step writes the raw logits. The
same rules are checked by `validate` here and by `runtime/src/model.c` when a device loads the file;
`runtime/FORMAT.md` states them.

Constants are positional: slot `i` of a step is the constant `i` of its op (`None` = absent). The
arithmetic of each op is `numerics.md`; the slots and params of each op are the `OPS` table.
"""

from __future__ import annotations

from bestdeploy.program.op_table import OPS, OpSpec, written_levels
from bestdeploy.program.records import (
    CONSTANT_DTYPES,
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
    handed_on,
    level_channels,
    scale_half_even,
)
from bestdeploy.program.validation import validate

__all__ = [
    "CONSTANT_DTYPES",
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
    "handed_on",
    "level_channels",
    "scale_half_even",
    "validate",
    "written_levels",
]
