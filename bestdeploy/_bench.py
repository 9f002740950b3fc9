"""`bench`: latency of one frame, ours and a competitor's, interleaved in one run.

Both sides get the same frames one at a time (batch 1) and the same number of threads; the order
within a round alternates, so that a slow phase of the machine hits both. Times include the call
from Python, a microsecond or so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bestdeploy import images, runtime
from bestdeploy._bundle import lowered_bytes
from bestdeploy._device import open_device
from bestdeploy.errors import InputError, UnsupportedModelError, UsageError

__all__ = ["COMPETITORS", "BenchReport", "BenchRow", "bench_model"]

COMPETITORS = ("onnxruntime", "openvino", "openvino-f32")
PLANNED = ("onnxruntime-int8", "torch")
WARM_UP_ROUNDS = 3
MIN_ROUNDS = 20
MAX_ROUNDS = 5000


@dataclass(frozen=True)
class BenchRow:
    """Latency of one engine in microseconds per frame.

    `ratio` is its median divided by the median of the C runtime in the same run.
    """

    name: str
    model: str
    threads: int
    median_us: float
    p90_us: float
    p99_us: float
    min_us: float
    ratio: float
    samples_us: tuple[float, ...]


@dataclass(frozen=True)
class BenchReport:
    """All rows of one run; the first is the C runtime."""

    rows: tuple[BenchRow, ...]
    n_rounds: int
    isa: str
    n_golden: int


def bench_model(
    model: str | Path,
    float_model: str | Path | None = None,
    against: Sequence[str] = COMPETITORS[:1],
    threads: int = 1,
    *,
    seconds: float = 3.0,
    progress: Callable[[str], None] | None = None,
) -> BenchReport:
    """Measure; see `bestdeploy.deploy.bench`."""
    _check(against, threads)
    say = progress or (lambda _text: None)
    say(f"loading {model}")
    ours = runtime.load(lowered_bytes(model), threads=threads)
    n_golden = ours.verify_golden()
    device = open_device(model)
    if device is not None:
        if n_golden:
            device.verify_golden()
        say(
            f"{model} is for {device.machine}: the times are of this machine's own runtime, "
            "an emulator's would say nothing; bst_bench of the bundle measures on the device"
        )
    frames = [frame for frame, _ in ours.golden()] or list(images.builtin_images(ours.input_shape))
    batches = [np.ascontiguousarray(frame[None]) for frame in frames]

    names = [("c", str(model), threads)]
    calls: list[Callable[[int], object]] = [lambda i: ours.run_raw(batches[i % len(batches)])]
    for name in against:
        path = _float_path(Path(model), float_model)
        open_it = _onnxruntime if name == "onnxruntime" else _openvino(name)
        calls.append(open_it(path, batches, threads))
        names.append((name, str(path), threads))

    say(f"measuring for {seconds:g} s")
    times = _measure(calls, seconds)
    median = np.median(times, axis=0)
    rows = [
        BenchRow(
            name=name,
            model=file,
            threads=n_threads,
            median_us=float(median[i]),
            p90_us=float(np.percentile(times[:, i], 90)),
            p99_us=float(np.percentile(times[:, i], 99)),
            min_us=float(times[:, i].min()),
            ratio=float(median[i] / median[0]),
            samples_us=tuple(round(float(t), 2) for t in times[:, i]),
        )
        for i, (name, file, n_threads) in enumerate(names)
    ]
    return BenchReport(tuple(rows), len(times), ours.isa, n_golden)


def _check(against: Sequence[str], threads: int) -> None:
    supported = ", ".join(COMPETITORS)
    for name in against:
        if name in PLANNED:
            raise UnsupportedModelError(
                f"bench against `{name}` is not available in this version, only {supported}",
                hint="--against onnxruntime",
            )
        if name not in COMPETITORS:
            raise UsageError(
                f"unknown --against `{name}`, expected {supported}", hint="--against onnxruntime"
            )
    if not 1 <= threads <= runtime.MAX_THREADS:
        raise UsageError(
            f"threads is {threads}, expected 1..{runtime.MAX_THREADS}", hint="--threads 1"
        )


def _float_path(model: Path, float_model: str | Path | None) -> Path:
    """Return the float network: the given one, else model.float.onnx beside the model."""
    if float_model is not None:
        return Path(float_model)
    folder = model if model.is_dir() else model.parent
    name = model.name.removesuffix(".onnx").removesuffix(".bstm")
    for candidate in (folder / f"{name}.float.onnx", folder / "model.float.onnx"):
        if candidate.is_file():
            return candidate
    raise InputError(
        f"no float network beside `{model}`",
        hint="--float model.float.onnx (bestdeploy export writes it)",
    )


def _onnxruntime(
    path: Path, batches: list[npt.NDArray[np.uint8]], threads: int
) -> Callable[[int], object]:
    from bestdeploy import onnxruntime

    model = onnxruntime.load(path, threads)
    if model.input_shape != batches[0].shape[1:]:
        raise InputError(
            f"`{path}` takes frames of {list(model.input_shape)}, the model those of "
            f"{list(batches[0].shape[1:])}",
            hint="--float model.float.onnx of the same export",
        )
    feeds = [model.feed(batch) for batch in batches]
    return lambda i: model.call(feeds[i % len(feeds)])


def _openvino(name: str) -> Callable[..., Callable[[int], object]]:
    def open_it(
        path: Path, batches: list[npt.NDArray[np.uint8]], threads: int
    ) -> Callable[[int], object]:
        from bestdeploy import openvino

        model = openvino.load(path, threads, exact_float32=name == "openvino-f32")
        return lambda i: model.call(batches[i % len(batches)])

    return open_it


def _measure(calls: Sequence[Callable[[int], object]], seconds: float) -> npt.NDArray[np.float64]:
    """Return microseconds `[rounds, calls]`."""
    for i in range(WARM_UP_ROUNDS):
        for call in calls:
            call(i)
    times: list[list[float]] = []
    end = time.perf_counter() + seconds
    while len(times) < MIN_ROUNDS or (time.perf_counter() < end and len(times) < MAX_ROUNDS):
        row = [0.0] * len(calls)
        order = range(len(calls)) if len(times) % 2 == 0 else range(len(calls) - 1, -1, -1)
        for k in order:
            start = time.perf_counter()
            calls[k](len(times))
            row[k] = (time.perf_counter() - start) * 1e6
        times.append(row)
    return np.array(times)
