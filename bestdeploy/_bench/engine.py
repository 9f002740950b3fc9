"""The parent's end of an engine's process (`worker.py`), and rounds over several of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bestdeploy import errors, toolchain
from bestdeploy.errors import ArtifactError

__all__ = ["Engine", "Facts", "measure"]

WARM_UP_ROUNDS = 3
MIN_ROUNDS = 20
MAX_ROUNDS = 5000

Facts = dict[str, Any]


class Engine:
    """A process that holds one engine with one model; a context manager that ends it.

    Attributes:
        facts: what `open` returned.
        cpu_us: processor time of all threads in the timed rounds, microseconds.
    """

    def __init__(self, name: str, variant: str = "") -> None:
        self.name, self.variant = name, variant
        self.facts: Facts = {}
        self.cpu_us: list[float] = []
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
        package = str(Path(errors.__file__).resolve().parents[1])
        paths = [package, os.environ.get("PYTHONPATH", "")]
        env = {
            # what inductor compiles stays with everything else that is built
            "TORCHINDUCTOR_CACHE_DIR": str(toolchain.cache_folder() / "inductor"),
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        }
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "bestdeploy._bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=env,
            text=True,
        )

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._log.close()

    def pause(self) -> None:
        """Stop the process: nothing of it runs until `resume`."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let the process run."""
        self._process.send_signal(signal.SIGCONT)

    def open(self, path: Path, frames: Path, threads: int) -> Facts:
        """Load a model and run its first frames; return what the process tells of it.

        Args:
            path: the model file.
            frames: .npy of uint8 [N, ...].
            threads: threads for one frame.

        Raises:
            BestDeployError: as the engine raised it.
            ArtifactError: the engine failed with an error of its own, or its process died.
        """
        self.facts = self.ask(
            "open",
            engine=self.name,
            variant=self.variant,
            path=str(path),
            frames=str(frames),
            threads=threads,
        )
        return self.facts

    def run(self, index: int) -> float:
        """Return the time of one call on frame `index` (modulo their number), in microseconds."""
        us, cpu_us = self.ask("run", index=index)
        self.cpu_us.append(cpu_us)
        return us

    def answers(self) -> npt.NDArray[np.float64]:
        """Return the logits [N, K] of all frames."""
        return np.array(self.ask("answers"))

    def ask(self, do: str, **order: Any) -> Any:
        """Send a line and return the result in the answer; raises as `open`."""
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(json.dumps({"do": do, **order}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        answer = json.loads(line) if line else {"failure": self._death()}
        if "error" in answer:
            kind = getattr(errors, answer["error"])
            raise kind(answer["text"], where=answer["where"], hint=answer["hint"])
        if "failure" in answer:
            name = f"{self.name}:{self.variant}" if self.variant else self.name
            raise ArtifactError(
                f"{name} fails: {answer['failure']}", hint="leave it out of --against"
            )
        return answer["result"]

    def _death(self) -> str:
        code = self._process.wait()
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "no text")
        return f"its process ended with {code}: {last.strip()}"


def measure(engines: Sequence[Engine], seconds: float, threads: int = 1) -> npt.NDArray[np.float64]:
    """Time single frames in rounds; every engine has one turn in a round, on the same frame.

    The order of the turns alternates, so that a slow phase of the machine hits all. There are at
    least MIN_ROUNDS rounds, however long they take. With several threads all engines but one are
    stopped: idle threads of a pool spin for milliseconds, in the others' turns.

    Returns:
        microseconds [rounds, engines].
    """
    if threads == 1:
        return _rounds(engines, seconds, Engine.run)

    def alone(engine: Engine, index: int) -> float:
        engine.resume()
        try:
            return engine.run(index)
        finally:
            engine.pause()

    for engine in engines:
        engine.pause()
    try:
        return _rounds(engines, seconds, alone)
    finally:
        for engine in engines:
            engine.resume()


def _rounds(
    engines: Sequence[Engine], seconds: float, turn: Callable[[Engine, int], float]
) -> npt.NDArray[np.float64]:
    for i in range(WARM_UP_ROUNDS):
        for engine in engines:
            turn(engine, i)
    for engine in engines:
        engine.cpu_us.clear()
    times: list[list[float]] = []
    end = time.perf_counter() + seconds
    while len(times) < MIN_ROUNDS or (time.perf_counter() < end and len(times) < MAX_ROUNDS):
        row = [0.0] * len(engines)
        order = range(len(engines)) if len(times) % 2 == 0 else range(len(engines) - 1, -1, -1)
        for k in order:
            row[k] = turn(engines[k], len(times))
        times.append(row)
    return np.array(times)
