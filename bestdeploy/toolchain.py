"""Targets, C compilers and the build cache: C sources in, libraries and programs out.

    library = toolchain.build_library()                       # libbst.so of this machine
    program = toolchain.build_program("bst_run", "arm")       # static executable for arm64

Everything built is kept under `cache_folder()` in a folder named by the SHA-256 of the sources,
the flags, the target and the compiler's version, so an edit of the C code, another compiler or
another flag builds anew and everything else is found at once. A build happens in a temporary
folder that is renamed into place under a file lock: concurrent processes never see half a result.

Compiler order: for the host `$BESTDEPLOY_CC`, `$CC`, cc, gcc, clang, then `ziglang` from PyPI; for
another target `<triple>-gcc` when it is on PATH, then `ziglang`. `BESTDEPLOY_CC=zig` asks for
ziglang for every target. The rules for zig (each one was met in practice): `-mcpu` only when
compiling and never when linking, because it is part of the key of zig's libc cache; always the same
`-O` when linking; UBSan is switched off explicitly; its caches live in our cache folder.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bestdeploy.errors import MissingToolError, OutputError, UsageError

__all__ = [
    "FLAGS",
    "PROGRAMS",
    "TARGETS",
    "Compiler",
    "Target",
    "build_library",
    "build_ort_library",
    "build_program",
    "build_static_library",
    "cache_folder",
    "compiler_for",
    "find_emulator",
    "find_sources",
    "find_target",
    "prebuilt_library",
    "runs_natively",
    "source_hash",
]

FLAGS = (
    "-std=c11",
    "-O3",
    "-ffp-contract=off",
    "-fvisibility=hidden",
    "-fPIC",
    "-Wall",
    "-Wextra",
    "-g0",
)
"""Flags of every compilation, for every target and compiler."""

PROGRAMS = ("bst_run", "bst_bench")
"""Programs in runtime/tools/ that travel in a bundle."""

_HOST_COMPILERS = ("cc", "gcc", "clang")
_ZIG_WORDS = ("zig", "ziglang")


@dataclass(frozen=True)
class Target:
    """One row of the target table.

    Attributes:
        machine: name the machine gives itself (`uname -m`); "" for the host row.
        gcc_triple: prefix of a Debian cross compiler.
        zig_triple: zig target of libraries (glibc, with the oldest supported version).
        zig_static_triple: zig target of static programs (musl).
        zig_cpu: value of zig's `-mcpu` while compiling, or "".
        gcc_flags: extra flags for gcc while compiling.
        emulators: qemu user emulators, first found is used.
        elf_machine: `e_machine` of the ELF header, 0 for the host row.
        packages: Debian packages that bring the cross compiler.
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
        "32-bit ARM with NEON, Linux",
        machine="armv7l",
        gcc_triple="arm-linux-gnueabihf",
        zig_triple="arm-linux-gnueabihf.2.28",
        zig_static_triple="arm-linux-musleabihf",
        zig_cpu="generic+v7a+neon",
        gcc_flags=("-march=armv7-a", "-mfpu=neon", "-mfloat-abi=hard"),
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
)
"""The target table: a new target is one row."""


@dataclass(frozen=True)
class Compiler:
    """A C compiler that was found: its command line, kind ("gcc" also means clang) and version."""

    command: tuple[str, ...]
    kind: str
    version: str

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
        zig = _zig()
        if zig is not None:
            return zig.archiver
        raise MissingToolError("no `ar` on PATH", hint="apt install binutils")


# ----------------------------------------------------------------------------- targets


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
    if row.name == "host":
        return True
    return platform.system() == "Linux" and _host_machine() == row.machine


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


def _host_machine() -> str:
    machine = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)


def _host_row() -> Target | None:
    """Return the row whose zig triples describe this machine, when it has one."""
    if platform.system() != "Linux":
        return None
    return next((row for row in TARGETS if row.machine == _host_machine()), None)


# ----------------------------------------------------------------------------- sources


