"""Targets, compilers and the cache, on small C sources of our own: fast, and no runtime needed."""

from __future__ import annotations

import ctypes
import re
import shutil
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bestdeploy import toolchain
from bestdeploy.errors import MissingToolError, UsageError
from bestdeploy.toolchain import builds

HEADER = "int bst_twice(int);\n"
LIBRARY = """#include "bst.h"
__attribute__((visibility("default"))) int bst_twice(int a) { return 2 * a; }
int bst_hidden(int a) { return a; }
"""
PROGRAM = """#include <stdio.h>
#include "bst.h"
int main(void) { return printf("%d\\n", bst_twice(21)) < 0; }
"""


@pytest.fixture
def sources(tmp_path, monkeypatch) -> Path:
    """A runtime of three files, and an empty cache."""
    root = tmp_path / "runtime"
    for name, text in {
        "include/bst.h": HEADER,
        "src/kernels/twice/scalar.c": LIBRARY,
        "tools/bst_run.c": PROGRAM,
    }.items():
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text(text)
    monkeypatch.setattr(toolchain.sources, "find_sources", lambda: root)
    monkeypatch.setenv("BESTDEPLOY_CACHE", str(tmp_path / "cache"))
    return root


def require_compiler(target: str) -> toolchain.Compiler:
    try:
        compiler = toolchain.compiler_for(target)
    except MissingToolError as error:
        pytest.skip(str(error))
    if compiler.kind == "zig":
        pytest.skip("zig compiles a libc first, see test_zig_builds_every_target")
    return compiler


def elf_machine(path: Path) -> int:
    data = path.read_bytes()
    assert data[:4] == b"\x7fELF"
    return struct.unpack_from("<H", data, 18)[0]


def run_program(path: Path, target: str) -> str:
    emulator = toolchain.find_emulator(target)
    if emulator is None:
        pytest.skip(f"no emulator for {target}")
    return subprocess.run([*emulator, path], capture_output=True, text=True, check=True).stdout


def test_names_and_aliases_are_unique():
    names = [n for row in toolchain.TARGETS for n in (row.name, *row.aliases)]
    assert len(names) == len(set(names))
    assert {"host", "x86-64", "arm", "armv7"} <= set(names)
    assert toolchain.find_target("arm64") is toolchain.find_target("arm")


def test_unknown_target_lists_the_known_ones():
    with pytest.raises(UsageError, match="unknown target `vax`, expected one of host"):
        toolchain.find_target("vax")


def test_host_library_is_built_and_cached(sources):
    require_compiler("host")
    path = toolchain.build_library()
    library = ctypes.CDLL(str(path))
    assert library.bst_twice(4) == 8
    assert not hasattr(library, "bst_hidden")
    before = path.stat().st_mtime_ns
    assert toolchain.build_library() == path
    assert path.stat().st_mtime_ns == before


def test_an_edit_a_flag_or_a_header_builds_anew(sources):
    require_compiler("host")
    paths = [toolchain.build_library()]
    paths.append(toolchain.build_library(extra_flags=["-DX=1"]))
    (sources / "include" / "bst.h").write_text(HEADER + "\n")
    paths.append(toolchain.build_library())
    (sources / "src/kernels/twice/scalar.c").write_text(LIBRARY.replace("2 * a", "a * 2 + 1"))
    paths.append(toolchain.build_library())
    assert len(set(paths)) == 4
    assert ctypes.CDLL(str(paths[-1])).bst_twice(4) == 9


def test_a_damaged_cache_entry_is_built_again(sources):
    require_compiler("host")
    path = toolchain.build_library()
    path.unlink()
    assert toolchain.build_library() == path
    assert path.is_file()


@pytest.mark.parametrize("target", ["host", "x86-64", "arm", "armv7", "riscv64"])
def test_program_and_libraries_of_a_target(sources, target):
    require_compiler(target)
    program = toolchain.build_program("bst_run", target)
    library = toolchain.build_library(target)
    archive = toolchain.build_static_library(target)
    assert archive.read_bytes()[:8] == b"!<arch>\n"
    row = toolchain.find_target(target)
    if row.elf_machine:
        assert elf_machine(program) == elf_machine(library) == row.elf_machine
    assert run_program(program, target) == "42\n"


