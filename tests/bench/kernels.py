"""Kernels against dense rivals and against the limits of the core: `make bench-kernels`.

    python tests/bench/kernels.py [--isa avx512]... [--quick] [--reps N] [--json]

Layers over shapes x rates x instruction sets, one thread, thread CPU time, contenders in turn:
median, with p10 and p90 where they differ by more than a tenth; five runs of the program. Every
contender's spikes are compared with the scalar kernel's first. Dense rivals carry the same exact
neuron.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from bestdeploy import toolchain  # noqa: E402

Shape = tuple[int, int, int, int, int]
"""height, width, inputs, outputs, window."""

LINEAR: tuple[Shape, ...] = (
    (8, 8, 384, 384, 1),
    (8, 8, 384, 1536, 1),
    (8, 8, 1536, 384, 1),
    (14, 14, 512, 512, 1),
    (14, 14, 512, 2048, 1),
    (14, 14, 2048, 512, 1),
)
CONVOLUTIONS: tuple[Shape, ...] = (
    (32, 32, 48, 96, 3),
    (32, 32, 96, 192, 3),
    (16, 16, 192, 384, 3),
    (8, 8, 384, 384, 3),
)
RATES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
QUICK_RATES = (0.05, 0.1, 0.2, 0.3)
N_RUNS = 5
ISAS = ("avx512", "avx2", "neon", "scalar")
ADDERS = {
    "avx512": "full adder, 2 vpternlogq zmm",
    "avx2": "full adder, 5 operations ymm",
    "neon": "full adder, eor eor bsl",
}
"""What limits the accumulator of an instruction set."""


def name_of(shape: Sequence[int]) -> str:
    """Return a shape as its users write it: rows x inputs x outputs, or image and channels."""
    h, w, n_in, n_out, kernel = shape
    if kernel == 1:
        return f"{4 * h * w} x {n_in} -> {n_out}"
    return f"{h}x{w} {kernel}x{kernel} {n_in} -> {n_out}"


def run(program: Path, *arguments: str) -> list[dict[str, Any]]:
    """Run a bench program; return its JSON lines."""
    done = subprocess.run([program, *arguments], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in (0, 5):
        raise SystemExit(f"error: {program.name} ended with {done.returncode}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def usable_isas(program: Path) -> list[str]:
    """Return the instruction sets of ours that this machine has, best first."""
    usable = []
    for isa in ISAS:
        command: list[str | Path] = [program, "--isa", isa, "--reps", "0"]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            usable.append(isa)
    return usable


def measure(
    program: Path, isa: str, shapes: Sequence[Shape], rates: Sequence[float], reps: int
) -> list[dict[str, Any]]:
    """Return the lines of kernels_bench of one instruction set, the accumulator too.

    The program runs N_RUNS times, because runs were seen to differ by tens of percent while the
    samples within each agreed (where its memory lies is the likely reason). Medians are medians
    of the runs' medians, p10 and p90 the outermost; "runs" holds the number of each run.
    """
    arguments = ["--isa", isa, "--reps", str(reps), "--accumulate"]
    for shape in shapes:
        arguments += ["--shape", ",".join(map(str, shape))]
    for rate in rates:
        arguments += ["--rate", str(rate)]
    return [_merged(lines) for lines in zip(*(run(program, *arguments) for _ in range(N_RUNS)),
                                            strict=True)]  # fmt: skip


def _merged(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return one line for the same line of several runs."""
    merged = dict(lines[0])
    if "ghz" in merged:
        merged["ghz"] = statistics.median(line["ghz"] for line in lines)
    if "equal" in merged:
        merged["equal"] = all(line["equal"] for line in lines)
    if merged["kind"] == "accumulate":
        merged["runs"] = [line["us"] for line in lines]
        merged["us"] = statistics.median(merged["runs"])
    elif all("us" in line for line in lines):
        low, median, high = zip(*(line["us"] for line in lines), strict=True)
        merged["runs"] = list(median)
        merged["us"] = [min(low), statistics.median(median), max(high)]
    return merged


def _time(us: Sequence[float]) -> str:
    low, median, high = us
    spread = "" if high < 1.1 * low else f" [dim]{low:.0f}-{high:.0f}[/dim]"
    return f"{median:.1f}{spread}" if median < 100 else f"{median:.0f}{spread}"