def find_sources() -> Path:
    """Return the folder with include/, src/ and tools/ of the C runtime.

    It is the repository's `runtime/` where the package is used from a checkout, else the copy that
    travels in the wheel.
    """
    package = Path(__file__).resolve().parent
    for folder in (package.parent / "runtime", package / "_runtime"):
        if (folder / "include" / "bst.h").is_file():
            return folder
    raise MissingToolError(
        "the C sources of the runtime are missing from this installation",
        where=str(package / "_runtime"),
        hint="pip install --force-reinstall bestdeploy",
    )


def _library_sources(root: Path) -> list[Path]:
    return sorted((root / "src").rglob("*.c"))


def _headers(root: Path) -> list[Path]:
    found = list((root / "include").rglob("*.h"))
    for pattern in ("*.h", "*.inc"):
        found.extend((root / "src").rglob(pattern))
    return sorted(found)


def source_hash(extra: Sequence[Path] = ()) -> str:
    """Return the SHA-256 of the runtime's sources (names and contents), plus `extra` files."""
    root = find_sources()
    digest = hashlib.sha256()
    for path in (*_headers(root), *_library_sources(root)):
        _add_file(digest, path.relative_to(root).as_posix(), path)
    for path in extra:
        _add_file(digest, path.name, path)
    return digest.hexdigest()


def _add_file(digest: hashlib._Hash, name: str, path: Path) -> None:
    data = path.read_bytes()
    digest.update(f"{name}\0{len(data)}\0".encode())
    digest.update(data)


# ----------------------------------------------------------------------------- compilers


def compiler_for(target: str | Target = "host") -> Compiler:
    """Return the C compiler for a target.

    Raises:
        MissingToolError: there is none; the hint is the command that installs one.
    """
    row = find_target(target)
    wanted = os.environ.get("BESTDEPLOY_CC", "")
    if wanted in _ZIG_WORDS:
        zig = _zig()
        if zig is None:
            raise MissingToolError(
                f"BESTDEPLOY_CC={wanted}, but ziglang is not installed",
                hint="pip install 'bestdeploy[cross]'",
            )
        return zig
    found = _host_compiler() if row.name == "host" else _cross_compiler(row)
    if found is None:
        found = _zig()
    if found is not None:
        return found
    if row.name == "host":
        raise MissingToolError(
            "no C compiler found (looked for $CC, cc, gcc, clang and the ziglang package)",
            hint="apt install gcc   or   pip install 'bestdeploy[cross]'",
        )
    raise MissingToolError(
        f"no C compiler for target `{row.name}` "
        f"(looked for {row.gcc_triple}-gcc and the ziglang package)",
        hint=f"pip install 'bestdeploy[cross]'   or   apt install {row.packages}",
    )


def _host_compiler() -> Compiler | None:
    for variable in ("BESTDEPLOY_CC", "CC"):
        value = os.environ.get(variable, "").strip()
        if not value:
            continue
        command = shlex.split(value)
        path = shutil.which(command[0])
        if path is None:
            raise MissingToolError(
                f"{variable}={value} names a compiler that is not on PATH",
                hint=f"unset {variable}, or set it to a C compiler",
            )
        return _gcc(path, *command[1:])
    for name in _HOST_COMPILERS:
        path = shutil.which(name)
        if path:
            return _gcc(path)
    return None


def _cross_compiler(row: Target) -> Compiler | None:
    path = shutil.which(f"{row.gcc_triple}-gcc")
    return _gcc(path) if path else None