@pytest.mark.slow
@pytest.mark.parametrize("target", ["host", "arm", "armv7", "riscv64"])
def test_zig_builds_every_target(sources, target, monkeypatch, capsys):
    pytest.importorskip("ziglang")
    monkeypatch.setenv("BESTDEPLOY_CC", "zig")
    assert toolchain.compiler_for(target).kind == "zig"
    assert run_program(toolchain.build_program("bst_run", target), target) == "42\n"
    assert "building musl" in capsys.readouterr().err
    if target == "host":
        assert ctypes.CDLL(str(toolchain.build_library(target))).bst_twice(4) == 8


def test_concurrent_builds_agree(sources):
    require_compiler("host")
    with ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(lambda _: toolchain.build_library(), range(4)))
    assert len(paths) == 1
    left_over = [p.name for p in toolchain.cache_folder().iterdir() if p.name.startswith(".")]
    assert not left_over


def test_concurrent_processes_agree(sources):
    require_compiler("host")
    code = (
        "import sys; from pathlib import Path; from bestdeploy import toolchain as t;"
        f"t.sources.find_sources = lambda: Path({str(sources)!r}); print(t.build_library())"
    )
    jobs = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    outputs = {job.communicate()[0] for job in jobs}
    assert [job.returncode for job in jobs] == [0, 0, 0]
    assert len(outputs) == 1


def test_a_compile_error_names_the_command(sources):
    require_compiler("host")
    (sources / "src/kernels/twice/scalar.c").write_text("int f(void) { return x; }\n")
    with pytest.raises(MissingToolError, match=r"failed.*error") as caught:
        toolchain.build_library()
    assert "scalar.c" in (caught.value.where or "")


