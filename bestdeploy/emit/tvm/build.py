"""TIR of the three functions, and the object that TVM makes of it."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bestdeploy.emit.tvm import kernels
from bestdeploy.emit.tvm.layout import Layout
from bestdeploy.emit.tvm.targets import TvmTarget
from bestdeploy.errors import MissingToolError, UnsupportedModelError
from bestdeploy.program import Op

__all__ = ["PINS", "canary", "check_versions", "object_of"]

PINS = {"apache-tvm": "0.27.0.post1", "apache-tvm-ffi": "0.1.14.post1"}
"""The releases this was written for. TVM's API moves, and a later ffi release crashes with it."""

_MODULES = {"apache-tvm": "tvm", "apache-tvm-ffi": "tvm_ffi"}
_INSTALL = "pip install " + " ".join(f"{name}=={version}" for name, version in PINS.items())
_PIPELINE = "bestdeploy"
_OUTCOMES = {  # of runtime/src/module_calls.h
    1: "file: not the .bstm that this module was compiled from, or damaged",
    2: "this machine lacks the instruction set {isa} that this module was compiled for",
    3: "weights: not written by prepare at this address and size, or smaller than sizes tells",
    4: "arena: smaller than sizes tells, or not aligned to 64",
}


def check_versions() -> None:
    """Check that the pinned releases are installed.

    Raises:
        MissingToolError: one is missing or another release; the hint installs the right ones.
    """
    for name, wanted in PINS.items():
        if importlib.util.find_spec(_MODULES[name]) is None:
            raise MissingToolError(
                f"backend `tvm` needs {name}=={wanted}, which is not installed", hint=_INSTALL
            )
        found = importlib.metadata.version(name)
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


def object_of(layout: Layout, row: TvmTarget) -> bytes:
    """Return net.o; the same arguments give the same bytes.

    Raises:
        MissingToolError: see `check_versions`.
        UnsupportedModelError: this TVM, or its LLVM, cannot do it.
    """
    check_versions()
    import tvm
    from tvm.target import Target

    _register_pipeline()
    target = {
        "kind": "llvm",
        "mtriple": row.triple,
        "mcpu": layout.isa.cpu,
        **({"mattr": list(layout.isa.features)} if layout.isa.features else {}),
        **row.abi,
    }
    functions: dict[Any, Any] = {}
    names: dict[kernels.Shape, Any] = {}
    for own in layout.own.values():
        if own.shape not in names:
            names[own.shape] = tvm.ir.GlobalVar(f"conv_{len(names)}")
            make = kernels.conv_neuron if own.shape.op == Op.CONV_NEURON else kernels.conv_affine
            functions[names[own.shape]] = make(own.shape)
    functions[tvm.ir.GlobalVar("sizes")] = _sizes(layout)
    functions[tvm.ir.GlobalVar("prepare")] = _prepare(layout)
    functions[tvm.ir.GlobalVar("main")] = _main(layout, names)
    try:
        built = tvm.tirx.build(tvm.IRModule(functions), target=Target(target), pipeline=_PIPELINE)
    except Exception as error:  # TVM's own are of many kinds
        lines = str(error).strip().splitlines() or ["no text"]
        raise UnsupportedModelError(
            f"TVM cannot compile for {row.triple}: {lines[-1]}", hint="use --backend c"
        ) from error
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.o"
        built.write_to_file(str(path))
        return path.read_bytes()


@functools.cache
def _register_pipeline() -> None:
    """Add a pipeline that tells private functions which device they run on.

    Only functions with the packed ABI learn it from their tensors; without it a private function
    with memory of its own is refused.
    """
    import tvm
    from tvm import tirx
    from tvm.s_tir.pipeline import default_s_tir_pipeline

    lower, host, device = default_s_tir_pipeline()

    @tvm.transform.module_pass(opt_level=0)
    def lower_for_cpu(module: Any, context: Any) -> Any:
        module = lower(module)
        for name, function in module.functions.items():
            if isinstance(function, tirx.PrimFunc) and "global_symbol" not in function.attrs:
                body = tirx.AttrStmt(tvm.ir.StringImm("default"), "device_type", 1, function.body)
                body = tirx.AttrStmt(tvm.ir.StringImm("default"), "device_id", 0, body)
                module[name] = function.with_body(body)
        return module

    tvm.tirx.compilation_pipeline.register_tir_pipeline(
        _PIPELINE, lambda: (lower_for_cpu, host, device)
    )


