"""What TVM compiles for: a row per target of bestdeploy; needs no tvm.

The default of `kernels` is the faster one as measured on BESTformer-4-384 (README, "TVM modules"):
the C kernels skip what does not spike, TIR computes everything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bestdeploy.errors import UnsupportedModelError, UsageError

__all__ = ["KERNELS", "TARGETS", "Isa", "TvmTarget", "find_isa", "find_kernels", "find_tvm_target"]

KERNELS = ("tir", "extern")


@dataclass(frozen=True)
class Isa:
    """An instruction set of the module's own code, with the schedule of its kernels.

    Attributes:
        name: as the C runtime names it; the module refuses machines without it.
        cpu: LLVM's name of the oldest processor that has it.
        features: what LLVM is told beside that.
        lanes: output channels in a block: uint32 of one or two vectors.
        rows: windows in a tile: what the registers hold of counters.
        word: type of as many spikes as are packed at once.
    """

    name: str
    cpu: str
    features: tuple[str, ...]
    lanes: int
    rows: int
    word: str = "uint64"


@dataclass(frozen=True)
class TvmTarget:
    """How LLVM names a machine.

    Attributes:
        machine: `Target.machine`.
        isas: best first; the last one runs on every such machine.
        kernels: the default of `kernels`, the faster one.
    """

    machine: str
    triple: str
    isas: tuple[Isa, ...]
    kernels: str
    abi: Mapping[str, str]


TARGETS = (
    TvmTarget(
        "x86_64",
        "x86_64-linux-gnu",
        (
            Isa("avx512", "icelake-server", (), lanes=16, rows=8),
            Isa("avx2", "haswell", (), lanes=8, rows=4),
            Isa("scalar", "x86-64", (), lanes=4, rows=4),
        ),
        "extern",
        {},
    ),
    TvmTarget(
        "aarch64",
        "aarch64-linux-gnu",
        (Isa("neon", "generic", ("+neon",), lanes=8, rows=4),),
        "extern",
        {},
    ),
    TvmTarget(
        "armv7l",
        "armv7-linux-gnueabihf",
        (
            Isa("neon", "generic", ("+v7", "+neon", "+vfp3"), lanes=8, rows=4, word="uint32"),
            Isa("scalar", "generic", ("+v7", "+vfp3d16", "-neon"), lanes=1, rows=4, word="uint8"),
        ),
        "extern",
        {"mfloat-abi": "hard"},
    ),
    TvmTarget(
        "riscv64",
        "riscv64-linux-gnu",
        (Isa("scalar", "generic-rv64", ("+m", "+a", "+f", "+d", "+c"), lanes=4, rows=4),),
        "extern",
        {"mabi": "lp64d"},
    ),
)
"""A new machine is a row here and one in `bestdeploy.toolchain.TARGETS`."""


def find_tvm_target(machine: str) -> TvmTarget:
    """Return the row of a machine, named as `uname -m` does.

    Raises:
        UnsupportedModelError: TVM cannot compile for it.
    """
    for row in TARGETS:
        if row.machine == machine:
            return row
    raise UnsupportedModelError(
        f"backend `tvm` cannot compile for {machine or 'C source'}, only for "
        + ", ".join(row.machine for row in TARGETS),
        hint="use --backend c",
    )


def find_kernels(row: TvmTarget, kernels: str) -> str:
    """Return "tir" or "extern" for a name of `KERNELS` or "auto".

    Raises:
        UsageError: it is another name.
    """
    if kernels not in ("auto", *KERNELS):
        raise UsageError(
            f"unknown kernels `{kernels}`, expected auto, tir or extern", hint="--kernels auto"
        )
    return row.kernels if kernels == "auto" else kernels


def find_isa(row: TvmTarget, name: str | None) -> Isa:
    """Return the instruction set with a name; None: the one that every machine of the row has.

    Raises:
        UsageError: the target has none of this name.
    """
    for isa in row.isas:
        if isa.name == name or (name is None and isa is row.isas[-1]):
            return isa
    raise UsageError(
        f"backend `tvm` has no isa `{name}` for {row.machine}, expected one of "
        + ", ".join(isa.name for isa in row.isas),
        hint="leave --isa out",
    )
