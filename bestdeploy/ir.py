"""The graph of bestdeploy: ONNX through onnx_ir, and nothing of our own around it.

This file fixes the domain, the opset and the IR version, and holds the few helpers that importers
and passes share: building nodes, reading constants, replacing a chain of nodes, loading, saving.
onnx and onnx_ir are imported here and in the rooms above; `bestdeploy.runtime` never gets here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as oir

from bestdeploy.errors import ArtifactError, GraphError, UnsupportedModelError

DOMAIN = "bestdeploy"
DOMAIN_VERSION = 1
OPSET = 17
IR_VERSION = 8

Value = oir.Value
Node = oir.Node
Graph = oir.Graph
Model = oir.Model
DataType = oir.DataType


class Builder:
    """Collects nodes and initialisers of one graph or function body, in order.

    Names are given by the caller where a reader should meet them (`name=`), else numbered.
    """

    def __init__(self, prefix: str = "") -> None:
        self.nodes: list[Node] = []
        self.initializers: dict[str, Value] = {}
        self._prefix = prefix
        self._count = 0
        self._n_named = 0

    def _fresh(self) -> str:
        self._count += 1
        return f"{self._prefix}_{self._count}" if self._prefix else f"v{self._count}"

    def op(
        self,
        op_type: str,
        *inputs: Value | None,
        domain: str = "",
        n_outputs: int = 1,
        name: str | None = None,
        output_names: Sequence[str] = (),
        metadata: Mapping[str, str] | None = None,
        **attributes: Any,
    ) -> Any:
        """Append a node; return its output value, or a tuple of them when there are several."""
        names = list(output_names) or [self._fresh() for _ in range(n_outputs)]
        attrs = [a if isinstance(a, oir.Attr) else _attr(k, a) for k, a in attributes.items()]
        node = oir.Node(
            domain,
            op_type,
            inputs,
            attrs,
            outputs=[oir.Value(name=n) for n in names],
            name=name if name is not None else f"{op_type}_{names[0]}",
            metadata_props=dict(metadata or {}),
        )
        self.nodes.append(node)
        return node.outputs[0] if len(names) == 1 else tuple(node.outputs)

    def name_by_layer(self, layer: str) -> None:
        """Name what was appended since the last call and has no name of its own.

        Nodes become `<layer>/<Op>_<k>`; their outputs are named like their node.
        """
        count: Counter[str] = Counter()
        for node in self.nodes[self._n_named :]:
            count[node.op_type] += 1
            if node.name == f"{node.op_type}_{node.outputs[0].name}":
                node.name = f"{layer}/{node.op_type}_{count[node.op_type]}"
            for i, output in enumerate(node.outputs):
                output.name = f"{node.name}.{i}" if i else node.name
        self._n_named = len(self.nodes)

    def constant(self, array: np.ndarray | np.generic | int | list[int]) -> Value:
        """Append a Constant node holding an array (int lists become int64)."""
        data = np.asarray(array)
        if data.dtype == np.int_:
            data = data.astype(np.int64)
        return self.op("Constant", value=oir.Attr("value", oir.AttributeType.TENSOR, tensor(data)))

    def initializer(self, name: str, array: np.ndarray) -> Value:
        """Register a named initialiser."""
        if name in self.initializers:
            raise GraphError(f"initialiser `{name}` exists twice", where=name)
        self.initializers[name] = new_initializer(name, array)
        return self.initializers[name]


def _attr(name: str, value: Any) -> oir.Attr:
    if isinstance(value, bool):
        value = int(value)
    return oir.convenience.convert_attribute(name, value)


def reference_attribute(name: str, outer: str, kind: str) -> oir.Attr:
    """Return an attribute inside a function body that takes the caller's attribute `outer`."""
    return oir.RefAttr(name, outer, oir.AttributeType[kind])


def tensor(array: np.ndarray, name: str | None = None) -> oir.TensorProtocol:
    """Wrap a numpy array as an ONNX tensor."""
    return oir.tensor(np.ascontiguousarray(array).reshape(np.shape(array)), name=name)


def new_initializer(name: str, array: np.ndarray) -> Value:
    """Return a value holding a constant, to be registered as an initialiser."""
    data = tensor(array, name)
    return oir.Value(
        name=name,
        shape=oir.Shape(array.shape),
        type=oir.TensorType(data.dtype),
        const_value=data,
    )


