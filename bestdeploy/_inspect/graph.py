"""`inspect` of an `.onnx` file: ours of any stage, or anyone's."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bestdeploy import images, ir, report, stages
from bestdeploy._inspect.common import (
    Request,
    Spikes,
    describe_network,
    layer_row,
    parsed,
    pruned_of,
    record,
    refuse_data,
    scales_are_per_head,
    sentence,
)
from bestdeploy._inspect.program import describe_bstm
from bestdeploy.emit.bstm import write_bstm
from bestdeploy.errors import UnsupportedModelError
from bestdeploy.lower import lower
from bestdeploy.passes.definition import is_op
from bestdeploy.report.of_graph import layers_of_graph, n_scales_of_graph, steps_of_graph
from bestdeploy.report.of_onnx import layers_of_onnx, static_shapes, work_outputs

__all__ = ["describe_graph", "inspect_onnx"]


def inspect_onnx(path: Path, request: Request) -> dict[str, Any]:
    """Describe an ONNX file."""
    model = ir.load(path)
    metadata = {k: parsed(v) for k, v in sorted(model.metadata_props.items())}
    base = {
        "kind": "onnx",
        "path": str(path),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "inputs": [_value(v) for v in model.graph.inputs],
        "outputs": [_value(v) for v in model.graph.outputs],
        "opsets": dict(model.opset_imports),
        "ops": _op_counts(model),
        "pruned": pruned_of(metadata),
        "metadata": metadata,
    }
    sizes = {"file_bytes": path.stat().st_size, "weight_bytes_by_type": _weight_bytes(model)}
    if not any(node.domain == ir.DOMAIN for node in model.graph):
        found = _standard_graph(path, model, metadata, request)
    elif metadata.get("stage") == "packed":
        found = _packed_graph(path, model, request)
    else:
        found = _our_graph(model, metadata, request)
    return {**base, **found, "sizes": {**sizes, **found.get("sizes", {})}}


def _op_counts(model: ir.Model) -> dict[str, int]:
    ops = Counter(f"{node.domain}::{node.op_type}".removeprefix("::") for node in model.graph)
    return dict(sorted(ops.items()))


def _weight_bytes(model: ir.Model) -> dict[str, int]:
    found: Counter[str] = Counter()
    for value in model.graph.initializers.values():
        if value.const_value is not None:
            found[value.const_value.dtype.name.lower()] += int(value.const_value.nbytes)
    return dict(sorted(found.items()))


def _packed_graph(path: Path, model: ir.Model, request: Request) -> dict[str, Any]:
    """Describe a model.onnx by the program that it becomes on a device."""
    found = describe_bstm(write_bstm(lower(model)), request, path)
    sizes = {f"bstm_{k}" if k == "file_bytes" else k: v for k, v in found.pop("sizes").items()}
    found.pop("meta")
    return {**found, "what": _sentence_of(model, "packed graph"), "sizes": sizes}


def _our_graph(model: ir.Model, metadata: dict[str, Any], request: Request) -> dict[str, Any]:
    stage = metadata.get("stage")
    if stage not in stages.STAGES:
        raise UnsupportedModelError(
            f"the metadata names stage {stage!r}, expected one of {', '.join(stages.STAGES)}",
            hint="give a file that `bestdeploy export` wrote",
        )
    stages.infer_types(model)
    done = metadata.get("passes")
    last = done[-1] if isinstance(done, list) and done else None
    what = f"{stage} graph" + (f" after pass {last.get('name')}" if isinstance(last, dict) else "")
    return {"what": _sentence_of(model, what), **describe_graph(model, request)}


def describe_graph(model: ir.Model, request: Request) -> dict[str, Any]:
    """Describe a graph of ours that is not packed, by its ops; shapes must be inferred."""
    layers = layers_of_graph(model)
    recorder, events = None, None
    if request.data:
        runs = _in_references(model, report.Recorder(layers).names)
        rules = images.rules_of(model.metadata_props)
        shape, batch_size = stages.input_shape(model), stages.batch_size(model)
        recorder, events = record(layers, request, shape, rules, runs, batch_size)
    config = {"config": parsed(model.metadata_props.get("config", "{}"))}
    n_scales = n_scales_of_graph(model, per_head=scales_are_per_head(config))
    network = describe_network(layers, steps_of_graph(model), request, recorder, n_scales)
    return {**network, "events": events}


def _in_references(
    model: ir.Model, watch: Sequence[str]
) -> Callable[[np.ndarray, Sequence[str]], Spikes]:
    """Return a function that evaluates frames with the numpy references."""
    executor = stages.Executor(model, watch=watch)
    kinds = ("LevelAdd", "LevelNeuron", "LevelThresholds")
    levels = {v.name for n in model.graph for k in kinds if is_op(n, k) for v in n.outputs}

    def run(frames: np.ndarray, names: Sequence[str]) -> Spikes:
        out = executor.run(frames)
        return {name: report.events_of(out[name]) if name in levels else out[name]
                for name in names}  # fmt: skip

    return run


def _standard_graph(
    path: Path, model: ir.Model, metadata: dict[str, Any], request: Request
) -> dict[str, Any]:
    """Describe a graph without ops of ours: model.std.onnx, model.float.onnx, or anyone's."""
    is_ours = isinstance(metadata.get("config"), dict) and "family" in metadata
    refuse_data(
        path,
        request,
        "it holds standard ops only",
        "give the model.onnx of `bestdeploy export`" if is_ours else "bestdeploy export CKPT",
    )
    proto = ir.to_proto(model)
    shapes = static_shapes(proto)
    layers = layers_of_onnx(proto, shapes)
    if is_ours and any(not x.output_shape for x in layers):
        shapes = {**shapes, **_shapes_by_running(proto, path)}
        layers = layers_of_onnx(proto, shapes)
    rows = [layer_row(x, None, 0) for x in layers]
    n_unknown = sum(not x.output_shape for x in layers)
    if not is_ours:
        what = "an ONNX model that is not of bestdeploy"
    elif "passes" in metadata:
        what = _sentence_of(model, "packed graph in standard ops")
    else:
        what = _sentence_of(model, "float network")
    return {
        "what": what,
        "time_steps": metadata["config"].get("n_steps") if is_ours else None,
        "layers": rows,
        "total_macs": sum(x.total_macs for x in layers),
        "n_layers_of_unknown_shape": n_unknown,
        "n_weights": sum(x.n_weights for x in layers),
        "n_nodes_in_functions": sum(len(f) for f in model.functions.values()),
    }


