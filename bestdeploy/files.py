"""Writing files atomically: the whole new content is there, or the old; never a half."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from bestdeploy.errors import OutputError

__all__ = [
    "cannot_write",
    "check_writable",
    "replaced_folder",
    "work_folder",
    "write_file",
    "write_files",
]


def check_writable(path: Path, option: str = "-o") -> None:
    """Try whether a file can be written, before long work; leave nothing behind.

    Raises:
        OutputError: it cannot; the hint names the command line's `option`.
    """
    made: list[Path] = []
    probe = _name_beside(path)
    try:
        if path.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        for folder in reversed([p for p in path.parents if not p.exists()]):
            folder.mkdir()
            made.append(folder)
        probe.touch(exist_ok=False)
    except OSError as e:
        raise cannot_write(path, e, option) from e
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
        for folder in reversed(made):
            with suppress(OSError):
                folder.rmdir()


def write_file(path: str | Path, data: bytes, option: str = "-o") -> None:
    """Write one file atomically.

    Raises:
        OutputError: the folder or the file cannot be written; the hint names the `option`.
    """
    write_files({Path(path): data}, option)


def write_files(contents: Mapping[Path, bytes], option: str = "-o") -> None:
    """Write several files that belong together: all of them, or none.

    Every file is written under a temporary name beside its place first; only when all are complete
    are they renamed. A place that is a folder is refused before.

    Raises:
        OutputError: a folder or file cannot be written; nothing was changed. The hint names the
            command line's `option`.
    """
    beside = {path: _name_beside(path) for path in contents}
    path = Path()
    try:
        for path, data in contents.items():
            if path.is_dir():
                raise IsADirectoryError(0, "it is a folder")
            path.parent.mkdir(parents=True, exist_ok=True)
            with beside[path].open("xb") as f:
                f.write(data)
        for path, temporary in beside.items():
            temporary.replace(path)
    except OSError as e:
        raise cannot_write(path, e, option) from e
    finally:
        for temporary in beside.values():
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def cannot_write(path: Path, error: Exception, option: str = "-o") -> OutputError:
    """Return the error of a file or folder that cannot be written, with the system's reason."""
    return OutputError(
        f"cannot write `{path}`: {getattr(error, 'strerror', None) or error}",
        where=str(path),
        hint=f"choose a folder you may write to with {option}",
    )


def _name_beside(path: Path) -> Path:
    """Return a new hidden name in the folder of `path`.

    It is chosen before anything is made under it, so that whoever is interrupted while making it
    knows what to remove.
    """
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}")


@contextmanager
def work_folder(place: Path) -> Iterator[Path]:
    """Give an empty private folder beside `place`; it is gone afterwards unless it was renamed.

    Raises:
        OSError: it cannot be made.
    """
    work = _name_beside(place)
    try:
        work.mkdir(mode=0o700)
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """Give an empty work folder; when the block ends well it takes the place of `folder`.

    It lies beside `folder`, so that the last step is a rename. When the block fails, nothing is
    left and `folder` is as it was. A link stays, and leads to the new folder.

    Raises:
        OutputError: the work folder cannot be made, or not be put in place.
    """
    place = folder.resolve()
    with ExitStack() as stack:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            work = stack.enter_context(work_folder(place))
            work.chmod(0o755)
        except OSError as e:
            raise cannot_write(folder, e) from e
        yield work
        _put_in_place(work, place, folder)


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
