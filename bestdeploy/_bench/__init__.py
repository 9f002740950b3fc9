"""`bench`: latency of one frame, ours and the competitors', interleaved in one run.

All engines get the same frames one at a time (batch 1) and the same number of threads. Each lives
in a process of its own (`worker.py`) where its memory and its load time are taken; rounds over all
of them are driven from here (`engine.py`). What the numbers mean is in docs/benchmarks.md.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bestdeploy import images, runtime
from bestdeploy._bench.engine import MIN_ROUNDS, Engine, measure
from bestdeploy._bench.peers import COMPETITORS, OURS, Peer, module_path, peer
from bestdeploy._bench.statistics import Answer, compare, ratio_interval
from bestdeploy._bundle import host_module, lowered_bytes
from bestdeploy._device import open_device
from bestdeploy.errors import ArtifactError, BestDeployError, InputError, UsageError

__all__ = ["COMPETITORS", "BenchReport", "BenchRow", "bench_model"]

MAX_FRAMES = 200
N_RATE_FRAMES = 16
TRIAL_SECONDS = 0.5
REFERENCE = "onnxruntime float32, 1 thread"

Say = Callable[[str], None]


@dataclass(frozen=True)
class BenchRow:
    """One engine.

    Attributes:
        name: of the engine, "c" is ours.
        variant: how it ran the network, where there are several ways; "" otherwise.
        settings: what was set, in the engine's words.
        version: of the engine, None for ours.
        model: the file that was given.
        threads: threads that work on one frame.
        median_us: microseconds per frame; p90_us, p99_us, min_us too.
        cpu_us: median processor time of all threads: what `median_us` would be with one thread and
            nothing else running.
        ratio: its median divided by ours; by processor time, `cpu_ratio`.
        ratio_low: 95 % interval of the ratio, up to `ratio_high`.
        answer: its logits beside the float reference's; None where there was none.
        is_exact: its logits are those of the C runtime, bit for bit.
        model_bytes: size of the file that it loads.
        load_ms: from the file to the first answer, its packages imported before.
        memory_bytes: growth of the process's peak from before the load to 5 frames later.
        peak_bytes: that peak: everything, with Python and the engine's libraries.
        samples_us: every round.
    """

    name: str
    variant: str
    settings: str
    version: str | None
    model: str
    threads: int
    median_us: float
    p10_us: float
    p90_us: float
    p99_us: float
    min_us: float
    cpu_us: float
    cpu_ratio: float
    ratio: float
    ratio_low: float
    ratio_high: float
    answer: Answer | None
    is_exact: bool
    model_bytes: int
    load_ms: float
    memory_bytes: int | None
    peak_bytes: int | None
    samples_us: tuple[float, ...]


@dataclass(frozen=True)
class BenchReport:
    """All rows of one run; the first is the C runtime.

    Attributes:
        n_rounds: rounds that were timed.
        isa: instruction set of our kernels.
        n_golden: golden vectors that were run and found right.
        n_frames: different frames, each round has one; `frames` says where they are from.
        firing_rate: spikes per neuron and step on (the first 16 of) these frames.
        reference: what `answer` compares with, None where there was none.
        machine: what else may have moved the numbers: processors usable, load, governor.
        tried: trial medians (microseconds) of the variants of an engine, by "name:variant".
        notes: what could not be run, and what to know of these numbers.
    """

    rows: tuple[BenchRow, ...]
    n_rounds: int
    isa: str
    n_golden: int
    frames: str
    n_frames: int
    firing_rate: float | None
    reference: str | None
    machine: dict[str, Any]
    tried: dict[str, float]
    notes: tuple[str, ...]


def bench_model(
    model: str | Path,
    float_model: str | Path | None = None,
    against: Sequence[str] = COMPETITORS[:1],
    threads: int = 1,
    *,
    data: str | Path | Sequence[str | Path] | None = None,
    limit: int = MAX_FRAMES,
    seconds: float = 3.0,
    progress: Say | None = None,
) -> BenchReport:
    """Measure; see `bestdeploy.deploy.bench`."""
    wanted = _checked(against, threads)
    say = progress or (lambda _text: None)
    say(f"loading {model}")
    content = lowered_bytes(model)
    ours = runtime.load(content)
    n_golden = _verified(ours, model, say)
    source, frames = _frames(ours, data, limit)
    wants_float = float_model is not None or any(row.is_float for row, _ in wanted)
    network = _float_path(Path(model), float_model) if wanted and wants_float else None
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bestdeploy-bench-")))
        (folder / "model.bstm").write_bytes(content)
        np.save(folder / "frames.npy", frames)
        run = _Run(folder / "frames.npy", threads, say, stack)
        run.add(OURS, folder / "model.bstm", str(model))
        for row, variant in wanted:
            if row.is_module:
                run.add_module(row, content, folder / "model.bstm", str(model))
                continue
            path = network if row.is_float else _graph_path(Path(model), network, ours)
            assert path is not None
            run.add_peer(row, variant, path)
        if network is not None:
            _check_belongs(network, ours)
        reference = run.reference(network) if network else None
        machine = _machine()
        say(f"measuring for {seconds:g} s")
        times = measure(run.engines, seconds, threads)
        machine["load_average_after"] = _load()
        rows = run.rows(times, reference)
    return BenchReport(
        rows=tuple(rows),
        n_rounds=len(times),
        isa=ours.isa,
        n_golden=n_golden,
        frames=source,
        n_frames=len(frames),
        firing_rate=_firing_rate(ours, frames[:N_RATE_FRAMES]),
        reference=None if reference is None else REFERENCE,
        machine=machine,
        tried=run.tried,
        notes=(*_advice(threads, len(times), machine), *run.notes),
    )


@dataclass
class _Run:
    """The engines of one run: opened here, closed by the stack."""

    frames: Path
    threads: int
    say: Say
    stack: contextlib.ExitStack
    engines: list[Engine] = field(default_factory=list)
    peers: list[Peer] = field(default_factory=list)
    files: list[tuple[Path, str]] = field(default_factory=list)
    tried: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, row: Peer, path: Path, shown: str, engine: Engine | None = None) -> None:
        """Take an engine into the rounds, opening it when it is not."""
        self.engines.append(engine or self.opened(row.name, "", path, self.threads))
        self.peers.append(row)
        self.files.append((path, shown))

    def opened(self, name: str, variant: str, path: Path, threads: int) -> Engine:
        engine = self.stack.enter_context(Engine(name, variant))
        engine.open(path, self.frames, threads)
        return engine

    def add_module(self, row: Peer, content: bytes, path: Path, shown: str) -> None:
        """Compile the network with TVM and take the module into the rounds, on one thread."""
        kernels = row.name.removeprefix("tvm-")
        self.say(f"compiling {row.name}")
        shutil.copyfile(host_module(content, kernels), module_path(path, kernels))
        self.add(row, path, shown)

    def add_peer(self, row: Peer, variant: str, path: Path) -> None:
        """Open a competitor in the variant asked for, else in the fastest one."""
        variants = (variant,) if variant else row.variants()
        self.say(f"opening {row.name}" + (f" ({', '.join(variants)})" if variants else ""))
        if not variants:
            self.add(row, path, str(path))
            return
        found: list[tuple[Engine, Path]] = []
        failures: list[BestDeployError] = []
        for name in variants:
            try:
                file = self._quantised(path, name) if row.name == "onnxruntime-int8" else path
                found.append((self.opened(row.name, name, file, self.threads), file))
            except ArtifactError as error:
                failures.append(error)
                self.notes.append(f"{row.name}:{name} was not run: {error}")
        if not found:
            raise failures[0]
        best = self._race([engine for engine, _ in found])
        engine, file = found[best]
        self.add(row, file, str(path), engine)

    def _quantised(self, path: Path, route: str) -> Path:
        with Engine("onnxruntime-int8", route) as engine:
            order = {"path": str(path), "frames": str(self.frames), "variant": route}
            return Path(engine.ask("quantise", **order)["path"])

    def _race(self, engines: Sequence[Engine]) -> int:
        """Return which engine is the fastest in a short run; close the others."""
        if len(engines) == 1:
            return 0
        medians = np.median(measure(engines, TRIAL_SECONDS * len(engines), self.threads), axis=0)
        best = int(medians.argmin())
        for i, engine in enumerate(engines):
            self.tried[f"{engine.name}:{engine.variant}"] = round(float(medians[i]), 2)
            if i != best:
                engine.close()
        return best

    def reference(self, path: Path) -> npt.NDArray[np.float64] | None:
        """Return the logits [N, K] of the float network, None where ONNX Runtime is missing."""
        row, _ = peer("onnxruntime")
        try:
            row.require()
        except BestDeployError as error:
            self.notes.append(f"answers were not compared: {error}")
            return None
        self.say("computing the float reference")
        for engine in self.engines:
            if engine.name == row.name and self.threads == 1:
                return engine.answers()
        with Engine(row.name) as engine:
            engine.open(path, self.frames, 1)
            return engine.answers()

    def rows(
        self, times: npt.NDArray[np.float64], reference: npt.NDArray[np.float64] | None
    ) -> list[BenchRow]:
        """Put together what the engines told and what was measured; times [rounds, engines]."""
        median = np.median(times, axis=0)
        ours = self.engines[0].answers()
        found = []
        for i, (engine, row, (path, shown)) in enumerate(
            zip(self.engines, self.peers, self.files, strict=True)
        ):
            low, high = ratio_interval(times[:, i], times[:, 0])
            logits = engine.answers()
            p10, p90, p99 = (float(v) for v in np.percentile(times[:, i], (10, 90, 99)))
            found.append(
                BenchRow(
                    name=engine.name,
                    variant=engine.variant,
                    settings=engine.facts["settings"],
                    version=row.version,
                    model=shown,
                    threads=engine.facts["n_threads"],
                    median_us=float(median[i]),
                    p10_us=p10,
                    p90_us=p90,
                    p99_us=p99,
                    min_us=float(times[:, i].min()),
                    cpu_us=float(np.median(engine.cpu_us)),
                    cpu_ratio=float(np.median(engine.cpu_us) / np.median(self.engines[0].cpu_us)),
                    ratio=float(median[i] / median[0]),
                    ratio_low=low,
                    ratio_high=high,
                    answer=None if reference is None else compare(logits, reference),
                    is_exact=np.array_equal(logits, ours),
                    model_bytes=path.stat().st_size,
                    load_ms=engine.facts["load_ms"],
                    memory_bytes=engine.facts["memory_bytes"],
                    peak_bytes=engine.facts["peak_bytes"],
                    samples_us=tuple(round(float(t), 2) for t in times[:, i]),
                )
            )
        return found


# ----------------------------------------------------------------------------- what is given


def _checked(against: Sequence[str], threads: int) -> list[tuple[Peer, str]]:
    """Return the competitors and the variants asked for; everything they need is here."""
    if not 1 <= threads <= runtime.MAX_THREADS:
        raise UsageError(
            f"threads is {threads}, expected 1..{runtime.MAX_THREADS}", hint="--threads 1"
        )
    wanted = []
    for text in dict.fromkeys(against):
        row, variant = peer(text)
        row.require()
        wanted.append((row, variant))
    return wanted


def _verified(ours: runtime.Model, model: str | Path, say: Say) -> int:
    """Run the golden vectors here, and on the bundle's own machine; return their number."""
    n_golden = ours.verify_golden()
    device = open_device(model)
    if device is not None:
        if n_golden:
            device.verify_golden()
        say(
            f"{model} is for {device.machine}: the times are of this machine's own runtime, "
            "an emulator's would say nothing; bst_bench of the bundle measures on the device"
        )
    return n_golden


