"""TIR of the two functions, and the object that TVM makes of it. All tvm imports are in here."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bestdeploy.emit.tvm.layout import Plan, Port, plan, window_of
from bestdeploy.errors import MissingToolError, UsageError
from bestdeploy.program import Op, Program, validate

PINS = {"apache-tvm": "0.27.0.post1", "apache-tvm-ffi": "0.1.14.post1"}
"""The releases this was written for. TVM's API moves, and a later ffi release crashes with it."""

TARGETS: dict[str, dict[str, Any]] = {
    "x86-64": {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "x86-64"},
    "arm": {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "generic"},
}
"""Name in the target table of bestdeploy -> TVM target. 64-bit: kernels take sizes as int64."""

_MACHINES = {"x86_64": "x86-64", "amd64": "x86-64", "aarch64": "arm", "arm64": "arm"}
_INSTALL = "pip install " + " ".join(f"{name}=={version}" for name, version in PINS.items())


def check_versions() -> None:
    """Check that the pinned releases are installed.

    Raises:
        MissingToolError: one is missing or another release; the hint installs the right ones.
    """
    for name, wanted in PINS.items():
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError as error:
            raise MissingToolError(
                f"backend `tvm` needs {name}=={wanted}, which is not installed", hint=_INSTALL
            ) from error
        if found != wanted:
            raise MissingToolError(
                f"backend `tvm` needs {name}=={wanted}, found {found}", hint=_INSTALL
            )


_CANARY = "import tvm; tvm.ir.save_json(tvm.tirx.const(3, 'int32'))"


@functools.cache
def canary() -> None:
    """Try in another process what crashes with a wrong apache-tvm-ffi; takes some seconds.

    Raises:
        MissingToolError: it crashed.
    """
    command = [sys.executable, "-c", _CANARY]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode != 0:
        raise MissingToolError(
            f"this tvm does not work: saving a constant ended with exit {done.returncode}",
            hint=_INSTALL,
        )


def build_object(program: Program, steps: range, target: str = "host") -> bytes:
    """Return the object file of a range of steps; the same arguments give the same bytes.

    Args:
        program: the network.
        steps: contiguous step numbers; their ops are all in `OPS`.
        target: a name of `TARGETS`, or "host".

    Raises:
        UnsupportedModelError, UsageError: see `plan`; or the target is unknown.
        MissingToolError: see `check_versions`.
    """
    row = TARGETS.get(_MACHINES.get(platform.machine().lower(), "") if target == "host" else target)
    if row is None:
        raise UsageError(
            f"backend `tvm` has no target `{target}`, expected one of host, {', '.join(TARGETS)}",
            hint="use --backend c",
        )
    validate(program)
    layout = plan(program, steps)
    check_versions()
    import tvm
    from tvm.target import Target

    module = tvm.IRModule({"prepare": _prepare(program, layout), "main": _main(program, layout)})
    built = tvm.tirx.build(module, target=Target(row), pipeline="s_tir")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.o"
        built.write_to_file(str(path))
        return path.read_bytes()


class _Function:
    """Collects the calls of one function over tensor arguments."""

    def __init__(self, ports: Sequence[Port]) -> None:
        from tvm import tirx

        self._buffers = [
            tirx.decl_buffer(p.shape, p.dtype, p.name, data_alignment=64) for p in ports
        ]
        self._of_name = {p.name: b for p, b in zip(ports, self._buffers, strict=True)}
        self._body: list[Any] = []

    def at(self, name: str, offset: int = 0) -> Any:
        """Return the address `offset` bytes into a tensor argument."""
        from tvm import tirx

        data = self._of_name[name].data
        return tirx.call_intrin("handle", "tirx.handle_add_byte_offset", data, offset)

    def call(self, function: str, *arguments: Any) -> None:
        """Append the call of a C function without result; Python ints go as C int."""
        from tvm import tirx

        values = [tirx.const(a, "int32") if isinstance(a, int) else a for a in arguments]
        self._body.append(tirx.Evaluate(tirx.call_extern("void", function, *values)))

    def finish(self, name: str) -> Any:
        """Return the function."""
        from tvm import tirx

        body = self._body or [tirx.Evaluate(tirx.const(0, "int32"))]
        function = tirx.PrimFunc(self._buffers, tirx.SeqStmt(body) if len(body) > 1 else body[0])
        return function.with_attr("global_symbol", name)


def _size(value: int) -> Any:
    """Return a C size_t of the (64-bit) targets."""
    from tvm import tirx

    return tirx.const(value, "int64")


def _prepare(program: Program, layout: Plan) -> Any:
    f = _Function(layout.prepare)

    def constant(number: int | None) -> Any:
        return f.at("constants", 0 if number is None else layout.constant_offsets[number])

    for i, (rows, theta) in layout.weight_offsets.items():
        step = program.steps[i]
        n_out, kh, kw, n_in = window_of(program, step)
        explicit = step.constant(3)
        n_explicit = 0 if explicit is None else program.constants[explicit].dims[0]
        f.call(
            "bst_spike_conv_prepare_rows",
            *(n_out, kh, kw, n_in),
            constant(step.constant(0)),
            f.at("weights", rows),
        )
        f.call(
            "bst_spike_conv_prepare_theta",
            *(program.n_steps, n_out),
            *(constant(step.constant(1)), constant(step.constant(2))),
            *(n_explicit, constant(explicit), constant(step.constant(4))),
            f.at("weights", theta),
        )
    return f.finish("prepare")


def _main(program: Program, layout: Plan) -> Any:
    f = _Function(layout.main)
    border = {*layout.inputs, *layout.outputs}

    def buffer(number: int) -> Any:
        if number in border:
            return f.at(f"buffer_{number}")
        return f.at("arena", program.buffers[number].offset)

    for i in layout.steps:
        step = program.steps[i]
        source = program.buffers[step.inputs[0]]
        inputs, outputs = map(buffer, step.inputs), map(buffer, step.outputs)
        if step.op == Op.CONV_NEURON:
            n_out, kh, kw, n_in = window_of(program, step)
            rows, theta = layout.weight_offsets[i]
            f.call(
                "bst_spike_conv_neuron__scalar",
                *(0, 1, program.n_steps, source.h, source.w, n_in, n_out, kh, kw),
                *(step.param(0), step.param(1), 0),
                *inputs,
                *(f.at("weights", rows), f.at("weights", theta)),
                *outputs,
                f.at("arena", layout.scratch_offset),
            )
        else:  # RESIDUAL_NEURON, `plan` lets no other through
            f.call(
                "bst_residual_neuron__scalar",
                *(0, 1, program.n_steps, _size(source.h * source.w), source.c),
                *(step.param(k) for k in range(4, 8)),
                *inputs,
                *outputs,
            )
    return f.finish("main")
