"""`export`: checkpoint -> model.onnx, model.std.onnx, model.float.onnx, verified before written."""

from __future__ import annotations

import base64
import dataclasses
import json
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bestdeploy import _summary, images, importers, ir, onnxruntime, passes, runtime, stages
from bestdeploy._comparison import Comparison
from bestdeploy._forms import GraphForm
from bestdeploy.emit import floating
from bestdeploy.emit import onnx as emit_onnx
from bestdeploy.emit.bstm import write_bstm
from bestdeploy.errors import (
    BestDeployError,
    MissingToolError,
    OutputError,
    UsageError,
    VerificationError,
)
from bestdeploy.files import check_writable, write_file, write_files
from bestdeploy.importers import traced
from bestdeploy.lower import lower

__all__ = ["ExportReport", "export"]

N_BUILTIN = 16
LOW_RATE, HIGH_RATE = 0.001, 0.6
MAX_GOLDEN = 4
GOLDEN_BUDGET_BYTES = 64 * 1024
MAX_FLIPS_PER_MILLION, MIN_AGREEMENT = 1000.0, 0.99


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote and found.

    Attributes:
        files: "model", "std", "float" -> path.
        passes: per pass its name, kind, nodes and bytes of constants before and after, changes,
            seconds.
        settings: every setting with its value and where it comes from.
        neuron_rules: neuron -> how it is computed; `neuron_rule` sums up the conv-fed ones.
        unpacked: what is not a bit, how it is stored and why.
        events: how recordings of `--data` were binned, counts that saturated; None for images.
        firing_rates: (neuron, spikes per neuron and step) on the verification frames.
        parity: what was compared, in words and numbers.
        warnings: what a user should look at.
        seconds: wall time.
    """

    files: dict[str, Path]
    passes: list[dict[str, Any]]
    settings: list[dict[str, Any]]
    neuron_rule: str
    neuron_rules: dict[str, str]
    unpacked: list[dict[str, str]]
    events: dict[str, Any] | None
    firing_rates: list[tuple[str, float]]
    parity: dict[str, Any]
    warnings: list[str]
    seconds: float


def output_files(output: str | Path) -> dict[str, Path]:
    """Return the three paths of an export to `output`."""
    output = Path(output)
    if output.suffix != ".onnx":
        raise UsageError(f"output `{output}` must end in .onnx", hint=f"-o {output}.onnx")
    stem = output.name.removesuffix(".onnx")
    return {
        "model": output,
        "std": output.with_name(f"{stem}.std.onnx"),
        "float": output.with_name(f"{stem}.float.onnx"),
    }


def export(
    checkpoint: Any,
    output: str | Path,
    *,
    example_input: Any = None,
    family: str | None = None,
    config: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    data: Any = None,
    strict_events: bool = False,
    dump_passes: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
    verifying: Callable[[int, int | None], None] | None = None,
) -> ExportReport:
    """Export a checkpoint; see `bestdeploy.deploy.export`."""
    start = time.perf_counter()
    say = progress or (lambda text: None)
    files = output_files(output)
    for file in files.values():
        check_writable(file)
    if dump_passes is not None:
        _check_dumps(Path(dump_passes))
    say(f"reading {traced.class_name(checkpoint) if traced.is_module(checkpoint) else checkpoint}")
    if traced.is_module(checkpoint):
        spiking = traced.trace(checkpoint, example_input, settings or {})
    else:
        spiking = importers.import_checkpoint(
            checkpoint, family=family, config=config, overrides=settings
        )
    warnings = list(json.loads(spiking.metadata_props.pop("warnings", "[]")))
    float_bytes = floating.float_model(spiking)
    packed = ir.clone(spiking)
    source = _Frames(spiking, data, strict_events)
    dump = None if dump_passes is None else _dumper(Path(dump_passes), spiking)
    say("running the passes")
    records = passes.run(packed, after=dump)
    warnings += _precision(packed)
    say("verifying the integers against the trained model, ONNX Runtime and the C runtime")
    check = _Check(spiking, packed)
    std_bytes = emit_onnx.standard_model(packed)
    engines, missing = _engines(packed, std_bytes)
    parity = check.run(iter(source), engines, _counting(source, verifying))
    packed.metadata_props["golden"] = encode_golden(*check.golden)
    model_bytes = emit_onnx.function_model(packed)
    say("writing the files")
    write_files({files["float"]: float_bytes, files["std"]: std_bytes, files["model"]: model_bytes})
    return ExportReport(
        files=files,
        passes=[dataclasses.asdict(r) for r in records],
        settings=_summary.settings_of(packed),
        neuron_rule=_summary.neuron_rule(packed),
        neuron_rules=_summary.neuron_rules(packed),
        unpacked=_summary.unpacked(packed),
        events=source.tally.facts(source.shape),
        firing_rates=check.firing_rates(),
        parity={**parity, **dict.fromkeys(map(_differing, missing))},
        warnings=[*warnings, *check.warnings(), *missing.values()],
        seconds=time.perf_counter() - start,
    )


DUMP = "--dump-passes"


def _dump_files(folder: Path) -> list[Path]:
    """Return the files of `--dump-passes`: the spiking graph, then one per pass."""
    names = ["spiking", *(step.name for step in passes.PIPELINE)]
    return [folder / f"{number:02d}_{name}.onnx" for number, name in enumerate(names)]


def _check_dumps(folder: Path) -> None:
    """Refuse a folder that cannot be written, or that would lose a file of someone else."""
    for file in _dump_files(folder):
        check_writable(file, DUMP)
        if file.exists() and not _is_ours(file):
            raise OutputError(
                f"`{file}` was not written by an export and would be overwritten",
                hint=f"choose another folder with {DUMP}",
            )


def _is_ours(file: Path) -> bool:
    try:
        return bool(ir.load(file).producer_name == "bestdeploy")
    except BestDeployError:
        return False


def _dumper(folder: Path, spiking: ir.Model) -> Callable[[int, Any, ir.Model], None]:
    files = _dump_files(folder)
    write_file(files[0], emit_onnx.function_model(ir.clone(spiking)), DUMP)

    def dump(number: int, step: Any, model: ir.Model) -> None:
        write_file(files[number], emit_onnx.function_model(ir.clone(model)), DUMP)

    return dump


def _counting(
    source: _Frames, verifying: Callable[[int, int | None], None] | None
) -> Callable[[int], None]:
    """Return what is called with the number of frames done."""
    if verifying is None:
        return lambda _done: None
    total = source.count()
    return lambda done: verifying(done, total)


def _precision(model: ir.Model) -> list[str]:
    """Warn where the stream has fewer fraction bits than usual, naming the layer that decided."""
    decided_by = model.metadata_props.pop("frac_bits_decided_by", None)
    if decided_by is None:
        return []
    bits = model.metadata_props["frac_bits"]
    return [f"the stream has {bits} fraction bits instead of 20: {decided_by} reaches too far"]


def _engines(packed: ir.Model, std_bytes: bytes) -> tuple[dict[str, Any], dict[str, str]]:
    """Open everything that must give the reference's integers; what is missing, and why.

    model.onnx runs twice: where the custom ops are registered, ONNX Runtime ignores the bodies, so
    that a wrong one would be seen by those only who run it without.
    """
    content = emit_onnx.function_model(packed)
    engines: dict[str, Any] = {
        "model.onnx in onnxruntime": onnxruntime.from_bytes(content, "model.onnx"),
        "model.std.onnx in onnxruntime": onnxruntime.from_bytes(std_bytes, "model.std.onnx"),
    }
    missing = {}
    compiled: dict[str, Callable[[], Any]] = {
        "the C runtime": lambda: runtime.load(write_bstm(lower(packed))),
        "the custom ops in onnxruntime": lambda: onnxruntime.from_bytes(
            content, "model.onnx", custom_ops=True
        ),
    }
    for name, load in compiled.items():
        try:
            engines[name] = load()
        except MissingToolError as error:
            missing[name] = f"not compared with {name}: {error}"
    return engines, missing


def _differing(engine: str) -> str:
    return f"differing raw logits, reference against {engine}"


class _Frames:
    """The frames to verify on; an unusable `--data` fails before the long work starts."""

    def __init__(self, model: ir.Model, data: Any, strict_events: bool) -> None:
        self.shape, self.tally = stages.input_shape(model), images.Tally()
        self._data, self._strict, self._size = data, strict_events, stages.batch_size(model)
        self._rules = images.rules_of(model.metadata_props)
        images.check_strict(strict_events, self.shape)
        sources = [data] if isinstance(data, str | Path) else data
        if sources is not None and "-" not in map(str, sources):
            next(self._read(batch_size=1, limit=1))

    def _read(self, batch_size: int, limit: int | None = None) -> Iterator[images.Batch]:
        return images.read_batches(
            self._data,
            self.shape,
            self._rules,
            batch_size=batch_size,
            limit=limit,
            strict_events=self._strict,
        )

    def count(self) -> int | None:
        """Return how many frames there are, None where only reading them tells."""
        return N_BUILTIN if self._data is None else images.count_frames(self._data, self.shape)

    def __iter__(self) -> Iterator[np.ndarray]:
        if self._data is None:
            frames = images.builtin_images(self.shape, N_BUILTIN)
            yield from (frames[i : i + self._size] for i in range(0, N_BUILTIN, self._size))
            return
        for batch in self._read(self._size):
            self.tally.add(batch.is_recording, batch.n_saturated)
            yield batch.frames


class _Check:
    """Runs the trained model, the integers and ONNX Runtime on the same frames."""

    def __init__(self, spiking: ir.Model, packed: ir.Model) -> None:
        self.names = [str(v.name) for v in stages.neuron_values(packed)]
        self.trained = stages.Executor(ir.clone(spiking), watch=self.names)
        self.integers = stages.Executor(packed, watch=self.names)
        self.read = stages.spike_reader(packed)
        self.kept = stages.kept_spikes(packed)
        self.bits = int(packed.metadata_props["frac_bits"])
        self.agreement = 1.0
        self.graphs = spiking, packed
        self.first: str | None = None
        self.spikes = dict.fromkeys(self.names, 0)
        self.flips = dict.fromkeys(self.names, 0)
        self.steps = dict.fromkeys(self.names, 0)
        self.golden: tuple[np.ndarray, np.ndarray]
        self._kept: list[tuple[np.ndarray, np.ndarray]] = []

    def run(
        self,
        frames: Iterator[np.ndarray],
        engines: dict[str, Any],
        count: Callable[[int], None] = lambda _done: None,
    ) -> dict[str, Any]:
        """Compare everything on all frames; `count` is called with the number done.

        Raises:
            VerificationError: an engine gives other integers than the reference.
        """
        n_frames, n_same, worst = 0, 0, 0.0
        for batch in frames:
            trained, integers = self.trained.run(batch), self.integers.run(batch)
            if self._count(trained, integers) and self.first is None:
                self.first = self._divergence(batch, n_frames)
            for name, engine in engines.items():
                self._compare(name, engine, batch, integers["raw"], n_frames)
            worst = max(worst, float(np.abs(trained["logits"] - integers["logits"]).max()))
            n_same += int((trained["logits"].argmax(1) == integers["logits"].argmax(1)).sum())
            n_frames += len(batch)
            count(n_frames)
            self._keep(batch, integers["raw"])
        self.golden = (
            np.concatenate([f for f, _ in self._kept]),
            np.concatenate([r for _, r in self._kept]),
        )
        total = sum(self.steps.values())
        self.agreement = n_same / max(1, n_frames)
        return {
            "frames": n_frames,
            **dict.fromkeys(map(_differing, engines), 0),
            "spike flips against the trained model": sum(self.flips.values()),
            "neuron-steps": total,
            "first divergence from the trained model": self.first,
            "flips per million neuron-steps": 1e6 * sum(self.flips.values()) / max(1, total),
            "largest logit difference to the trained model": worst,
            "top-1 agreement with the trained model": self.agreement,
            "fraction bits of the stream": self.bits,
        }

    def _keep(self, batch: np.ndarray, raw: np.ndarray) -> None:
        held = sum(len(f) for f, _ in self._kept)
        room = min(MAX_GOLDEN, max(1, GOLDEN_BUDGET_BYTES // batch[0].size)) - held
        if room > 0:
            # The first built-in frames are constants; frames from the end say more.
            self._kept.append((batch[-room:], raw[-room:]))

    def _divergence(self, batch: np.ndarray, n_before: int) -> str:
        """Say where a batch strays first from the trained model, and how near the threshold."""
        forms = [GraphForm(name, ir.clone(g)) for name, g in zip("ab", self.graphs, strict=True)]
        comparison = Comparison(*forms)
        for part in images.batches_of(batch, "frames", batch_size=len(batch)):
            comparison.add(part)
        report = comparison.report(None)
        first = {**(report.first_divergence or {})}
        first["frame"] += n_before
        margin = next(x.min_margin for x in report.layers if x.name == first["layer"])
        first["margin"] = "-" if margin is None else f"{margin:.2g}"
        return ", ".join(f"{key} {value}" for key, value in first.items())

    def _count(self, trained: dict[str, Any], integers: dict[str, Any]) -> int:
        """Add up spikes and flips of a batch; return its flips."""
        before = sum(self.flips.values())
        for name in self.names:
            ours = self.read(name, integers[name])
            self.spikes[name] += int(ours.sum())
            theirs = self.kept(name, trained[name])
            self.flips[name] += int((ours != theirs.reshape(ours.shape)).sum())
            self.steps[name] += ours.size
        return sum(self.flips.values()) - before

    @staticmethod
    def _compare(name: str, engine: Any, batch: np.ndarray, raw: np.ndarray, n_before: int) -> None:
        found, _ = engine.infer(batch)
        if not np.array_equal(found, raw):
            frame, channel = (int(i) for i in np.argwhere(found != raw)[0])
            raise VerificationError(
                f"{name} gives raw logit {found[frame, channel]}, the reference "
                f"{raw[frame, channel]}",
                where=f"frame {n_before + frame}, class {channel}",
                hint="a bug in bestdeploy, onnxruntime or the C compiler; no file was written",
            )

    def firing_rates(self) -> list[tuple[str, float]]:
        """Spikes per neuron and step."""
        return [(n, self.spikes[n] / max(1, self.steps[n])) for n in self.names]

    def warnings(self) -> list[str]:
        """Say where the integers stray from the trained model, and which layers hardly fire."""
        flips = 1e6 * sum(self.flips.values()) / max(1, sum(self.steps.values()))
        found = []
        if flips > MAX_FLIPS_PER_MILLION:
            found.append(f"{flips:.0f} spikes per million differ from the trained model")
        if self.agreement < MIN_AGREEMENT:
            found.append(f"top-1 agrees with the trained model on {self.agreement:.1%} of frames")
        return found + [
            f"{name} fires at {100 * rate:.3g} %, "
            + ("below 0.1 %: is it dead?" if rate < LOW_RATE else "above 60 %")
            for name, rate in self.firing_rates()
            if not LOW_RATE <= rate <= HIGH_RATE
        ]


def encode_golden(frames: np.ndarray, raw: np.ndarray) -> str:
    """Write golden frames and raw logits as one line of text for the metadata."""
    return json.dumps(
        {
            "shape": list(frames.shape),
            "frames": base64.b64encode(zlib.compress(frames.tobytes(), 9)).decode(),
            "raw": [[int(v) for v in row] for row in raw],
        },
        sort_keys=True,
    )
