"""The engines of `bench`: what each needs, in which variants it comes, and how it is opened.

The table is read by the parent; `opened` is called in the process of one engine only. A variant is
another way to run the same network in the same engine (int8 routes, eager or compiled torch);
where there are several, `bench` measures them shortly and takes the fastest.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bestdeploy import toolchain
from bestdeploy.errors import InputError, MissingToolError, UsageError

__all__ = [
    "COMPETITORS",
    "OURS",
    "Opened",
    "Peer",
    "import_packages",
    "module_path",
    "opened",
    "peer",
]

Frame = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Peer:
    """An engine.

    Attributes:
        name: as `--against` names it.
        packages: modules it imports, the first one is the engine itself.
        install: command that installs them.
        variants: returns the ways to run it here; () = there is one.
        is_float: it runs the float network; else what we deploy.
        is_module: it runs a module that TVM makes of the .bstm; else a .onnx.
        build: builds what it needs, so that no other time holds it.
    """

    name: str
    packages: tuple[str, ...]
    install: str
    variants: Callable[[], tuple[str, ...]] = tuple
    is_float: bool = True
    is_module: bool = False
    build: Callable[[], object] = tuple

    def require(self) -> None:
        """Refuse where a package or a compiler is missing; no package is imported.

        Raises:
            MissingToolError: names the package, or see `toolchain`.
        """
        for package in self.packages:
            if importlib.util.find_spec(package) is None:
                raise MissingToolError(f"{package} is not installed", hint=self.install)
        self.build()

    @property
    def version(self) -> str | None:
        """Version of the engine, None for our own."""
        names = {"tvm": "apache-tvm"}
        package = self.packages[0] if self.packages else None
        return importlib.metadata.version(names.get(package, package)) if package else None


def _int8_routes() -> tuple[str, ...]:
    from bestdeploy import onnxruntime_int8

    return onnxruntime_int8.ROUTES


def _torch_ways() -> tuple[str, ...]:
    from bestdeploy import torch_peer

    return torch_peer.ways()


_EXPORT = "pip install 'bestdeploy[export]'"
_BENCH = "pip install 'bestdeploy[bench]'"
_TVM = "pip install 'bestdeploy[tvm]'"
OURS = Peer("c", (), "", is_float=False)
CUSTOM_OPS = Peer("ort", ("onnxruntime",), _EXPORT, is_float=False, build=toolchain.ort_library)
_PEERS = (
    Peer("onnxruntime", ("onnxruntime",), _EXPORT),
    Peer("onnxruntime-int8", ("onnxruntime", "onnx"), _EXPORT, _int8_routes),
    Peer("openvino", ("openvino",), _BENCH),
    Peer("openvino-f32", ("openvino",), _BENCH),
    Peer("torch", ("torch", "onnx_ir"), _EXPORT, _torch_ways),
    CUSTOM_OPS,
    Peer("tvm-tir", ("tvm",), _TVM, is_float=False, is_module=True),
    Peer("tvm-extern", ("tvm",), _TVM, is_float=False, is_module=True),
)
COMPETITORS = tuple(row.name for row in _PEERS)
"""Names of `--against`."""


def peer(text: str) -> tuple[Peer, str]:
    """Return the engine of NAME or NAME:VARIANT, and the variant ("" = to be chosen).

    Raises:
        UsageError: there is no such engine, or it has no such variant.
    """
    name, _, variant = text.partition(":")
    for row in _PEERS:
        if row.name == name:
            known = row.variants()
            if variant and variant not in known:
                raise UsageError(
                    f"unknown variant `{variant}` of {name}, "
                    f"here it has {', '.join(known) or 'one only'}",
                    hint=f"--against {name} measures all and takes the fastest",
                )
            return row, variant
    raise UsageError(
        f"unknown --against `{name}`, expected {', '.join(COMPETITORS)}",
        hint="--against onnxruntime",
    )


# ----------------------------------------------------------------------------- in the child


@dataclass(frozen=True)
class Opened:
    """A network ready to run in this process.

    Attributes:
        prepare: turns a frame uint8 [1, ...] into what `call` takes; not part of the time.
        call: runs one frame; returns its logits [1, K].
        n_threads: threads that work on one frame.
        settings: what was set, in the engine's own words.
    """

    prepare: Callable[[Frame], Any]
    call: Callable[[Any], npt.NDArray[Any]]
    n_threads: int
    settings: str


def import_packages(name: str) -> None:
    """Import everything an engine needs, so that loading a model is the model alone."""
    if name == OURS.name or name.startswith("tvm-"):  # a module needs nothing of TVM
        from bestdeploy import runtime

        runtime.isa_names()  # binds the library, which is built by now
    else:
        for package in peer(name)[0].packages:
            importlib.import_module(package)


def opened(name: str, variant: str, path: Path, threads: int, shape: tuple[int, ...]) -> Opened:
    """Load a model file into an engine.

    Args:
        name: of the engine.
        variant: one of its variants, "" where it has one only.
        path: the .bstm, model.onnx, or the float network (its quantised form for int8). Beside the
            .bstm lies the module where one is to be run.
        threads: threads for one frame.
        shape: of a frame, (H, W, C) or (T, H, W, C).

    Raises:
        InputError: the network takes other frames.
        BestDeployError: the engine refuses the file.
    """
    if name == OURS.name:
        return _ours(path, threads)
    if name == CUSTOM_OPS.name:
        return _onnxruntime(path, threads, shape, custom_ops=True)
    if name.startswith("tvm-"):
        return _module(path, name.removeprefix("tvm-"))
    if name.startswith("onnxruntime"):
        return _onnxruntime(path, threads, shape)
    if name.startswith("openvino"):
        return _openvino(path, threads, shape, exact_float32=name == "openvino-f32")
    return _torch(path, threads, shape, variant)


def _same(frame: Frame) -> Frame:
    return frame


def _ours(path: Path, threads: int) -> Opened:
    from bestdeploy import runtime

    model = runtime.load(path, threads=threads)
    return Opened(_same, model.run, threads, f"kernels {model.isa}")


def _module(path: Path, kernels: str) -> Opened:
    """Open the .bstm with the net.so beside it, which `built_module` has put there."""
    from bestdeploy import runtime

    model = runtime.load_module(path, module_path(path, kernels))
    return Opened(_same, model.run, 1, f"kernels {kernels}")


def module_path(path: Path, kernels: str) -> Path:
    """Return where the module of a .bstm lies during a run."""
    return path.with_name(f"{kernels}.so")


def _onnxruntime(
    path: Path, threads: int, shape: tuple[int, ...], *, custom_ops: bool = False
) -> Opened:
    from bestdeploy import onnxruntime

    model = onnxruntime.load(path, threads, batch=1, custom_ops=custom_ops)
    _check_shape(path, model.input_shape, shape)
    kernels = "our kernels as custom ops, " if custom_ops else ""
    return Opened(
        model.feed,
        lambda feed: model.call(feed)[0],
        threads,
        f"{kernels}CPUExecutionProvider, all graph optimisations, batch fixed to 1, {threads} "
        "intra-op and 1 inter-op threads, sequential, spinning as by default",
    )


def _openvino(path: Path, threads: int, shape: tuple[int, ...], *, exact_float32: bool) -> Opened:
    from bestdeploy import openvino

    model = openvino.load(path, threads, exact_float32=exact_float32)
    _check_shape(path, model.input_shape, shape)
    return Opened(
        _same,
        lambda frame: model.call(frame)[0],
        threads,
        f"CPU, PERFORMANCE_HINT=LATENCY, {threads} threads, batch fixed to 1, computes in "
        f"{model.precision}",
    )


def _torch(path: Path, threads: int, shape: tuple[int, ...], variant: str) -> Opened:
    from bestdeploy import torch_peer

    model = torch_peer.load(path, threads, variant)
    _check_shape(path, model.input_shape, shape)
    return Opened(model.feed, model.call, threads, f"inference_mode, {threads} threads")


def _check_shape(path: Path, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if found != wanted:
        raise InputError(
            f"`{path}` takes frames of {list(found)}, the model those of {list(wanted)}",
            hint="--float model.float.onnx of the same export",
        )
