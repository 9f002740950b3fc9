"""Networks compiled by TVM: every buffer and every raw logit of the numpy references."""

from __future__ import annotations

import ctypes
import importlib.metadata
import itertools
import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from runtime.programs import Builder, network, neuron_params, random_frame

from bestdeploy import deploy, runtime, toolchain
from bestdeploy._bundle import build_object, host_module, open_module
from bestdeploy.emit import tvm as room
from bestdeploy.emit.bstm import read_bstm, write_bstm
from bestdeploy.emit.tvm.layout import Layout
from bestdeploy.emit.tvm.targets import TARGETS, find_isa, find_tvm_target
from bestdeploy.errors import ArtifactError, MissingToolError, NativeError, UnsupportedModelError
from bestdeploy.program import BufferKind, Golden
from runtime import reference

pytest.importorskip("tvm")
tvm_ffi = pytest.importorskip("tvm_ffi")
HOST_ISAS = runtime.isa_names()
ON_HOST = [
    isa.name for row in TARGETS if row.machine == toolchain.host_machine() for isa in row.isas
]
USABLE = [name for name in ON_HOST if name in HOST_ISAS]
GUARD = 256
HOOK = "TVMFFIErrorSetRaisedFromCStrParts"
CALLS = {f"bst_module_{name}" for name in ("sizes", "prepare", "begin", "step", "end")}
LAYOUTS = {f"bst_module_{name}" for name in ("rows", "theta", "affine")}
MACHINES = {"x86-64": "x86_64", "arm": "aarch64", "armv7": "armv7l", "riscv64": "riscv64"}


# ---- building and running -----------------------------------------------------------------------


def link(content, folder, kernels="tir", isa=None):
    """Return net.so of a file for this machine; skips where no compiler is."""
    try:
        row = toolchain.find_target("host")
        net = room.build(content, toolchain.host_machine(), kernels, isa).content
        toolchain.build_module(net, folder / "net.so", row)
    except MissingToolError as error:
        pytest.skip(str(error))
    return folder / "net.so"


def aligned(n_bytes, content=b""):
    found = runtime._aligned(n_bytes)
    found[: len(content)] = np.frombuffer(content, np.uint8)
    return found


class Loaded:
    """A module in Python, by tvm_ffi alone; `weights` and `arena` start as noise."""

    def __init__(self, content, path):
        self.module = tvm_ffi.load_module(str(path))
        self.file = aligned(len(content), content)
        self.sizes = np.zeros(2, np.int64)
        self.call("sizes", self.file, self.sizes)
        rng = np.random.default_rng(1)
        self.whole = [aligned(int(n) + GUARD) for n in self.sizes]
        for noisy in self.whole:
            noisy[:] = rng.integers(0, 256, len(noisy))
        self.guards = [whole[-GUARD:].copy() for whole in self.whole]
        self.weights, self.arena = (whole[:-GUARD] for whole in self.whole)
        self.call("prepare", self.file, self.weights)
        self.prepared = self.weights.copy()

    def call(self, name, *arrays):
        getattr(self.module, name)(*(tvm_ffi.from_dlpack(a) for a in arrays))

    def run(self, frame, n_classes):
        raw = np.zeros(n_classes, np.int64)
        self.call("main", frame, self.weights, self.arena, raw)
        for whole, guard in zip(self.whole, self.guards, strict=True):
            np.testing.assert_array_equal(whole[-GUARD:], guard)
        np.testing.assert_array_equal(self.weights, self.prepared)
        return raw


def buffer_of(program, number, arena):
    """One buffer of an arena in which nothing takes another's place."""
    b = program.buffers[number]
    content = arena[b.offset : b.offset + b.n_bytes]
    if b.kind == BufferKind.SPIKES:
        return reference.unpack(content.view("<u8").reshape(b.t, b.h, b.w, b.n_words), b.c)
    return content.view("<i4").reshape(b.t, b.h, b.w, b.c)


# ---- bits ---------------------------------------------------------------------------------------


