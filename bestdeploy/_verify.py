"""`verify`: two forms of one model on the same frames, spike by spike.

A form is a checkpoint (the float64 spiking graph, or the user's torch module with `--model`), an
.onnx in ONNX Runtime, `reference:FILE.onnx` in the numpy references, or a .bstm or bundle in the C
runtime. Spikes are compared wherever both forms show them.
"""

from __future__ import annotations

import importlib
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bestdeploy import images, importers, ir, onnxruntime, runtime, stages
from bestdeploy._bundle import lowered_bytes
from bestdeploy.errors import BudgetError, InputError, UsageError
from bestdeploy.ops import arithmetic, lif

__all__ = ["LayerReport", "VerifyReport", "verify"]

CHECKPOINTS = (".pt", ".pth", ".tar", ".safetensors", ".bin", ".ckpt")
RUNTIME_BATCH = 16

Spikes = dict[str, np.ndarray]


@dataclass(frozen=True)
class LayerReport:
    """One neuron layer.

    Attributes:
        name: published name of the neuron.
        n_neuron_steps: neurons times steps times frames.
        n_flips: spikes that differ.
        flips_per_million: of the neuron-steps.
        min_margin: smallest |H - threshold| of the float64 model over the frames in which this
            layer is the first to differ; None without flips or without a float form.
    """

    name: str
    n_neuron_steps: int
    n_flips: int
    flips_per_million: float
    min_margin: float | None


@dataclass(frozen=True)
class VerifyReport:
    """What the comparison found; see `deploy.verify`."""

    forms: tuple[str, str]
    n_frames: int
    n_raw_different: int | None
    max_logit_difference: float
    top1_agreement: float
    top1: dict[str, float] | None
    layers: list[LayerReport]
    first_divergence: dict[str, Any] | None
    exact: bool


@dataclass(frozen=True)
class Outcome:
    """What a form gives for a batch: raw int64 [B, K] or None, logits [B, K], spikes by neuron."""

    raw: np.ndarray | None
    logits: np.ndarray
    spikes: Spikes


class Form(Protocol):
    """One runnable form of a model."""

    name: str
    shape: tuple[int, int, int]
    preprocessing: dict[str, Any]
    batch_size: int  # frames that fit into memory at once, with all their spikes

    def run(self, frames: np.ndarray) -> Outcome:
        """Evaluate uint8 [B, H, W, C]."""


class _GraphForm:
    """A graph in the numpy references: the float64 trained model, or the integers."""

    def __init__(self, name: str, model: ir.Model) -> None:
        self.name, self.model = name, model
        self.shape = stages.input_shape(model)
        self.preprocessing = json.loads(model.metadata_props.get("preprocessing", "{}"))
        self.neurons = [str(v.name) for v in stages.neuron_values(model)]
        self.batch_size = stages.batch_size(model)
        self._executor = stages.Executor(model, watch=self.neurons)
        self._read = stages.spike_reader(model)

    def run(self, frames: np.ndarray) -> Outcome:
        out = self._executor.run(frames)
        spikes = {n: self._read(n, out[n]) for n in self.neurons}
        return Outcome(out.get("raw"), out["logits"], spikes)

    def margin(self, neuron: str, frames: np.ndarray) -> np.ndarray | None:
        """Return H - threshold float64 [T, B, ...] of a float neuron, None for an integer one."""
        value = next(v for v in stages.neuron_values(self.model) if v.name == neuron)
        node = value.producer()
        if node is None or not node.op_type.startswith(("Lif", "ConstantLif")):
            return None
        source = node.inputs[0]
        assert source is not None
        executor = stages.Executor(self.model, watch=[str(source.name)])
        row = stages.op_of(node)
        assert row is not None
        x = executor.run(frames)[str(source.name)]
        return lif.membrane(x, n_steps=row[1], **ir.attributes(node))[1]


class _OrtForm:
    """An .onnx file in ONNX Runtime, by its function bodies or standard ops."""

    def __init__(self, path: Path) -> None:
        self.name = f"{path} (onnxruntime)"
        model = ir.load(path)
        self.shape = stages.input_shape(model)
        self.preprocessing = json.loads(model.metadata_props.get("preprocessing", "{}"))
        has_ours = any(n.domain == ir.DOMAIN for n in model.graph)
        self.neurons = [str(v.name) for v in stages.neuron_values(model)] if has_ours else []
        self._read = stages.spike_reader(model)
        self.batch_size = stages.batch_size(model) if has_ours else RUNTIME_BATCH
        if has_ours:
            model.graph.outputs.extend(
                v for v in stages.neuron_values(model) if not v.is_graph_output()
            )
        self._session = onnxruntime.from_bytes(ir.to_bytes(model), str(path))

    def run(self, frames: np.ndarray) -> Outcome:
        names = self._session.output_names
        out = dict(zip(names, self._session.call(self._session.feed(frames)), strict=True))
        spikes = {n: self._read(n, out[n]) for n in self.neurons}
        return Outcome(out.get("raw"), out["logits"], spikes)


