"""Every custom op for ONNX Runtime, on the inputs it has in a network and on wrong ones."""

from __future__ import annotations

import re

import family_nets
import numpy as np
import onnx
import pytest
import weighted_nets
from one_op import imported_net, nodes_of, packed_net, with_broken_bodies
from random_nets import Spec, images_of

from bestdeploy import ir, ops, runtime, toolchain
from bestdeploy import onnxruntime as ort_room
from bestdeploy.errors import ArtifactError, MissingToolError, UnsupportedModelError
from bestdeploy.ops import add_attention, arithmetic, neuron, ternary

ort = pytest.importorskip("onnxruntime")

BATCH = 3
SPECS = (
    Spec(seed=21, n_steps=4, dim=40, heads=5, size=12, depth=1, classes=3),
    Spec(seed=22, n_steps=3, dim=24, heads=2, size=16, channels=2, events=True, tau=1.5,
         layout="imagenet"),
    Spec(seed=23, n_steps=2, dim=70, heads=7, size=8, attention="kv", variant="paper",
         decay_input=False),
    Spec(seed=24, n_steps=5, dim=24, heads=3, size=8, attention="kv", tau=1.5),
)  # fmt: skip
WEIGHTED = (
    (weighted_nets.Weighted(seed=25, dim=40, heads=5), 4),
    (weighted_nets.Weighted("spikformer", seed=26, dim=72, heads=2, depth=2), 3),
)
FAMILIES = ("sdt_v1", "a2os2a_learned", "sdt_v2", "sdt_v2_events", "qsd")
NAMES = sorted(op.name for op in ops.PACKED_OPS)
STEMS = ("StemNeuron", "StemFrames", "StemStream", "StemStreamFrames")
ALL_BITS = (*STEMS, "SpikeOrPool", "SpikeKeyValueAny", "SpikeGate")
"""Ops that do not know channels: all bits of a byte are alike."""


@pytest.fixture(scope="module", autouse=True)
def library():
    try:
        return ort_room.register(ort.SessionOptions())
    except MissingToolError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """One node of every packed op, of the first network that has it."""
    path = tmp_path_factory.mktemp("nodes") / "net.pt"
    found = {}
    for spec in SPECS:
        found = {**nodes_of(packed_net(spec), images_of(spec, BATCH)), **found}
    for spec, bits in WEIGHTED:
        model = imported_net(weighted_nets.save(path, spec), {"weight_bits": bits})
        found = {**nodes_of(model, weighted_nets.frames_of(spec, BATCH)), **found}
    for name in FAMILIES:
        images = family_nets.save(path, name, n_images=BATCH)
        found = {**nodes_of(imported_net(path), images), **found}
    assert sorted(found) == NAMES
    return found


# ---- the table ----------------------------------------------------------------------------------

FLAGS = {
    "ORT_WINDOW": ("strides", "pads"),
    "ORT_POOL": ("kernel_shape", "strides", "pads"),
    "ORT_IN_CHANNELS": ("in_channels",),
    "ORT_HEADS": ("heads", "channels"),
    "ORT_FIRST": ("first",),
    "ORT_BITS": ("bits",),
    "ORT_NEURON": tuple(neuron.ATTRIBUTES),
    "ORT_Q": ("q",),
    "ORT_SHIFT": ("bits",),
    "ORT_LEVELS": ("channels", "planes"),
    "ORT_INVERT": ("invert",),
    "ORT_TERNARY": tuple(ternary.ATTRIBUTES),
    "ORT_ADD": tuple(add_attention.ATTRIBUTES),
    "ORT_THRESHOLDS": ("levels",),
    "ORT_FRAMES": (),
}
LIMITS = {"BST_MAX_T": ops.MAX_STEPS, "BST_MAX_CONV_NEURON_T": 8}
TYPES = {"U8": "uint8", "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64"}


