"""The custom-op library in ONNX Runtime: the integers of the function bodies and the references."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from one_op import OneOp, packed_net, with_broken_bodies
from random_nets import Spec, images_of

from bestdeploy import ir, stages, toolchain
from bestdeploy import onnxruntime as ort_room
from bestdeploy.emit import onnx as emit_onnx
from bestdeploy.errors import ArtifactError, MissingToolError
from bestdeploy.ops import arithmetic, neuron, threshold_neuron

ort = pytest.importorskip("onnxruntime")

CHANNELS = (1, 7, 63, 64, 65, 130)
F = 20


@pytest.fixture(scope="module", autouse=True)
def library() -> Path:
    try:
        return ort_room.register(ort.SessionOptions())
    except MissingToolError as error:
        pytest.skip(str(error))


# ---- whole networks -----------------------------------------------------------------------------

NETS = {
    "T1": Spec(seed=1, n_steps=1, dim=21, heads=3, size=8, depth=1, mlp_ratio=3),
    "T2": Spec(seed=2, n_steps=2, dim=66, heads=3, size=8, depth=2, mlp_ratio=2),
    "T4": Spec(seed=3, n_steps=4, dim=40, heads=5, size=12, depth=1, classes=3),
    "T4-tau1.5": Spec(seed=4, n_steps=4, dim=20, heads=4, size=8, tau=1.5),
    "T2-no-decay": Spec(seed=5, n_steps=2, dim=20, heads=2, size=8, decay_input=False),
    "T10": Spec(seed=6, n_steps=10, dim=24, heads=2, size=8),
    "kv": Spec(seed=7, dim=40, heads=5, size=32, attention="kv", layout="imagenet"),
    "kv-tau1.5": Spec(seed=8, n_steps=5, dim=24, heads=3, size=8, attention="kv", tau=1.5),
    "paper": Spec(seed=9, n_steps=2, dim=32, heads=4, size=8, variant="paper", depth=2,
                  decay_input=False),
    "events": Spec(seed=10, n_steps=3, dim=24, heads=2, size=16, channels=2, events=True,
                   layout="imagenet"),
}  # fmt: skip


def op_types(content: bytes) -> list[str]:
    return [n.op_type for n in onnx.load_model_from_string(content).graph.node]


@pytest.mark.parametrize("name", NETS)
def test_a_network_gives_the_same_logits_with_and_without_the_library(name):
    spec = NETS[name]
    model = packed_net(spec)
    content = emit_onnx.function_model(model)
    found = {t.rpartition("_T")[0] for t in op_types(content)}
    assert "ResidualNeuron" in found
    assert ("SpikeConvNeuron" in found) == (spec.tau == 2.0 and spec.n_steps <= 8)
    frames = images_of(spec, 3)
    expected = stages.run(model, frames)
    with_library = ort_room.from_bytes(content, name, custom_ops=True)
    without = ort_room.from_bytes(content, name)
    assert len(np.unique(expected["raw"])) > spec.classes, "the frames must differ"
    for n in (1, 3):
        for session in (with_library, without):
            raw, logits = session.infer(frames[:n])
            np.testing.assert_array_equal(raw, expected["raw"][:n])
            np.testing.assert_array_equal(logits, expected["logits"][:n])


# ---- single ops ---------------------------------------------------------------------------------


def conv_op(c_in, c_out, kernel, *, n_steps=4, batch=2, size=(5, 4), stride=1, pad=None, seed=0,
            dirty=False, constants=("w", "theta"), pads=None):  # fmt: skip
    rng = np.random.default_rng((seed, c_in, c_out, kernel))
    pad = kernel // 2 if pad is None else pad
    s = arithmetic.pack_bits(rng.random((n_steps, batch, *size, c_in)) < 0.3)
    w = arithmetic.pack_bits(rng.random((c_out, kernel, kernel, c_in)) < 0.5)
    if dirty and c_in % 64:  # bits beyond the channels mean nothing
        noise = rng.integers(0, 256, s.shape).astype(np.uint8)
        s |= noise & ~arithmetic.pack_bits(np.ones((*s.shape[:-1], c_in)))
        w |= 255 - arithmetic.pack_bits(np.ones((*w.shape[:-1], c_in)))
    reach = np.sqrt(0.3 * kernel * kernel * c_in) * 2 ** (n_steps - 1)
    rows = threshold_neuron.n_rows(n_steps)
    theta = rng.normal(0.2 * reach, reach, (rows, c_out)).astype(np.int32)
    theta[0, 0], theta[-1, -1] = -(2**31), 2**31 - 1
    attrs = {"strides": [stride] * 2, "pads": pads or [pad] * 4, "in_channels": c_in}
    arrays = {"spikes": s, "w": w, "theta": theta}
    return OneOp("SpikeConvNeuron", n_steps, arrays, attrs, constants)


def residual_op(c, *, n_steps=4, batch=2, size=(3, 5), seed=0, **kind):
    rng = np.random.default_rng((seed, c))
    shape = (n_steps, batch, *size, c)
    arrays = {k: rng.integers(-(3 << F), 4 << F, shape).astype(np.int32) for k in ("y", "x0", "x1")}
    given = {"tau": 2.0, "v_threshold": 1.0, "v_reset": 0.0, "soft_reset": False,
             "decay_input": True} | kind  # fmt: skip
    attrs = neuron.parameters(bits=F, **given)
    return OneOp("ResidualNeuron", n_steps, arrays, attrs)


@pytest.mark.parametrize("kernel", (1, 3))
@pytest.mark.parametrize("c_in", CHANNELS)
def test_conv_neuron_at_awkward_sizes(c_in, kernel):
    for c_out in CHANNELS:
        one = conv_op(c_in, c_out, kernel)
        one.check(one.session())


@pytest.mark.parametrize("n_steps", range(1, 9))
def test_conv_neuron_for_every_number_of_steps(n_steps):
    one = conv_op(70, 66, 3, n_steps=n_steps)
    one.check(one.session())
    one.check(one.session(custom_ops=False))


@pytest.mark.parametrize("batch", (0, 1, 5))
@pytest.mark.parametrize("stride, pad", ((2, 1), (1, 0), (2, 0), (3, 2)))
def test_conv_neuron_windows_and_batches(stride, pad, batch):
    one = conv_op(9, 5, 3, size=(7, 6), stride=stride, pad=pad, batch=batch)
    one.check(one.session())


@pytest.mark.parametrize("c_in", (1, 63, 64, 65))
def test_bits_beyond_the_channels_mean_nothing(c_in):
    one = conv_op(c_in, 9, 3, dirty=True)
    one.check(one.session())


@pytest.mark.parametrize("constants", ((), ("w",), ("theta",)))
def test_weights_that_are_not_constant(constants):
    one = conv_op(65, 70, 3, constants=constants)
    one.check(one.session())


def test_an_initialiser_that_is_also_an_input_can_be_overridden():
    one, other = conv_op(20, 9, 1), conv_op(20, 9, 1, seed=1)
    proto = ir.to_proto(one.model)
    for t in proto.graph.initializer:
        proto.graph.input.append(onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims))
    session = one.session(proto.SerializeToString())
    one.check(session)
    other.check(session, other.arrays)


KINDS = {
    "halving": {},
    "soft": {"soft_reset": True},
    "no-decay": {"decay_input": False},
    "tau1.5": {"tau": 1.5, "v_threshold": 0.7},
    "tau3-reset": {"tau": 3.0, "v_reset": -0.25},
    "tau1.5-no-decay-soft": {"tau": 1.5, "decay_input": False, "soft_reset": True},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("c", CHANNELS)
def test_residual_neuron(c, kind):
    one = residual_op(c, **KINDS[kind])
    one.check(one.session())


@pytest.mark.parametrize("n_steps", (1, 2, 3, 8, 16))
@pytest.mark.parametrize("batch", (0, 1, 3))
def test_residual_neuron_steps_and_batches(n_steps, batch):
    one = residual_op(66, n_steps=n_steps, batch=batch)
    one.check(one.session())


# ---- which of the two ran -----------------------------------------------------------------------


@pytest.mark.parametrize("one", (conv_op(65, 7, 3), residual_op(7)), ids=("conv", "residual"))
def test_the_kernel_runs_and_not_the_body(one):
    content = with_broken_bodies(one.model)
    one.check(one.session(content))
    with pytest.raises(AssertionError):
        one.check(one.session(content, custom_ops=False))


@pytest.mark.parametrize("name", NETS)
def test_a_network_runs_its_kernels_and_no_body(name):
    """Every op of every network has a kernel; a broken body shows only without the library."""
    spec = NETS[name]
    model = packed_net(spec)
    frames = images_of(spec, 2)
    expected = stages.run(model, frames)["raw"]
    content = with_broken_bodies(model)
    others = [n.op_type for n in onnx.load_model_from_string(content).graph.node if not n.domain]
    assert others == ["Cast", "Mul", "Cast"], "one node per layer, and logits from raw ones"
    raw, _ = ort_room.from_bytes(content, "broken", custom_ops=True).infer(frames)
    np.testing.assert_array_equal(raw, expected)
    raw, _ = ort_room.from_bytes(content, "broken").infer(frames)
    assert (raw != expected).any()


def test_threads_share_a_session():
    one = conv_op(65, 70, 3, constants=("w",))
    session = one.session()
    with ThreadPoolExecutor(4) as pool:
        for job in [pool.submit(one.check, session) for _ in range(16)]:
            job.result()


# ---- what is refused ----------------------------------------------------------------------------


def cut(array, **axes):
    return np.ascontiguousarray(array[tuple(slice(axes.get(f"a{i}")) for i in range(array.ndim))])


@pytest.mark.parametrize(
    "port, axes, message",
    (
        ("spikes", {"a0": 3}, "SpikeConvNeuron_T4: `spikes` has 3 time steps, expected 4"),
        ("spikes", {"a4": 8}, "`spikes` has rows of 8 bytes, expected 16 of 65 channels"),
        ("spikes", {"a2": 0}, "`spikes` has 0 values along an axis"),
        ("w", {"a0": 6}, "`theta` has 7 channels, `w` 6"),
        ("w", {"a0": 0}, "`w` has 0 values along an axis"),
        ("w", {"a1": 0}, "`w` has 0 values along an axis"),
        ("w", {"a1": 1}, "pad = 1, must be below the kernel size"),
        ("w", {"a3": 8}, "`w` has rows of 8 bytes, expected 16"),
        ("theta", {"a0": 9}, r"`theta` is \[9, 7\], expected \[10, O\]"),
        ("theta", {"a1": 6}, "`theta` has 6 channels, `w` 7"),
    ),
)
def test_wrong_shapes_of_a_conv_are_errors(port, axes, message):
    one = conv_op(65, 7, 3, constants=())
    with pytest.raises(Exception, match=message):
        one.session().run(None, one.feed | {port: cut(one.arrays[port], **axes)})


def test_a_window_larger_than_the_image_is_an_error():
    one = conv_op(5, 7, 3, pad=0)
    with pytest.raises(Exception, match="output height or width = 0"):
        one.session().run(None, {"spikes": cut(one.arrays["spikes"], a2=2)})


def test_wrong_ranks_are_errors():
    one = conv_op(5, 7, 1)
    proto = ir.to_proto(one.model)
    del proto.graph.input[0].type.tensor_type.shape.dim[:]
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    session = one.session(proto.SerializeToString())
    with pytest.raises(Exception, match="`spikes` has 4 axes, expected 5"):
        session.run(None, {"spikes": one.arrays["spikes"][0]})


def test_constants_that_do_not_fit_are_refused_when_the_session_is_made():
    one = conv_op(65, 7, 3)
    proto = ir.to_proto(one.model)
    theta = one.arrays["theta"]
    for wrong in (theta[:9], theta[:, :6]):
        for t in proto.graph.initializer:
            if t.name == "theta":
                t.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(wrong), "theta"))
        with pytest.raises(ArtifactError, match="`theta`"):
            one.session(proto.SerializeToString())


def test_padding_that_differs_by_side_is_refused():
    one = conv_op(5, 7, 3, pads=[1, 0, 1, 0])
    one.check(one.session(custom_ops=False))
    with pytest.raises(ArtifactError, match="pads must be the same on every side"):
        one.session()


@pytest.mark.parametrize(
    "port, axes, message",
    (
        ("x0", {"a0": 3}, "`x0` has 3 time steps, expected 4"),
        ("x1", {"a4": 6}, "channels of a buffer = 6, must be the shape of its other buffers"),
        ("y", {"a1": 1}, "`x0` has 2 frames, `y` 1"),
    ),
)
def test_wrong_shapes_of_a_residual_are_errors(port, axes, message):
    one = residual_op(7)
    with pytest.raises(Exception, match=message):
        one.session().run(None, one.feed | {port: cut(one.arrays[port], **axes)})
    with pytest.raises(Exception, match="ResidualNeuron_T4: `y` has 2 time steps, expected 4"):
        one.session().run(None, {k: cut(a, a0=2) for k, a in one.arrays.items()})


def test_an_unknown_kind_of_rounding_is_refused():
    one = residual_op(7)
    proto = ir.to_proto(one.model)
    for attribute in proto.graph.node[0].attribute:
        if attribute.name == "rate":
            attribute.i = 5
    with pytest.raises(ArtifactError, match="rounding = 0 with rate = 5"):
        one.session(proto.SerializeToString())


# ---- registration -------------------------------------------------------------------------------


def test_register_twice_on_the_same_options():
    options = ort.SessionOptions()
    assert ort_room.register(options) == ort_room.register(options)
    one = residual_op(3)
    one.check(ort.InferenceSession(ir.to_bytes(one.model), options))
    one.check(ort.InferenceSession(ir.to_bytes(one.model), options))


def test_an_old_onnxruntime_is_named(monkeypatch):
    monkeypatch.setattr(ort, "__version__", "1.16.3")
    with pytest.raises(MissingToolError, match=r"onnxruntime 1\.16\.3 is too old"):
        ort_room.register(ort.SessionOptions())


class ApiBase(ctypes.Structure):
    _fields_ = (("get_api", ctypes.c_void_p), ("get_version", ctypes.c_void_p))


@pytest.mark.parametrize("has_first", (True, False))
def test_the_library_itself_refuses_an_old_onnxruntime(library, has_first):
    messages = []

    @ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)
    def create_status(code, message):
        messages.append((code, message.decode()))
        return 4711

    table = (ctypes.c_void_p * 300)(ctypes.cast(create_status, ctypes.c_void_p))

    @ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)
    def get_api(version):
        return ctypes.addressof(table) if version == 1 and has_first else None

    loaded = ctypes.CDLL(str(library))
    loaded.RegisterCustomOps.restype = ctypes.c_void_p
    base = ApiBase(ctypes.cast(get_api, ctypes.c_void_p), None)
    status = loaded.RegisterCustomOps(None, ctypes.byref(base))
    assert status == (4711 if has_first else None)
    assert [m for _, m in messages] == ["bestdeploy: its custom ops need ONNX Runtime 1.17"] * (
        1 if has_first else 0
    )


def test_one_symbol_is_exported_and_libc_is_all_it_needs(library):
    try:
        text = subprocess.run(
            ["nm", "-D", library], capture_output=True, text=True, check=True
        ).stdout
    except FileNotFoundError:
        pytest.skip("no nm on this machine")
    rows = [line.split() for line in text.splitlines()]
    assert [r[2] for r in rows if r[1] == "T"] == ["RegisterCustomOps"]
    needed = {r[1].partition("@")[0] for r in rows if r[0] == "U"}
    libc = {"calloc", "free", "getenv", "malloc", "realloc"}
    libc |= {"memcpy", "memmove", "memset", "memcmp"}  # compilers call all four for loops
    libc |= {"snprintf", "strstr", "strtol", "vsnprintf"}
    assert needed <= libc | {"__stack_chk_fail", "__tls_get_addr", "__getauxval", "getauxval"}


def public_header() -> Path | None:
    """Return onnxruntime_c_api.h: the one of BESTDEPLOY_ORT_HEADER, else an installed one."""
    given = os.environ.get("BESTDEPLOY_ORT_HEADER")
    if given:
        return Path(given)
    return next(iter(sorted(Path("/usr/include/onnxruntime").rglob("onnxruntime_c_api.h"))), None)


FIELDS = (
    *("version", "CreateKernel", "GetName", "GetExecutionProviderType", "GetInputType"),
    *("GetInputTypeCount", "GetOutputType", "GetOutputTypeCount", "KernelCompute"),
    *("KernelDestroy", "GetInputCharacteristic", "GetOutputCharacteristic", "GetInputMemoryType"),
    *("CreateKernelV2", "KernelComputeV2", "GetStartVersion", "GetEndVersion"),
)
CODES = {
    "ORT_FAIL": "ORT_FAIL",
    "ORT_INVALID_ARGUMENT": "ORT_INVALID_ARGUMENT",
    **{
        f"ORT_ELEMENT_{name}": f"ONNX_TENSOR_ELEMENT_DATA_TYPE_{name}"
        for name in ("UINT8", "INT8", "INT16", "INT32", "INT64")
    },
}


def test_the_declarations_are_those_of_the_public_header(tmp_path):
    """Slots of the function table, fields of a custom op, codes of types and errors."""
    header = public_header()
    if header is None:
        pytest.skip("no onnxruntime_c_api.h (libonnxruntime-dev, or set BESTDEPLOY_ORT_HEADER)")
    ours = toolchain.find_sources() / "ort" / "bst_ort_api.h"
    text = ours.read_text()
    slots = re.findall(r"^ORT_SLOT\((\w+), (\d+)\);", text, re.MULTILINE)
    table = text.partition("typedef struct OrtApi {")[2].partition("} OrtApi;")[0]
    declared = re.findall(r"^  (?:OrtStatus\*|void) \(\*(\w+)\)", table, re.MULTILINE)
    assert [name for name, _ in slots] == declared
    codes = {name: int(re.search(rf"\b{name} = (\d+)", text)[1]) for name in CODES}
    offsets = tmp_path / "ours.c"  # the two headers declare the same names: one program each
    rows = "".join(f'  printf("{f} %zu\\n", offsetof(OrtCustomOp, {f}));\n' for f in FIELDS)
    offsets.write_text(f'#include "{ours}"\n#include <stdio.h>\nint main(void) {{\n{rows}}}\n')
    compiler = toolchain.compiler_for("host").command
    subprocess.run([*compiler, "-std=c11", offsets, "-o", tmp_path / "ours"], check=True)
    done = subprocess.run([tmp_path / "ours"], capture_output=True, text=True, check=True)
    fields = dict(line.split() for line in done.stdout.splitlines())
    assert len(slots) > 15 and len(fields) == len(FIELDS)
    checks = [(f"offsetof(OrtApi, {name})", f"{n} * sizeof(void*)") for name, n in slots]
    checks += [(f"offsetof(struct OrtCustomOp, {f})", at) for f, at in fields.items()]
    checks += [(CODES[name], str(value)) for name, value in codes.items()]
    lines = [f'_Static_assert({a} == {b}, "{a}");' for a, b in checks]
    source = tmp_path / "public.c"
    source.write_text("\n".join([f'#include "{header}"', "#include <stddef.h>", *lines]) + "\n")
    subprocess.run([*compiler, "-std=c11", "-c", source, "-o", tmp_path / "public.o"], check=True)
