"""ONNX Runtime, the one room that imports it: sessions over the exported models.

The packed `model.onnx` runs through its function bodies, `model.std.onnx` is the same network in
standard ops only, `model.float.onnx` is the float network that `bench` compares with. With the
custom-op library registered (`custom_ops=True`, or `register` on session options of your own) the
C kernels run in place of the bodies; the integers are the same. ONNX Runtime then does not look at
the bodies at all: what they compute is checked in sessions without the library.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bestdeploy import toolchain
from bestdeploy.errors import ArtifactError, MissingToolError, UnsupportedModelError

__all__ = ["OrtModel", "from_bytes", "load", "register"]

OLDEST = (1, 17)
"""First ONNX Runtime whose custom-op interface the library uses."""

_MARK = "bestdeploy.custom_ops"  # session config entry: path of the registered library
_THREADS = "bestdeploy.threads"  # session config entry that the library reads
MAX_THREADS = 256


class OrtModel:
    """A session over one file; `infer` is that of `bestdeploy.runtime.Model`."""

    def __init__(self, path: Path, session: Any) -> None:
        self.path = path
        self.session = session
        self._input = session.get_inputs()[0]
        self.output_names = [output.name for output in session.get_outputs()]
        self.metadata: dict[str, str] = dict(session.get_modelmeta().custom_metadata_map)
        self.input_shape: tuple[int, ...] = tuple(d for d in self._input.shape[1:])

    def feed(self, frames: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[Any]]:
        """Return the session's inputs for frames uint8 `[B, H, W, C]`.

        A model that takes float32 gets pixels / 255, channel first where its input is.
        """
        if self._input.type == "tensor(uint8)":
            return {self._input.name: frames}
        values = frames.astype(np.float32) / np.float32(255)
        n_channels = frames.shape[-1]
        if self._input.shape[1] == n_channels and self._input.shape[-1] != n_channels:
            values = np.ascontiguousarray(values.transpose(0, 3, 1, 2))
        return {self._input.name: values}

    def call(self, feed: dict[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """Run the session on a prepared feed; return its outputs in order."""
        return self.session.run(None, feed)

    def infer(
        self, frames: npt.NDArray[np.uint8]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Return raw logits int64 and logits float32, both `[B, K]`, of one of our models."""
        if not {"raw", "logits"} <= set(self.output_names):
            raise ArtifactError(
                f"`{self.path}` has outputs {self.output_names}, expected logits and raw",
                hint="give the model.onnx of `bestdeploy export`",
            )
        raw, logits = self.session.run(["raw", "logits"], self.feed(frames))
        return raw, logits


def load(
    path: str | Path, threads: int = 1, *, custom_ops: bool = False, batch: int | None = None
) -> OrtModel:
    """Open an ONNX file, with every graph optimisation.

    Args:
        path: the file.
        threads: threads of ONNX Runtime.
        custom_ops: run our C kernels where the library has them, else the function bodies.
        batch: fix the number of frames, which lets it plan and fold more; None = any number.

    Raises:
        MissingToolError: onnxruntime is not installed, or see `register`.
        ArtifactError: the file is missing or ONNX Runtime refuses it.
        UnsupportedModelError: the environment asks for kernels that this machine cannot run.
    """
    path = Path(path)
    if not path.is_file():
        raise ArtifactError(
            f"`{path}` does not exist", hint="bestdeploy export writes the .onnx files"
        )
    return _open(str(path), path, threads, custom_ops, batch)


def from_bytes(
    content: bytes, name: str, threads: int = 1, *, custom_ops: bool = False
) -> OrtModel:
    """Open a serialised ONNX model; `name` stands for it in errors. Raises as `load`."""
    return _open(content, Path(name), threads, custom_ops)


def register(session_options: Any) -> Path:
    """Register the custom-op library with an `onnxruntime.SessionOptions`; return its path.

    The library is built at first use, where the package does not hold it. Its kernels share a node
    between as many threads as `session_options.intra_op_num_threads` says at this moment. A second
    call with the same options does nothing.

    Raises:
        MissingToolError: no C compiler, or this onnxruntime is older than 1.17.
    """
    ort = _import()
    if tuple(int(part) for part in ort.__version__.split(".")[:2]) < OLDEST:
        raise MissingToolError(
            f"onnxruntime {ort.__version__} is too old for the custom ops, which need 1.17",
            hint="pip install -U onnxruntime, or go without: model.onnx runs in any version, and "
            "so does model.std.onnx (--engine std)",
        )
    library = toolchain.ort_library()
    if not _is_registered(session_options):
        threads = session_options.intra_op_num_threads or os.cpu_count() or 1
        session_options.add_session_config_entry(_THREADS, str(min(threads, MAX_THREADS)))
        session_options.register_custom_ops_library(str(library))
        session_options.add_session_config_entry(_MARK, str(library))
    return library


def _is_registered(session_options: Any) -> bool:
    try:
        return bool(session_options.get_session_config_entry(_MARK))
    except RuntimeError:  # that is how it says "no such entry"
        return False


def _import() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingToolError(
            "onnxruntime is not installed", hint="pip install 'bestdeploy[export]'"
        ) from error
    return onnxruntime


def _open(
    source: str | bytes, path: Path, threads: int, custom_ops: bool, batch: int | None = None
) -> OrtModel:
    ort = _import()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    if batch is not None:
        options.add_free_dimension_override_by_name("B", batch)
    if custom_ops:
        register(options)
    try:
        session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common class of their own
        text = str(error).splitlines()[0]
        if custom_ops and "cannot be used on this machine" in text:
            asked, reason = os.environ.get("BESTDEPLOY_ISA"), text.rpartition(": isa ")[2]
            raise UnsupportedModelError(
                f"BESTDEPLOY_ISA={asked}: {reason}",
                hint="unset BESTDEPLOY_ISA, or name one that this machine has",
            ) from error
        raise ArtifactError(
            f"ONNX Runtime refuses `{path}`: {text}",
            hint="bestdeploy doctor shows its version; 1.17 and later run what export writes",
        ) from error
    return OrtModel(path, session)
