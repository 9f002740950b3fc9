"""`run`: predictions of a model on any source; every engine gives the same integers."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from bestdeploy import images, runtime
from bestdeploy._bundle import lowered_bytes, open_module
from bestdeploy.errors import ArtifactError, UnsupportedModelError, UsageError

__all__ = [
    "ENGINES",
    "Engine",
    "Prediction",
    "ProfileReport",
    "ProfileRow",
    "RunReport",
    "open_engine",
    "predict",
    "profiled",
    "sibling",
]

ENGINES = ("c", "ort", "std", "tvm", "reference")

Raw = npt.NDArray[np.int64]
Logits = npt.NDArray[np.float32]


class Runs(Protocol):
    """What every engine's model can do."""

    def infer(self, frames: npt.NDArray[np.uint8]) -> tuple[Raw, Logits]:
        """Return raw logits int64 and logits float32, both `[B, K]`, of uint8 `[B, ...]`."""


@dataclass(frozen=True)
class Engine:
    """A model opened by an engine, with what is needed to prepare its input and read its output.

    Attributes:
        name: of the engine.
        model: evaluates batches.
        input_shape: (H, W, C), or (T, H, W, C) of an event model.
        preprocessing: how image files become frames, see `bestdeploy.images`.
        class_names: may be empty.
        isa: instruction set of the C kernels, None for other engines.
    """

    name: str
    model: Runs
    input_shape: images.Shape
    preprocessing: dict[str, Any]
    class_names: list[str]
    isa: str | None = None


@dataclass(frozen=True)
class Prediction:
    """One frame's result.

    Attributes:
        name: file, or source[index].
        top: class numbers, most likely first.
        label: true class where the source has labels.
        microseconds: time of the engine for this frame (its share of the batch).
        n_saturated: counts above 255 in an event frame, they were taken as 255.
        is_recording: the frame was binned from an event recording.
    """

    name: str
    top: tuple[int, ...]
    logits: Logits
    raw: Raw
    label: int | None
    microseconds: float
    n_saturated: int = 0
    is_recording: bool = False


class _Reference:
    """The numpy reference of every op: slow, and the meaning of the model."""

    def __init__(self, model: Any) -> None:
        from bestdeploy import stages

        self._executor = stages.Executor(model)

    def infer(self, frames: npt.NDArray[np.uint8]) -> tuple[Raw, Logits]:
        outputs = self._executor.run(frames)
        return outputs["raw"], outputs["logits"]


def sibling(path: Path, kind: str) -> Path:
    """Return model.<kind>.onnx beside model.onnx: kind "std" or "float", "" for itself."""
    stem = path.name.removesuffix(".onnx").removesuffix(".std").removesuffix(".float")
    return path.with_name(f"{stem}.{kind}.onnx" if kind else f"{stem}.onnx")


def open_engine(
    path: str | Path, engine: str = "c", threads: int = 1, isa: str | None = None
) -> Engine:
    """Open a model (.bstm, .onnx or bundle folder) with an engine.

    Args:
        path: the model.
        engine: one of ENGINES.
        threads: threads of the engine.
        isa: instruction set of the C kernels; None = the best here.

    Raises:
        UsageError: the engine is unknown, or cannot run this kind of file; too many threads.
        UnsupportedModelError: the instruction set cannot be used here.
        MissingToolError: what the engine needs is not installed.
    """
    if not 1 <= threads <= runtime.MAX_THREADS:
        raise UsageError(
            f"threads is {threads}, expected 1..{runtime.MAX_THREADS}", hint="--threads 1"
        )
    if engine not in ENGINES:
        raise UsageError(
            f"unknown engine `{engine}`, expected one of {', '.join(ENGINES)}", hint="--engine c"
        )
    if engine == "c":
        model = runtime.load(lowered_bytes(path), isa=isa, threads=threads)
        rules = images.rules_of(model.meta)
        return Engine("c", model, model.input_shape, rules, rules["class_names"], model.isa)
    if isa is not None:
        raise UsageError(
            f"engine `{engine}` has no instruction set to choose, --isa {isa} is for engine c",
            hint="leave --isa away, or use --engine c",
        )
    if engine == "tvm":
        if threads > 1:
            raise UsageError(
                f"engine `tvm` runs a frame on one thread, not on {threads}",
                hint="leave --threads away, or use --engine c",
            )
        module = open_module(path)
        rules = images.rules_of(module.meta)
        return Engine("tvm", module, module.input_shape, rules, rules["class_names"])
    path = Path(path)
    if path.suffix != ".onnx":
        raise UsageError(
            f"engine `{engine}` runs .onnx files, not `{path.name}`",
            hint="give the model.onnx that the .bstm was compiled from, or use --engine c",
        )
    return _open_onnx(path, engine, threads)


