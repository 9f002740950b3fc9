"""Where the C sources of the runtime are, and the hash that names a state of them."""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from bestdeploy.errors import MissingToolError

__all__ = ["find_sources", "library_sources", "ort_sources", "runtime_version", "source_hash"]


def find_sources() -> Path:
    """Return the folder with include/, src/, tools/ and cmake/ of the C runtime.

    It is the repository's `runtime/` where the package is used from a checkout, else the copy that
    travels in the wheel.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package.parent / "runtime", package / "_runtime"):
        if (folder / "include" / "bst.h").is_file():
            return folder
    raise MissingToolError(
        "the C sources of the runtime are missing from this installation",
        where=str(package / "_runtime"),
        hint="pip install --force-reinstall bestdeploy",
    )


def runtime_version() -> str:
    """Return BST_VERSION of bst.h, e.g. "0.1.0"."""
    text = (find_sources() / "include" / "bst.h").read_text("utf-8")
    found = re.search(r'^#define BST_VERSION "([0-9.]+)"$', text, flags=re.MULTILINE)
    return found[1] if found else "0.0.0"


def library_sources(root: Path) -> list[Path]:
    """Return the C files of the library below a runtime folder, sorted."""
    return sorted((root / "src").rglob("*.c"))


def ort_sources(root: Path, pattern: str = "*.c") -> list[Path]:
    """Return the files of the custom-op library below a runtime folder, sorted."""
    return sorted((root / "ort").glob(pattern))


def _headers(root: Path) -> list[Path]:
    found = list((root / "include").rglob("*.h"))
    for pattern in ("*.h", "*.inc"):
        found.extend((root / "src").rglob(pattern))
    return sorted(found)


def source_hash(extra: Sequence[Path] = ()) -> str:
    """Return the SHA-256 of the runtime's sources (names and contents), plus `extra` files.

    Sources that have not changed are not read again: models are loaded faster than 300 files.
    """
    root = find_sources()
    digest = _library_digest(root, _stamps(root)).copy()
    for path in extra:
        _add_file(digest, path.name, path)
    return digest.hexdigest()


def _stamps(root: Path) -> tuple[tuple[str, int, int], ...]:
    """Return names, times of change and sizes of all files that may be sources."""
    found, folders = [], [str(root / top) for top in ("include", "src")]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir():
                    folders.append(entry.path)
                else:
                    state = entry.stat()
                    found.append((entry.path, state.st_mtime_ns, state.st_size))
    return tuple(sorted(found))


@functools.lru_cache(maxsize=4)
def _library_digest(root: Path, stamps: tuple[tuple[str, int, int], ...]) -> hashlib._Hash:
    digest = hashlib.sha256()
    for path in (*_headers(root), *library_sources(root)):
        _add_file(digest, path.relative_to(root).as_posix(), path)
    return digest


def _add_file(digest: hashlib._Hash, name: str, path: Path) -> None:
    data = path.read_bytes()
    digest.update(f"{name}\0{len(data)}\0".encode())
    digest.update(data)
