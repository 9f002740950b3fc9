"""The single bridge from a packed graph to a Program: order, buffers, constants, arena.

Nothing flows back. Each packed op becomes one step; tables are brought into the compact form of
the `.bstm` where that gives the same integers (see `compact`), and kept as explicit tables where it
does not.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from bestdeploy import ir, stages
from bestdeploy.compact import gain_form, threshold_forms
from bestdeploy.errors import ArtifactError, GraphError
from bestdeploy.ops.arithmetic import unpack_signs, unpack_weights
from bestdeploy.ops.neuron import RATE_BITS
from bestdeploy.ops.packing import packed_bytes
from bestdeploy.ops.sign_conv import count_bounds
from bestdeploy.ops.stem_conv import from_limbs
from bestdeploy.program import (
    NEURON_DECAY_INPUT,
    NEURON_HALVING,
    NEURON_SOFT_RESET,
    Buffer,
    BufferKind,
    Constant,
    ConstantType,
    Golden,
    Op,
    Program,
    Step,
    align,
    handed_on,
    level_channels,
    validate,
)

ARENA_ALIGN = 64
MAX_FRAC_BITS, MAX_LOGIT_SHIFT, MAX_CHANNELS = 30, 62, 65536


# -- steps ---------------------------------------------------------------------------------------


def _number(metadata: Mapping[str, str], key: str, highest: int, where: str = "metadata") -> int:
    """Return a whole number of a model's or node's metadata."""
    text = metadata.get(key)
    if text is None or not text.isdecimal() or len(text) > 9 or int(text) > highest:
        raise ArtifactError(
            f"the model's metadata says {key}={text!r}, expected a number in 0..{highest}",
            where=where,
            hint="give the model.onnx that `bestdeploy export` wrote",
        )
    return int(text)


class _Lowering:
    """Collects constants and steps while walking the graph."""

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self.bits = _number(model.metadata_props, "frac_bits", MAX_FRAC_BITS)
        rows = [stages.op_of(node) for node in model.graph]
        self.n_steps = next((r[1] for r in rows if r is not None and r[0].unrolled), 0)
        if not self.n_steps:
            raise GraphError("the graph has no op with time steps")
        self.constants: list[Constant] = []
        self.buffers: list[Buffer] = []
        self.steps: list[Step] = []
        self.number: dict[ir.Value, int] = {}
        self.channels: dict[ir.Value, int] = {}
        self._shared: dict[tuple[int, int, tuple[int, ...], bytes], int] = {}

    def constant(self, constant: Constant) -> int:
        """Number a constant; equal ones share a number."""
        key = (int(constant.type), len(constant.dims), constant.dims, constant.data.tobytes())
        if key not in self._shared:
            self._shared[key] = len(self.constants)
            self.constants.append(constant)
        return self._shared[key]

    def add(self, value: ir.Value, kind: BufferKind, shape: Iterable[int]) -> int:
        """Number a buffer [t, h, w, c]."""
        t, h, w, c = shape
        self.number[value] = len(self.buffers)
        self.buffers.append(Buffer(kind, t, h, w, c))
        return self.number[value]

    def shape(self, value: ir.Value) -> tuple[int, ...]:
        """Shape of a [T, B, H, W, C] value without B, packed rows with their true channels."""
        t, h, w, c = (ir.size(value, axis) for axis in (0, 2, 3, 4))
        return t, h, w, self.channels.get(value, c)

    def spikes(self, node: ir.Node, index: int = -1) -> int:
        """Number a spike output, with the channel count of its source."""
        value = node.outputs[index]
        if "channels" in node.metadata_props:
            self.channels[value] = _number(
                node.metadata_props, "channels", MAX_CHANNELS, str(node.name)
            )
        elif node.inputs[0] is not None:
            self.channels[value] = self.channels[node.inputs[0]]
        return self.add(value, BufferKind.SPIKES, self.shape(value))

    def stream(self, value: ir.Value) -> int:
        """Number a stream output."""
        return self.add(value, BufferKind.STREAM, self.shape(value))

    def emit(
        self,
        op: Op,
        node: ir.Node,
        n_inputs: int,
        outputs: tuple[int, ...],
        constants: Iterable[Constant | None] = (),
        params: tuple[int, ...] = (),
    ) -> None:
        """Append a step whose first `n_inputs` inputs are buffers."""
        inputs = tuple(self.number[v] for v in node.inputs[:n_inputs] if v is not None)
        numbers = tuple(None if c is None else self.constant(c) for c in constants)
        name = str(node.name).replace("/", ".")
        self.steps.append(Step(op, name, inputs, outputs, numbers, params))


def _neuron_params(attrs: dict[str, Any]) -> tuple[int, int, int, int]:
    halving = attrs["rounding"] == 0
    if halving and attrs["rate"] != 2 ** (RATE_BITS - 1):
        raise GraphError(f"a neuron without rounding has rate {attrs['rate']}, expected 2^29")
    flags = (
        NEURON_DECAY_INPUT * attrs["decay_input"]
        | NEURON_SOFT_RESET * attrs["soft_reset"]
        | NEURON_HALVING * halving
    )
    return flags, attrs["v_threshold"], attrs["v_reset"], 0 if halving else attrs["rate"]


def _window(node: ir.Node) -> tuple[int, int]:
    strides, pads = set(ir.attribute(node, "strides")), set(ir.attribute(node, "pads"))
    if len(strides) != 1 or len(pads) != 1:
        raise GraphError("stride and padding must be the same on every side", where=str(node.name))
    return strides.pop(), pads.pop()


def _i32(values: np.ndarray) -> Constant:
    return Constant.of(values, ConstantType.I32)


def _i64(values: np.ndarray) -> Constant:
    return Constant.of(values, ConstantType.I64)


def _u8(values: np.ndarray) -> Constant:
    return Constant.of(values, ConstantType.U8)


def _affine_constants(arrays: list[np.ndarray]) -> list[Constant]:
    return [_i32(arrays[0]), Constant.of(arrays[1], ConstantType.I16)]


def _weight(node: ir.Node, index: int) -> np.ndarray:
    return unpack_signs(ir.array_of(node.inputs[index]), ir.attribute(node, "in_channels"))


def _stem_constants(node: ir.Node) -> tuple[list[Constant | None], int]:
    """Return weight, bias, shift and border classes, and the number of column classes."""
    limbs, bias, rows, cols, shift = (ir.array_of(v) for v in node.inputs[1:6])
    constants: list[Constant | None] = [
        _i32(from_limbs(limbs)),
        _i64(bias.reshape(-1, bias.shape[-1])),
        _u8(shift),
        _u8(rows),
        _u8(cols),
    ]
    return constants, bias.shape[1]


def _stem(lo: _Lowering, node: ir.Node) -> None:
    constants, n_col_classes = _stem_constants(node)
    constants.append(_i32(ir.array_of(node.inputs[6])))
    params = (*_window(node), n_col_classes)
    lo.emit(Op.STEM_NEURON, node, 1, (lo.spikes(node),), constants, params)


def _stem_frames(lo: _Lowering, node: ir.Node) -> None:
    constants, n_col_classes = _stem_constants(node)
    params = (*_window(node), n_col_classes, 0, *_neuron_params(ir.attributes(node)))
    lo.emit(Op.STEM_NEURON, node, 1, (lo.spikes(node),), constants, params)


def _stem_stream(lo: _Lowering, node: ir.Node) -> None:
    constants, n_col_classes = _stem_constants(node)
    params = (*_window(node), n_col_classes)
    lo.emit(Op.STEM_STREAM, node, 1, (lo.stream(node.outputs[0]),), constants, params)


def _pool(lo: _Lowering, node: ir.Node) -> None:
    kernel = set(ir.attribute(node, "kernel_shape"))
    if len(kernel) != 1:
        raise GraphError("a pooling window must be square", where=str(node.name))
    stride, pad = _window(node)
    lo.emit(Op.OR_POOL, node, 1, (lo.spikes(node),), (), (kernel.pop(), stride, pad))


def _conv_neuron(lo: _Lowering, node: ir.Node) -> None:
    signs, theta = _weight(node, 1), ir.array_of(node.inputs[2])
    u, w, explicit = threshold_forms(theta, *count_bounds(signs), lo.n_steps)
    constants: list[Constant | None] = [Constant.of_signs(signs), _i32(u), _i32(w)]
    if len(explicit):
        constants += [_i32(explicit), _i32(theta[:, explicit].T)]
    lo.emit(Op.CONV_NEURON, node, 1, (lo.spikes(node),), constants, _window(node))


def _conv_affine(lo: _Lowering, node: ir.Node) -> None:
    arrays = [ir.array_of(v) for v in node.inputs[2:]]
    constants = [
        Constant.of_signs(_weight(node, 1)),
        *_affine_constants(arrays),
        _i32(arrays[2]),
    ]
    lo.emit(Op.CONV_AFFINE, node, 1, (lo.stream(node.outputs[0]),), constants, _window(node))


def _integers(node: ir.Node) -> np.ndarray:
    return unpack_weights(ir.array_of(node.inputs[1]), ir.attribute(node, "in_channels"))


def _kernel(node: ir.Node, w: np.ndarray) -> tuple[int, ...]:
    return (*_window(node), w.shape[1], w.shape[2])


def _planes(value: ir.Value | None, channels: int) -> int:
    """Return how many planes a packed value of `channels` channels has."""
    return ir.size(value, -1) // packed_bytes(channels)


def _weight_conv_neuron(lo: _Lowering, node: ir.Node) -> None:
    w, theta = _integers(node), ir.array_of(node.inputs[2])
    most = 2 ** _planes(node.inputs[0], ir.attribute(node, "in_channels")) - 1
    levels = _number(node.metadata_props, "levels", most, str(node.name))
    rows = w.reshape(len(w), -1).astype(np.int64) * levels
    bounds = np.minimum(rows, 0).sum(axis=1), np.maximum(rows, 0).sum(axis=1)
    u, v, explicit = threshold_forms(theta, *bounds, lo.n_steps)
    constants: list[Constant | None] = [Constant.of_weights(w), _i32(u), _i32(v)]
    if len(explicit):
        constants += [_i32(explicit), _i32(theta[:, explicit].T)]
    lo.emit(Op.WEIGHT_CONV_NEURON, node, 1, (lo.spikes(node),), constants, _kernel(node, w))


def _weight_conv_affine(lo: _Lowering, node: ir.Node) -> None:
    w, arrays = _integers(node), [ir.array_of(v) for v in node.inputs[2:]]
    constants = [Constant.of_weights(w), *_affine_constants(arrays), _i32(arrays[2])]
    out = (lo.stream(node.outputs[0]),)
    lo.emit(Op.WEIGHT_CONV_AFFINE, node, 1, out, constants, _kernel(node, w))


def _products(lo: _Lowering, node: ir.Node) -> None:
    attrs = ir.attributes(node)
    params = (attrs["heads"], attrs["bits"], 0, 0, *_neuron_params(attrs))
    lo.emit(Op.PRODUCT_NEURON, node, 3, (lo.spikes(node),), (), params)


def _level_add(lo: _Lowering, node: ir.Node) -> None:
    value, channels = node.outputs[0], ir.attribute(node, "channels")
    lo.channels[value] = level_channels(channels, ir.attribute(node, "planes"))
    out = lo.add(value, BufferKind.SPIKES, lo.shape(value))
    lo.emit(Op.LEVEL_ADD, node, 2, (out,), (), (channels,))


def _level_read_out(lo: _Lowering, node: ir.Node) -> None:
    attrs = ir.attributes(node)
    if attrs["bits"] != lo.bits:
        raise GraphError("levels are shifted by another F", where=str(node.name))
    v, constant = (ir.array_of(x) for x in node.inputs[1:])
    raw = lo.add(node.outputs[0], BufferKind.RAW, (1, 1, 1, len(constant)))
    params = (attrs["q"], attrs["in_channels"])
    lo.emit(Op.LEVEL_READOUT, node, 1, (raw,), [_i32(v), _i64(constant)], params)


def _stream_neuron(lo: _Lowering, node: ir.Node) -> None:
    params = (0, 0, 0, 0, *_neuron_params(ir.attributes(node)))
    lo.emit(Op.STREAM_NEURON, node, 1, (lo.spikes(node),), (), params)


def _residual_neuron(lo: _Lowering, node: ir.Node) -> None:
    params = (0, 0, 0, 0, *_neuron_params(ir.attributes(node)))
    outputs = (lo.stream(node.outputs[0]), lo.spikes(node))
    lo.emit(Op.RESIDUAL_NEURON, node, 3, outputs, (), params)


def _counted(op: Op) -> Callable[[_Lowering, ir.Node], None]:
    """First product of attention with the neuron on integer counts (form 0)."""

    def add(lo: _Lowering, node: ir.Node) -> None:
        params = (ir.attribute(node, "heads"), 0, ir.attribute(node, "first"))
        lo.emit(op, node, 2, (lo.spikes(node),), (), params)

    return add


def _counted_stream(op: Op) -> Callable[[_Lowering, ir.Node], None]:
    """First product of attention with a stream neuron (form 1)."""

    def add(lo: _Lowering, node: ir.Node) -> None:
        if ir.attribute(node, "bits") != lo.bits:
            raise GraphError("attention counts are shifted by another F", where=str(node.name))
        params = (ir.attribute(node, "heads"), 1, 0, 0, *_neuron_params(ir.attributes(node)))
        lo.emit(op, node, 2, (lo.spikes(node),), (), params)

    return add


def _mixed(op: Op) -> Callable[[_Lowering, ir.Node], None]:
    """Second product of attention, with the table of scale and lambda."""

    def add(lo: _Lowering, node: ir.Node) -> None:
        table = ir.array_of(node.inputs[2])
        compact = gain_form(node, table, lo.bits)
        constants: list[Constant | None]
        if compact is None:
            constants, form = [None, None, _i32(table)], 1
        else:
            constants, form = [_i64(compact[0]), _i32(compact[1])], 0
        params = (ir.attribute(node, "heads"), form, 0, 0, *_neuron_params(ir.attributes(node)))
        lo.emit(op, node, 2, (lo.spikes(node),), constants, params)

    return add


def _per_position(lo: _Lowering, node: ir.Node, shift: np.ndarray) -> np.ndarray:
    """Return B of the shift T N B that the graph holds."""
    assert node.inputs[0] is not None
    t, h, w, _ = lo.shape(node.inputs[0])
    if (shift % (t * h * w)).any():
        raise GraphError("the shift is not a multiple of T N", where=str(node.name))
    return shift // (t * h * w)


def _read_out(lo: _Lowering, node: ir.Node) -> None:
    arrays = [ir.array_of(v) for v in node.inputs[4:]]
    constants = [
        Constant.of_signs(_weight(node, 3)),
        *_affine_constants(arrays),
        _i32(_per_position(lo, node, arrays[2])),
        _i32(arrays[3]) if arrays[3].any() else None,  # one head: it reads the last layer alone
        _i32(arrays[4]),
        _i64(arrays[5]),
    ]
    raw = lo.add(node.outputs[0], BufferKind.RAW, (1, 1, 1, len(arrays[5])))
    lo.emit(Op.READOUT, node, 3, (raw,), constants, (ir.attribute(node, "q"),))


def _residual_read_out(lo: _Lowering, node: ir.Node) -> None:
    v, constant = (ir.array_of(x) for x in node.inputs[3:])
    raw = lo.add(node.outputs[0], BufferKind.RAW, (1, 1, 1, len(constant)))
    params = (ir.attribute(node, "q"),)
    lo.emit(Op.RESIDUAL_READOUT, node, 3, (raw,), [_i32(v), _i64(constant)], params)


def _same_cells(op: Op) -> Callable[[_Lowering, ir.Node], None]:
    """Spikes combined with spikes."""

    def add(lo: _Lowering, node: ir.Node) -> None:
        params = (ir.attribute(node, "invert"),) if op == Op.GATE else ()
        lo.emit(op, node, 2, (lo.spikes(node),), (), params)

    return add


def _ternary_neuron(lo: _Lowering, node: ir.Node) -> None:
    a = ir.attributes(node)
    assert node.inputs[0] is not None
    t, h, w, c = lo.shape(node.inputs[0])
    planes = (t, h, w, level_channels(c, 2))
    out = lo.add(node.outputs[0], BufferKind.SPIKES, planes)
    flags = NEURON_DECAY_INPUT * a["decay_input"]
    params = (0, 0, 0, 0, flags, a["v_threshold"], 0, a["rate"])
    lo.emit(Op.TERNARY_NEURON, node, 1, (out,), (), params)


def _add_neuron(lo: _Lowering, node: ir.Node) -> None:
    a = ir.attributes(node)
    flags = NEURON_DECAY_INPUT * a["decay_input"] | NEURON_HALVING
    params = (a["heads"], a["k_shift"], 0, 0, flags, a["v_threshold"], 0, 0)
    lo.emit(Op.ADD_NEURON, node, 3, (lo.spikes(node),), (), params)


def _max_pool(lo: _Lowering, node: ir.Node) -> None:
    kernel = set(ir.attribute(node, "kernel_shape"))
    if len(kernel) != 1:
        raise GraphError("a pooling window must be square", where=str(node.name))
    stride, pad = _window(node)
    out = lo.stream(node.outputs[0])
    lo.emit(Op.MAX_POOL, node, 1, (out,), (), (kernel.pop(), stride, pad))


def _mean_neuron(lo: _Lowering, node: ir.Node) -> None:
    params = (0, 0, 0, 0, *_neuron_params(ir.attributes(node)))
    lo.emit(Op.MEAN_NEURON, node, 3, (lo.spikes(node),), (), params)


def _count_read_out(lo: _Lowering, node: ir.Node) -> None:
    v, constant = (ir.array_of(x) for x in node.inputs[1:])
    raw = lo.add(node.outputs[0], BufferKind.RAW, (1, 1, 1, len(constant)))
    lo.emit(Op.COUNT_READOUT, node, 1, (raw,), [_i32(v), _i64(constant)])


def _plain(op: Op, n_inputs: int) -> Callable[[_Lowering, ir.Node], None]:
    """Streams into a stream, without constants."""

    def add(lo: _Lowering, node: ir.Node) -> None:
        lo.emit(op, node, n_inputs, (lo.stream(node.outputs[0]),))

    return add


def _stream_levels(lo: _Lowering, node: ir.Node) -> None:
    value = node.outputs[0]
    theta, falling = (ir.array_of(v) for v in node.inputs[1:])
    assert node.inputs[0] is not None
    t, h, w, c = lo.shape(node.inputs[0])
    planes = (t, h, w, level_channels(c, ir.attribute(node, "levels").bit_length()))
    out = lo.add(value, BufferKind.SPIKES, planes)
    constants = [_i32(theta), _u8(falling) if falling.any() else None]
    lo.emit(Op.STREAM_LEVELS, node, 1, (out,), constants)


def _depthwise(op: Op) -> Callable[[_Lowering, ir.Node], None]:
    """A depthwise convolution into the stream."""

    def add(lo: _Lowering, node: ir.Node) -> None:
        w, arrays = _integers(node), [ir.array_of(v) for v in node.inputs[2:]]
        constants = [Constant.of_weights(w), *_affine_constants(arrays), _i32(arrays[2])]
        lo.emit(op, node, 1, (lo.stream(node.outputs[0]),), constants, _kernel(node, w))

    return add


def _stream_conv(lo: _Lowering, node: ir.Node) -> None:
    gain, shift, offset = (ir.array_of(v) for v in node.inputs[2:])
    constants = [Constant.of_weights(_integers(node)), _i32(gain), _u8(shift), _i32(offset)]
    lo.emit(Op.STREAM_CONV, node, 1, (lo.stream(node.outputs[0]),), constants)


def _level_products(lo: _Lowering, node: ir.Node) -> None:
    params = (ir.attribute(node, "heads"), ir.attribute(node, "channels"))
    lo.emit(Op.LEVEL_PRODUCTS, node, 3, (lo.stream(node.outputs[0]),), (), params)


_STEPS: dict[str, Callable[[_Lowering, ir.Node], None]] = {
    "StemNeuron": _stem,
    "StemStream": _stem_stream,
    "StemStreamFrames": _stem_stream,
    "StemFrames": _stem_frames,
    "SpikeOrPool": _pool,
    "SpikeConvNeuron": _conv_neuron,
    "SpikeConvAffine": _conv_affine,
    "StreamNeuron": _stream_neuron,
    "ResidualNeuron": _residual_neuron,
    "SpikeScores": _counted(Op.SCORE_NEURON),
    "SpikeScoresStream": _counted_stream(Op.SCORE_NEURON),
    "SpikeValues": _mixed(Op.VALUE_NEURON),
    "SpikeKeyValues": _counted(Op.KEY_VALUE_NEURON),
    "SpikeKeyValuesStream": _counted_stream(Op.KEY_VALUE_NEURON),
    "SpikeQueryValues": _mixed(Op.QUERY_VALUE_NEURON),
    "SpikeReadOut": _read_out,
    "ResidualReadOut": _residual_read_out,
    "SpikeKeyValueAny": _same_cells(Op.KEY_VALUE_ANY),
    "SpikeGate": _same_cells(Op.GATE),
    "SpikeTernaryNeuron": _ternary_neuron,
    "SpikeAddNeuron": _add_neuron,
    "StreamMaxPool": _max_pool,
    "ResidualMeanNeuron": _mean_neuron,
    "SpikeCountReadOut": _count_read_out,
    "WeightConvNeuron": _weight_conv_neuron,
    "WeightConvAffine": _weight_conv_affine,
    "SpikeProducts": _products,
    "SpikeLevelAdd": _level_add,
    "SpikeLevelReadOut": _level_read_out,
    "ReversibleAdd": _plain(Op.STREAM_ADD, 3),
    "StreamTokenMean": _plain(Op.STREAM_MEAN, 1),
    "StreamLevels": _stream_levels,
    "DepthwiseLevelsAffine": _depthwise(Op.DEPTHWISE_LEVELS),
    "DepthwiseStreamAffine": _depthwise(Op.DEPTHWISE_STREAM),
    "StreamPointwise": _stream_conv,
    "LevelProducts": _level_products,
}


# -- arena ---------------------------------------------------------------------------------------


def plan_arena(buffers: list[Buffer], steps: list[Step]) -> tuple[list[Buffer], int]:
    """Give every buffer an offset so that buffers alive together do not overlap.

    Large buffers first, each at the lowest offset that is free over its whole life. The stream x2
    of a residual neuron takes the place of y (`handed_on`): one stream less at the widest point.

    Returns:
        The placed buffers and the arena's size in bytes.
    """
    born = [-1] * len(buffers)
    dies = [0] * len(buffers)
    for at, step in enumerate(steps):
        for i in step.outputs:
            born[i], dies[i] = at, max(dies[i], at)
        for i in step.inputs:
            dies[i] = at
    handed = handed_on(steps)
    for x2, y in handed.items():
        dies[y] = dies[x2]
    placed: list[tuple[int, int]] = []  # (buffer, offset)
    offsets = [0] * len(buffers)
    own = [i for i in range(len(buffers)) if i not in handed]
    for i in sorted(own, key=lambda i: (-buffers[i].n_bytes, i)):
        size = align(buffers[i].n_bytes, ARENA_ALIGN)
        busy = sorted(
            (offset, offset + align(buffers[j].n_bytes, ARENA_ALIGN))
            for j, offset in placed
            if born[i] <= dies[j] and born[j] <= dies[i]
        )
        offset = 0
        for start, end in busy:
            if offset + size <= start:
                break
            offset = max(offset, end)
        offsets[i] = offset
        placed.append((i, offset))
    for x2, y in handed.items():
        offsets[x2] = offsets[y]
    out = [
        Buffer(b.kind, b.t, b.h, b.w, b.c, offset)
        for b, offset in zip(buffers, offsets, strict=True)
    ]
    total = max(b.offset + align(b.n_bytes, ARENA_ALIGN) for b in out)
    return out, total


_JSON_META = ("class_names", "config", "preprocessing", "pruned", "settings_from")
_GRAPH_META = ("stage", "golden", "passes")  # of use beside the graph only


def _meta(model: ir.Model) -> dict[str, Any]:
    """Return the metadata for people and tools; values that are JSON are taken apart."""
    kept = {k: v for k, v in model.metadata_props.items() if k not in _GRAPH_META}
    try:
        return {k: json.loads(v) if k in _JSON_META else v for k, v in kept.items()}
    except ValueError as e:
        raise ArtifactError(
            f"the model's metadata is damaged: {e}", where="metadata", hint="export the model again"
        ) from e


def stored_golden(model: ir.Model) -> tuple[Golden, ...]:
    """Read the golden vectors that the export wrote into the metadata, if any."""
    text = model.metadata_props.get("golden")
    if not text:
        return ()
    try:
        stored = json.loads(text)
        content = zlib.decompress(base64.b64decode(stored["frames"], validate=True))
        frames = np.frombuffer(content, np.uint8).reshape(stored["shape"])
        if frames.ndim == 5 and frames.shape[1] == 1:  # event frames of one step are images
            frames = frames[:, 0]
        raw = np.array(stored["raw"], np.int64)
        return tuple(Golden(f, r) for f, r in zip(frames, raw, strict=True))
    except (ValueError, KeyError, TypeError, OverflowError, zlib.error) as e:
        raise ArtifactError(
            "the golden vectors in the metadata are damaged",
            where="golden",
            hint="export the model again",
        ) from e


def lower(model: ir.Model, golden: Iterable[Golden] = ()) -> Program:
    """Turn a packed graph into a Program.

    Args:
        model: a graph of stage "packed".
        golden: frames and exact raw logits to carry along; those of the export's metadata when
            empty.

    Raises:
        GraphError: the graph is not packed, or holds what the runtime has no step for.
        ArtifactError: its metadata is damaged, or the program breaks a rule of the format.
    """
    stage = stages.stage_of(model)
    if stage != "packed":
        raise GraphError(
            f"the graph is of stage `{stage}`, only a packed graph is lowered",
            hint="give the model.onnx that `bestdeploy export` wrote",
        )
    stages.verify(model, "packed")
    stages.infer_types(model)
    lo = _Lowering(model)
    *steps, height, width, channels = stages.input_shape(model)
    lo.add(model.graph.inputs[0], BufferKind.IMAGE, (*(steps or [1]), height, width, channels))
    for node in model.graph:
        found = stages.op_of(node)
        if found is not None:
            _STEPS[found[0].name](lo, node)
    buffers, arena_bytes = plan_arena(lo.buffers, lo.steps)
    meta = _meta(model)
    program = Program(
        input_height=height,
        input_width=width,
        input_channels=channels,
        n_classes=buffers[-1].c,
        n_steps=lo.n_steps,
        frac_bits=lo.bits,
        logit_shift=_number(model.metadata_props, "logit_shift", MAX_LOGIT_SHIFT),
        arena_bytes=arena_bytes,
        buffers=tuple(buffers),
        steps=tuple(lo.steps),
        constants=tuple(lo.constants),
        meta=json.dumps(meta, sort_keys=True, ensure_ascii=False),
        golden=tuple(golden) or stored_golden(model),
    )
    validate(program)
    return program