def _shapes_by_running(proto: Any, path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the work's inputs and outputs from running one frame of zeros.

    Shapes that follow from `Shape` nodes are known at run time only. Empty where it does not run.
    """
    from onnx import helper

    from bestdeploy import onnxruntime

    makers = {name: node for node in proto.graph.node for name in node.output}
    wanted = dict.fromkeys(
        value for out in work_outputs(proto) for value in (*makers[out].input[:2], out)
    )
    probed = [name for name in wanted if name in makers]
    del proto.graph.output[:]
    for index, name in enumerate(probed):
        proto.graph.node.append(helper.make_node("Shape", [name], [f"shape_{index}"]))
        proto.graph.output.append(helper.make_tensor_value_info(f"shape_{index}", 7, None))
    try:
        session = onnxruntime.from_bytes(proto.SerializeToString(), str(path))
        frame = np.zeros((1, *session.input_shape), np.uint8)
        sizes = session.call(session.feed(frame))
    except Exception:  # of any class: the file may be anyone's, whatever its metadata says
        return {}
    return {name: tuple(int(d) for d in size) for name, size in zip(probed, sizes, strict=True)}


def _value(value: Any) -> dict[str, Any]:
    shape = [d if isinstance(d, int) else str(d.value) for d in value.shape or ()]
    return {"name": value.name, "dtype": str(value.dtype), "shape": shape}


def _sentence_of(model: ir.Model, what: str) -> str:
    return sentence({k: parsed(v) for k, v in model.metadata_props.items()}, what)