def print_limits(console: Console, limits: list[dict[str, Any]]) -> None:
    """Print what the core can do."""
    ghz = limits[0]["ghz"]
    table = Table(title=f"limits of this core, best of short runs, {ghz:.2f} GHz while computing")
    for head in ("isa", "operation"):
        table.add_column(head)
    for head in ("per cycle", "per ns", "G lane-adds/s", "G MAC/s"):
        table.add_column(head, justify="right")
    for line in limits:
        if line["kind"] != "limit":
            continue
        rates = [line[key] * line["per_ns"] for key in ("lane_adds", "macs")]
        texts = [f"{rate:,.0f}" if rate else "" for rate in rates]
        per_cycle = f"{line['per_cycle']:.2f}" if ghz else "?"
        unit = f"{line['name']} [dim]({line['unit']})[/dim]"
        table.add_row(line["isa"], unit, per_cycle, f"{line['per_ns']:.2f}", *texts)
    console.print(table)
    for line in limits:
        if line["kind"] == "skipped":
            console.print(f"skipped: {line['why']}")


def print_layers(console: Console, isa: str, lines: list[dict[str, Any]]) -> None:
    """Print a table of times and ratios of one instruction set."""
    layers = [line for line in lines if line["kind"] == "layer" and "us" in line]
    names = list(dict.fromkeys(line["contender"] for line in layers))
    table = Table(
        title=f"{isa}: whole layer with its neuron, one thread, us of thread CPU time, median"
        " (p10-p90 where they differ by a tenth)"
    )
    for head in ("layer", "rate", "rows added"):
        table.add_column(head, justify="left" if head == "layer" else "right")
    for name in names:
        table.add_column(name, justify="right")
        if name != "ours":
            table.add_column("/ ours", justify="right", style="bold")
    cases = dict.fromkeys((tuple(line["shape"]), line["rate"]) for line in layers)
    for shape, rate in cases:
        found = {
            x["contender"]: x for x in layers if (tuple(x["shape"]), x["rate"]) == (shape, rate)
        }
        ours = found["ours"]
        cells = [name_of(shape), f"{rate:.0%}", f"{ours['events']:,}"]
        for name in names:
            cells.append(_time(found[name]["us"]))
            if name != "ours":
                cells.append(f"{found[name]['us'][1] / ours['us'][1]:.2f}x")
        table.add_row(*cells, end_section=rate == max(r for s, r in cases if s == shape))
    console.print(table)
    for line in lines:
        if line["kind"] == "skipped":
            console.print(f"skipped: {line['contender']}: {line['why']}")
        if not line.get("equal", True):
            console.print(f"[red]different spikes[/red]: {line}")


