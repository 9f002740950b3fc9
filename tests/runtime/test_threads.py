"""Many sessions on one model: no data race, and the same integers as one after another."""

from __future__ import annotations

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import programs
import pytest

from bestdeploy import runtime, toolchain
from bestdeploy.emit.bstm import write_bstm
from bestdeploy.errors import MissingToolError

DRIVER = Path(__file__).with_name("share_model.c")
SANITIZE = ("-fsanitize=thread", "-O1")


@pytest.fixture(scope="module")
def content():
    return write_bstm(programs.with_golden(programs.network(), 3))


@pytest.mark.parametrize("compiler", ("gcc", "clang"))
def test_no_data_race(tmp_path, monkeypatch, content, isa, compiler):
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler}")
    monkeypatch.setenv("BESTDEPLOY_CC", compiler)
    try:
        driver = toolchain.build_program(DRIVER, static=False, extra_flags=SANITIZE)
    except MissingToolError as error:
        pytest.skip(f"no thread sanitizer: {error}")
    path = tmp_path / "net.bstm"
    path.write_bytes(content)
    done = subprocess.run(
        [driver, path, "5", "4", isa], capture_output=True, text=True, timeout=300, check=False
    )
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("this kernel lays memory out in a way that the sanitizer cannot follow")
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) == 5 * 4 * 3


@pytest.mark.parametrize("threads", (2, 3, 8))
def test_threads_give_the_logits_of_one(content, isa, threads):
    alone, several = (runtime.load(content, isa=isa, threads=n) for n in (1, threads))
    frames = np.random.default_rng(3).integers(0, 256, (13, *alone.input_shape)).astype(np.uint8)
    expected = alone.run_raw(frames)
    for n_frames in (0, 1, 2, threads, 13):
        np.testing.assert_array_equal(several.run_raw(frames[:n_frames]), expected[:n_frames])


def test_one_model_called_from_many_python_threads(content):
    model = runtime.load(content, threads=2)
    frames = np.random.default_rng(4).integers(0, 256, (12, *model.input_shape)).astype(np.uint8)
    expected = model.run_raw(frames)
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda i: model.run_raw(frames[i : i + 2]), range(0, 12, 2)))
    np.testing.assert_array_equal(np.concatenate(found), expected)
