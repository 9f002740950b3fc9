"""Building the runtime: libraries, the custom ops for ONNX Runtime, programs.

The rules for zig (each one was met in practice): `-mcpu` only when compiling and never when
linking, because it is part of the key of zig's libc cache; always the same `-O` when linking; UBSan
is switched off explicitly; its caches live in our cache folder.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bestdeploy.errors import MissingToolError, UsageError
from bestdeploy.toolchain import sources
from bestdeploy.toolchain.cache import cache_folder, cached
from bestdeploy.toolchain.compilers import Compiler, compiler_for
from bestdeploy.toolchain.targets import Target, find_target, host_machine, host_row, machine_of

__all__ = [
    "COLD_FLAGS",
    "FLAGS",
    "PROGRAMS",
    "build_files",
    "build_library",
    "build_module",
    "build_ort_library",
    "build_program",
    "build_static_library",
    "ort_library",
    "prebuilt_library",
]

FLAGS = (
    "-std=c11",
    "-O2",
    "-ffp-contract=off",
    "-fvisibility=hidden",
    "-fPIC",
    "-pthread",
    "-ffunction-sections",
    "-fdata-sections",
    "-fno-asynchronous-unwind-tables",
    "-fno-unwind-tables",
    "-Wall",
    "-Wextra",
    "-g0",
)
"""Flags of every compilation, for every target and compiler."""

COLD_FLAGS = ("-Os",)
"""More of them for sources that no frame spends time in."""

# Vectors are written out where they matter, and so is unrolling.
_ZIG_FLAGS = ("-fno-vectorize", "-fno-slp-vectorize", "-fno-unroll-loops")
_ZIG_COLD_FLAGS = ("-Os", "-Xclang", "-Oz")  # -Oz alone is -Os to zig

# What GCC spends bytes on and no kernel was measured to be faster by. Clang has no such options.
_GCC_FLAGS = (
    "-falign-functions=16",
    "-falign-jumps=1",
    "-falign-loops=1",
    "-fno-tree-pre",
    "-fno-tree-loop-distribute-patterns",
    "-fno-gcse",
    "-fno-inline-functions",
    "-fno-inline-small-functions",
)

_WITH_VECTORS = ("x86_64", "aarch64")

# Sources in kernels/ that no frame spends much time in: portable ones where next to every machine
# of a target has vectors, what lays out and plans, and kernels that -Os costs little, by
# instruction set (never those whose vectors are the compiler's: -Os makes none).
# runtime/CMakeLists.txt has the same list.
_PORTABLE = ("scalar", "words")
_COLD_STEMS = ("layouts", "plan", "walks")
_COLD_KERNELS = ("gate", "max_pool", "or_pool")
_COLD_ON_AVX2 = (
    "products",
    "readout",
    "spike_attention",
    "stem_neuron",
    "stream_neuron",
    "weight_conv",
)
_COLD_ON_AVX512 = ("kv_attention", "products", "readout", "weight_conv")
_COLD_ON_NEON = ("kv_attention", "mean_neuron", "products", "readout")

PROGRAMS = ("bst_run", "bst_bench")
"""Programs in runtime/tools/ that travel in a bundle."""

_MODULE_EXPORTS = (
    "{ global: __tvm_ffi_*; TVMFFIErrorSetRaisedFromCStrParts; bst_module_error; local: *; };\n"
)


@dataclass(frozen=True)
class _Build:
    """One target with its compiler and libc: what a compile and a link command start with."""

    target: Target
    compiler: Compiler
    static: bool
    extra_flags: tuple[str, ...]

    @property
    def key(self) -> tuple[str, ...]:
        return (
            *self.compiler.command,
            self.compiler.version,
            *self.compile_flags,
            *self.cold_flags,
            *(*_PORTABLE, *_COLD_STEMS, *_COLD_KERNELS),
            *("avx2", *_COLD_ON_AVX2, "avx512", *_COLD_ON_AVX512, "neon", *_COLD_ON_NEON),
            *self.link_flags,
        )

    def _zig_target(self) -> tuple[str, ...]:
        row = self.target if self.target.machine else host_row()
        if row is None:
            return ()
        return ("-target", row.zig_static_triple if self.static else row.zig_triple)

    @property
    def compile_flags(self) -> tuple[str, ...]:
        flags = list(FLAGS)
        row = self.target
        if self.compiler.kind == "zig":
            row = row if row.machine else (host_row() or row)
            flags += [*self._zig_target(), "-fno-sanitize=undefined", *_ZIG_FLAGS]
            if row.zig_cpu:
                flags.append(f"-mcpu={row.zig_cpu}")
        else:
            flags += row.gcc_flags
            if self._machine == "x86_64" and self.compiler.is_gcc:
                flags += _GCC_FLAGS
        return (*flags, *self.extra_flags)

    @property
    def _machine(self) -> str:
        return self.target.machine or host_machine()

    @property
    def cold_flags(self) -> tuple[str, ...]:
        return _ZIG_COLD_FLAGS if self.compiler.kind == "zig" else COLD_FLAGS

    @property
    def link_flags(self) -> tuple[str, ...]:
        flags = ["-O2", "-pthread", *self.extra_flags]
        if self.compiler.kind == "zig":
            flags += self._zig_target()
        if self.static:
            flags.append("-static")
        darwin = platform.system() == "Darwin" and not self.target.machine
        flags.append("-Wl,-dead_strip" if darwin else "-Wl,--gc-sections")
        if self.compiler.kind != "zig" and not darwin:
            # No pages that are filled up between segments.
            flags += ("-Wl,-z,noseparate-code", "-Wl,-z,norelro")
        return tuple(flags)

    def flags_of(self, source: Path) -> tuple[str, ...]:
        """Return the flags that compile one source of the library.

        Files outside of kernels/ check, decide and hand on.
        """
        return (*self.compile_flags, *(self.cold_flags if self._is_cold(source) else ()))

    def _is_cold(self, source: Path) -> bool:
        kernel = source.parent.name
        if "kernels" not in source.parts or source.stem in _COLD_STEMS:
            return True
        if source.stem in _PORTABLE:
            return self._machine in _WITH_VECTORS
        by_set = {"avx2": _COLD_ON_AVX2, "avx512": _COLD_ON_AVX512, "neon": _COLD_ON_NEON}
        return kernel in _COLD_KERNELS or kernel in by_set.get(source.stem, ())

    def shared_flags(self, name: str) -> tuple[str, ...]:
        """Return the flags of a shared library that programs look up as `name`."""
        strip = () if self.extra_flags else ("-s",)
        if platform.system() == "Darwin" and not self.target.machine:
            return (*strip, "-shared", f"-Wl,-install_name,@rpath/{name}")
        return (*strip, "-shared", f"-Wl,-soname,{name}")

    def exported(self, folder: Path) -> tuple[str, ...]:
        """Return the flags that hide all but the symbol that ONNX Runtime looks up."""
        if platform.system() == "Darwin" and not self.target.machine:
            return ("-Wl,-exported_symbol,_RegisterCustomOps",)
        return (f"-Wl,--version-script={folder / 'exports.map'}",)

    def run(self, *arguments: str | Path) -> None:
        """Run the compiler; its complaint becomes the error."""
        _execute([*self.compiler.command, *map(str, arguments)], self.environment())

    def environment(self) -> dict[str, str]:
        """Return the environment of compiler processes: zig's caches live in our cache."""
        environment = dict(os.environ)
        if self.compiler.kind == "zig":
            folder = str(cache_folder() / "zig")
            environment.setdefault("ZIG_GLOBAL_CACHE_DIR", folder)
            environment.setdefault("ZIG_LOCAL_CACHE_DIR", folder)
        return environment


