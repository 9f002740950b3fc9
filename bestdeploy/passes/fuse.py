"""Fuse: a layer, its neuron and the packing around it become one op; bits between layers.

    StemConv . Encoder . Pack                                   ->  StemNeuron
    Transpose . StemConv . MembraneNeuron . Pack                ->  StemFrames
    StemConv . Repeat                                           ->  StemStream
    Transpose . StemConv                                        ->  StemStreamFrames
    Unpack . OrPool . Pack                                      ->  SpikeOrPool
    Unpack . SignConv . ThresholdNeuron . Pack                  ->  SpikeConvNeuron
    Unpack . SignConv . StreamAffine                            ->  SpikeConvAffine
    the same with IntegerConv                                   ->  WeightConvNeuron,
                                                                    WeightConvAffine
    3 Unpack . QueryKeyValues . ShiftCounts . MembraneNeuron . Pack  ->  SpikeProducts
    (Unpack, Unpack) . LevelAdd . Pack                          ->  SpikeLevelAdd
    Unpack . LevelReadOut                                       ->  SpikeLevelReadOut
    (Unpack, Unpack) . Scores . CountNeuron . Pack              ->  SpikeScores
    (Unpack, Unpack) . Scores . ShiftCounts . MembraneNeuron . Pack  ->  SpikeScoresStream
    (Unpack, Unpack) . Values . CountTable . MembraneNeuron . Pack   ->  SpikeValues
    the same with KeyValues and QueryValues                     ->  SpikeKeyValues(Stream),
                                                                    SpikeQueryValues
    (Unpack, Unpack) . KeyValueAny . Pack                       ->  SpikeKeyValueAny
    (Unpack, Unpack) . Gate . Pack                              ->  SpikeGate
    TernaryNeuron . Pack                                        ->  SpikeTernaryNeuron
    (Unpack, stream, Unpack) . AddNeuron . Pack                 ->  SpikeAddNeuron
    ReversibleAdd . MembraneNeuron . Pack                       ->  ResidualNeuron
    ReversibleAdd . StreamTokenMean . MembraneNeuron . Pack     ->  ResidualMeanNeuron
    MembraneNeuron . Pack                                       ->  StreamNeuron
    Unpack . ReadOut                                            ->  SpikeReadOut
    Unpack . CountReadOut                                       ->  SpikeCountReadOut
    ReversibleAdd . MeanReadOut                                 ->  ResidualReadOut

Exact: the fused ops are defined as these compositions.
"""

from __future__ import annotations

from typing import Any

from bestdeploy import ir, stages
from bestdeploy.passes.definition import Pass, find, is_op, n_steps_of, producer


def _packed(value: ir.Value | None) -> tuple[ir.Value, int] | None:
    """Return the packed value behind an op that unpacks, and its channels."""
    for op_name in ("UnpackBits", "UnpackSigns", "UnpackLevels", "UnpackWeights", "UnpackTernary"):
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
        largest: int | None = None,
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
        if largest is not None:  # input, which bounds the sums
            b.nodes[0].metadata_props["levels"] = str(largest)
        for node in self.old:
            if "gain" in node.metadata_props:
                b.nodes[0].metadata_props["gain"] = node.metadata_props["gain"]
        ir.replace(self.model.graph, self.old, b, dict(zip(outputs, made, strict=True)))


def _fuse_stem_stream(model: ir.Model) -> int:
    """Fuse a first convolution that begins the stream; those with a neuron are gone by now."""
    changes = 0
    for stem in find(model, "StemConv"):
        inputs, attrs = list(stem.inputs), ir.attributes(stem)
        repeat = ir.consumer(stem.outputs[0])
        frames = stem.inputs[0].producer() if stem.inputs[0] is not None else None
        if repeat is not None and is_op(repeat, "Repeat"):
            old, out = [stem, repeat], repeat.outputs[0]
            op_type = f"StemStream_T{n_steps_of(repeat)}"
        elif frames is not None and frames.op_type == "Transpose":
            old, out = [frames, stem], stem.outputs[0]
            op_type, inputs[0] = f"StemStreamFrames_T{ir.size(out, 0)}", frames.inputs[0]
        else:
            continue
        _Fusion(model, old, stem.name).emit(op_type, inputs, [out], **attrs)
        changes += 1
    return changes


