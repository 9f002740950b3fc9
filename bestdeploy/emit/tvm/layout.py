"""Where everything lies that the functions of a module read and write; needs no tvm."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from bestdeploy.emit.bstm import read_bstm
from bestdeploy.emit.tvm.kernels import TIR_OPS, Shape, shape_of
from bestdeploy.emit.tvm.targets import Isa
from bestdeploy.program import Op, Program, align

__all__ = ["Layout", "Own"]

ALIGN = 64
STATE_BYTES = 64  # bst_module_state of runtime/src/module_calls.c
_DATA_KIND = 5


@dataclass(frozen=True)
class Own:
    """A step that TVM compiles itself: its shape, and where its rows and table lie in `weights`."""

    shape: Shape
    rows: int
    table: int
    end: int


@dataclass(frozen=True)
class Layout:
    """Offsets and sizes of one module.

    Attributes:
        content: the `.bstm`.
        isa: what the module's own code needs.
        tir: whether convolutions are the module's own code.
    """

    content: bytes
    isa: Isa
    tir: bool

    @cached_property
    def program(self) -> Program:
        """The network."""
        return read_bstm(self.content)

    @property
    def crc(self) -> int:
        """Checksum in the header of the file."""
        (crc,) = struct.unpack_from("<I", self.content, 24)
        return int(crc)

    @cached_property
    def constants(self) -> tuple[int, ...]:
        """Offset of every constant in the file."""
        (n_sections,) = struct.unpack_from("<I", self.content, 12)
        sections = [
            struct.unpack_from("<IIQQQ", self.content, 64 + 32 * i) for i in range(n_sections)
        ]
        end = next(offset for kind, _, offset, _, _ in sections if kind == _DATA_KIND)
        offsets = []
        for constant in self.program.constants:
            start = align(end, 8)
            offsets.append(start)
            end = start + constant.n_bytes
        return tuple(offsets)

    @cached_property
    def own(self) -> Mapping[int, Own]:
        """The module's own steps by number."""
        found, end = {}, STATE_BYTES
        for i, step in enumerate(self.program.steps):
            if not self.tir or step.op not in TIR_OPS:
                continue
            shape = shape_of(self.program, step, self.isa.lanes, self.isa.rows, self.isa.word)
            rows = end
            table = align(rows + 4 * shape.words * shape.padded, ALIGN)
            t = self.program.n_steps
            n_rows = t * (t + 1) // 2 if step.op == Op.CONV_NEURON else 3
            end = align(table + 4 * n_rows * shape.padded, ALIGN)
            found[i] = Own(shape, rows, table, end)
        return found

    @property
    def own_weights(self) -> int:
        """Bytes of `weights` in front of the C runtime's own."""
        return max((own.end for own in self.own.values()), default=STATE_BYTES)

    @property
    def windows(self) -> int:
        """Offset in `arena` of a tile's windows."""
        return align(self.program.arena_bytes, ALIGN)

    @property
    def spikes(self) -> int:
        """Offset in `arena` of a tile's unpacked output spikes."""
        sizes = [4 * own.shape.rows * own.shape.words for own in self.own.values()]
        return self.windows + align(max(sizes, default=0), ALIGN)

    @property
    def own_arena(self) -> int:
        """Bytes of `arena` that the module's own code needs."""
        sizes = [own.shape.rows * own.shape.spike_bytes for own in self.own.values()]
        return self.spikes + align(max(sizes, default=0), ALIGN)
