"""The ONNX files of an export: one that carries function bodies, one with them inlined.

`model.onnx` keeps our ops and a model-local function for each, so ONNX Runtime runs it with or
without our custom-op library. `model.std.onnx` has only standard ops, for runtimes that do not
expand functions. Both are deterministic: the same model gives the same bytes.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from bestdeploy import ir, stages

FOLD_LIMIT_BYTES = 4096
"""Constants up to this size are folded: the weights of a layer that is worth a file are larger."""


def function_model(model: ir.Model) -> bytes:
    """Serialise a graph of any stage with the function bodies of its ops."""
    stages.infer_types(model)
    stages.attach_functions(model)
    return ir.to_bytes(model)


def standard_model(model: ir.Model) -> bytes:
    """Serialise a graph with every function inlined and no import of our domain.

    What the bodies compute from constants alone (attributes, small tables, shapes) is folded, and
    equal subexpressions are merged; binary weights stay packed. Nodes and values of a body are
    named after the layer that they came from.
    """
    import onnx.inliner

    stages.infer_types(model)
    stages.attach_functions(model)
    proto = ir.to_proto(model)
    layers = [(node.name, set(node.output)) for node in proto.graph.node]
    inlined = onnx.inliner.inline_local_functions(proto)
    _name_by_layer(inlined.graph, layers)
    kept = [o for o in inlined.opset_import if o.domain != ir.DOMAIN]
    del inlined.opset_import[:]
    inlined.opset_import.extend(kept)
    return ir.folded(inlined, FOLD_LIMIT_BYTES).SerializeToString(deterministic=True)


def _name_by_layer(graph: Any, layers: list[tuple[str, set[str]]]) -> None:
    """Name the nodes of a GraphProto `<layer>/<Op>_<k>`, and their outputs alike.

    Args:
        graph: after inlining; the nodes of a body stand where their layer stood and keep the names
            of its outputs, so a layer ends with the node that writes the last of them.
        layers: name and outputs of every layer, in order.
    """
    kept = {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
    kept.update(*(outputs for _, outputs in layers))
    names: dict[str, str] = {}
    rest = iter(layers)
    layer, open_outputs, count = "", set[str](), Counter[str]()
    for node in graph.node:
        if not open_outputs:
            layer, outputs = next(rest)
            open_outputs, count = set(outputs), Counter()
        is_whole = node.name == layer
        count[node.op_type] += 1
        if not is_whole:
            node.name = f"{layer}/{node.op_type}_{count[node.op_type]}"
        for i, output in enumerate(node.output):
            if output and output not in kept:
                names[output] = node.name if i == 0 else f"{node.name}.{i}"
        open_outputs -= set(node.output)
        for values in (node.input, node.output):
            values[:] = [names.get(value, value) for value in values]
    for info in graph.value_info:
        info.name = names.get(info.name, info.name)
