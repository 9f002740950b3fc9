"""Many sessions on one model, many threads on one frame: no data race, the same integers."""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import programs
import pytest
from conftest import aligned
from test_model_file import NETWORKS, Loaded

from bestdeploy import runtime, toolchain
from bestdeploy.emit.bstm import write_bstm
from bestdeploy.errors import InputError, MissingToolError, NativeError

DRIVERS = {
    "sessions": (Path(__file__).with_name("share_model.c"), ("5", "4"), 5 * 4 * 3),
    "pools": (Path(__file__).with_name("pool_model.c"), ("3", "8"), 2 * 8 * 2 + 14 * 2),
}
RACES, MEMORY = ("-fsanitize=thread", "-O1"), ("-fsanitize=address,undefined", "-O1")


@pytest.fixture(scope="module")
def content():
    return write_bstm(programs.with_golden(programs.network(), 3))


def check_driver(name, path, content, isa, sanitize):
    """Build a driver with a sanitizer and run it."""
    source, arguments, n_exact = DRIVERS[name]
    try:
        driver = toolchain.build_program(source, static=False, extra_flags=sanitize)
    except MissingToolError as error:
        pytest.skip(f"no such sanitizer: {error}")
    path.write_bytes(content)
    done = subprocess.run(
        [driver, path, *arguments, isa],
        env={**os.environ, "ASAN_OPTIONS": "detect_leaks=0"},  # drivers leave their model behind
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("this kernel lays memory out in a way that the sanitizer cannot follow")
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) == n_exact


@pytest.mark.parametrize("compiler", ("gcc", "clang"))
@pytest.mark.parametrize("name", DRIVERS)
def test_no_data_race(tmp_path, monkeypatch, content, isa, name, compiler):
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler}")
    monkeypatch.setenv("BESTDEPLOY_CC", compiler)
    check_driver(name, tmp_path / "net.bstm", content, isa, RACES)


def test_pools_stay_inside_their_buffers(tmp_path, content, isa):
    check_driver("pools", tmp_path / "net.bstm", content, isa, MEMORY)