def _open_onnx(path: Path, engine: str, threads: int) -> Engine:
    from bestdeploy import ir

    if engine == "reference":
        graph = ir.load(path)
        if not any(node.domain == ir.DOMAIN for node in graph.graph):
            raise UnsupportedModelError(
                f"`{path}` holds standard ops only, engine `reference` runs those of bestdeploy",
                hint=f"give {sibling(path, '')}, or use --engine ort",
            )
        names = [value.name for value in graph.graph.outputs]
        if not {"raw", "logits"} <= set(names):
            raise ArtifactError(
                f"`{path}` has outputs {names}, expected logits and raw",
                hint="give the model.onnx of `bestdeploy export`",
            )
        model: Any = _Reference(graph)
        metadata = dict(graph.metadata_props)
        shape = tuple(d for d in graph.graph.inputs[0].shape or () if isinstance(d, int))
    else:
        from bestdeploy import onnxruntime

        file = sibling(path, "std") if engine == "std" else path
        has_ours = _has_our_ops(file)
        model = onnxruntime.load(file, threads, custom_ops=engine == "ort" and has_ours)
        metadata, shape = model.metadata, model.input_shape
    if len(shape) not in (3, 4) or not all(isinstance(size, int) for size in shape):
        raise ArtifactError(
            f"`{path}` takes an input of shape {list(shape)}, expected [H, W, C] or [T, H, W, C]",
            hint="give the model.onnx of `bestdeploy export`",
        )
    rules = images.rules_of(metadata)
    return Engine(engine, model, shape, rules, rules["class_names"])


def _has_our_ops(file: Path) -> bool:
    """Tell whether a file has ops of ours; refuse those of a newer bestdeploy.

    ONNX Runtime would take these: they have bodies. What is no ONNX file it refuses itself.
    """
    from bestdeploy import ir

    try:
        graph = ir.load(file).graph
    except ArtifactError:
        return False
    return any(node.domain == ir.DOMAIN for node in graph)


def predict(
    engine: Engine,
    sources: Sequence[str | Path],
    *,
    top: int = 5,
    limit: int | None = None,
    batch_size: int = 16,
    strict_events: bool = False,
) -> Iterator[Prediction]:
    """Yield the predictions for every frame of the sources, in order.

    Frames on standard input are computed one at a time, as they come.
    """
    size = 1 if "-" in [str(s) for s in sources] else batch_size
    batches = images.read_batches(
        sources,
        engine.input_shape,
        engine.preprocessing,
        batch_size=size,
        limit=limit,
        strict_events=strict_events,
    )
    for batch in batches:
        start = time.perf_counter()
        raw, logits = engine.model.infer(batch.frames)
        each = (time.perf_counter() - start) * 1e6 / len(batch.frames)
        order = np.argsort(-raw, axis=1, kind="stable")[:, :top]  # ties: the lower class first
        for index, name in enumerate(batch.names):
            yield Prediction(
                name=name,
                top=tuple(int(k) for k in order[index]),
                logits=logits[index],
                raw=raw[index],
                label=None if batch.labels is None else int(batch.labels[index]),
                microseconds=each,
                n_saturated=int(batch.n_saturated[index]),
                is_recording=bool(batch.is_recording[index]),
            )