@functools.cache
def _gcc(*command: str) -> Compiler | None:
    try:
        done = subprocess.run(
            [*command, "--version"], capture_output=True, text=True, check=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise MissingToolError(
            f"the C compiler `{shlex.join(command)}` does not run: {error}",
            hint="set CC to a working C compiler",
        ) from error
    return Compiler(command, "gcc", (done.stdout or done.stderr).splitlines()[0])


@functools.cache
def _zig() -> Compiler | None:
    if importlib.util.find_spec("ziglang") is None:
        return None
    version = importlib.metadata.version("ziglang")
    return Compiler((sys.executable, "-m", "ziglang", "cc"), "zig", f"zig {version}")


# ----------------------------------------------------------------------------- cache


def cache_folder() -> Path:
    """Return the folder of everything built, made when missing.

    `$BESTDEPLOY_CACHE`, else `$XDG_CACHE_HOME/bestdeploy`, else `~/.cache/bestdeploy`; where that
    cannot be written, a private folder of this user under the system's temporary folder.
    """
    override = os.environ.get("BESTDEPLOY_CACHE")
    if override:
        folder = Path(override)
    else:
        base = os.environ.get("XDG_CACHE_HOME")
        folder = (Path(base) if base else Path("~/.cache").expanduser()) / "bestdeploy"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder.resolve()
    except OSError:
        if override:
            raise OutputError(
                f"the cache folder {folder} cannot be made", hint="set BESTDEPLOY_CACHE"
            ) from None
    user = os.getuid() if hasattr(os, "getuid") else 0
    private = Path(tempfile.gettempdir()) / f"bestdeploy-{user}"
    private.mkdir(mode=0o700, exist_ok=True)
    status = private.lstat()
    if not stat.S_ISDIR(status.st_mode) or (hasattr(os, "getuid") and status.st_uid != user):
        raise OutputError(
            f"{private} belongs to somebody else", hint="set BESTDEPLOY_CACHE to a folder of yours"
        )
    return private.resolve()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file, where the system has such locks."""
    try:
        import fcntl
    except ImportError:  # the rename alone keeps the cache consistent, work may be done twice
        yield
        return
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _cached(key: Sequence[str], name: str, make: Callable[[Path], None]) -> Path:
    """Return folder/name of the cache entry for `key`, made by `make(folder)` when missing."""
    root = cache_folder()
    entry = root / hashlib.sha256("\0".join(key).encode()).hexdigest()[:32]
    if (entry / name).exists():
        return entry / name
    locks = root / "locks"
    locks.mkdir(exist_ok=True)
    with _locked(locks / entry.name):
        if (entry / name).exists():
            return entry / name
        work = Path(tempfile.mkdtemp(prefix=f".{entry.name}.", dir=root))
        try:
            make(work)
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(entry)  # a damaged entry: it exists without the file
            try:
                work.replace(entry)
            except OSError:
                if not (entry / name).exists():  # else another process was first
                    raise
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return entry / name


# ----------------------------------------------------------------------------- builds


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
            *self.link_flags,
        )

    def _zig_target(self) -> tuple[str, ...]:
        row = _host_row() if self.target.name == "host" else self.target
        if row is None:
            return ()
        return ("-target", row.zig_static_triple if self.static else row.zig_triple)

    @property
    def compile_flags(self) -> tuple[str, ...]:
        flags = list(FLAGS)
        row = self.target
        if self.compiler.kind == "zig":
            row = (_host_row() or row) if row.name == "host" else row
            flags += [*self._zig_target(), "-fno-sanitize=undefined"]
            if row.zig_cpu:
                flags.append(f"-mcpu={row.zig_cpu}")
        else:
            flags += row.gcc_flags
        return (*flags, *self.extra_flags)

    @property
    def link_flags(self) -> tuple[str, ...]:
        flags = ["-O3", *self.extra_flags]
        if self.compiler.kind == "zig":
            flags += self._zig_target()
        if self.static:
            flags.append("-static")
        return tuple(flags)

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
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        error = next((line for line in lines if "error" in line), lines[0] if lines else "no text")
        raise MissingToolError(
            f"`{Path(command[0]).name}` failed (exit {done.returncode}): {error.strip()}",
            where=shlex.join(command),
            hint="bestdeploy doctor shows the compilers found; set CC to use another one",
        )


def build_library(target: str | Target = "host", *, extra_flags: Sequence[str] = ()) -> Path:
    """Return libbst.so of a target, built when it is not in the cache.

    Raises:
        MissingToolError: there is no compiler for the target, or it fails.
    """
    build = _Build(find_target(target), compiler_for(target), False, tuple(extra_flags))

    def make(folder: Path) -> None:
        objects = sorted(_objects(build).parent.glob("obj/*.o"))
        output = folder / "libbst.so"
        strip = () if extra_flags else ("-s",)
        build.run(*build.link_flags, *strip, "-shared", *objects, "-o", output)

    return _cached(("so", source_hash(), *build.key), "libbst.so", make)


def build_static_library(target: str | Target = "host", *, extra_flags: Sequence[str] = ()) -> Path:
    """Return libbst.a of a target (position independent), built when it is not in the cache."""
    return _objects(_Build(find_target(target), compiler_for(target), False, tuple(extra_flags)))


def build_ort_library(target: str | Target = "host", *, extra_flags: Sequence[str] = ()) -> Path:
    """Return libbst_ort.so, the custom ops for ONNX Runtime, built when it is not in the cache.

    Raises:
        MissingToolError: there is no compiler for the target, or it fails.
    """
    root = find_sources()
    build = _Build(find_target(target), compiler_for(target), False, tuple(extra_flags))
    source = root / "ort" / "bst_ort.c"

    def make(folder: Path) -> None:
        library = _objects(build)
        unit, output = folder / "bst_ort.o", folder / "libbst_ort.so"
        build.run(*build.compile_flags, "-I", root / "include", "-c", source, "-o", unit)
        strip = () if extra_flags else ("-s",)
        build.run(*build.link_flags, *strip, "-shared", unit, library, "-o", output)
        unit.unlink()

    extra = [source, *sorted(source.parent.glob("*.h"))]
    return _cached(("ort", source_hash(extra), *build.key), "libbst_ort.so", make)


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
    root = find_sources()
    source = Path(name) if str(name).endswith(".c") else root / "tools" / f"{name}.c"
    if not source.is_file():
        raise UsageError(
            f"there is no program `{name}`, expected one of {', '.join(PROGRAMS)}",
            where=str(source),
        )
    build = _Build(find_target(target), compiler_for(target), static, tuple(extra_flags))
    if static and platform.system() == "Darwin" and build.target.name == "host":
        build = _Build(build.target, build.compiler, False, build.extra_flags)

    def make(folder: Path) -> None:
        library = _objects(build)
        _announce_libc(build)
        unit = folder / "main.o"
        build.run(*build.compile_flags, "-I", root / "include", "-c", source, "-o", unit)
        strip = () if extra_flags else ("-s",)
        output = folder / source.stem
        build.run(*build.link_flags, *strip, unit, library, "-lm", "-pthread", "-o", output)
        unit.unlink()

    extra = [source, *sorted(source.parent.glob("*.h"))]
    key = ("program", source_hash(extra), *build.key)
    return _cached(key, source.stem, make)


def _objects(build: _Build) -> Path:
    """Compile the library's sources; return libbst.a, with the objects in obj/ beside it."""
    root = find_sources()
    sources = _library_sources(root)

    def make(folder: Path) -> None:
        (folder / "obj").mkdir()

        def compile_one(source: Path) -> Path:
            name = "_".join(source.relative_to(root / "src").with_suffix(".o").parts)
            output = folder / "obj" / name
            includes = ("-I", root / "include", "-I", root / "src")
            build.run(*build.compile_flags, *includes, "-c", source, "-o", output)
            return output

        with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
            objects = list(pool.map(compile_one, sources))
        archive = [*build.compiler.archiver, "rcsD", str(folder / "libbst.a")]
        _execute([*archive, *map(str, objects)], build.environment())

    return _cached(("objects", source_hash(), *build.key), "libbst.a", make)


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
    """Return the library inside the package when it was built from exactly these sources."""
    folder = Path(__file__).resolve().parent / "_lib"
    library, record = folder / "libbst.so", folder / "source.sha256"
    if not (library.is_file() and record.is_file()):
        return None
    return library if record.read_text().strip() == source_hash() else None