def test_no_compiler_says_how_to_get_one(monkeypatch):
    for name in ("BESTDEPLOY_CC", "CC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(toolchain.compilers, "zig", lambda: None)
    for target, package in (("host", "gcc"), ("arm", "gcc-aarch64-linux-gnu")):
        with pytest.raises(MissingToolError, match="no C compiler") as caught:
            toolchain.compiler_for(target)
        assert package in (caught.value.hint or "")
        assert "bestdeploy[cross]" in (caught.value.hint or "")


def test_every_compiler_is_listed_once(monkeypatch, tmp_path):
    """A second name of the same file is the same compiler; the first is the one that is used."""
    for name, version in (
        ("gcc", "gcc (Distribution 9) 12.2.0"),
        ("clang", "clang version 14.0.6"),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\necho '{version}'\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "cc").symlink_to("gcc")
    for name in ("BESTDEPLOY_CC", "CC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(toolchain.compilers, "zig", lambda: None)
    for target in ("host", "c"):
        found = toolchain.compilers_for(target)
        assert [c.name for c in found] == ["cc 12.2.0", "clang 14.0.6"]
        assert found[0] == toolchain.compiler_for(target)
    native = toolchain.targets.host_row()
    if native is not None:
        assert toolchain.compiler_for(native).name == "cc 12.2.0"
    foreign = next(r for r in toolchain.TARGETS if r.machine and not toolchain.runs_natively(r))
    assert toolchain.compilers_for(foreign) == []
    (tmp_path / f"{foreign.gcc_triple}-gcc").symlink_to("gcc")
    assert [c.name for c in toolchain.compilers_for(foreign)] == [
        f"{foreign.gcc_triple}-gcc 12.2.0"
    ]


def test_machine_of_a_file(tmp_path):
    path = tmp_path / "file"
    for content, machine in (
        (b"", ""),
        (b"\x7fELF", ""),
        (b"MZ" + bytes(30), ""),
        (b"\x7fELF\x02\x01" + bytes(12) + bytes((183, 0)), "aarch64"),
        (b"\x7fELF\x01\x01" + bytes(12) + bytes((40, 0)), "armv7l"),
        (b"\x7fELF\x01\x02" + bytes(12) + bytes((0, 8)), "ELF machine 8"),
    ):
        path.write_bytes(content)
        assert toolchain.machine_of(path) == machine
    assert toolchain.machine_of(tmp_path) == ""
    assert toolchain.machine_of(tmp_path / "none") == ""


def test_what_a_bundle_holds():
    library = toolchain.bundle_files("host")
    assert {"bin/bst_run", "lib/libbst.so", "lib/libbst.a", "include/bst.h"} <= set(library)
    assert {"lib/cmake/bst/bstConfig.cmake", "lib/pkgconfig/bst.pc"} <= set(library)
    assert set(toolchain.bundle_files("firmware")) == {"bst.c", "bst.h", "model.h", "main.c"}
    for target in toolchain.TARGETS:
        assert toolchain.bundle_files(target) == (
            toolchain.bundle_files("c") if target.is_source else library
        )


def test_a_template_without_a_value_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr(toolchain.sources, "find_sources", lambda: tmp_path)
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "bst.h").write_text('#define BST_VERSION "1.2.3"\n')
    (piece,) = (p for p in toolchain.pieces() if p.name.endswith("bst.pc"))
    with pytest.raises(MissingToolError, match=r"bst\.pc\.in"):
        piece.make(toolchain.find_target("host"))
    (tmp_path / "cmake").mkdir()
    (tmp_path / "cmake" / "bst.pc.in").write_text("@BST_VERSION@ @NEW@")
    with pytest.raises(KeyError, match="NEW"):
        piece.make(toolchain.find_target("host"))
    (tmp_path / "cmake" / "bst.pc.in").write_text("v@BST_VERSION@")
    assert piece.make(toolchain.find_target("host")) == "v1.2.3"


def test_the_library_is_found_by_its_name(sources):
    """Programs that link it look for `libbst.so`, not for the path it was built at."""
    require_compiler("host")
    if shutil.which("readelf") is None:
        pytest.skip("no readelf")
    command = ["readelf", "-d", toolchain.build_library()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Library soname: [libbst.so]" in done.stdout


def test_cc_is_honoured(monkeypatch, tmp_path):
    fake = tmp_path / "mycc"
    fake.write_text("#!/bin/sh\necho 'my compiler 1.2'\n")
    fake.chmod(0o755)
    monkeypatch.delenv("BESTDEPLOY_CC", raising=False)
    monkeypatch.setenv("CC", f"{fake} -pipe")
    compiler = toolchain.compiler_for("host")
    assert compiler.command == (str(fake), "-pipe")
    assert compiler.version == "my compiler 1.2"
    monkeypatch.setenv("BESTDEPLOY_CC", "no-such-compiler")
    with pytest.raises(MissingToolError, match="BESTDEPLOY_CC=no-such-compiler"):
        toolchain.compiler_for("host")


def test_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("BESTDEPLOY_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert toolchain.cache_folder() == (tmp_path / "bestdeploy").resolve()


def test_the_compile_flags_keep_the_promises():
    assert {"-ffp-contract=off", "-std=c11", "-fvisibility=hidden"} <= set(toolchain.FLAGS)


def test_the_library_is_small():
    if not toolchain.compiler_for("host").is_gcc or toolchain.host_machine() != "x86_64":
        pytest.skip("the number is GCC's for x86-64")
    assert toolchain.build_library().stat().st_size <= 300_000


@pytest.mark.slow
def test_a_static_program_for_arm64_is_small(monkeypatch):
    pytest.importorskip("ziglang")
    monkeypatch.setenv("BESTDEPLOY_CC", "zig")
    assert toolchain.build_program("bst_run", "arm").stat().st_size <= 200_000


def test_cold_sources_of_cmake_and_of_the_package_are_the_same():
    build = builds._Build(toolchain.find_target("x86-64"), _compiler(), False, ())
    root = toolchain.find_sources()
    cmake = (root / "CMakeLists.txt").read_text()
    by_set = (*builds._COLD_ON_AVX2, *builds._COLD_ON_AVX512, *builds._COLD_ON_NEON)
    for name in (*builds._COLD_STEMS, *builds._COLD_KERNELS, *by_set):
        assert re.search(rf"[(|]{name}[|)\"]", cmake), name
    for flag in builds._GCC_FLAGS:
        assert flag in cmake
    cold = {file.parent.name + "/" + file.stem for file in builds.sources.library_sources(root)
            if builds.COLD_FLAGS[0] in build.flags_of(file)}  # fmt: skip
    assert {"src/model", "spike_conv/words", "spike_conv/plan", "readout/avx2"} <= cold
    assert not {"spike_conv/avx2", "spike_conv/avx512", "stream_neuron/avx512"} & cold


def _compiler() -> builds.Compiler:
    return builds.Compiler(("gcc",), "gcc", "gcc 12.2.0")
