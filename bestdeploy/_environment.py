"""What this machine has: the environment block of every JSON output, and `bestdeploy doctor`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bestdeploy import __version__, toolchain
from bestdeploy.errors import BestDeployError, MissingToolError

__all__ = ["Finding", "cpu_name", "diagnose", "environment", "list_targets"]

MIN_FREE_BYTES = 500_000_000


def environment() -> dict[str, Any]:
    """Return the environment block: versions and machine, nothing that changes between calls."""
    return {
        "bestdeploy": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "machine": platform.machine(),
        "cpu": cpu_name(),
        "n_cpus": os.cpu_count(),
        "packages": {
            name: version
            for name in (
                "numpy",
                "torch",
                "onnx",
                "onnxruntime",
                "onnx-ir",
                "openvino",
                "apache-tvm",
            )
            if (version := _version(name)) is not None
        },
    }


def cpu_name() -> str:
    """Return the name of the processor, as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Model", "Hardware"):
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


@dataclass(frozen=True)
class Finding:
    """One row of doctor: state is "ok", "missing" or "old"; `fix` is a command, or ""."""

    item: str
    state: str
    detail: str
    fix: str
    required: bool = False


def diagnose() -> list[Finding]:
    """Look for everything bestdeploy can use."""
    return [*_packages(), *_compilers(), *_emulators(), *_cache()]


def list_targets() -> list[dict[str, Any]]:
    """Return every target: triple, compilers found (the one used first), what runs it, bundle."""
    rows = []
    for target in toolchain.TARGETS:
        missing = ""
        try:
            toolchain.compiler_for(target)
        except MissingToolError as error:
            missing = error.hint or str(error)
        emulator = toolchain.find_emulator(target)
        rows.append(
            {
                "name": target.name,
                "aliases": target.aliases,
                "summary": target.summary,
                "triple": target.gcc_triple,
                "compilers": [
                    {"name": c.name, "version": c.version} for c in toolchain.compilers_for(target)
                ],
                "get_a_compiler": missing,
                "runs_on": "this machine" if emulator == () else emulator and emulator[0],
                "bundle": toolchain.bundle_files(target),
            }
        )
    return rows


# name on PyPI, command that installs it, required, versions that are known to work ("" = any)
_PACKAGES = (
    ("numpy", "pip install numpy", True, ""),
    ("pillow", "pip install pillow", True, ""),
    ("torch", "pip install 'bestdeploy[export]'", False, ""),
    ("onnx", "pip install 'bestdeploy[export]'", False, ""),
    ("onnx-ir", "pip install 'bestdeploy[export]'", False, ""),
    ("onnxruntime", "pip install 'bestdeploy[export]'", False, ""),
    ("apache-tvm", "pip install 'bestdeploy[tvm]'", False, "0.27.0.post1"),
    ("apache-tvm-ffi", "pip install 'bestdeploy[tvm]'", False, "0.1.14.post1"),
    ("ziglang", "pip install 'bestdeploy[cross]'", False, ""),
    ("openvino", "pip install 'bestdeploy[bench]'", False, ""),
    ("matplotlib", "pip install 'bestdeploy[bench]'", False, ""),
    ("expelliarmus", "pip install 'bestdeploy[events]'", False, ""),
)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _packages() -> Iterator[Finding]:
    ok = sys.version_info >= (3, 11)
    yield Finding(
        "python",
        "ok" if ok else "old",
        platform.python_version(),
        "" if ok else "install Python 3.11 or later",
        required=True,
    )
    for name, fix, required, pin in _PACKAGES:
        version = _version(name)
        if version is None:
            yield Finding(name, "missing", "", fix, required)
        elif pin and version != pin:
            yield Finding(name, "old", f"{version}, needs {pin}", fix, required)
        else:
            yield Finding(name, "ok", version, "", required)


def _compilers() -> Iterator[Finding]:
    for target in toolchain.TARGETS:
        if target.is_source:
            continue
        host = target.name == "host"
        item = "C compiler" if host else f"compiler {target.name}"
        required = host and toolchain.prebuilt_library() is None
        try:
            compiler = toolchain.compiler_for(target)
        except BestDeployError as error:
            yield Finding(item, "missing", str(error), error.hint or "", required)
        else:
            yield Finding(item, "ok", compiler.version, "", required)


def _emulators() -> Iterator[Finding]:
    for target in toolchain.TARGETS:
        if toolchain.runs_natively(target):
            continue
        found = toolchain.find_emulator(target)
        if found is None:
            yield Finding(f"emulator {target.name}", "missing", "", "apt install qemu-user-static")
        else:
            yield Finding(f"emulator {target.name}", "ok", found[0], "")


def _cache() -> Iterator[Finding]:
    try:
        folder = toolchain.cache_folder()
        free = shutil.disk_usage(folder).free
    except (BestDeployError, OSError) as error:
        yield Finding("cache", "missing", str(error), "set BESTDEPLOY_CACHE", required=True)
        return
    detail = f"{folder}, {free / 1e9:.1f} GB free"
    enough = free >= MIN_FREE_BYTES
    yield Finding(
        "cache", "ok" if enough else "low", detail, "" if enough else f"free space below {folder}"
    )