class _Function:
    """Collects the statements of one function over tensor arguments."""

    def __init__(self, name: str, ports: Sequence[tuple[str, str, Sequence[Any], int]]) -> None:
        from tvm import tirx

        self._name = name
        self._buffers = [
            tirx.decl_buffer(shape, dtype, name, data_alignment=alignment)
            for name, dtype, shape, alignment in ports
        ]
        self._of_name = {b.name: b for b in self._buffers}
        self._body: list[Any] = []

    def at(self, name: str, offset: int = 0) -> Any:
        """Return the address `offset` bytes into a tensor argument."""
        from tvm import tirx

        data, by = self._of_name[name].data, tirx.const(offset, "int64")
        return tirx.call_intrin("handle", "tirx.handle_add_byte_offset", data, by)

    def call(self, function: str, *arguments: Any) -> None:
        """Append the call of a C function without result; Python ints go as int64_t."""
        from tvm import tirx

        self._body.append(tirx.Evaluate(tirx.call_extern("void", function, *_values(arguments))))

    def check(self, outcomes: dict[int, str], function: str, *arguments: Any) -> None:
        """Append the call of a C function and an error for each of its outcomes but 0."""
        import tvm
        from tvm import tirx

        outcome = tirx.Var("outcome", "int64")
        value = tirx.call_extern("int64", function, *_values(arguments))
        self._body.append(tirx.Bind(outcome, value))
        for code, text in outcomes.items():
            self._body.append(
                # condition first: the names of this release's signature are the wrong way round
                tirx.AssertStmt(
                    outcome != code, tvm.ir.StringImm("ValueError"), [tvm.ir.StringImm(text)]
                )
            )

    def call_private(self, function: Any, *addresses: Any) -> None:
        """Append the call of another function of the module."""
        import tvm
        from tvm import tirx

        void = tvm.ir.PrimType("void")
        self._body.append(tirx.Evaluate(tvm.ir.Call(function, list(addresses), ret_ty=void)))

    def finish(self) -> Any:
        """Return the function."""
        from tvm import tirx

        function = tirx.PrimFunc(self._buffers, tirx.SeqStmt(self._body))
        return function.with_attr("global_symbol", self._name).with_attr("s_tir", True)


def _values(arguments: Sequence[Any]) -> list[Any]:
    import tvm
    from tvm import tirx

    kinds = {int: lambda a: tirx.const(a, "int64"), str: tvm.ir.StringImm}
    return [kinds.get(type(a), lambda a: a)(a) for a in arguments]


def _size(name: str) -> Any:
    from tvm import tirx

    return tirx.Var(name, "int64")


def _said(layout: Layout, *codes: int) -> dict[int, str]:
    return {code: _OUTCOMES[code].format(isa=layout.isa.name) for code in codes}


def _identity(layout: Layout) -> tuple[Any, ...]:
    return (
        len(layout.content),
        layout.crc,
        layout.isa.name,
        layout.own_weights,
        layout.own_arena,
    )


def _sizes(layout: Layout) -> Any:
    f = _Function(
        "sizes",
        [("file", "uint8", (len(layout.content),), 8), ("sizes", "int64", (2,), 8)],
    )
    f.check(
        _said(layout, 1, 2), "bst_module_sizes", f.at("file"), *_identity(layout), f.at("sizes")
    )
    return f.finish()


def _prepare(layout: Layout) -> Any:
    n_weights = _size("n_weights")
    f = _Function(
        "prepare",
        [("file", "uint8", (len(layout.content),), 8), ("weights", "uint8", (n_weights,), 64)],
    )
    f.check(
        _said(layout, 1, 2, 3),
        "bst_module_prepare",
        *(f.at("file"), *_identity(layout), f.at("weights"), n_weights),
    )
    program = layout.program

    def constant(number: int | None) -> Any:
        return f.at("file", 0 if number is None else layout.constants[number])

    for i, own in layout.own.items():
        step, s = program.steps[i], own.shape
        f.call(
            "bst_module_rows",
            *(s.lanes, s.n_out, s.taps, s.n_in),
            *(constant(step.constant(0)), f.at("weights", own.rows)),
        )
        values = [constant(step.constant(slot)) for slot in (1, 2, 3)]
        table = f.at("weights", own.table)
        if step.op == Op.CONV_AFFINE:
            f.call("bst_module_affine", s.padded, s.n_out, *values, table)
            continue
        explicit = step.constant(3)
        f.call(
            "bst_module_theta",
            *(s.padded, program.n_steps, s.n_out, *values[:2]),
            0 if explicit is None else program.constants[explicit].dims[0],
            *(values[2], constant(step.constant(4)), table),
        )
    return f.finish()


def _main(layout: Layout, names: dict[kernels.Shape, Any]) -> Any:
    program = layout.program
    n_weights, n_arena = _size("n_weights"), _size("n_arena")
    f = _Function(
        "main",
        [
            ("frame", "uint8", program.frame_shape, 1),
            ("weights", "uint8", (n_weights,), 64),
            ("arena", "uint8", (n_arena,), 64),
            ("raw", "int64", (program.n_classes,), 8),
        ],
    )
    whole = (f.at("weights"), n_weights, f.at("arena"), n_arena, f.at("frame"))
    f.check(_said(layout, 3, 4), "bst_module_begin", *whole)
    for i, step in enumerate(program.steps):
        own = layout.own.get(i)
        if own is None:
            f.call("bst_module_step", f.at("weights"), f.at("arena"), i)
            continue
        spikes = [f.at("arena", layout.spikes)] if step.op == Op.CONV_NEURON else []
        f.call_private(
            names[own.shape],
            f.at("arena", program.buffers[step.inputs[0]].offset),
            f.at("weights", own.rows),
            f.at("weights", own.table),
            f.at("arena", layout.windows),
            *spikes,
            f.at("arena", program.buffers[step.outputs[0]].offset),
        )
    f.call("bst_module_end", f.at("weights"), f.at("arena"), f.at("raw"))
    return f.finish()
