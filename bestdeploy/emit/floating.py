"""`model.float.onnx`: the float32 network that a user would deploy without us, for benchmarks.

Standard ops only, batch norm folded into the convolutions, time steps folded into the batch
(outermost), the image convolved once. Neurons are unrolled over T. Nothing is made slow on
purpose: channel-first tensors, 1x1 convolutions as convolutions, attention without transposes of
its largest operands.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bestdeploy import ir, stages
from bestdeploy.errors import PassError
from bestdeploy.passes import binarise, dead_stores, fold_batchnorm
from bestdeploy.passes.definition import is_op, n_steps_of, producer


def float_model(spiking: ir.Model) -> bytes:
    """Serialise the float network of a spiking graph (which is not changed)."""
    model = ir.clone(spiking)
    for step in (dead_stores.PASS, binarise.PASS, fold_batchnorm.PASS):
        step.apply(model)
        stages.infer_types(model)
    return ir.to_bytes(_Floating(model).build())


class _Floating:
    """Walks the folded graph and emits float ops; `made` maps old values to new ones."""

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self.b = ir.Builder("f")
        self.made: dict[ir.Value, ir.Value] = {}
        steps = (r for n in model.graph if (r := stages.op_of(n)) and r[0].unrolled)
        self.n_steps = next(steps)[1]
        self.ours: dict[str, Callable[[ir.Node], None]] = {
            "RealConv": self.skip,
            "SignConv": self.skip,
            "WeightConv": self.weight_conv,
            "DepthwiseConv": self.skip,
            "PointwiseConv": self.skip,
            "LevelNeuron": self.levels,
            "ChannelAffine": self.conv,
            "Lif": self.lif,
            "ConstantLif": self.lif,
            "OrPool": self.pool,
            "Scores": self.scores,
            "Values": self.values,
            "KeyValues": self.key_values,
            "QueryValues": self.query_values,
            "QueryKeyValues": self.products,
            "LevelAdd": self.arithmetic,
            "HeadScale": self.skip,
            "ReversibleMix": self.mix,
            "KeyValueCounts": self.key_value_counts,
            "Gate": self.gate,
            "TernaryLif": self.ternary,
            "AddAttention": self.add_attention,
            "RealMaxPool": self.pool,
            "TokenMean": self.token_mean,
            "Repeat": self.repeat,
        }
        self.standard: dict[str, Callable[[ir.Node], None]] = {
            "Transpose": self.skip,
            "Cast": self.cast,
            "Div": self.skip,
            "Sub": self.skip,
            "ReduceMean": self.mean,
            "MatMul": self.arithmetic,
            "Add": self.arithmetic,
            "Mul": self.arithmetic,
        }

    def build(self) -> ir.Model:
        """Emit the whole network."""
        image = self.model.graph.inputs[0]
        source = ir.typed_value("image", np.uint8, ir.shape_of(image))
        self.pixels = self.normalised(source)
        self.b.name_by_layer("image")
        for node in self.model.graph:
            row = stages.op_of(node)
            (self.standard[node.op_type] if row is None else self.ours[row[0].name])(node)
            self.b.name_by_layer(str(node.name))
        logits = self.made[self.model.graph.outputs[0]]
        logits.name = "logits"
        ir.set_type(logits, np.float32, ["B", ir.size(self.model.graph.outputs[0], 1)])
        kept = ("family", "config", "preprocessing", "source_sha256")
        metadata = {k: self.model.metadata_props[k] for k in kept}
        return ir.new_model(self.b, [source], [logits], name="float", metadata=metadata)

    def normalised(self, image: ir.Value) -> ir.Value:
        """Emit float32 [B, C, H, W], or [TB, C, H, W] of event frames."""
        b, held = self.b, self.model.graph.initializers
        real, shape = b.op("Cast", image, to=1), ir.shape_of(image)
        if len(shape) == 5:
            steps = b.op("Transpose", real, perm=[1, 0, 4, 2, 3])
            size = [int(shape[axis]) for axis in (4, 2, 3)]
            pixels = b.op("Reshape", steps, b.constant([-1, *size]))
        else:
            pixels = b.op("Transpose", real, perm=[0, 3, 1, 2])
        mean, std, white = (ir.array_of(held[f"image.{n}"]) for n in ("mean", "std", "white"))
        gain = self.constant("image.gain", (1 / (white * std)).reshape(-1, 1, 1))
        drop = self.constant("image.drop", (mean / std).reshape(-1, 1, 1))
        return b.op("Sub", b.op("Mul", pixels, gain), drop)

    def constant(self, name: str, array: np.ndarray) -> ir.Value:
        return self.b.initializer(name, np.asarray(array, np.float32))

    def get(self, value: ir.Value | None) -> ir.Value:
        if value is None or value not in self.made:
            raise PassError(f"no float form of `{value and value.name}`")
        return self.made[value]

    def skip(self, node: ir.Node) -> None:
        """Leave it to the reader of this node, which takes it in."""

    def conv(self, node: ir.Node) -> None:
        kinds = ("SignConv", "WeightConv", "RealConv", "DepthwiseConv", "PointwiseConv")
        inner = next(filter(None, (producer(node.inputs[0], kind) for kind in kinds)), None)
        if inner is None:
            raise PassError("an affine without a convolution", where=str(node.name))
        a, shift = (ir.array_of(v) for v in node.inputs[1:])
        w, settings = ir.array_of(inner.inputs[1]).astype(np.float64), {}
        if is_op(inner, "DepthwiseConv"):
            w, settings = w.transpose(3, 1, 2, 0), {"group": w.shape[-1]}
        w = w * a[:, None, None, None]
        x = self.pixels if is_op(inner, "RealConv") else self.get(inner.inputs[0])
        self.made[node.outputs[0]] = self.b.op(
            "Conv",
            x,
            self.constant(f"{inner.name}.weight", w.transpose(0, 3, 1, 2)),
            self.constant(f"{inner.name}.bias", shift),
            name=inner.name,
            strides=ir.attribute(inner, "strides", [1, 1]),
            pads=ir.attribute(inner, "pads", [0] * 4),
            **settings,
        )

    def weight_conv(self, node: ir.Node) -> None:
        """Emit a convolution that a depthwise one reads; an affine takes in any other."""
        if not is_op(ir.consumer(node.outputs[0]), "DepthwiseConv"):
            return
        w = ir.array_of(node.inputs[1])
        self.made[node.outputs[0]] = self.b.op(
            "Conv",
            self.get(node.inputs[0]),
            self.constant(f"{node.name}.weight", w.transpose(0, 3, 1, 2)),
            name=node.name,
            strides=ir.attribute(node, "strides"),
            pads=ir.attribute(node, "pads"),
        )

    def levels(self, node: ir.Node) -> None:
        """Emit floor(clip(gain x, 0, n) + 1/2) as floats; the scale of products is in the gain."""
        b = self.b
        scaled = producer(node.inputs[0], "HeadScale")
        source = node.inputs[0] if scaled is None else scaled.inputs[0]
        gain = float(ir.attribute(node, "gain"))
        if scaled is not None:
            gain *= float(ir.array_of(scaled.inputs[1]).flat[0])
        x = b.op("Mul", self.get(source), self.constant(f"{node.name}.gain", np.array(gain)))
        low, high = (
            self.constant(f"{node.name}.{p}", np.array(v))
            for p, v in (("low", 0.0), ("high", float(ir.attribute(node, "levels"))))
        )
        half = self.constant(f"{node.name}.half", np.array(0.5))
        out = b.op("Floor", b.op("Add", b.op("Clip", x, low, high), half))
        if scaled is not None:  # [TB, heads, d, N] -> [TB, D, H, W]
            out = self._to_image(out, node.outputs[0])
        self.made[node.outputs[0]] = out

    def _steps(self, x: ir.Value, *, constant: bool) -> list[ir.Value]:
        if constant:
            return [x] * self.n_steps
        if self.n_steps == 1:
            return [x]
        parts = self.b.op("Split", x, n_outputs=self.n_steps, axis=0)
        return list(parts)

    def lif(self, node: ir.Node) -> None:
        """Unroll the neuron over T float32 steps; 0 and 1 as floats."""
        b, settings = self.b, ir.attributes(node)
        scaled = producer(node.inputs[0], "HeadScale")
        source = node.inputs[0] if scaled is None else scaled.inputs[0]
        steps = self._steps(self.get(source), constant=is_op(node, "ConstantLif"))
        if scaled is not None:
            gains = ir.array_of(scaled.inputs[1])
            steps = [
                b.op("Mul", x, self.constant(f"{scaled.name}.{t}", gains[t].reshape(1, -1, 1, 1)))
                for t, x in enumerate(steps)
            ]
        assert n_steps_of(node) == self.n_steps
        threshold = self.constant(f"{node.name}.threshold", np.array(settings["v_threshold"]))
        leak = self.constant(f"{node.name}.leak", np.array(1 / settings["tau"]))
        reset = float(settings["v_reset"])
        v: ir.Value | None = None
        spikes = []
        for t, x in enumerate(steps):
            h = self._charge(x, v, leak, node, reset)
            fired = b.op("Cast", b.op("GreaterOrEqual", h, threshold), to=1)
            spikes.append(fired)
            if t + 1 < self.n_steps:
                v = self._reset(h, fired, threshold, node, reset)
        out = b.op("Concat", *spikes, axis=0) if len(spikes) > 1 else spikes[0]
        if scaled is not None:  # [TB, heads, d, N] -> [TB, D, H, W]
            out = self._to_image(out, node.outputs[0])
        self.made[node.outputs[0]] = out

    def _charge(
        self, x: ir.Value, v: ir.Value | None, leak: ir.Value, node: ir.Node, reset: float
    ) -> ir.Value:
        b, decay = self.b, ir.attribute(node, "decay_input")
        if v is None and reset == 0.0:
            return b.op("Mul", x, leak) if decay else x
        if v is None:
            v = self.constant(f"{node.name}.start", np.array(reset))
        if decay:
            return b.op("Add", v, b.op("Mul", b.op("Sub", x, v), leak))
        return b.op("Add", b.op("Sub", v, b.op("Mul", v, leak)), x)

    def _reset(
        self, h: ir.Value, fired: ir.Value, threshold: ir.Value, node: ir.Node, reset: float
    ) -> ir.Value:
        b = self.b
        if ir.attribute(node, "soft_reset"):
            return b.op("Sub", h, b.op("Mul", fired, threshold))
        if reset == 0.0:
            return b.op("Sub", h, b.op("Mul", fired, h))
        mask = b.op("Cast", fired, to=9)
        return b.op("Where", mask, b.constant(np.float32(reset)), h)

    def key_value_counts(self, node: ir.Node) -> None:
        """Emit the sum over tokens of k v [TB, D, 1, 1]."""
        both = self.b.op("Mul", *(self.get(v) for v in node.inputs))
        axes = self.b.constant([2, 3])
        self.made[node.outputs[0]] = self.b.op("ReduceSum", both, axes, keepdims=1, name=node.name)

    def ternary(self, node: ir.Node) -> None:
        """Unroll the neuron with spikes -1, 0, +1 over T float32 steps."""
        b, settings = self.b, ir.attributes(node)
        threshold = self.constant(f"{node.name}.threshold", np.array(settings["v_threshold"]))
        beta = self.constant(f"{node.name}.beta", np.array(settings["beta"]))
        rest = self.constant(f"{node.name}.rest", np.array(1 - settings["beta"]))
        v: ir.Value | None = None
        out = []
        for x in self._steps(self.get(node.inputs[0]), constant=False):
            if settings["decay_input"]:
                u = b.op("Mul", x, rest)
                u = u if v is None else b.op("Add", b.op("Mul", v, beta), u)
            else:
                u = x if v is None else b.op("Add", b.op("Mul", v, beta), x)
            one = b.op("Cast", b.op("GreaterOrEqual", u, threshold), to=1)
            other = b.op("Cast", b.op("GreaterOrEqual", b.op("Neg", u), threshold), to=1)
            out.append(b.op("Sub", one, other))
            v = b.op("Sub", u, b.op("Mul", u, b.op("Add", one, other)))
        self.made[node.outputs[0]] = b.op("Concat", *out, axis=0) if len(out) > 1 else out[0]

    def add_attention(self, node: ir.Node) -> None:
        """Emit v k^T q with k = max(y, 0) [TB, D, H, W]."""
        b, heads = self.b, ir.attribute(node, "heads")
        q, y, v = (self._heads(x, heads) for x in node.inputs)
        keys = b.op("Transpose", b.op("Relu", y), perm=[0, 1, 3, 2])
        z = b.op("MatMul", b.op("MatMul", v, keys), q, name=node.name)
        self.made[node.outputs[0]] = self._to_image(z, node.outputs[0])

    def gate(self, node: ir.Node) -> None:
        """Emit a g, or a - a g where the gate is inverted."""
        a, g = (self.get(v) for v in node.inputs)
        both = self.b.op("Mul", a, g, name=node.name)
        inverted = ir.attribute(node, "invert")
        self.made[node.outputs[0]] = self.b.op("Sub", a, both) if inverted else both

    def token_mean(self, node: ir.Node) -> None:
        """Mean over tokens [TB, D, 1, 1]."""
        x = self.get(node.inputs[0])
        self.made[node.outputs[0]] = self.b.op("ReduceMean", x, axes=[2, 3], keepdims=1,
                                               name=node.name)  # fmt: skip

    def repeat(self, node: ir.Node) -> None:
        """Copies along the batch, whose outermost axis is time."""
        x = self.get(node.inputs[0])
        copies = [x] * self.n_steps
        self.made[node.outputs[0]] = (
            x if self.n_steps == 1 else self.b.op("Concat", *copies, name=node.name, axis=0)
        )

    def pool(self, node: ir.Node) -> None:
        kept = {k: ir.attribute(node, k) for k in ("kernel_shape", "strides", "pads")}
        x = self.get(node.inputs[0])
        self.made[node.outputs[0]] = self.b.op("MaxPool", x, name=node.name, **kept)

    def _heads(self, value: ir.Value | None, heads: int) -> ir.Value:
        """[TB, D, H, W] -> [TB, heads, d, N]."""
        h, w, dim = (ir.size(value, axis) for axis in (2, 3, 4))
        shape = [-1, heads, dim // heads, h * w]
        return self.b.op("Reshape", self.get(value), self.b.constant(shape))

    def _to_image(self, x: ir.Value, like: ir.Value) -> ir.Value:
        h, w, dim = (ir.size(like, axis) for axis in (2, 3, 4))
        shape = [-1, dim, h, w]
        return self.b.op("Reshape", x, self.b.constant(shape))

    def scores(self, node: ir.Node) -> None:
        """Emit the transposed scores k^T q [TB, heads, N keys, N queries]."""
        heads = ir.attribute(node, "heads")
        q, k = (self._heads(v, heads) for v in node.inputs)
        self.made[node.outputs[0]] = self.b.op(
            "MatMul", self.b.op("Transpose", k, perm=[0, 1, 3, 2]), q, name=node.name
        )

    def values(self, node: ir.Node) -> None:
        """Emit v a^T [TB, heads, d, N]; the attention bits are transposed already."""
        v = self._heads(node.inputs[1], ir.attribute(node, "heads"))
        self.made[node.outputs[0]] = self.b.op(
            "MatMul", v, self.get(node.inputs[0]), name=node.name
        )

    def key_values(self, node: ir.Node) -> None:
        """Emit the transposed products v k^T [TB, heads, d of v, d of k]."""
        heads = ir.attribute(node, "heads")
        k, v = (self._heads(x, heads) for x in node.inputs)
        self.made[node.outputs[0]] = self.b.op(
            "MatMul", v, self.b.op("Transpose", k, perm=[0, 1, 3, 2]), name=node.name
        )

    def query_values(self, node: ir.Node) -> None:
        """Emit [TB, heads, d, N]; the products are transposed already."""
        q = self._heads(node.inputs[0], ir.attribute(node, "heads"))
        self.made[node.outputs[0]] = self.b.op(
            "MatMul", self.get(node.inputs[1]), q, name=node.name
        )

    def products(self, node: ir.Node) -> None:
        """Emit q k^T v, transposed [TB, heads, d, N], in the order that costs less."""
        heads, b = ir.attribute(node, "heads"), self.b
        q, k, v = (self._heads(x, heads) for x in node.inputs)
        h, w, dim = (ir.size(node.inputs[0], axis) for axis in (2, 3, 4))
        turned = b.op("Transpose", k, perm=[0, 1, 3, 2])
        if dim // heads < h * w:
            m = b.op("MatMul", b.op("MatMul", v, turned), q, name=node.name)
        else:
            m = b.op("MatMul", v, b.op("MatMul", turned, q), name=node.name)
        self.made[node.outputs[0]] = m

    def cast(self, node: ir.Node) -> None:
        """Levels are float32 already; pixels are taken in by the first convolution."""
        if node.inputs[0] in self.made:
            self.made[node.outputs[0]] = self.made[node.inputs[0]]

    def mix(self, node: ir.Node) -> None:
        y, x0, x1 = (self.get(v) for v in node.inputs)
        if x0 is x1:
            mixed = x0
        else:
            half = self.constant(f"{node.name}.half", np.array(0.5))
            mixed = self.b.op("Mul", self.b.op("Add", x0, x1), half)
        self.made[node.outputs[0]] = self.b.op("Add", y, mixed, name=node.name)

    def mean(self, node: ir.Node) -> None:
        """Mean over tokens, then over time."""
        x = self.get(node.inputs[0])
        spatial = self.b.op("ReduceMean", x, axes=[2, 3], keepdims=0)
        dim = ir.size(node.inputs[0], 4)
        steps = self.b.op("Reshape", spatial, self.b.constant([self.n_steps, -1, dim]))
        self.made[node.outputs[0]] = self.b.op("ReduceMean", steps, axes=[0], keepdims=0)

    def arithmetic(self, node: ir.Node) -> None:
        """Copy a standard op, a LevelAdd as an Add; constants become float32."""
        inputs = []
        for value in node.inputs:
            assert value is not None
            if value in self.made:
                inputs.append(self.made[value])
            else:
                inputs.append(self.constant(str(value.name), ir.array_of(value)))
        self.made[node.outputs[0]] = self.b.op(
            "Add" if is_op(node, "LevelAdd") else node.op_type, *inputs, name=node.name
        )
