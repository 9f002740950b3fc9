"""The stages of a model and what each promises; the reference executor that runs any of them.

    spiking   the trained model: latent weights, batch norm, float64 neurons
    folded    integers only, one op per step of the arithmetic, one byte per spike
    packed    integers only, fused layers, bits between them: what the C runtime knows

A graph between two stages (the passes work one after the other) is runnable all the same.
`run` evaluates any graph with the numpy references of the op table, or with the function bodies.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bestdeploy import ir, ops
from bestdeploy.errors import GraphError
from bestdeploy.ops.definition import Op, Typed, typed

# Values of the largest tensor per batch of the reference executor (float64, and some copies).
BATCH_ELEMENTS = 1 << 21

STAGES: dict[str, tuple[Op, ...]] = {
    "spiking": ops.SPIKING_OPS,
    "folded": ops.FOLDED_OPS,
    "packed": ops.PACKED_OPS,
}
_STANDARD = {
    "spiking": {"Transpose", "Cast", "Div", "Sub", "Mul", "Add", "ReduceMean", "MatMul"},
    "folded": {"Transpose", "Cast", "Mul"},
    "packed": {"Cast", "Mul"},
}


def op_of(node: ir.Node) -> tuple[Op, int] | None:
    """Return the op row and step count of one of our nodes, None for a standard one."""
    if node.domain != ir.DOMAIN:
        return None
    name, n_steps = ops.parse_op_type(node.op_type)
    if name not in ops.OPS:
        raise GraphError(f"unknown op `{ir.DOMAIN}::{node.op_type}`", where=str(node.name))
    return ops.OPS[name], n_steps


def stage_of(model: ir.Model) -> str:
    """Return the stage written in a model's metadata."""
    stage = model.metadata_props.get("stage", "")
    if stage not in STAGES:
        raise GraphError(
            f"the model's metadata names no stage (found {stage!r}, expected {list(STAGES)})",
            hint="give a model.onnx that `bestdeploy export` wrote",
        )
    return stage


def verify(model: ir.Model, stage: str | None = None) -> None:
    """Check that a graph keeps the promises of its stage.

    Raises:
        GraphError: names the node and the rule.
    """
    stage = stage or stage_of(model)
    allowed = {op.name for op in STAGES[stage]}
    for node in model.graph:
        row = op_of(node)
        name = node.op_type if row is None else row[0].name
        if name not in (_STANDARD[stage] if row is None else allowed):
            raise GraphError(f"op `{name}` may not stand in a {stage} graph", where=str(node.name))
        if row is not None:
            _check_arity(node, row[0])
    n_steps = {row[1] for node in model.graph if (row := op_of(node)) and row[0].unrolled}
    if len(n_steps) > 1:
        raise GraphError(f"a graph has one number of time steps, found {sorted(n_steps)}")
    names = [v.name for v in model.graph.inputs], [v.name for v in model.graph.outputs]
    outputs = ["logits"] if stage == "spiking" else ["logits", "raw"]
    if names != (["image"], outputs):
        raise GraphError(f"a {stage} graph maps image to {outputs}, found {names[0]} to {names[1]}")


def _check_arity(node: ir.Node, op: Op) -> None:
    if len(node.inputs) != len(op.inputs) or len(node.outputs) != len(op.outputs):
        raise GraphError(
            f"`{node.op_type}` has {len(node.inputs)} inputs and {len(node.outputs)} outputs, "
            f"expected {len(op.inputs)} and {len(op.outputs)}",
            where=str(node.name),
        )
    given, known = set(node.attributes), set(op.attributes)
    if given != known:
        raise GraphError(
            f"`{node.op_type}` has attributes {sorted(given)}, expected {sorted(known)}",
            where=str(node.name),
        )


def _broadcast(inputs: list[Typed]) -> Typed:
    shapes = sorted((s for _, s in inputs), key=len)
    longest = list(shapes[-1])
    for shape in shapes:
        for i, d in enumerate(reversed(shape)):
            if longest[-1 - i] == 1:
                longest[-1 - i] = d
    return typed(inputs[0][0], longest)


def _standard_type(node: ir.Node, inputs: list[Typed]) -> Typed:
    if node.op_type == "Cast":
        dtype = ir.DataType(ir.attribute(node, "to")).numpy()
        return typed(dtype, inputs[0][1])
    if node.op_type == "Transpose":
        return typed(inputs[0][0], [inputs[0][1][axis] for axis in ir.attribute(node, "perm")])
    if node.op_type == "ReduceMean":
        axes = ir.attribute(node, "axes")
        return typed(inputs[0][0], [d for i, d in enumerate(inputs[0][1]) if i not in axes])
    if node.op_type == "MatMul":
        return typed(inputs[0][0], (*inputs[0][1][:-1], inputs[1][1][-1]))
    return _broadcast(inputs)


def infer_types(model: ir.Model) -> None:
    """Write type and shape of every value; the batch axis is the symbol `B`."""
    known: dict[ir.Value, Typed] = {}

    def look(value: ir.Value) -> Typed:
        if value not in known:
            if value.dtype is None:
                raise GraphError(f"value `{value.name}` has no shape", where=str(value.name))
            shape = ir.shape_of(value)
            known[value] = typed(value.dtype.numpy(), shape)
        return known[value]

    for node in model.graph:
        inputs = [look(v) for v in node.inputs if v is not None]
        row = op_of(node)
        if row is None:
            found = [_standard_type(node, inputs)]
        else:
            found = row[0].shapes(inputs, ir.attributes(node), row[1])
        for value, (dtype, shape) in zip(node.outputs, found, strict=True):
            known[value] = (dtype, shape)
            ir.set_type(value, dtype, shape)


