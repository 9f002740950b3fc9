"""The layers of any ONNX file: its convolutions and matrix products, with batch size 1."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from bestdeploy.report.layers import Layer, Shape

__all__ = ["layers_of_onnx", "static_shapes", "work_outputs"]

_WEIGHT = {  # op -> (input that is the data, input that is the weight)
    "Conv": (0, 1),
    "ConvInteger": (0, 1),
    "QLinearConv": (0, 3),
    "MatMul": (0, 1),
    "MatMulInteger": (0, 1),
    "QLinearMatMul": (0, 3),
    "Gemm": (0, 1),
}
_CONVOLUTIONS = ("Conv", "ConvInteger", "QLinearConv")

Shapes = Mapping[str, Shape]


def static_shapes(proto: Any) -> dict[str, Shape]:
    """Return the shapes that follow from the file alone, the first axis of each input being 1.

    Args:
        proto: an onnx.ModelProto, which is not changed. Values with an unknown axis are left out.
    """
    import onnx

    fixed = onnx.ModelProto()
    fixed.CopyFrom(proto)
    constant = {i.name: tuple(i.dims) for i in fixed.graph.initializer}
    for value in fixed.graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name not in constant and dims and not dims[0].dim_value:
            dims[0].dim_value = 1
    del fixed.graph.value_info[:]  # written for any batch size
    try:
        fixed = onnx.shape_inference.infer_shapes(fixed, data_prop=True)
    except Exception:  # a broken model, or one beyond 2 GB: what is declared must do
        fixed = proto
    graph = fixed.graph
    found = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        sizes = tuple(d.dim_value for d in tensor.shape.dim)
        if tensor.HasField("shape") and all(d.HasField("dim_value") for d in tensor.shape.dim):
            found[value.name] = sizes
    return {**found, **constant}


def work_outputs(proto: Any) -> list[str]:
    """Return the outputs of the nodes that `layers_of_onnx` makes rows of."""
    return [node.output[0] for node in proto.graph.node if node.op_type in _WEIGHT]


def layers_of_onnx(proto: Any, shapes: Shapes) -> list[Layer]:
    """Return a row per convolution and matrix product of the main graph.

    Args:
        proto: an onnx.ModelProto.
        shapes: of its values; a row whose shapes are not known has shapes () and no MACs.
    """
    from onnx import helper

    held = {i.name: (tuple(i.dims), i.data_type) for i in proto.graph.initializer}
    rows = []
    for node in proto.graph.node:
        if node.op_type not in _WEIGHT or node.domain not in ("", "ai.onnx"):
            continue
        data, weight = (node.input[i] for i in _WEIGHT[node.op_type])
        dims, data_type = held.get(weight, ((), 0))
        dtype = helper.tensor_dtype_to_np_dtype(data_type) if data_type else None
        rows.append(
            Layer(
                name=node.name or node.output[0],
                op=node.op_type,
                kind="other",
                input_shape=shapes.get(data, ()),
                output_shape=shapes.get(node.output[0], ()),
                n_steps=1,
                macs=_macs(node, shapes, weight),
                weight_bits=0 if dtype is None else 8 * dtype.itemsize,
                n_weights=math.prod(dims) if dims else 0,
            )
        )
    return rows


def _macs(node: Any, shapes: Shapes, weight: str) -> int:
    out, w = shapes.get(node.output[0]), shapes.get(weight)
    if out is None or w is None:
        return 0
    if node.op_type in _CONVOLUTIONS:
        return math.prod(out) * math.prod(w[1:])
    if node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute):
        return math.prod(out) * w[-1]
    return math.prod(out) * (w[-2] if len(w) > 1 else w[-1])
