"""How the command line prints: results on stdout, everything else on stderr, JSON, aligned tables.

The text is the same with and without colour; colour is used on a terminal unless NO_COLOR is set.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = [
    "SCHEMA_VERSION",
    "duration",
    "message",
    "n_bytes",
    "plain",
    "print_json",
    "print_table",
    "printable",
    "progress_bar",
    "say",
]

SCHEMA_VERSION = 1
_COLORS = {"error": "31", "warning": "33", "hint": "36", "where": "2", "next": "32"}


def message(kind: str, text: str) -> None:
    """Print `kind: text` on stderr."""
    label = f"{kind}:"
    color = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    if color and kind in _COLORS:
        label = f"\033[{_COLORS[kind]}m{label}\033[0m"
    print(f"{label} {_lines(text)}", file=sys.stderr)


def say(text: str) -> None:
    """Print a line of progress on stderr."""
    print(_lines(text), file=sys.stderr, flush=True)


@contextlib.contextmanager
def progress_bar(label: str) -> Iterator[Callable[[int, int | None], None]]:
    """Show a bar on stderr while something counts; nothing where stderr is no terminal.

    The bar appears with the first count and goes with the last, so that lines may be printed before
    and after. Yields a function to call with the number done, and of all (None where unknown).
    """
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True, no_color=bool(os.environ.get("NO_COLOR")) or None)
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=True)
    task = bar.add_task(label, total=None)

    def count(done: int, total: int | None) -> None:
        bar.update(task, completed=done, total=total)
        if total is not None and done >= total:
            bar.stop()
        elif not bar.live.is_started:
            bar.start()

    try:
        yield count
    finally:
        bar.stop()


def printable(text: str) -> str:
    """Return text as a terminal may get it: control characters of names and files as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _lines(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))


def print_json(command: str, result: Any) -> None:
    """Print one JSON document: schema version, command, environment block, result."""
    from bestdeploy._environment import environment

    document = {
        "schema_version": SCHEMA_VERSION,
        "command": command,
        "environment": environment(),
        "result": plain(result),
    }
    print(json.dumps(document, indent=2, allow_nan=False))


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it: dataclasses, paths, numpy numbers and arrays."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, list | tuple | set):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value


def print_table(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print aligned columns on stdout; columns of numbers are aligned to the right."""
    texts = [[_cell(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headers, *texts, strict=True)]
    right = [
        bool(texts) and all(row[i][:1].isdigit() or row[i] in ("", "-") for row in texts)
        for i in range(len(headers))
    ]
    for row in ([*headers], *texts):
        cells = [
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(row, widths, right, strict=True)
        ]
        print("  ".join(cells).rstrip())


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return printable(str(value))


def n_bytes(count: int) -> str:
    """Return a size for people: 512 B, 12.3 kB, 4.5 MB."""
    if count < 1000:
        return f"{count} B"
    return f"{count / 1e3:.1f} kB" if count < 1e6 else f"{count / 1e6:.2f} MB"


def duration(microseconds: float) -> str:
    """Return a duration for people: 12.3 us, 4.56 ms."""
    return f"{microseconds:.1f} us" if microseconds < 1000 else f"{microseconds / 1000:.2f} ms"
