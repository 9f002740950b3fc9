"""Writing files atomically: the whole new content is there, or the old; never a half."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from bestdeploy.errors import OutputError

__all__ = ["cannot_write", "replaced_folder", "write_file", "write_files"]


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
        raise cannot_write(path, e) from e
    finally:
        for temporary, _ in written:
            Path(temporary).unlink(missing_ok=True)


def cannot_write(path: Path, error: Exception) -> OutputError:
    """Return the error of a file or folder that cannot be written, with the system's reason."""
    return OutputError(
        f"cannot write `{path}`: {getattr(error, 'strerror', None) or error}",
        where=str(path),
        hint="choose a folder you may write to with -o",
    )


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """Give an empty work folder; when the block ends well it takes the place of `folder`.

    It lies beside `folder`, so that the last step is a rename. When the block fails, nothing is
    left and `folder` is as it was. A link stays, and leads to the new folder.

    Raises:
        OutputError: the work folder cannot be made, or not be put in place.
    """
    place = folder.resolve()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=place.parent))
        work.chmod(0o755)
    except OSError as e:
        raise cannot_write(folder, e) from e
    try:
        yield work
        _put_in_place(work, place, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _put_in_place(work: Path, place: Path, named: Path) -> None:
    old = work.with_name(work.name + ".old")
    try:
        if place.exists():
            place.rename(old)
        try:
            work.rename(place)
        except OSError:
            with suppress(OSError):
                old.rename(place)
            raise
    except OSError as e:
        raise cannot_write(named, e) from e
    shutil.rmtree(old, ignore_errors=True)


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