def add_initializer(graph: Graph, name: str, array: np.ndarray) -> Value:
    """Register a constant in a graph; the name must be free."""
    if name in graph.initializers:
        raise GraphError(f"initialiser `{name}` exists already", where=name)
    value = new_initializer(name, array)
    graph.register_initializer(value)
    return value


def array_of(value: Value | None) -> np.ndarray:
    """Return the constant behind a value (initialiser or Constant node).

    Raises:
        GraphError: the value is not constant.
    """
    held = None if value is None else oir.convenience.get_const_tensor(value)
    if held is None:
        name = "(none)" if value is None else value.name
        raise GraphError(f"value `{name}` must be a constant", where=str(name))
    return held.numpy()


def attribute(node: Node, name: str, default: Any = None) -> Any:
    """Return an attribute's plain value, or the default."""
    attr = node.attributes.get(name)
    return default if attr is None else attr.value


def attributes(node: Node) -> dict[str, Any]:
    """Return all attributes of a node as plain values."""
    return {k: a.value for k, a in node.attributes.items()}


def set_attribute(node: Node, name: str, value: Any) -> None:
    """Give an attribute of a node another value."""
    node.attributes.add(_attr(name, value))


def set_constant(node: Node, index: int, array: np.ndarray) -> None:
    """Give an initialiser that only this node reads another content, under its old name."""
    old = node.inputs[index]
    if old is None or node.graph is None or consumer(old) is not node:
        raise GraphError(f"input {index} is not a constant of its own", where=str(node.name))
    graph, name = node.graph, str(old.name)
    del graph.initializers[name]
    held = new_initializer(name, array)
    graph.register_initializer(held)
    node.replace_input_with(index, held)


def consumer(value: Value) -> Node | None:
    """Return the only consumer of a value, or None when there are none, several, or an output."""
    nodes = list(dict.fromkeys(use.node for use in value.uses()))
    return nodes[0] if len(nodes) == 1 and not value.is_graph_output() else None


def consumers(value: Value) -> list[Node]:
    """Return the distinct nodes that read a value, in order of use."""
    return list(dict.fromkeys(use.node for use in value.uses()))


def replace(
    graph: Graph, old: Sequence[Node], builder: Builder, mapping: Mapping[Value, Value]
) -> None:
    """Put a builder's nodes in place of `old` nodes.

    Args:
        graph: the graph of the old nodes.
        old: nodes to take out; nothing outside `mapping` and themselves may read their outputs.
        builder: holds the new nodes and initialisers.
        mapping: old value -> the new value that takes its uses and its name.
    """
    for value in builder.initializers.values():
        graph.register_initializer(value)
    # The last of the old nodes is after every input of the pattern.
    order = {node: i for i, node in enumerate(graph)}
    anchor = max(old, key=order.__getitem__)
    graph.insert_after(anchor, builder.nodes)
    for before, after in mapping.items():
        before.replace_all_uses_with(after, replace_graph_outputs=True)
        after.name, before.name = before.name, None
    graph.remove(list(old), safe=True)
    graph.sort()


def drop_unused(graph: Graph) -> None:
    """Remove nodes nobody reads and initialisers nobody uses."""
    for node in reversed(list(graph)):
        if all(not o.uses() and not o.is_graph_output() for o in node.outputs):
            graph.remove([node], safe=True)
    for name in [n for n, v in graph.initializers.items() if not v.uses()]:
        del graph.initializers[name]


def shape_of(value: Value | None) -> tuple[int | str, ...]:
    """Return a value's shape, symbols as text.

    Raises:
        GraphError: the shape is not known.
    """
    if value is None or value.shape is None:
        raise GraphError(f"value `{value and value.name}` has no shape")
    return tuple(d if isinstance(d, int) else str(d.value) for d in value.shape)


def size(value: Value | None, axis: int) -> int:
    """Return one dimension that must be a number.

    Raises:
        GraphError: the dimension is not known or symbolic.
    """
    dim = shape_of(value)[axis]
    if not isinstance(dim, int):
        raise GraphError(f"axis {axis} of `{value and value.name}` is {dim}, expected a number")
    return dim


