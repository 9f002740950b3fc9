"""The float network in PyTorch, for `bench`: model.float.onnx as a torch module, op by op.

The graph becomes a `torch.fx.GraphModule`, whose forward is straight-line torch code: what a user
would write by hand, with nothing between the calls. Only the ops that `emit/floating` writes are
known. `ways` lists how one would run such a module on a CPU; `bench` measures them and takes the
fastest: eager, eager with channels-last convolutions, and compiled by inductor where there is a
C++ compiler.
"""

from __future__ import annotations

import operator
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bestdeploy import ir
from bestdeploy.errors import ArtifactError, MissingToolError

__all__ = ["TorchModel", "load", "ways"]

COMPILERS = ("g++", "c++", "clang++")
_FLOAT, _BOOL = 1, 9  # element types of ONNX


class TorchModel:
    """A module with its threads set, for one frame at a time.

    Attributes:
        input_shape: of a frame, (H, W, C) or (T, H, W, C).
    """

    def __init__(self, module: Any, input_shape: tuple[int, ...], torch: Any) -> None:
        self.input_shape = input_shape
        self._module, self._torch = module, torch

    def feed(self, frame: npt.NDArray[np.uint8]) -> Any:
        """Return the tensor of one frame uint8 [1, H, W, C] or [1, T, H, W, C]."""
        return self._torch.from_numpy(np.array(frame))

    def call(self, tensor: Any) -> npt.NDArray[np.float32]:
        """Run one frame; return its logits float32 [1, K]."""
        with self._torch.inference_mode():
            return self._module(tensor).numpy()


def ways() -> tuple[str, ...]:
    """Return the ways to run the module that this machine has."""
    found = ("eager", "eager-channels-last")
    has_compiler = any(shutil.which(name) for name in COMPILERS)
    return (*found, "inductor", "inductor-channels-last") if has_compiler else found