def c_rows() -> dict[str, dict[str, str]]:
    """Return the rows of the table in ort/ops.c: name -> field -> text."""
    text = (toolchain.find_sources() / "ort" / "ops.c").read_text()
    table = text[text.index("const bst_ort_op bst_ort_ops[] = {") :]
    rows = re.findall(r"^    \{\n(.*?)^    \},$", table, re.MULTILINE | re.DOTALL)
    fields = [dict(re.findall(r"\.(\w+) = (.*?),\n(?=\s+\.|\Z)", row, re.DOTALL)) for row in rows]
    return {f["name"].strip('"'): f for f in fields}


def test_the_table_is_the_one_in_python(nodes):
    rows = c_rows()
    assert list(rows) == [op.name for op in ops.PACKED_OPS]
    for name, row in rows.items():
        op, one = ops.OPS[name], nodes[name]
        assert re.findall(r'"(\w+)"', row["inputs"]) == list(op.inputs), name
        flags = re.findall(r"\w+", row.get("attributes", ""))
        assert sorted(a for f in flags for a in FLAGS[f]) == sorted(op.attributes), name
        assert ("max_steps" in row) == op.unrolled, name
        assert not op.unrolled or LIMITS[row["max_steps"]] in (ops.MAX_STEPS, 8)
        ports = re.findall(r"\{(\w+), (\d)\}", row.get("constants", ""))
        constants = [a for p, a in one.arrays.items() if p not in one.feed]
        assert [(TYPES[t], int(n)) for t, n in ports] == [(a.dtype.name, a.ndim) for a in constants]


# ---- right inputs -------------------------------------------------------------------------------


def with_inputs(one, arrays):
    """Feed and expected outputs of a node for other data inputs."""
    feed = {p: arrays[p] for p in one.feed}
    return feed, one.run({**one.arrays, **arrays})


@pytest.mark.parametrize("name", NAMES)
def test_a_node_gives_the_integers_of_its_reference(nodes, name):
    one = nodes[name]
    session = one.session()
    one.check(session)
    axis = 0 if name in STEMS else 1
    for n in (1, 0):
        feed = {p: np.ascontiguousarray(a.take(range(n), axis)) for p, a in one.feed.items()}
        expected = one.run({**one.arrays, **feed})
        for got, wanted in zip(session.run(None, feed), expected, strict=True):
            np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("name", NAMES)
def test_the_kernel_runs_and_not_the_body(nodes, name):
    one = nodes[name]
    content = with_broken_bodies(one.model)
    one.check(one.session(content))
    with pytest.raises(AssertionError):
        one.check(one.session(content, custom_ops=False))


@pytest.mark.parametrize("name", NAMES)
def test_constants_that_are_inputs(nodes, name):
    """All of them, and the first one alone: laid out at every run, with the same result."""
    one = nodes[name]
    constants = [p for p in one.arrays if p not in one.feed]
    for held in {(), tuple(constants[1:])} if constants else ():
        other = one.with_constants(held)
        other.check(other.session())


@pytest.mark.parametrize("name", NAMES)
def test_threads_share_a_node(nodes, name):
    one = nodes[name]
    content = ir.to_bytes(one.model)
    for threads in (2, 5):
        one.check(ort_room.from_bytes(content, name, threads, custom_ops=True).session)