def attach_functions(model: ir.Model) -> None:
    """Give the model the function body of every op of ours that it uses, and no other."""
    model.functions.clear()
    for node in model.graph:
        row = op_of(node)
        if row is not None:
            function = ops.function_of(*row)
            model.functions[function.identifier()] = function


@functools.cache
def _op_runs() -> list[type]:
    """One OpRun class of onnx.reference for every op and number of steps."""
    from onnx.reference.op_run import OpRun

    def make(op: Op, n_steps: int) -> type:
        def _run(self: Any, *inputs: np.ndarray, **ignored: Any) -> tuple[np.ndarray, ...]:
            attrs = {a.name: _plain(a) for a in self.onnx_node.attribute}
            return op.run(inputs, n_steps, attrs)

        name = op.op_type(n_steps)
        return type(name, (OpRun,), {"op_domain": ir.DOMAIN, "_run": _run})

    return [
        make(op, t)
        for op in ops.OPS.values()
        for t in (range(1, ops.MAX_STEPS + 1) if op.unrolled else [0])
    ]


def _plain(attribute: Any) -> Any:
    from onnx import helper

    value = helper.get_attribute_value(attribute)
    return list(value) if isinstance(value, Sequence) else value


class Executor:
    """Runs one graph with numpy, from its op references or from its function bodies."""

    def __init__(self, model: ir.Model, *, bodies: bool = False, watch: Sequence[str] = ()) -> None:
        """Prepare a graph.

        Args:
            model: a graph of any stage.
            bodies: run the ONNX function bodies instead of the references of the op table.
            watch: names of inner values that `run` returns after the outputs.
        """
        import onnx
        from onnx.reference import ReferenceEvaluator

        attach_functions(model)
        proto = ir.to_proto(model)
        known = {o.name for o in proto.graph.output}
        extra = [n for n in watch if n not in known]
        proto.graph.output.extend(onnx.helper.make_empty_tensor_value_info(n) for n in extra)
        self._names = [o.name for o in proto.graph.output]
        self._evaluator = ReferenceEvaluator(proto, new_ops=None if bodies else _op_runs())

    def run(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Evaluate frames uint8 [B, ...]; return each output and watched value by name."""
        return dict(zip(self._names, self._evaluator.run(None, {"image": image}), strict=True))


def run(model: ir.Model, image: np.ndarray, *, bodies: bool = False) -> dict[str, np.ndarray]:
    """Evaluate a graph once; see `Executor`."""
    return Executor(model, bodies=bodies).run(image)


def input_shape(model: ir.Model) -> tuple[int, ...]:
    """Return (H, W, C) of a model's image, (T, H, W, C) of event frames."""
    image = model.graph.inputs[0]
    return tuple(ir.size(image, axis) for axis in range(1, len(ir.shape_of(image))))


def batch_size(model: ir.Model) -> int:
    """Return how many frames the reference executor takes at once, from its largest tensor."""
    largest = 1
    for node in model.graph:
        for value in node.outputs:
            dims = [d for d in ir.shape_of(value) if isinstance(d, int)]
            largest = max(largest, int(np.prod(dims, dtype=np.int64)))
    return int(min(64, max(1, BATCH_ELEMENTS // largest)))


NEURONS = (
    "Lif",
    "ConstantLif",
    "ThresholdNeuron",
    "MembraneNeuron",
    "ConstantMembraneNeuron",
    "Encoder",
    "CountNeuron",
    "KeyValueAny",
    "AddNeuron",
    "StemNeuron",
    "StemFrames",
    "SpikeConvNeuron",
    "WeightConvNeuron",
    "SpikeProducts",
    "StreamNeuron",
    "ResidualNeuron",
    "SpikeScores",
    "SpikeScoresStream",
    "SpikeValues",
    "SpikeKeyValues",
    "SpikeKeyValuesStream",
    "SpikeQueryValues",
    "SpikeKeyValueAny",
    "SpikeAddNeuron",
    "ResidualMeanNeuron",
    "LevelNeuron",
    "LevelThresholds",
    "StreamLevels",
)


def neuron_values(model: ir.Model) -> list[ir.Value]:
    """Return the spike output of every neuron in order; its name is the neuron's name."""
    found = []
    for node in model.graph:
        row = op_of(node)
        if row is not None and row[0].name in NEURONS:
            found.append(node.outputs[-1])
    return found


def kept_spikes(model: ir.Model) -> Callable[[str, np.ndarray], np.ndarray]:
    """Return a function (neuron name, spikes of the unpruned neuron) -> those that were kept."""
    pruned = json.loads(model.metadata_props.get("pruned", "{}"))  # neuron -> {axis, cut, of}

    def select(name: str, spikes: np.ndarray) -> np.ndarray:
        note = pruned.get(name)
        return spikes if note is None else np.delete(spikes, note["cut"], axis=note["axis"])

    return select


def spike_reader(model: ir.Model) -> Callable[[str, np.ndarray], np.ndarray]:
    """Return a function (neuron name, array) -> spikes or levels uint8, true channel count."""
    from bestdeploy.ops import arithmetic

    widths = {}
    for value in neuron_values(model):
        node = value.producer()
        assert node is not None
        widths[value.name] = int(node.metadata_props.get("channels", 0))

    def read(name: str, array: np.ndarray) -> np.ndarray:
        return arithmetic.unpack_levels(array, widths[name]) if widths[name] else array

    return read
