"""A Python for arm64 with ONNX Runtime, in a folder, to run under an emulator: nothing installed.

    python tests/e2e/arm64_python.py build/arm64-python      (or: make ort-arm64)

Debian's packages are unpacked, wheels are fetched by pip for the other platform. ONNX Runtime
1.23.2 runs under qemu 7.2 and 10.0; 1.31.1 ends with a segmentation fault at import under 7.2.
"""

from __future__ import annotations

import lzma
import re
import subprocess
import sys
import urllib.request
import zipfile
from pathlib import Path

MIRROR = "http://deb.debian.org/debian"
SUITE = "bookworm"
PYTHON = "3.11"
PACKAGES = ("python3.11-minimal", "libpython3.11-stdlib", "libstdc++6", "zlib1g")
LEFT_OUT = ("debconf", "dpkg", "media-types", "perl")  # what unpacked libraries do not need
WHEELS = ("onnxruntime==1.23.2", "numpy==2.3.5")
DONE = "done"


def index() -> dict[str, dict[str, str]]:
    """Return the packages of the suite for arm64: name -> field -> text."""
    url = f"{MIRROR}/dists/{SUITE}/main/binary-arm64/Packages.xz"
    with urllib.request.urlopen(url, timeout=120) as stream:
        text = lzma.decompress(stream.read()).decode()
    rows = (dict(re.findall(r"^(\S+): (.*)$", part, re.MULTILINE)) for part in text.split("\n\n"))
    return {row["Package"]: row for row in rows if "Package" in row}


def closure(found: dict[str, dict[str, str]]) -> list[str]:
    """Return the packages and all they depend on, the first of alternatives."""
    wanted, todo = [], list(PACKAGES)
    while todo:
        name = todo.pop()
        if name in wanted or name not in found or name in LEFT_OUT:
            continue
        wanted.append(name)
        depends = ", ".join(found[name].get(k, "") for k in ("Depends", "Pre-Depends"))
        todo += [d.split("|")[0].split("(")[0].split(":")[0].strip() for d in depends.split(",")]
    return wanted


def make(folder: Path) -> None:
    """Fill the folder; a mark at the end says that it is whole."""
    (folder / "site").mkdir(parents=True, exist_ok=True)
    packages = index()
    for name in closure(packages):
        print(name, flush=True)
        file, url = folder / "package.deb", f"{MIRROR}/{packages[name]['Filename']}"
        with urllib.request.urlopen(url, timeout=120) as stream:
            file.write_bytes(stream.read())
        subprocess.run(["dpkg-deb", "-x", file, folder], check=True)
        file.unlink()
    wheels = folder / "wheels"
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", wheels]
    command += ["--platform", "manylinux_2_28_aarch64", "--only-binary=:all:"]
    subprocess.run([*command, "--python-version", PYTHON, *WHEELS], check=True)
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as held:
            held.extractall(folder / "site")
    (folder / DONE).touch()


def command(folder: Path, emulator: str) -> list[str]:
    """Return the words before a script's arguments."""
    return [
        emulator, "-L", str(folder),
        "-E", f"PYTHONHOME={folder / 'usr'}", "-E", f"PYTHONPATH={folder / 'site'}",
        "-E", f"LD_LIBRARY_PATH={folder / 'usr/lib/aarch64-linux-gnu'}:"
        f"{folder / 'lib/aarch64-linux-gnu'}",
        str(folder / "usr/bin" / f"python{PYTHON}"),
    ]  # fmt: skip


if __name__ == "__main__":
    make(Path(sys.argv[1]).resolve())
