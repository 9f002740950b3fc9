"""The instruction counter counts a known loop, the same every time; models are split by layer."""

from __future__ import annotations

import sys
from pathlib import Path

import insn_counts
import pytest

from bestdeploy import toolchain
from bestdeploy.emit.bstm import write_bstm
from bestdeploy.errors import MissingToolError

sys.path.append(str(Path(__file__).parents[1] / "runtime"))
import programs


@pytest.fixture(params=("arm", "armv7"))
def target(request):
    try:
        insn_counts.emulator_of(request.param)
        toolchain.compiler_for(request.param)
    except (insn_counts.CannotCountError, MissingToolError) as error:
        pytest.skip(str(error))
    return request.param


def test_a_loop_is_counted(target):
    program = toolchain.build_program(
        insn_counts.HERE / "loop.c", target, extra_flags=insn_counts.KEEP_SYMBOLS
    )
    counts = {}
    for n in (1000, 2000, 2000):
        regions, _ = insn_counts.count(program, [str(n)], target)
        assert len(regions) == 3
        loop = regions[1]["known_loop"]
        assert counts.setdefault(n, loop) == loop, "the count is not deterministic"
        assert 3 * n <= loop <= 8 * n
        assert regions[1].total() - loop < 100
        assert "known_loop" not in regions[0]
        assert "known_loop" not in regions[2]
    per_round = counts[2000] - counts[1000]
    assert per_round % 1000 == 0


def test_layers_of_a_model_are_counted(target, tmp_path):
    path = tmp_path / "net.bstm"
    made = programs.with_golden(programs.network(), 1)
    write_bstm(made, path)
    steps = insn_counts.count_layers(path, target)
    assert [step["name"] for step in steps] == [step.name for step in made.steps]
    assert all(step["instructions"] > 100 for step in steps)
    assert all(-1 <= step["rate"] <= 1 for step in steps)
    convolutions = [step for step in steps if step["op"] == "conv_neuron"]
    assert convolutions
    for step in convolutions:
        assert any("conv" in name for name in step["by_function"]), step["by_function"]


def test_kernels_are_counted_side_by_side():
    try:
        counted = insn_counts.count_kernels("arm", (2, 2, 64, 64, 1), [0.1], "neon")
    except (insn_counts.CannotCountError, MissingToolError) as error:
        pytest.skip(str(error))
    assert [line["contender"] for line in counted] == ["ours", "dense vcnt", "dense popcnt"]
    assert all(line["equal"] and line["instructions"] > 0 for line in counted)
    dense = counted[1]
    assert dense["by_function"]["rival_neon_run"] > 0.9 * dense["instructions"]
