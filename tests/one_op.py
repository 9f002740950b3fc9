"""Graphs of one op, and of random networks, to run in ONNX Runtime with the custom-op library."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from random_nets import Spec, random_checkpoint

from bestdeploy import importers, ir, ops, passes, stages
from bestdeploy import onnxruntime as ort_room
from bestdeploy.importers.checkpoint import Checkpoint


def packed_net(spec: Spec) -> ir.Model:
    tensors, settings = random_checkpoint(spec)
    kept = {k: v for k, v in tensors.items() if not k.endswith("num_batches_tracked")}
    content = Checkpoint(kept, dict(settings), "0" * 64, Path("random"))
    (family,) = importers.FAMILIES[:1]
    model = family.build(content, {"checkpoint args": content.args})
    passes.run(model)
    return model


class OneOp:
    """A model of one node; arrays in `constants` are initialisers, the others graph inputs."""

    def __init__(self, name, n_steps, arrays, attrs, constants=()):
        self.op = ops.OPS[name]
        self.n_steps, self.attrs = n_steps, attrs
        self.op_type, self.arrays = self.op.op_type(n_steps), arrays
        self.expected = self.run(arrays)
        b = ir.Builder()
        values = {
            k: b.initializer(k, a)
            if k in constants
            else ir.typed_value(k, a.dtype, [f"{k}{i}" for i in range(a.ndim)])
            for k, a in arrays.items()
        }
        made = b.op(
            self.op_type,
            *values.values(),
            domain=ir.DOMAIN,
            output_names=list(self.op.outputs),
            **attrs,
        )
        outputs = [made] if len(self.op.outputs) == 1 else list(made)
        for value, array in zip(outputs, self.expected, strict=True):
            ir.set_type(value, array.dtype, [f"{value.name}{i}" for i in range(array.ndim)])
        inputs = [v for k, v in values.items() if k not in constants]
        self.model = ir.new_model(b, inputs, outputs, name="one", metadata={})
        stages.attach_functions(self.model)
        self.feed = {k: a for k, a in arrays.items() if k not in constants}

    def run(self, arrays):
        """Outputs of the reference."""
        return self.op.run([arrays[p] for p in self.op.inputs], self.n_steps, self.attrs)

    def with_constants(self, constants):
        """Return the same node with other initialisers."""
        return OneOp(self.op.name, self.n_steps, self.arrays, self.attrs, constants)

    def channels(self, port):
        """Number of bits in the rows of a packed input."""
        if "in_channels" in self.attrs:
            return self.attrs["in_channels"]
        if "y" in self.arrays:
            return self.arrays["y"].shape[-1]
        if port != "attention":
            return self.attrs["channels"]
        if "q" in self.arrays:
            return self.attrs["channels"] // self.attrs["heads"]
        return int(np.prod(self.arrays["v"].shape[2:4]))

    def session(self, content=None, *, custom_ops=True):
        content = content or ir.to_bytes(self.model)
        return ort_room.from_bytes(content, self.op_type, custom_ops=custom_ops).session

    def check(self, session, feed=None):
        for got, wanted in zip(session.run(None, feed or self.feed), self.expected, strict=True):
            np.testing.assert_array_equal(got, wanted)


def imported_net(checkpoint: Path, settings: dict | None = None) -> ir.Model:
    """Return the packed graph of a checkpoint file."""
    model = importers.import_checkpoint(checkpoint, overrides=settings)
    passes.run(model)
    return model


def nodes_of(model: ir.Model, images: np.ndarray) -> dict[str, OneOp]:
    """Return one node of every op in a packed graph, with the inputs it gets from some images.

    Its constants are initialisers, as in the network.
    """
    stages.infer_types(model)
    names = [str(v.name) for node in model.graph for v in node.outputs]
    seen = stages.Executor(model, watch=names).run(images)
    seen["image"] = images
    found: dict[str, OneOp] = {}
    for node in model.graph:
        row = stages.op_of(node)
        if row is None or row[0].name in found:
            continue
        op, n_steps = row
        constants = {p for p, v in zip(op.inputs, node.inputs, strict=True) if v.const_value}
        arrays = {
            p: np.array(ir.array_of(v)) if p in constants else seen[str(v.name)]
            for p, v in zip(op.inputs, node.inputs, strict=True)
        }
        found[op.name] = OneOp(op.name, n_steps, arrays, ir.attributes(node), constants)
    return found


WIDE = {"StemStream": 6, "StemStreamFrames": 6,
        "SpikeConvAffine": 6, "WeightConvAffine": 6, "StreamMaxPool": 6, "ReversibleAdd": 6,
        "StreamTokenMean": 6, "DepthwiseLevelsAffine": 6, "DepthwiseStreamAffine": 6,
        "StreamPointwise": 6, "LevelProducts": 6, "SpikeReadOut": 7,
        "ResidualReadOut": 7, "SpikeCountReadOut": 7, "SpikeLevelReadOut": 7}  # fmt: skip
"""TensorProto types of outputs that are not bits."""


def with_broken_bodies(model: ir.Model, *names: str) -> bytes:
    """Serialise a model whose function bodies give wrong values of the right type: x becomes !x.

    Args:
        model: a packed graph.
        names: op types whose bodies are broken; all of them if there are none.
    """
    stages.attach_functions(model)
    proto = ir.to_proto(model)
    for function in proto.functions:
        if not names or function.name in names:
            break_body(function)
    return proto.SerializeToString()


def break_body(function: onnx.FunctionProto) -> None:
    """Make the last output of a function body x wrong: !x."""
    port = function.output[-1]
    (last,) = [n for n in function.node if port in n.output]
    last.output[list(last.output).index(port)] = "unbroken"
    for op, inputs, outputs, attrs in (
        ("Cast", ["unbroken"], ["as_bool"], {"to": 9}),
        ("Not", ["as_bool"], ["inverted"], {}),
        ("Cast", ["inverted"], [port], {"to": WIDE.get(function.name.partition("_T")[0], 2)}),
    ):
        function.node.append(onnx.helper.make_node(op, inputs, outputs, **attrs))
