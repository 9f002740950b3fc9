"""Fuse: a layer, its neuron and the packing around it become one op; bits between layers.

    StemConv . ConstantMembraneNeuron . Pack                    ->  StemNeuron
    Unpack . OrPool . Pack                                      ->  SpikeOrPool
    Unpack . SignConv . ThresholdNeuron . Pack                  ->  SpikeConvNeuron
    Unpack . SignConv . StreamAffine                            ->  SpikeConvAffine
    (Unpack, Unpack) . Scores . CountNeuron . Pack              ->  SpikeScores
    (Unpack, Unpack) . Scores . ShiftCounts . MembraneNeuron . Pack  ->  SpikeScoresStream
    (Unpack, Unpack) . Values . CountTable . MembraneNeuron . Pack   ->  SpikeValues
    ReversibleAdd . MembraneNeuron . Pack                       ->  ResidualNeuron
    MembraneNeuron . Pack                                       ->  StreamNeuron
    Unpack . ReadOut                                            ->  SpikeReadOut

Exact: the fused ops are defined as these compositions.
"""

from __future__ import annotations

from typing import Any

from bestdeploy import ir, stages
from bestdeploy.passes.definition import Pass, find, n_steps_of, producer


def _packed(value: ir.Value | None) -> tuple[ir.Value, int] | None:
    """Return the packed value behind an UnpackBits or UnpackSigns, and its channels."""
    for op_name in ("UnpackBits", "UnpackSigns"):
        node = producer(value, op_name)
        if node is not None and node.inputs[0] is not None:
            return node.inputs[0], ir.attribute(node, "channels")
    return None


def _width(neuron: ir.Node) -> int:
    return ir.size(neuron.outputs[0], -1)


class _Fusion:
    """One rewrite: what goes, what comes, and which values take over."""

    def __init__(self, model: ir.Model, old: list[ir.Node], name: str | None) -> None:
        self.model, self.old, self.name = model, old, str(name)

    def emit(
        self,
        op_type: str,
        inputs: list[ir.Value | None],
        outputs: list[ir.Value],
        n_channels: int = 0,
        **attrs: Any,
    ) -> None:
        b = ir.Builder(f"{self.name}.fused")
        made = b.op(
            op_type,
            *inputs,
            domain=ir.DOMAIN,
            name=self.name,
            n_outputs=len(outputs),
            **attrs,
        )
        made = made if isinstance(made, tuple) else (made,)
        if n_channels:
            b.nodes[0].metadata_props["channels"] = str(n_channels)
        for node in self.old:
            if "gain" in node.metadata_props:
                b.nodes[0].metadata_props["gain"] = node.metadata_props["gain"]
        ir.replace(self.model.graph, self.old, b, dict(zip(outputs, made, strict=True)))


def _stem(model: ir.Model, neuron: ir.Node, pack: ir.Node, stem: ir.Node) -> None:
    attrs = {**ir.attributes(stem), **ir.attributes(neuron)}
    _Fusion(model, [stem, neuron, pack], neuron.name).emit(
        f"StemNeuron_T{n_steps_of(neuron)}", list(stem.inputs), [pack.outputs[0]],
        _width(neuron), **attrs,
    )  # fmt: skip


def _fuse_stem(model: ir.Model) -> int:
    changes = 0
    for neuron in find(model, "ConstantMembraneNeuron"):
        stem = producer(neuron.inputs[0], "StemConv")
        pack = ir.consumer(neuron.outputs[0])
        if stem is not None and pack is not None and ir.consumer(stem.outputs[0]) is neuron:
            _stem(model, neuron, pack, stem)
            changes += 1
    return changes


def _fuse_pool(model: ir.Model) -> int:
    changes = 0
    for pool in find(model, "OrPool"):
        source, pack = _packed(pool.inputs[0]), ir.consumer(pool.outputs[0])
        if source is not None and pack is not None:
            _Fusion(model, [pool, pack], pool.name).emit(
                "SpikeOrPool", [source[0]], [pack.outputs[0]], **ir.attributes(pool)
            )
            changes += 1
    return changes


