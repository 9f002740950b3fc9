"""bestdeploy: exact deployment of binary spiking transformers on ordinary CPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bestdeploy._export import ExportReport

__version__ = "0.1.0"


def export(module: Any, example_input: Any, output: str = "model.onnx", **kwargs: Any
           ) -> ExportReport:  # fmt: skip
    """Export a torch module made of known parts; see `bestdeploy.deploy.export`."""
    from bestdeploy import deploy

    return deploy.export(module, output, example_input=example_input, **kwargs)
