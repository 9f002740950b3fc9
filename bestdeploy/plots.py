"""Pictures of what `bench` measured, the one room that imports matplotlib. PNG or SVG."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bestdeploy import files
from bestdeploy.errors import MissingToolError, OutputError, UsageError

if TYPE_CHECKING:
    from bestdeploy._bench import BenchReport, BenchRow

__all__ = ["check", "curve", "latency"]

SUFFIXES = (".png", ".svg")
_OURS, _EXACT, _CHANGED = "#1b6ca8", "#6b7280", "#c2410c"
_MARKERS = "os^Dv"


def check(path: str | Path) -> None:
    """Refuse a picture that cannot be drawn or written, before anything is measured.

    Raises:
        UsageError: neither .png nor .svg.
        OutputError: no file can be written there.
        MissingToolError: matplotlib is not installed.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(
            f"--plot {path} must end in {' or '.join(SUFFIXES)}", hint="--plot bench.png"
        )
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise OutputError(
            f"cannot write a picture to `{path}`",
            where=str(path),
            hint="choose a file in a folder you may write to",
        )
    _figure_class()


def latency(report: BenchReport, title: str, path: str | Path) -> None:
    """Draw a point per engine: median with p10 to p90, and whether it keeps the answer."""
    rows = report.rows
    figure, axes = _figure(width=8.0, height=1.5 + 0.55 * len(rows))
    for y, row in enumerate(rows):
        color = _color(row)
        middle = row.median_us / 1e3
        spread = [[middle - row.p10_us / 1e3], [row.p90_us / 1e3 - middle]]
        axes.errorbar(middle, y, xerr=spread, fmt="o", color=color, capsize=4, markersize=7)
        text = f"{middle:.3g} ms"
        if row.name != "c":
            text += f"   {row.ratio:.2f}x [{row.ratio_low:.2f}, {row.ratio_high:.2f}]"
        axes.annotate(text, (middle, y), xytext=(0, 8), textcoords="offset points", ha="center",
                      fontsize=8, color=color)  # fmt: skip
    axes.set_yticks(range(len(rows)), [_label(row) for row in rows], fontsize=9)
    axes.set_ylim(len(rows) - 0.4, -0.75)
    _log_axis(axes, "x", [v / 1e3 for row in rows for v in (row.p10_us, row.p90_us)])
    axes.set_xlabel("ms per frame (log): median, p10 to p90; ratios to ours with 95 % interval")
    axes.set_title(f"{title}, batch 1, threads {rows[-1].threads}", fontsize=10)
    axes.grid(True, axis="x", which="both", alpha=0.25)
    _write(figure, path)


def curve(reports: Sequence[BenchReport], title: str, path: str | Path) -> None:
    """Draw latency over measured firing rate, a line per engine, from one report per rate."""
    figure, axes = _figure(width=7.5, height=4.8)
    rates = [100 * (report.firing_rate or 0.0) for report in reports]
    every: list[float] = []
    for i in range(len(reports[0].rows)):
        rows = [report.rows[i] for report in reports]
        middle = [row.median_us / 1e3 for row in rows]
        below = [m - row.p10_us / 1e3 for m, row in zip(middle, rows, strict=True)]
        above = [row.p90_us / 1e3 - m for m, row in zip(middle, rows, strict=True)]
        every += [v / 1e3 for row in rows for v in (row.p10_us, row.p90_us)]
        name = "bestdeploy" if rows[0].name == "c" else rows[0].name
        if rows[0].variant:
            name += f" ({', '.join(sorted({row.variant for row in rows}))})"
        axes.errorbar(rates, middle, yerr=[below, above], fmt=f"{_MARKERS[i % 5]}-", capsize=3,
                      label=name, color=_OURS if i == 0 else f"C{i}")  # fmt: skip
    _log_axis(axes, "y", every)
    axes.set_xlim(0, 1.08 * max(rates))
    axes.set_xlabel("measured firing rate, mean over all layers (%)")
    axes.set_ylabel("ms per frame (log): median, p10 to p90")
    axes.set_title(f"{title}, batch 1, threads {reports[0].rows[-1].threads}", fontsize=10)
    axes.grid(True, which="both", alpha=0.25)
    axes.legend(fontsize=9)
    _write(figure, path)


def _label(row: BenchRow) -> str:
    name = "bestdeploy" if row.name == "c" else row.name
    parts = [f"{name}\n{row.variant}" if row.variant else name]
    if row.answer is not None:
        parts.append(row.answer.mark)
    return "\n".join(parts)


def _color(row: BenchRow) -> str:
    if row.name == "c":
        return _OURS
    return _EXACT if row.answer is None or row.answer.mark == "exact" else _CHANGED


def _figure_class() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingToolError(
            "matplotlib is not installed", hint="pip install 'bestdeploy[bench]'"
        ) from error
    return Figure


def _figure(width: float, height: float) -> tuple[Any, Any]:
    """Return a figure and its axes; no window system and no global state is touched."""
    figure = _figure_class()(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _log_axis(axes: Any, which: str, values: Sequence[float]) -> None:
    """Make an axis logarithmic, with plain numbers at its ticks, wide enough for the values."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis = getattr(axes, f"{which}axis")
    getattr(axes, f"set_{which}scale")("log")
    low, high = min(values), max(values)
    getattr(axes, f"set_{which}lim")(low / 1.7, high * 1.7)
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def _write(figure: Any, path: str | Path) -> None:
    picture = io.BytesIO()
    form = Path(path).suffix.lower().removeprefix(".")
    figure.savefig(picture, format=form, dpi=150, metadata={"Date": None} if form == "svg" else {})
    files.write_file(path, picture.getvalue())
