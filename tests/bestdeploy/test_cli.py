"""The command line: results on stdout, errors as three lines, exit codes, JSON."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_bstm import CIN, H, K, W, tiny_bytes

from bestdeploy import _output, _run, _verify, cli, deploy, errors, images, runtime, toolchain

TOOLS = toolchain.find_sources() / "tools" / "bst_run.c"
needs_tools = pytest.mark.skipif(not TOOLS.is_file(), reason="runtime/tools/ is not there")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.bstm"
    path.write_bytes(tiny_bytes())
    return path


@pytest.fixture(scope="module")
def frames(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("frames") / "frames.npz"
    stack = images.builtin_images((H, W, CIN), 6)
    np.savez(path, images=stack, labels=np.arange(6) % K)
    return path


def call(capsys, *words) -> tuple[int, str, str]:
    code = cli.main([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def result(out: str, command: str):
    document = json.loads(out)
    assert document["schema_version"] == 1 and document["command"] == command
    assert {"bestdeploy", "python", "cpu", "machine"} <= set(document["environment"])
    return document["result"]


# ------------------------------------------------------------------- help, version, usage


def test_help_lists_every_command(capsys):
    code, out, _ = call(capsys, "--help")
    assert code == 0
    for name in ("export", "compile", "run", "verify", "bench", "inspect", "targets", "doctor"):
        assert f"  {name} " in out
        assert call(capsys, name, "--help")[0] == 0
    assert call(capsys)[1] == out


def test_version(capsys):
    assert call(capsys, "--version")[:2] == (0, "bestdeploy 0.1.0\n")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["comple"], "compile"),
        (["run"], "Missing argument"),
        (["run", "m", "x", "--engin", "c"], "--engine"),
        (["run", "m.bstm", "x", "--engine", "gpu"], "unknown engine `gpu`, expected one of c, ort"),
        (["compile", "m.onnx", "--target", "vax"], "unknown target `vax`"),
        (["compile", "m.onnx", "--backend", "vax"], "unknown backend `vax`"),
        (["export", "c.pt", "--set", "tau"], "--set tau is not of the form KEY=VALUE"),
        (["verify", "a", "--against", "b", "--budget", "x=y"], "--budget x=y"),
        (["bench", "m", "--against", "vax"], "unknown --against `vax`"),
    ],
)
def test_usage_errors(capsys, words, says):
    code, out, err = call(capsys, *words)
    assert code == 2 and out == ""
    assert err.startswith("error: ") and says in err and "\nhint: " in err


def test_heavy_modules_are_not_imported_by_help():
    code = (
        "import sys; from bestdeploy import cli; cli.main(['--help']);"
        "print([m for m in ('numpy', 'torch', 'onnx', 'onnx_ir', 'onnxruntime', 'tvm', 'PIL')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


# ------------------------------------------------------------------- run


def test_run_prints_one_line_per_frame(capsys, model, frames):
    code, out, err = call(capsys, "run", model, frames, "--top", "2")
    lines = out.splitlines()
    assert code == 0 and len(lines) == 7
    assert lines[0].startswith(f"{frames}[0]: ")
    assert lines[6].startswith("top-1: ")
    assert "6 frames, engine c" in err


def test_run_json_holds_the_exact_integers(capsys, model, frames):
    code, out, _ = call(capsys, "run", model, frames, "--json", "--limit", "4")
    found = result(out, "run")
    assert code == 0 and found["n_labels"] == 4 and 0 <= found["top1"] <= 1
    expected = runtime.load(model).run_raw(np.load(frames)["images"][:4])
    np.testing.assert_array_equal([f["raw"] for f in found["frames"]], expected)
    for frame, raw in zip(found["frames"], expected, strict=True):
        assert frame["top"][0] == int(np.argmax(raw))


def test_run_with_a_profile(capsys, model, frames):
    n_steps = len(runtime.load(model).steps())
    words = ("run", model, frames, "--profile", "--threads", "2")
    plain = call(capsys, "run", model, frames)[1]
    code, out, _ = call(capsys, *words)
    assert code == 0 and out.startswith(plain)
    lines = out.removeprefix(plain).splitlines()
    assert lines[1].split("  ")[0] == "step" and lines[1].endswith("of roofline")
    assert len(lines) == n_steps + 4
    assert lines[-2].startswith("all steps")
    assert lines[-1].startswith("per frame, averages of 6; roofline ") and "2 threads" in lines[-1]
    found = result(call(capsys, *words, "--json")[1], "run")
    profile = found["profile"]
    assert len(found["frames"]) == profile["n_frames"] == 6
    assert [row["name"] for row in profile["rows"]] == [s.name for s in runtime.load(model).steps()]
    assert sum(row["share"] for row in profile["rows"]) == pytest.approx(1)
    for row in (*profile["rows"], profile["total"]):
        ratio = row["sops_per_second"] / profile["roofline"]
        assert row["of_roofline"] == pytest.approx(ratio)
    assert profile["total"]["sops"] == sum(row["sops"] for row in profile["rows"]) > 0
    assert "profile" not in result(call(capsys, "run", model, frames, "--json")[1], "run")


def test_the_last_line_of_a_stream_is_its_profile(capsys, monkeypatch, model):
    data = io.BytesIO(bytes(3 * H * W * CIN))
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=data))
    code, out, _ = call(capsys, "run", model, "-", "--json", "--profile")
    *lines, last = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [line["frame"] for line in lines] == [0, 1, 2]
    assert last["profile"]["n_frames"] == 3


def test_run_prepares_images_as_the_metadata_says(capsys, model, tmp_path):
    Image.new("RGB", (9, 12), (255, 255, 255)).save(tmp_path / "photo.png")
    code, out, _ = call(capsys, "run", model, tmp_path / "photo.png", "--json")
    white = runtime.load(model).run_raw(np.full((1, H, W, CIN), 255, np.uint8))
    assert code == 0
    np.testing.assert_array_equal(result(out, "run")["frames"][0]["raw"], white[0])


def test_run_names_classes(capsys, model, frames):
    assert any(f"{k} {'abc'[k]} (" in call(capsys, "run", model, frames)[1] for k in range(K))


@pytest.mark.parametrize(
    ("source", "code", "says"),
    [("none.png", 7, "does not exist"), ("x.txt", 7, "no known type")],
)
def test_bad_sources(capsys, model, tmp_path, source, code, says):
    (tmp_path / "x.txt").write_text("?")
    got, out, err = call(capsys, "run", model, tmp_path / source)
    assert got == code and says in err and "hint:" in err and out == ""


def test_bad_models(capsys, tmp_path, frames):
    (tmp_path / "bad.bstm").write_bytes(tiny_bytes()[:-1])
    (tmp_path / "text.bstm").write_text("?")
    for name, says in (("bad.bstm", "BAD_FILE"), ("text.bstm", "is not a .bstm"), ("x", "read")):
        code, _, err = call(capsys, "run", tmp_path / name, frames)
        assert code == 7 and says in err, err
    code, _, err = call(capsys, "run", tmp_path / "m.bstm", frames, "--engine", "ort")
    assert code == 2 and "runs .onnx files" in err


def test_raw_frames_are_json_lines_as_they_come(model):
    stack = images.builtin_images((H, W, CIN), 3)
    expected = runtime.load(model).run_raw(stack)
    with start("run", model, "-", "--json", stdin=subprocess.PIPE) as process:
        for index, frame in enumerate(stack):
            process.stdin.write(frame.tobytes())
            process.stdin.flush()
            line = json.loads(process.stdout.readline())  # before the next frame is sent
            assert list(line) == ["frame", "top", "logits", "raw", "us"]
            assert line["frame"] == index and line["raw"] == expected[index].tolist()
            assert line["top"] == int(expected[index].argmax())
        process.stdin.close()
        assert process.stdout.read() == b"" and process.wait(60) == 0


@needs_tools
def test_raw_frames_give_the_lines_of_bst_run(model):
    content = images.builtin_images((H, W, CIN), 4).tobytes()
    program = toolchain.build_program("bst_run", "host")
    commands = ([program, model, "-"], [sys.executable, "-m", "bestdeploy.cli", "run", model, "-"])
    found = []
    for command in commands:
        done = subprocess.run([*map(str, command), "--json"], input=content, capture_output=True,
                              check=True)  # fmt: skip
        found.append([json.loads(line) for line in done.stdout.splitlines()])
        for line in found[-1]:
            assert line.pop("us") > 0
    assert len(found[0]) == 4 and found[0] == found[1]


@pytest.mark.parametrize("extra", [(), ("--json",)])
def test_a_partial_last_frame_is_an_error_after_the_results_of_the_whole_ones(model, extra):
    content = images.builtin_images((H, W, CIN), 3).tobytes()[:-5]
    done = subprocess.run(
        [sys.executable, "-m", "bestdeploy.cli", "run", str(model), "-", *extra],
        input=content, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 7 and len(done.stdout.splitlines()) == 2
    first, second, third = done.stderr.decode().splitlines()
    assert first == "error: frame 2 ends after 11 bytes, expected 16 (4x4x1)"
    assert second == "where: standard input" and third.startswith("hint: ")


def test_limit_does_not_wait_for_a_frame_that_is_not_needed(model):
    with start("run", model, "-", "--limit", "1", "--json", stdin=subprocess.PIPE) as process:
        process.stdin.write(bytes(H * W * CIN))
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["frame"] == 0
        assert process.wait(60) == 0  # standard input is still open


def test_kernels_are_chosen_by_isa(capsys, model, frames):
    code, out, err = call(capsys, "run", model, frames, "--isa", "scalar", "--json")
    assert code == 0 and result(out, "run")["isa"] == "scalar" and "engine c (scalar)" in err
    code, out, err = call(capsys, "run", model, frames, "--isa", "vax")
    assert code == 4 and out == "" and "`vax`" in err
    code, out, err = call(capsys, "run", model, frames, "--isa", "scalar", "--engine", "ort")
    assert code == 2 and "engine `ort` has no instruction set" in err


# ------------------------------------------------------------------- errors of all kinds


@pytest.mark.parametrize(
    ("error", "code", "lines"),
    [
        (errors.MissingToolError("no cc", hint="apt install gcc"), 3, "hint: apt install gcc"),
        (errors.GraphError("op X", where="layer 3"), 4, "where: layer 3"),
        (errors.VerificationError("differ"), 5, "error: differ"),
        (errors.BudgetError("too many"), 6, "error: too many"),
        (errors.CheckpointError("unreadable"), 7, "error: unreadable"),
        (errors.OutputError("disk full"), 8, "error: disk full"),
        (KeyboardInterrupt(), 130, "error: interrupted"),
        (KeyError("x"), 1, "error: this is a bug in bestdeploy 0.1.0: KeyError: 'x'"),
        (ModuleNotFoundError("no", name="torch"), 3, "hint: pip install 'bestdeploy[export]'"),
    ],
)
def test_every_kind_of_failure(capsys, monkeypatch, error, code, lines):
    def fail(*_args, **_kwargs):
        raise error

    monkeypatch.setattr(deploy, "export", fail)
    got, out, err = call(capsys, "export", "x.pt")
    assert got == code and out == "" and lines in err
    assert "Traceback" not in err
    if code != 130:
        assert "Traceback" in call(capsys, "export", "x.pt", "--debug")[2]


def test_no_color(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\033" not in call(capsys, "run", "none.bstm", "x.png")[2]
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert "\033[31merror:" in call(capsys, "run", "none.bstm", "x.png")[2]


def start(*words, **options) -> subprocess.Popen:
    def default_signals() -> None:  # a test run in the background may ignore them
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)

    environment = {**os.environ, "PYTHONUNBUFFERED": "1", **options.pop("env", {})}
    return subprocess.Popen(
        [sys.executable, "-m", "bestdeploy.cli", *map(str, words)],
        stdout=options.pop("stdout", subprocess.PIPE),
        stderr=subprocess.PIPE,
        env=environment,
        preexec_fn=default_signals,
        **options,
    )


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("extra", [(), ("--json",)])
def test_a_reader_that_leaves_ends_it_quietly(model, tmp_path, extra, unbuffered):
    np.save(tmp_path / "many.npy", np.zeros((4000, H, W, CIN), np.uint8))
    env = {"PYTHONUNBUFFERED": unbuffered}
    with start("run", model, tmp_path / "many.npy", *extra, env=env) as process:
        assert process.stdout.readline()
        process.stdout.close()
        err = process.stderr.read().decode()
        assert process.wait(60) == 0, err
    assert "error" not in err and "Traceback" not in err and "Broken" not in err


def test_help_into_a_closed_pipe():
    reader, writer = os.pipe()
    os.close(reader)
    with start("--help", stdout=writer) as process:
        os.close(writer)
        assert process.stderr.read() == b"" and process.wait(60) == 0


@pytest.mark.parametrize("n_frames", [1, 4000])
def test_a_full_disk_is_exit_8(model, tmp_path, n_frames):
    np.save(tmp_path / "frames.npy", np.zeros((n_frames, H, W, CIN), np.uint8))
    env = {"PYTHONUNBUFFERED": ""}
    with (
        Path("/dev/full").open("wb") as full,
        start("run", model, tmp_path / "frames.npy", stdout=full, env=env) as process,
    ):
        err = process.stderr.read().decode()
        assert process.wait(60) == 8
    assert "error: cannot write the output" in err and "Exception ignored" not in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_a_run_with_130(model, number):
    with start("run", model, "-", stdin=subprocess.PIPE) as process:
        process.stdin.write(bytes(H * W * CIN))
        process.stdin.flush()
        assert process.stdout.readline().startswith(b"-")
        process.send_signal(number)
        err = process.stderr.read().decode()
        assert process.wait(60) == 130
    assert err == "error: interrupted\n"


@needs_tools
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_during_compile_leave_nothing(model, tmp_path, number):
    env = {"BESTDEPLOY_CACHE": str(tmp_path / "cache")}
    out = tmp_path / "out"
    with start("compile", model, "-o", out / "bundle", env=env) as process:
        end = time.monotonic() + 60
        while not list(out.glob(".bundle.*")) and time.monotonic() < end:
            time.sleep(0.005)
        process.send_signal(number)
        err = process.stderr.read().decode()
        assert process.wait(60) == 130, err
    assert err.endswith("error: interrupted\n")
    assert list(out.iterdir()) == []
    assert not list((tmp_path / "cache").rglob(".*"))


@pytest.mark.parametrize("command", ["run", "bench"])
@pytest.mark.parametrize("threads", ["0", "-1", "257", "100000000"])
def test_absurd_numbers_of_threads(capsys, model, frames, command, threads):
    words = (command, model, *([frames] if command == "run" else []), "--threads", threads)
    code, out, err = call(capsys, *words)
    assert code == 2 and out == "" and "hint:" in err and "threads" in err


def test_control_characters_are_shown_not_sent(capsys, monkeypatch, model, frames):
    class_names = ["\033]0;owned\007", "b\r\nforged: 1", "\u202eabc"]
    opened = _run.open_engine(model)
    monkeypatch.setattr(
        _run, "open_engine", lambda *_args: dataclasses.replace(opened, class_names=class_names)
    )
    code, out, _ = call(capsys, "run", model, frames, "--top", "3")
    assert code == 0 and len(out.splitlines()) == 7
    assert "\\x1b]0;owned\\x07" in out and "b\\r\\nforged" in out and "\\u202eabc" in out
    assert all(c.isprintable() or c == "\n" for c in out)
    _, _, err = call(capsys, "inspect", "\033[2Jx\udcff.bstm")
    assert "\\x1b[2Jx\\udcff.bstm" in err and "\033" not in err


def test_a_report_is_printed_before_its_budget_fails(capsys, monkeypatch):
    def fail(*_args, **_options):
        raise errors.BudgetError("too many", report=parity())

    monkeypatch.setattr(deploy, "verify", fail)
    code, out, err = call(capsys, "verify", "a", "--against", "b")
    assert code == 6 and "exact                     yes" in out and err == "error: too many\n"


# ------------------------------------------------------------------- compile


def check_bundle(folder: Path) -> dict:
    manifest = json.loads((folder / "manifest.json").read_text())
    names = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert names == {
        "manifest.json",
        "README.txt",
        "model.bstm",
        "bin/bst_run",
        "bin/bst_bench",
        "lib/libbst.so",
        "lib/libbst.a",
        "lib/libbst_ort.so",
        "include/bst.h",
        "lib/cmake/bst/bstConfig.cmake",
        "lib/cmake/bst/bstConfigVersion.cmake",
        "lib/pkgconfig/bst.pc",
    }
    assert set(manifest["files"]) == names - {"manifest.json"}
    assert os.access(folder / "bin" / "bst_run", os.X_OK)
    return manifest


@needs_tools
def test_compile_host(capsys, model, tmp_path, frames):
    code, out, err = call(capsys, "compile", model, "-o", tmp_path / "host")
    assert code == 0 and "golden vectors (2): passed" in out, err
    assert check_bundle(tmp_path / "host")["target"] == "host"
    first = (tmp_path / "host" / "manifest.json").read_bytes()
    code, out, _ = call(capsys, "compile", model, "-o", tmp_path / "host", "--json")
    assert code == 0 and result(out, "compile")["golden"] == "passed"
    assert (tmp_path / "host" / "manifest.json").read_bytes() == first
    assert [p.name for p in tmp_path.iterdir()] == ["host"]

    code, out, _ = call(capsys, "inspect", tmp_path / "host", "--json")
    found = result(out, "inspect")
    assert code == 0 and found["kind"] == "bundle" and found["damaged_files"] == []
    assert call(capsys, "run", tmp_path / "host", frames)[0] == 0
    with (tmp_path / "host" / "README.txt").open("a") as stream:
        stream.write("x")
    code, _, err = call(capsys, "inspect", tmp_path / "host")
    assert code == 7 and "README.txt" in err


@needs_tools
def test_compile_arm_runs_under_the_emulator(capsys, model, tmp_path):
    if shutil.which("aarch64-linux-gnu-gcc") is None:
        pytest.skip("no arm64 cross compiler")
    code, out, err = call(capsys, "compile", model, "--target", "arm64", "-o", tmp_path / "arm")
    assert code == 0, err
    manifest = check_bundle(tmp_path / "arm")
    assert manifest["target"] == "arm"
    assert (tmp_path / "arm/bin/bst_run").read_bytes()[18:20] == bytes((183, 0))
    if toolchain.find_emulator("arm"):
        assert "passed under qemu-aarch64" in out
    else:
        assert "not run: no emulator" in out


@needs_tools
def test_compile_without_an_emulator_says_so(capsys, model, tmp_path, monkeypatch):
    monkeypatch.setattr(toolchain, "find_emulator", lambda _target: None)
    code, out, err = call(capsys, "compile", model, "-o", tmp_path / "b")
    assert code == 0 and "not run: no emulator" in out and "warning:" in err


@needs_tools
def test_compile_refuses_wrong_golden_vectors(capsys, tmp_path):
    (tmp_path / "wrong.bstm").write_bytes(tiny_bytes(wrong=True))
    code, _, err = call(capsys, "compile", tmp_path / "wrong.bstm", "-o", tmp_path / "b")
    assert code == 5 and "golden vectors fail on target host" in err
    assert [p.name for p in tmp_path.iterdir()] == ["wrong.bstm"]


@needs_tools
def test_compile_never_overwrites_what_is_not_ours(capsys, model, tmp_path):
    precious = tmp_path / "home" / "thesis.tex"
    precious.parent.mkdir()
    precious.write_text("x")
    code, _, err = call(capsys, "compile", model, "-o", tmp_path / "home")
    assert code == 8 and "not a bundle" in err and "--force" in err
    code, _, err = call(capsys, "compile", model, "-o", precious)
    assert code == 8 and "is a file" in err
    assert precious.read_text() == "x"
    code, _, _ = call(capsys, "compile", model, "-o", tmp_path / "home", "--force")
    assert code == 0 and not precious.exists()


@needs_tools
def test_compile_keeps_foreign_files_in_a_bundle(capsys, model, tmp_path):
    bundle = tmp_path / "bundle"
    assert call(capsys, "compile", model, "-o", bundle)[0] == 0
    (bundle / "bin" / "notes.txt").write_text("x")
    code, _, err = call(capsys, "compile", model, "-o", bundle)
    assert code == 8 and "bin/notes.txt" in err and "--force" in err
    assert (bundle / "bin" / "notes.txt").read_text() == "x"
    assert call(capsys, "compile", model, "-o", bundle, "--force")[0] == 0
    check_bundle(bundle)


@needs_tools
def test_compile_through_a_link(capsys, model, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    for _ in range(2):
        assert call(capsys, "compile", model, "-o", tmp_path / "link")[0] == 0
    assert (tmp_path / "link").is_symlink()
    check_bundle(tmp_path / "disk")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["disk", "link"]


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("/proc/none/bundle", "cannot write"),
        ("/dev/null/bundle", "cannot write"),
        ("/dev/null", "is a file"),
        ("file", "is a file"),
        ("file/bundle", "cannot write"),
        ("loop", "cannot write"),
        (".", "current folder"),
        ("..", "current folder"),
        ("/proc", "mount"),
    ],
)
def test_compile_to_an_impossible_place_builds_nothing(
    capsys, monkeypatch, model, tmp_path, place, says
):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Path("file").write_text("x")
    Path("loop").symlink_to("loop")
    monkeypatch.setattr(toolchain.builds, "build_program", lambda *_args, **_options: 1 / 0)
    code, _, err = call(capsys, "compile", model, "-o", place, "--force")
    assert code == 8 and says in err and "hint:" in err
    assert sorted(p.name for p in Path().iterdir()) == ["file", "loop"]


# ------------------------------------------------------------------- inspect, bench, doctor


def test_inspect_shows_steps_and_both_buffers(capsys, model, frames):
    code, out, _ = call(capsys, "inspect", model, "--data", frames)
    assert code == 0
    loaded = runtime.load(model)
    for step in loaded.steps():
        assert step.name in out
    sizes = dict(line.split("  ", 1) for line in out.splitlines() if line.startswith("buffer"))
    assert sizes["buffer 1"].split()[0] == str(loaded.model_bytes)
    assert sizes["buffer 2"].split()[0] == str(loaded.arena_bytes)
    code, out, _ = call(capsys, "inspect", model, "--data", frames, "--json")
    layers = {x["name"]: x for x in result(out, "inspect")["layers"]}
    assert 0 <= layers["stem"]["activity"]["firing_rate_out"] <= 1
    assert layers["embed"]["activity"]["firing_rate_out"] is None
    assert layers["embed"]["n_weights"] == 100


def test_inspect_refuses_other_files(capsys, tmp_path):
    assert call(capsys, "inspect", tmp_path)[0] == 7
    code, _, err = call(capsys, "inspect", "x.pt")
    assert code == 7 and "cannot read `x.pt`" in err


def test_bench_without_a_competitor(capsys, model):
    code, out, _ = call(capsys, "bench", model, "--against", "", "--seconds", "0.1", "--json")
    found = result(out, "bench")
    assert code == 0 and found["n_golden"] == 2
    (row,) = found["rows"]
    assert row["name"] == "c" and row["ratio"] == 1
    assert row["min_us"] <= row["median_us"] <= row["p90_us"] <= row["p99_us"]
    assert len(row["samples_us"]) == found["n_rounds"] >= 20


def float_model(path: Path) -> None:
    """A float network with our input: mean over pixels, then K classes."""
    onnx = pytest.importorskip("onnx")
    helper, proto = onnx.helper, onnx.TensorProto
    weight = helper.make_tensor("w", proto.FLOAT, [CIN, K], [1.0] * CIN * K)
    nodes = [
        helper.make_node("Cast", ["image"], ["x"], to=proto.FLOAT),
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[1, 2], keepdims=0),
        helper.make_node("MatMul", ["m", "w"], ["logits"]),
    ]
    image = helper.make_tensor_value_info("image", proto.UINT8, ["B", H, W, CIN])
    logits = helper.make_tensor_value_info("logits", proto.FLOAT, ["B", K])
    graph = helper.make_graph(nodes, "g", [image], [logits], [weight])
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)


def test_bench_against_onnxruntime(capsys, model, tmp_path):
    pytest.importorskip("onnxruntime")
    float_model(tmp_path / "f.onnx")
    words = ("bench", model, "--float", tmp_path / "f.onnx", "--seconds", "0.1")
    code, out, err = call(capsys, *words)
    assert code == 0, err
    assert "onnxruntime" in out and "2 golden vectors ok" in out
    code, out, _ = call(capsys, *words, "--json")
    names = [row["name"] for row in result(out, "bench")["rows"]]
    assert code == 0 and names == ["c", "onnxruntime"]


def test_bench_errors(capsys, model):
    code, _, err = call(capsys, "bench", model)
    assert code == 7 and "no float network" in err and "--float" in err
    code, _, err = call(capsys, "bench", model, "--against", "torch:vax")
    assert code == 2 and "unknown variant `vax` of torch" in err


def test_targets_and_doctor(capsys):
    code, out, _ = call(capsys, "targets", "--json")
    names = [row["name"] for row in result(out, "targets")]
    assert code == 0 and names == [row.name for row in toolchain.TARGETS]
    rows = {row["name"]: row for row in result(out, "targets")}
    assert rows["arm"]["triple"] == "aarch64-linux-gnu"
    assert rows["host"]["runs_on"] == "this machine"
    assert "lib/pkgconfig/bst.pc" in rows["arm"]["bundle"]
    assert "model.h" in rows["c"]["bundle"]
    for name, row in rows.items():
        assert bool(row["compilers"]) != bool(row["get_a_compiler"])
        found = [c.version for c in toolchain.compilers_for(name)]
        assert [c["version"] for c in row["compilers"]] == found
    text = call(capsys, "targets")[1]
    assert "arm-linux-gnueabihf" in text and "bundle of c:\n" in text and "  bst.c\n" in text
    code, out, _ = call(capsys, "doctor", "--json")
    rows = {row["item"]: row for row in result(out, "doctor")["findings"]}
    assert code == 0 and rows["numpy"]["state"] == "ok"
    assert {"torch", "onnxruntime", "apache-tvm", "ziglang", "C compiler", "cache"} <= set(rows)


def test_doctor_fails_only_for_required_items(capsys, monkeypatch):
    monkeypatch.setattr(toolchain.compilers, "zig", lambda: None)
    monkeypatch.setattr(toolchain.compilers, "cross_compiler", lambda _row: None)
    code, out, _ = call(capsys, "doctor")
    assert code == 0 and "gcc-aarch64-linux-gnu" in out
    monkeypatch.setattr(toolchain.compilers, "host_compilers", lambda: ())
    monkeypatch.setattr(toolchain, "prebuilt_library", lambda: None)
    code, out, err = call(capsys, "doctor")
    assert code == 3 and "C compiler" in err and "apt install gcc" in out


# ------------------------------------------------------------------- export, verify (printing)


def parity(**changes) -> _verify.VerifyReport:
    layer = _verify.LayerReport("block.0.attn.q_lif", 1000, 0, 0.0, None, None)
    facts = {
        "forms": ("a.onnx", "b.bstm"),
        "n_frames": 3,
        "n_raw_different": 0,
        "max_logit_difference": 0.0,
        "top1_agreement": 1.0,
        "top1": {"a.onnx": 0.5, "b.bstm": 0.5},
        "layers": [layer],
        "first_divergence": None,
        "exact": True,
    }
    return _verify.VerifyReport(**{**facts, **changes})


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({}, 0, "exact                     yes"),
        ({"n_raw_different": None, "exact": False}, 0, "not defined against a float model"),
        (
            {"n_raw_different": 2, "exact": False, "first_divergence": {"layer": "x", "step": 2}},
            5,
            "first divergence          layer x, step 2",
        ),
        (
            {"golden": _verify.GoldenReport("b.bstm", 4, {"a.onnx": 4, "b.bstm": 3})},
            5,
            "golden vectors            3 of 4 equal in b.bstm",
        ),
    ],
)
def test_verify_prints_a_parity_table(capsys, monkeypatch, changes, code, says):
    seen = {}

    def verify(a, against, **options):
        seen.update(options, a=a, against=against)
        return parity(**changes)

    monkeypatch.setattr(deploy, "verify", verify)
    words = ("verify", "a.onnx", "--against", "b.bstm", "--set", "tau=2")
    got, out, err = call(capsys, *words, "--budget", "flips_per_million=5,logit_difference=1e-3")
    assert got == code and says in out and "0 of 1000" in out
    if code == 5:
        assert "must give identical integers" in err or "fails 1 of 4 golden vectors" in err
    else:
        assert err == ""
    assert seen["budget"] == {"flips_per_million": 5.0, "logit_difference": 1e-3}
    assert seen["settings"] == {"tau": "2"}


def test_a_damaged_manifest_makes_no_bundle(tmp_path):
    from bestdeploy._bundle import read_manifest

    for text in ('{"kind": "bestdeploy bundle", "files": 3}', "[]", '{"kind": "other"}', "{"):
        (tmp_path / "manifest.json").write_text(text)
        assert read_manifest(tmp_path) is None


def test_the_bar_is_there_while_something_counts(monkeypatch):
    """Lines before the first count and after the last are not disturbed by it."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with _output.progress_bar("verifying") as count:
        _output.say("before")
        assert terminal.getvalue() == "before\n"
        count(1, 2)
        count(2, 2)
        assert "verifying" in terminal.getvalue() and "2/2" in terminal.getvalue()
        n = len(terminal.getvalue())
        _output.say("after")
        assert terminal.getvalue()[n:] == "after\n"
