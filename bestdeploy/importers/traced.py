"""Any torch module made of known parts: run once on an example, its parts recorded as ops.

Modules of the classes in `PARTS` (dotted names: nothing of theirs is imported) are opaque: a
convolution and the batch norm behind it, a neuron, a pool, a linear head become our ops under the
module's own name. Between them stand the tensor functions of `_FUNCTIONS`: moving the time axis in
and out of the batch, sums of streams, sums and products of spikes, maxima, means. Anything else
is refused by name. Control flow is Python's own: what ran on the example is what is exported.

Sums of spikes are levels: whole numbers from 0 to the number of spikes added, at most 255. They are
added, convolved (the sums stay integers, so neurons behind them stay exact), pooled and averaged.

Tensors are maps [B, C, H, W], [T, B, C, H, W] or [T B, C, H, W]; a map without a time axis, or
repeated over it, is constant and its convolution runs once. Where it is added to others, a second
trace repeats it from the beginning.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bestdeploy import ir, stages
from bestdeploy.errors import UnsupportedModelError, UsageError
from bestdeploy.importers.checkpoint import Checkpoint
from bestdeploy.importers.emitter import Emitter
from bestdeploy.ops import MAX_STEPS
from bestdeploy.ops.level_neuron import MAX_LEVELS as MAX_POOLED
from bestdeploy.ops.levels import MAX_PLANES

NAME = "traced"
MAX_KERNEL, MAX_STRIDE = 15, 16  # of the file format
MAX_LEVELS = 2**MAX_PLANES - 1  # that planes of bits hold
PARTS: Mapping[str, str] = {
    "torch.nn.modules.conv.Conv2d": "conv",
    "training.layers.BinaryConv2d": "conv",
    "torch.nn.modules.batchnorm.BatchNorm2d": "norm",
    "torch.nn.modules.pooling.MaxPool2d": "pool",
    "torch.nn.modules.pooling.AdaptiveAvgPool2d": "average",
    "torch.nn.modules.linear.Linear": "linear",
    "torch.nn.modules.linear.Identity": "same",
    "torch.nn.modules.dropout.Dropout": "same",
    "torch.nn.modules.dropout.Dropout2d": "same",
    "training.neurons.LIF": "lif",
    "spikingjelly.clock_driven.neuron.MultiStepLIFNode": "node",
    "spikingjelly.clock_driven.neuron.MultiStepIFNode": "node",
    "spikingjelly.clock_driven.neuron.MultiStepParametricLIFNode": "node",
    "spikingjelly.activation_based.neuron.LIFNode": "node",
    "spikingjelly.activation_based.neuron.IFNode": "node",
    "spikingjelly.activation_based.neuron.ParametricLIFNode": "node",
    "spikingjelly.activation_based.layer.Conv2d": "conv",
    "spikingjelly.activation_based.layer.BatchNorm2d": "norm",
    "spikingjelly.activation_based.layer.MaxPool2d": "pool",
    "spikingjelly.activation_based.layer.AdaptiveAvgPool2d": "average",
    "spikingjelly.activation_based.layer.Linear": "linear",
    "spikingjelly.activation_based.layer.Dropout": "same",
    # of version 2, where each stands in a file of its own
    "spikingjelly.activation_based.neuron.lif.LIFNode": "node",
    "spikingjelly.activation_based.neuron.integrate_and_fire.IFNode": "node",
    "spikingjelly.activation_based.neuron.plif.ParametricLIFNode": "node",
    "spikingjelly.activation_based.layer.stateless_wrapper.Conv2d": "conv",
    "spikingjelly.activation_based.layer.bn.BatchNorm2d": "norm",
    "spikingjelly.activation_based.layer.stateless_wrapper.MaxPool2d": "pool",
    "spikingjelly.activation_based.layer.stateless_wrapper.AdaptiveAvgPool2d": "average",
    "spikingjelly.activation_based.layer.stateless_wrapper.Linear": "linear",
    "spikingjelly.activation_based.layer.dropout.Dropout": "same",
}
"""Dotted class name -> how it is exported."""
_BINARY = "training.layers.BinaryConv2d"
_ATTRIBUTES = {"__get__", "size", "dim", "numel", "__len__", "is_floating_point"}
_IN_PLACE = {"add_", "__iadd__"}


def is_module(source: Any) -> bool:
    """Tell whether a source is a torch module, without importing torch."""
    return hasattr(source, "named_modules") and hasattr(source, "state_dict")


@dataclasses.dataclass(frozen=True)
class _Known:
    """What is known of a tensor.

    Attributes:
        value: its value in the graph; that of the input of a convolution whose batch norm is to
            come.
        kind: image, real, spikes, levels (sums of spikes), conv, not (1 - spikes), features or
            logits.
        steps: the value has a time axis; of features and logits, whose means over T are taken
            already, the module has its own mean over T still to take.
        conv: name and module of a convolution, kind conv.
        norm: name of the batch norm, kind real, of what is made of a still image alone.
        levels: the largest number of spikes (1) or levels, also of those that a conv reads.
        width: channels, also of features; classes of logits.
    """

    value: ir.Value
    kind: str
    steps: bool
    conv: tuple[str, Any] | None = None
    norm: str | None = None
    levels: int = 1
    width: int = 0

    @property
    def words(self) -> str:
        """What it is, for messages."""
        if self.kind == "levels":
            return f"levels 0..{self.levels}"
        return {"real": "a stream", "not": "1 - spikes"}.get(self.kind, self.kind)


def class_name(module: Any) -> str:
    """Return the dotted name of a module's class."""
    return f"{type(module).__module__}.{type(module).__qualname__}"


