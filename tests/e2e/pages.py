"""Reading the documentation: code blocks, inline commands, and a folder to run them in."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def blocks(page: str) -> list[tuple[str, str]]:
    """Return (kind, text) of every code block: "python", or "indented"."""
    found = []
    fenced = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
    either = re.compile(r"^```\w*\n.*?^```$|(?:^ {4}[^\n]*\n)+", re.DOTALL | re.MULTILINE)
    for match in either.finditer(page):
        inside = fenced.fullmatch(match[0])
        if inside:
            found.append((inside[1], inside[2]))
        else:
            found.append(("indented", textwrap.dedent(match[0])))
    return found


def commands(text: str) -> list[str]:
    """Return the shell commands of a block, continued lines joined, comments dropped."""
    joined = text.replace("\\\n", " ")
    return [line.split("  #")[0].strip() for line in joined.splitlines() if line.strip()]


def inline(page: str) -> list[str]:
    """Return what stands between backquotes in the text around the blocks."""
    text = re.sub(r"^```\w*\n.*?^```$|^ {4}[^\n]*\n", "", page, flags=re.DOTALL | re.MULTILINE)
    return [" ".join(found.split()) for found in re.findall(r"`([^`]+)`", text)]


def install(folder: Path) -> None:
    """Put `bestdeploy` and `python` into bin/ of a folder; `run` finds them there."""
    (folder / "bin").mkdir()
    python = f'#!/bin/sh\nexec "{sys.executable}"'
    for name, text in (("bestdeploy", f'{python} -m bestdeploy.cli "$@"\n'),
                       ("python", f'{python} "$@"\n')):  # fmt: skip
        program = folder / "bin" / name
        program.write_text(text)
        program.chmod(program.stat().st_mode | stat.S_IXUSR)


def run(
    command: list[str], folder: Path, *, home: Path | None = None, **env: str
) -> subprocess.CompletedProcess:
    """Run words in a folder, with the programs of `install` in `home` (None = the folder)."""
    path = f"{(home or folder) / 'bin'}:{os.environ['PATH']}"
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PATH": path, **env},
        capture_output=True,
        text=True,
        check=False,
    )


def shell(
    command: str, folder: Path, *, home: Path | None = None, **env: str
) -> subprocess.CompletedProcess:
    """Run a command line as the page shows it."""
    return run(["bash", "-o", "pipefail", "-c", command], folder, home=home, **env)