@pytest.mark.parametrize("name", NAMES)
def test_bits_beyond_the_channels_mean_nothing(nodes, name):
    """Set them in every plane of packed inputs; the kernels trust that they are 0."""
    one = nodes[name]
    rng = np.random.default_rng(0)
    session = one.session()
    for port, array in one.feed.items():
        if array.dtype != np.uint8 or name in ALL_BITS:
            continue
        width = one.channels(port)
        free = ~arithmetic.pack_bits(np.ones((*array.shape[:-1], width), np.uint8))
        assert free.any() or width % 64 == 0
        free = np.tile(free, array.shape[-1] // free.shape[-1])
        dirty = array | (free & rng.integers(0, 256, array.shape).astype(np.uint8))
        for n in (1, BATCH):
            feed = {p: np.ascontiguousarray(a[:, :n]) for p, a in one.feed.items()}
            feed[port] = np.ascontiguousarray(dirty[:, :n])
            expected = one.run({**one.arrays, **feed})
            for got, wanted in zip(session.run(None, feed), expected, strict=True):
                np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("name", NAMES)
def test_tensors_that_are_not_aligned(nodes, name):
    one = nodes[name]
    axis = 0 if name.startswith("Stem") else 1
    feed = {p: np.ascontiguousarray(a.take([1], axis)) for p, a in one.feed.items()}
    expected = one.run({**one.arrays, **feed})
    session = one.session()
    binding, kept = session.io_binding(), []

    def place(array):
        size = array.dtype.itemsize
        buffer = np.zeros(array.nbytes + 128, np.uint8)
        start = -buffer.ctypes.data % 64 + size  # off by one item
        kept.append(buffer)
        buffer[start : start + array.nbytes] = np.frombuffer(array.tobytes(), np.uint8)
        return buffer, start

    for port, array in feed.items():
        buffer, start = place(array)
        address = buffer.ctypes.data + start
        binding.bind_input(port, "cpu", 0, array.dtype, array.shape, address)
    outputs = []
    for port, array in zip(one.op.outputs, expected, strict=True):
        buffer, start = place(np.zeros_like(array))
        address = buffer.ctypes.data + start
        binding.bind_output(port, "cpu", 0, array.dtype, array.shape, address)
        outputs.append(buffer[start : start + array.nbytes])
    session.run_with_iobinding(binding)
    for got, wanted in zip(outputs, expected, strict=True):
        np.testing.assert_array_equal(got, np.frombuffer(wanted.tobytes(), np.uint8))


@pytest.mark.parametrize("isa", runtime.isa_names())
def test_every_instruction_set(nodes, isa, monkeypatch):
    monkeypatch.setenv("BESTDEPLOY_ISA", isa)
    for one in nodes.values():
        one.check(one.session())


def test_an_instruction_set_that_is_not_there(nodes, monkeypatch):
    monkeypatch.setenv("BESTDEPLOY_ISA", "sse9")
    with pytest.raises(UnsupportedModelError, match=r"BESTDEPLOY_ISA=sse9: .*usable: "):
        nodes["SpikeOrPool"].session()


# ---- wrong inputs -------------------------------------------------------------------------------


def smaller(array, axis, size):
    return np.ascontiguousarray(array.take(range(size), axis))


def run_or_none(one, session, feed):
    """Outputs, or None where ONNX Runtime refuses: with our words, or its own on shapes."""
    try:
        return session.run(None, feed)
    except Exception as error:
        assert re.search(rf"{one.op_type}: |INVALID_ARGUMENT|EPFail", str(error)), error
        return None


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_size_is_refused_or_right(nodes, name):
    """Cut every axis of every input, data and constants, by one and to nothing.

    What is still a node of its kind must give what the reference gives.
    """
    one = nodes[name].with_constants(())
    session = one.session()
    n_refused = 0
    for port, array in one.arrays.items():
        for axis in range(array.ndim):
            for size in {0, array.shape[axis] - 1}:
                changed = {**one.arrays, port: smaller(array, axis, size)}
                found = run_or_none(one, session, changed)
                n_refused += found is None
                if found is None:
                    continue
                for got, wanted in zip(found, one.run(changed), strict=True):
                    np.testing.assert_array_equal(got, wanted, err_msg=f"{port} {axis} {size}")
    assert n_refused > 0


@pytest.mark.parametrize(
    "name, attribute, value, message",
    (
        ("SpikeConvNeuron", "pads", [1, 0, 1, 0], "pads must be the same on every side"),
        ("SpikeConvNeuron", "strides", [17, 17], r"strides = 17, must be in 1\.\.16"),
        ("SpikeConvNeuron", "in_channels", 0, "in_channels = 0"),
        ("SpikeOrPool", "kernel_shape", [2, 3], "kernel_shape must be the same"),
        ("SpikeOrPool", "kernel_shape", [3], "kernel_shape has 1 values, expected 2"),
        ("SpikeScores", "heads", 0, "heads = 0"),
        ("SpikeScores", "heads", 7, "heads = 7, must be in 1..256 and a divisor"),
        ("SpikeScores", "first", 0, "first = 0"),
        ("SpikeScoresStream", "bits", 31, "bits = 31"),
        ("SpikeScoresStream", "bits", 30, "largest count = 12, must be below"),
        ("ResidualNeuron", "rate", 5, "rounding = 0 with rate = 5"),
        ("ResidualNeuron", "v_threshold", 1 << 31, "v_threshold = 2147483648"),
        ("SpikeReadOut", "q", 63, "q = 63"),
        ("WeightConvNeuron", "pads", [15] * 4, r"pads = 15, must be in 0\.\.14"),
        ("WeightConvAffine", "in_channels", 4096, "expected planes of 512"),
        ("SpikeProducts", "bits", 31, "bits = 31"),
        ("SpikeProducts", "bits", 30, "shift = 30, must be in"),
        ("SpikeProducts", "heads", 7, "heads = 7, must be in 1..256 and a divisor"),
        ("SpikeLevelAdd", "planes", 9, r"planes = 9, must be in 1\.\.8"),
        ("SpikeLevelReadOut", "q", -1, "q = -1"),
        ("SpikeGate", "invert", 2, "invert = 2"),
        ("SpikeTernaryNeuron", "v_threshold", 0, "v_threshold = 0"),
        ("SpikeTernaryNeuron", "rate", (1 << 30) + 1, "rate = 1073741825"),
        ("SpikeAddNeuron", "k_shift", 31, "k_shift = 31"),
        ("StreamMaxPool", "kernel_shape", [2, 3], "kernel_shape must be the same"),
    ),
)
def test_an_attribute_that_is_refused(nodes, name, attribute, value, message):
    one = nodes[name]
    proto = ir.to_proto(one.model)
    attributes = proto.graph.node[0].attribute
    for found in [a for a in attributes if a.name == attribute]:
        attributes.remove(found)
    attributes.append(onnx.helper.make_attribute(attribute, value))
    with pytest.raises(ArtifactError, match=message):
        one.session(proto.SerializeToString())


@pytest.mark.parametrize(
    "name, port, index, value, message",
    (
        ("StemNeuron", "row_class", 0, 256, "`row_class` holds 256, must be in 0..255"),
        ("StemNeuron", "col_class", 1, 9, "border class = 9, must be below"),
        ("StemNeuron", "shift", 0, -1, "`shift` holds -1"),
        ("StemNeuron", "shift", 0, 25, r"shift = 25, must be in 0\.\.24"),
        ("StemNeuron", "bias", (0, 0, 0), 1 << 61, "a bias = "),
        ("StemNeuron", "first", -1, 2**31 - 1, "first = 2147483647, must be at most"),
        ("SpikeConvAffine", "fraction", 0, 16385, r"Af = 16385"),
        ("SpikeReadOut", "fraction", 0, -16385, r"Af = -16385"),
        ("WeightConvAffine", "fraction", 0, 16385, r"Af = 16385"),
    ),
)
def test_a_constant_that_is_refused(nodes, name, port, index, value, message):
    """When the session is made, before anything runs."""
    one = nodes[name]
    proto = ir.to_proto(one.model)
    wrong = one.arrays[port].copy()
    wrong[index] = value
    for t in proto.graph.initializer:
        if t.name == port:
            t.CopyFrom(onnx.numpy_helper.from_array(wrong, port))
    with pytest.raises(ArtifactError, match=message):
        one.session(proto.SerializeToString())


def test_a_shift_that_no_bias_has(nodes):
    one = nodes["SpikeReadOut"].with_constants(())
    wrong = one.arrays["shift"].copy()
    wrong[0] += 1
    with pytest.raises(Exception, match=r"SpikeReadOut: shift = -?\d+, must be \d+ times an int32"):
        one.session().run(None, {**one.feed, "shift": wrong})


def test_the_number_of_threads_is_checked():
    options = ort.SessionOptions()
    options.add_session_config_entry("bestdeploy.threads", "300")
    with pytest.raises(Exception, match=r"bestdeploy.threads must be in 1\.\.256"):
        options.register_custom_ops_library(str(toolchain.ort_library()))
