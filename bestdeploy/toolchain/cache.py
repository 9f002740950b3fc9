"""The folder of everything built.

A build happens in a temporary folder that is renamed into place under a file lock: concurrent
processes never see half a result.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bestdeploy.errors import OutputError
from bestdeploy.files import work_folder

__all__ = ["cache_folder", "cached"]


def cache_folder() -> Path:
    """Return the folder of everything built, made when missing.

    `$BESTDEPLOY_CACHE`, else `$XDG_CACHE_HOME/bestdeploy`, else `~/.cache/bestdeploy`; where that
    cannot be written, a private folder of this user under the system's temporary folder.
    """
    override = os.environ.get("BESTDEPLOY_CACHE")
    if override:
        folder = Path(override)
    else:
        base = os.environ.get("XDG_CACHE_HOME")
        folder = (Path(base) if base else Path("~/.cache").expanduser()) / "bestdeploy"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder.resolve()
    except OSError:
        if override:
            raise OutputError(
                f"the cache folder {folder} cannot be made", hint="set BESTDEPLOY_CACHE"
            ) from None
    user = os.getuid() if hasattr(os, "getuid") else 0
    private = Path(tempfile.gettempdir()) / f"bestdeploy-{user}"
    private.mkdir(mode=0o700, exist_ok=True)
    status = private.lstat()
    if not stat.S_ISDIR(status.st_mode) or (hasattr(os, "getuid") and status.st_uid != user):
        raise OutputError(
            f"{private} belongs to somebody else", hint="set BESTDEPLOY_CACHE to a folder of yours"
        )
    return private.resolve()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file, where the system has such locks."""
    try:
        import fcntl
    except ImportError:  # the rename alone keeps the cache consistent, work may be done twice
        yield
        return
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def cached(key: Sequence[str], name: str, make: Callable[[Path], None]) -> Path:
    """Return folder/name of the cache entry for `key`, made by `make(folder)` when missing."""
    root = cache_folder()
    entry = root / hashlib.sha256("\0".join(key).encode()).hexdigest()[:32]
    if (entry / name).exists():
        return entry / name
    locks = root / "locks"
    locks.mkdir(exist_ok=True)
    with _locked(locks / entry.name):
        if (entry / name).exists():
            return entry / name
        with work_folder(entry) as work:
            make(work)
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(entry)  # a damaged entry: it exists without the file
            try:
                work.replace(entry)
            except OSError:
                if not (entry / name).exists():  # else another process was first
                    raise
    return entry / name
