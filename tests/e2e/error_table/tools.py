"""Compilers, caches, packages and devices; wrong results."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from error_table.definition import Case, Make
from error_table.makers import both, changed_onnx, file

DOCTOR = "bestdeploy doctor shows the compilers found; set CC to use another one"


def program(name: str, script: str) -> Make:
    """Write an executable shell script into tools/."""

    def write(folder: Path) -> None:
        (folder / "tools").mkdir(exist_ok=True)
        path = folder / "tools" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    return write


def wrong_golden(folder: Path) -> None:
    """Write changed.onnx, whose golden vectors state another logit."""

    def change(model: Any) -> None:
        golden = json.loads(model.metadata_props["golden"])
        golden["raw"][1][2] += 1
        model.metadata_props["golden"] = json.dumps(golden)

    changed_onnx(change)(folder)


NO_TOOLS = {"PATH": "tools", "CC": "", "BESTDEPLOY_CACHE": "cache"}
WORKS_NOT = (
    "case $1 in --version) echo cc 1;; -dumpmachine) echo x86_64-linux-gnu;; *) exit 4;; esac"
)


def float_input(folder: Path) -> None:
    """Write float.onnx, a network whose input is float32."""
    import onnx
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["B", 8, 8, 1]) for n in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [x], [y])
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), folder / "float.onnx")


def bundle_for(machine: int) -> Make:
    """Write own/, the bundle with programs of another architecture (a number of ELF)."""

    def write(folder: Path) -> None:
        shutil.copytree(folder / "bundle", folder / "own")
        program = folder / "own" / "bin" / "bst_run"
        content = bytearray(program.read_bytes())
        content[18:20] = machine.to_bytes(2, "little")
        program.write_bytes(content)

    return write


def damaged_bundle(folder: Path) -> None:
    shutil.copytree(folder / "bundle", folder / "own")
    (folder / "own" / "README.txt").write_text("other")


FAKE_FIRST = {"PATH": "tools:/usr/local/bin:/usr/bin:/bin"}
ARM, S390 = 183, 22
EMULATOR = "qemu-aarch64"

TOOL_CASES: tuple[Case, ...] = (
    Case(
        "compile model.onnx -o out",
        3,
        "CC=/nowhere/cc names a compiler that is not on PATH",
        "unset CC, or set it to a C compiler",
        env={"CC": "/nowhere/cc", "BESTDEPLOY_CACHE": "cache"},
    ),
    Case(
        "compile model.onnx -o out",
        3,
        "the C compiler `./tools/cc` does not run: Command '['./tools/cc', "
        "'--version']' returned non-zero exit status 3.",
        "set CC to a working C compiler",
        env={"CC": "./tools/cc", "BESTDEPLOY_CACHE": "cache"},
        make=program("cc", "exit 3"),
    ),
    Case(
        "compile model.onnx -o out",
        3,
        "`cc` failed (exit 4): no text",
        DOCTOR,
        where="*",
        env={"CC": "./tools/cc", "BESTDEPLOY_CACHE": "cache"},
        make=program("cc", WORKS_NOT),
    ),
    Case(
        "compile model.onnx -o out",
        3,
        "no C compiler found (looked for $CC, cc, gcc, clang and the ziglang package)",
        "apt install gcc   or   pip install 'bestdeploy[cross]'",
        env=NO_TOOLS,
        hidden=("ziglang",),
    ),
    Case(
        "compile model.onnx -o out --target riscv64",
        3,
        "no C compiler for target `riscv64` (looked for riscv64-linux-gnu-gcc and the "
        "ziglang package)",
        "pip install 'bestdeploy[cross]'   or   apt install gcc-riscv64-linux-gnu "
        "libc6-dev-riscv64-cross",
        env=NO_TOOLS,
        hidden=("ziglang",),
    ),
    *(
        Case(
            words,
            3,
            f"backend `tvm` needs {package}, which is not installed",
            "pip install apache-tvm==0.27.0.post1 apache-tvm-ffi==0.1.14.post1",
            hidden=(module,),
            needs="tvm" if module == "tvm_ffi" else "",
        )
        for words, package, module in (
            ("compile model.onnx -o out --backend tvm", "apache-tvm==0.27.0.post1", "tvm"),
            ("run bundle frames.npz --engine tvm", "apache-tvm-ffi==0.1.14.post1", "tvm_ffi"),
        )
    ),
    Case(
        "bench model.onnx --against tvm-tir",
        3,
        "tvm is not installed",
        "pip install 'bestdeploy[tvm]'",
        hidden=("tvm",),
    ),
    Case(
        "run own frames.npz --engine tvm",
        3,
        "`own` has no net.so: no C compiler was found when it was made",
        "bestdeploy doctor says how to get one; then compile again",
        make=both(bundle_for(ARM), file("own/net.o", "")),
    ),
    Case(
        "run bundle frames.npz --engine tvm",
        3,
        "no C compiler found (looked for $CC, cc, gcc, clang and the ziglang package)",
        "apt install gcc   or   pip install 'bestdeploy[cross]'",
        env={"CC": "", **NO_TOOLS},
        hidden=("ziglang",),
        needs="tvm",
    ),
    Case(
        "compile model.onnx -o out",
        3,
        "BESTDEPLOY_CC=zig, but ziglang is not installed",
        "pip install 'bestdeploy[cross]'",
        env={"BESTDEPLOY_CC": "zig", "BESTDEPLOY_CACHE": "cache"},
        hidden=("ziglang",),
    ),
    Case(
        "compile model.onnx -o out",
        8,
        "the cache folder frames.npz/cache cannot be made",
        "set BESTDEPLOY_CACHE",
        env={"BESTDEPLOY_CACHE": "frames.npz/cache"},
    ),
    Case(
        "run model.onnx frames.npz --engine ort",
        3,
        "onnxruntime is not installed",
        "pip install 'bestdeploy[export]'",
        hidden=("onnxruntime",),
    ),
    Case(
        "run model.onnx frames.npz --engine ort",
        3,
        "no C compiler found (looked for $CC, cc, gcc, clang and the ziglang package)",
        "apt install gcc   or   pip install 'bestdeploy[cross]'",
        env=NO_TOOLS,
        hidden=("ziglang",),
    ),
    Case(
        "run model.onnx frames.npz --engine ort",
        4,
        "BESTDEPLOY_ISA=sse9: `sse9` cannot be used on this machine, usable: *",
        "unset BESTDEPLOY_ISA, or name one that this machine has",
        env={"BESTDEPLOY_ISA": "sse9"},
    ),
    Case(
        "bench bundle --against ort",
        7,
        "no model.onnx beside `bundle`, engine ort runs that",
        "bestdeploy bench model.onnx --against ort",
    ),
    Case(
        "bench model.onnx --against openvino",
        3,
        "openvino is not installed",
        "pip install 'bestdeploy[bench]'",
        hidden=("openvino",),
    ),
    Case(
        "bench model.onnx --against torch",
        3,
        "torch is not installed",
        "pip install 'bestdeploy[export]'",
        hidden=("torch",),
    ),
    Case(
        "bench model.onnx --against onnxruntime-int8",
        3,
        "onnxruntime is not installed",
        "pip install 'bestdeploy[export]'",
        hidden=("onnxruntime",),
    ),
    Case(
        "bench model.onnx --plot bench.svg",
        3,
        "matplotlib is not installed",
        "pip install 'bestdeploy[bench]'",
        hidden=("matplotlib", "matplotlib.figure"),
    ),
    Case(
        "bench model.onnx --float float.onnx --against openvino",
        7,
        "`float.onnx` takes f32, expected uint8 frames",
        "give the model.float.onnx of export",
        make=float_input,
        needs="openvino",
    ),
    Case(
        "bench model.onnx --float text.onnx --against openvino",
        7,
        "OpenVINO refuses `text.onnx`: *",
        "give the model.float.onnx of export",
        make=file("text.onnx", "?"),
        needs="openvino",
    ),
    Case(
        "bench changed.onnx",
        5,
        "golden vector 1: raw logit 2 is *, expected *",
        "this build of the runtime computes wrong results on this machine",
        where="*",
        make=wrong_golden,
    ),
    Case(
        "compile changed.onnx -o out",
        5,
        "the golden vectors fail on target host (exit 5): 1 of 4 golden vectors differ",
        "nothing was written; report this with the output of `bestdeploy doctor --json`",
        where="*bst_run * --golden",
        make=wrong_golden,
    ),
    Case(
        "verify changed.onnx --golden",
        5,
        "changed.onnx (onnxruntime) fails 1 of 4 golden vectors",
        "verify each against reference:model.onnx: the numpy references are right",
        where="raw logit 2, frame 1, values [*, *]",
        make=wrong_golden,
    ),
    Case(
        "compile model.onnx -o out",
        3,
        "no `ar` on PATH",
        "apt install binutils",
        env={**NO_TOOLS, "CC": "tools/cc"},
        make=program("cc", 'PATH=/usr/bin:/bin exec cc "$@"'),
        hidden=("ziglang",),
    ),
    # bundles for other machines
    Case(
        "verify own --against model.onnx",
        7,
        "`own` is a bundle for ELF machine 22, this machine is * and has no emulator "
        "for it: its programs cannot run here",
        "verify it on such a machine, or give own/model.bstm to use this machine's runtime",
        where="own/bin/bst_run",
        make=bundle_for(S390),
    ),
    Case(
        "verify own --against model.onnx",
        7,
        "bst_run for aarch64 under qemu-aarch64 fails: exit 3: no text",
        "give own/model.bstm to use this machine's runtime",
        where="tools/qemu-aarch64 own/bin/bst_run own/model.bstm",
        env=FAKE_FIRST,
        machine="x86_64",
        make=both(bundle_for(ARM), program(EMULATOR, "exit 3")),
    ),
    Case(
        "verify own --against model.onnx",
        7,
        "bst_run for aarch64 under qemu-aarch64 answers for 0 of 16 frames",
        "compile the bundle again: bestdeploy compile",
        where="tools/qemu-aarch64 own/bin/bst_run own/model.bstm",
        env=FAKE_FIRST,
        machine="x86_64",
        make=both(bundle_for(ARM), program(EMULATOR, "echo '{}'")),
    ),
    Case(
        "bench own --float model.float.onnx",
        5,
        "bst_run for aarch64 under qemu-aarch64: wrong",
        "report it with the output of `bestdeploy doctor --json`",
        where="tools/qemu-aarch64 own/bin/bst_run own/model.bstm",
        env=FAKE_FIRST,
        machine="x86_64",
        make=both(bundle_for(ARM), program(EMULATOR, "echo 'error: wrong' >&2; exit 5")),
        site="_device.py:Device._run",
    ),
    Case(
        "compile model.onnx -o own",
        8,
        "`own/mine.txt` is not of the bundle and would be deleted",
        "choose another folder with -o, or add --force to replace it",
        make=both(bundle_for(ARM), file("own/mine.txt", "mine")),
    ),
    Case(
        "inspect own",
        7,
        "files differ from the manifest: README.txt",
        "copy the bundle again, or make it again: bestdeploy compile",
        make=damaged_bundle,
    ),
    Case(
        "doctor",
        3,
        "required and missing: C compiler",
        "the column `fix` says how to get it",
        env=NO_TOOLS,
        hidden=("ziglang",),
    ),
)
