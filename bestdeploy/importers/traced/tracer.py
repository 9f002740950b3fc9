"""Running a module on tensors that carry what is known of them; the graph around it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bestdeploy import ir, stages
from bestdeploy.errors import UnsupportedModelError, UsageError
from bestdeploy.importers.checkpoint import Checkpoint
from bestdeploy.importers.emitter import Emitter
from bestdeploy.importers.traced import axes as ax
from bestdeploy.importers.traced import functions, heads, layers, neurons, pools
from bestdeploy.importers.traced.classes import PARTS, class_name
from bestdeploy.importers.traced.known import Known
from bestdeploy.ops import MAX_STEPS

NAME = "traced"
HANDLERS = {
    "conv": layers.conv,
    "linear": layers.linear,
    "norm": layers.norm,
    "pool": pools.maximum_part,
    "average": pools.average_part,
    "cells": pools.cells_part,
    "same": layers.same,
    "lif": neurons.ours,
    "node": neurons.spikingjelly,
}
"""How a part is exported -> the function that does it."""
ONCE = ("conv", "linear", "norm", "node")
"""Kinds with weights, which are taken once, or with a state that a second call would find."""
REMEDIES = {
    "layer_norm": "use BatchNorm1d over the channels: it is folded into the layer in front of it",
    "group_norm": "use BatchNorm2d: it is folded into the layer in front of it",
    "relu": "use a neuron",
    "gelu": "use a neuron",
}
_ATTRIBUTES = {
    "__get__", "size", "dim", "ndimension", "numel", "__len__", "is_floating_point", "is_complex",
    "is_contiguous", "stride", "element_size", "storage_offset", "get_device", "__hash__",
    "__repr__", "__format__",
}  # fmt: skip
"""Functions that tell something else than numbers of a tensor."""
_IN_PLACE = {"add_", "__iadd__", "mul_", "__imul__"}
_TURNED = {"mT": "mT"}  # attributes that are tensors


def is_module(source: Any) -> bool:
    """Tell whether a source is a torch module, without importing torch."""
    return hasattr(source, "named_modules") and hasattr(source, "state_dict")


def trace(module: Any, example: Any, settings: Mapping[str, Any]) -> ir.Model:
    """Build the spiking graph of a module.

    Args:
        module: a torch module in evaluation mode; its forward returns logits [B, K].
        example: what its forward takes, float [B, C, H, W]: normalised images.
        settings: `mean` and `std` of the images per channel (the module's own `mean` and `std`
            where it has them), `weight_bits` where layers of spikes are real, `class_names`.

    Raises:
        UnsupportedModelError: a part that is not supported, by name.
        UsageError: a module in training mode, or an example of another shape.
    """
    return Tracer(module, example, settings).model()


class Tracer:
    """Runs the module on tensors that carry what is known of them.

    Attributes:
        e: the emitter; e.n_steps is T, 0 while it is not known.
        streams: batch norms on the image alone that are added to others.
        wanted: those that were found to be, too late.
        classes: K.
    """

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
        for name, part in module.named_modules():
            if part.training and PARTS.get(class_name(part)) in ("norm", "same"):
                raise UsageError(f"layer {name} is in training mode, the module is not",
                                 hint="call module.eval() first")  # fmt: skip
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
        self.checkpoint = _checkpoint(module)
        config = {"tau": 2.0, "decay_input": True, "v_threshold": 1.0, "variant": "official"}
        bits = self.settings.get("weight_bits")
        self.e = Emitter(self.checkpoint,
                         config | ({} if bits is None else {"weight_bits": int(bits)}),
                         n_steps)  # fmt: skip
        self.streams = streams
        self.wanted: set[str] = set()
        self.classes = 0
        self.calls: dict[Any, int] = {}
        self.parts: dict[tuple[ir.Value, int, int], ir.Value] = {}  # of channels, see parts.py

    # -- refusing ------------------------------------------------------------------------------

    def refuse(
        self, what: str, why: str = "not supported", remedy: str | None = None
    ) -> UnsupportedModelError:
        """Return the error that names the layer at hand and what it uses."""
        name = next((self.names[m] for m in reversed(self.stack) if self.names[m]), "the module")
        parts = ", ".join(sorted({p.rpartition(".")[2] for p in PARTS}))
        known = ", ".join(sorted(functions.FUNCTIONS))
        return UnsupportedModelError(
            f"layer {name} uses {what}: {why}; supported are {parts} and {known}",
            where=class_name(self.module),
            hint=remedy or "build it of supported parts, or export a checkpoint of a known family",
        )

    def name(self) -> str:
        """Return the name of the module at hand, with a number where it runs again."""
        part = self.stack[-1]
        again = self.calls.get(part, 0)
        return str(self.names[part]) + (f"_{again}" if again > 1 else "")

    def count(self, kind: str) -> str:
        """Return a name for what has none of its own."""
        return f"{kind}{len(self.e.b.nodes)}"

    # -- running -------------------------------------------------------------------------------

    def run(self, image: ir.Value) -> ir.Value:
        """Run the module; return the logits."""
        import torch

        tracer = self

        class Tracked(torch.Tensor):
            """A tensor that carries what is known of it."""

            known: Known
            version: int  # of its memory when it was made

            @classmethod
            def __torch_function__(
                cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
            ) -> Any:
                return tracer.function(func, args, kwargs or {})

        self.tracked, self.torch = Tracked, torch
        handles = []
        for part in self.module.modules():
            if class_name(part) in PARTS and (part._forward_hooks or part._forward_pre_hooks):
                self.stack = [part]
                raise self.refuse(f"a hook on {class_name(part)}", "only its class is looked at")
            handles.append(part.register_forward_pre_hook(self.enter))
            handles.append(part.register_forward_hook(self.leave))
        atoms = zip("BCHW", self.example.shape, strict=True)
        x = Known(image, "image", tuple(ax.axis(atom) for atom in atoms), False, self.channels,
                  (self.height, self.width))  # fmt: skip
        try:
            with torch.no_grad():
                out = self.module(self.wrap(self.example.float(), x))
        finally:
            for handle in handles:
                handle.remove()
        if not isinstance(out, Tracked):
            raise self.refuse(f"an output of type {type(out).__name__}", "expected logits [B, K]")
        self.fresh([out])
        return heads.logits(self, out)

    def wrap(self, tensor: Any, known: Known) -> Any:
        """Return a tensor that carries what is known of it."""
        made = self.plain(tensor).as_subclass(self.tracked)
        assert ax.shape(known.axes) == tuple(made.shape), (known, made.shape)
        made.known, made.version = known, self.plain(made)._version
        return made

    def fresh(self, values: Any) -> None:
        """Refuse tensors whose numbers another one with the same memory has changed since."""
        for value in values:
            if isinstance(value, list | tuple):
                self.fresh(value)
            elif isinstance(value, self.tracked) and self.plain(value)._version != value.version:
                raise self.refuse(
                    "a tensor that was changed in place under another name",
                    remedy="write y = y + x in place of y += x",
                )  # fmt: skip

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
        self.fresh(inputs)
        part._traced_input = inputs[0]
        return tuple(self.plain(v) for v in inputs)

    def leave(self, part: Any, inputs: tuple[Any, ...], out: Any) -> Any:
        """After a module: append what it is."""
        kind = PARTS.get(class_name(part))
        if kind is not None:
            source = part.__dict__.pop("_traced_input")
            if not isinstance(source, self.tracked):
                raise self.refuse(class_name(part), "its input does not come from the image")
            self.calls[part] = self.calls.get(part, 0) + 1
            if self.calls[part] > 1 and kind in ONCE:
                raise self.refuse(
                    class_name(part), "a second time",
                    "give every place a layer of its own, which may be a copy",
                )  # fmt: skip
            out = self.wrap(out, HANDLERS[kind](self, part, source.known, out))
        self.stack.pop()
        return out

    def function(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A tensor function outside of the known parts."""
        name = func.__name__
        if name not in _ATTRIBUTES:
            self.fresh((*args, *kwargs.values()))
        plain = [self.plain(a) for a in args]
        with self.torch._C.DisableTorchFunctionSubclass():
            out = func(*plain, **{k: self.plain(v) for k, v in kwargs.items()})
        if not isinstance(out, self.torch.Tensor) and name in _ATTRIBUTES:
            return out
        if name == "__get__":
            attribute = getattr(func.__self__, "__name__", "attribute")
            name = _TURNED.get(attribute, f"Tensor.{attribute}")
        handler = functions.FUNCTIONS.get(name)
        if handler is None:
            raise self.refuse(f"torch.{name}", remedy=REMEDIES.get(name))
        if unknown := sorted(set(kwargs) - functions.KEYWORDS):
            raise self.refuse(f"torch.{name} with {', '.join(unknown)}")
        known = handler(self, args, kwargs, out)
        if isinstance(known, list):
            return tuple(self.wrap(part, k) for part, k in zip(out, known, strict=True))
        made = self.wrap(out, known)
        if name in _IN_PLACE:
            args[0].known, args[0].version = made.known, made.version
        return made

    def steps(self, n: int) -> None:
        """Take note of T."""
        if not 1 <= n <= MAX_STEPS:
            raise self.refuse(f"T = {n}", f"time steps must be in 1..{MAX_STEPS}")
        if self.e.n_steps not in (0, n):
            raise self.refuse(f"T = {n}", f"the module has T = {self.e.n_steps} before")
        self.e.n_steps = int(n)

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
        logits = self.run(x)
        if self.wanted:  # a second time, with these repeated from the beginning
            wanted, steps = frozenset(self.wanted), self.e.n_steps
            return Tracer(self.module, self.example, self.settings, wanted, steps).model()
        logits.name = "logits"
        ir.set_type(logits, np.float64, ["B", self.classes])
        config = {
            "image_size": size, "n_steps": self.e.n_steps, "channels": self.channels,
            "classes": self.classes, "mean": mean, "std": std,
            **{k: v for k, v in self.settings.items() if k == "weight_bits"},
        }  # fmt: skip
        model = ir.new_model(self.e.b, [image], [logits], name=NAME,
                             metadata=self._metadata(config))  # fmt: skip
        ir.drop_unused(model.graph)  # the whole of layers of which there are parts
        stages.infer_types(model)
        stages.verify(model)
        return model

    def _metadata(self, config: dict[str, Any]) -> dict[str, str]:
        """Return what travels with the model."""
        names = self.settings.get("class_names")
        preprocessing = {
            "height": self.height, "width": self.width, "channels": self.channels,
            "input": "image", "resize": "short-side", "filter": "bicubic", "crop_pct": 1.0,
            **({"color": {1: "gray", 3: "rgb"}[self.channels]} if self.channels in (1, 3) else {}),
        }  # fmt: skip
        return {
            **({"class_names": json.dumps(list(names))} if names else {}),
            "stage": "spiking",
            "family": NAME,
            "config": json.dumps(config, sort_keys=True),
            "settings_from": json.dumps({}),
            "preprocessing": json.dumps(preprocessing, sort_keys=True),
            "source_sha256": self.checkpoint.sha256,
            "warnings": json.dumps(self.e.warnings),
        }


def _checkpoint(module: Any) -> Checkpoint:
    """Return the tensors of a module by name, as a file would hold them."""
    tensors = {
        k: v.detach().float().cpu().numpy() for k, v in module.state_dict().items()
        if not k.endswith("num_batches_tracked")
    }  # fmt: skip
    digest = hashlib.sha256()
    for key in sorted(tensors):
        digest.update(key.encode() + tensors[key].tobytes())
    return Checkpoint(tensors, {}, digest.hexdigest(), Path(class_name(module)))
