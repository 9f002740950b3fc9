"""A network as machine code from TVM; the one room that imports tvm.

    built = build(content, "aarch64")       # bytes of net.o

The object belongs to one `.bstm` file, reads its weights from it, and needs no linker to be made.
It holds three functions in TVM's packed ABI, which a plain C program (runtime/src/module.c) or
Python with `tvm_ffi` alone calls; libtvm and libtvm_runtime are never needed:

    __tvm_ffi_sizes(file, sizes)                 int64 [2]: bytes of `weights` and of `arena`
    __tvm_ffi_prepare(file, weights)             once; `file` stays where it is
    __tvm_ffi_main(frame, weights, arena, raw)   one frame

    file     uint8 [n]          the `.bstm`, aligned to 8
    weights  uint8 [sizes[0]]   aligned to 64, not moved between the calls
    arena    uint8 [sizes[1]]   aligned to 64: the Program's arena at the Program's offsets, scratch
    frame    uint8 [H, W, C], or [T, H, W, C] of an event model
    raw      int64 [K]

A wrong shape, type, alignment or size makes a call return non-zero after a call of
`TVMFFIErrorSetRaisedFromCStrParts`. Convolutions are TIR (`kernels="tir"`, kernels.py) or, as all
other ops, calls of the C kernels (`kernels="extern"`), so net.o is linked with libbst.a.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from bestdeploy.emit.tvm import build as _build
from bestdeploy.emit.tvm.build import PINS, canary, check_versions
from bestdeploy.emit.tvm.layout import Layout
from bestdeploy.emit.tvm.targets import KERNELS, find_isa, find_kernels, find_tvm_target

__all__ = [
    "KERNELS",
    "PINS",
    "Built",
    "build",
    "canary",
    "check_choice",
    "check_versions",
    "source_hash",
]


@dataclass(frozen=True)
class Built:
    """An object and how it was made.

    Attributes:
        content: of net.o.
        kernels: "tir" or "extern".
        isa: instruction set that the object's own code needs.
    """

    content: bytes
    kernels: str
    isa: str


def build(content: bytes, machine: str, kernels: str = "auto", isa: str | None = None) -> Built:
    """Compile a `.bstm`; the same arguments give the same bytes.

    Args:
        content: the file.
        machine: as `uname -m` names it, such as "aarch64".
        kernels: who computes convolutions: "tir", "extern", or "auto", the faster one there.
        isa: instruction set of the object's own code; None = what every such machine has.

    Raises:
        ArtifactError: the file is not valid.
        MissingToolError: TVM is not installed, or another release of it.
        UnsupportedModelError: TVM cannot compile for this machine.
        UsageError: unknown kernels or isa.
    """
    row = find_tvm_target(machine)
    chosen = find_kernels(row, kernels)
    needed = find_isa(row, isa)
    layout = Layout(content, needed, chosen == "tir")
    return Built(_build.object_of(layout, row), chosen, needed.name)


def check_choice(machine: str, kernels: str = "auto", isa: str | None = None) -> str:
    """Check what `build` is asked for, without TVM; return the kernels it will take.

    Raises:
        UnsupportedModelError, UsageError: as `build`.
    """
    row = find_tvm_target(machine)
    find_isa(row, isa)
    return find_kernels(row, kernels)


def source_hash() -> str:
    """Return the SHA-256 of what makes modules, for caches of them."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