def _execute(command: list[str], environment: dict[str, str]) -> None:
    """Run a compiler. Interrupted, it ends with all its children: none writes any more."""
    with subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    ) as process:
        try:
            text = process.communicate()[1]
        except BaseException:
            _kill_group(process)
            raise
    if process.returncode != 0:
        lines = [line for line in text.splitlines() if line.strip()]
        error = next((line for line in lines if "error" in line), lines[0] if lines else "no text")
        raise MissingToolError(
            f"`{Path(command[0]).name}` failed (exit {process.returncode}): {error.strip()}",
            where=shlex.join(command),
            hint="bestdeploy doctor shows the compilers found; set CC to use another one",
        )


def _kill_group(process: subprocess.Popen[str]) -> None:
    """Kill a process started as a session of its own, with its children."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()


def build_library(target: str | Target = "host", *, extra_flags: Sequence[str] = ()) -> Path:
    """Return libbst.so of a target, built when it is not in the cache.

    Raises:
        MissingToolError: there is no compiler for the target, or it fails.
    """
    build = _Build(find_target(target), compiler_for(target), False, tuple(extra_flags))

    def make(folder: Path) -> None:
        objects = sorted(_objects(build).parent.glob("obj/*.o"))
        output = folder / "libbst.so"
        build.run(*build.link_flags, *build.shared_flags(output.name), *objects, "-o", output)

    key = ("so", sources.source_hash(), *build.key, *build.shared_flags("libbst.so"))
    return cached(key, "libbst.so", make)


def build_static_library(target: str | Target = "host", *, extra_flags: Sequence[str] = ()) -> Path:
    """Return libbst.a of a target (position independent), built when it is not in the cache."""
    return _objects(_Build(find_target(target), compiler_for(target), False, tuple(extra_flags)))


def build_ort_library(target: str | Target = "host", *, extra_flags: Sequence[str] = ()) -> Path:
    """Return libbst_ort.so, the custom ops for ONNX Runtime, built when it is not in the cache.

    Raises:
        MissingToolError: there is no compiler for the target, or it fails.
    """
    root = sources.find_sources()
    build = _Build(find_target(target), compiler_for(target), False, tuple(extra_flags))
    files, extra = sources.ort_sources(root), sources.ort_sources(root, "*.*")

    def make(folder: Path) -> None:
        library, output = _objects(build), folder / "libbst_ort.so"
        units = [folder / f"{file.stem}.o" for file in files]
        for file, unit in zip(files, units, strict=True):
            build.run(*build.compile_flags, "-I", root / "include", "-c", file, "-o", unit)
        flags = (*build.shared_flags(output.name), *build.exported(root / "ort"))
        build.run(*build.link_flags, *flags, *units, library, "-o", output)
        for unit in units:
            unit.unlink()

    key = ("ort", sources.source_hash(extra), *build.key, *build.shared_flags("libbst_ort.so"))
    return cached(key, "libbst_ort.so", make)


def build_module(content: bytes, output: Path, target: str | Target = "host") -> None:
    """Link net.o of TVM with the runtime it calls into a shared library of its own.

    It exports the module's functions and the error hook, which a host's own comes before; what it
    has of libbst stays inside.

    Args:
        content: of net.o.
        output: the file to write.
        target: row of the target table.

    Raises:
        MissingToolError: there is no compiler for the target, or it fails.
    """
    build = _Build(find_target(target), compiler_for(target), False, ())
    library = _objects(build)
    hook = sources.find_sources() / "src" / "module_error.c"
    with tempfile.TemporaryDirectory() as place:
        unit, net, script = (Path(place) / name for name in ("hook.o", "net.o", "net.map"))
        net.write_bytes(content)
        script.write_text(_MODULE_EXPORTS)
        build.run(*build.compile_flags, "-DBST_MODULE_SHARED", "-c", hook, "-o", unit)
        hidden = f"-Wl,--version-script={script}"
        flags = (*build.link_flags, *build.shared_flags("net.so"), hidden)
        build.run(*flags, net, unit, library, "-o", output)


def build_program(
    name: str | Path,
    target: str | Target = "host",
    static: bool = True,
    *,
    extra_flags: Sequence[str] = (),
) -> Path:
    """Return a program built from `runtime/tools/<name>.c`, or from the C file `name`.

    Args:
        name: one of `PROGRAMS`, or a path that ends in .c.
        target: row of the target table.
        static: link everything in, so that the file runs on any Linux of the target.
        extra_flags: more flags for compiling and linking, such as `-fsanitize=address`.
    """
    root = sources.find_sources()
    source = Path(name) if str(name).endswith(".c") else root / "tools" / f"{name}.c"
    if not source.is_file():
        raise UsageError(
            f"there is no program `{name}`, expected one of {', '.join(PROGRAMS)}",
            where=str(source),
        )
    build = _Build(find_target(target), compiler_for(target), static, tuple(extra_flags))
    if static and platform.system() == "Darwin" and not build.target.machine:
        build = _Build(build.target, build.compiler, False, build.extra_flags)

    cold = build.cold_flags if name in PROGRAMS else ()

    def make(folder: Path) -> None:
        library = _objects(build)
        _announce_libc(build)
        unit = folder / "main.o"
        alone = ("-DBST_STATIC",) if build.static else ()
        build.run(
            *build.compile_flags, *cold, *alone, "-I", root / "include", "-c", source, "-o", unit
        )
        strip = () if extra_flags else ("-s",)
        output = folder / source.stem
        loader = () if build.static or platform.system() == "Darwin" else ("-ldl",)
        build.run(*build.link_flags, *strip, unit, library, "-lm", *loader, "-o", output)
        unit.unlink()

    extra = [source, *sorted(source.parent.glob("*.h"))]
    key = ("program", *cold, sources.source_hash(extra), *build.key)
    return cached(key, source.stem, make)


def build_files(files: Sequence[Path], output: Path, target: str | Target = "host") -> None:
    """Compile C files that belong together into one program, outside of the cache.

    Raises:
        MissingToolError: there is no compiler for the target, or it fails.
    """
    build = _Build(find_target(target), compiler_for(target), False, ())
    build.run(*build.compile_flags, *files, "-o", output)


def _objects(build: _Build) -> Path:
    """Compile the library's sources; return libbst.a, with the objects in obj/ beside it."""
    root = sources.find_sources()
    files = sources.library_sources(root)

    def make(folder: Path) -> None:
        (folder / "obj").mkdir()

        def compile_one(source: Path) -> Path:
            name = "_".join(source.relative_to(root / "src").with_suffix(".o").parts)
            output = folder / "obj" / name
            includes = ("-I", root / "include", "-I", root / "src")
            build.run(*build.flags_of(source), *includes, "-c", source, "-o", output)
            return output

        with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
            objects = list(pool.map(compile_one, files))
        archive = [*build.compiler.archiver, "rcsD", str(folder / "libbst.a")]
        _execute([*archive, *map(str, objects)], build.environment())

    return cached(("objects", sources.source_hash(), *build.key), "libbst.a", make)