def test_a_system_that_gives_no_more_threads():
    driver = toolchain.build_program(DRIVERS["pools"][0], static=False)
    done = subprocess.run([driver, "starve"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("bst_pool_init: threads that the system gives = ")


@pytest.mark.parametrize("name", NETWORKS)
def test_every_step_equals_that_of_one_thread(isa, name):
    content = write_bstm(programs.network(**NETWORKS[name]).program())
    alone = runtime.load(content, isa=isa)
    frame = np.random.default_rng(6).integers(0, 256, alone.input_shape).astype(np.uint8)
    expected, expected_taps = alone.run_probed(frame)
    for threads in (2, 3, 5):
        model = runtime.load(content, isa=isa, threads=threads)
        raw, taps = model.run_probed(frame)
        np.testing.assert_array_equal(raw, expected)
        for step, outputs in expected_taps.items():
            for got, wanted in zip(taps[step], outputs, strict=True):
                np.testing.assert_array_equal(got.data, wanted.data, err_msg=f"{step}, {threads}")
        np.testing.assert_array_equal(model.run_raw(frame[None])[0], expected)


@pytest.mark.parametrize(
    "widths", ((40, 130), (72, 72, 72), (20, 1, 600, 65), (9, 70, 30, 8, 40, 3))
)
@pytest.mark.parametrize("n_in", (72, 1, 4096, 4100))
def test_layers_of_the_same_spikes_run_together(isa, widths, n_in):
    """As q, k and v do; while they are observed each runs alone."""
    b = programs.Builder(5, 5, 3, 4, 4)
    spikes = b.conv_neuron("embed", b.stem(20), n_in)
    layers = [b.conv_neuron(f"layer{i}", spikes, w) for i, w in enumerate(widths)]
    layers.append(b.conv_neuron("window", spikes, 30, k=3, pad=1))
    x, *others = (b.conv_affine(f"mix{i}", layer, 24) for i, layer in enumerate(layers))
    for i, y in enumerate(others):
        x = b.stream_add(f"sum{i}", y, x, x)
    b.count_readout(b.stream_neuron("lif", x, programs.neuron_params()))
    content = write_bstm(b.program())
    alone = runtime.load(content, isa=isa)
    frames = np.random.default_rng(9).integers(0, 256, (2, *alone.input_shape)).astype(np.uint8)
    expected = np.stack([alone.run_probed(frame)[0] for frame in frames])
    for threads in (1, 2, 3):
        model = runtime.load(content, isa=isa, threads=threads)
        np.testing.assert_array_equal(model.run_raw(frames), expected, err_msg=str(threads))


def test_what_is_never_read_may_lie_anywhere(isa):
    """A layer whose output no step reads does not run with the others: theirs may lie in it."""
    b = programs.Builder(5, 5, 3, 4, 4)
    spikes = b.conv_neuron("embed", b.stem(20), 72)
    layers = [b.conv_neuron(name, spikes, 72) for name in "qkv"]
    x = b.conv_affine("proj", layers[2], 24)
    b.count_readout(b.stream_neuron("lif", x, programs.neuron_params()))
    unread = b.buffers[layers[0]]
    b.buffers[layers[0]] = dataclasses.replace(unread, offset=b.buffers[x].offset)
    for threads in (1, 2):
        model = runtime.load(write_bstm(b.program()), isa=isa, threads=threads)
        frames = np.random.default_rng(9).integers(0, 256, (2, *model.input_shape)).astype(np.uint8)
        expected = np.stack([model.run_probed(frame)[0] for frame in frames])
        np.testing.assert_array_equal(model.run_raw(frames), expected)


def test_thousands_of_tiny_frames():
    """Three steps each: hardly anything but the meeting of the threads."""
    content = write_bstm(programs.minimal())
    frames = np.random.default_rng(7).integers(0, 256, (2000, 1, 1, 1)).astype(np.uint8)
    expected = runtime.load(content).run_raw(frames)
    np.testing.assert_array_equal(runtime.load(content, threads=4).run_raw(frames), expected)


def test_more_threads_than_cores(content):
    """All of them on one core."""
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system pins no threads")
    before = os.sched_getaffinity(0)
    alone = runtime.load(content)
    frames = np.random.default_rng(8).integers(0, 256, (30, *alone.input_shape)).astype(np.uint8)
    expected = alone.run_raw(frames)
    try:
        os.sched_setaffinity(0, {min(before)})
        crowded = runtime.load(content, threads=6)  # its threads inherit the one core
    finally:
        os.sched_setaffinity(0, before)
    np.testing.assert_array_equal(crowded.run_raw(frames), expected)


def n_threads_now() -> int:
    status = Path("/proc/self/status")
    if not status.is_file():
        pytest.skip("no /proc to count threads in")
    return int(status.read_text().split("Threads:")[1].split()[0])


def test_threads_end_with_their_model(content):
    gc.collect()
    before = n_threads_now()
    model = runtime.load(content, threads=5)
    assert n_threads_now() == before + 4
    model.run_raw(np.zeros((1, *model.input_shape), np.uint8))
    del model
    gc.collect()
    assert n_threads_now() == before


FORK = """
import os, sys
import numpy as np
from bestdeploy import runtime

model = runtime.load(open(sys.argv[1], "rb").read(), threads=3)
frames = np.stack([frame for frame, _ in model.golden()])
expected = model.run_raw(frames)
child = os.fork()
equal = all(np.array_equal(model.run_raw(frames), expected) for _ in range(20))
if child == 0:
    print("child", equal, flush=True)
    sys.exit(0)  # with everything that runs at exit
print("parent", equal, os.waitpid(child, 0)[1])
"""


def test_a_fork_and_the_end_of_the_program(content, tmp_path):
    if not hasattr(os, "fork"):
        pytest.skip("no fork")
    (tmp_path / "net.bstm").write_bytes(content)
    command = [sys.executable, "-W", "ignore", "-c", FORK, tmp_path / "net.bstm"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == ["child True", "parent True 0"]


def test_wrong_numbers_of_threads(content):
    for number in (0, -1, 257):
        with pytest.raises(InputError, match=r"expected 1\.\.256"):
            runtime.load(content, threads=number)


def test_wrong_pools_are_refused(library):
    size, pool = ctypes.c_size_t(), ctypes.c_void_p(77)
    for number in (0, 257, 2**32 - 1):
        assert library.bst_pool_bytes(ctypes.c_uint32(number), ctypes.byref(size)) == 1
        assert b"must be in 1..256" in library.bst_last_error()
    assert library.bst_pool_bytes(2, None) == 1
    assert library.bst_pool_bytes(2, ctypes.byref(size)) == 0
    assert size.value % 64 == 0
    memory = aligned(size.value + 64)
    where, n = memory.ctypes.data, ctypes.c_size_t
    init = library.bst_pool_init
    for address, n_bytes, number, status in (
        (where, size.value - 1, 2, 4),
        (where + 8, size.value, 2, 1),
        (None, size.value, 2, 1),
        (where, size.value, 0, 1),
        (where, size.value, 257, 1),
    ):
        made = init(ctypes.c_void_p(address), n(n_bytes), number, ctypes.byref(pool))
        assert made == status
        assert pool.value == 77, "an output was written by a failing call"
    assert init(ctypes.c_void_p(where), size, 2, None) == 1
    assert library.bst_pool_stop(None) == 1


def test_a_session_needs_scratch_for_every_thread(library, content):
    loaded = Loaded(library, content)
    sizes = []
    for number in (1, 2, 256):
        size = ctypes.c_size_t()
        loaded.check(library.bst_arena_bytes(loaded.model, number, ctypes.byref(size)))
        sizes.append(size.value)
    assert sizes[0] < sizes[1] < sizes[2] and all(size % 64 == 0 for size in sizes)
    for number in (0, 257):
        assert library.bst_arena_bytes(loaded.model, number, ctypes.byref(size)) == 1
    loaded.check(library.bst_pool_bytes(2, ctypes.byref(size)))
    memory, pool = aligned(size.value), ctypes.c_void_p()
    where = ctypes.c_void_p(memory.ctypes.data)
    loaded.check(library.bst_pool_init(where, size, 2, ctypes.byref(pool)))
    arena, session = aligned(sizes[1]), ctypes.c_void_p()
    arguments = (loaded.model, pool, ctypes.c_void_p(arena.ctypes.data))
    n = ctypes.c_size_t
    init = library.bst_session_init
    assert init(*arguments, n(sizes[0]), ctypes.byref(session)) == 4
    assert init(*arguments, n(sizes[1]), ctypes.byref(session)) == 0
    loaded.check(library.bst_pool_stop(pool))
    frame, raw = aligned(8 * 8 * 3), np.zeros(10, np.int64)
    run = (session, ctypes.c_void_p(frame.ctypes.data), n(frame.size))
    assert library.bst_session_run(*run, ctypes.c_void_p(raw.ctypes.data), n(10)) == 1
    assert b"state of the pool = 2" in library.bst_last_error()


def test_a_build_without_threads(content):
    library = toolchain.build_library(extra_flags=("-DBST_NO_THREADS",))
    raw = ctypes.CDLL(str(library))
    size, pool = ctypes.c_size_t(), ctypes.c_void_p()
    assert raw.bst_pool_bytes(1, ctypes.byref(size)) == 0
    memory = aligned(size.value)
    where = ctypes.c_void_p(memory.ctypes.data)
    assert raw.bst_pool_init(where, size, 1, ctypes.byref(pool)) == 0
    assert raw.bst_pool_stop(pool) == 0 and raw.bst_pool_stop(pool) == 1
    with pytest.raises(NativeError, match="must be 1 in a library built without threads") as caught:
        runtime.load(content, threads=2, library=library)
    assert (caught.value.status, caught.value.hint) == ("UNSUPPORTED", "give threads=1")
    assert runtime.load(content, library=library).verify_golden() == 3


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
