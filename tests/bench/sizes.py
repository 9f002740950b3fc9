"""Bytes of what is built: libbst.so of this machine, and the static bst_run for arm64, with musl.

    make sizes      (or: python tests/bench/sizes.py)

The second needs the ziglang package, whose first build compiles a C library (minutes). Sections are
those that a program is loaded with.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from bestdeploy import toolchain  # noqa: E402
from bestdeploy.errors import BestDeployError  # noqa: E402


def line(name: str, path: Path, limit: int) -> str:
    """Return one row of the table: bytes, and those that are asked for."""
    size = path.stat().st_size
    return f"{name:34s} {size:9,d} bytes   at most {limit:,d}: {'yes' if size <= limit else 'NO'}"


def main() -> int:
    print(line("libbst.so, this machine", toolchain.build_library(), 300_000))
    os.environ["BESTDEPLOY_CC"] = "zig"
    try:
        program = toolchain.build_program("bst_run", "arm")
    except BestDeployError as error:
        print(f"bst_run, static arm64 (musl)        not measured: {error}")
        return 0
    print(line("bst_run, static arm64 (musl)", program, 200_000))
    return 0


if __name__ == "__main__":
    sys.exit(main())
