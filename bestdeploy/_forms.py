"""The runnable forms of a model, for `verify`: each gives logits, raw logits and spikes by neuron.

| source                      | evaluated by                                                    |
|-----------------------------|-----------------------------------------------------------------|
| checkpoint                  | the float64 spiking graph, in the numpy references              |
| checkpoint with `--model`   | the user's own torch module                                     |
| .onnx, stage "spiking"      | the numpy references (dumped passes before "folded")            |
| any other .onnx             | ONNX Runtime, by function bodies or standard ops                |
| ort:FILE.onnx               | ONNX Runtime, by our C kernels in place of the function bodies  |
| reference:FILE.onnx         | the numpy references                                            |
| .bstm, bundle               | the C runtime                                                   |
| tvm:FILE, bundle with net.so| the module of TVM; spikes by the C runtime                      |
| bundle of another machine   | its bst_run under an emulator; spikes by the C runtime here     |

To add a form, write a class with the attributes of `Form` and a line in `open_form`.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bestdeploy import images, importers, ir, lower, onnxruntime, runtime, stages
from bestdeploy._bundle import lowered_bytes, open_module
from bestdeploy._device import Device, open_device
from bestdeploy.emit.bstm import read_bstm
from bestdeploy.errors import ArtifactError, InputError, UnsupportedModelError, UsageError
from bestdeploy.images import Shape
from bestdeploy.ops import arithmetic, lif
from bestdeploy.program import written_levels

__all__ = [
    "CHECKPOINTS",
    "Form",
    "Golden",
    "Outcome",
    "Pruned",
    "Spikes",
    "is_checkpoint",
    "margin_of",
    "open_form",
]

CHECKPOINTS = (".pt", ".pth", ".tar", ".safetensors", ".bin", ".ckpt")
REFERENCE, CUSTOM_OPS, TVM = "reference:", "ort:", "tvm:"
NO_NEURONS = ("or_pool", "level_add")  # their spikes are those of neurons before them
MAX_BATCH = 16
SPIKES_AT_ONCE = 1 << 25  # bytes of spikes that the C runtime's form may hold

Spikes = dict[str, np.ndarray]
Golden = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Outcome:
    """What a form gives for a batch: raw int64 [B, K] or None, logits [B, K], spikes by neuron."""

    raw: np.ndarray | None
    logits: np.ndarray
    spikes: Spikes


@dataclass(frozen=True)
class Pruned:
    """What the export cut out of a neuron layer: `cut` of its `of` channels on `axis`.

    Cut neurons never fire, or nothing reads them; numbers are those of the trained model.
    """

    axis: int
    cut: tuple[int, ...]
    of: int

    @property
    def kept(self) -> np.ndarray:
        """Numbers that are still there, ascending."""
        return np.delete(np.arange(self.of), self.cut)


class Form(Protocol):
    """One runnable form of a model."""

    name: str
    shape: Shape
    preprocessing: dict[str, Any]
    batch_size: int  # frames that fit into memory at once, with all their spikes
    logit_shift: int | None  # logit = raw * 2^-logit_shift, None without raw logits
    pruned: dict[str, Pruned]  # by neuron
    golden: Golden | None  # frames uint8 [N, ...] and exact raw logits int64 [N, K] it carries

    def run(self, frames: np.ndarray) -> Outcome:
        """Evaluate uint8 [B, H, W, C], or [B, T, H, W, C] of an event model."""


def _stored_golden(model: ir.Model) -> Golden | None:
    held = lower.stored_golden(model)
    return (np.stack([g.frame for g in held]), np.stack([g.raw for g in held])) if held else None


def _pruned(found: Any, name: str) -> dict[str, Pruned]:
    """Read the metadata `pruned`: neuron -> {axis, cut, of}."""
    try:
        notes = {
            str(neuron): Pruned(int(note["axis"]), tuple(map(int, note["cut"])), int(note["of"]))
            for neuron, note in (found or {}).items()
        }
        for note in notes.values():
            _ = note.kept
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise ArtifactError(
            f"the metadata of `{name}` about pruned neurons is damaged",
            where="pruned",
            hint="export the model again",
        ) from error
    return notes


def _pruned_of(model: ir.Model, name: str) -> dict[str, Pruned]:
    try:
        return _pruned(json.loads(model.metadata_props.get("pruned", "{}")), name)
    except ValueError as error:
        raise ArtifactError(
            f"the metadata of `{name}` about pruned neurons is not JSON",
            where="pruned",
            hint="export the model again",
        ) from error


def _logit_shift(model: ir.Model) -> int | None:
    text = model.metadata_props.get("logit_shift", "")
    return int(text) if text.isdigit() else None


class _OnGraph:
    """What the forms of an .onnx graph have in common."""

    def __init__(self, name: str, model: ir.Model) -> None:
        self.name, self.model = name, model
        self.shape: Shape = stages.input_shape(model)
        self.preprocessing = images.rules_of(model.metadata_props)
        self.golden, self.logit_shift = _stored_golden(model), _logit_shift(model)
        self.pruned = _pruned_of(model, name)
        self.values = stages.neuron_values(model)
        self._read = stages.spike_reader(model)

    @staticmethod
    def published(value: ir.Value) -> str:
        """Return a neuron's name; between the passes pack and fuse its bytes carry a suffix."""
        return str(value.name).removesuffix(".bits")

    def outcome(self, out: Mapping[str, np.ndarray]) -> Outcome:
        """Sort the values of a run, by name."""
        names = [str(value.name) for value in self.values]
        spikes = {
            self.published(value): self._read(name, out[name])
            for value, name in zip(self.values, names, strict=True)
        }
        return Outcome(out.get("raw"), out["logits"], spikes)


