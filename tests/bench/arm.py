"""The cost of ARM without an ARM machine: executed instructions, and a model of the inner loops.

    python tests/bench/arm.py [MODEL.bstm]... [--json]

Event-driven against dense NEON kernels, layer by layer instructions of whole models (a random
network of two blocks of 64 channels and the shipped checkpoint where none is given), llvm-mca.
Everything is executed instructions of an emulated program or a modelled loop: nothing is time.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]

import insn_counts  # noqa: E402
import mca  # noqa: E402
from insn_counts import LABEL, CannotCountError  # noqa: E402

from bestdeploy import deploy, toolchain  # noqa: E402
from bestdeploy.errors import MissingToolError  # noqa: E402

SHAPE = (8, 8, 384, 384, 1)
RATES = (0.05, 0.1, 0.2)
GOAL = 4.0
CHECKPOINTS = HERE.parents[1] / "examples" / "checkpoints"


def default_models(folder: Path) -> dict[str, Path]:
    """Export and compile a random network of 2 blocks of 64 channels, and what is shipped."""
    from random_nets import Spec, save

    spec = Spec(seed=5, dim=64, heads=4, depth=2, n_steps=4, size=32, channels=3, classes=10)
    checkpoints = {"random 2-64": save(folder / "random.pt", spec)}
    checkpoints |= {path.stem: path for path in sorted(CHECKPOINTS.glob("*.pt"))}
    return {name: _compiled(path, folder / path.stem) for name, path in checkpoints.items()}


def _compiled(checkpoint: Path, folder: Path) -> Path:
    folder.mkdir()
    deploy.export(checkpoint, folder / "model.onnx")
    deploy.compile(folder / "model.onnx", output=folder / "bundle")
    return folder / "bundle" / "model.bstm"


def kernel_counts(target: str = "arm") -> list[dict[str, Any]]:
    """Return event-driven and dense kernels of one layer at all rates."""
    return insn_counts.count_kernels(target, SHAPE, RATES, "neon")


def print_kernels(console: Console, counted: list[dict[str, Any]]) -> None:
    """Print contenders side by side, per row of spikes, and the ratio to ours."""
    table = Table(title=f"384 -> 384, 256 rows, arm64, NEON: {LABEL}, per row")
    for head in ("rate", "ours", "dense vcnt", "dense / ours", "dense popcnt", "equal"):
        table.add_column(head, justify="right")
    for rate in RATES:
        lines = {line["contender"]: line for line in counted if line["rate"] == rate}
        ours, dense = lines["ours"], lines["dense vcnt"]
        table.add_row(
            f"{rate:.0%}",
            _per_row(ours),
            _per_row(dense),
            f"{dense['instructions'] / ours['instructions']:.2f}x",
            _per_row(lines["dense popcnt"]),
            "yes" if all(line["equal"] for line in lines.values()) else "NO",
        )
    console.print(table)
    at_10 = {line["contender"]: line["instructions"] for line in counted if line["rate"] == 0.1}
    console.print(
        f"dense NEON / ours, 384 -> 384 at 10 %: {at_10['dense vcnt'] / at_10['ours']:.2f} "
        f"(to be reached: {GOAL})"
    )
    for line in counted:
        if line["contender"] == "ours" and line["rate"] == 0.1:
            console.print(f"ours at 10 % by function: {_functions(line)}")


def _per_row(line: dict[str, Any]) -> str:
    return f"{line['instructions'] / line['rows']:,.0f}"


def _functions(line: dict[str, Any]) -> str:
    most = sorted(line["by_function"].items(), key=lambda item: -item[1])[:4]
    total = line["instructions"]
    return ", ".join(f"{name or '(no symbol)'} {n / total:.0%}" for name, n in most)


def print_layers(console: Console, name: str, layers: dict[str, list[dict[str, Any]]]) -> None:
    """Print the steps of a model, a column of instructions per target."""
    targets = list(layers)
    table = Table(title=f"{name}: {LABEL}, one frame, one thread")
    for head in ("layer", "op", "firing rate"):
        table.add_column(head, justify="right" if head == "firing rate" else "left")
    for target in targets:
        table.add_column(target, justify="right")
    for steps in zip(*layers.values(), strict=True):
        first = steps[0]
        rate = "" if first["rate"] < 0 else f"{first['rate']:.1%}"
        counts = [f"{step['instructions']:,}" for step in steps]
        table.add_row(first["name"], first["op"], rate, *counts)
    sums = [f"{sum(step['instructions'] for step in layers[t]):,}" for t in targets]
    table.add_row("all layers", "", "", *sums, style="bold")
    console.print(table)


def modelled_loops() -> list[dict[str, Any]]:
    """Return llvm-mca's cycles of the inner loops: per 8 rows of 128 lanes, per 1024 MAC."""
    program = toolchain.build_program(
        HERE / "kernels_bench.c", "arm", extra_flags=insn_counts.KEEP_SYMBOLS
    )
    event, dense = mca.accumulate_loop(), mca.dense_loop(program)
    found = []
    for core in mca.CORES:
        per_8_rows = mca.cycles(event, core) * 8 / mca.rows_per_round(event)
        per_1024 = mca.cycles(dense, core) * 1024 / mca.macs_per_round(dense)
        # 8 rows x 128 lanes are 1024 / rate MAC of a dense kernel
        found.append({"core": core, "event": per_8_rows, "dense": per_1024,
                      "ratio_10": 10 * per_1024 / per_8_rows})  # fmt: skip
    return found


def print_loops(console: Console, loops: list[dict[str, Any]]) -> None:
    """Print the modelled loops."""
    table = Table(title="inner loops in llvm-mca: modelled cycles, advisory, no machine")
    for head in ("core", "event: 8 rows x 128 lanes", "dense: 1024 MAC", "ratio at 10 %"):
        table.add_column(head, justify="left" if head == "core" else "right")
    for line in loops:
        numbers = (f"{line['event']:.1f}", f"{line['dense']:.1f}", f"{line['ratio_10']:.1f}x")
        table.add_row(line["core"], *numbers)
    console.print(table)


def main() -> int:
    """Count, model and print."""
    parser = argparse.ArgumentParser(description="ARM cost: instruction counts, never time")
    parser.add_argument("models", nargs="*", type=Path, metavar="MODEL.bstm")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    arguments = parser.parse_args()
    console = Console(quiet=arguments.json, width=None if sys.stdout.isatty() else 120)
    result: dict[str, Any] = {"unit": LABEL, "models": {}, "skipped": []}

    def skipped(what: str, error: Exception) -> None:
        result["skipped"].append(f"{what}: {error}")
        console.print(f"skipped: {what}: {error}", soft_wrap=True)

    try:
        result["kernels"] = kernel_counts()
        print_kernels(console, result["kernels"])
    except (CannotCountError, MissingToolError) as error:
        skipped("kernels", error)
    try:
        result["loops"] = modelled_loops()
        print_loops(console, result["loops"])
    except (mca.NoModelError, MissingToolError) as error:
        skipped("llvm-mca", error)
    with tempfile.TemporaryDirectory() as folder:
        models = {path.name: path for path in arguments.models} or default_models(Path(folder))
        for name, path in models.items():
            layers: dict[str, list[dict[str, Any]]] = {}
            for target in ("arm", "armv7"):
                try:
                    layers[target] = insn_counts.count_layers(path, target)
                except (CannotCountError, MissingToolError) as error:
                    skipped(f"layers of {name} for {target}", error)
            if layers:
                result["models"][name] = layers
                print_layers(console, name, layers)
    if arguments.json:
        print(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
