"""Plots and small files of the reports. matplotlib is imported here alone, inside functions."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from training.errors import MissingPackageError, OutputError


def require():
    """Return matplotlib.pyplot, drawing into files.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise MissingPackageError(
            "plots need matplotlib, which is not installed",
            hint="pip install 'bestdeploy[train]'",
        ) from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def write_text(path: Path, text: str) -> None:
    """Write a text file, all or nothing.

    Raises:
        OutputError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror}", hint="does the folder exist?"
        ) from error


def _save(figure, path: Path) -> None:
    try:
        figure.savefig(path, dpi=120, bbox_inches="tight", metadata={"Software": None})
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error}") from error
    finally:
        require().close(figure)


def curves(
    series: Mapping[str, Sequence[tuple[float, float]]],
    path: Path,
    *,
    x: str,
    y: str,
    at: Mapping[str, Sequence[float]] | None = None,
) -> None:
    """Lines of (mean, deviation) with error bars; abscissae 0, 1, .. unless given in ``at``."""
    figure, axes = require().subplots(figsize=(6, 4))
    for name, points in series.items():
        where = list(range(len(points))) if at is None else list(at[name])
        means, deviations = zip(*points, strict=True)
        axes.errorbar(where, means, deviations, marker="o", capsize=3, label=name)
    axes.set(xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    axes.legend()
    _save(figure, path)


def bars(values: Mapping[str, tuple[float, float]], path: Path, *, y: str, title: str) -> None:
    """Bars of (mean, deviation); the axis does not begin at 0 and says so by its numbers."""
    figure, axes = require().subplots(figsize=(max(5, 1.3 * len(values)), 4))
    means, deviations = zip(*values.values(), strict=True)
    axes.bar(list(values), means, yerr=deviations, capsize=4, color="tab:blue")
    low = min(m - d for m, d in values.values())
    high = max(m + d for m, d in values.values())
    margin = max(high - low, 1e-3)
    axes.set_ylim(max(0.0, low - margin), high + margin / 2)
    axes.set(ylabel=y, title=title)
    axes.grid(axis="y", alpha=0.3)
    axes.tick_params(axis="x", rotation=20)
    _save(figure, path)


def cost(points: Mapping[str, Sequence[tuple[float, float, float]]], path: Path) -> None:
    """Accuracy against NS-ACE (M) and against size (kB), one point per checkpoint."""
    figure, (left, right) = require().subplots(1, 2, figsize=(9, 4), sharey=True)
    for name, found in points.items():
        ace, size, accuracy = zip(*found, strict=True)
        left.scatter(ace, accuracy, label=name)
        right.scatter(size, accuracy, label=name)
    left.set(xlabel="NS-ACE, M", ylabel="accuracy, %")
    right.set(xlabel="size, kB")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    right.legend()
    _save(figure, path)