def _announce_libc(build: _Build) -> None:
    """Say on stderr that zig is about to compile a C library, the first time it does."""
    if build.compiler.kind != "zig" or not build.static:
        return
    triple = build._zig_target()[-1]
    mark = cache_folder() / "zig" / f"built-{triple}"
    if mark.exists():
        return
    print(f"building musl for {triple} (first time only, about a minute)", file=sys.stderr)
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()


def prebuilt_library() -> Path | None:
    """Return the library inside the package when it was built from exactly these sources.

    A release wheel holds `_lib/libbst.so` and, in `_lib/source.sha256`, the hash of the sources it
    was built from; an edit of the sources, or a library of another machine, makes it useless.
    """
    return _prebuilt("libbst.so", "source.sha256", sources.source_hash())


def ort_library() -> Path:
    """Return libbst_ort.so of this machine: the one in the package, alike, else built.

    Raises:
        MissingToolError: it has to be built, and there is no compiler or it fails.
    """
    digest = sources.source_hash(sources.ort_sources(sources.find_sources(), "*.*"))
    return _prebuilt("libbst_ort.so", "ort.sha256", digest) or build_ort_library("host")


def _prebuilt(name: str, record_name: str, digest: str) -> Path | None:
    folder = Path(__file__).resolve().parents[1] / "_lib"
    library, record = folder / name, folder / record_name
    if not (library.is_file() and record.is_file()):
        return None
    if machine_of(library) not in ("", host_machine()):
        return None
    return library if record.read_text().strip() == digest else None