def _frames(
    ours: runtime.Model, data: str | Path | Sequence[str | Path] | None, limit: int
) -> tuple[str, npt.NDArray[np.uint8]]:
    """Return where the frames are from, and them: uint8 [N, ...]."""
    if data is not None:
        rules = images.rules_of(ours.meta)
        batches = images.read_batches(data, ours.input_shape, rules, limit=limit)
        sources = [data] if isinstance(data, str | Path) else data
        name = ", ".join(map(str, sources))
        return name, np.concatenate([batch.frames for batch in batches])
    golden = [frame for frame, _ in ours.golden()]
    if golden:
        return "golden frames of the file", np.stack(golden)
    return "built-in frames", images.builtin_images(ours.input_shape)


def _float_path(model: Path, float_model: str | Path | None) -> Path:
    """Return the float network: the given one, else model.float.onnx beside the model."""
    if float_model is not None:
        if not Path(float_model).is_file():
            raise ArtifactError(
                f"`{float_model}` does not exist", hint="bestdeploy export writes the .onnx files"
            )
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


def _graph_path(model: Path, network: Path | None, ours: runtime.Model) -> Path:
    """Return model.onnx: the model itself, or the one beside it or beside the float network."""
    if model.suffix == ".onnx":
        return model
    folder = model if model.is_dir() else model.parent
    candidates = [folder / f"{model.name.removesuffix('.bstm')}.onnx", folder / "model.onnx"]
    if network is not None:
        candidates.append(network.with_name(network.name.removesuffix(".float.onnx") + ".onnx"))
    for path in candidates:
        if path.is_file():
            _check_source(path, ours, "give the model.onnx itself as MODEL")
            return path
    raise InputError(
        f"no model.onnx beside `{model}`, engine ort runs that",
        hint="bestdeploy bench model.onnx --against ort",
    )


