"""Train every case of a grid with several seeds; write a table and a plot.

    python -m training.ablate --config training/configs/ablation_cifar10.toml \
        --data cifar10 --data-dir DIR --out FOLDER

The config is a recipe ([model], [train], [data], [distill]) with

    title = "..."                what the table is called
    seeds = [1, 2, 3]
    average = true               a last row with the mean over cases, as of a cross-validation
    [teacher.model] ..           a network that is trained first (tables as in a recipe; [data] is
    [teacher.train] ..           shared) and becomes the teacher of every case with [distill]
    [[case]]
    name = "baseline"
    series = "CIE off", x = 2    both or neither: a line of the plot and a place on its axis
    set = { "model.residual" = "plain", "distill" = false }     what this case changes

Each run writes FOLDER/NAME-SEED.pt as `python -m training.train` does. What is finished is not
trained again and what was interrupted goes on, so the same command ends a grid that was stopped.
Accuracies are those of the last epoch. After every run the table is written anew.
"""

from __future__ import annotations

import argparse
import csv
import io
import re
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from training import checkpoint, config, data, engine, plots, train
from training.errors import CheckpointError, ConfigError, OutputError, guarded
from training.measure import mean_and_deviation

KEYS = {"title", "seeds", "average", "teacher", "case", *config.TABLES}
CASE_KEYS = {"name", "series", "x", "set"}


@dataclass(frozen=True)
class Case:
    """One row of the table: its recipe as tables, and its place in the plot."""

    name: str
    tables: dict
    series: str | None = None
    x: float | None = None


@dataclass(frozen=True)
class Grid:
    """A whole config."""

    title: str
    seeds: tuple[int, ...]
    teacher: dict | None
    cases: tuple[Case, ...]
    average: bool = False


def _case(case: dict, base: dict, where: str) -> Case:
    unknown = sorted(set(case) - CASE_KEYS)
    if unknown:
        raise ConfigError(f"unknown key {', '.join(unknown)}", where=f"{where} [[case]]")
    name = case.get("name")
    if not isinstance(name, str) or not re.fullmatch(r"[\w.+-]+", name):
        raise ConfigError(
            f"name is {name!r}, expected letters, digits, . + - _", where=f"{where} [[case]]"
        )
    if ("x" in case) != ("series" in case):
        raise ConfigError(f"case {name}: series and x come together", where=f"{where} [[case]]")
    tables = config.changed(base, case.get("set", {}))
    return Case(name, tables, case.get("series"), case.get("x"))


def parse(tables: dict, where: str) -> Grid:
    """A grid from TOML tables.

    Raises:
        ConfigError: unknown keys, no cases, or names that occur twice.
    """
    unknown = sorted(set(tables) - KEYS)
    if unknown:
        raise ConfigError(
            f"unknown key {', '.join(unknown)}",
            where=where,
            hint=f"known: {', '.join(sorted(KEYS))}",
        )
    base = {k: tables[k] for k in config.TABLES if k in tables}
    cases = tuple(_case(c, base, where) for c in tables.get("case", []))
    names = [c.name for c in cases]
    if not cases or len(set(names)) != len(names):
        raise ConfigError(f"[[case]] names: {names}; at least one, each once", where=where)
    if len({c.x is None for c in cases}) > 1:
        raise ConfigError("either every case has series and x, or none", where=where)
    seeds = tables.get("seeds", [42])
    if not seeds or not all(isinstance(s, int) for s in seeds):
        raise ConfigError(f"seeds is {seeds!r}, expected a list of whole numbers", where=where)
    title, teacher = tables.get("title", "Ablation"), tables.get("teacher")
    return Grid(title, tuple(seeds), teacher, cases, tables.get("average") is True)


def _finished(path: Path, c: config.Config, dataset: data.Dataset) -> bool:
    """Whether the file holds the last epoch of this very recipe.

    Raises:
        CheckpointError: it holds another recipe.
    """
    if not path.is_file():
        return False
    ckpt = checkpoint.load(path)
    wanted = train.checkpoint_args(c.model_config(dataset), c.train, c.distill, dataset)
    differ = train.differences(train.with_defaults(ckpt["args"]), wanted)
    if differ:
        raise CheckpointError(
            f"{path} was made with another configuration; these differ: {', '.join(differ)}",
            hint="use another --out, or delete the file",
        )
    return ckpt["epoch"] + 1 == c.train.epochs + c.train.cooldown_epochs


class _Runner:
    """Trains recipes on one data set, each once."""

    def __init__(self, args: argparse.Namespace, world: engine.World, bars) -> None:
        self.args, self.world, self.bars = args, world, bars
        self.opened: dict = {}

    def _splits(self, c: config.Config):
        key = (c.data, c.n_steps)
        if key not in self.opened:
            self.opened = {key: data.open_split(self.args.data, self.args.data_dir, *key)}
        return self.opened[key]

    def check(self, tables: dict, where: str) -> None:
        """Parse a recipe and its network, so that mistakes are told before anything is trained."""
        c = config.parse(tables, where)
        dataset, splits = self._splits(c)
        train.check_together(
            c.model_config(dataset), c.train, c.distill, len(splits["train"]), self.world.size
        )

    def run(self, tables: dict, seed: int, out: Path) -> float:
        """Train, or go on, or read what is there; returns the accuracy."""
        c = config.parse(config.changed(tables, {"train.seed": seed}), str(out))
        dataset, splits = self._splits(c)
        if not _finished(out, c, dataset):
            print(f"training {out}", file=sys.stderr)
            train.run(
                dataset,
                splits,
                c.model_config(dataset),
                c.train,
                out,
                distill=c.distill,
                resume=out.with_suffix(".resume").is_file(),
                progress=self.bars.start_epoch,
                world=self.world,
            )
        return checkpoint.load(out)["metric"]


