"""Bundles for other architectures: their own bst_run, under an emulator.

A bundle's `.bstm` runs on every machine, so `run` needs nothing of this. What proves something
about the bundle itself (`verify`, the golden vectors of `bench`) executes its program.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bestdeploy import toolchain
from bestdeploy.errors import ArtifactError, VerificationError

__all__ = ["Device", "open_device"]

TIMEOUT_S = 1800


@dataclass(frozen=True)
class Device:
    """How a foreign bundle's bst_run is executed here.

    Attributes:
        machine: architecture of the bundle, as `uname -m` names it there.
        command: emulator, program and model.
    """

    folder: Path
    machine: str
    command: tuple[str, ...]

    @property
    def name(self) -> str:
        """Say what runs, for reports."""
        return f"bst_run for {self.machine} under {Path(self.command[0]).name}"

    def run_raw(self, frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
        """Return the raw logits int64 `[B, K]` of frames uint8 `[B, ...]`.

        Raises:
            ArtifactError: the program fails, or does not answer for every frame.
        """
        done = self._run(np.ascontiguousarray(frames).tobytes(), "-", "--json")
        try:
            raw = np.array([json.loads(line)["raw"] for line in done.splitlines()], np.int64)
        except (ValueError, KeyError, TypeError):
            raw = np.empty((0, 0), np.int64)
        if len(raw) != len(frames):
            raise ArtifactError(
                f"{self.name} answers for {len(raw)} of {len(frames)} frames",
                where=" ".join(self.command),
                hint="compile the bundle again: bestdeploy compile",
            )
        return raw

    def verify_golden(self) -> int:
        """Run the golden vectors of a model that holds some; return their number.

        Raises:
            VerificationError: a raw logit differs.
            ArtifactError: the program fails.
        """
        return int(json.loads(self._run(b"", "--golden"))["golden"])

    def _run(self, data: bytes, *words: str) -> str:
        try:
            done = subprocess.run(
                [*self.command, *words],
                input=data,
                capture_output=True,
                timeout=TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise self._failure(str(error)) from error
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        text = next((line for line in lines if line.startswith("error: ")), "no text")
        if done.returncode == VerificationError.exit_code:
            raise VerificationError(
                f"{self.name}: {text.removeprefix('error: ')}", where=" ".join(self.command)
            )
        if done.returncode != 0:
            raise self._failure(f"exit {done.returncode}: {text.removeprefix('error: ')}")
        return done.stdout.decode(errors="replace")

    def _failure(self, text: str) -> ArtifactError:
        return ArtifactError(
            f"{self.name} fails: {text}",
            where=" ".join(self.command),
            hint=f"give {self.folder / 'model.bstm'} to use this machine's runtime",
        )


def open_device(path: str | Path) -> Device | None:
    """Return how a bundle for another architecture is run here; None where `path` is not one.

    Raises:
        ArtifactError: it is one, and no emulator for it is installed.
    """
    folder = Path(path)
    program = folder / "bin" / "bst_run"
    machine, here = toolchain.machine_of(program), toolchain.host_machine()
    if machine in ("", here):
        return None
    row = next((row for row in toolchain.TARGETS if row.machine == machine), None)
    emulator = toolchain.find_emulator(row) if row else None
    if not emulator:
        install = "apt install qemu-user-static" if row else "verify it on such a machine"
        raise ArtifactError(
            f"`{folder}` is a bundle for {machine}, this machine is {here} and has no emulator "
            f"for it: its programs cannot run here",
            where=str(program),
            hint=f"{install}, or give {folder / 'model.bstm'} to use this machine's runtime",
        )
    module: tuple[str, ...] = ()
    if (folder / "net.so").is_file():  # then bst_run is not static
        root = toolchain.system_root(row) if row else None
        if row is None or root is None:
            raise ArtifactError(
                f"`{folder}` holds a module for {machine}, and the C library that its programs "
                "need is not here",
                where=str(program),
                hint=f"apt install {row.packages if row else 'it'}",
            )
        emulator, module = (*emulator, "-L", str(root)), ("--module", str(folder / "net.so"))
    command = (*emulator, str(program), str(folder / "model.bstm"), *module)
    return Device(folder, machine, command)
