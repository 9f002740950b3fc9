"""bst_run and bst_bench: lines, errors, exit codes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import programs
import pytest
import reference

from bestdeploy import toolchain
from bestdeploy.emit.bstm import write_bstm


@pytest.fixture(scope="session")
def tools():
    return {name: toolchain.build_program(name) for name in toolchain.PROGRAMS}


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    program = programs.with_golden(programs.network(), 2)
    path = tmp_path_factory.mktemp("tools") / "net.bstm"
    write_bstm(program, path)
    return program, path


def run(tool, *arguments, data=b""):
    return subprocess.run([tool, *arguments], input=data, capture_output=True, check=False)


def failed(done, code, text):
    lines = done.stderr.decode().splitlines()
    assert done.returncode == code, lines
    assert lines[-2].startswith("error: ")
    assert text in lines[-2]
    assert lines[-1].startswith("hint: ")


@pytest.mark.parametrize("stdin", (False, True))
def test_frames_give_the_reference_logits(tools, model, tmp_path, stdin):
    program, path = model
    frames = [programs.random_frame(program, seed) for seed in range(3)]
    data = b"".join(f.tobytes() for f in frames)
    source = tmp_path / "frames.raw"
    source.write_bytes(data)
    done = run(tools["bst_run"], path, "-" if stdin else source, "--json", data=data)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["frame"] for line in lines] == [0, 1, 2]
    for frame, line in zip(frames, lines, strict=True):
        raw, _ = reference.run(program, frame)
        assert line["raw"] == raw.tolist()
        assert line["top"] == int(np.argmax(raw))
        logits = (raw.astype(np.float64) * 2.0**-program.logit_shift).astype(np.float32)
        np.testing.assert_array_equal(np.array(line["logits"], np.float32), logits)
        assert line["us"] > 0


@pytest.mark.parametrize("threads", (2, 5, 64))
def test_threads_keep_the_order(tools, model, tmp_path, threads):
    """The threads share each frame: 11 of them, printed one after another."""
    program, path = model
    data = b"".join(programs.random_frame(program, seed).tobytes() for seed in range(11))
    alone = run(tools["bst_run"], path, "-", data=data)
    several = run(tools["bst_run"], path, "-", "--threads", str(threads), data=data)
    assert several.returncode == 0, several.stderr
    lines = [[json.loads(line) for line in done.stdout.splitlines()] for done in (alone, several)]
    for line in lines[0] + lines[1]:
        del line["us"]
    assert len(lines[0]) == 11
    assert lines[0] == lines[1]


def test_every_isa_gives_the_same_golden_vectors(tools, model, isa):
    done = run(tools["bst_run"], model[1], "--golden", "--isa", isa)
    assert json.loads(done.stdout) == {"golden": 2, "equal": 2}


def test_golden(tools, model, tmp_path):
    _, path = model
    done = run(tools["bst_run"], path, "--golden")
    assert json.loads(done.stdout) == {"golden": 2, "equal": 2}
    changed = programs.with_golden(programs.network(), 2)
    changed.golden[1].raw[3] += 1
    wrong = tmp_path / "wrong.bstm"
    write_bstm(changed, wrong)
    done = run(tools["bst_run"], wrong, "--golden")
    assert json.loads(done.stdout) == {"golden": 2, "equal": 1}
    failed(done, 5, "1 of 2 golden vectors differ")
    none = tmp_path / "none.bstm"
    write_bstm(programs.minimal(), none)
    failed(run(tools["bst_run"], none, "--golden"), 7, "no golden vectors")


def test_errors(tools, model, tmp_path):
    _, path = model
    bst_run = tools["bst_run"]
    failed(run(bst_run), 2, "no MODEL.bstm")
    failed(run(bst_run, path), 2, "no SOURCE")
    failed(run(bst_run, path, "-", "more"), 2, "`more`")
    failed(run(bst_run, path, "-", "--fast"), 2, "`--fast`")
    bad_isa = run(bst_run, path, "-", "--isa", "avx9")
    failed(bad_isa, 4, "isa `avx9` cannot be used on this machine")
    assert bad_isa.stderr.splitlines()[-1] == b"hint: leave --isa out: the best one is taken"
    failed(run(bst_run, path, "-", "--isa"), 2, "needs a value")
    for number in ("0", "257", "two", "", "1x"):
        failed(run(bst_run, path, "-", "--threads", number), 2, f"`{number}`, expected 1..256")
    assert run(bst_run, path).stderr.startswith(b"usage: bst_run MODEL.bstm ")
    failed(run(bst_run, tmp_path / "none.bstm", "-"), 7, "cannot read")
    failed(run(bst_run, tmp_path, "-"), 7, "cannot read")
    failed(run(bst_run, path, tmp_path / "none.raw"), 7, "cannot read")
    failed(run(bst_run, path, "-"), 7, "no frame")
    failed(run(bst_run, path, "-", data=bytes(200)), 7, "frame 1 has 8 bytes, the model takes 192")
    broken = tmp_path / "broken.bstm"
    broken.write_bytes(path.read_bytes()[:-1])
    failed(run(bst_run, broken, "-"), 7, "BAD_FILE: header: total_bytes")
    newer = bytearray(path.read_bytes())
    newer[4] += 5
    broken.write_bytes(newer)
    for options in ((), ("--isa", "scalar")):
        done = run(bst_run, broken, "-", *options)
        failed(done, 4, "header: format version = 6, must be 1")
        assert done.stderr.splitlines()[-1] == (
            b"hint: use the program that was made with this file or a newer one"
        )
    assert run(bst_run, path, "-", "--isa", "scalar", "--threads", "1", data=bytes(192)).stdout
    assert run(bst_run, "--help").stdout.startswith(b"usage: bst_run")


def test_files_that_are_no_raw_frames_are_refused_before_any_result(tools, model, tmp_path):
    program, path = model
    frame = programs.random_frame(program, 0)
    np.save(tmp_path / "a.npy", np.stack([frame] * 4))
    np.savez(tmp_path / "a.npz", images=np.stack([frame] * 4))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(4 * frame.size - 8))
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff" + bytes(2 * frame.size))
    (tmp_path / "cut.raw").write_bytes(bytes(2 * frame.size + 5))
    for name, says in (
        ("a.npy", "is a .npy array"),
        ("a.npz", "is a .npz or zip archive"),
        ("a.png", "is a PNG image"),
        ("a.jpg", "is a JPEG image"),
        ("cut.raw", f"frame 2 has 5 bytes, the model takes {frame.size}"),
    ):
        done = run(tools["bst_run"], path, tmp_path / name)
        failed(done, 7, says)
        assert done.stdout == b""
    piped = run(tools["bst_run"], path, "-", data=(tmp_path / "a.png").read_bytes())
    assert len(piped.stdout.splitlines()) == 4, "on standard input every byte is a pixel"


def test_full_disk_is_an_error(tools, model):
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [tools["bst_run"], model[1], "--golden"], stdout=full, stderr=subprocess.PIPE
        )
    assert done.returncode == 8


@pytest.mark.parametrize("threads", (1, 3))
def test_bench_prints_one_line(tools, model, isa, threads):
    done = run(tools["bst_bench"], model[1], "--isa", isa, "--threads", str(threads))
    assert done.returncode == 0
    (line,) = done.stdout.decode().splitlines()
    parts = [part.strip() for part in line.split("|")]
    names = [part.split()[0] for part in parts]
    assert names == [
        *("bst_bench", "cpu", "isa", "threads", "p50", "p99", "frames/s", "runs", "golden")
    ]
    assert parts[2] == f"isa {isa}"
    assert parts[3] == f"threads {threads}"
    assert parts[-1] == "golden ok (2 of 2)"
    assert 0 < float(parts[4].split()[1]) <= float(parts[5].split()[1])
    assert float(parts[6].split()[1]) > 0
    assert int(parts[7].split()[1]) >= 20


NUMBERS = r"""
#include "text.h"
int main(void) {
  float f;
  while (fread(&f, sizeof f, 1, stdin) == 1) bst_put(stdout, "%.9g\n", (double)f);
  bst_put(stderr, "%s %d %lld %lu %zu %.1f %.3f%s", "x", -5, -9223372036854775807LL - 1, 7UL,
          (size_t)9, 99.96, 0.0004, "\n");
  return 0;
}
"""


def test_numbers_are_read_back_as_they_were(tmp_path):
    source = tmp_path / "numbers.c"
    source.write_text(NUMBERS)
    root = Path(toolchain.find_sources())
    program = tmp_path / "numbers"
    subprocess.run(["cc", "-I", root / "tools", source, "-o", program], check=True)
    bits = np.random.default_rng(0).integers(0, 2**32, 20_000, dtype=np.uint32)
    edges = np.float32([0.0, 1.0, -1.0, 1e9, 999999999.0, 1e-5, 0.0001, 3.4e38, 1e-45, 100.0, 0.5])
    values = np.concatenate([edges, bits.view(np.float32)])
    values = values[np.isfinite(values)]
    done = subprocess.run([program], input=values.tobytes(), capture_output=True, check=True)
    lines = done.stdout.decode().splitlines()
    np.testing.assert_array_equal(np.array(lines, np.float32), values)
    assert all(isinstance(json.loads(line), int | float) for line in lines)
    assert done.stderr.decode() == "x -5 -9223372036854775808 7 9 100.0 0.000\n"