def _table(grid: Grid, found: dict[str, list[float]]) -> tuple[str, str]:
    """Markdown and CSV of what has been measured so far, accuracies in percent."""
    lines = [f"# {grid.title}", "", "| case | accuracy % | seeds | each |", "|---|---|---|---|"]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["case", "mean", "deviation", *grid.seeds])
    for name, values in found.items():
        mean, deviation = mean_and_deviation(values)
        each = ", ".join(f"{v:.2f}" for v in values)
        lines.append(f"| {name} | {mean:.2f} +- {deviation:.2f} | {len(values)} | {each} |")
        writer.writerow([name, f"{mean:.4f}", f"{deviation:.4f}", *(f"{v:.4f}" for v in values)])
    if grid.average:
        mean, deviation = mean_and_deviation([statistics.fmean(v) for v in found.values()])
        lines.append(f"| mean of {len(found)} cases | {mean:.2f} +- {deviation:.2f} | | |")
    return "\n".join(lines) + "\n", text.getvalue()


def _plot(grid: Grid, found: dict[str, list[float]], path: Path) -> None:
    spread = {name: mean_and_deviation(values) for name, values in found.items()}
    if grid.cases[0].x is None:
        plots.bars(spread, path, y="accuracy, %", title=grid.title)
        return
    series: dict[str, list] = {}
    at: dict[str, list] = {}
    for case in sorted(grid.cases, key=lambda c: c.x or 0):
        if case.name in spread:
            series.setdefault(case.series or "", []).append(spread[case.name])
            at.setdefault(case.series or "", []).append(case.x)
    plots.curves(series, path, x="x", y="accuracy, %", at=at)


def _write(grid: Grid, found: dict[str, list[float]], out: Path) -> str:
    markdown, text = _table(grid, found)
    plots.write_text(out / "table.md", markdown)
    plots.write_text(out / "table.csv", text)
    _plot(grid, found, out / "plot.png")
    return markdown


def _teacher_tables(grid: Grid, tables: dict) -> dict:
    """The teacher's recipe on the data of the cases."""
    shared = {"data": tables["data"]} if "data" in tables else {}
    return shared | grid.teacher


def _work(args: argparse.Namespace) -> None:
    if args.threads:
        torch.set_num_threads(args.threads)
    plots.require()
    tables = config.read_tables(args.config)
    if args.set:
        tables |= config.changed({k: tables[k] for k in config.TABLES if k in tables},
                                 dict(map(_assignment, args.set)))  # fmt: skip
    grid = parse(tables, args.config)
    out = Path(args.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make {out}: {error.strerror}", where="--out") from error
    found: dict[str, list[float]] = {}
    with engine.world(args.device) as world, train.progress_bar() as bars:
        runner = _Runner(args, world, bars)
        for case in grid.cases:
            runner.check(case.tables, f"{args.config}, case {case.name}")
        if grid.teacher is not None:
            recipe = _teacher_tables(grid, tables)
            seed = config.parse(recipe, "teacher").train.seed
            accuracy = runner.run(recipe, seed, out / "teacher.pt")
            print(f"teacher: {100 * accuracy:.2f} %", file=sys.stderr)
        markdown = ""
        for seed in grid.seeds:
            for case in grid.cases:
                recipe = case.tables
                if grid.teacher is not None and "distill" in recipe:
                    recipe = config.changed(recipe, {"distill.teacher": str(out / "teacher.pt")})
                accuracy = runner.run(recipe, seed, out / f"{case.name}-{seed}.pt")
                found.setdefault(case.name, []).append(100 * accuracy)
                if world.first:
                    markdown = _write(grid, found, out)
    if world.first:
        print(markdown, end="")


def _assignment(text: str) -> tuple[str, object]:
    """``table.key=value`` with a TOML value."""
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--set {text}: expected table.key=value")
    try:
        return key, config.tomllib.loads(f"v = {value}")["v"]
    except config.tomllib.TOMLDecodeError as error:
        raise ConfigError(f"--set {text}: {value} is not a TOML value") from error


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training.ablate", description="Train a grid of cases with several seeds."
    )
    train.add_common_arguments(parser)
    parser.add_argument("--config", required=True, help="TOML file; see training/configs/")
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument(
        "--set", action="append", default=[], metavar="TABLE.KEY=VALUE", help="replaces a setting"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Command line entry; returns the exit code."""
    return guarded(_parse, _work, argv)


if __name__ == "__main__":
    sys.exit(main())
