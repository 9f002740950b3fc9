"""Targets, C compilers and the build cache: C sources in, libraries and programs out.

    library = toolchain.build_library()                       # libbst.so of this machine
    program = toolchain.build_program("bst_run", "arm")       # static executable for arm64

    targets     the target table, emulators, which machine a file is for
    compilers   finding a C compiler
    cache       the folder of everything built
    sources     where the C sources of the runtime are, and their hash
    builds      libraries and programs
    elf         how much of a file is program
    packages    CMake and pkg-config files, and what lies in a bundle

Everything built is kept under `cache_folder()` in a folder named by the SHA-256 of the sources,
the flags, the target and the compiler's version, so an edit of the C code, another compiler or
another flag builds anew and everything else is found at once.

Only the standard library and `bestdeploy.errors` are needed here: the wheel's build hook uses this
package before anything is installed.
"""

from bestdeploy.toolchain import builds, cache, compilers, packages, sources, targets
from bestdeploy.toolchain.builds import (
    FLAGS,
    PROGRAMS,
    build_files,
    build_library,
    build_module,
    build_ort_library,
    build_program,
    build_static_library,
    ort_library,
    prebuilt_library,
)
from bestdeploy.toolchain.cache import cache_folder, cached
from bestdeploy.toolchain.compilers import Compiler, compiler_for, compilers_for
from bestdeploy.toolchain.elf import text_bytes
from bestdeploy.toolchain.packages import Piece, bundle_files, pieces
from bestdeploy.toolchain.sources import find_sources, runtime_version, source_hash
from bestdeploy.toolchain.targets import (
    TARGETS,
    Target,
    find_emulator,
    find_target,
    host_machine,
    machine_of,
    runs_natively,
    system_root,
)

__all__ = [
    "FLAGS",
    "PROGRAMS",
    "TARGETS",
    "Compiler",
    "Piece",
    "Target",
    "build_files",
    "build_library",
    "build_module",
    "build_ort_library",
    "build_program",
    "build_static_library",
    "builds",
    "bundle_files",
    "cache",
    "cache_folder",
    "cached",
    "compiler_for",
    "compilers",
    "compilers_for",
    "find_emulator",
    "find_sources",
    "find_target",
    "host_machine",
    "machine_of",
    "ort_library",
    "packages",
    "pieces",
    "prebuilt_library",
    "runs_natively",
    "runtime_version",
    "source_hash",
    "sources",
    "system_root",
    "targets",
    "text_bytes",
]
