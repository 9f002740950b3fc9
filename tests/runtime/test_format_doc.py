"""FORMAT.md shows the smallest valid file; it is the golden file, and the writer makes it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import programs
import reference
from test_model_file import Loaded

from bestdeploy.emit.bstm import read_bstm, write_bstm

ROOT = Path(__file__).parents[2]
DOC = ROOT / "runtime" / "FORMAT.md"
GOLDEN = ROOT / "tests" / "golden" / "minimal.bstm"


def hexdump(content: bytes) -> str:
    """Rows of 16 bytes; runs of all-zero rows become one `*`."""
    lines: list[str] = []
    for at in range(0, len(content), 16):
        row = content[at : at + 16]
        if any(row) or len(row) < 16:
            text = "".join(chr(b) if 32 <= b < 127 else "." for b in row)
            lines.append(f"{at:04x}  {row.hex(' '):<47}  {text}".rstrip())
        elif lines[-1] != "*":
            lines.append("*")
    return "\n".join(lines)


def test_writer_makes_the_golden_file():
    assert write_bstm(programs.minimal()) == GOLDEN.read_bytes()


def test_hexdump_of_the_page_is_the_golden_file():
    shown = re.findall(r"```\n(.*?)\n?```", DOC.read_text(), flags=re.DOTALL)[-1]
    assert shown == hexdump(GOLDEN.read_bytes())


def test_golden_file_runs(library):
    content = GOLDEN.read_bytes()
    program = read_bstm(content)
    for value in (0, 100, 255):
        frame = np.full((1, 1, 1), value, np.uint8)
        raw, _ = reference.run(program, frame)
        np.testing.assert_array_equal(Loaded(library, content).run(frame, 1), raw)
