"""What lies in the bundle of a target: programs, libraries, header, CMake and pkg-config files.

With the bundle's folder in CMAKE_PREFIX_PATH, `find_package(bst CONFIG)` gives the imported targets
bst::bst and bst::bst_static; with its lib/pkgconfig in PKG_CONFIG_PATH, `pkg-config bst` answers.
Both find everything from where they lie, so a bundle may be moved.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bestdeploy.errors import MissingToolError
from bestdeploy.toolchain import builds, sources
from bestdeploy.toolchain.targets import Target, find_target, host_machine

__all__ = ["SOURCE_FILES", "Piece", "bundle_files", "pieces"]

SOURCE_FILES = ("bst.c", "bst.h", "model.h", "main.c")
"""What the bundle of a source target holds; `bestdeploy.emit.c` writes them."""

# CMake's CMAKE_SYSTEM_PROCESSOR of each machine, lower case, as a regular expression
_PROCESSORS = {
    "x86_64": "x86_64|amd64|x64",
    "aarch64": "aarch64|arm64",
    "armv7l": "armv7.*|armhf|arm",
    "riscv64": "riscv64.*|rv64.*",
}


@dataclass(frozen=True)
class Piece:
    """One file of a bundle; `make(target)` returns its text, or a path to copy it from."""

    name: str
    make: Callable[[Target], Path | str]
    executable: bool = False


def pieces(static: bool = True) -> tuple[Piece, ...]:
    """Return what the bundle of every target that is a machine holds, in the order it is made.

    Args:
        static: programs need no library of the system, and load none.
    """
    return (
        *(
            Piece(f"bin/{name}", _program(name, static), executable=True)
            for name in builds.PROGRAMS
        ),
        Piece("lib/libbst.so", builds.build_library, executable=True),
        Piece("lib/libbst.a", builds.build_static_library),
        Piece("lib/libbst_ort.so", builds.build_ort_library, executable=True),
        Piece("include/bst.h", lambda _row: sources.find_sources() / "include" / "bst.h"),
        Piece("lib/cmake/bst/bstConfig.cmake", lambda _row: _template("bundle/bstConfig.cmake")),
        Piece("lib/cmake/bst/bstConfigVersion.cmake", _cmake_version),
        Piece("lib/pkgconfig/bst.pc", _pkg_config),
    )


def bundle_files(target: str | Target) -> tuple[str, ...]:
    """Return the names of the files that the bundle of a target holds beside its model."""
    row = find_target(target)
    return SOURCE_FILES if row.is_source else tuple(piece.name for piece in pieces())


def _program(name: str, static: bool) -> Callable[[Target], Path]:
    return lambda row: builds.build_program(name, row, static=static)


def _cmake_version(row: Target) -> str:
    machine = row.machine or host_machine()
    values = {
        "BST_VERSION": sources.runtime_version(),
        "BST_MACHINE": machine,
        "BST_PROCESSORS": _PROCESSORS.get(machine, re.escape(machine)),
    }
    return _filled("bundle/bstConfigVersion.cmake.in", values)


def _pkg_config(_row: Target) -> str:
    values = {
        "BST_VERSION": sources.runtime_version(),
        "BST_PREFIX_FROM_PC": "../..",
        "BST_LIBDIR": "lib",
        "BST_INCLUDEDIR": "include",
        "BST_THREAD_FLAG": "-pthread",
    }
    return _filled("bst.pc.in", values)


def _template(name: str) -> str:
    path = sources.find_sources() / "cmake" / name
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise MissingToolError(
            f"the template {name} of the runtime is missing from this installation",
            where=str(path),
            hint="pip install --force-reinstall bestdeploy",
        ) from error


def _filled(name: str, values: Mapping[str, str]) -> str:
    """Return a template with every @NAME@ replaced; a name without a value is a KeyError."""
    return re.sub(r"@([A-Z_]+)@", lambda found: values[found[1]], _template(name))