def _fuse_stem(model: ir.Model) -> int:
    changes = 0
    for stem in find(model, "StemConv"):
        neuron = ir.consumer(stem.outputs[0])
        pack = None if neuron is None else ir.consumer(neuron.outputs[0])
        if neuron is None or pack is None:
            continue
        old, inputs = [stem, neuron, pack], list(stem.inputs)
        if is_op(neuron, "Encoder"):
            op_type = "StemNeuron"
            inputs.append(neuron.inputs[1])
        else:
            op_type = "StemFrames"
            steps = stem.inputs[0].producer() if stem.inputs[0] is not None else None
            if steps is None or steps.op_type != "Transpose":
                continue
            old, inputs[0] = [steps, *old], steps.inputs[0]
        attrs = {**ir.attributes(stem), **ir.attributes(neuron)}
        _Fusion(model, old, neuron.name).emit(
            f"{op_type}_T{n_steps_of(neuron)}", inputs, [pack.outputs[0]], _width(neuron), **attrs
        )
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


def _fuse_conv(model: ir.Model, op_name: str, fused: str) -> int:
    changes = 0
    for conv in find(model, op_name):
        spikes, weights = _packed(conv.inputs[0]), _packed(conv.inputs[1])
        after = ir.consumer(conv.outputs[0])
        if spikes is None or weights is None or after is None:
            continue
        attrs = {**ir.attributes(conv), "in_channels": spikes[1]}
        levels = attrs.pop("levels", None)
        inputs = [spikes[0], weights[0], *after.inputs[1:]]
        row = stages.op_of(after)
        kind = "" if row is None else row[0].name
        if kind == "ThresholdNeuron":
            pack = ir.consumer(after.outputs[0])
            assert pack is not None
            _Fusion(model, [conv, after, pack], after.name).emit(
                f"{fused}Neuron_T{n_steps_of(after)}", inputs, [pack.outputs[0]],
                _width(after), levels, **attrs,
            )  # fmt: skip
        elif kind == "StreamAffine":
            _Fusion(model, [conv, after], conv.name).emit(
                f"{fused}Affine", inputs, [after.outputs[0]], **attrs
            )
        else:
            continue
        changes += 1
    return changes


def _fuse_counts(model: ir.Model, product: str) -> int:
    """Fuse the first product of attention: Scores or KeyValues."""
    changes = 0
    for counts in find(model, product):
        one, two = (_packed(v) for v in counts.inputs)
        after = ir.consumer(counts.outputs[0])
        if one is None or two is None or after is None:
            continue
        attrs = {**ir.attributes(counts), "channels": one[1]}
        old, op_type = [counts, after], f"Spike{product}"
        attrs.update(ir.attributes(after))
        if is_op(after, "ShiftCounts"):
            neuron = ir.consumer(after.outputs[0])
            assert neuron is not None
            attrs.update(ir.attributes(neuron))
            old, op_type, after = [counts, after, neuron], f"{op_type}Stream", neuron
        pack = ir.consumer(after.outputs[0])
        assert pack is not None
        _Fusion(model, [*old, pack], after.name).emit(
            f"{op_type}_T{n_steps_of(after)}", [one[0], two[0]], [pack.outputs[0]],
            _width(after), **attrs,
        )  # fmt: skip
        changes += 1
    return changes


def _fuse_mixed(model: ir.Model, product: str, spikes: int) -> int:
    """Fuse the second product of attention: Values or QueryValues; `spikes` is its [T, .., C]."""
    changes = 0
    for values in find(model, product):
        packed = [_packed(x) for x in values.inputs]
        table = ir.consumer(values.outputs[0])
        neuron = None if table is None else ir.consumer(table.outputs[0])
        pack = None if neuron is None else ir.consumer(neuron.outputs[0])
        if None in packed or table is None or neuron is None or pack is None:
            continue
        inputs, channels = zip(*(p for p in packed if p is not None), strict=True)
        attrs = {
            **ir.attributes(values), "channels": channels[spikes], **ir.attributes(neuron)
        }  # fmt: skip
        _Fusion(model, [values, table, neuron, pack], neuron.name).emit(
            f"Spike{product}_T{n_steps_of(neuron)}", [*inputs, table.inputs[1]],
            [pack.outputs[0]], _width(neuron), **attrs,
        )  # fmt: skip
        changes += 1
    return changes