class _RuntimeForm:
    """A .bstm or bundle in the C runtime; every step's output is read through the probe."""

    def __init__(self, path: Path) -> None:
        self._model = runtime.load(lowered_bytes(path))
        self.name = f"{path} (C, {self._model.isa})"
        self.shape = self._model.input_shape
        self.batch_size = RUNTIME_BATCH
        self.preprocessing = dict(self._model.meta.get("preprocessing", {}))

    def run(self, frames: np.ndarray) -> Outcome:
        raws, spikes = [], dict[str, list[np.ndarray]]()
        for frame in frames:
            raw, taps = self._model.run_probed(frame)
            raws.append(raw)
            for name, outputs in taps.items():
                for tap in outputs:
                    if tap.info.kind == "spikes":
                        spikes.setdefault(name, []).append(tap.values())
        stacked = {n: np.stack(v, axis=1) for n, v in spikes.items()}
        raw = np.stack(raws)
        return Outcome(raw, np.ldexp(raw.astype(np.float64), -self._model.logit_shift), stacked)


class _TorchForm:
    """The user's own torch module for a checkpoint: `--model pkg.mod:factory`."""

    def __init__(self, path: Path, factory: str, like: _GraphForm) -> None:
        self.name = f"{path} (torch, {factory})"
        self.shape, self.preprocessing = like.shape, like.preprocessing
        self.batch_size = like.batch_size
        self._like = like
        self._module = self._build(path, factory)
        self._seen: dict[str, Any] = {}
        for name, module in self._module.named_modules():
            if name in like.neurons:
                module.register_forward_hook(self._hook(name))
        self._targets: dict[str, tuple[int, ...]] = {}

    @staticmethod
    def _build(path: Path, factory: str) -> Any:
        module_name, _, attribute = factory.partition(":")
        if not attribute:
            raise UsageError(f"--model {factory!r}: expected pkg.mod:factory")
        sys.path.insert(0, str(Path.cwd()))
        try:
            made = getattr(importlib.import_module(module_name), attribute)(str(path))
        except (ImportError, AttributeError) as e:
            raise UsageError(f"--model {factory}: {e}") from e
        except Exception as e:  # the user's code may raise anything
            raise UsageError(f"--model {factory} failed: {type(e).__name__}: {e}") from e
        finally:
            sys.path.pop(0)
        for needed in ("preprocess", "named_modules"):
            if not hasattr(made, needed):
                raise UsageError(
                    f"--model {factory} gave a {type(made).__name__} without `{needed}`",
                    hint="the factory returns a torch module with preprocess(uint8 [B, H, W, C])",
                )
        return made.eval()

    def _hook(self, name: str) -> Any:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            self._seen[name] = output.detach().cpu().numpy()

        return hook

    def run(self, frames: np.ndarray) -> Outcome:
        if not self._targets:
            spikes = self._like.run(frames[:1]).spikes
            self._targets = {n: s.shape for n, s in spikes.items()}
        logits = importers.checkpoint.evaluate(self._module, frames)
        spikes = {}
        for name, array in self._seen.items():
            t, _, *rest = self._targets[name]
            spikes[name] = _to_channel_last(array, (t, len(frames), *rest))
        return Outcome(None, logits, spikes)