def _fuse_conv(model: ir.Model) -> int:
    changes = 0
    for conv in find(model, "SignConv"):
        spikes, weights = _packed(conv.inputs[0]), _packed(conv.inputs[1])
        after = ir.consumer(conv.outputs[0])
        if spikes is None or weights is None or after is None:
            continue
        attrs = {**ir.attributes(conv), "in_channels": spikes[1]}
        inputs = [spikes[0], weights[0], *after.inputs[1:]]
        row = stages.op_of(after)
        kind = "" if row is None else row[0].name
        if kind == "ThresholdNeuron":
            pack = ir.consumer(after.outputs[0])
            assert pack is not None
            _Fusion(model, [conv, after, pack], after.name).emit(
                f"SpikeConvNeuron_T{n_steps_of(after)}", inputs, [pack.outputs[0]],
                _width(after), **attrs,
            )  # fmt: skip
        elif kind == "StreamAffine":
            _Fusion(model, [conv, after], conv.name).emit(
                "SpikeConvAffine", inputs, [after.outputs[0]], **attrs
            )
        else:
            continue
        changes += 1
    return changes


def _fuse_scores(model: ir.Model) -> int:
    changes = 0
    for scores in find(model, "Scores"):
        q, k = (_packed(v) for v in scores.inputs)
        after = ir.consumer(scores.outputs[0])
        if q is None or k is None or after is None:
            continue
        attrs = {**ir.attributes(scores), "channels": q[1]}
        old, op_type = [scores, after], "SpikeScores"
        attrs.update(ir.attributes(after))
        if stages.op_of(after)[0].name == "ShiftCounts":  # type: ignore[index]
            neuron = ir.consumer(after.outputs[0])
            assert neuron is not None
            attrs.update(ir.attributes(neuron))
            old, op_type, after = [scores, after, neuron], "SpikeScoresStream", neuron
        pack = ir.consumer(after.outputs[0])
        assert pack is not None
        _Fusion(model, [*old, pack], after.name).emit(
            f"{op_type}_T{n_steps_of(after)}", [q[0], k[0]], [pack.outputs[0]],
            _width(after), **attrs,
        )  # fmt: skip
        changes += 1
    return changes


def _fuse_values(model: ir.Model) -> int:
    changes = 0
    for values in find(model, "Values"):
        a, v = (_packed(x) for x in values.inputs)
        table = ir.consumer(values.outputs[0])
        neuron = None if table is None else ir.consumer(table.outputs[0])
        pack = None if neuron is None else ir.consumer(neuron.outputs[0])
        if a is None or v is None or table is None or neuron is None or pack is None:
            continue
        attrs = {**ir.attributes(values), "channels": v[1], **ir.attributes(neuron)}
        _Fusion(model, [values, table, neuron, pack], neuron.name).emit(
            f"SpikeValues_T{n_steps_of(neuron)}", [a[0], v[0], table.inputs[1]],
            [pack.outputs[0]], _width(neuron), **attrs,
        )  # fmt: skip
        changes += 1
    return changes


def _fuse_stream(model: ir.Model) -> int:
    changes = 0
    for neuron in find(model, "MembraneNeuron"):
        pack = ir.consumer(neuron.outputs[0])
        if pack is None:
            continue
        add = producer(neuron.inputs[0], "ReversibleAdd")
        old = [neuron, pack] if add is None else [add, neuron, pack]
        op_type = "StreamNeuron" if add is None else "ResidualNeuron"
        inputs = list(neuron.inputs if add is None else add.inputs)
        outputs = ([] if add is None else [add.outputs[0]]) + [pack.outputs[0]]
        _Fusion(model, old, neuron.name).emit(
            f"{op_type}_T{n_steps_of(neuron)}", inputs, outputs, _width(neuron),
            **ir.attributes(neuron),
        )  # fmt: skip
        changes += 1
    return changes


def _fuse_read_out(model: ir.Model) -> int:
    changes = 0
    for node in find(model, "ReadOut"):
        spikes, weights = _packed(node.inputs[2]), _packed(node.inputs[3])
        if spikes is not None and weights is not None:
            inputs = [*node.inputs[:2], spikes[0], weights[0], *node.inputs[4:]]
            _Fusion(model, [node], node.name).emit(
                "SpikeReadOut", inputs, [node.outputs[0]], q=ir.attribute(node, "q"),
                in_channels=spikes[1],
            )  # fmt: skip
            changes += 1
    return changes


def apply(model: ir.Model) -> int:
    """Fuse everything; attention before the plain stream neuron, which would take its tail."""
    steps = (
        _fuse_stem,
        _fuse_pool,
        _fuse_conv,
        _fuse_scores,
        _fuse_values,
        _fuse_stream,
        _fuse_read_out,
    )
    changes = sum(step(model) for step in steps)
    ir.drop_unused(model.graph)
    model.metadata_props["stage"] = "packed"
    return changes


PASS = Pass("fuse", "exact", apply)
