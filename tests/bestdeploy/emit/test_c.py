"""C source for firmware: compiled, run with and without a C library, on every machine at hand."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from random_nets import Spec, save

from bestdeploy import deploy, runtime, toolchain
from bestdeploy._bundle import compile_bundle, lowered_bytes
from bestdeploy.emit import c
from bestdeploy.errors import MissingToolError

HERE = Path(__file__).parent
WARNINGS = (
    *("-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Wstrict-prototypes"),
    *("-Wundef", "-Werror"),
)
FREESTANDING = ("-std=c11", "-ffreestanding", "-DBST_FREESTANDING", *WARNINGS)


@pytest.fixture(scope="module")
def model(small_checkpoint, tmp_path_factory) -> bytes:
    """The .bstm of a small network with every part that the method has."""
    path = tmp_path_factory.mktemp("export") / "model.onnx"
    deploy.export(small_checkpoint, path)
    return lowered_bytes(path)


@pytest.fixture(scope="module")
def bundle(model, tmp_path_factory) -> Path:
    """The folder that `bestdeploy compile --target c` makes."""
    folder = tmp_path_factory.mktemp("source")
    (folder / "small.bstm").write_bytes(model)
    report = compile_bundle(folder / "small.bstm", "c", output=folder / "c")
    assert report.golden == ("passed" if report.compiler else "not run: no C compiler")
    return folder / "c"


@pytest.fixture(scope="module")
def expected(model) -> str:
    """What main.c has to print, from the golden vectors in the file."""
    lines = []
    for i, (_, raw) in enumerate(runtime.load(model).golden()):
        numbers = " ".join(map(str, raw.tolist()))
        lines.append(f"golden {i}: exact, class {int(raw.argmax())}, raw {numbers}\n")
    assert len(lines) >= 2
    return "".join(lines) + f"{len(lines)} of {len(lines)} golden vectors exact\n"


def need(*tools: str) -> list[str]:
    """Return the first tool found as a command, else skip."""
    for tool in tools:
        if tool == "zig":
            zig = toolchain.compilers.zig()
            if zig is not None:
                return list(zig.command)
        elif shutil.which(tool):
            return [tool]
    pytest.skip(f"no {' or '.join(tools)}")


def build(command, *arguments, folder: Path) -> None:
    cache = str(toolchain.cache_folder() / "zig")
    environment = {"ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache, **os.environ}
    done = subprocess.run(
        [*command, *map(str, arguments)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def output(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, (done.stdout[-500:], done.stderr[-2000:])
    return done.stdout


# ---- with a C library ---------------------------------------------------------------------------


@pytest.mark.parametrize("compiler", ["gcc", "clang", "zig"])
def test_hosted(bundle, expected, tmp_path, compiler):
    program = tmp_path / "demo"
    flags = ("-std=c11", "-O2", *WARNINGS)
    build(need(compiler), *flags, "main.c", "bst.c", "-o", program, folder=bundle)
    assert output(program) == expected


def test_event_frames_and_the_other_attention(tmp_path):
    """`compile` itself runs main.c and compares; the frame has an image per time step."""
    need("cc", "zig")
    spec = Spec(seed=12, dim=24, heads=3, size=8, classes=5, attention="kv", residual="plain",
                events=True)  # fmt: skip
    deploy.export(save(tmp_path / "ckpt.pt", spec), tmp_path / "model.onnx")
    report = deploy.compile(tmp_path / "model.onnx", "c", output=tmp_path / "c")
    assert report.golden == "passed"
    assert report.n_golden >= 2
    text = (tmp_path / "c" / "model.h").read_text()
    assert f"#define MODEL_FRAME_STEPS {spec.n_steps}" in text
    assert f"#define MODEL_FRAME_BYTES {spec.n_steps * 8 * 8 * 3}\n" in text


@pytest.mark.parametrize("compiler", ["gcc", "clang", "aarch64-linux-gnu-gcc",
                                      "arm-linux-gnueabihf-gcc"])  # fmt: skip
def test_the_fast_kernels_are_in_too(model, bundle, tmp_path, compiler):
    """A program that leaves the choice to the library, from bst.c alone."""
    command = need(compiler)
    row = next((t for t in toolchain.TARGETS if f"{t.gcc_triple}-gcc" == compiler), None)
    emulator = toolchain.find_emulator(row) if row else ()
    if emulator is None:
        pytest.skip(f"no emulator for {compiler}")
    flags = ("-std=c11", "-O1", *WARNINGS, *(row.gcc_flags if row else ()), "-static")
    app = HERE.parent / "consumer" / "app.c"
    build(command, *flags, "-I.", app, "bst.c", "-o", tmp_path / "app", folder=bundle)
    golden = runtime.load(model).golden()
    lines = "".join("".join(f"{v} " for v in raw) + "\n" for _, raw in golden)
    run = [*emulator, tmp_path / "app", bundle / "model.bstm"]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    assert done.stdout == lines
    assert done.stderr == f"{'neon' if emulator else runtime.load(model).isa}\n"


def test_sanitizers_find_nothing(bundle, expected, tmp_path):
    program = tmp_path / "demo"
    flags = ("-std=c11", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    build(need("gcc"), *flags, "main.c", "bst.c", "-o", program, folder=bundle)
    assert output(program) == expected


@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_headers_are_cxx(bundle, tmp_path, compiler):
    (tmp_path / "use.cc").write_text(
        '#include "bst.h"\n#include "model.h"\n'
        "static const char* const names[] = MODEL_CLASS_NAMES;\n"
        "const char* first() { return model_file[0] != 0 ? names[0] : bst_version(); }\n"
    )
    flags = ("-std=c++11", "-fsyntax-only", *(w for w in WARNINGS if "proto" not in w))
    build(need(compiler), *flags, "-I", bundle, tmp_path / "use.cc", folder=bundle)


def test_a_wrong_logit_is_reported(model, bundle, tmp_path):
    from bestdeploy.emit.bstm import read_bstm, write_bstm

    program = read_bstm(model)
    first = program.golden[0]
    raw = first.raw.copy()
    raw[1] += 1
    wrong = write_bstm(replace(program, golden=(replace(first, raw=raw), *program.golden[1:])))
    facts = c.ModelFacts(1 << 20, 1 << 20, (8, 8, 3), len(program.golden), ("x",) * 5)
    (tmp_path / "model.h").write_text(c.model_header(wrong, facts, "wrong"))
    for name in ("bst.c", "bst.h", "main.c"):
        shutil.copy(bundle / name, tmp_path)
    build(need("cc", "zig"), "-O2", "main.c", "bst.c", "-o", "demo", folder=tmp_path)
    done = subprocess.run([tmp_path / "demo"], capture_output=True, text=True, check=False)
    n = len(program.golden)
    assert done.returncode == 1
    assert done.stdout.startswith("golden 0: WRONG")
    assert done.stdout.endswith(f"{n - 1} of {n} golden vectors exact\n")


# ---- without one --------------------------------------------------------------------------------


def freestanding(command, *flags, bundle: Path, program: Path) -> None:
    """Link start-up code, example and runtime into a program that knows Linux calls only."""
    files = (HERE / "firmware_start.c", "main.c", "bst.c")
    libraries = () if command[0] != "arm-linux-gnueabihf-gcc" else ("-lgcc",)  # 64-bit division
    build(command, *FREESTANDING, "-static", *flags, "-I", ".", *files, *libraries,
          "-o", program, folder=bundle)  # fmt: skip


def slow(*values: str):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("compiler", "level"),
    [("gcc", "-O3"), ("clang", "-Os"), slow("gcc", "-O0"), slow("gcc", "-Os"), slow("clang", "-O0"),
     slow("clang", "-O3")],
)  # fmt: skip
def test_freestanding_here(bundle, expected, tmp_path, compiler, level):
    if toolchain.host_machine() not in ("x86_64", "aarch64"):
        pytest.skip(f"no start-up code for {toolchain.host_machine()}")
    program = tmp_path / "demo"
    freestanding(need(compiler), level, "-nostdlib", bundle=bundle, program=program)
    assert output(program) == expected


CROSS = {
    "arm64, gcc": ("aarch64-linux-gnu-gcc", "arm", ("-nostdlib",)),
    "armv7, gcc": ("arm-linux-gnueabihf-gcc", "armv7", ("-nostdlib",)),
    "arm64, zig": ("zig", "arm", ("-target", "aarch64-linux-none", "-nostdlib")),
    "Cortex-M0+ code": ("zig", "armv7", ("-target", "thumb-freestanding-eabi",
                                         "-mcpu=cortex_m0plus")),
    "Cortex-M4 code": ("zig", "armv7", ("-target", "thumb-freestanding-eabi",
                                        "-mcpu=cortex_m4")),
    "Cortex-M7 code, FPU": ("zig", "armv7", ("-target", "thumb-freestanding-eabihf",
                                             "-mcpu=cortex_m7+fp_armv8d16")),
}  # fmt: skip


@pytest.mark.parametrize("case", [*list(CROSS)[:4], *map(slow, list(CROSS)[4:])])
def test_freestanding_elsewhere(bundle, expected, tmp_path, case):
    compiler, target, flags = CROSS[case]
    emulator = toolchain.find_emulator(target)
    if emulator is None:
        pytest.skip(f"no emulator for {target}")
    command, program = need(compiler), tmp_path / "demo"
    if compiler == "zig":
        flags = (*flags, "-fno-sanitize=undefined")
    elif target == "armv7":
        flags = (*toolchain.find_target(target).gcc_flags, *flags)
    freestanding(command, "-O1", *flags, bundle=bundle, program=program)
    assert output(*emulator, program) == expected


BOARDS = {"mps2-an386": "cortex_m4", "mps2-an385": "cortex_m0plus", "mps2-an500": "cortex_m7"}


@pytest.mark.parametrize("board", ["mps2-an386", slow("mps2-an385"), slow("mps2-an500")])
def test_a_board_without_an_operating_system(bundle, expected, tmp_path, board):
    emulator, compiler = need("qemu-system-arm"), need("zig")
    program = tmp_path / "firmware.elf"
    files = (HERE / "cortex_m_start.c", "main.c", "bst.c")
    build(compiler, "-target", "thumb-freestanding-eabi", f"-mcpu={BOARDS[board]}", "-Os",
          "-std=c11", "-ffreestanding", "-DBST_FREESTANDING", "-fno-sanitize=undefined",
          "-T", HERE / "cortex_m.ld", "-Wl,--gc-sections", "-I", ".", *files, "-o", program,
          folder=bundle)  # fmt: skip
    console = ("-nographic", "-monitor", "none", "-serial", "none")
    semihosting = ("-semihosting-config", "enable=on,target=native")
    command = (*emulator, "-M", board, *console, *semihosting, "-kernel", program)
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert (done.returncode, done.stderr) == (0, expected)  # the emulator's console is stderr


def symbols(path: Path, *options: str) -> str:
    return output(*need("nm"), *options, path)


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_bst_c_needs_nothing(bundle, tmp_path, compiler):
    unit = tmp_path / "bst.o"
    flags = (*FREESTANDING, "-O2", "-fno-pic", "-fno-stack-protector")
    build(need(compiler), *flags, "-c", "bst.c", "-o", unit, folder=bundle)
    assert symbols(unit, "-u") == ""
    kinds = {line.split()[1] for line in symbols(unit).splitlines()}
    assert kinds <= set("TtRrW"), "a writable or thread-local variable"
    weak = {line.split()[2] for line in symbols(unit).splitlines() if line.split()[1] == "W"}
    assert weak == {"memcpy", "memmove", "memset", "memcmp"}


def test_the_memory_functions(tmp_path):
    """Each against a plain statement of what it does, with overlaps, in a program of its own."""
    shutil.copy(toolchain.find_sources() / "firmware" / "memory.h", tmp_path)
    if toolchain.host_machine() not in ("x86_64", "aarch64"):
        pytest.skip(f"no start-up code for {toolchain.host_machine()}")
    flags = ("-std=c11", "-O2", "-ffreestanding", "-DBST_FREESTANDING", "-nostdlib", "-static")
    for compiler in ("gcc", "clang"):
        files = (HERE / "firmware_start.c", HERE / "firmware_memory.c")
        build(need(compiler), *flags, "-I", ".", *files, "-o", "demo", folder=tmp_path)
        output(tmp_path / "demo")


# ---- the files ----------------------------------------------------------------------------------


def test_same_sources_same_bytes(bundle, tmp_path):
    copy = tmp_path / "elsewhere"
    shutil.copytree(toolchain.find_sources(), copy)
    text = c.amalgamation(copy)
    assert text == (bundle / "bst.c").read_text()
    assert str(tmp_path) not in text
    assert re.findall(r'#include "(.*)"', text)[0] == "bst.h"
    assert set(re.findall(r'#include "(.*)"', text)) == {"bst.h"}
    for path in (copy / "src").rglob("*.c"):
        is_in = f"// ---- {path.relative_to(copy).as_posix()} " in text
        assert is_in != path.name.startswith("module"), "modules of TVM need a loader"


def runtime_of(folder: Path, files: dict[str, str]) -> Path:
    base = {"include/bst.h": "#ifndef BST_H_\n#define BST_H_\n#endif\n", "firmware/memory.h": "\n"}
    for name, text in {**base, **files}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_how_includes_are_followed(tmp_path):
    """A guarded header stands once; below a condition again; a body wherever it is named."""
    root = runtime_of(tmp_path, {
        "src/kernels/a/one.c": "#ifdef NEVER\n#include \"a.h\"\n#endif\n#include \"body.inc\"\n",
        "src/kernels/a/two.c": '#include "a.h"\n#include "body.inc"\nint f(void) { return A; }\n',
        "src/kernels/a/a.h": "#ifndef BST_A_H_\n#define BST_A_H_\nenum { A = 42 };\n#endif\n",
        "src/kernels/a/body.inc": "/* body */\n",
        "src/z.c": '#include "kernels/a/a.h"\n#include <string.h>\n#include "../include/bst.h"\n'
                   "int main(void) { return A - 42; }\n",
    })  # fmt: skip
    text = c.amalgamation(root)
    assert text.count("enum { A = 42 };") == 2, "once below #ifdef NEVER, once outside"
    assert text.count("/* body */") == 2
    assert "string.h" not in text
    (tmp_path / "bst.c").write_text(text)
    (tmp_path / "bst.h").write_text("")
    build(need("cc", "zig"), "bst.c", "-o", "demo", folder=tmp_path)
    output(tmp_path / "demo")


def test_each_instruction_set_has_its_own_names(tmp_path):
    """A body written in bst_vec stands once per vocabulary; names that others know stay."""
    vocabulary = "#ifndef BST_{0}_H_\n#define BST_{0}_H_\ntypedef int bst_vec[{1}];\n#endif\n"
    root = runtime_of(tmp_path, {
        "src/kernels/wide.h": vocabulary.format("WIDE", 8),
        "src/kernels/narrow.h": vocabulary.format("NARROW", 2),
        "src/kernels/a/body.h": "#ifndef BST_BODY_H_\n#define BST_BODY_H_\n"
                                "static int bst_size(void) { return (int)sizeof(bst_vec); }\n"
                                "#endif\n",
        "src/kernels/a/first.c": '#include "../wide.h"\n#include "a.h"\n#include "body.h"\n'
                                 "int bst_first(void) { return bst_size(); }\n",
        "src/kernels/a/second.c": '#include "../narrow.h"\n#include "a.h"\n#include "body.h"\n'
                                  "int bst_second(void) { return bst_size(); }\n",
        "src/kernels/a/a.h": "#ifndef BST_A_H_\n#define BST_A_H_\n"
                             "int bst_first(void);\nint bst_second(void);\n#endif\n",
        "src/z.c": '#include "kernels/a/a.h"\n'
                   "int main(void) { return bst_first() != 4 * bst_second(); }\n",
    })  # fmt: skip
    text = c.amalgamation(root)
    assert text.count("int bst_size_on_wide(void)") == 1
    assert text.count("int bst_size_on_narrow(void)") == 1
    (tmp_path / "bst.c").write_text(text)
    (tmp_path / "bst.h").write_text("")
    build(need("cc", "zig"), "bst.c", "-o", "demo", folder=tmp_path)
    output(tmp_path / "demo")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MissingToolError) as caught:
        c.amalgamation(tmp_path)
    assert "bst.h" in (caught.value.where or "")
    root = runtime_of(tmp_path, {"src/a.c": '#include "none.h"\n'})
    with pytest.raises(MissingToolError, match=r'a.c includes "none.h"'):
        c.amalgamation(root)


def test_model_header_holds_the_file(bundle, model):
    text = (bundle / "model.h").read_text()
    (size,) = re.findall(r"#define MODEL_FILE_BYTES (\d+)", text)
    words = [int(w, 16) for w in re.findall(r"0x([0-9a-f]+)u,", text)]
    assert np.array(words, "<u8").tobytes()[: int(size)] == model
    assert int(size) == len(model)
    loaded = runtime.load(model, isa="scalar")
    for name, value in (("MODEL_BYTES", loaded.model_bytes),
                        ("MODEL_ARENA_BYTES", loaded.arena_bytes),
                        ("MODEL_FRAME_STEPS", 1),
                        ("MODEL_HEIGHT", 8), ("MODEL_WIDTH", 8), ("MODEL_CHANNELS", 3),
                        ("MODEL_FRAME_BYTES", 192), ("MODEL_CLASSES", 5),
                        ("MODEL_GOLDEN", loaded.n_golden)):  # fmt: skip
        assert f"#define {name} {value}" in text
    assert max(map(len, text.splitlines())) <= 120


def test_event_frames_have_a_size_per_step():
    text = c.model_header(bytes(16), c.ModelFacts(64, 64, (4, 2, 3, 2), 0, ("a",)), "events")
    assert "#define MODEL_FRAME_STEPS 4" in text
    assert "#define MODEL_FRAME_BYTES 48" in text
    assert "#define MODEL_HEIGHT 2" in text


NAMES = ("plain", 'a "quote" \\', "what??/", "tab\tnewline\n", "Grüße 😀", "", "*/ // %d", "7f")


def test_class_names_survive(tmp_path):
    facts = c.ModelFacts(64, 64, (1, 1, 1), 0, NAMES)
    header = c.model_header(bytes(8), facts, "evil \\\n name */")
    (tmp_path / "model.h").write_text(header)
    (tmp_path / "main.c").write_text(
        '#include "model.h"\n#include <stdio.h>\n#include <string.h>\n'
        "static const char* const names[MODEL_CLASSES] = MODEL_CLASS_NAMES;\n"
        "int main(void) {\n"
        "  for (int i = 0; i < MODEL_CLASSES; ++i) {\n"
        "    fwrite(names[i], 1, strlen(names[i]) + 1, stdout);\n"
        "  }\n"
        "  return model_file[0] != 0;\n}\n"
    )
    build(need("cc", "zig"), "-std=c11", "-Wall", "-Wextra", "-Werror", "main.c", "-o", "demo",
          folder=tmp_path)  # fmt: skip
    done = subprocess.run([tmp_path / "demo"], capture_output=True, check=True)
    assert done.stdout == b"".join(n.encode() + b"\0" for n in NAMES)
