"""Writing files atomically: the whole new content is there, or the old; never a half."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from bestdeploy.errors import OutputError

__all__ = ["write_file", "write_files"]


def write_file(path: str | Path, data: bytes) -> None:
    """Write one file atomically.

    Raises:
        OutputError: the folder or the file cannot be written.
    """
    write_files({Path(path): data})


def write_files(contents: Mapping[Path, bytes]) -> None:
    """Write several files that belong together: all of them, or none.

    Every file is written under a temporary name beside its place first; only when all are complete
    are they renamed. A place that is a folder is refused before.

    Raises:
        OutputError: a folder or file cannot be written; nothing was changed.
    """
    written: list[tuple[str, Path]] = []
    path = Path()
    try:
        for path, data in contents.items():
            if path.is_dir():
                raise IsADirectoryError(0, "it is a folder")
            path.parent.mkdir(parents=True, exist_ok=True)
            written.append((_write_beside(path, data), path))
        for temporary, path in written:
            Path(temporary).replace(path)
    except OSError as e:
        raise OutputError(
            f"cannot write `{path}`: {e.strerror or e}",
            where=str(path),
            hint="choose a folder you may write to with -o",
        ) from e
    finally:
        for temporary, _ in written:
            Path(temporary).unlink(missing_ok=True)


def _write_beside(path: Path, data: bytes) -> str:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as f:
            f.write(data)
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return temporary