def awkward(n_t, seed=0):
    """Convolutions of every kind: words begun and full, tails, strides, windows, borders."""
    b = Builder(7, 9, 3, 5, n_t, seed=seed)
    s = b.stem(7)
    s = b.conv_neuron("odd", s, 63, k=3, pad=1, explicit=(0, 62))
    s = b.conv_neuron("stride", s, 65, k=3, stride=2, pad=1)
    s = b.conv_neuron("full", s, 128)
    s = b.conv_neuron("inner", s, 1, k=2)
    s = b.conv_neuron("one", s, 33, k=3, pad=2, explicit=(5,))
    y, x0, x1 = (b.conv_affine(f"y{i}", s, 66, k=k, pad=k // 2) for i, k in enumerate((1, 3, 5)))
    x2, s2 = b.residual("residual", y, x0, x1, neuron_params())
    whole = b.conv_affine("whole", s2, 64)
    s3 = b.stream_neuron("neuron", whole, neuron_params(tau=1.5, soft=True))
    b.readout(x2, x1, s3)
    return b.program()


CASES = [(4, isa) for isa in USABLE] + [
    (t, USABLE[i % len(USABLE)]) for i, t in enumerate((1, 2, 8))
]


@pytest.mark.parametrize(("n_t", "isa"), CASES, ids=str)
def test_every_buffer_is_that_of_the_reference(n_t, isa, tmp_path):
    program = awkward(n_t, seed=n_t)
    content = write_bstm(program)
    loaded = Loaded(content, link(content, tmp_path, "tir", isa))
    for seed in range(2):
        frame = random_frame(program, seed)
        raw = loaded.run(frame, program.n_classes)
        wanted, values = reference.run(program, frame)
        np.testing.assert_array_equal(raw, wanted.reshape(-1))
        for number, value in values.items():
            if program.buffers[number].kind in (BufferKind.SPIKES, BufferKind.STREAM):
                got = buffer_of(program, number, loaded.arena)
                np.testing.assert_array_equal(got, value, err_msg=f"buffer {number}")


def test_the_reference_sees_something_happen():
    program = awkward(4, seed=4)
    _, values = reference.run(program, random_frame(program))
    assert all(len(np.unique(v)) > 1 for v in values.values())


# ---- targets ------------------------------------------------------------------------------------


def model(folder, **form):
    """Write a network with golden vectors of the numpy reference."""
    path, builder = folder / "model.bstm", network(**form)
    frames = [random_frame(builder.program(), seed) for seed in range(2)]
    golden = [Golden(f, reference.run(builder.program(), f)[0].reshape(-1)) for f in frames]
    write_bstm(builder.program(golden=golden), path)
    return path


def check(folder, target, kernels, isa=None, **form):
    """Compile for a target and run the golden vectors there, by its bst_run."""
    path = model(folder, **form)
    report = deploy.compile(path, target, "tvm", folder / "out", kernels=kernels, isa=isa)
    if report.golden.startswith("not run"):
        pytest.skip(report.golden)
    assert report.golden == "passed"
    assert report.n_golden == 2
    assert report.module.kernels == kernels
    assert report.module.text_bytes > 1000
    assert report.module.seconds > 0


FAST = (
    ("host", "extern", None, {"attention": "qk", "n_t": 4}),
    ("host", "tir", None, {"attention": "kv", "n_t": 2, "events": True}),
    ("host", "tir", None, {"n_t": 16}),
    ("arm", "tir", None, {"attention": "qk", "n_t": 4}),
    ("arm", "extern", None, {"attention": "kv", "n_t": 1}),
    ("armv7", "tir", "neon", {"attention": "kv", "n_t": 4}),
    ("riscv64", "tir", None, {"attention": "qk", "n_t": 2}),
)
EVERY = [
    (target, kernels, isa, {"attention": attention, "n_t": n_t})
    for (target, isa), kernels, attention, n_t in itertools.product(
        (("host", None), ("x86-64", None), ("x86-64", "avx2"), ("arm", None), ("armv7", None),
         ("armv7", "neon"), ("riscv64", None)),
        ("tir", "extern"), ("qk", "kv"), (1, 2, 4),
    )
]  # fmt: skip


@pytest.mark.parametrize(("target", "kernels", "isa", "form"), FAST, ids=str)
def test_golden_vectors_on_the_target(target, kernels, isa, form, tmp_path):
    check(tmp_path, target, kernels, isa, **form)


@pytest.mark.slow
@pytest.mark.parametrize(("target", "kernels", "isa", "form"), EVERY, ids=str)
def test_golden_vectors_on_every_target(target, kernels, isa, form, tmp_path):
    check(tmp_path, target, kernels, isa, **form)


@pytest.mark.slow
@pytest.mark.parametrize("target", ("arm", "riscv64"))
def test_zig_links_a_module(target, tmp_path, monkeypatch):
    pytest.importorskip("ziglang")
    monkeypatch.setenv("BESTDEPLOY_CC", "zig")
    check(tmp_path, target, "tir", attention="qk", n_t=2)


# ---- the object ---------------------------------------------------------------------------------


def symbols(content, table_kind=2):
    """Return the undefined and the defined global names of an ELF file's table of symbols."""
    wide = content[4] == 2
    (table,) = struct.unpack_from("<Q" if wide else "<I", content, 40 if wide else 32)
    size, count = struct.unpack_from("<HH", content, 58 if wide else 46)
    undefined, defined = set(), set()
    for i in range(count):
        head = table + i * size
        if wide:
            kind, at, n, link = (
                *struct.unpack_from("<4xI", content, head),
                *struct.unpack_from("<24xQQI", content, head),
            )
        else:
            kind, at, n, link = (
                *struct.unpack_from("<4xI", content, head),
                *struct.unpack_from("<16xIII", content, head),
            )
        if kind != table_kind:  # SHT_SYMTAB 2, SHT_DYNSYM 11
            continue
        names = head - i * size + link * size
        (strings,) = struct.unpack_from("<24xQ" if wide else "<16xI", content, names)
        for entry in range(at, at + n, 24 if wide else 16):
            name, info, section = struct.unpack_from("<IBxH" if wide else "<I8xBxH", content, entry)
            text = content[strings + name :].split(b"\0", 1)[0].decode()
            if text and info >> 4 == 1:  # STB_GLOBAL
                (defined if section else undefined).add(text)
    return undefined, defined


@pytest.mark.parametrize("kernels", room.KERNELS)
@pytest.mark.parametrize("target", MACHINES)
def test_the_object_needs_our_calls_and_the_error_hook(target, kernels):
    content = write_bstm(awkward(2))
    net = room.build(content, MACHINES[target], kernels).content
    undefined, defined = symbols(net)
    usual = {"memset", "memcpy", "__aeabi_unwind_cpp_pr0"}  # the last: libgcc's, on 32-bit ARM
    assert undefined - usual <= {HOOK, *CALLS, *LAYOUTS}
    assert undefined >= {HOOK, *CALLS}
    assert (undefined & LAYOUTS == LAYOUTS) == (kernels == "tir")
    assert defined == {"__tvm_ffi_main", "__tvm_ffi_prepare", "__tvm_ffi_sizes"}
    assert b"__TVMBackend" not in net
    assert 1000 < toolchain.text_bytes(net) < len(net)


def test_the_library_needs_the_c_library_alone(tmp_path):
    content = write_bstm(awkward(2))
    library = link(content, tmp_path).read_bytes()
    for text in (b"libtvm", b"libstdc++", b"libgcc_s"):
        assert text not in library
    undefined, defined = symbols(library, 11)
    threads = {name for name in undefined if name.startswith("pthread_")}
    assert undefined - threads <= {
        "memcpy", "memmove", "memset", "memcmp", "__tls_get_addr", "sigfillset",
    }  # fmt: skip
    assert {name for name in defined if name.startswith("bst_")} == {"bst_module_error"}
    code = ctypes.CDLL(str(tmp_path / "net.so"))
    for name in (
        "__tvm_ffi_main",
        "__tvm_ffi_prepare",
        "__tvm_ffi_sizes",
        HOOK,
        "bst_module_error",
    ):
        assert hasattr(code, name)
    assert not hasattr(code, "bst_model_init")  # its own stays its own


def test_building_again_gives_the_same_bytes(tmp_path):
    content = write_bstm(awkward(2))
    path = tmp_path / "model.bstm"
    path.write_bytes(content)
    code = (
        "import sys; from pathlib import Path; from bestdeploy.emit import tvm;"
        f"content = Path({str(path)!r}).read_bytes();"
        "sys.stdout.buffer.write(tvm.build(content, 'aarch64', 'tir').content)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, check=True, env={"PYTHONHASHSEED": "77", "PATH": ""},
        cwd=Path(room.__file__).parents[3],
    )  # fmt: skip
    assert done.stdout == room.build(content, "aarch64", "tir").content


def test_constants_lie_where_the_layout_says():
    content = write_bstm(awkward(2))
    layout = Layout(content, find_isa(find_tvm_target("aarch64"), None), True)
    program = read_bstm(content)
    for offset, constant in zip(layout.constants, program.constants, strict=True):
        assert content[offset : offset + constant.n_bytes] == constant.data.tobytes()


def test_equal_convolutions_share_their_code():
    """The three of attention have one function, so net.o grows by calls, not by kernels."""
    content = write_bstm(network().program())
    layout = Layout(content, find_isa(find_tvm_target("aarch64"), None), True)
    own = [step.shape for step in layout.own.values()]
    assert len(own) == 9
    assert len(set(own)) == 6


# ---- errors -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A network, its module, and a network that differs in one weight."""
    folder = tmp_path_factory.mktemp("small")
    content = write_bstm(awkward(2, seed=1))
    other = write_bstm(awkward(2, seed=2))
    (folder / "model.bstm").write_bytes(content)
    (folder / "other.bstm").write_bytes(other)
    return content, other, link(content, folder)


def test_wrong_arguments_are_errors_of_the_module(small):
    content, other, path = small
    loaded = Loaded(content, path)
    frame, raw = random_frame(read_bstm(content)), np.zeros(5, np.int64)
    good = [frame, loaded.weights, loaded.arena, raw]
    loaded.call("main", *good)
    unaligned = aligned(len(loaded.arena) + 64)[8:-56]
    copy = aligned(len(loaded.weights), loaded.weights.tobytes())
    for place, wrong, text in (
        (0, frame[:, :8].copy(), "frame"),
        (0, frame.reshape(-1), "frame"),
        (0, frame.astype(np.int8), "frame"),
        (1, copy, "weights: not written by prepare at this address"),
        (1, loaded.weights[:32], "weights: not written by prepare"),
        (2, loaded.arena[:-64], "arena: smaller"),
        (2, unaligned, "arena: .*aligned"),
        (3, np.zeros(4, np.int64), r"raw.shape\[0\]"),
        (3, np.zeros(5, np.int32), "raw"),
    ):
        given = list(good)
        given[place] = wrong
        with pytest.raises((ValueError, TypeError), match=text):
            loaded.call("main", *given)
    with pytest.raises((ValueError, TypeError), match="main"):
        loaded.call("main", *good[:3])
    with pytest.raises(ValueError, match="weights"):
        loaded.call("prepare", loaded.file, loaded.weights[:-64])
    with pytest.raises(ValueError, match=r"not the \.bstm that this module was compiled from"):
        loaded.call("sizes", aligned(len(other), other), loaded.sizes)
    loaded.call("main", *good)


def test_a_module_belongs_to_one_file(small, tmp_path):
    content, other, path = small
    path = shutil.copy(path, tmp_path)  # tvm_ffi has bound the first one to its own error hook
    assert runtime.load_module(content, path).verify_golden() == 0
    with pytest.raises(NativeError, match=r"not the \.bstm that this module") as caught:
        runtime.load_module(other, path)
    assert caught.value.status == "BAD_MODULE"
    library = toolchain.build_library("host")
    with pytest.raises(NativeError, match="functions sizes, prepare and main"):
        runtime.load_module(content, library)
    (tmp_path / "text.so").write_text("?")
    with pytest.raises(ArtifactError, match="cannot load"):
        runtime.load_module(content, tmp_path / "text.so")


def test_code_for_another_processor_is_refused(tmp_path):
    missing = next((name for name in ON_HOST if name not in HOST_ISAS), None)
    if missing is None:
        pytest.skip("this machine has every instruction set of its kind")
    content = write_bstm(awkward(2))
    with pytest.raises(NativeError, match=f"lacks the instruction set {missing}"):
        runtime.load_module(content, link(content, tmp_path, "tir", missing))


def test_bst_run_takes_a_module(small, tmp_path):
    content, _, path = small
    program = toolchain.build_program("bst_run", "host", static=False)
    frames = np.stack([random_frame(read_bstm(content), seed) for seed in range(3)])

    def run(*words):
        command = [program, path.with_name("model.bstm"), "-", *words]
        return subprocess.run(command, input=frames.tobytes(), capture_output=True, check=False)

    found = [json.loads(line)["raw"] for line in run("--module", path).stdout.splitlines()]
    np.testing.assert_array_equal(found, runtime.load(content).run_raw(frames))
    for words, code, text in (
        (("--module", path, "--threads", "2"), 2, b"runs on one thread"),
        (("--module",), 2, b"needs a value"),
        (("--module", tmp_path / "none.so"), 7, b"cannot load the module"),
        (("--module", toolchain.build_library("host")), 7, b"functions sizes, prepare and main"),
    ):
        done = run(*words)
        assert done.returncode == code, done.stderr
        assert text in done.stderr
    command = [program, path.with_name("other.bstm"), "-", "--module", path]
    done = subprocess.run(command, input=frames.tobytes(), capture_output=True, check=False)
    assert done.returncode == 7
    assert b"not the .bstm that this module was compiled from" in done.stderr
    static = toolchain.build_program("bst_run", "host")
    command = [static, path.with_name("model.bstm"), "-", "--module", path]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 4
    assert b"static" in done.stderr


def test_python_needs_tvm_ffi_alone(small):
    content, _, path = small
    code = f"""
import sys
import numpy as np, tvm_ffi
def aligned(n):
    whole = np.zeros(int(n) + 64, np.uint8)
    start = -whole.ctypes.data % 64
    return whole[start : start + int(n)]
content = open({str(path.with_name("model.bstm"))!r}, "rb").read()
file, sizes = aligned(len(content)), np.zeros(2, np.int64)
file[:] = np.frombuffer(content, np.uint8)
module = tvm_ffi.load_module({str(path)!r})
call = lambda name, *arrays: getattr(module, name)(*map(tvm_ffi.from_dlpack, arrays))
call("sizes", file, sizes)
weights, arena = map(aligned, sizes)
call("prepare", file, weights)
frame, raw = np.zeros((7, 9, 3), np.uint8), np.zeros(5, np.int64)
call("main", frame, weights, arena, raw)
print(*raw)
assert "tvm" not in sys.modules and "bestdeploy" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    wanted = runtime.load(content).run_raw(np.zeros((1, 7, 9, 3), np.uint8))[0]
    assert list(map(int, done.stdout.split())) == wanted.tolist()


def test_a_net_o_may_be_linked_into_a_program(small, tmp_path):
    """Without dlopen: a lookup that knows the three functions."""
    content, _, path = small
    net, _ = build_object(content, toolchain.find_target("host"), "tir")
    (tmp_path / "net.o").write_bytes(net)
    source = tmp_path / "app.c"
    source.write_text(Path(__file__).with_name("tvm_app.c").read_text())
    try:
        compiler = toolchain.compiler_for("host")
    except MissingToolError as error:
        pytest.skip(str(error))
    library = toolchain.build_static_library("host")
    include = toolchain.find_sources() / "include"
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-pthread", f"-I{include}"]
    command = [
        *compiler.command,
        *flags,
        source,
        tmp_path / "net.o",
        library,
        "-o",
        tmp_path / "app",
    ]
    subprocess.run(command, check=True)
    command = [tmp_path / "app", path.with_name("model.bstm")]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    wanted = runtime.load(content).run_raw(np.zeros((1, 7, 9, 3), np.uint8))[0]
    assert list(map(int, done.stdout.split())) == wanted.tolist()
    command = [tmp_path / "app", path.with_name("other.bstm")]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    assert done.returncode == 1
    assert "not the .bstm that this module was compiled from" in done.stderr


def test_without_a_compiler_there_is_the_object(tmp_path, monkeypatch):
    path = model(tmp_path)
    monkeypatch.setattr(toolchain.compilers, "zig", lambda: None)
    monkeypatch.setattr(toolchain.compilers, "cross_compiler", lambda row: None)
    report = deploy.compile(path, "riscv64", "tvm", tmp_path / "out")
    assert report.golden.startswith("not run: ")
    assert set(report.files) == {"README.txt", "include/bst.h", "model.bstm", "net.o"}
    assert "no C compiler" in (tmp_path / "out" / "README.txt").read_text()
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["backend"] == "tvm"
    assert (manifest["kernels"], manifest["isa"]) == ("extern", "scalar")
    with pytest.raises(MissingToolError, match=r"has no net\.so"):
        open_module(tmp_path / "out")


def test_a_built_module_is_kept(monkeypatch):
    content = write_bstm(awkward(1))
    path = host_module(content, "extern")
    monkeypatch.setattr(room, "build", None)
    assert host_module(content, "extern") == path


def test_what_tvm_cannot_do_is_an_error_of_ours(monkeypatch):
    import tvm

    def build(*_arguments, **_options):
        raise RuntimeError("no such target\nUnable to find target")

    monkeypatch.setattr(tvm.tirx, "build", build)
    with pytest.raises(UnsupportedModelError, match="for aarch64-linux-gnu: Unable to find target"):
        room.build(write_bstm(awkward(1)), "aarch64")


def test_unknown_machines_are_refused():
    with pytest.raises(UnsupportedModelError, match="cannot compile for vax, only for x86_64, aar"):
        room.build(b"", "vax")


def test_other_releases_are_refused_with_the_pins(monkeypatch):
    true = importlib.metadata.version
    room.check_versions()
    monkeypatch.setattr(
        importlib.metadata,
        "version",
        lambda name: "0.1.15.post2" if name == "apache-tvm-ffi" else true(name),
    )
    with pytest.raises(MissingToolError, match=r"apache-tvm-ffi==0\.1\.14\.post1, found") as caught:
        room.check_versions()
    assert "apache-tvm==0.27.0.post1 apache-tvm-ffi==0.1.14.post1" in (caught.value.hint or "")


def test_the_canary_lives():
    room.canary()


def test_a_dead_canary_is_reported(monkeypatch):
    build = sys.modules["bestdeploy.emit.tvm.build"]
    monkeypatch.setattr(build, "_CANARY", "import os; os.kill(os.getpid(), 11)")
    room.canary.cache_clear()
    with pytest.raises(MissingToolError, match="does not work") as caught:
        room.canary()
    assert "0.1.14.post1" in (caught.value.hint or "")
    room.canary.cache_clear()


def test_the_pins_are_those_of_the_package():
    root = Path(__file__).resolve().parents[3]
    for file in ("pyproject.toml", "constraints.txt"):
        text = (root / file).read_text()
        assert all(f"{name}=={version}" in text for name, version in room.PINS.items())