@dataclass(frozen=True)
class ProfileRow:
    """What one step, or all steps together, did with a frame on average.

    Attributes:
        us: microseconds.
        share: of the time of all steps.
        rate: firing rate of what it gave, None where it gave no spikes.
        sops_per_second: synaptic operations per second of its own time.
        of_roofline: `sops_per_second` in parts of what this machine could do at most.
    """

    name: str
    op: str
    us: float
    share: float
    spikes_in: float
    spikes_out: float
    rate: float | None
    sops: float
    sops_per_second: float
    of_roofline: float


@dataclass(frozen=True)
class ProfileReport:
    """A profile of the frames of a run.

    Attributes:
        rows: the steps in order.
        total: all of them together.
        roofline: lane additions per second, see `runtime.additions_per_second`.
        threads: that shared each frame, and that the roofline was measured with.
    """

    rows: tuple[ProfileRow, ...]
    total: ProfileRow
    roofline: float
    isa: str
    threads: int
    n_frames: int


class Profiler:
    """Records a run of the C runtime; `report` tells what the steps did."""

    def __init__(self, model: runtime.Model, recording: runtime.Recording) -> None:
        self._model, self._recording = model, recording

    def report(self) -> ProfileReport:
        """Return the averages over the frames so far; measures the roofline the first time."""
        model, steps = self._model, self._recording.steps()
        roofline = runtime.additions_per_second(
            model.isa, model.threads, library=model.library_path
        )
        us, sops = sum(step.us for step in steps), sum(step.sops for step in steps)
        whole = us or 1.0
        rows = tuple(
            ProfileRow(
                name=s.step.name,
                op=s.step.op,
                us=s.us,
                share=s.us / whole,
                spikes_in=s.spikes_in,
                spikes_out=s.spikes_out,
                rate=s.rate_out,
                sops=s.sops,
                sops_per_second=s.sops_per_second,
                of_roofline=s.sops_per_second / roofline,
            )
            for s in steps
        )
        per_second = sops / whole * 1e6
        total = ProfileRow(
            name="all steps",
            op="",
            us=us,
            share=1.0,
            spikes_in=sum(row.spikes_in for row in rows),
            spikes_out=sum(row.spikes_out for row in rows),
            rate=None,
            sops=sops,
            sops_per_second=per_second,
            of_roofline=per_second / roofline,
        )
        n_frames = self._recording.n_frames
        return ProfileReport(rows, total, roofline, model.isa, model.threads, n_frames)


@contextlib.contextmanager
def profiled(engine: Engine) -> Iterator[Profiler]:
    """Record what the steps do with the frames of a run.

    Raises:
        UsageError: the engine is not the C runtime.
    """
    if not isinstance(engine.model, runtime.Model) or engine.name != "c":
        raise UsageError(
            f"--profile looks into the C runtime, not into engine `{engine.name}`",
            hint="leave --profile away, or use --engine c",
        )
    with engine.model.recorded() as recording:
        yield Profiler(engine.model, recording)


class RunReport:
    """What a run comes to; fed with every prediction.

    Attributes:
        engine: that made the predictions.
        n_labels: frames with a label.
        n_right: frames whose label is the most likely class.
        tally: what reading event recordings changed.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.n_labels = self.n_right = 0
        self.tally = images.Tally()
        self._times: list[float] = []

    def add(self, prediction: Prediction) -> None:
        """Count a prediction."""
        self._times.append(prediction.microseconds)
        if prediction.label is not None:
            self.n_labels += 1
            self.n_right += prediction.top[0] == prediction.label
        self.tally.add(prediction.is_recording, prediction.n_saturated)

    @property
    def n_frames(self) -> int:
        """Frames so far."""
        return len(self._times)

    @property
    def median_us(self) -> float:
        """Median time of a frame in microseconds."""
        return float(np.median(self._times)) if self._times else 0.0

    def facts(self) -> dict[str, Any]:
        """Return the report as plain data, without the frames."""
        return {
            "engine": self.engine.name,
            "isa": self.engine.isa,
            "n_frames": self.n_frames,
            "n_labels": self.n_labels,
            "top1": self.n_right / self.n_labels if self.n_labels else None,
            "events": self.tally.facts(self.engine.input_shape),
        }
