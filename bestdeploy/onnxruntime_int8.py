"""The float network quantised to int8 by ONNX Runtime's own tools, for `bench`.

Several routes are offered, because none is the fastest on every CPU: `bench` measures them and
takes the best. Only convolutions and matrix products are quantised (quantising the element-wise
nodes of the neurons too was slower and further from the float network), weights per channel.
Static routes are calibrated (min/max) on the frames that `bench` measures with.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bestdeploy.errors import ArtifactError, MissingToolError
from bestdeploy.toolchain.cache import cached

__all__ = ["ROUTES", "quantised"]

N_CALIBRATION = 16
_OPS = ["Conv", "MatMul", "Gemm"]

# name -> (format or None for dynamic, activations, weights)
_ROUTES: dict[str, tuple[str | None, str, str]] = {
    "static-qdq-u8s8": ("QDQ", "QUInt8", "QInt8"),
    "static-qdq-s8s8": ("QDQ", "QInt8", "QInt8"),
    "static-qoperator-u8s8": ("QOperator", "QUInt8", "QInt8"),
    "dynamic-u8s8": (None, "QUInt8", "QInt8"),
    "dynamic-u8u8": (None, "QUInt8", "QUInt8"),
}
ROUTES = tuple(_ROUTES)


def quantised(path: Path, frames: npt.NDArray[np.uint8], route: str) -> Path:
    """Return the int8 file of a float network; made once and kept in the cache folder.

    Args:
        path: model.float.onnx.
        frames: uint8 [N, ...]; the first 16 calibrate the static routes.
        route: one of ROUTES.

    Raises:
        MissingToolError: onnxruntime or onnx is not installed.
        ArtifactError: the quantiser refuses the file.
    """
    try:
        import onnxruntime
        from onnxruntime import quantization
    except ImportError as error:
        raise MissingToolError(
            f"{error.name} is not installed", hint="pip install 'bestdeploy[export]'"
        ) from error
    frames = frames[:N_CALIBRATION]
    contents = (path.read_bytes(), frames.tobytes())
    digests = (hashlib.sha256(content).hexdigest() for content in contents)
    key = ("int8", onnxruntime.__version__, route, *digests)

    def make(folder: Path) -> None:
        try:
            with _silence():
                _quantise(quantization, path, frames, route, folder)
        except Exception as error:  # the quantiser's exceptions have no common class
            text = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ArtifactError(
                f"ONNX Runtime cannot quantise `{path}`: {text}",
                hint="give the model.float.onnx of export",
            ) from error

    return cached(key, f"{route}.onnx", make)


def _quantise(
    tools: Any, path: Path, frames: npt.NDArray[np.uint8], route: str, folder: Path
) -> None:
    from onnxruntime.quantization.shape_inference import quant_pre_process

    form, activations, weights = _ROUTES[route]
    types = {
        "weight_type": tools.QuantType[weights],
        "per_channel": weights == "QInt8",
        "op_types_to_quantize": _OPS,
    }
    prepared, result = folder / "prepared.onnx", folder / f"{route}.onnx"
    quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
    if form is None:
        tools.quantize_dynamic(str(prepared), str(result), **types)
    else:
        tools.quantize_static(
            str(prepared),
            str(result),
            _reader(tools, frames),
            quant_format=tools.QuantFormat[form],
            activation_type=tools.QuantType[activations],
            **types,
        )
    prepared.unlink()


def _reader(tools: Any, frames: npt.NDArray[np.uint8]) -> Any:
    """Return the frames, one by one, as the quantiser reads them."""

    class Reader(tools.CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds = iter([{"image": frame[None]} for frame in frames])

        def get_next(self) -> Any:
            return next(self.feeds, None)

    return Reader()


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep the quantiser's advice for other models off the terminal."""
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.root.setLevel(level)