def new_model(
    builder: Builder,
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    *,
    name: str,
    metadata: Mapping[str, str],
) -> Model:
    """Make a model of the nodes of a builder."""
    graph = oir.Graph(
        inputs,
        outputs,
        nodes=builder.nodes,
        initializers=list(builder.initializers.values()),
        opset_imports={"": OPSET, DOMAIN: DOMAIN_VERSION},
        name=name,
    )
    from bestdeploy import __version__

    return oir.Model(
        graph,
        ir_version=IR_VERSION,
        producer_name="bestdeploy",
        producer_version=__version__,
        metadata_props=dict(metadata),
    )


def typed_value(name: str, dtype: np.dtype | type, shape: Iterable[int | str]) -> Value:
    """Return a named value with type and shape, for graph inputs and outputs."""
    return oir.Value(
        name=name,
        type=oir.TensorType(oir.DataType.from_numpy(np.dtype(dtype))),
        shape=oir.Shape(list(shape)),
    )


def set_type(value: Value, dtype: np.dtype | type, shape: Sequence[int | str]) -> None:
    """Write a value's type and shape (the batch axis is the symbol `B`)."""
    value.type = oir.TensorType(oir.DataType.from_numpy(np.dtype(dtype)))
    value.shape = oir.Shape(list(shape))


def clone(model: Model) -> Model:
    """Return an independent copy of a model."""
    return oir.serde.deserialize_model(to_proto(model))


def folded(proto: Any, limit_bytes: int) -> Any:
    """Fold constants of up to `limit_bytes` in a ModelProto, merge equal subexpressions."""
    from onnx_ir.passes import common
    from onnxscript import optimizer

    model = oir.from_proto(proto)
    optimizer.fold_constants(
        model,
        onnx_shape_inference=False,
        input_size_limit=limit_bytes,
        output_size_limit=limit_bytes,
    )
    for step in (
        common.RemoveUnusedNodesPass(),
        common.LiftConstantsToInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
    ):
        step(model)
    return oir.to_proto(model)


def to_proto(model: Model) -> Any:
    """Return the model as an onnx.ModelProto."""
    return oir.serde.serialize_model(model)


def to_bytes(model: Model) -> bytes:
    """Serialise a model; the same model gives the same bytes."""
    return to_proto(model).SerializeToString(deterministic=True)


def load(path: str | Path) -> Model:
    """Read an ONNX file.

    Raises:
        ArtifactError: the file cannot be read or is not an ONNX model.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as e:
        raise ArtifactError(
            f"cannot read `{path}`: {e.strerror}",
            where=str(path),
            hint="bestdeploy export writes the .onnx files",
        ) from e
    return from_bytes(data, str(path))


def from_bytes(data: bytes, where: str) -> Model:
    """Parse a serialised ONNX model; `where` names it in errors.

    Raises:
        ArtifactError: not an ONNX model.
        UnsupportedModelError: written by a newer bestdeploy, or in a newer ONNX format.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        proto = onnx.load_model_from_string(data)
    except (DecodeError, ValueError) as e:
        raise ArtifactError(
            f"`{where}` is not an ONNX model ({len(data)} bytes)",
            where=where,
            hint="give a file that `bestdeploy export` wrote",
        ) from e
    if not proto.HasField("graph") or not proto.graph.node:
        raise ArtifactError(
            f"`{where}` holds no ONNX graph",
            where=where,
            hint="give a file that `bestdeploy export` wrote",
        )
    _check_versions(proto, where)
    return oir.serde.deserialize_model(proto)


def _check_versions(proto: Any, where: str) -> None:
    """Refuse a ModelProto whose ops or encoding may mean something that is not known here."""
    import onnx

    imports = [x for part in (proto, *proto.functions) for x in part.opset_import]
    version = max((x.version for x in imports if x.domain == DOMAIN), default=DOMAIN_VERSION)
    if version > DOMAIN_VERSION:
        raise UnsupportedModelError(
            f"`{where}` has ops of bestdeploy version {version}, this is version {DOMAIN_VERSION}",
            where=where,
            hint="pip install -U bestdeploy",
        )
    if proto.ir_version > onnx.IR_VERSION:
        raise UnsupportedModelError(
            f"`{where}` is of ONNX IR version {proto.ir_version}, "
            f"onnx {onnx.__version__} reads up to {onnx.IR_VERSION}",
            where=where,
            hint="pip install -U bestdeploy onnx",
        )