def accumulator_shares(
    isa: str, lines: list[dict[str, Any]], limits: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return cycles per row of 512 lanes of the accumulator, and its share of the adders' limit.

    The share is None where the runs, without the best and the worst, differ by more than a fifth,
    or where it is above 1, which cannot be: the machine was too busy.
    """
    adder = next((x for x in limits if "name" in x and x["name"] == ADDERS.get(isa)), None)
    ghz = lines[0]["ghz"]
    if adder is None or not ghz:
        return []
    limit = 512 / adder["lane_adds"] / adder["per_cycle"]
    shares = []
    for line in lines:
        if line["kind"] != "accumulate" or line["events"] < 5000:
            continue  # too few rows to tell from noise
        cycles, *runs = (us * 1e3 * ghz / line["events"] for us in (line["us"], *line["runs"]))
        middle = sorted(runs)[1:-1]
        steady = middle[-1] - middle[0] < 0.2 * cycles and cycles >= limit
        shares.append({"isa": isa, "rate": line["rate"], "cycles": cycles, "runs": runs,
                       "limit": limit, "share": limit / cycles if steady else None})  # fmt: skip
    return shares


def _share(line: dict[str, Any]) -> str:
    return "too noisy" if line["share"] is None else f"{line['share']:.0%}"


def print_shares(console: Console, shares: list[dict[str, Any]]) -> None:
    """Print the accumulator against the limit of the full adders."""
    table = Table(
        title="accumulator alone: cycles per row of 512 lanes, by differences of layers with 1024"
        " and 512 outputs at two rates; best times"
    )
    for head in ("isa", "rate", "cycles", "of each run", "limit of full adders", "share"):
        table.add_column(head, justify="left" if head == "isa" else "right")
    for line in shares:
        runs = " ".join(f"{x:.2f}" for x in line["runs"])
        numbers = (f"{line['cycles']:.2f}", runs, f"{line['limit']:.2f}")
        table.add_row(line["isa"], f"{line['rate']:.0%}", *numbers, _share(line))
    console.print(table)


def named_ratios(
    lines_of: dict[str, list[dict[str, Any]]], shares: list[dict[str, Any]]
) -> list[tuple[str, str, str]]:
    """Return the numbers that the project promises: (what, to be reached, found)."""

    def time(isa: str, shape: Shape, rate: float, contender: str) -> float | None:
        for line in lines_of.get(isa, ()):
            same = line["kind"] == "layer" and tuple(line["shape"]) == shape
            if same and line["rate"] == rate and line["contender"].startswith(contender):
                return line["us"][1] if "us" in line else None
        return None

    def ratio(isa: str, shape: Shape, rate: float, rival: str) -> str:
        ours, theirs = time(isa, shape, rate, "ours"), time(isa, shape, rate, rival)
        if ours and theirs:
            return f"{theirs / ours:.2f}x"
        return "not measured" if ours is None else f"skipped: this machine has no {rival}"

    square, wide = (8, 8, 384, 384, 1), (8, 8, 384, 1536, 1)
    rows = [
        ("256x384x1536 at 10 %: dense VPOPCNT + neuron / ours", "4.5x",
         ratio("avx512", wide, 0.1, "dense vpopcnt")),
        ("256x384x384 at 30 %: AMX int8 / ours", "", ratio("avx512", square, 0.3, "amx int8")),
        ("256x384x384 at 30 %: VNNI int8 / ours", "", ratio("avx512", square, 0.3, "vnni int8")),
        ("256x384x384 at 10 %: AVX2 dense / ours on AVX2", "5.5x",
         ratio("avx2", square, 0.1, "dense pshufb")),
    ]  # fmt: skip
    for isa in lines_of:
        low, high = time(isa, square, 0.05, "ours"), time(isa, square, 0.2, "ours")
        if low and high:
            rows.append((f"256x384x384, {isa}: ours at 20 % / at 5 %", "", f"{high / low:.2f}x"))
    for line in shares:
        if line["rate"] == 0.2:
            what = f"accumulator, {line['isa']}, share of the full adders' limit"
            rows.append((what, "", _share(line)))
    return rows


def print_named(console: Console, rows: list[tuple[str, str, str]]) -> None:
    """Print the promised numbers."""
    table = Table(title="in short, one thread")
    table.add_column("number")
    table.add_column("to be reached", justify="right")
    table.add_column("found", justify="right", style="bold")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def main() -> int:
    """Build, measure and print."""
    parser = argparse.ArgumentParser(description="kernels against dense rivals and limits")
    parser.add_argument("--isa", action="append", choices=ISAS, help="default: all of this machine")
    parser.add_argument("--quick", action="store_true", help="linear layers of 256 rows, 4 rates")
    parser.add_argument(
        "--reps", type=int, default=11, help="samples of every contender in each run"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    arguments = parser.parse_args()
    console = Console(quiet=arguments.json, width=None if sys.stdout.isatty() else 160)
    program = toolchain.build_program(HERE / "kernels_bench.c")
    limits = run(toolchain.build_program(HERE / "roofline.c"))
    print_limits(console, limits)
    shapes = LINEAR[:3] if arguments.quick else LINEAR + CONVOLUTIONS
    rates = QUICK_RATES if arguments.quick else RATES
    lines_of: dict[str, list[dict[str, Any]]] = {}
    shares: list[dict[str, Any]] = []
    for isa in arguments.isa or usable_isas(program):
        lines_of[isa] = measure(program, isa, shapes, rates, arguments.reps)
        print_layers(console, isa, lines_of[isa])
        shares += accumulator_shares(isa, lines_of[isa], limits)
    if shares:
        print_shares(console, shares)
    named = named_ratios(lines_of, shares)
    print_named(console, named)
    if arguments.json:
        result = {"limits": limits, "layers": lines_of, "accumulator": shares, "named": named}
        print(json.dumps(result, indent=2))
    wrong = [x for lines in lines_of.values() for x in lines if not x.get("equal", True)]
    return 5 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
