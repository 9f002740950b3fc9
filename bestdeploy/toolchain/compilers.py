"""Finding a C compiler.

For the host `$BESTDEPLOY_CC`, `$CC`, cc, gcc, clang, then `ziglang` from PyPI; for another target
`<triple>-gcc` when it is on PATH, the host's compiler where the target is this machine's
architecture, then `ziglang`. `BESTDEPLOY_CC=zig` asks for ziglang for every target.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bestdeploy.errors import MissingToolError
from bestdeploy.toolchain.targets import Target, find_target, runs_natively

__all__ = ["Compiler", "compiler_for", "compilers_for"]

_HOST_COMPILERS = ("cc", "gcc", "clang")
_ZIG_WORDS = ("zig", "ziglang")


@dataclass(frozen=True)
class Compiler:
    """A C compiler that was found: its command line, kind ("gcc" also means clang) and version."""

    command: tuple[str, ...]
    kind: str
    version: str

    @property
    def name(self) -> str:
        """Return program and version number, such as "clang 14.0.6"."""
        program = "zig" if self.kind == "zig" else Path(self.command[0]).name
        number = re.search(r"\d+(\.\d+)+", re.sub(r"\(.*?\)", "", self.version))
        return f"{program} {number[0]}" if number else program

    @property
    def is_gcc(self) -> bool:
        """Return whether it is GCC itself, whose options clang does not have all of."""
        return self.kind == "gcc" and "clang" not in self.version.lower()

    @property
    def archiver(self) -> tuple[str, ...]:
        """Command of the archiver that belongs to this compiler."""
        if self.kind == "zig":
            return (*self.command[:-1], "ar")
        base = Path(self.command[-1] if len(self.command) == 1 else self.command[0]).name
        prefix = base[: -len("gcc")] if base.endswith("-gcc") else ""
        if prefix and shutil.which(prefix + "ar"):
            return (prefix + "ar",)
        if shutil.which("ar"):
            return ("ar",)
        found = zig()
        if found is not None:
            return found.archiver
        raise MissingToolError("no `ar` on PATH", hint="apt install binutils")


def compiler_for(target: str | Target = "host") -> Compiler:
    """Return the C compiler for a target.

    Raises:
        MissingToolError: there is none; the hint is the command that installs one.
    """
    row = find_target(target)
    wanted = os.environ.get("BESTDEPLOY_CC", "")
    if wanted in _ZIG_WORDS:
        found = zig()
        if found is None:
            raise MissingToolError(
                f"BESTDEPLOY_CC={wanted}, but ziglang is not installed",
                hint="pip install 'bestdeploy[cross]'",
            )
        return found
    found = next(_candidates(row), None)
    if found is not None:
        return found
    if not row.machine:
        raise MissingToolError(
            "no C compiler found (looked for $CC, cc, gcc, clang and the ziglang package)",
            hint="apt install gcc   or   pip install 'bestdeploy[cross]'",
        )
    raise MissingToolError(
        f"no C compiler for target `{row.name}` "
        f"(looked for {row.gcc_triple}-gcc and the ziglang package)",
        hint=f"pip install 'bestdeploy[cross]'   or   apt install {row.packages}",
    )


def compilers_for(target: str | Target = "host") -> list[Compiler]:
    """Return every compiler found for a target, the one that `compiler_for` takes first."""
    try:
        first = compiler_for(target)
    except MissingToolError:
        return []
    found = {_identity(first): first}
    for compiler in _candidates(find_target(target)):
        found.setdefault(_identity(compiler), compiler)
    return list(found.values())


def _identity(compiler: Compiler) -> tuple[str, ...]:
    """Return the command with links followed: cc is usually gcc under a second name."""
    if compiler.kind == "zig":
        return compiler.command
    return (str(Path(compiler.command[0]).resolve()), *compiler.command[1:])


def _candidates(row: Target) -> Iterator[Compiler]:
    """Yield the compilers of a target in the order of preference."""
    if row.machine:
        compiler = cross_compiler(row)
        if compiler is not None:
            yield compiler
    if runs_natively(row):
        yield from host_compilers()
    compiler = zig()
    if compiler is not None:
        yield compiler


def host_compilers() -> Iterator[Compiler]:
    """Yield this machine's own compilers: the one of the environment alone, else those on PATH."""
    for variable in ("BESTDEPLOY_CC", "CC"):
        value = os.environ.get(variable, "").strip()
        if not value or (variable == "BESTDEPLOY_CC" and value in _ZIG_WORDS):
            continue
        command = shlex.split(value)
        path = shutil.which(command[0])
        if path is None:
            raise MissingToolError(
                f"{variable}={value} names a compiler that is not on PATH",
                hint=f"unset {variable}, or set it to a C compiler",
            )
        yield _gcc(path, *command[1:])
        return
    for name in _HOST_COMPILERS:
        path = shutil.which(name)
        if path:
            yield _gcc(path)


def cross_compiler(row: Target) -> Compiler | None:
    """Return the Debian-style cross compiler of a target, None where it is not on PATH."""
    path = shutil.which(f"{row.gcc_triple}-gcc")
    return _gcc(path) if path else None


@functools.cache
def _gcc(*command: str) -> Compiler:
    try:
        done = subprocess.run(
            [*command, "--version"], capture_output=True, text=True, check=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise MissingToolError(
            f"the C compiler `{shlex.join(command)}` does not run: {error}",
            hint="set CC to a working C compiler",
        ) from error
    lines = (done.stdout or done.stderr).splitlines()
    return Compiler(command, "gcc", lines[0] if lines else Path(command[0]).name)


def zig() -> Compiler | None:
    """Return the compiler of the ziglang package, None where it is not installed."""
    if importlib.util.find_spec("ziglang") is None:
        return None
    version = importlib.metadata.version("ziglang")
    return Compiler((sys.executable, "-m", "ziglang", "cc"), "zig", f"zig {version}")