def _check_belongs(network: Path, ours: runtime.Model) -> None:
    """Refuse integer networks, and float networks of another checkpoint or other settings.

    Their times would be no times of what the model replaces.
    """
    hint = "--float model.float.onnx of the same export"
    if "stage" in _check_source(network, ours, hint):
        raise InputError(f"`{network}` is an integer network, expected the float one", hint=hint)


def _check_source(path: Path, ours: runtime.Model, hint: str) -> dict[str, str]:
    """Refuse a network of another checkpoint or other settings; return its metadata."""
    from bestdeploy import onnxruntime

    found = onnxruntime.load(path).metadata
    for key in ("source_sha256", "config"):
        theirs, own = found.get(key), ours.meta.get(key)
        if theirs is None or own is None:
            continue
        if (json.loads(theirs) if key == "config" else theirs) != own:
            what = "another checkpoint" if key == "source_sha256" else "other settings"
            raise InputError(f"`{path}` comes from {what} than the model", hint=hint)
    return found


# ----------------------------------------------------------------------------- what is around it


def _firing_rate(ours: runtime.Model, frames: npt.NDArray[np.uint8]) -> float | None:
    """Return the spikes per neuron and step of all tensors of spikes that the runtime makes."""
    n_spikes = n_places = 0
    for frame in frames:
        _, taps = ours.run_probed(frame)
        for tap in (t for found in taps.values() for t in found if t.info.kind == "spikes"):
            values = tap.values()
            n_spikes += int(values.sum())
            n_places += values.size
    return n_spikes / n_places if n_places else None


def _machine() -> dict[str, Any]:
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    has_affinity = hasattr(os, "sched_getaffinity")
    return {
        "n_usable_cpus": len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count(),
        "governor": governor.read_text().strip() if governor.is_file() else None,
        "load_average_before": _load(),
    }


def _load() -> float | None:
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _advice(threads: int, n_rounds: int, machine: dict[str, Any]) -> list[str]:
    found = []
    cpus = machine["n_usable_cpus"]
    if threads > cpus:
        found.append(f"{threads} threads share {cpus} processors")
    if machine["load_average_before"] is not None and machine["load_average_before"] > cpus:
        found.append(
            f"other work is running (load {machine['load_average_before']} on {cpus} processors): "
            "compare within this run only"
        )
    if n_rounds < 5 * MIN_ROUNDS:
        found.append(f"p99 of {n_rounds} rounds is little more than their largest; --seconds")
    return found
