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

from bestdeploy import images, importers, ir, onnxruntime, passes, stages
from bestdeploy.emit import floating
from bestdeploy.emit import onnx as emit_onnx
from bestdeploy.errors import UsageError, VerificationError
from bestdeploy.files import write_file, write_files

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
        passes: per pass its name, kind, nodes before and after, changes, seconds.
        firing_rates: (neuron, spikes per neuron and step) on the verification frames.
        parity: what was compared, in words and numbers.
        warnings: what a user should look at.
        seconds: wall time.
    """

    files: dict[str, Path]
    passes: list[dict[str, Any]]
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
    checkpoint: str | Path,
    output: str | Path,
    *,
    family: str | None = None,
    config: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    data: Any = None,
    dump_passes: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> ExportReport:
    """Export a checkpoint; see `bestdeploy.deploy.export`."""
    start = time.perf_counter()
    say = progress or (lambda text: None)
    files = output_files(output)
    say(f"reading {checkpoint}")
    spiking = importers.import_checkpoint(
        checkpoint, family=family, config=config, overrides=settings
    )
    warnings = list(json.loads(spiking.metadata_props.pop("warnings", "[]")))
    float_bytes = floating.float_model(spiking)
    packed = ir.clone(spiking)
    _check_source(spiking, data)
    dump = None if dump_passes is None else _dumper(Path(dump_passes), spiking)
    say("running the passes")
    records = passes.run(packed, after=dump)
    warnings += _precision(packed)
    say("verifying the integers against the trained model and against ONNX Runtime")
    frames = _frames(spiking, data)
    check = _Check(spiking, packed)
    model_bytes = emit_onnx.function_model(packed)
    std_bytes = emit_onnx.standard_model(packed)
    parity = check.run(frames, {"model.onnx": model_bytes, "model.std.onnx": std_bytes})
    packed.metadata_props["golden"] = encode_golden(*check.golden)
    model_bytes = emit_onnx.function_model(packed)
    say("writing the files")
    write_files({files["float"]: float_bytes, files["std"]: std_bytes, files["model"]: model_bytes})
    return ExportReport(
        files=files,
        passes=[dataclasses.asdict(r) for r in records],
        firing_rates=check.firing_rates(),
        parity=parity,
        warnings=[*warnings, *check.warnings()],
        seconds=time.perf_counter() - start,
    )


def _dumper(folder: Path, spiking: ir.Model) -> Callable[[int, Any, ir.Model], None]:
    write_file(folder / "00_spiking.onnx", emit_onnx.function_model(ir.clone(spiking)))

    def dump(number: int, step: Any, model: ir.Model) -> None:
        path = folder / f"{number:02d}_{step.name}.onnx"
        write_file(path, emit_onnx.function_model(ir.clone(model)))

    return dump


def _precision(model: ir.Model) -> list[str]:
    """Warn where the stream has fewer fraction bits than usual, naming the layer that decided."""
    decided_by = model.metadata_props.pop("frac_bits_decided_by", None)
    if decided_by is None:
        return []
    bits = model.metadata_props["frac_bits"]
    return [f"the stream has {bits} fraction bits instead of 20: {decided_by} reaches too far"]


def _check_source(model: ir.Model, data: Any) -> None:
    """Fail on an unusable `--data` before the long work starts."""
    if data is not None:
        rules = json.loads(model.metadata_props.get("preprocessing", "{}"))
        next(images.read_batches(data, stages.input_shape(model), rules, batch_size=1, limit=1))


def _frames(model: ir.Model, data: Any) -> Iterator[np.ndarray]:
    shape, size = stages.input_shape(model), stages.batch_size(model)
    if data is None:
        built_in = images.builtin_images(shape, N_BUILTIN)
        yield from (built_in[i : i + size] for i in range(0, N_BUILTIN, size))
        return
    rules = json.loads(model.metadata_props.get("preprocessing", "{}"))
    for batch in images.read_batches(data, shape, rules, batch_size=size):
        yield batch.frames


class _Check:
    """Runs the trained model, the integers and ONNX Runtime on the same frames."""

    def __init__(self, spiking: ir.Model, packed: ir.Model) -> None:
        self.names = [str(v.name) for v in stages.neuron_values(packed)]
        self.trained = stages.Executor(ir.clone(spiking), watch=self.names)
        self.integers = stages.Executor(packed, watch=self.names)
        self.read = stages.spike_reader(packed)
        self.bits = int(packed.metadata_props["frac_bits"])
        self.agreement = 1.0
        self.spikes = dict.fromkeys(self.names, 0)
        self.flips = dict.fromkeys(self.names, 0)
        self.steps = dict.fromkeys(self.names, 0)
        self.golden: tuple[np.ndarray, np.ndarray]
        self._kept: list[tuple[np.ndarray, np.ndarray]] = []

    def run(self, frames: Iterator[np.ndarray], files: dict[str, bytes]) -> dict[str, Any]:
        """Compare everything on all frames.

        Raises:
            VerificationError: ONNX Runtime gives other integers than the reference.
        """
        sessions = {name: onnxruntime.from_bytes(data, name) for name, data in files.items()}
        n_frames, n_same, worst = 0, 0, 0.0
        for batch in frames:
            trained, integers = self.trained.run(batch), self.integers.run(batch)
            self._count(trained, integers)
            for name, session in sessions.items():
                self._compare(name, session, batch, integers["raw"], n_frames)
            worst = max(worst, float(np.abs(trained["logits"] - integers["logits"]).max()))
            n_same += int((trained["logits"].argmax(1) == integers["logits"].argmax(1)).sum())
            n_frames += len(batch)
            self._keep(batch, integers["raw"])
        self.golden = (
            np.concatenate([f for f, _ in self._kept]),
            np.concatenate([r for _, r in self._kept]),
        )
        total = sum(self.steps.values())
        self.agreement = n_same / max(1, n_frames)
        return {
            "frames": n_frames,
            "differing raw logits, reference against model.onnx in onnxruntime": 0,
            "differing raw logits, reference against model.std.onnx in onnxruntime": 0,
            "spike flips against the trained model": sum(self.flips.values()),
            "neuron-steps": total,
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

    def _count(self, trained: dict[str, Any], integers: dict[str, Any]) -> None:
        for name in self.names:
            ours = self.read(name, integers[name])
            self.spikes[name] += int(ours.sum())
            self.flips[name] += int((ours != trained[name].reshape(ours.shape)).sum())
            self.steps[name] += ours.size

    @staticmethod
    def _compare(
        name: str, session: Any, batch: np.ndarray, raw: np.ndarray, n_before: int
    ) -> None:
        found, _ = session.infer(batch)
        if not np.array_equal(found, raw):
            frame, channel = (int(i) for i in np.argwhere(found != raw)[0])
            raise VerificationError(
                f"{name} in onnxruntime gives raw logit {found[frame, channel]}, the reference "
                f"{raw[frame, channel]}",
                where=f"frame {n_before + frame}, class {channel}",
                hint="this is a bug in bestdeploy or in this onnxruntime; no file was written",
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
