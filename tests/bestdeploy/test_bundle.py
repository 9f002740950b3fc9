"""Bundles: what is in them, CMake and pkg-config consumers, other architectures."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from tiny_bstm import tiny_bytes, tiny_program

from bestdeploy import _device, _forms, cli, deploy, runtime, toolchain
from bestdeploy.emit.bstm import write_bstm
from bestdeploy.errors import ArtifactError, MissingToolError, VerificationError

CONSUMER = Path(__file__).parent / "consumer"
RUNTIME = Path(__file__).parents[2] / "runtime"
FOREIGN = ("arm", "armv7")


def need(*tools: str) -> None:
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool}")


def need_compiler(target: str) -> None:
    """Skip where only zig, which has to build a libc first, could make the target."""
    try:
        compiler = toolchain.compiler_for(target)
    except MissingToolError as error:
        pytest.skip(str(error))
    if compiler.kind == "zig":
        pytest.skip(f"no gcc for {target}; see test_zig_makes_the_same_bundle")


def execute(*words: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None):
    return subprocess.run(
        [*map(str, words)],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
    )


def good(*words: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    done = execute(*words, cwd=cwd, env=env)
    assert done.returncode == 0, (words, done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "tiny.bstm"
    path.write_bytes(tiny_bytes(2))
    return path


@pytest.fixture(scope="module")
def logits(model) -> str:
    """What the consumer has to print."""
    golden = runtime.load(model).golden()
    return "".join("".join(f"{v} " for v in raw) + "\n" for _, raw in golden)


@pytest.fixture(scope="module")
def bundles(model, tmp_path_factory):
    """bundle(target) -> folder, compiled once."""
    made: dict[str, Path] = {}

    def bundle(target: str) -> Path:
        if target not in made:
            need_compiler(target)
            folder = tmp_path_factory.mktemp(target) / "bundle"
            deploy.compile(model, target, output=folder)
            made[target] = folder
        return made[target]

    return bundle


# ---- contents -----------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["host", *FOREIGN, "c"])
def test_the_manifest_lists_what_the_target_promises(bundles, target):
    folder = bundles(target)
    manifest = json.loads((folder / "manifest.json").read_text())
    names = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    promised = {"model.bstm", "README.txt", *toolchain.bundle_files(target)}
    assert set(manifest["files"]) == promised == names - {"manifest.json"}
    assert manifest["target"] == target
    emulated = toolchain.find_emulator(target) is None
    assert manifest["golden"] == ("not run: no emulator" if emulated else "passed")
    assert not list(folder.parent.glob(".*")), "a work folder was left"


@pytest.mark.parametrize("target", FOREIGN)
def test_programs_and_libraries_are_for_the_target(bundles, target):
    folder, row = bundles(target), toolchain.find_target(target)
    for name in ("bin/bst_run", "bin/bst_bench", "lib/libbst.so"):
        assert toolchain.machine_of(folder / name) == row.machine
    assert toolchain.machine_of(folder / "model.bstm") == ""
    assert toolchain.machine_of(folder / "none") == ""


@pytest.mark.slow
@pytest.mark.parametrize("target", ["host", "x86-64", *FOREIGN, "riscv64"])
def test_zig_makes_the_same_bundle(model, tmp_path, monkeypatch, target):
    pytest.importorskip("ziglang")
    monkeypatch.setenv("BESTDEPLOY_CC", "zig")
    report = deploy.compile(model, target, output=tmp_path / "bundle")
    assert report.compiler.startswith("zig")
    runs = toolchain.find_emulator(target) is not None
    assert report.golden == ("passed" if runs else "not run: no emulator")


def test_source_bundle_by_the_command_line(capsys, model, tmp_path):
    need_compiler("host")
    words = ["compile", str(model), "--target", "firmware", "-o", str(tmp_path / "c"), "--json"]
    assert cli.main(words) == 0
    report = json.loads(capsys.readouterr().out)["result"]
    assert report["target"] == "c"
    assert report["golden"] == "passed"
    program = tmp_path / "demo"
    good("cc", "-std=c11", "main.c", "bst.c", "-o", program, cwd=tmp_path / "c")
    assert good(program).endswith("2 of 2 golden vectors exact\n")
    np.save(tmp_path / "frames.npy", np.zeros((2, 4, 4, 1), np.uint8))
    assert cli.main(["run", str(tmp_path / "c"), str(tmp_path / "frames.npy")]) == 0
    assert cli.main(["inspect", str(tmp_path / "c")]) == 0


def test_source_bundle_without_a_compiler(capsys, model, tmp_path, monkeypatch):
    monkeypatch.setattr(toolchain.compilers, "zig", lambda: None)
    library = runtime.library_path()
    monkeypatch.setattr(runtime, "library_path", lambda: library)
    for name in ("CC", "BESTDEPLOY_CC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli.main(["compile", str(model), "--target", "c", "-o", str(tmp_path / "c")]) == 0
    captured = capsys.readouterr()
    assert "not run: no C compiler" in captured.out
    assert "hint: apt install gcc" in captured.err
    assert cli.main(["compile", str(model), "-o", str(tmp_path / "host")]) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


# ---- CMake --------------------------------------------------------------------------------------


def configure(build: Path, *definitions: str):
    words = ("cmake", "-S", CONSUMER, "-B", build, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release")
    return execute(*words, *definitions)


def consume(build: Path, *definitions: str) -> None:
    """Configure and build the consumer."""
    done = configure(build, *definitions)
    assert done.returncode == 0, (done.stdout, done.stderr)
    good("cmake", "--build", build)


def both_apps(build: Path, model: Path) -> set[str]:
    return {good(build / app, model) for app in ("app_bst", "app_bst_static")}


def test_find_package_in_a_moved_bundle(bundles, model, logits, tmp_path):
    need("cmake", "ninja")
    moved = shutil.copytree(bundles("host"), tmp_path / "another place")
    consume(tmp_path / "build", f"-DCMAKE_PREFIX_PATH={moved}")
    assert both_apps(tmp_path / "build", model) == {logits}
    needed = good("ldd", tmp_path / "build" / "app_bst")
    assert f"libbst.so => {moved}/lib/libbst.so" in needed
    assert "libbst" not in good("ldd", tmp_path / "build" / "app_bst_static")


def elf_sections(file: Path) -> set[str]:
    """Names of the sections of a 64-bit little-endian ELF file."""
    content = file.read_bytes()
    (table,) = struct.unpack_from("<Q", content, 40)
    size, count, names = struct.unpack_from("<HHH", content, 58)
    (strings,) = struct.unpack_from("<Q", content, table + names * size + 24)
    starts = [struct.unpack_from("<I", content, table + i * size)[0] for i in range(count)]
    return {content[strings + s : content.index(b"\0", strings + s)].decode() for s in starts}


@pytest.fixture(scope="module")
def runtime_build(tmp_path_factory) -> Path:
    """The runtime built with CMake."""
    need("cmake", "ninja")
    build = tmp_path_factory.mktemp("runtime") / "build"
    good("cmake", "-S", RUNTIME, "-B", build, "-G", "Ninja", "-DBST_WERROR=ON")
    good("cmake", "--build", build)
    return build


def test_cmake_builds_without_warnings_what_the_package_builds(runtime_build):
    library = runtime_build / "libbst.so"
    assert library.stat().st_size <= 300_000
    assert ".symtab" not in elf_sections(library)


@pytest.mark.parametrize("libdir", ["lib", "lib/any-triple"])
def test_find_package_in_a_moved_installation(runtime_build, model, logits, tmp_path, libdir):
    good("cmake", "-S", RUNTIME, "-B", runtime_build, f"-DCMAKE_INSTALL_LIBDIR={libdir}")
    good("cmake", "--build", runtime_build)
    good("cmake", "--install", runtime_build, "--prefix", tmp_path / "first")
    installed = (tmp_path / "first").rename(tmp_path / "second")
    config = f"-Dbst_DIR={installed / libdir / 'cmake' / 'bst'}"
    consume(tmp_path / "build", config, f"-DBST_WANTED={toolchain.runtime_version()}")
    assert both_apps(tmp_path / "build", model) == {logits}
    assert (installed / libdir / "libbst.so.0").exists()
    equal = json.loads(good(installed / "bin" / "bst_run", model, "--golden"))
    assert equal == {"golden": 2, "equal": 2}
    need("pkg-config")
    by_pkg_config(installed / libdir / "pkgconfig", model, logits, tmp_path)


def test_the_runtime_as_a_part_of_a_project(model, logits, tmp_path):
    need("cmake", "ninja")
    consume(tmp_path / "build", f"-DBST_SOURCE={RUNTIME}")
    assert both_apps(tmp_path / "build", model) == {logits}


@pytest.mark.parametrize(
    "preset", ["tiny", *(pytest.param(name, marks=pytest.mark.slow) for name in FOREIGN)]
)
def test_presets(model, tmp_path, preset):
    need("cmake", "ninja")
    emulator = toolchain.find_emulator(preset if preset in FOREIGN else "host")
    if preset in FOREIGN:
        need_compiler(preset)
    if emulator is None:
        pytest.skip(f"no emulator for {preset}")
    good("cmake", "--preset", preset, "-B", tmp_path, "-G", "Ninja", cwd=RUNTIME)
    good("cmake", "--build", tmp_path)
    run = (*emulator, tmp_path / "bst_run", model)
    assert json.loads(good(*run, "--golden")) == {"golden": 2, "equal": 2}
    assert execute(*run, "-", "--isa", "scalar").returncode == 7, "no frame"
    fast = execute(*run, "--golden", "--isa", "neon" if preset in FOREIGN else "avx2")
    assert fast.returncode == (0 if preset in FOREIGN else 4), fast.stderr


def test_an_absolute_libdir_is_refused(tmp_path):
    need("cmake", "ninja")
    done = execute("cmake", "-S", RUNTIME, "-B", tmp_path / "b", "-G", "Ninja",
                   "-DCMAKE_INSTALL_LIBDIR=/lib")  # fmt: skip
    assert done.returncode != 0
    assert "must be relative folders" in done.stderr


@pytest.mark.parametrize(
    ("wanted", "found"),
    [("{v}", True), ("{v};EXACT", True), ("{minor}", True), ("99.0", False), ("0.0.1", False),
     ("{v}.1", False)],
)  # fmt: skip
def test_versions_of_a_bundle(bundles, tmp_path, wanted, found):
    need("cmake", "ninja")
    version = toolchain.runtime_version()
    minor = ".".join(version.split(".")[:2])
    wanted = wanted.format(v=version, minor=minor)
    prefix = f"-DCMAKE_PREFIX_PATH={bundles('host')}"
    done = configure(tmp_path, prefix, f"-DBST_WANTED={wanted}")
    assert (done.returncode == 0) == found, done.stderr
    assert found or f"version: {version}" in done.stderr


def test_a_bundle_of_another_architecture_is_not_found(bundles, tmp_path):
    need("cmake", "ninja")
    target = "arm" if toolchain.host_machine() != "aarch64" else "armv7"
    done = configure(tmp_path, f"-DCMAKE_PREFIX_PATH={bundles(target)}")
    assert done.returncode != 0
    machine = toolchain.find_target(target).machine
    assert f"bundle for {machine}, not {toolchain.host_machine()}" in done.stderr


def test_an_incomplete_bundle_is_not_found(bundles, tmp_path):
    need("cmake", "ninja")
    folder = shutil.copytree(bundles("host"), tmp_path / "bundle")
    (folder / "lib" / "libbst.a").unlink()
    done = configure(tmp_path / "build", f"-DCMAKE_PREFIX_PATH={folder}")
    assert done.returncode != 0
    assert "lacks lib/libbst.a" in " ".join(done.stderr.split())


@pytest.mark.parametrize("target", FOREIGN)
def test_a_cross_project(bundles, model, logits, tmp_path, target):
    need("cmake", "ninja")
    folder, row = bundles(target), toolchain.find_target(target)
    emulator = toolchain.find_emulator(target)
    if not emulator:
        pytest.skip(f"no emulator for {target}")
    consume(
        tmp_path,
        "-DCMAKE_SYSTEM_NAME=Linux",
        f"-DCMAKE_SYSTEM_PROCESSOR={row.machine}",
        f"-DCMAKE_C_COMPILER={row.gcc_triple}-gcc",
        f"-DCMAKE_C_FLAGS={' '.join(row.gcc_flags)}",
        f"-Dbst_DIR={folder}/lib/cmake/bst",
    )
    system = ("-L", f"/usr/{row.gcc_triple}")  # the C library of the cross compiler
    for app in ("app_bst", "app_bst_static"):
        assert good(*emulator, *system, tmp_path / app, model) == logits


# ---- pkg-config ---------------------------------------------------------------------------------


def by_pkg_config(folder: Path, model: Path, logits: str, work: Path) -> None:
    """Build the consumer with what pkg-config says, against the shared and the static library."""
    env = {"PKG_CONFIG_PATH": str(folder)}

    def ask(*words: str) -> list[str]:
        return good("pkg-config", *words, "bst", env=env).split()

    assert ask("--modversion") == [toolchain.runtime_version()]
    app = CONSUMER / "app.c"
    good("cc", app, *ask("--cflags", "--libs"), "-o", work / "shared")
    (libdir,) = ask("--variable=libdir")
    good("cc", app, *ask("--cflags"), f"{libdir}/libbst.a", "-pthread", "-o", work / "static")
    assert good(work / "shared", model, env={"LD_LIBRARY_PATH": libdir}) == logits
    assert good(work / "static", model) == logits


def test_pkg_config_in_a_moved_bundle(bundles, model, logits, tmp_path):
    need("pkg-config", "cc")
    moved = shutil.copytree(bundles("host"), tmp_path / "moved")
    by_pkg_config(moved / "lib" / "pkgconfig", model, logits, tmp_path)


# ---- other architectures ------------------------------------------------------------------------


@pytest.fixture
def foreign(bundles) -> Path:
    """A bundle that this machine cannot execute itself."""
    return bundles("arm" if toolchain.host_machine() != "aarch64" else "armv7")


@pytest.fixture
def frames(tmp_path) -> Path:
    rng = np.random.default_rng(8)
    path = tmp_path / "frames.npy"
    np.save(path, rng.integers(0, 256, (3, 4, 4, 1), np.uint8))
    return path


def test_a_native_bundle_needs_no_device(bundles):
    assert _device.open_device(bundles("host")) is None
    assert _device.open_device(bundles("c")) is None
    assert _device.open_device("none") is None


def test_a_foreign_bundle_runs_by_its_model(foreign, frames, capsys):
    assert cli.main(["run", str(foreign), str(frames)]) == 0
    assert capsys.readouterr().out.count("\n") == 3


def test_a_foreign_library_names_both_architectures(foreign, capsys):
    machine = toolchain.machine_of(foreign / "lib" / "libbst.so")
    with pytest.raises(ArtifactError, match=machine) as caught:
        runtime.load(foreign, library=foreign / "lib" / "libbst.so")
    assert f"this machine is {toolchain.host_machine()}" in str(caught.value)
    assert caught.value.exit_code == 7
    assert caught.value.hint


def test_a_broken_library_is_an_error(model, tmp_path):
    (tmp_path / "libbst.so").write_bytes(b"nothing")
    with pytest.raises(ArtifactError, match="cannot load"):
        runtime.load(model, library=tmp_path / "libbst.so")


def test_verify_runs_the_foreign_program(foreign, model, frames, capsys):
    if not toolchain.find_emulator("arm"):
        pytest.skip("no emulator")
    words = ["verify", str(foreign), "--against", str(model), "--data", str(frames), "--json"]
    assert cli.main(words) == 0
    report = json.loads(capsys.readouterr().out)["result"]
    assert report["exact"] is True
    assert report["n_raw_different"] == 0
    assert f"bst_run for {toolchain.machine_of(foreign / 'bin/bst_run')}" in report["forms"][0]
    assert report["layers"]


def test_verify_sees_what_the_foreign_program_gets_wrong(foreign, frames, tmp_path, capsys):
    """Its program decides: a bundle whose model.bstm is another model differs in raw logits."""
    if not toolchain.find_emulator("arm"):
        pytest.skip("no emulator")
    changed = shutil.copytree(foreign, tmp_path / "changed")
    write_bstm(tiny_program(seed=4), changed / "model.bstm")
    device = _device.open_device(changed)
    assert device is not None
    data = np.load(frames)
    np.testing.assert_array_equal(
        device.run_raw(data), runtime.load(changed / "model.bstm").run_raw(data)
    )
    assert (device.run_raw(data) != runtime.load(foreign).run_raw(data)).any()
    (changed / "model.bstm").write_bytes(tiny_bytes(2, wrong=True))
    with pytest.raises(VerificationError, match="golden vectors differ"):
        device.verify_golden()
    (changed / "model.bstm").write_bytes(b"BSTM")
    with pytest.raises(ArtifactError, match=r"bst_run for .* fails: exit 7"):
        device.run_raw(data)


def test_bench_of_a_foreign_bundle_says_whose_times_these_are(foreign, tmp_path):
    if not toolchain.find_emulator("arm"):
        pytest.skip("no emulator")
    said: list[str] = []
    report = deploy.bench(foreign, against=(), seconds=0.1, progress=said.append)
    assert report.n_golden == 2
    machine = toolchain.machine_of(foreign / "bin" / "bst_run")
    assert any(f"is for {machine}: the times are of this machine's" in text for text in said)
    broken = shutil.copytree(foreign, tmp_path / "broken")
    program = (broken / "bin" / "bst_run").read_bytes()
    (broken / "bin" / "bst_run").write_bytes(program[:64])
    with pytest.raises(ArtifactError, match="bst_run for"):
        deploy.bench(broken, against=(), seconds=0.1)


def test_without_an_emulator_verify_and_bench_say_so(foreign, model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(toolchain, "find_emulator", lambda _row: None)
    machine = toolchain.machine_of(foreign / "bin" / "bst_run")
    for words in (
        ("verify", foreign, "--against", model),
        ("verify", model, "--against", foreign),
        ("bench", foreign, "--float", tmp_path / "none.onnx"),
    ):
        assert cli.main([*map(str, words)]) == 7
        error = capsys.readouterr().err
        assert f"is a bundle for {machine}, this machine is {toolchain.host_machine()}" in error
        assert "hint: apt install qemu-user-static" in error
        assert "model.bstm" in error
        assert "Traceback" not in error
    with pytest.raises(ArtifactError):
        _forms.open_form(foreign, None, None, {})


def test_an_unknown_architecture_is_named(foreign, tmp_path):
    copy = shutil.copytree(foreign, tmp_path / "mips")
    program = copy / "bin" / "bst_run"
    content = bytearray(program.read_bytes())
    content[18:20] = bytes((8, 0))
    program.write_bytes(content)
    with pytest.raises(ArtifactError, match="bundle for ELF machine 8") as caught:
        _device.open_device(copy)
    assert "on such a machine" in (caught.value.hint or "")