class GraphForm(_OnGraph):
    """A graph in the numpy references: the float64 trained model, or the integers."""

    def __init__(self, name: str, model: ir.Model) -> None:
        super().__init__(name, model)
        self.batch_size = stages.batch_size(model)
        self._executor = stages.Executor(model, watch=[str(v.name) for v in self.values])
        self._inputs: dict[str, stages.Executor] = {}

    @property
    def neurons(self) -> list[str]:
        """Published names of the neurons, in order."""
        return [self.published(value) for value in self.values]

    def run(self, frames: np.ndarray) -> Outcome:
        return self.outcome(self._executor.run(frames))

    def margin(self, neuron: str, frames: np.ndarray) -> np.ndarray | None:
        """Return H - threshold float64 [T, B, ...] of a float neuron, None for an integer one."""
        value = next((v for v in self.values if v.name == neuron), None)
        node = None if value is None else value.producer()
        if node is None or not node.op_type.startswith(("Lif", "ConstantLif")):
            return None
        source, row = node.inputs[0], stages.op_of(node)
        assert source is not None and row is not None
        name = str(source.name)
        if name not in self._inputs:
            self._inputs[name] = stages.Executor(self.model, watch=[name])
        x = self._inputs[name].run(frames)[name]
        return lif.membrane(x, n_steps=row[1], **ir.attributes(node))[1]


class _OrtForm(_OnGraph):
    """An .onnx file in ONNX Runtime: function bodies or standard ops, or our C kernels."""

    def __init__(self, path: Path, model: ir.Model, *, custom_ops: bool = False) -> None:
        kernels = ", our kernels" if custom_ops else ""
        super().__init__(f"{path} (onnxruntime{kernels})", model)
        has_ours = any(n.domain == ir.DOMAIN for n in model.graph)
        self.batch_size = min(MAX_BATCH, stages.batch_size(model)) if has_ours else MAX_BATCH
        model.graph.outputs.extend(v for v in self.values if not v.is_graph_output())
        content = ir.to_bytes(model)
        self._session = onnxruntime.from_bytes(content, str(path), custom_ops=custom_ops)
        if "logits" not in self._session.output_names:
            raise ArtifactError(
                f"`{path}` has outputs {self._session.output_names}, expected logits",
                hint="give an .onnx file of `bestdeploy export`",
            )

    def run(self, frames: np.ndarray) -> Outcome:
        names = self._session.output_names
        values = self._session.call(self._session.feed(frames))
        return self.outcome(dict(zip(names, values, strict=True)))