def load(path: str | Path, threads: int = 1, way: str = "eager") -> TorchModel:
    """Build the module of a model.float.onnx.

    Args:
        path: the file.
        threads: threads of PyTorch, for the whole process.
        way: one of `ways()`; inductor compiles at the first call, which may take minutes.

    Raises:
        MissingToolError: torch is not installed.
        ArtifactError: the file cannot be read, or has an op that a float network has not.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingToolError(
            "torch is not installed", hint="pip install 'bestdeploy[export]'"
        ) from error
    torch.set_num_threads(threads)
    model = ir.load(path)
    input_shape = tuple(int(size) for size in ir.shape_of(model.graph.inputs[0])[1:])
    module = _Translation(model, Path(path), torch).module()
    if way.endswith("channels-last"):
        module = module.to(memory_format=torch.channels_last)
    if way.startswith("inductor"):
        # Weights are constants of an inference: packing them beforehand is inductor's best.
        import torch._inductor.config as inductor

        inductor.freezing = True
        module = torch.compile(module, dynamic=False)
    return TorchModel(module, input_shape, torch)


class _Translation:
    """Walks the graph and writes a torch call for every node."""

    def __init__(self, model: ir.Model, path: Path, torch: Any) -> None:
        self.model, self.path, self.torch = model, path, torch
        self.root = torch.nn.Module()
        self.code = torch.fx.Graph()
        self.made: dict[ir.Value, Any] = {}
        self.ops: dict[str, Callable[[ir.Node], Any]] = {
            "Add": self.elementwise(torch.add),
            "Sub": self.elementwise(torch.sub),
            "Mul": self.elementwise(torch.mul),
            "GreaterOrEqual": self.elementwise(torch.ge),
            "Where": self.elementwise(torch.where),
            "Floor": self.elementwise(torch.floor),
            "Neg": self.elementwise(torch.neg),
            "Relu": self.elementwise(torch.relu),
            "Clip": self.clip,
            "MatMul": self.elementwise(torch.matmul),
            "Cast": self.cast,
            "Concat": self.concat,
            "Conv": self.conv,
            "MaxPool": self.pool,
            "ReduceMean": self.mean,
            "ReduceSum": self.sum,
            "Reshape": self.reshape,
            "Split": self.split,
            "Transpose": self.transpose,
        }

    def module(self) -> Any:
        graph = self.model.graph
        self.made[graph.inputs[0]] = self.code.placeholder("image")
        for node in graph:
            if node.op_type == "Constant" and not node.domain:
                continue  # read where it is used
            if node.domain or node.op_type not in self.ops:
                raise ArtifactError(
                    f"`{self.path}` has an op `{node.op_type}`, which no float network of ours has",
                    where=str(node.name),
                    hint="give the model.float.onnx of export",
                )
            result = self.ops[node.op_type](node)
            results = result if isinstance(result, list) else [result]
            self.made.update(zip(node.outputs, results, strict=True))
        self.code.output(self.made[graph.outputs[0]])
        module = self.torch.fx.GraphModule(self.root, self.code)
        return module.eval().requires_grad_(False)

    def get(self, value: ir.Value | None) -> Any:
        """Return the code of a value; a constant becomes a buffer of the module."""
        assert value is not None
        if value not in self.made:
            name = f"constant_{len(self.made)}"
            tensor = self.torch.from_numpy(np.array(ir.array_of(value)))
            self.root.register_buffer(name, tensor)
            self.made[value] = self.code.get_attr(name)
        return self.made[value]

    def call(self, function: Any, *arguments: Any, **named: Any) -> Any:
        return self.code.call_function(function, arguments, named)

    def elementwise(self, function: Any) -> Callable[[ir.Node], Any]:
        return lambda node: self.call(function, *(self.get(v) for v in node.inputs))

    def clip(self, node: ir.Node) -> Any:
        low, high = (float(ir.array_of(v)) for v in node.inputs[1:])
        return self.call(self.torch.clamp, self.get(node.inputs[0]), low, high)

    def cast(self, node: ir.Node) -> Any:
        kinds = {_FLOAT: self.torch.float32, _BOOL: self.torch.bool}
        return self.code.call_method(
            "to", (self.get(node.inputs[0]), kinds[ir.attribute(node, "to")])
        )

    def concat(self, node: ir.Node) -> Any:
        return self.call(self.torch.cat, [self.get(v) for v in node.inputs],
                         ir.attribute(node, "axis"))  # fmt: skip

    def conv(self, node: ir.Node) -> Any:
        top, left, bottom, right = ir.attribute(node, "pads")
        assert (top, left) == (bottom, right)
        return self.call(
            self.torch.conv2d,
            *(self.get(v) for v in node.inputs),
            stride=tuple(ir.attribute(node, "strides")),
            padding=(top, left),
            groups=ir.attribute(node, "group", 1),
        )

    def pool(self, node: ir.Node) -> Any:
        top, left, bottom, right = ir.attribute(node, "pads")
        assert (top, left) == (bottom, right)
        return self.call(
            self.torch.max_pool2d,
            self.get(node.inputs[0]),
            tuple(ir.attribute(node, "kernel_shape")),
            stride=tuple(ir.attribute(node, "strides")),
            padding=(top, left),
        )

    def mean(self, node: ir.Node) -> Any:
        keep = bool(ir.attribute(node, "keepdims", 1))
        axes = list(ir.attribute(node, "axes"))
        return self.call(self.torch.mean, self.get(node.inputs[0]), axes, keepdim=keep)

    def sum(self, node: ir.Node) -> Any:
        keep = bool(ir.attribute(node, "keepdims", 1))
        axes = ir.array_of(node.inputs[1]).tolist()
        return self.call(self.torch.sum, self.get(node.inputs[0]), axes, keepdim=keep)

    def reshape(self, node: ir.Node) -> Any:
        shape = ir.array_of(node.inputs[1]).tolist()
        return self.call(self.torch.reshape, self.get(node.inputs[0]), shape)

    def split(self, node: ir.Node) -> list[Any]:
        """Split into equal parts."""
        n = len(node.outputs)
        axis = ir.attribute(node, "axis", 0)
        parts = self.call(self.torch.chunk, self.get(node.inputs[0]), n, axis)
        return [self.call(operator.getitem, parts, i) for i in range(n)]

    def transpose(self, node: ir.Node) -> Any:
        return self.call(
            self.torch.permute, self.get(node.inputs[0]), list(ir.attribute(node, "perm"))
        )
