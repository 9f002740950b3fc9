"""Every rival of the benchmarks gives our spikes, on tiny layers; nothing is timed."""

from __future__ import annotations

import subprocess

import kernels
import pytest

from bestdeploy import toolchain
from bestdeploy.errors import MissingToolError

SHAPES = (
    (2, 3, 64, 130, 1),  # reads in place, a last word of 2 outputs
    (3, 5, 48, 96, 3),  # taps that share words, pixels that are no multiple of 8
    (2, 2, 100, 70, 3),
    (4, 4, 272, 64, 3),  # potentials that need int32
)
ARGUMENTS = [
    *(word for shape in SHAPES for word in ("--shape", ",".join(map(str, shape)))),
    *("--rate", "0", "--rate", "0.1", "--rate", "0.6", "--reps", "0"),
]


@pytest.fixture(scope="module")
def program():
    """The benchmark; tiles of AMX in plain C, so that this rival is compared everywhere."""
    flags = ("-DBENCH_EMULATE_AMX",)
    return toolchain.build_program(kernels.HERE / "kernels_bench.c", extra_flags=flags)


def check(lines):
    layers = [line for line in lines if line["kind"] == "layer"]
    contenders = {line["contender"] for line in layers}
    assert len(layers) == len(SHAPES) * 3 * len(contenders)
    assert all(line["equal"] for line in layers), [x for x in layers if not x["equal"]]
    return contenders


@pytest.mark.parametrize("isa", kernels.ISAS)
def test_rivals_give_our_spikes(program, isa):
    if isa not in kernels.usable_isas(program):
        pytest.skip(f"this machine has no {isa}")
    lines = kernels.run(program, "--isa", isa, *ARGUMENTS)
    contenders = check(lines)
    expected = {
        "avx512": {"ours", "dense vpopcnt", "vnni int8", "amx int8 (emulated)", "dense popcnt"},
        "avx2": {"ours", "dense pshufb", "dense popcnt"},
        "neon": {"ours", "dense vcnt", "dense popcnt"},
        "scalar": {"ours", "dense popcnt"},
    }[isa]
    skipped = {line["contender"] for line in lines if line["kind"] == "skipped"}
    assert contenders == expected - skipped


@pytest.mark.parametrize("target, isa", (("arm", "neon"), ("armv7", "neon")))
def test_rivals_give_our_spikes_under_an_emulator(target, isa):
    emulator = toolchain.find_emulator(target)
    if emulator is None:
        pytest.skip(f"no emulator for {target}")
    try:
        built = toolchain.build_program(kernels.HERE / "kernels_bench.c", target)
    except MissingToolError as error:
        pytest.skip(f"no compiler for {target}: {error}")
    wrapper = [*emulator, str(built), "--isa", isa, *ARGUMENTS]
    check(kernels.run(wrapper[0], *wrapper[1:]))


def test_limits_are_named(program):
    """The roofline program builds and names what the tables look for."""
    limits = kernels.run(toolchain.build_program(kernels.HERE / "roofline.c"))
    names = {line["isa"]: set() for line in limits if line["kind"] == "limit"}
    for line in limits:
        if line["kind"] == "limit":
            assert line["per_ns"] > 0
            names[line["isa"]].add(line["name"])
    assert all(kernels.ADDERS[isa] in found for isa, found in names.items() if isa != "scalar")


def test_bad_arguments_are_usage(program):
    for words in (["--shape", "1,2"], ["--isa", "mmx"], ["--what", "1"], ["--rate"]):
        done = subprocess.run([program, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 2, words
        assert done.stderr.startswith("usage: kernels_bench"), words