def _to_channel_last(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Bring a module's spikes [T, B, C, H, W], [T, B, C, N] or by head to our [T, B, H, W, C]."""
    t, batch, height, width, channels = shape
    spikes = np.round(array).astype(np.uint8)
    if spikes.shape == (t, batch, channels, height, width):
        return spikes.transpose(0, 1, 3, 4, 2)
    if spikes.shape == (t, batch, channels, height * width):
        return spikes.transpose(0, 1, 3, 2).reshape(shape)
    if spikes.shape == shape:
        return spikes
    if spikes.ndim == 5 and spikes.shape[4] == height * width:  # [T, B, heads, d, N]
        return spikes.reshape(t, batch, channels, -1).transpose(0, 1, 3, 2).reshape(shape)
    if spikes.ndim == 5 and spikes.shape[3] == height * width:
        return arithmetic.from_heads(spikes, shape)
    raise InputError(f"a neuron of the torch module gives {spikes.shape}, expected {shape}")


def _is_checkpoint(source: str | Path) -> bool:
    text, path = str(source), Path(source)
    return not text.startswith("reference:") and not path.is_dir() and path.suffix in CHECKPOINTS


def open_form(
    source: str | Path, factory: str | None, config: Any, settings: Mapping[str, Any]
) -> Form:
    """Open one form by what its name says."""
    text = str(source)
    if text.startswith("reference:"):
        path = Path(text.removeprefix("reference:"))
        return _GraphForm(f"{path} (reference)", ir.load(path))
    path = Path(text)
    if path.is_dir() or path.suffix == ".bstm":
        return _RuntimeForm(path)
    if path.suffix == ".onnx":
        return _OrtForm(path)
    if not _is_checkpoint(path):
        raise UsageError(
            f"`{path}`: cannot tell what it is",
            hint=f"a checkpoint ({', '.join(CHECKPOINTS)}), .onnx, .bstm or a bundle folder",
        )
    model = importers.import_checkpoint(path, config=config, overrides=settings)
    trained = _GraphForm(f"{path} (float64)", model)
    return trained if factory is None else _TorchForm(path, factory, trained)


class _Comparison:
    """Adds up batches."""

    def __init__(self, a: Form, b: Form) -> None:
        self.a, self.b = a, b
        self.n_frames = self.n_raw = self.n_agree = 0
        self.has_raw = True
        self.worst = 0.0
        self.right = {a.name: 0, b.name: 0}
        self.n_labels = 0
        self.steps: dict[str, int] = {}
        self.flips: dict[str, int] = {}
        self.margins: dict[str, float] = {}
        self.first: dict[str, Any] | None = None

    def add(self, batch: images.Batch) -> None:
        x, y = self.a.run(batch.frames), self.b.run(batch.frames)
        if x.logits.shape != y.logits.shape:
            raise InputError(
                f"the forms give {x.logits.shape[1]} and {y.logits.shape[1]} classes",
                hint="are both of the same model?",
            )
        self._spikes(x.spikes, y.spikes, batch.frames)
        if x.raw is None or y.raw is None:
            self.has_raw = False
        else:
            self.n_raw += int((x.raw != y.raw).sum())
        difference = np.abs(x.logits.astype(np.float64) - y.logits.astype(np.float64))
        self.worst = max(self.worst, float(difference.max()))
        tops = x.logits.argmax(1), y.logits.argmax(1)
        self.n_agree += int((tops[0] == tops[1]).sum())
        if batch.labels is not None:
            self.n_labels += len(batch.labels)
            for form, top in zip((self.a, self.b), tops, strict=True):
                self.right[form.name] += int((top == batch.labels).sum())
        self.n_frames += len(batch.frames)

    def _spikes(self, x: Spikes, y: Spikes, frames: np.ndarray) -> None:
        """Count flips; a frame's first differing layer gives margins and the first divergence."""
        clean = np.ones(len(frames), bool)
        for name in (n for n in x if n in y):
            if x[name].shape != y[name].shape:
                raise InputError(
                    f"the spikes of `{name}` [T, B, ...] are {x[name].shape} in {self.a.name} and "
                    f"{y[name].shape} in {self.b.name}",
                    where=name,
                    hint="are both of the same model?",
                )
            different = x[name] != y[name]
            self.steps[name] = self.steps.get(name, 0) + different.size
            n_flips = int(different.sum())
            self.flips[name] = self.flips.get(name, 0) + n_flips
            if not n_flips:
                continue
            per_frame = different.any(axis=tuple(i for i in range(different.ndim) if i != 1))
            fresh = np.flatnonzero(per_frame & clean)
            clean &= ~per_frame
            if len(fresh):
                self._margin(name, different[:, fresh], frames[fresh])
                self._note_first(name, x[name], y[name], different, int(fresh[0]))

    def _margin(self, name: str, different: np.ndarray, frames: np.ndarray) -> None:
        for form in (self.a, self.b):
            trained = getattr(form, "_like", form)
            if not isinstance(trained, _GraphForm):
                continue
            margin = trained.margin(name, frames)
            if margin is not None:
                smallest = float(np.abs(margin.reshape(different.shape)[different]).min())
                self.margins[name] = min(smallest, self.margins.get(name, np.inf))
                return

    def _note_first(
        self, name: str, x: np.ndarray, y: np.ndarray, different: np.ndarray, frame: int
    ) -> None:
        order = list(self.steps)
        if self.first is not None and order.index(self.first["layer"]) <= order.index(name):
            return
        step, *index = (int(i) for i in np.argwhere(different[:, frame])[0])
        self.first = {
            "layer": name,
            "step": step + 1,
            "neuron": index,
            "frame": self.n_frames + frame,
            "spikes": [int(z[(step, frame, *index)]) for z in (x, y)],
        }

    def report(self) -> VerifyReport:
        layers = [
            LayerReport(n, self.steps[n], self.flips[n], 1e6 * self.flips[n] / self.steps[n],
                        self.margins.get(n))
            for n in self.steps
        ]  # fmt: skip
        n = max(1, self.n_frames)
        top1 = {k: v / self.n_labels for k, v in self.right.items()} if self.n_labels else None
        return VerifyReport(
            forms=(self.a.name, self.b.name),
            n_frames=self.n_frames,
            n_raw_different=self.n_raw if self.has_raw else None,
            max_logit_difference=self.worst,
            top1_agreement=self.n_agree / n,
            top1=top1,
            layers=layers,
            first_divergence=self.first,
            exact=self.has_raw and self.n_raw == 0 and not any(self.flips.values()),
        )


BUDGETS = ("flips_per_million", "logit_difference", "top1_agreement", "raw_different")
_UNMEASURED = {
    "flips_per_million": "no layer shows its spikes in both forms",
    "raw_different": "raw logits exist in integer forms only",
}


def _check_limits(budget: Mapping[str, float]) -> None:
    """Refuse unknown names and limits that nothing or everything would keep."""
    for name, limit in budget.items():
        if name not in BUDGETS:
            raise UsageError(f"--budget {name}: unknown", hint=f"known: {', '.join(BUDGETS)}")
        highest = 1.0 if name == "top1_agreement" else math.inf
        if not (math.isfinite(limit) and 0 <= limit <= highest):
            expected = "in 0..1" if highest == 1 else "finite and not negative"
            raise UsageError(f"--budget {name}={limit}: expected a limit {expected}")


def _check_budget(report: VerifyReport, budget: Mapping[str, float]) -> None:
    """Compare what was measured with the limits; what was not measured keeps none."""
    steps = sum(r.n_neuron_steps for r in report.layers)
    flips = sum(r.n_flips for r in report.layers)
    found: dict[str, float | None] = {
        "flips_per_million": 1e6 * flips / steps if steps else None,
        "logit_difference": report.max_logit_difference,
        "top1_agreement": report.top1_agreement,
        "raw_different": report.n_raw_different,
    }
    broken = []
    for name, limit in budget.items():
        value, below = found[name], name == "top1_agreement"
        if value is None:
            measured = [n for n in BUDGETS if found[n] is not None]
            raise UsageError(
                f"--budget {name}: {_UNMEASURED[name]} ({' and '.join(report.forms)})",
                hint=f"measured here: {', '.join(measured)}",
            )
        if not (value >= limit if below else value <= limit):
            word = "at least" if below else "at most"
            broken.append(f"{name} is {value:.6g}, the budget is {word} {limit:.6g}")
    if broken:
        raise BudgetError("; ".join(broken), report=report)


def _batches(form: Form, size: int, data: Any, limit: int | None) -> Iterator[images.Batch]:
    if data is None:
        frames = images.builtin_images(form.shape, min(limit or 16, 16))
        for i in range(0, len(frames), size):
            part = frames[i : i + size]
            yield images.Batch(part, None, tuple(f"built-in[{i + j}]" for j in range(len(part))))
        return
    yield from images.read_batches(
        data, form.shape, form.preprocessing, batch_size=size, limit=limit
    )


def verify(
    a: str | Path,
    against: str | Path,
    *,
    data: str | Path | Sequence[str | Path] | None = None,
    model: str | None = None,
    budget: Mapping[str, float] | None = None,
    limit: int | None = None,
    config: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
) -> VerifyReport:
    """Compare two forms; see `bestdeploy.deploy.verify`.

    Raises:
        BudgetError: a limit of `budget` is exceeded; it holds the report.
        UsageError: a limit is no limit, or on what these two forms do not show.
    """
    _check_limits(budget or {})
    if model is not None and not (_is_checkpoint(a) or _is_checkpoint(against)):
        raise UsageError(
            f"--model {model} evaluates a checkpoint, `{a}` and `{against}` are none",
            hint=f"give a checkpoint ({', '.join(CHECKPOINTS)}), or leave --model away",
        )
    first, second = (open_form(s, model, config, settings or {}) for s in (a, against))
    if first.shape != second.shape:
        raise InputError(
            f"`{a}` takes frames {first.shape}, `{against}` takes {second.shape}",
            hint="are both of the same model?",
        )
    comparison = _Comparison(first, second)
    size = min(first.batch_size, second.batch_size)
    for batch in _batches(first, size, data, limit):
        comparison.add(batch)
    report = comparison.report()
    _check_budget(report, budget or {})
    return report