def _fuse_gates(model: ir.Model) -> int:
    """Fuse what combines spikes with spikes."""
    changes = 0
    for op_type, fused in (("KeyValueAny", "SpikeKeyValueAny"), ("Gate", "SpikeGate")):
        for node in find(model, op_type):
            packed, pack = [_packed(v) for v in node.inputs], ir.consumer(node.outputs[0])
            if None in packed or pack is None:
                continue
            inputs = [p[0] for p in packed if p is not None]
            _Fusion(model, [node, pack], node.name).emit(
                fused, [*inputs], [pack.outputs[0]], _width(node), **ir.attributes(node)
            )
            changes += 1
    return changes


def _fuse_addition(model: ir.Model) -> int:
    """Fuse ternary neurons and the attention that reads them."""
    changes = 0
    for node in find(model, "TernaryNeuron"):
        pack = ir.consumer(node.outputs[0])
        if pack is not None:
            _Fusion(model, [node, pack], node.name).emit(
                f"SpikeTernaryNeuron_T{n_steps_of(node)}", list(node.inputs), [pack.outputs[0]],
                _width(node), **ir.attributes(node),
            )  # fmt: skip
            changes += 1
    for node in find(model, "AddNeuron"):
        q, v = _packed(node.inputs[0]), _packed(node.inputs[2])
        pack = ir.consumer(node.outputs[0])
        if q is not None and v is not None and pack is not None:
            _Fusion(model, [node, pack], node.name).emit(
                f"SpikeAddNeuron_T{n_steps_of(node)}", [q[0], node.inputs[1], v[0]],
                [pack.outputs[0]], _width(node), **ir.attributes(node),
            )  # fmt: skip
            changes += 1
    return changes


def _fuse_mean_neuron(model: ir.Model) -> int:
    """Fuse the neuron on the mean of the last residual."""
    changes = 0
    for mean in find(model, "StreamTokenMean"):
        add, neuron = producer(mean.inputs[0], "ReversibleAdd"), ir.consumer(mean.outputs[0])
        pack = None if neuron is None else ir.consumer(neuron.outputs[0])
        if add is None or ir.consumer(add.outputs[0]) is not mean or pack is None:
            continue
        if neuron is None or not is_op(neuron, "MembraneNeuron"):
            continue
        _Fusion(model, [add, mean, neuron, pack], neuron.name).emit(
            f"ResidualMeanNeuron_T{n_steps_of(neuron)}", list(add.inputs), [pack.outputs[0]],
            _width(neuron), **ir.attributes(neuron),
        )  # fmt: skip
        changes += 1
    return changes


def _fuse_products(model: ir.Model) -> int:
    """Fuse attention without a binariser."""
    changes = 0
    for product in find(model, "QueryKeyValues"):
        packed = [_packed(v) for v in product.inputs]
        shift = ir.consumer(product.outputs[0])
        neuron = None if shift is None else ir.consumer(shift.outputs[0])
        pack = None if neuron is None else ir.consumer(neuron.outputs[0])
        if None in packed or shift is None or neuron is None or pack is None:
            continue
        inputs, channels = zip(*(p for p in packed if p is not None), strict=True)
        attrs = {
            **ir.attributes(product), "channels": channels[0], **ir.attributes(shift),
            **ir.attributes(neuron),
        }  # fmt: skip
        _Fusion(model, [product, shift, neuron, pack], neuron.name).emit(
            f"SpikeProducts_T{n_steps_of(neuron)}", list(inputs), [pack.outputs[0]],
            _width(neuron), **attrs,
        )  # fmt: skip
        changes += 1
    return changes


def _fuse_level_neurons(model: ir.Model) -> int:
    """Fuse neurons of several levels, and the products of attention in front of one."""
    changes = 0
    for node in find(model, "LevelThresholds"):
        pack = ir.consumer(node.outputs[0])
        if pack is not None:
            _Fusion(model, [node, pack], node.name).emit(
                "StreamLevels", list(node.inputs), [pack.outputs[0]], _width(node),
                **ir.attributes(node),
            )  # fmt: skip
            changes += 1
    for node in find(model, "QueryKeyValues"):
        packed = [_packed(v) for v in node.inputs]
        inputs = [p[0] for p in packed if p is not None]
        if len(inputs) == len(packed):
            assert packed[0] is not None
            _Fusion(model, [node], node.name).emit(
                "LevelProducts", [*inputs], [node.outputs[0]], channels=packed[0][1],
                **ir.attributes(node),
            )  # fmt: skip
            changes += 1
    return changes


