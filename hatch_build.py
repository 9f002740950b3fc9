"""Build hook: a wheel that carries the runtime's libraries, so that it needs no C compiler.

    BESTDEPLOY_PREBUILT=1 pip wheel . --no-deps        for this machine's architecture
    BESTDEPLOY_PREBUILT=arm pip wheel . --no-deps      for another row of the target table

Without the variable the wheel is pure Python, any platform, and the library is compiled at first
use. The library and that of the custom ops lie in bestdeploy/_lib, each beside the hash of the
sources it was built from; it is used only while the sources in the wheel have this hash.
"""

from __future__ import annotations

import os
import re
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

OLDEST_GLIBC = 17  # manylinux_2_17 is the oldest tag that current installers still see


class PrebuiltLibrary(BuildHookInterface[Any]):
    """Adds the library and names the platform in the wheel's tag."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the library where the environment asks for it; hatchling calls this first."""
        wanted = os.environ.get("BESTDEPLOY_PREBUILT", "0")
        if wanted in ("", "0") or version == "editable":
            return
        sys.path.insert(0, self.root)
        from bestdeploy import toolchain

        target = toolchain.find_target("host" if wanted == "1" else wanted)
        library = toolchain.build_library(target)
        self._folder = tempfile.TemporaryDirectory()
        record = Path(self._folder.name) / "source.sha256"
        record.write_text(toolchain.source_hash() + "\n")
        ort = Path(self._folder.name) / "ort.sha256"
        root = toolchain.find_sources()
        extra = toolchain.sources.ort_sources(root, "*.*")
        ort.write_text(toolchain.source_hash(extra) + "\n")
        custom_ops = toolchain.build_ort_library(target)
        build_data["force_include"][str(custom_ops)] = "bestdeploy/_lib/libbst_ort.so"
        build_data["force_include"][str(ort)] = "bestdeploy/_lib/ort.sha256"
        build_data["force_include"][str(library)] = "bestdeploy/_lib/libbst.so"
        build_data["force_include"][str(record)] = "bestdeploy/_lib/source.sha256"
        build_data["pure_python"] = False
        machine = target.machine or toolchain.host_machine()
        content = library.read_bytes() + custom_ops.read_bytes()
        build_data["tag"] = f"py3-none-{platform_tag(content, machine)}"


def platform_tag(library: bytes, machine: str) -> str:
    """Return the platform part of a wheel's tag, from the glibc symbols that the library needs."""
    needed = [int(minor) for minor in re.findall(rb"GLIBC_2\.(\d+)", library)]
    if needed:
        return f"manylinux_2_{max(OLDEST_GLIBC, *needed)}_{machine}"
    return re.sub(r"[-.]", "_", sysconfig.get_platform())
