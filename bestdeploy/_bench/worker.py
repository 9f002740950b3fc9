"""The process of one engine: `python -m bestdeploy._bench.worker`, driven by JSON lines.

Each engine lives in a process of its own, so that its peak memory is its own, its threads meet no
other engine's in one process, and its answer cannot depend on who was loaded before. The first
line says what to open; then `run` times a frame and `answers` gives the logits of all frames. The
protocol is in `engine.py`, which is the other end.

What a run is: one call that is not timed, which brings the engine's data back into the caches and
wakes its threads after the others' turns, then one call of the same frame that is timed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bestdeploy._bench import peers
from bestdeploy.errors import BestDeployError

__all__ = ["main"]

N_MEMORY_FRAMES = 5


class _Engine:
    """What the commands work on."""

    def __init__(self, order: dict[str, Any]) -> None:
        name, path = order["engine"], Path(order["path"])
        frames = np.load(order["frames"])
        batches = [np.ascontiguousarray(frame[None]) for frame in frames]
        peers.import_packages(name)
        before = peak_bytes()
        start = time.perf_counter()
        self.opened = peers.opened(name, order["variant"], path, order["threads"], frames.shape[1:])
        first = self.opened.prepare(batches[0])
        self.opened.call(first)
        load_ms = (time.perf_counter() - start) * 1e3
        for batch in batches[:N_MEMORY_FRAMES]:
            self.opened.call(self.opened.prepare(batch))
        after = peak_bytes()
        self.feeds = [self.opened.prepare(batch) for batch in batches]
        self.facts = {
            "n_threads": self.opened.n_threads,
            "settings": self.opened.settings,
            "load_ms": load_ms,
            "peak_bytes": after,
            "memory_bytes": None if after is None or before is None else after - before,
        }

    def run(self, index: int) -> tuple[float, float]:
        """Return the time of one frame, and the processor time of all threads, in microseconds."""
        call, feed = self.opened.call, self.feeds[index % len(self.feeds)]
        call(feed)
        worked = time.process_time_ns()
        start = time.perf_counter()
        call(feed)
        end = time.perf_counter()
        return (end - start) * 1e6, (time.process_time_ns() - worked) * 1e-3

    def answers(self) -> list[list[float]]:
        """Return the logits of all frames."""
        return [np.ravel(self.opened.call(feed)).astype(float).tolist() for feed in self.feeds]


def peak_bytes() -> int | None:
    """Return the largest resident size of this process so far; None where Linux is not."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            key, _, value = line.partition(":")
            if key == "VmHWM":
                return int(value.split()[0]) * 1024
    except OSError:
        pass
    return None


def _quantise(order: dict[str, Any]) -> dict[str, Any]:
    """Make the int8 file of a route; in a process of its own, for it needs much memory."""
    from bestdeploy import onnxruntime_int8

    path = onnxruntime_int8.quantised(
        Path(order["path"]), np.load(order["frames"]), order["variant"]
    )
    return {"path": str(path)}


def main() -> None:
    """Answer the lines of standard input until it ends."""
    # Engines may print: that goes to stderr, the protocol keeps the real standard output.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    engine: _Engine | None = None

    def opened(order: dict[str, Any]) -> Any:
        nonlocal engine
        engine = _Engine(order)
        return engine.facts

    commands: dict[str, Callable[[dict[str, Any]], Any]] = {
        "open": opened,
        "quantise": _quantise,
        "run": lambda order: engine and engine.run(order["index"]),
        "answers": lambda _order: engine and engine.answers(),
    }
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer = {"result": commands[order["do"]](order)}
        except BestDeployError as error:
            answer = {
                "error": type(error).__name__,
                "text": str(error),
                "where": error.where,
                "hint": error.hint,
            }
        except Exception as error:  # an engine's own: it ends this engine, not the run
            text = (str(error).strip().splitlines() or ["no text"])[0]
            answer = {"failure": f"{type(error).__name__}: {text}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
