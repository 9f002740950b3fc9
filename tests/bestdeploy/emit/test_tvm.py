"""Objects of bestdeploy.emit.tvm in a plain C program: the integers of the numpy references."""

from __future__ import annotations

import importlib.metadata
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from runtime.programs import Builder, F, neuron_params

from bestdeploy import ops, toolchain
from bestdeploy.emit import tvm as room
from bestdeploy.emit.bstm import write_bstm
from bestdeploy.emit.tvm import layout
from bestdeploy.errors import MissingToolError, UnsupportedModelError, UsageError
from bestdeploy.program import BufferKind, Op
from runtime import reference

pytest.importorskip("tvm")
HOST = Path(__file__).with_name("tvm_host.c")
TARGETS = ("x86-64", "arm")
EXTERNS = {
    "bst_spike_conv_prepare_rows",
    "bst_spike_conv_prepare_theta",
    "bst_spike_conv_neuron__scalar",
    "bst_residual_neuron__scalar",
    "TVMFFIErrorSetRaisedFromCStrParts",
    "memset",
    "memcpy",
}


def chain(c, hidden, *, n_t=4, side=4, kernel=3, stride=1, neuron=None, explicit=(0,)):
    """Stem, conv, streams, then the range: residual, linear, conv; and a read-out."""
    b = Builder(side, side + 1, 3, 5, n_t, seed=c)
    s = b.stem(c)
    y, x0, x1 = (b.conv_affine(f"y{i}", s, c) for i in range(3))
    first = len(b.steps)
    x2, s2 = b.residual("residual", y, x0, x1, neuron or neuron_params())
    h = b.conv_neuron("fc", s2, hidden, explicit=explicit)
    b.conv_neuron("conv", h, c, k=kernel, stride=stride, pad=kernel // 2)
    steps = range(first, len(b.steps))
    b.readout(x2, x1, h)
    return b.program(), steps


def random_values(program, plan, seed=0):
    """Values of the range's inputs, spikes unpacked."""
    rng = np.random.default_rng(seed)
    values = {}
    for number in plan.inputs:
        b = program.buffers[number]
        shape = (b.t, b.h, b.w, b.c)
        values[number] = (
            (rng.random(shape) < 0.3).astype(np.uint8)
            if b.kind == BufferKind.SPIKES
            else rng.integers(-(2 << F), 3 << F, shape).astype(np.int32)
        )
    return values


def run_reference(program, plan, values):
    values = dict(values)
    for i in plan.steps:
        step = program.steps[i]
        made = reference.run_step(program, step, values)
        values.update(zip(step.outputs, made, strict=True))
    return [values[number] for number in plan.outputs]


# ---- the host program ---------------------------------------------------------------------------

CODES = {"i": 0, "u": 1}


@dataclass
class Tensor:
    port: room.Port
    values: np.ndarray | None = None  # None = an output
    shape: tuple[int, ...] | None = None  # another one than that of the port

    def record(self):
        dtype, shape = np.dtype(self.port.dtype), self.shape or self.port.shape
        head = struct.pack(
            f"<4I{len(shape)}q",
            *(CODES[dtype.kind], 8 * dtype.itemsize, len(shape), self.values is None),
            *shape,
        )
        return head + (b"" if self.values is None else self.values.tobytes())


def calls_file(tensors, calls):
    """The bytes that tvm_host.c reads; calls are (function, numbers of tensors)."""
    out = struct.pack("<I", len(tensors)) + b"".join(t.record() for t in tensors)
    out += struct.pack("<I", len(calls))
    return out + b"".join(struct.pack(f"<2I{len(n)}I", f, len(n), *n) for f, n in calls)


def link(target, net, folder):
    """The host program with an object in it; skips where no compiler or emulator is."""
    try:
        compiler = toolchain.compiler_for(target)
        library = toolchain.build_static_library(target)
    except MissingToolError as error:
        pytest.skip(str(error))
    if compiler.kind != "gcc":
        pytest.skip("the test links with gcc or clang")
    if toolchain.find_emulator(target) is None:
        pytest.skip(f"no emulator for {target}")
    (folder / "net.o").write_bytes(net)
    program = folder / "tvm_host"
    flags = [f for f in toolchain.FLAGS if f != "-fvisibility=hidden"]
    command = [*compiler.command, *flags, "-static", HOST, folder / "net.o", library]
    subprocess.run([*command, "-o", program], check=True)
    return [*(toolchain.find_emulator(target) or ()), program]


def execute(command, content, folder):
    (folder / "calls").write_bytes(content)
    command = [*command, folder / "calls", folder / "results"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def tensors_of(program, plan, values):
    """All tensors and the two calls: prepare, then main."""
    ports = {p.name: p for p in (*plan.prepare, *plan.main)}
    given = {f"buffer_{n}": v for n, v in values.items()}
    given["constants"] = np.frombuffer(room.constants_blob(program), np.uint8)
    # Weights and arena start as noise: everything that is read must have been written.
    rng = np.random.default_rng(1)
    for name in ("weights", "arena"):
        given[name] = rng.integers(0, 256, ports[name].shape).astype(np.uint8)
    packed = {
        n: reference.pack(v) if v.ndim == 4 and v.dtype == np.uint8 else v for n, v in given.items()
    }
    tensors = [Tensor(p, packed.get(name)) for name, p in ports.items()]
    numbers = {name: i for i, name in enumerate(ports)}
    calls = [
        (0, [numbers[p.name] for p in plan.prepare]),
        (1, [numbers[p.name] for p in plan.main]),
    ]
    return tensors, calls


def results_of(program, plan, folder):
    content, out = (folder / "results").read_bytes(), []
    for number, port in zip(plan.outputs, plan.main[-len(plan.outputs) :], strict=True):
        array = np.frombuffer(content[: port.n_bytes], port.dtype).reshape(port.shape)
        content = content[port.n_bytes :]
        spikes = program.buffers[number].kind == BufferKind.SPIKES
        out.append(reference.unpack(array, program.buffers[number].c) if spikes else array)
    assert not content
    return out


def check(program, steps, target, folder, seeds=(0, 1)):
    plan = room.plan(program, steps)
    command = link(target, room.build_object(program, steps, target), folder)
    for seed in seeds:
        values = random_values(program, plan, seed)
        done = execute(command, calls_file(*tensors_of(program, plan, values)), folder)
        assert done.returncode == 0, done.stderr
        expected = run_reference(program, plan, values)
        for got, wanted in zip(results_of(program, plan, folder), expected, strict=True):
            np.testing.assert_array_equal(got, wanted)
    return expected


# ---- bits ---------------------------------------------------------------------------------------

CHAINS = {
    "tiny": {"c": 1, "hidden": 1, "n_t": 1},
    "below-a-word": {"c": 7, "hidden": 63, "n_t": 2},
    "a-word": {"c": 64, "hidden": 128},
    "above-a-word": {"c": 65, "hidden": 130, "explicit": ()},
    "stride": {"c": 63, "hidden": 66, "stride": 2, "n_t": 8, "side": 7, "explicit": (0, 9, 65)},
    "soft-tau1.5": {"c": 20, "hidden": 9, "neuron": neuron_params(tau=1.5, soft=True)},
    "reset": {"c": 9, "hidden": 70, "neuron": neuron_params(v_reset=-0.3, decay_input=False)},
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", CHAINS)
def test_a_range_gives_the_bits_of_the_reference(name, target, tmp_path):
    program, steps = chain(**CHAINS[name])
    expected = check(program, steps, target, tmp_path)
    assert len(expected) == 3  # the stream, the spikes the read-out sees, the last spikes
    if name != "tiny":
        assert all(len(np.unique(e)) > 1 for e in expected)


@pytest.mark.parametrize("target", TARGETS)
def test_one_step_alone(target, tmp_path):
    program, steps = chain(c=65, hidden=20)
    for i in steps:
        folder = tmp_path / str(i)
        folder.mkdir()
        check(program, range(i, i + 1), target, folder, seeds=(3,))


def test_the_references_of_program_and_graph_agree():
    """The steps above are the ops of the graph: same integers from bestdeploy.ops."""
    program, steps = chain(c=65, hidden=130)
    plan = room.plan(program, steps)
    values = random_values(program, plan)
    x2, spikes, _ = run_reference(program, plan, values)
    residual = program.steps[steps[0]]
    y, x0, x1 = (values[n][:, None] for n in residual.inputs)
    attrs = {"decay_input": 1, "soft_reset": 0, "rate": 2**29, "rounding": 0,
             "v_threshold": 1 << F, "v_reset": 0}  # fmt: skip
    got, packed = ops.OPS["ResidualNeuron"].run([y, x0, x1], 4, attrs)
    np.testing.assert_array_equal(got[:, 0], x2)
    conv = program.steps[steps[1]]
    constants = [None if c is None else program.constants[c] for c in conv.constants]
    signs, u, w, index, rows = (None if c is None else c for c in constants)
    theta = reference.theta_table(4, u.data, w.data, index.data, rows.data)
    theta = np.ascontiguousarray(theta.T).astype(np.int32)
    attrs = {"strides": [1, 1], "pads": [0] * 4, "in_channels": 65}
    bits = ops.packing.pack_reference((signs.signs() > 0).astype(np.uint8))[0]
    (out,) = ops.OPS["SpikeConvNeuron"].run([packed, bits, theta], 4, attrs)
    got = np.unpackbits(out[:, 0], axis=-1, count=130, bitorder="little")
    np.testing.assert_array_equal(got, spikes)


# ---- the object ---------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
def test_the_object_needs_our_kernels_and_the_error_hook(target, tmp_path):
    program, steps = chain(c=9, hidden=20)
    (tmp_path / "net.o").write_bytes(room.build_object(program, steps, target))
    try:
        text = subprocess.run(["nm", tmp_path / "net.o"], capture_output=True, text=True).stdout
    except FileNotFoundError:
        pytest.skip("no nm on this machine")
    if not text:
        pytest.skip("this nm does not read objects of the target")
    rows = [line.split() for line in text.splitlines()]
    assert {r[-1] for r in rows if r[-2] == "U"} <= EXTERNS
    assert {r[-1] for r in rows if r[-2] == "T"} == {"__tvm_ffi_main", "__tvm_ffi_prepare"}
    assert not [r for r in rows if r[-1].startswith("__TVMBackend")]


@pytest.mark.parametrize("target", TARGETS)
def test_building_again_gives_the_same_bytes(target):
    program, steps = chain(c=9, hidden=20)
    assert room.build_object(program, steps, target) == room.build_object(program, steps, target)


def test_another_process_gives_the_same_bytes(tmp_path):
    program, steps = chain(c=9, hidden=20)
    path = tmp_path / "model.bstm"
    write_bstm(program, path)
    code = (
        "import sys; from pathlib import Path; from bestdeploy.emit import bstm, tvm;"
        f"p = bstm.read_bstm(Path({str(path)!r}).read_bytes());"
        f"sys.stdout.buffer.write(tvm.build_object(p, {steps!r}, 'arm'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, check=True, env={"PYTHONHASHSEED": "77", "PATH": ""}, cwd=tmp_path,
    )  # fmt: skip
    assert done.stdout == room.build_object(program, steps, "arm")


def test_the_constants_are_the_data_section():
    program, _ = chain(c=9, hidden=20)
    content, blob = write_bstm(program), room.constants_blob(program)
    at = content.find(blob)
    assert at > 0
    assert at % 64 == 0


def test_sizes_are_those_of_the_kernels():
    import ctypes

    try:
        path = toolchain.build_library(extra_flags=["-fvisibility=default"])
    except MissingToolError as error:
        pytest.skip(str(error))
    c = ctypes.CDLL(str(path))
    for name in ("rows", "theta", "scratch"):
        getattr(c, f"bst_spike_conv_{name}_bytes").restype = ctypes.c_size_t
    for n_out in (1, 64, 65, 130):
        for k in (1, 3):
            for n in (1, 7, 64, 300):
                assert layout.rows_bytes(n_out, k, k, n) == c.bst_spike_conv_rows_bytes(
                    n_out, k, k, n
                )
                for t in (1, 4, 8):
                    assert layout.theta_bytes(t, n_out) == c.bst_spike_conv_theta_bytes(t, n_out)
                    assert layout.scratch_bytes(t, k, k, n) == c.bst_spike_conv_scratch_bytes(
                        t, k, k, n
                    )


# ---- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
def test_a_wrong_argument_is_an_error_with_a_message(target, tmp_path):
    program, steps = chain(c=65, hidden=20)
    plan = room.plan(program, steps)
    command = link(target, room.build_object(program, steps, target), tmp_path)
    tensors, calls = tensors_of(program, plan, random_values(program, plan))
    first = next(i for i, t in enumerate(tensors) if t.port.name == f"buffer_{plan.inputs[0]}")
    good = tensors[first]
    t, h, w, c = good.port.shape
    for wrong, message in (
        (Tensor(good.port, good.values, (t, h, c, w)), "shape"),
        (Tensor(good.port, good.values, (t, h, w * c)), "ndim"),
        (Tensor(room.Port(good.port.name, "uint32", good.port.shape), good.values), "dtype"),
    ):
        content = calls_file([*tensors[:first], wrong, *tensors[first + 1 :]], calls)
        done = execute(command, content, tmp_path)
        assert done.returncode == 1
        assert message in done.stderr
        assert good.port.name in done.stderr
    (function, numbers) = calls[1]
    done = execute(command, calls_file(tensors, [calls[0], (function, numbers[1:])]), tmp_path)
    assert done.returncode == 1
    assert "xpected" in done.stderr


def test_other_ops_are_named():
    program, steps = chain(c=9, hidden=20)
    with pytest.raises(UnsupportedModelError, match="STEM_NEURON, supported are CONV_NEURON, RES"):
        room.build_object(program, range(steps.stop))
    assert set(room.OPS) == {Op.CONV_NEURON, Op.RESIDUAL_NEURON}


@pytest.mark.parametrize("steps", (range(0), range(4, 99), range(4, 8, 2)), ids=str)
def test_ranges_outside_the_program_are_refused(steps):
    program, _ = chain(c=9, hidden=20)
    with pytest.raises(UsageError, match="no contiguous range"):
        room.plan(program, steps)


def test_unknown_targets_are_refused():
    program, steps = chain(c=9, hidden=20)
    with pytest.raises(UsageError, match="no target `vax`, expected one of host, x86-64, arm"):
        room.build_object(program, steps, "vax")


def test_other_releases_are_refused_with_the_pins(monkeypatch):
    true = importlib.metadata.version
    room.check_versions()
    monkeypatch.setattr(
        importlib.metadata,
        "version",
        lambda name: "0.1.15.post2" if name == "apache-tvm-ffi" else true(name),
    )
    with pytest.raises(MissingToolError, match=r"apache-tvm-ffi==0\.1\.14\.post1, found") as caught:
        room.check_versions()
    assert "apache-tvm==0.27.0.post1 apache-tvm-ffi==0.1.14.post1" in (caught.value.hint or "")


def test_the_canary_lives():
    room.canary()


def test_a_dead_canary_is_reported(monkeypatch):
    monkeypatch.setattr(room.build, "_CANARY", "import os; os.kill(os.getpid(), 11)")
    room.canary.cache_clear()
    with pytest.raises(MissingToolError, match="exit -11"):
        room.canary()
    room.canary.cache_clear()


def test_compile_says_what_the_backend_can_do(tmp_path):
    from bestdeploy import deploy

    with pytest.raises(UnsupportedModelError, match=r"a whole model yet.*CONV_NEURON") as caught:
        deploy.compile(tmp_path / "model.onnx", backend="tvm", output=tmp_path / "out")
    assert "--backend c" in (caught.value.hint or "")
    assert not (tmp_path / "out").exists()