def _fuse_three_stages(model: ir.Model) -> int:
    """Fuse depthwise convolutions with their affine, and 1x1 convolutions of the stream."""
    changes = 0
    for node in find(model, "IntegerDepthwise"):
        x, w = _packed(node.inputs[0]), _packed(node.inputs[1])
        affine = ir.consumer(node.outputs[0])
        if w is None or affine is None or not is_op(affine, "StreamAffine"):
            continue
        attrs = {**ir.attributes(node), "in_channels": w[1]}
        del attrs["levels"]
        kind, source = ("Stream", node.inputs[0]) if x is None else ("Levels", x[0])
        _Fusion(model, [node, affine], node.name).emit(
            f"Depthwise{kind}Affine", [source, w[0], *affine.inputs[1:]], [affine.outputs[0]],
            **attrs,
        )  # fmt: skip
        changes += 1
    for node in find(model, "FixedPointwise"):
        w = _packed(node.inputs[1])
        if w is not None:
            _Fusion(model, [node], node.name).emit(
                "StreamPointwise", [node.inputs[0], w[0], *node.inputs[2:]], [node.outputs[0]],
                in_channels=w[1],
            )  # fmt: skip
            changes += 1
    return changes


def _fuse_levels(model: ir.Model) -> int:
    """Fuse the integer residual, and the read-out of its last sum."""
    changes = 0
    for add in find(model, "LevelAdd"):
        packed, pack = [_packed(v) for v in add.inputs], ir.consumer(add.outputs[0])
        if None in packed or pack is None:
            continue
        inputs = [p[0] for p in packed if p is not None]
        width = _width(add)
        _Fusion(model, [add, pack], add.name).emit(
            "SpikeLevelAdd", [*inputs], [pack.outputs[0]], width, channels=width,
            planes=ir.attribute(pack, "planes"),
        )  # fmt: skip
        changes += 1
    for node in find(model, "LevelReadOut"):
        levels = _packed(node.inputs[0])
        if levels is not None:
            _Fusion(model, [node], node.name).emit(
                "SpikeLevelReadOut", [levels[0], *node.inputs[1:]], [node.outputs[0]],
                in_channels=levels[1], **ir.attributes(node),
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
    for node in find(model, "CountReadOut"):
        spikes = _packed(node.inputs[0])
        if spikes is not None:
            _Fusion(model, [node], node.name).emit(
                "SpikeCountReadOut", [spikes[0], *node.inputs[1:]], [node.outputs[0]],
                in_channels=spikes[1],
            )  # fmt: skip
            changes += 1
    for node in find(model, "MeanReadOut"):
        add = producer(node.inputs[0], "ReversibleAdd")
        if add is not None and ir.consumer(add.outputs[0]) is node:
            inputs = [*add.inputs, *node.inputs[1:]]
            _Fusion(model, [add, node], node.name).emit(
                "ResidualReadOut", inputs, [node.outputs[0]], q=ir.attribute(node, "q")
            )
            changes += 1
    return changes


def apply(model: ir.Model) -> int:
    """Fuse everything; attention before the plain stream neuron, which would take its tail."""
    changes = _fuse_stem(model) + _fuse_stem_stream(model) + _fuse_pool(model)
    changes += _fuse_conv(model, "SignConv", "SpikeConv")
    changes += _fuse_conv(model, "IntegerConv", "WeightConv")
    changes += _fuse_counts(model, "Scores") + _fuse_counts(model, "KeyValues")
    changes += _fuse_mixed(model, "Values", 1) + _fuse_mixed(model, "QueryValues", 0)
    changes += _fuse_addition(model)
    changes += _fuse_gates(model) + _fuse_mean_neuron(model)
    changes += _fuse_products(model) + _fuse_levels(model)
    changes += _fuse_level_neurons(model) + _fuse_three_stages(model)
    changes += _fuse_stream(model) + _fuse_read_out(model)
    ir.drop_unused(model.graph)
    model.metadata_props["stage"] = "packed"
    return changes


PASS = Pass("fuse", "exact", apply)
