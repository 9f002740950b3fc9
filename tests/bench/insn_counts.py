"""Executed instructions of emulated programs, by region and function, through the plugin.

The counts are exact and the same every time for the same compiler; they are not time.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bestdeploy import toolchain

HERE = Path(__file__).resolve().parent
PLUGIN = HERE.parents[1] / "runtime" / "tools" / "insn_count.c"
LABEL = "executed instructions (emulated), not time"
KEEP_SYMBOLS = ("-g0",)
"""Any extra flag keeps `build_program` from stripping, which the plugin needs; this one changes
nothing else."""


class CannotCountError(Exception):
    """Instructions of this target cannot be counted here; the text says why."""


def emulator_of(target: str) -> tuple[str, ...]:
    """Return the command prefix of an emulator of the target that takes plugins.

    Raises:
        CannotCountError: there is none.
    """
    row = toolchain.find_target(target)
    for name in row.emulators:
        path = shutil.which(name)
        if path is None:
            continue
        done = subprocess.run([path, "--help"], capture_output=True, text=True, check=False)
        if "-plugin" in done.stdout:
            return (path, *row.emulator_args)
    raise CannotCountError(
        f"no emulator of {row.name} that takes plugins (static builds do not): "
        "apt install qemu-user"
    )


def build_plugin(folder: Path) -> Path:
    """Compile the plugin for this machine."""
    compiler = toolchain.compiler_for("host")
    output = folder / "libinsn_count.so"
    flags = ("-std=c11", "-O2", "-shared", "-fPIC", "-Wall", "-Wextra")
    subprocess.run([*compiler.command, *flags, PLUGIN, "-o", output], check=True)
    return output


def count(
    program: Path, arguments: Sequence[str | Path], target: str, mark: str = "bench_mark"
) -> tuple[list[Counter[str]], list[dict[str, Any]]]:
    """Run a static, unstripped program of a target; return its regions and its JSON lines.

    Returns:
        instructions by function of every region, the one before the first mark first; what the
        program printed.

    Raises:
        CannotCountError: no emulator takes plugins.
    """
    emulator = emulator_of(target)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plugin, log = build_plugin(folder), folder / "counts.jsonl"
        options = ("-plugin", f"{plugin},mark={mark}", "-d", "plugin", "-D", log)
        command = [*emulator, *options, program, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise CannotCountError(f"{program.name} ended with {done.returncode}: {done.stderr}")
        lines = [json.loads(line) for line in log.read_text().splitlines()]
    end = lines.pop()
    regions: list[Counter[str]] = [Counter() for _ in range(end["regions"])]
    for line in lines:
        regions[line["region"]][line["symbol"]] += line["n"]
    assert sum(map(Counter.total, regions)) == end["total"]
    return regions, [json.loads(line) for line in done.stdout.splitlines()]


def count_layers(model: Path, target: str) -> list[dict[str, Any]]:
    """Return the steps of a .bstm: name, op, rate (-1: no spikes), instructions, by_function."""
    program = toolchain.build_program(
        HERE / "count_layers.c", target, static=True, extra_flags=KEEP_SYMBOLS
    )
    regions, steps = count(program, [model], target)
    # before the run, one per step, after the last step, after the run
    for step, region in zip(steps, regions[1:-2], strict=True):
        step["instructions"], step["by_function"] = region.total(), dict(region)
    return steps


def count_kernels(
    target: str, shape: Sequence[int], rates: Sequence[float], isa: str
) -> list[dict[str, Any]]:
    """Return the contenders of kernels_bench with the instructions of one run of each."""
    program = toolchain.build_program(
        HERE / "kernels_bench.c", target, static=True, extra_flags=KEEP_SYMBOLS
    )
    arguments = ["--count", "--isa", isa, "--shape", ",".join(map(str, shape))]
    for rate in rates:
        arguments += ["--rate", str(rate)]
    regions, lines = count(program, arguments, target)
    contenders = [line for line in lines if line["kind"] == "counted"]
    for line, region in zip(contenders, regions[1::2], strict=True):
        line["instructions"], line["by_function"] = region.total(), dict(region)
    return contenders
