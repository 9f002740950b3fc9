"""What an op is: one row with its ports, shape rule, numpy reference and ONNX function body.

Ops whose body is unrolled over time carry the number of steps in their ONNX name
(`StreamNeuron_T4`): a model-local function has one body per name, and a loop inside a function is
not portable. Everything else about an op is an attribute that the body reads by reference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as oir

from bestdeploy import ir
from bestdeploy.errors import GraphError

MAX_STEPS = 16

Shape = tuple[int | str, ...]
Typed = tuple[np.dtype, Shape]
Arrays = tuple[np.ndarray, ...]


def typed(dtype: Any, shape: Sequence[int | str]) -> Typed:
    """Return a (dtype, shape) pair."""
    return np.dtype(dtype), tuple(shape)


@dataclass(frozen=True)
class Op:
    """One row of the op table.

    Attributes:
        name: ONNX op type without the step suffix.
        summary: one sentence with the equation, for docs and function doc strings.
        inputs: input port names; a trailing `?` marks an optional one.
        outputs: output port names.
        attributes: attribute name -> "INT" | "INTS" | "FLOAT".
        reference: numpy arrays and attributes (and `n_steps` when unrolled) -> output arrays.
        body: (builder, inputs, n_steps) -> output values in standard ONNX ops.
        shapes: (input types, attributes, n_steps) -> output types.
        unrolled: whether the name carries `_T<n>`.
    """

    name: str
    summary: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    reference: Callable[..., Arrays]
    body: Callable[[ir.Builder, list[ir.Value], int], list[ir.Value]]
    shapes: Callable[[list[Typed], Mapping[str, Any], int], list[Typed]]
    attributes: Mapping[str, str] = field(default_factory=dict)
    unrolled: bool = False

    def op_type(self, n_steps: int = 0) -> str:
        """Return the ONNX op type for a number of steps."""
        if not self.unrolled:
            return self.name
        if not 1 <= n_steps <= MAX_STEPS:
            raise GraphError(f"{self.name}: T={n_steps} time steps, must be in 1..{MAX_STEPS}")
        return f"{self.name}_T{n_steps}"

    def run(self, arrays: Sequence[np.ndarray | None], n_steps: int, attrs: Any) -> Arrays:
        """Evaluate the numpy reference."""
        extra = {"n_steps": n_steps} if self.unrolled else {}
        return self.reference(*arrays, **extra, **attrs)


def parse_op_type(op_type: str) -> tuple[str, int]:
    """Split `StreamNeuron_T4` into ("StreamNeuron", 4); T is 0 where there is no suffix."""
    name, sep, steps = op_type.rpartition("_T")
    if sep and steps.isdigit():
        return name, int(steps)
    return op_type, 0


def function_of(op: Op, n_steps: int) -> oir.Function:
    """Build the model-local ONNX function of an op for T steps."""
    builder = ir.Builder("inner")  # port names must stay free
    ports = [oir.Value(name=p.rstrip("?")) for p in op.inputs]
    results = op.body(builder, list(ports), n_steps)
    nodes = builder.nodes
    for port, result in zip(op.outputs, results, strict=True):
        result.name = port
    graph = oir.Graph(
        ports, results, nodes=nodes, opset_imports={"": ir.OPSET}, name=op.op_type(n_steps)
    )
    attrs = [oir.Attr(a, oir.AttributeType[k], None) for a, k in op.attributes.items()]
    function = oir.Function(ir.DOMAIN, op.op_type(n_steps), graph=graph, attributes=attrs)
    function.doc_string = op.summary
    return function