def trace(module: Any, example: Any, settings: Mapping[str, Any]) -> ir.Model:
    """Build the spiking graph of a module.

    Args:
        module: a torch module in evaluation mode; its forward returns logits [B, K].
        example: what its forward takes, float [B, C, H, W]: normalised images.
        settings: `mean` and `std` of the images per channel (the module's own `mean` and `std`
            where it has them), `weight_bits` where convolutions of spikes are real, `class_names`.

    Raises:
        UnsupportedModelError: a part that is not supported, by name.
        UsageError: a module in training mode, or an example of another shape.
    """
    return _Tracer(module, example, settings).model()


class _Tracer:
    """Runs the module on tensors that carry what is known of them."""

    def __init__(
        self,
        module: Any,
        example: Any,
        settings: Mapping[str, Any],
        streams: frozenset[str] = frozenset(),
        n_steps: int = 0,
    ) -> None:
        if module.training:
            raise UsageError("the module is in training mode", hint="call module.eval() first")
        if example is None or getattr(example, "ndim", 0) != 4:
            shape = None if example is None else list(getattr(example, "shape", ()))
            raise UsageError(
                f"example_input has shape {shape}, expected images [B, C, H, W]",
                hint="give a float tensor that module(example_input) takes",
            )
        self.module, self.example, self.settings = module, example, dict(settings)
        self.names = {part: name for name, part in module.named_modules()}
        self.stack: list[Any] = []
        _, self.channels, self.height, self.width = example.shape
        tensors = {
            k: v.detach().float().cpu().numpy() for k, v in module.state_dict().items()
            if not k.endswith("num_batches_tracked")
        }  # fmt: skip
        digest = hashlib.sha256()
        for key in sorted(tensors):
            digest.update(key.encode() + tensors[key].tobytes())
        held = Checkpoint(tensors, {}, digest.hexdigest(), Path(class_name(module)))
        config = {"tau": 2.0, "decay_input": True, "v_threshold": 1.0, "variant": "official"}
        bits = self.settings.get("weight_bits")
        self.e = Emitter(held, config | ({} if bits is None else {"weight_bits": int(bits)}),
                         n_steps)  # fmt: skip
        self.checkpoint = held
        self.streams = streams  # batch norms on the image alone that are added to others
        self.wanted: set[str] = set()  # those that were found to be, too late

    # -- refusing ------------------------------------------------------------------------------

    def refuse(
        self, what: str, why: str = "not supported", remedy: str | None = None
    ) -> UnsupportedModelError:
        """Return the error that names the layer at hand and what it uses."""
        name = next((self.names[m] for m in reversed(self.stack) if self.names[m]), "the module")
        parts = ", ".join(sorted({p.rpartition(".")[2] for p in PARTS}))
        functions = ", ".join(sorted(_FUNCTIONS))
        return UnsupportedModelError(
            f"layer {name} uses {what}: {why}; supported are {parts} and {functions}",
            where=class_name(self.module),
            hint=remedy or "build it of supported parts, or export a checkpoint of a known family",
        )

    # -- running -------------------------------------------------------------------------------

    def run(self, image: ir.Value) -> _Known:
        """Run the module; return what is known of its output."""
        import torch

        tracer = self

        class Tracked(torch.Tensor):
            """A tensor that carries what is known of it."""

            known: _Known

            @classmethod
            def __torch_function__(
                cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
            ) -> Any:
                return tracer.function(func, args, kwargs or {})

        self.tracked, self.torch = Tracked, torch
        handles = []
        for part in self.module.modules():
            handles.append(part.register_forward_pre_hook(self.enter))
            handles.append(part.register_forward_hook(self.leave))
        try:
            with torch.no_grad():
                out = self.module(self.wrap(self.example.float(), _Known(image, "image", False)))
        finally:
            for handle in handles:
                handle.remove()
        if not isinstance(out, Tracked) or out.known.kind != "logits":
            raise self.refuse(f"an output of type {type(out).__name__}", "expected logits [B, K]")
        if out.known.steps:
            raise self.refuse("logits of each step", "expected [B, K]", "return their mean over T")
        return out.known

    def wrap(self, tensor: Any, known: _Known) -> Any:
        """Return a tensor that carries what is known of it."""
        made = self.plain(tensor).as_subclass(self.tracked)
        if known.kind not in ("features", "logits"):
            known = dataclasses.replace(known, width=int(tensor.shape[-3]))
        made.known = known
        return made

    def plain(self, value: Any) -> Any:
        """Return a value without what it carries, nested ones too."""
        if isinstance(value, self.tracked):
            return value.as_subclass(self.torch.Tensor)
        if isinstance(value, list | tuple):
            return type(value)(self.plain(v) for v in value)
        return value

    def enter(self, part: Any, inputs: tuple[Any, ...]) -> Any:
        """Before a module: a known part sees plain tensors, so that nothing inside is recorded."""
        self.stack.append(part)
        if class_name(part) not in PARTS:
            return None
        part._traced_input = inputs[0]
        return tuple(self.plain(v) for v in inputs)

    def leave(self, part: Any, inputs: tuple[Any, ...], out: Any) -> Any:
        """After a module: append what it is."""
        kind = PARTS.get(class_name(part))
        if kind is not None:
            source = part.__dict__.pop("_traced_input")
            if not isinstance(source, self.tracked):
                raise self.refuse(class_name(part), "its input does not come from the image")
            out = self.wrap(out, getattr(self, f"part_{kind}")(part, source.known))
        self.stack.pop()
        return out

    def function(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A tensor function outside of the known parts."""
        name = func.__name__
        plain = [self.plain(a) for a in args]
        with self.torch._C.DisableTorchFunctionSubclass():
            out = func(*plain, **{k: self.plain(v) for k, v in kwargs.items()})
        if name in _ATTRIBUTES or not isinstance(out, self.torch.Tensor):
            return out
        handler = _FUNCTIONS.get(name)
        if handler is None:
            raise self.refuse(f"torch.{name}")
        made = self.wrap(out, handler(self, args, kwargs, out))
        if name in _IN_PLACE:
            args[0].known = made.known
        return made

    # -- parts ---------------------------------------------------------------------------------

    def name(self) -> str:
        """Return the name of the module at hand."""
        return str(self.names[self.stack[-1]])

    def part_same(self, part: Any, x: _Known) -> _Known:
        return x

    def part_conv(self, part: Any, x: _Known) -> _Known:
        if x.kind not in ("image", "spikes", "levels"):
            raise self.refuse(class_name(part), f"its input is {x.words}, not spikes or the image")
        k = part.kernel_size[0]
        (stride, pad), squares = self._window(part), (part.kernel_size, part.stride, part.dilation)
        usual = squares == ((k, k), (stride, stride), (1, 1)) and part.groups == 1
        if not usual or part.padding_mode != "zeros" or part.padding != (pad, pad):
            raise self.refuse(
                class_name(part), "only square kernels and strides, one group, padding with zeros"
            )
        if not (k <= MAX_KERNEL and stride <= MAX_STRIDE and pad < k):
            raise self.refuse(
                class_name(part),
                f"kernel {k}, stride {stride}, padding {pad}: at most {MAX_KERNEL}, {MAX_STRIDE} "
                "and less than the kernel",
            )
        if x.kind == "image" and class_name(part) == _BINARY:
            raise self.refuse(class_name(part), "the first convolution is real")
        return dataclasses.replace(x, kind="conv", conv=(self.name(), part))

    def _window(self, conv: Any) -> tuple[int, int]:
        """Return stride and padding of a convolution, of their first axis."""
        pad = conv.padding
        if isinstance(pad, str):
            raise self.refuse(class_name(conv), f"padding={pad!r}: give a number")
        return int(conv.stride[0]), int(pad[0])

    def part_norm(self, part: Any, x: _Known) -> _Known:
        if x.conv is None:
            raise self.refuse(class_name(part), "it must follow a convolution")
        name, conv = x.conv
        if part.eps != 1e-5 or not part.affine or part.running_mean is None:
            raise self.refuse(class_name(part), "only eps = 1e-5, affine, with running statistics")
        e, n_in, n_out, k = self.e, conv.in_channels, conv.out_channels, conv.kernel_size[0]
        stride, pad = self._window(conv)
        if not x.steps:
            value = e.real_conv(name, self.name(), x.value, n_in, n_out, k, stride, pad)
            if self.name() not in self.streams:
                return _Known(value, "real", False, norm=self.name())
            value = e.op(f"Repeat_T{e.n_steps}", value, name=f"{self.name()}.steps")
            return _Known(value, "real", True, norm=self.name())
        if class_name(conv) == _BINARY:
            value = e.binary_conv(name, x.value, n_in, n_out, k, bn=self.name(), stride=stride,
                                  pad=pad, levels=x.levels)  # fmt: skip
        elif "weight_bits" not in e.config:
            raise UsageError(
                f"layer {name} has real weights and nothing says how many bits they get",
                hint='give settings={"weight_bits": 8}',
            )
        else:
            value = e.weight_conv(name, self.name(), x.value, (n_out, n_in, k, k), stride=stride,
                                  pad=pad, levels=x.levels)  # fmt: skip
        return _Known(value, "real", True)

    def part_pool(self, part: Any, x: _Known) -> _Known:
        sizes = part.kernel_size, part.stride, part.padding, part.dilation
        return self.pool(x, *sizes, part.ceil_mode)

    def pool(
        self, x: _Known, kernel: Any, stride: Any, pad: Any, dilation: Any, ceil: bool
    ) -> _Known:
        """Append a maximum over windows of spikes, of levels or of a stream."""
        k, s, p, d = (v[0] if isinstance(v, tuple | list) else v for v in
                      (kernel, stride or kernel, pad, dilation))  # fmt: skip
        if x.kind not in ("spikes", "levels", "real") or not x.steps or ceil or d != 1:
            raise self.refuse("max_pool2d", "only of spikes or of a stream, no ceil_mode, dilation")
        if x.levels > MAX_POOLED:
            raise self.refuse(
                f"a maximum of {x.words}", f"at most 0..{MAX_POOLED}",
                "give the convolution and the shortcut behind it a stride in place of the pool",
            )  # fmt: skip
        name = f"pool{len(self.e.b.nodes)}"
        window = {"kernel_shape": [k, k], "strides": [s, s], "pads": [p] * 4}
        if x.kind == "levels":
            value = self.e.level_pool(name, x.value, x.width, x.levels, **window)
        else:
            op_type = "OrPool" if x.kind == "spikes" else "RealMaxPool"
            value = self.e.op(op_type, x.value, name=name, **window)
        return dataclasses.replace(x, value=value)

    def part_average(self, part: Any, x: _Known) -> _Known:
        if part.output_size not in (1, (1, 1)):
            raise self.refuse(class_name(part), f"to {part.output_size}: only to one cell")
        return self.average(x)

    def average(self, x: _Known) -> _Known:
        """Append the mean over T and the map of what was averaged over the map.

        All that may follow is a linear head and the mean over T, which change places.
        """
        if x.kind not in ("spikes", "levels", "real") or not x.steps:
            raise self.refuse("a mean", f"of {x.words}: only of maps of spikes or a stream over T")
        value = x.value
        if x.kind != "real":
            value = self.e.b.op("Cast", value, to=11, name=f"head.{x.kind}")
        return _Known(self.e.mean("head.mean", value), "features", True, width=x.width)

    def part_lif(self, part: Any, x: _Known) -> _Known:
        p = part.parameters_
        reset = None if p.reset == "soft" else p.v_reset
        return self.neuron(x, p.tau, p.v_threshold, reset, p.decay_input)

    def part_node(self, part: Any, x: _Known) -> _Known:
        """Neurons of spikingjelly: LIF, PLIF (1/tau = sigmoid w), IF (no leak)."""
        if getattr(part, "step_mode", "m") != "m":
            raise self.refuse(class_name(part), "only the multi-step mode, step_mode='m'")
        if hasattr(part, "w"):
            tau = 1 + math.exp(-float(part.w))
        else:
            tau = float(getattr(part, "tau", math.inf))
        decay = bool(getattr(part, "decay_input", False)) and math.isfinite(tau)
        return self.neuron(x, tau, float(part.v_threshold), part.v_reset, decay)

    def neuron(
        self, x: _Known, tau: float, threshold: float, reset: float | None, decay: bool
    ) -> _Known:
        """Append a neuron."""
        if x.kind != "real" or not self.e.n_steps:
            raise self.refuse("a neuron", f"its input is {x.words}, expected a batch norm over T")
        value = self.e.neuron(
            self.name(),
            x.value,
            constant=not x.steps,
            threshold=threshold,
            tau=float(np.float32(tau)),
            v_reset=0.0 if reset is None else float(np.float32(reset)),
            soft_reset=int(reset is None),
            decay_input=int(decay),
        )
        return _Known(value, "spikes", True)

    def part_linear(self, part: Any, x: _Known) -> _Known:
        if x.kind != "features" or part.bias is None:
            raise self.refuse(class_name(part), "only a head with a bias on a mean over T and map")
        value = self.e.classifier(self.name(), x.value, part.in_features, part.out_features)
        self.classes = part.out_features
        return _Known(value, "logits", x.steps, width=part.out_features)

    # -- the graph -----------------------------------------------------------------------------

    def _numbers(self, key: str) -> tuple[float, ...]:
        given = self.settings.get(key, getattr(self.module, key, None))
        values = () if given is None else tuple(float(v) for v in np.ravel(np.asarray(given)))
        if len(values) != self.channels or (key == "std" and min(values) <= 0):
            raise UsageError(
                f"{key} has {len(values)} usable numbers, the image has {self.channels} channels",
                hint=f'give settings={{"{key}": [...]}}: how example_input was normalised',
            )
        return values

    def model(self) -> ir.Model:
        """Trace and wrap it up."""
        size = [self.height, self.width]
        image = ir.typed_value("image", np.uint8, ["B", *size, self.channels])
        mean, std = self._numbers("mean"), self._numbers("std")
        x = self.e.pixels(image, white=255.0, mean=mean, std=std, frames=False)
        logits = self.run(x).value
        if self.wanted:  # a second time, with these repeated from the beginning
            wanted, steps = frozenset(self.wanted), self.e.n_steps
            return _Tracer(self.module, self.example, self.settings, wanted, steps).model()
        logits.name = "logits"
        ir.set_type(logits, np.float64, ["B", self.classes])
        preprocessing = {
            "height": self.height, "width": self.width, "channels": self.channels,
            "input": "image", "resize": "short-side", "filter": "bicubic", "crop_pct": 1.0,
            **({"color": {1: "gray", 3: "rgb"}[self.channels]} if self.channels in (1, 3) else {}),
        }  # fmt: skip
        config = {
            "image_size": size, "n_steps": self.e.n_steps, "channels": self.channels,
            "classes": self.classes, "mean": mean, "std": std,
            **{k: v for k, v in self.settings.items() if k == "weight_bits"},
        }  # fmt: skip
        names = self.settings.get("class_names")
        metadata = {
            **({"class_names": json.dumps(list(names))} if names else {}),
            "stage": "spiking",
            "family": NAME,
            "config": json.dumps(config, sort_keys=True),
            "settings_from": json.dumps({}),
            "preprocessing": json.dumps(preprocessing, sort_keys=True),
            "source_sha256": self.checkpoint.sha256,
            "warnings": json.dumps(self.e.warnings),
        }
        model = ir.new_model(self.e.b, [image], [logits], name=NAME, metadata=metadata)
        stages.infer_types(model)
        stages.verify(model)
        return model


# -- tensor functions ----------------------------------------------------------------------------

Args = tuple[Any, ...]


def _first(tracer: _Tracer, args: Args, kwargs: dict[str, Any], out: Any) -> _Known:
    """Nothing but the type changes."""
    known: _Known = args[0].known
    return known


def _moved(tracer: _Tracer, args: Args, kwargs: dict[str, Any], out: Any) -> _Known:
    """The time axis comes, goes into the batch, or out of it; the map stays."""
    x = args[0]
    if x.known.kind in ("features", "logits"):
        return _rows(tracer, x, out)
    if tuple(out.shape[-3:]) != tuple(x.shape[-3:]) or out.ndim not in (4, 5):
        raise tracer.refuse(f"a reshape {list(x.shape)} -> {list(out.shape)}", "maps keep C, H, W")
    if out.ndim == 5 and out.shape[0] > 1 and not tracer.e.n_steps:
        tracer.e.n_steps = _steps(tracer, out.shape[0])
    known: _Known = x.known
    return known


def _rows(tracer: _Tracer, x: Any, out: Any) -> _Known:
    """Features and logits [T, B, C] or [T B, C], perhaps as maps of one cell."""
    known: _Known = x.known
    for n_leading in (1, 2):
        tail = tuple(out.shape[n_leading:])
        if tail[:1] == (known.width,) and set(tail[1:]) <= {1}:
            return known
    raise tracer.refuse(f"a reshape {list(x.shape)} -> {list(out.shape)}", "features stay apart")


def _steps(tracer: _Tracer, n: int) -> int:
    if not 1 <= n <= MAX_STEPS:
        raise tracer.refuse(f"T = {n}", f"time steps must be in 1..{MAX_STEPS}")
    return int(n)


def _repeated(tracer: _Tracer, args: Args, kwargs: dict[str, Any], out: Any) -> _Known:
    """An image, or what is made of it alone, becomes the same at every step."""
    known: _Known = args[0].known
    if known.norm in tracer.streams:
        return known
    if known.steps or out.ndim != 5 or tuple(out.shape[1:]) != tuple(args[0].shape[-4:]):
        raise tracer.refuse(f"a repetition to {list(out.shape)}", "only over T, of the image")
    tracer.e.n_steps = _steps(tracer, out.shape[0])
    return known


def _added(tracer: _Tracer, args: Args, kwargs: dict[str, Any], out: Any) -> _Known:
    """A residual: the sum of two streams, or of spikes or levels."""
    known = [k for a in args[:2] if (k := getattr(a, "known", None)) is not None]
    kinds = {k.kind for k in known}
    if kwargs.get("alpha", 1) != 1 or len(known) < 2 or not tracer.e.n_steps:
        raise tracer.refuse("a sum", "only of two streams, or of two that are spikes or levels")
    if kinds <= {"spikes", "levels"}:
        return _level_sum(tracer, args, known, out)
    if kinds != {"real"}:
        raise tracer.refuse(
            f"a sum of {known[0].words} and {known[1].words}",
            "only of two streams (batch norms, or sums of them), or of two that are spikes or "
            "levels",
        )
    tracer.wanted |= {k.norm for k in known if k.norm and not k.steps}
    y, x = (k.value for k in known)
    name = f"residual{len(tracer.e.b.nodes)}"
    return _Known(tracer.e.op("ReversibleMix", y, x, x, name=name), "real", True)


def _level_sum(tracer: _Tracer, args: Args, known: list[_Known], out: Any) -> _Known:
    """Spikes plus spikes, as SEW-ResNet adds them: levels up to the sum of the largest."""
    levels = sum(k.levels for k in known)
    if any(tuple(a.shape) != tuple(out.shape) for a in args[:2]):
        raise tracer.refuse("a sum", f"{known[0].words} and {known[1].words} of other shapes")
    if levels > MAX_LEVELS:
        raise tracer.refuse(
            f"a sum of {known[0].words} and {known[1].words}",
            f"levels 0..{levels}, and {MAX_LEVELS} is the largest that is held",
            "begin again with spikes: a convolution, batch norm and neuron on the shortcut",
        )
    name = f"sum{len(tracer.e.b.nodes)}"
    value = tracer.e.op("LevelAdd", *(k.value for k in known), name=name, levels=levels)
    return _Known(value, "levels", True, levels=levels)


def _opposite(tracer: _Tracer, args: Args, kwargs: dict[str, Any], out: Any) -> _Known:
    """1 - spikes."""
    known = next(a.known for a in args if isinstance(a, tracer.tracked))
    if known.kind != "spikes" or not any(isinstance(a, int | float) and a == 1 for a in args):
        raise tracer.refuse(f"a difference with {known.words}", "only 1 - spikes")
    return dataclasses.replace(known, kind="not")


def _gated(tracer: _Tracer, args: Args, kwargs: dict[str, Any], out: Any) -> _Known:
    """A product of spikes, one of them perhaps 1 - spikes."""
    known = [getattr(a, "known", None) for a in args[:2]]
    kinds = sorted("number" if k is None else k.kind for k in known)
    if kinds not in (["spikes", "spikes"], ["not", "spikes"]):
        words = " and ".join("a number" if k is None else k.words for k in known)
        raise tracer.refuse(
            f"a product of {words}", "only of spikes with spikes, or with 1 - spikes"
        )
    found = sorted((k for k in known if k is not None), key=lambda k: k.kind == "not")
    name = f"gate{len(tracer.e.b.nodes)}"
    value = tracer.e.op("Gate", found[0].value, found[1].value, name=name,
                        invert=int(found[1].kind == "not"))  # fmt: skip
    return _Known(value, "spikes", True)


def _pooled(tracer: _Tracer, args: Args, kwargs: dict[str, Any], out: Any) -> _Known:
    names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
    usual = {"stride": None, "padding": 0, "dilation": 1, "ceil_mode": False}
    given = usual | dict(zip(names, args[1:], strict=False)) | kwargs
    return tracer.pool(args[0].known, *(given[n] for n in names))


def _averaged(tracer: _Tracer, args: Args, kwargs: dict[str, Any], out: Any) -> _Known:
    """Mean over the map, over time, or over both."""
    x, known = args[0], args[0].known
    dims = kwargs.get("dim", args[1] if len(args) > 1 else ())
    axes = sorted(d % x.ndim for d in (dims if isinstance(dims, list | tuple) else (dims,)))
    if known.kind in ("features", "logits"):
        split = known.steps and tuple(x.shape[:2]) == (tracer.e.n_steps, len(tracer.example))
        if axes != [0] or not split:
            raise tracer.refuse("a mean", f"of {known.kind}: only over T, of [T, B, C], once")
        return dataclasses.replace(known, steps=False)
    if axes == [x.ndim - 2, x.ndim - 1] and not kwargs.get("keepdim"):
        return tracer.average(known)
    if x.ndim != 5 or axes != [0, 3, 4] or kwargs.get("keepdim"):
        raise tracer.refuse(
            "a mean", "only over H and W, over T, or over T, H and W of a map [T, B, C, H, W]"
        )
    return dataclasses.replace(tracer.average(known), steps=False)


def _one_cell(tracer: _Tracer, args: Args, kwargs: dict[str, Any], out: Any) -> _Known:
    """adaptive_avg_pool2d to 1 x 1."""
    if tuple(out.shape[-2:]) != (1, 1):
        raise tracer.refuse("adaptive_avg_pool2d", f"to {list(out.shape[-2:])}: only to one cell")
    return tracer.average(args[0].known)


_FUNCTIONS: dict[str, Callable[[_Tracer, Args, dict[str, Any], Any], _Known]] = {
    **dict.fromkeys(("to", "float", "contiguous", "clone", "detach", "type_as"), _first),
    **dict.fromkeys(("flatten", "unflatten", "reshape", "view", "squeeze", "unsqueeze"), _moved),
    **dict.fromkeys(("expand", "repeat"), _repeated),
    **dict.fromkeys(("add", "__add__", "__radd__", "add_", "__iadd__"), _added),
    **dict.fromkeys(("rsub", "__rsub__", "sub", "__sub__"), _opposite),
    **dict.fromkeys(("mul", "__mul__", "__rmul__"), _gated),
    "max_pool2d": _pooled,
    "mean": _averaged,
    "adaptive_avg_pool2d": _one_cell,
}
