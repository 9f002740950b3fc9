"""OpenVINO, the one room that imports it: the float network on one CPU, for `bench`.

Its CPU plugin computes int64 in 32 bits and float64 in 32 bits, so the integer files
(model.onnx, model.std.onnx) do not give their integers there; see tests/e2e/test_openvino.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bestdeploy.errors import ArtifactError, MissingToolError

__all__ = ["OpenvinoModel", "load"]


class OpenvinoModel:
    """A compiled network with one request, for one frame at a time.

    Attributes:
        input_shape: of a frame, [H, W, C] or [T, H, W, C].
        precision: what it computes in: "f32", "bf16", ...
    """

    def __init__(self, compiled: Any) -> None:
        self.input_shape: tuple[int, ...] = tuple(compiled.input(0).shape)[1:]
        kind = compiled.get_property("INFERENCE_PRECISION_HINT")
        self.precision: str = kind.get_type_name()
        self._request = compiled.create_infer_request()
        self.output_names = [output.get_any_name() for output in compiled.outputs]

    def call(self, frame: npt.NDArray[np.uint8]) -> list[npt.NDArray[Any]]:
        """Run one frame uint8 [1, H, W, C] or [1, T, H, W, C]; return the outputs in order."""
        found = self._request.infer([frame])
        return [found[index] for index in range(len(self.output_names))]


def load(path: str | Path, threads: int = 1, *, exact_float32: bool = False) -> OpenvinoModel:
    """Compile an ONNX file of `bestdeploy export` for the CPU.

    Args:
        path: the file; its input is uint8.
        threads: threads of OpenVINO.
        exact_float32: compute in float32 where it would choose bfloat16 by itself.

    Raises:
        MissingToolError: openvino is not installed.
        ArtifactError: OpenVINO refuses the file, or its input is not uint8.
    """
    try:
        import openvino
    except ImportError as error:
        raise MissingToolError(
            "openvino is not installed", hint="pip install 'bestdeploy[bench]'"
        ) from error
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    if exact_float32:
        hints["INFERENCE_PRECISION_HINT"] = "f32"
    core = openvino.Core()
    try:
        model = core.read_model(str(path))
        image = model.input(0)
        if image.get_element_type() == openvino.Type.u8:
            shape = image.get_partial_shape()
            shape[0] = 1  # a fixed batch is what its kernels are fastest with
            model.reshape({0: shape})
            return OpenvinoModel(core.compile_model(model, "CPU", hints))
    except Exception as error:  # its exceptions have no common class of their own
        # Its first lines are places in its own sources.
        text = ([line for line in str(error).splitlines() if line.strip()] or ["no text"])[-1]
        raise ArtifactError(
            f"OpenVINO refuses `{path}`: {text}", hint="give the model.float.onnx of export"
        ) from error
    raise ArtifactError(
        f"`{path}` takes {image.get_element_type().get_type_name()}, expected uint8 frames",
        hint="give the model.float.onnx of export",
    )
