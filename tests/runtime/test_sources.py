"""The C sources: clean under every warning we ask for, the header also as C++, the layers kept."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bestdeploy import toolchain

ROOT = Path(__file__).parents[2] / "runtime"
SOURCES = sorted((ROOT / "src").rglob("*.c"))
TOOLS = sorted((ROOT / "tools").glob("*.c"))
CUSTOM_OPS = sorted((ROOT / "ort").glob("*.c"))
WARNINGS = (
    *("-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Wstrict-prototypes"),
    *("-Wundef", "-Werror"),
)


def compile_only(compiler, *arguments):
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler}")
    command = [compiler, "-fsyntax-only", "-I", ROOT / "include", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


COMPILERS = ("gcc", "clang", "aarch64-linux-gnu-gcc", "arm-linux-gnueabihf-gcc")


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("extra", ((), ("-DBST_NO_ERROR_TEXT",), ("-DBST_SCALAR_ONLY",)))
def test_sources_have_no_warnings(compiler, extra):
    compile_only(compiler, "-std=c11", *WARNINGS, *extra, *SOURCES, *TOOLS, *CUSTOM_OPS)


def test_header_is_cxx(tmp_path):
    unit = tmp_path / "use.cc"
    unit.write_text("#include <bst.h>\nint main() { return bst_version() == nullptr; }\n")
    compile_only("g++", "-std=c++11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", unit)


def test_kernels_know_no_files_and_the_library_no_malloc():
    for path in (ROOT / "src").rglob("*.[ch]"):
        text = path.read_text()
        words = set(re.findall(r"\b(malloc|calloc|free|printf|abort|exit|assert)\s*\(", text))
        assert not words, f"{path}: {words}"
        assert "<stdio.h>" not in text
        assert "<stdlib.h>" not in text
        if "kernels" in path.parts:
            assert "internal.h" not in text, path
            assert "bst.h" not in text, path


def test_vector_instructions_stay_in_their_kernels(tmp_path):
    """Nothing that runs before the choice of an instruction set may use it: SIGILL else."""
    if shutil.which("objdump") is None or platform.machine() != "x86_64":
        pytest.skip("no objdump, or not an x86-64 machine")
    archive = toolchain.build_static_library()
    done = subprocess.run(["objdump", "-d", archive], capture_output=True, text=True, check=True)
    unit, found = "", {}
    for line in done.stdout.splitlines():
        if "file format" in line:
            unit = line.split(":")[0]
        elif "%ymm" in line or "%zmm" in line:
            found[unit] = found.get(unit, 0) + 1
    kernels = [path for path in SOURCES if path.stem in ("avx2", "avx512")]
    assert found.keys() == {f"kernels_{path.parent.name}_{path.stem}.o" for path in kernels}