class _RuntimeForm:
    """A .bstm or bundle in the C runtime; every step's output is read through the probe."""

    def __init__(self, path: Path, model: runtime.Model | None = None) -> None:
        content = lowered_bytes(path)
        self._model = model or runtime.load(content)
        self._widths = _level_widths(content)
        self._pools = {step.name for step in self._model.steps() if step.op in NO_NEURONS}
        self.name = f"{path} (C, {self._model.isa})"
        self.shape: Shape = self._model.input_shape
        places = sum(
            int(np.prod(o.shape))
            for step in self._model.steps()
            for o in step.outputs
            if o.kind == "spikes"
        )
        self.batch_size = min(MAX_BATCH, max(1, SPIKES_AT_ONCE // max(1, places)))
        self.preprocessing = images.rules_of(self._model.meta)
        self.logit_shift: int | None = self._model.logit_shift
        self.pruned = _pruned(self._model.meta.get("pruned"), self.name)
        held = self._model.golden()
        self.golden = (
            (np.stack([f for f, _ in held]), np.stack([r for _, r in held])) if held else None
        )

    def run(self, frames: np.ndarray) -> Outcome:
        raws, spikes = [], dict[str, list[np.ndarray]]()
        for frame in frames:
            raw, taps = self._model.run_probed(frame)
            raws.append(raw)
            for name, outputs in taps.items():
                for tap in outputs:
                    if tap.info.kind == "spikes" and name not in self._pools:
                        spikes.setdefault(name, []).append(self._neurons(name, tap))
        stacked = {n: np.stack(v, axis=1) for n, v in spikes.items()}
        raw = np.stack(raws)
        logits = np.ldexp(raw.astype(np.float64), -self._model.logit_shift)
        return Outcome(raw, logits.astype(np.float32), stacked)

    def _neurons(self, name: str, tap: runtime.Tap) -> np.ndarray:
        """Return spikes, or levels where the neuron has several, uint8 [T, H, W, C]."""
        if name not in self._widths:
            return np.asarray(tap.values())
        octets = np.ascontiguousarray(tap.data.astype("<u8", copy=False)).view(np.uint8)
        return arithmetic.unpack_levels(octets, self._widths[name])


def _level_widths(content: bytes) -> dict[str, int]:
    """Return C of every step that writes levels, whose output is planes of bits."""
    program = read_bstm(content)
    written = {step.name: written_levels(program, step) for step in program.steps}
    return {name: channels for name, channels in written.items() if channels is not None}


class _ModuleForm(_RuntimeForm):
    """A module of TVM: raw logits by its own code, spikes by the C runtime."""

    def __init__(self, path: Path) -> None:
        self._module = open_module(path)
        super().__init__(path, self._module)
        self.name = f"{path} (TVM; spikes: C, {self._module.isa})"

    def run(self, frames: np.ndarray) -> Outcome:
        spikes = super().run(frames).spikes
        raw, logits = self._module.infer(frames)
        return Outcome(raw, logits, spikes)


class _DeviceForm(_RuntimeForm):
    """A bundle for another architecture: raw logits by its own program, spikes by our runtime."""

    def __init__(self, path: Path, device: Device) -> None:
        super().__init__(path)
        self._device = device
        self.name = f"{path} ({device.name}; spikes: C, {self._model.isa})"

    def run(self, frames: np.ndarray) -> Outcome:
        spikes = super().run(frames).spikes
        raw = self._device.run_raw(frames)
        logits = np.ldexp(raw.astype(np.float64), -self._model.logit_shift)
        return Outcome(raw, logits.astype(np.float32), spikes)


class _TorchForm:
    """The user's own torch module for a checkpoint: `--model pkg.mod:factory`."""

    golden: Golden | None = None
    logit_shift: int | None = None

    def __init__(self, path: Path, factory: str, like: GraphForm) -> None:
        self.name = f"{path} (torch, {factory})"
        self.shape, self.preprocessing = like.shape, like.preprocessing
        self.batch_size = like.batch_size
        self.like = like
        self.pruned = like.pruned
        self._module = self._build(path, factory)
        self._seen: dict[str, Any] = {}
        for name, module in self._module.named_modules():
            if name in like.neurons:
                module.register_forward_hook(self._hook(name))
        self._targets: dict[str, tuple[int, ...]] = {}
        self._maps = {like.published(value) for value in like.values if _is_map(value)}

    @staticmethod
    def _build(path: Path, factory: str) -> Any:
        module_name, _, attribute = factory.partition(":")
        if not attribute:
            raise UsageError(
                f"--model {factory}: expected PKG.MOD:FACTORY",
                hint="--model my_package.my_module:build, where build(checkpoint) gives the module",
            )
        sys.path.insert(0, str(Path.cwd()))
        try:
            made = getattr(importlib.import_module(module_name), attribute)(str(path))
        except (ImportError, AttributeError) as e:
            raise UsageError(
                f"--model {factory}: {e}", hint="it is looked up from the current folder"
            ) from e
        except Exception as e:  # the user's code may raise anything
            raise UsageError(
                f"--model {factory} failed: {type(e).__name__}: {str(e).partition(chr(10))[0]}",
                hint="the factory is called with the path of the checkpoint",
            ) from e
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
            spikes = self.like.run(frames[:1]).spikes
            self._targets = {n: s.shape for n, s in spikes.items()}
        logits = importers.checkpoint.evaluate(self._module, frames)
        spikes = {}
        for name, array in self._seen.items():
            t, _, *rest = self._targets[name]
            target = (t, len(frames), *rest)
            if name in self._maps and array.shape == target:  # heads and matrices stay in place
                spikes[name] = np.round(array).astype(np.uint8)
            else:
                spikes[name] = _to_channel_last(name, array, target)
        return Outcome(None, logits, spikes)


def _is_map(neuron: ir.Value) -> bool:
    """Tell whether a neuron of the spiking graph binarises attention counts [T, B, heads, ..]."""
    node = neuron.producer()
    source = None if node is None or node.inputs[0] is None else node.inputs[0].producer()
    return source is not None and source.op_type in ("Scores", "KeyValues")


def _to_channel_last(name: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Bring a module's spikes [T, B, C, H, W], [T, B, C, N] or by head to our [T, B, H, W, C]."""
    t, batch, height, width, channels = shape
    spikes = np.round(array).astype(np.uint8)
    if spikes.shape == (t, batch, channels, height, width):
        return spikes.transpose(0, 1, 3, 4, 2)
    if spikes.shape == (t, batch, channels, height * width):
        return spikes.transpose(0, 1, 3, 2).reshape(shape)
    one_cell = height == width == 1 and spikes.shape[:2] == (t, batch)  # channels alone, by head
    if spikes.shape == shape or (one_cell and spikes.size == t * batch * channels):
        return spikes.reshape(shape)
    if spikes.ndim == 5 and spikes.shape[4] == height * width:  # [T, B, heads, d, N]
        return spikes.reshape(t, batch, channels, -1).transpose(0, 1, 3, 2).reshape(shape)
    if spikes.ndim == 5 and spikes.shape[3] == height * width:
        return arithmetic.from_heads(spikes, shape)
    raise InputError(
        f"a neuron of the torch module gives spikes {list(spikes.shape)}, expected "
        f"[T, B, C, H, W] of {list(shape)} [T, B, H, W, C]",
        where=name,
        hint="is the module built from this checkpoint?",
    )


def is_checkpoint(source: str | Path) -> bool:
    """Tell whether a source's name says that it is a checkpoint."""
    text, path = str(source), Path(source)
    is_prefixed = text.startswith((REFERENCE, CUSTOM_OPS, TVM))
    return not is_prefixed and not path.is_dir() and path.suffix in CHECKPOINTS


def open_form(
    source: str | Path, factory: str | None, config: Any, settings: Mapping[str, Any]
) -> Form:
    """Open one form by what its name says; see the table at the top.

    Args:
        source: the file or folder.
        factory: "pkg.mod:factory" of the torch module that evaluates a checkpoint.
        config: TOML file with settings of a checkpoint.
        settings: single settings, they win.

    Raises:
        UsageError: the name says no form, or `factory` is not usable.
        ArtifactError, CheckpointError, InputError: the file cannot be read.
    """
    text = str(source)
    if text.startswith(REFERENCE):
        path = Path(text.removeprefix(REFERENCE))
        return _graph_form(path, ir.load(path))
    if text.startswith(CUSTOM_OPS):
        path = Path(text.removeprefix(CUSTOM_OPS))
        return _OrtForm(path, ir.load(path), custom_ops=True)
    if text.startswith(TVM):
        return _ModuleForm(Path(text.removeprefix(TVM)))
    path = Path(text)
    if path.is_dir() or path.suffix == ".bstm":
        device = open_device(path)
        if device is not None:
            return _DeviceForm(path, device)
        return _ModuleForm(path) if (path / "net.o").is_file() else _RuntimeForm(path)
    if path.suffix == ".onnx":
        model = ir.load(path)
        spiking = model.metadata_props.get("stage") == "spiking"
        return _graph_form(path, model) if spiking else _OrtForm(path, model)
    if not path.exists():
        raise InputError(
            f"cannot read `{path}`: No such file or directory", hint="check the names of both forms"
        )
    if not is_checkpoint(path):
        raise UsageError(
            f"`{path}`: cannot tell what it is",
            hint=f"a checkpoint ({', '.join(CHECKPOINTS)}), .onnx, .bstm or a bundle folder",
        )
    model = importers.import_checkpoint(path, config=config, overrides=settings, deployed=False)
    trained = GraphForm(f"{path} (float64)", model)
    return trained if factory is None else _TorchForm(path, factory, trained)


def _graph_form(path: Path, model: ir.Model) -> GraphForm:
    if not any(node.domain == ir.DOMAIN for node in model.graph):
        raise UnsupportedModelError(
            f"`{path}` holds standard ops only, the references are those of bestdeploy's ops",
            hint=f"give {path} without `{REFERENCE}` to run it in ONNX Runtime",
        )
    return GraphForm(f"{path} (reference)", model)


def margin_of(form: Form, neuron: str, frames: np.ndarray) -> np.ndarray | None:
    """Return H - threshold float64 [T, B, ...] where the form has a float64 neuron, else None."""
    trained = getattr(form, "like", form)
    return trained.margin(neuron, frames) if isinstance(trained, GraphForm) else None
