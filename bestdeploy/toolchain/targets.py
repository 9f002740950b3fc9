"""The target table, what runs a target's programs, and which machine a file was built for."""

from __future__ import annotations

import platform
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path

from bestdeploy.errors import UsageError

__all__ = [
    "TARGETS",
    "Target",
    "find_emulator",
    "find_target",
    "host_machine",
    "host_row",
    "machine_of",
    "runs_natively",
    "system_root",
]


@dataclass(frozen=True)
class Target:
    """One row of the target table.

    Attributes:
        machine: name the machine gives itself (`uname -m`); "" where it is this machine.
        gcc_triple: prefix of a Debian cross compiler.
        zig_triple: zig target of libraries (glibc, with the oldest supported version).
        zig_static_triple: zig target of static programs (musl).
        zig_cpu: value of zig's `-mcpu` while compiling, or "".
        gcc_flags: extra flags for gcc while compiling.
        emulators: qemu user emulators, first found is used.
        elf_machine: `e_machine` of the ELF header, 0 where it is this machine.
        packages: Debian packages that bring the cross compiler.
        is_source: the bundle holds C files for the user's own compiler, nothing is built.
    """

    name: str
    aliases: tuple[str, ...]
    summary: str
    machine: str = ""
    gcc_triple: str = ""
    zig_triple: str = ""
    zig_static_triple: str = ""
    zig_cpu: str = ""
    gcc_flags: tuple[str, ...] = ()
    emulators: tuple[str, ...] = ()
    emulator_args: tuple[str, ...] = ()
    elf_machine: int = 0
    packages: str = ""
    is_source: bool = False


TARGETS = (
    Target("host", ("native",), "this machine"),
    Target(
        "x86-64",
        ("x86_64", "amd64"),
        "64-bit PC, Linux",
        machine="x86_64",
        gcc_triple="x86_64-linux-gnu",
        zig_triple="x86_64-linux-gnu.2.28",
        zig_static_triple="x86_64-linux-musl",
        zig_cpu="x86_64",
        emulators=("qemu-x86_64", "qemu-x86_64-static"),
        elf_machine=62,
        packages="gcc-x86-64-linux-gnu libc6-dev-amd64-cross",
    ),
    Target(
        "arm",
        ("arm64", "aarch64"),
        "64-bit ARM, Linux (Raspberry Pi 3 and later, Jetson, phones)",
        machine="aarch64",
        gcc_triple="aarch64-linux-gnu",
        zig_triple="aarch64-linux-gnu.2.28",
        zig_static_triple="aarch64-linux-musl",
        zig_cpu="generic",
        emulators=("qemu-aarch64", "qemu-aarch64-static"),
        elf_machine=183,
        packages="gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
    ),
    Target(
        "armv7",
        ("armhf", "arm32"),
        "32-bit ARM (ARMv7, NEON where the CPU has it), Linux",
        machine="armv7l",
        gcc_triple="arm-linux-gnueabihf",
        zig_triple="arm-linux-gnueabihf.2.28",
        zig_static_triple="arm-linux-musleabihf",
        zig_cpu="generic+v7a+vfp3d16-neon",
        gcc_flags=("-march=armv7-a", "-mfpu=vfpv3-d16", "-mfloat-abi=hard"),
        emulators=("qemu-arm", "qemu-arm-static"),
        emulator_args=("-cpu", "cortex-a7"),
        elf_machine=40,
        packages="gcc-arm-linux-gnueabihf libc6-dev-armhf-cross",
    ),
    Target(
        "riscv64",
        ("rv64",),
        "64-bit RISC-V (rv64gc), Linux",
        machine="riscv64",
        gcc_triple="riscv64-linux-gnu",
        zig_triple="riscv64-linux-gnu.2.28",
        zig_static_triple="riscv64-linux-musl",
        zig_cpu="baseline_rv64",
        emulators=("qemu-riscv64", "qemu-riscv64-static"),
        elf_machine=243,
        packages="gcc-riscv64-linux-gnu libc6-dev-riscv64-cross",
    ),
    Target("c", ("source", "firmware"), "C files for firmware, any compiler", is_source=True),
)
"""The target table: a new target is one row."""


def find_target(name: str | Target) -> Target:
    """Return the row of the target table with this name or alias.

    Raises:
        UsageError: no row has this name.
    """
    if isinstance(name, Target):
        return name
    for target in TARGETS:
        if name == target.name or name in target.aliases:
            return target
    known = ", ".join(target.name for target in TARGETS)
    raise UsageError(
        f"unknown target `{name}`, expected one of {known}", hint="bestdeploy targets lists them"
    )


def runs_natively(target: str | Target) -> bool:
    """Say whether this machine executes programs of the target without an emulator."""
    row = find_target(target)
    if not row.machine:
        return True
    return platform.system() == "Linux" and host_machine() == row.machine


def find_emulator(target: str | Target) -> tuple[str, ...] | None:
    """Return the command prefix that runs a static program of the target.

    Returns:
        () where the machine runs it itself, None where no emulator is installed.
    """
    row = find_target(target)
    if runs_natively(row):
        return ()
    for name in row.emulators:
        path = shutil.which(name)
        if path:
            return (path, *row.emulator_args)
    return None


def system_root(target: str | Target) -> Path | None:
    """Return where the shared C library of another machine lies, for emulators; None: nowhere."""
    row = find_target(target)
    found = Path("/usr") / row.gcc_triple
    return found if row.gcc_triple and any(found.glob("lib/ld-linux*")) else None


def host_machine() -> str:
    """Return the name of this machine's architecture, as `Target.machine` spells it."""
    machine = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)


def host_row() -> Target | None:
    """Return the row whose zig triples describe this machine, when it has one."""
    if platform.system() != "Linux":
        return None
    return next((row for row in TARGETS if row.machine == host_machine()), None)


def machine_of(path: Path) -> str:
    """Return the architecture that an ELF file was built for, "" where it is no ELF file.

    It is `Target.machine` of the table, or "ELF machine <number>" for one that has no row.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(20)
    except OSError:
        return ""
    if len(head) < 20 or head[:4] != b"\x7fELF":
        return ""
    (number,) = struct.unpack_from("<H" if head[5] == 1 else ">H", head, 18)
    names = {row.elf_machine: row.machine for row in TARGETS if row.elf_machine}
    return names.get(number, f"ELF machine {number}")
